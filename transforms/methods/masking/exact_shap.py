"""Exact Shapley values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from transforms.errors import UserError
from transforms.methods.base import Attribution, AttributionMethod, Needs, convergence_delta, predict, take
from transforms.methods.masking.game import Game
from transforms.models.players import Players
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel

#: Each further player doubles all costs; 15 players have 32,768 coalitions.
MOST_PLAYERS = 15


@dataclass(frozen=True)
class ExactShap(AttributionMethod):
    """Attributes the score by Shapley values, from the scores of all coalitions.

    φ_i = Σ_S |S|! (M − |S| − 1)! / M! · (v(S + i) − v(S)) over all coalitions S without i, where v(S) is the
    mean score with all features outside S replaced by those of a background row; Σφ = prediction −
    base_value.

    Cost: 2^M evaluations per row and background row, so that M is at most 15; memory O(device_batch_size) and
      a few tens of megabytes of scores.
    Reference: Shapley 1953, doi:10.1515/9781400881970-018; Lundberg and Lee 2017,
      https://arxiv.org/abs/1705.07874, eq. 4.
    """

    name: ClassVar[str] = "exact_shap"
    summary: ClassVar[str] = "Shapley values from all coalitions of the features"
    when: ClassVar[str] = (
        f"any model with up to {MOST_PLAYERS} features or groups, where a value must not rest on sampling"
    )
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)
    additive: ClassVar[bool] = True

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """All 2^M coalitions of every background row."""
        return int(2**players * background_rows)

    def check(self, players: Players) -> None:
        """Refuses so many players that not all of their coalitions can be evaluated.

        Raises:
          UserError: There are too many players.
        """
        if players.count > MOST_PLAYERS:
            raise UserError(
                f"exact_shap takes up to {MOST_PLAYERS} features or groups, and there are {players.count:,}: "
                f"2^{players.count} coalitions",
                "method",
                "put features into input.groups, or take kernel_shap",
            )

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Evaluates all coalitions; see `AttributionMethod.attribute`."""
        players = reference.players
        self.check(players)
        prediction, output = predict(model, inputs, targets, device_batch_size)
        game = Game(model, reference, device_batch_size)
        base_value = game.empty_coalition(inputs, targets)
        coalitions, weights = enumeration(players.count)
        inside = slice(1, len(coalitions) - 1)  # the empty and the full coalition are known
        # Each player's equal share of v(all) − v(none): the terms of the full and the empty coalition.
        ends = (prediction.astype(np.float64) - base_value) / players.count
        values = np.repeat(ends[:, :, None], players.count, axis=2)
        for rows, columns in game.blocks(targets, len(coalitions)):
            scores = game.scores(take(inputs, rows), targets[rows, columns], coalitions[inside])
            values[rows, columns] += np.einsum("bct,cm->btm", scores, weights[inside], optimize=True)
        still = game.still(inputs)
        if still is not None:  # exactly 0, without rounding errors
            values = np.where(still[:, None], 0.0, values)
        phi = players.to_inputs(values)
        delta = convergence_delta(phi, prediction, base_value)
        return Attribution(phi, prediction, output, base_value, delta, None, np.zeros(len(targets), bool))


@cache
def enumeration(players: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists all coalitions, from the empty to the full one, and their weights in each player's value.

    Returns:
      Members `[2^M, M]` bool, and weights `[2^M, M]` float64: φ = Σ_S weight(S) · v(S).
    """
    coalitions = (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)
    # (s − 1)! (M − s)! / M! with the player, −s! (M − s − 1)! / M! without.
    joined = [1 / (players * math.comb(players - 1, s)) for s in range(players)]
    sizes = coalitions.sum(axis=1)
    with_player, without = np.array([0, *joined])[sizes], np.array([*joined, 0])[sizes]
    weights = np.where(coalitions, with_player[:, None], -without[:, None])
    for array in (coalitions, weights):
        array.setflags(write=False)
    return coalitions, weights
