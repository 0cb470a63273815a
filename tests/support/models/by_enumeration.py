"""A method for models that can only be evaluated: Shapley values of the game, from all coalitions; no tests.

Importable by worker processes that have the repository's root on PYTHONPATH.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import factorial
from typing import ClassVar

import numpy as np

from transforms.methods.base import Attribution, AttributionMethod, Needs, convergence_delta, predict
from transforms.methods.masking.game import Game
from transforms.models.base import ScoredModel
from transforms.models.reference import Arrays, Reference


@dataclass(frozen=True)
class ByEnumeration(AttributionMethod):
    """Exact, for a handful of players."""

    name: ClassVar[str] = "by_enumeration"
    summary: ClassVar[str] = "all coalitions"
    when: ClassVar[str] = "tests"
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)
    additive: ClassVar[bool] = True

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        return int(2**players * background_rows)

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        prediction, output = predict(model, inputs, targets, device_batch_size)
        players = reference.players.count
        coalitions = np.array(list(product([False, True], repeat=players)))
        worth = Game(model, reference, device_batch_size).scores(inputs, targets, coalitions)
        sizes = coalitions.sum(axis=1)
        weights = np.array(
            [factorial(s) * factorial(max(0, players - s - 1)) / factorial(players) for s in sizes]
        )
        found = np.zeros((*targets.shape, players))
        for player in range(players):
            without = np.flatnonzero(~coalitions[:, player])
            gain = worth[:, without + (1 << (players - 1 - player))] - worth[:, without]
            found[:, :, player] = np.einsum("c,bct->bt", weights[without], gain)
        values = reference.players.to_inputs(found)
        base = reference.base_values[targets]
        delta = convergence_delta(values, prediction, base)
        return Attribution(values, prediction, output, base, delta, None, np.zeros(len(targets), bool))
