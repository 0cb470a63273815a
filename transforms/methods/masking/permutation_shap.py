"""Permutation SHAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from transforms.errors import UserError
from transforms.methods.base import Attribution, AttributionMethod, Needs, convergence_delta, predict, take
from transforms.methods.masking.chunks import blocks
from transforms.methods.masking.exact_shap import enumeration
from transforms.methods.masking.game import Game
from transforms.methods.sampling import MOST_ROUNDS, sample_rounds
from transforms.models.reference import Arrays, Reference
from transforms.numerics.random import row_keys, stream, uniforms

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel
    from transforms.models.players import Players

#: Fewest pairs of each further round under a tolerance, even if the first had fewer.
_USUAL = 10
#: Fewest pairs of the first round under a tolerance: fewer say little about their error.
_LEAST = 4
#: Weight, in pairs, of the mean error of a row when it is combined with a value's own error.
_JOINED = 8
#: Shares by which the variance between neighbours overstates the true one: at most 0.3, due to orthogonal
#: directions; and, due to spreading over distances, 5 % plus 1.7 over the number of players, since with few
#: players even neighbours lie far apart.
_ORTHOGONAL, _APART = 0.3, (0.05, 1.7)
#: Variation of a change, relative to the scores, that is due to rounding in single precision.
_ROUNDING = 1e-6
#: Most players times permutations, which take a few arrays of 8 bytes for each.
_MOST_PLACES = 1 << 26


@dataclass(frozen=True)
class PermutationShap(AttributionMethod):
    """Attributes the score by Shapley values: features join in random orders, and each gets its change.

    φ_i = mean over permutations of v(S + i) − v(S), where S are the features before i and v(S) is the mean
    score with all features outside S replaced by those of a background row. Each permutation is paired with
    its reverse, so that effects of single features and of pairs of features are exact. Σφ = prediction −
    base_value for any draw, since each permutation leads from the empty coalition to the full one. If the
    budget suffices for all 2^M coalitions, all are evaluated and the values are exact. Permutations are the
    same for all rows. Those of a round are spread evenly: they are the orders of orthogonal directions, in
    which each feature takes each distance from the middle in turn.

    Args:
      n_permutations: Pairs of a permutation and its reverse.
      tolerance: Largest standard error of a value, relative to the spread of the score; rows above it are
        given fresh permutations, ten pairs at a time or `n_permutations` if that is more, up to ten times as
        many. At least four pairs are evaluated, since fewer say little about their error.
      standard_error: Write a standard error beside every value, from the differences between pairs that are
        neighbours in what they are spread over. Over many seeds it equals the true one to within a tenth in
        root mean square, from two pairs on. In one run all rows share their permutations, so that their
        errors are correlated: for a score of one or two products of three features, all true errors may be
        half of those stated, or twice. The error is 0 if only single features and pairs of features have
        effects. With effects of three features, it is 0 for a feature whose change is always the same, and
        falls with the number of pairs for one that acts in pairs of features. With two or three pairs it may
        be 0 by chance: take five or more.
    Cost: (`n_permutations` · 2 · (M − 1) + 2) · R model evaluations per row, or 2^M · R if that is less; rows
    above the tolerance cost more; memory O(device_batch_size) besides some tens of MB of scores.
    Reference: Castro et al. 2009, doi:10.1016/j.cor.2008.04.004; Mitchell et al. 2022,
    https://arxiv.org/abs/2104.12199, §4 (antithetic pairs, orthogonal directions).
    """

    name: ClassVar[str] = "permutation_shap"
    cap: ClassVar[str] = "n_permutations"
    summary: ClassVar[str] = (
        "Shapley values by features joining one by one, in permutations and their reverses"
    )
    when: ClassVar[str] = (
        "any model: sums that hold exactly and an honest error, without a regression to go wrong"
    )
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)
    additive: ClassVar[bool] = True

    n_permutations: Annotated[int, Field(ge=2, le=100_000)] = 10
    tolerance: Annotated[float, Field(gt=0, le=1e6)] | None = None
    standard_error: bool = False

    def check(self, players: Players) -> None:
        """Refuses more permutations than fit into memory.

        Raises:
          UserError: There are too many permutations of too many players.
        """
        if self.n_permutations * players.count > _MOST_PLACES:
            raise UserError(
                f"{self.n_permutations:,} permutations of {players.count:,} features do not fit into memory",
                "method.n_permutations",
                "take fewer, or put features into input.groups",
            )

    def held_bytes(self, players: int) -> int:
        """Bytes of the permutations while they are drawn."""
        return 8 * 8 * self.n_permutations * players

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """Coalitions along the permutations times background rows; or all coalitions, if these are fewer."""
        on_the_way = self.n_permutations * 2 * (players - 1) + 2
        return (2**players if self._plays_all(players) else on_the_way) * background_rows

    def _plays_all(self, players: int) -> bool:
        """True if the budget suffices for all coalitions."""
        return 2**players <= self.n_permutations * 2 * (players - 1) + 2

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Samples permutations; see `AttributionMethod.attribute`."""
        game = Game(model, reference, device_batch_size)
        players = game.players.count
        prediction, output = predict(model, inputs, targets, device_batch_size)
        base_value = game.empty_coalition(inputs, targets)
        exact = self._plays_all(players)
        still = game.still(inputs)
        sizes = self._sizes
        # The scores and changes of a block of pairs are held together, and two arrays of all pairs' changes.
        part = 4 * (players + 1) * len(_pairs(max(sizes), players)[0])
        held = 2**players if exact else part + 2 * players * max(sizes)

        def run(rows: np.ndarray, number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            means = np.empty((len(rows), targets.shape[1], players))
            variances = np.zeros_like(means)
            for block, columns in game.blocks(targets[rows], held):
                some = rows[block]
                empty, full = (v[some, columns].astype(np.float64) for v in (base_value, prediction))
                given = game, take(inputs, some), targets[some, columns], empty, full
                if exact:
                    means[block, columns] = _exact(*given)
                else:
                    mean, square, ranges = _sampled(*given, sizes[number], number)
                    means[block, columns] = mean
                    if still is not None:
                        ranges = np.where(still[some][:, None], 0.0, ranges)
                    rounding = _ROUNDING * np.maximum(np.abs(empty), np.abs(full))
                    variances[block, columns] = _joined(square, ranges, rounding, sizes[number])
            if still is not None:  # exactly 0, without rounding errors
                means = np.where(still[rows][:, None], 0.0, means)
            return {"players": means}, {"players": variances}

        shapley, errors, limited = sample_rounds(run, reference.spread[targets], self.tolerance, sizes)
        values = game.players.to_inputs(shapley["players"])
        error = game.players.to_inputs(errors["players"]) if self.standard_error else None
        delta = convergence_delta(values, prediction, base_value)
        return Attribution(values, prediction, output, base_value, delta, error, limited)

    @property
    def _sizes(self) -> list[int]:
        """Pairs of each round; their sum is the cap, so that a small first round allows more rounds."""
        if self.tolerance is None:
            return [self.n_permutations]
        first, more = max(self.n_permutations, _LEAST), max(self.n_permutations, _USUAL)
        return [first, *[more] * -(-(MOST_ROUNDS * more - first) // more)]


def _pairs(count: int, players: int) -> list[np.ndarray]:
    """The indices of the pairs, in blocks."""
    return list(blocks(count, 2 * (players + 1) * 8))


def _sampled(
    game: Game,
    inputs: Arrays,
    targets: np.ndarray,
    empty: np.ndarray,
    full: np.ndarray,
    count: int,
    number: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs one round for some rows: means, their squared standard errors, and ranges of a player's changes.

    All are `[B, T, M]`; a player whose change is the same in every coalition has range 0.

    The error is that of successive differences, with the pairs ordered by what stratifies them: a player's
    distance from the middle. The further reduction by orthogonal directions was measured over games of third
    and fourth degree and small networks: up to `_ORTHOGONAL`, by the number of directions in a basis.

    Reference: Wolter 2007, doi:10.1007/978-0-387-35099-8, §8.2, estimator v2.
    """
    rows, width, players = len(targets), targets.shape[1], game.players.count
    places, ranks = _spread(game.reference.seed, count, players, number)
    both = np.empty((rows, count, players, width))
    least, most = np.full((rows, players, width), np.inf), np.full((rows, players, width), -np.inf)
    for block in _pairs(count, players):
        pairs = len(block)
        orders = np.concatenate([places[block], players - 1 - places[block]])
        worths = np.empty((rows, 2 * pairs, players + 1, width))
        worths[:, :, 0], worths[:, :, players] = empty[:, None], full[:, None]
        worths[:, :, 1:players] = _worths_on_the_way(game, inputs, targets, orders)
        changes = np.take_along_axis(np.diff(worths, axis=2), orders[None, :, :, None], axis=2)
        both[:, block] = (changes[:, :pairs] + changes[:, pairs:]) / 2
        least, most = np.minimum(least, changes.min(axis=1)), np.maximum(most, changes.max(axis=1))
    mean = both.mean(axis=1)
    neighbours = np.take_along_axis(both, ranks.argsort(axis=0)[None, :, :, None], axis=1)
    squares = np.square(np.diff(neighbours, axis=1)).sum(axis=1)
    together = min(count, players - 1)
    orthogonal = _ORTHOGONAL * np.sqrt((together - 1) / max(1, players - 2))
    taken_off = max(orthogonal, _APART[0] + _APART[1] / players)
    variance = (1 - taken_off) * squares / (2 * (count - 1) * count)
    return mean.swapaxes(1, 2), variance.swapaxes(1, 2), (most - least).swapaxes(1, 2)


def _joined(own: np.ndarray, ranges: np.ndarray, rounding: np.ndarray, count: int) -> np.ndarray:
    """Squared standard errors, each shrunk towards its row's mean: few pairs alone say too little.

    Args:
      own: Each player's own squared error, `[B, T, M]`.
      ranges: Ranges of the players' changes, `[B, T, M]`; a player whose change is always the same has error
        0, and does not enter the mean.
      rounding: Rounding error of a change, `[B, T]`; smaller variations count as none.
      count: Number of pairs.
    """
    interacts = ranges > 4 * rounding[:, :, None]
    varies = interacts & (own * count > np.square(rounding)[:, :, None])
    # Pairs that agree are exact if features act at most in twos. If they act in threes, pairs may agree by
    # chance: with probability 2/3 a player is not the middle one of the three, in each further pair again.
    share = np.where(varies, 1.0, np.where(interacts, (2 / 3) ** (count - 1), 0.0))
    own = np.where(varies, own, 0.0)
    mean = own.sum(axis=2, keepdims=True) / np.maximum(share.sum(axis=2, keepdims=True), 1)
    freedom = 0.8 * (count - 1)  # successive differences overlap
    joined: np.ndarray = (_JOINED * share * mean + freedom * own) / (_JOINED + freedom)
    return joined


def _worths_on_the_way(game: Game, inputs: Arrays, targets: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Scores of the first 1 … M − 1 players of each order, `[B, orders, M − 1, T]`."""
    count, players = orders.shape
    steps = players - 1
    worths = np.empty((len(targets), count * steps, targets.shape[1]))
    for block in blocks(count * steps, players * orders.itemsize):
        members = orders[block // steps] < (block % steps + 1)[:, None]
        # With few players, orders share coalitions: each is evaluated once.
        _, first, back = np.unique(
            np.packbits(members, axis=1), axis=0, return_index=True, return_inverse=True
        )
        worths[:, block] = game.scores(inputs, targets, members[first])[:, back.reshape(-1)]
    return worths.reshape(len(targets), count, steps, targets.shape[1])


def _exact(
    game: Game, inputs: Arrays, targets: np.ndarray, empty: np.ndarray, full: np.ndarray
) -> np.ndarray:
    """Shapley values from the scores of all coalitions, `[B, T, M]`."""
    coalitions, weights = enumeration(game.players.count)
    inside = slice(1, -1)
    exact = np.multiply.outer(empty, weights[0]) + np.multiply.outer(full, weights[-1])
    exact += np.swapaxes(game.scores(inputs, targets, coalitions[inside]), 1, 2) @ weights[inside]
    return exact


def spread_permutations(seed: int, count: int, players: int, number: int) -> np.ndarray:
    """Draws permutations that are uniformly distributed and jointly spread evenly.

    Each permutation is the order of a direction's coordinates; up to M − 1 directions are orthogonal to each
    other. The distances of a player's coordinates from 0 are replaced by their ranks among all `count`, so
    that each player comes near the middle, where it matters who came before, as often as near the ends.

    Args:
      seed: Seed of the run.
      count: Number of permutations; their reverses are as evenly spread.
      players: M, at least 2.
      number: Number of the round; permutations of different rounds are independent.
    Returns:
      The place of each player, `[count, M]` int32.
    """
    return _spread(seed, count, players, number)[0]


def _spread(seed: int, count: int, players: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Places, and the rank of each player's distance from the middle among permutations, `[count, M]`."""
    keys = stream(row_keys(seed, np.zeros(1, np.int64)), number)
    size = players * count
    radius = np.sqrt(-2 * np.log1p(-uniforms(keys, 0, size)[:, 0]))
    normal = (radius * np.cos(2 * np.pi * uniforms(keys, size, size)[:, 0])).reshape(players, count)
    normal -= normal.mean(axis=0)
    most = players - 1
    directions = np.concatenate(
        [np.linalg.qr(normal[:, first : first + most])[0] for first in range(0, count, most)], axis=1
    ).T
    distance = np.abs(directions)
    ranks = distance.argsort(axis=0).argsort(axis=0)
    spread = np.sign(directions) * (ranks + distance)
    return spread.argsort(axis=1).argsort(axis=1).astype(np.int32), ranks
