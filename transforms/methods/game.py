"""The game that masking methods play: a coalition's worth is the score with all other features replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transforms.methods.base import Arrays, Reference, evaluate, take
from transforms.players import Players

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class Game:
    """Scores of coalitions of players.

    Args:
      model: The model with its score.
      reference: The background that takes the place of who is not in a coalition, and the players.
      device_batch_size: Most model evaluations in one device call.
    """

    model: ScoredModel
    reference: Reference
    device_batch_size: int

    @property
    def players(self) -> Players:
        """Who plays."""
        return self.reference.players

    def scores(
        self, inputs: Arrays, targets: np.ndarray, coalitions: np.ndarray, base: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores of rows of which only a coalition's values are kept.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          targets: Output index, `[B, T]`.
          coalitions: Members, `[C, M]` bool: the same for every row.
          base: Background row that takes the others' place, `[C]`; None: the mean over all R of them.
        Returns:
          `[B, C, T]` float64.
        Cost: C · R model evaluations a row, C with `base`; memory O(device_batch_size) beside the result.
        """
        rows, count = len(targets), len(coalitions)
        every = self.reference.rows if base is None else 1
        found = np.zeros((rows, count, targets.shape[1]))
        at_once = max(1, self.device_batch_size // rows)
        for first in range(0, count * every, at_once):
            pair = np.arange(first, min(first + at_once, count * every))
            of = pair // every
            replaced = self._replaced(inputs, coalitions[of], pair % every if base is None else base[of])
            scores, _ = evaluate(self.model, replaced, self.device_batch_size)
            chosen = np.take_along_axis(scores, np.tile(targets, (len(pair), 1)), axis=1)
            for coalition, score in zip(of, chosen.reshape(len(pair), rows, -1), strict=True):
                found[:, coalition] += score
        return found / every

    def _replaced(self, inputs: Arrays, kept: np.ndarray, base: np.ndarray) -> dict[str, np.ndarray]:
        """Rows with what is not kept taken from background rows, `[P · B, *shape]`, pair by pair."""
        masks = self.players.masks(kept)
        found = {}
        for name, value in inputs.items():
            mask = masks[name].reshape(len(kept), 1, *value.shape[1:])
            others = take(self.reference.inputs, base)[name][:, None]
            found[name] = np.where(mask, value[None], others).reshape(-1, *value.shape[1:])
        return found
