"""Occlusion, or feature ablation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field

from transforms.errors import UserError
from transforms.methods.base import Attribution, AttributionMethod, Needs, predict, take
from transforms.methods.masking.chunks import blocks
from transforms.methods.masking.game import Game
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel
    from transforms.models.players import Players


@dataclass(frozen=True)
class Occlusion(AttributionMethod):
    """Attributes to a feature, or a window of an image, the drop of the score when it is replaced.

    φ_i = F(x) − mean of F(x with feature i of a background row) over the background. With `window`, all
    values under the window are replaced together, for each of its places, in steps of one; a value's φ is the
    mean over the places that cover it.

    Args:
      window: Extents of a window that slides over features with the same number of axes, such as [3, 3, 1]
        for images of [28, 28, 1]. Other features, or all if there is no window, are replaced one value at a
        time, and groups as one.
    Cost: M · R + 1 model evaluations per row, fewer with a window; memory O(device_batch_size) besides some
    tens of MB of scores.
    Reference: Zeiler and Fergus 2013, https://arxiv.org/abs/1311.2901, §4.2.
    """

    name: ClassVar[str] = "occlusion"
    summary: ClassVar[str] = "what the score loses when a feature or a window of an image is replaced"
    when: ClassVar[str] = (
        "any model: the plainest question, few evaluations; blind to features that stand in for each other"
    )
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)
    additive: ClassVar[bool] = False

    window: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None

    def check(self, players: Players) -> None:
        """Refuses a window that does not fit.

        Raises:
          UserError: The window fits into no feature.
        """
        if self.window is not None and not any(self._fits(tensor) for tensor in players.tensors.values()):
            shapes = [f"{name} has the shape {list(t.shape)}" for name, t in players.tensors.items()]
            known = ", ".join(shapes[:8]) or "every feature is a single value or in a group"
            raise UserError(
                f"a window of {self.window} fits into no feature: {known}",
                "method.window",
                "give it as many extents as the feature has, none of them larger",
            )

    def _fits(self, tensor: np.ndarray) -> bool:
        window = self.window or []
        return tensor.ndim == len(window) and all(np.array(window) <= tensor.shape)

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """One for each player and background row, and one for the row; windows have fewer places."""
        return players * background_rows + 1

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Replaces features one by one; see `AttributionMethod.attribute`."""
        game = Game(model, reference, device_batch_size)
        prediction, output = predict(model, inputs, targets, device_batch_size)
        drops = np.empty((*targets.shape, game.players.count))
        for rows, columns in game.blocks(targets, game.players.count):
            drops[rows, columns] = self._losses(
                game, take(inputs, rows), targets[rows, columns], prediction[rows, columns]
            )
        return Attribution(
            game.players.to_inputs(drops),
            prediction,
            output,
            reference.base_values[targets],
            None,
            None,
            np.zeros(len(targets), bool),
        )

    def _losses(self, game: Game, inputs: Arrays, targets: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """The mean drop of the score over the places that cover each player, `[B, T, M]`."""
        total = np.zeros((*targets.shape, game.players.count))
        covered = np.zeros(game.players.count)
        still = game.still(inputs)
        for places in self._places(game.players):
            for block in blocks(len(places), game.players.count):
                hidden = places[block]
                coalitions = np.ones((len(hidden), game.players.count), bool)
                np.put_along_axis(coalitions, hidden, False, axis=1)
                worths = game.scores(inputs, targets, coalitions)
                losses = prediction[:, :, None] - worths.swapaxes(1, 2)
                if still is not None:  # values replaced by equal ones lose exactly 0, without rounding errors
                    same = np.asarray(still[:, hidden].all(axis=2))
                    losses = np.where(same[:, None], 0.0, losses)
                for corner in hidden.T:  # no two places have the same player in the same corner of the window
                    total[:, :, corner] += losses
                    covered[corner] += 1
        return total / covered

    def _places(self, players: Players) -> Iterator[np.ndarray]:
        """Yields the players that are replaced together, `[places, size]`: windows, then single players."""
        alone = np.ones(players.count, bool)
        for tensor in players.tensors.values():
            if self.window is not None and self._fits(tensor):
                windows = sliding_window_view(tensor, tuple(self.window))
                yield windows.reshape(-1, int(np.prod(self.window)))
                alone[tensor] = False
        yield np.flatnonzero(alone)[:, None]
