"""Kernel SHAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from transforms.errors import UserError
from transforms.methods.base import (
    Attribution,
    AttributionMethod,
    Needs,
    convergence_delta,
    limits,
    predict,
    take,
)
from transforms.methods.masking.coalitions import PAIRS_AT_ONCE, Design, design
from transforms.methods.masking.game import Game
from transforms.methods.masking.unchanged_players import at_zero
from transforms.methods.sampling import MOST_ROUNDS
from transforms.models.players import Players
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel

#: Most memberships (coalitions times players) of a run, one byte each.
_MOST_MEMBERSHIPS = 1 << 28


@dataclass(frozen=True)
class KernelShap(AttributionMethod):
    """Attributes the score by Shapley values, fitted to the scores of some coalitions of the features.

    φ is the weighted least squares fit of Σ_{i∈S} φ_i to v(S) − v(∅), among values whose sum is v(all) −
    v(∅), where v(S) is the mean score with all features outside S replaced by those of a background row. With
    all coalitions this is exactly the Shapley value. Coalitions are drawn in pairs with their complements,
    size by size and without replacement; a size is taken whole if the budget suffices. All rows of a run
    share the coalitions, so that the fit is one matrix product. Small values are not set to zero (no l1).

    Args:
      n_samples: Coalitions per row, the empty and the full one included: at least 2M + 2 or all 2^M.
        "auto" is 2M + 2048, or all.
      sampling: "leverage" takes about as many coalitions of every size, which is the sampling by leverage
        scores; "shapley" more of the very small and very large ones, by the weights of the Shapley kernel.
      tolerance: Largest standard error of a value, relative to the spread of the score; rows above it are
        given more coalitions, `n_samples` at a time, up to ten times as many.
      standard_error: Write a standard error beside every value. From six coalitions a feature on, its square
        is up to a third larger than that of the true error on average, with fewer up to twice as large; it
        is 0 where all coalitions are evaluated.
    Cost: `n_samples` evaluations per row and background row; memory O(device_batch_size) and a few tens of
      megabytes of scores.
    Reference: Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874, theorem 2; Covert and Lee 2021,
      https://arxiv.org/abs/2012.01536, on pairs; Musco and Witter 2024, https://arxiv.org/abs/2410.01917.
    """

    name: ClassVar[str] = "kernel_shap"
    cap: ClassVar[str] = "n_samples"
    summary: ClassVar[str] = "Shapley values fitted to the scores of sampled coalitions"
    when: ClassVar[str] = "any model, with more features than exact_shap takes; exact with few of them"
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)
    additive: ClassVar[bool] = True

    n_samples: Literal["auto"] | Annotated[int, Field(ge=4, le=1_000_000)] = "auto"
    sampling: Literal["leverage", "shapley"] = "leverage"
    tolerance: Annotated[float, Field(gt=0, le=1e6)] | None = None
    standard_error: bool = False

    def coalitions(self, players: int) -> int:
        """The number of coalitions evaluated per row for M players; even, because they come in pairs."""
        wanted = 2 * players + 2048 if self.n_samples == "auto" else self.n_samples
        return int(min(wanted - wanted % 2, 2**players))

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """Coalitions × background rows; rows above the tolerance cost more."""
        return self.coalitions(players) * background_rows

    def held_bytes(self, players: int) -> int:
        """Bytes of the design: members twice, a few square matrices, and the pairs processed at a time."""
        pairs = self.coalitions(players) // 2 * self._rounds
        return 2 * pairs * players + 5 * 8 * players**2 + 4 * 8 * players * min(pairs, PAIRS_AT_ONCE)

    def check(self, players: Players) -> None:
        """Refuses budgets that are too small to determine the values, or too large for memory.

        Raises:
          UserError: There are too few coalitions for the players, or too many players.
        """
        count = players.count
        taken, needed = self.coalitions(count), min(2 * count + 2, 2**count)
        if taken < needed:
            raise UserError(
                f"{taken:,} coalitions do not determine the values of {count:,} features",
                "method.n_samples",
                f"give at least {needed:,}, or auto",
            )
        if taken // 2 * count * self._rounds > _MOST_MEMBERSHIPS:
            raise UserError(
                f"{taken * self._rounds:,} coalitions of {count:,} features are too many to keep in memory",
                "method",
                "put features into input.groups, or take fewer samples",
            )

    @property
    def _rounds(self) -> int:
        return 1 if self.tolerance is None else MOST_ROUNDS

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Samples and fits; see `AttributionMethod.attribute`. Rows share coalitions: no `seeds`."""
        players = reference.players
        self.check(players)
        prediction, output = predict(model, inputs, targets, device_batch_size)
        game = Game(model, reference, device_batch_size)
        base_value = game.empty_coalition(inputs, targets)
        whole = prediction.astype(np.float64) - base_value
        values = np.zeros((*targets.shape, players.count))
        variances = np.zeros_like(values)
        limited = np.zeros(len(targets), bool)
        allowed = None if self.tolerance is None else limits(reference.spread, self.tolerance)[targets]
        budget = min(self._rounds * self.coalitions(players.count), 2**players.count)
        for rows, columns in game.blocks(targets, budget):
            fit = _Fit(self, game, take(inputs, rows), targets[rows, columns], whole[rows, columns])
            fit.run(None if allowed is None else allowed[rows, columns])
            values[rows, columns], variances[rows, columns] = fit.values, fit.variances
            limited[rows] |= fit.limited
        phi = players.to_inputs(values)
        errors = players.to_inputs(np.sqrt(variances)) if self.standard_error else None
        delta = convergence_delta(phi, prediction, base_value)
        return Attribution(phi, prediction, output, base_value, delta, errors, limited)

    def design(self, players: int, seed: int, round_number: int) -> Design:
        """The coalitions of a round and of all rounds before it."""
        first = self.coalitions(players) // 2 - 1
        pairs = min((round_number + 1) * self.coalitions(players) // 2 - 1, 2 ** (players - 1) - 1)
        return design(players, pairs, self.sampling, seed, first)


class _Fit:
    """Values of a block of rows, round by round.

    Args:
      method: The method, with its keys.
      game: The game.
      inputs: Model inputs of the rows, `[B, *shape]`.
      targets: Output indices, `[B, T]`.
      whole: v(all) − v(none), `[B, T]`.

    Attributes:
      values: Shapley values, `[B, T, M]`.
      variances: Squared standard errors, `[B, T, M]`; 0 unless requested.
      limited: Marks rows above the tolerance after the last round, `[B]`.
    """

    def __init__(
        self, method: KernelShap, game: Game, inputs: Arrays, targets: np.ndarray, whole: np.ndarray
    ) -> None:
        self._method, self._game = method, game
        self._inputs, self._targets, self._whole = inputs, targets, whole
        self.values = np.zeros((*targets.shape, game.players.count))
        self.variances = np.zeros_like(self.values)
        self.limited = np.zeros(len(targets), bool)
        self._still = game.still(inputs)

    def run(self, allowed: np.ndarray | None) -> None:
        """Runs a round for all rows, then more for rows with a standard error above `allowed`, `[B, T]`."""
        players, seed = self._game.players.count, self._game.reference.seed
        late = np.arange(len(self._targets))
        before: Design | None = None
        gaps = np.zeros((0, *self._targets.shape))
        for number in range(1 if allowed is None else MOST_ROUNDS):
            now = self._method.design(players, seed, number)
            if before is not None and now.pairs == before.pairs:
                break  # all pairs have been taken
            gaps = self._extended(gaps, before, now, late)
            before = now
            self._solve(now, gaps, late)
            if allowed is None:
                return
            above = (np.sqrt(self.variances[late].max(axis=2)) > allowed[late]).any(axis=1)
            late, gaps = late[above], gaps[:, above]
            if not len(late):
                return
        self.limited[late] = True

    def _extended(self, gaps: np.ndarray, before: Design | None, now: Design, rows: np.ndarray) -> np.ndarray:
        """(v(S) − v(Sᶜ))/2 of a design's pairs, `[P, rows, T]`; evaluates only pairs new since `before`."""
        known = np.zeros(len(now.taken), np.int64) if before is None else before.taken
        places = np.concatenate([np.arange(taken) for taken in now.taken]) if now.pairs else np.zeros(0)
        new = places >= np.repeat(known, now.taken)
        members = now.members[new]
        scores = self._game.scores(
            take(self._inputs, rows), self._targets[rows], np.concatenate([members, ~members])
        )
        half = len(members)
        extended = np.empty((now.pairs, *self._targets[rows].shape))
        extended[~new] = gaps
        extended[new] = ((scores[:, :half] - scores[:, half:]) / 2).transpose(1, 0, 2)
        return extended

    def _solve(self, design: Design, gaps: np.ndarray, rows: np.ndarray) -> None:
        shape = (*self._targets[rows].shape, -1)
        whole = self._whole[rows].reshape(-1)
        flat = gaps.reshape(design.pairs, len(whole))
        values = design.solve(flat, whole)
        still = None if self._still is None else self._still[rows]
        by_row = values.T.reshape(shape)
        self.values[rows] = at_zero(by_row, still, design.inverse) if design.pairs else by_row
        if self._method.standard_error or self._method.tolerance is not None:
            variances = design.variances(flat, values).T.reshape(shape)
            self.variances[rows] = variances if still is None else np.where(still[:, None], 0, variances)
