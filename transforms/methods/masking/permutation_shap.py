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

#: Pairs in a round of a tolerance, whatever the start was; there are `MOST_ROUNDS` rounds.
_USUAL = 10
#: With fewer pairs nothing is stopped by its error.
_LEAST = 4
#: Pairs for which the mean error of a row counts, when it is joined to the error of a value's own pairs.
_JOINED = 8
#: Of the variance that neighbours show, what orthogonal directions take off at most; and what spreading over
#: distances takes off, with few players most, since even neighbours of few pairs lie far apart: 5 % and this
#: over their number.
_ORTHOGONAL, _APART = 0.3, (0.05, 1.7)
#: Of the scores, the part by which rounding in single precision may vary a change; not an error.
_ROUNDING = 1e-6
#: Places of players in permutations, a few arrays of 8 bytes each.
_MOST_PLACES = 1 << 26


@dataclass(frozen=True)
class PermutationShap(AttributionMethod):
    """Shapley values by antithetic permutations: features join one by one, and each is given what it changes.

    φ_i = mean over permutations of v(S + i) − v(S), S who came before i and v(S) the mean score with everyone
    outside S replaced by each background row. A permutation goes with its reverse, so that what features do
    alone and in twos is exact; Σφ = prediction − base_value whatever is drawn, since each permutation leads
    from the empty coalition to the full one. Where the budget reaches all 2^M coalitions, all of them are
    played and the values are exact. Permutations are the same for all rows. Those of a round spread evenly:
    they are the orders of orthogonal directions, with each feature at each distance from the middle in its
    turn.

    Args:
      n_permutations: Pairs of a permutation and its reverse.
      tolerance: Largest standard error of a value, relative to the spread of the score; rows above it are
        given fresh permutations, ten pairs at a time or `n_permutations` if that is more, up to ten times as
        many. At least four pairs are played, since fewer say little of their error.
      standard_error: Write a standard error beside every value, from the differences between pairs that are
        neighbours in what they are spread over. Over many seeds it is the true one to within a tenth in root
        mean square, from two pairs on. In one run all rows have the same permutations, so that their errors
        go together: of a score of one or two products of three features, all may come out at half of what is
        stated, or at twice. It is 0 where nothing but single features and twos matters; beside threes it is 0
        for a feature that changes as much in whatever company, and for one that matters in twos it falls with
        the number of pairs. By two or three pairs it may be 0 by chance: take five or more.
    Cost: (`n_permutations` · 2 · (M − 1) + 2) · R model evaluations a row, or 2^M · R if that is less; rows
    above the tolerance cost more; memory O(device_batch_size) beside some tens of MB of worths.
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
        """Refuses permutations that no memory holds.

        Raises:
          UserError: There are too many, of too many players.
        """
        if self.n_permutations * players.count > _MOST_PLACES:
            raise UserError(
                f"{self.n_permutations:,} permutations of {players.count:,} features do not fit into memory",
                "method.n_permutations",
                "take fewer, or put features into input.groups",
            )

    def held_bytes(self, players: int) -> int:
        """Memory of the permutations while they are drawn."""
        return 8 * 8 * self.n_permutations * players

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """Each coalition on the way once per background row; all there are, if that is less."""
        on_the_way = self.n_permutations * 2 * (players - 1) + 2
        return (2**players if self._plays_all(players) else on_the_way) * background_rows

    def _plays_all(self, players: int) -> bool:
        """Whether the budget reaches every coalition."""
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
        """Samples; see `AttributionMethod.attribute`."""
        game = Game(model, reference, device_batch_size)
        players = game.players.count
        prediction, output = predict(model, inputs, targets, device_batch_size)
        base_value = game.empty_coalition(inputs, targets)
        exact = self._plays_all(players)
        still = game.still(inputs)
        sizes = self._sizes
        # A pair's worths, and what they change, are held together; and twice what each pair has changed.
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
            if still is not None:  # what rounding makes of a change of nothing
                means = np.where(still[rows][:, None], 0.0, means)
            return {"players": means}, {"players": variances}

        found, errors, limited = sample_rounds(run, reference.spread[targets], self.tolerance, sizes)
        values = game.players.to_inputs(found["players"])
        error = game.players.to_inputs(errors["players"]) if self.standard_error else None
        delta = convergence_delta(values, prediction, base_value)
        return Attribution(values, prediction, output, base_value, delta, error, limited)

    @property
    def _sizes(self) -> list[int]:
        """Pairs of each round: the cap is one of evaluations, so that a small start is not cut short."""
        if self.tolerance is None:
            return [self.n_permutations]
        first, more = max(self.n_permutations, _LEAST), max(self.n_permutations, _USUAL)
        return [first, *[more] * -(-(MOST_ROUNDS * more - first) // more)]


def _pairs(count: int, players: int) -> list[np.ndarray]:
    """The numbers of the pairs, in blocks."""
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
    """One round of some rows: means, their squared standard errors, and how far apart a player's changes are.

    All of them `[B, T, M]`; a player who changes as much in whatever company has changes 0 apart.

    The error is that of successive differences, of the pairs in the order of what they are stratified by: a
    player's distance from the middle. What orthogonal directions take off besides was measured over games of
    third and fourth degree and small networks: up to `_ORTHOGONAL`, by how many directions share a basis.

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
    """Squared standard errors, each drawn towards the mean of its row's: few pairs alone say too little.

    Args:
      own: Each player's own, `[B, T, M]`.
      ranges: How far apart its changes are, `[B, T, M]`; of a player that is the same alone and among others
        the error is 0, and no other error is drawn towards it.
      rounding: What a change may be off by rounding, `[B, T]`; no more than that is nothing.
      count: Pairs.
    """
    interacts = ranges > 4 * rounding[:, :, None]
    varies = interacts & (own * count > np.square(rounding)[:, :, None])
    # Pairs that agree are exact where it is twos that matter. Of threes they agree by chance: who is not in
    # the middle of them in one pair, two times in three, is not in the next one either.
    share = np.where(varies, 1.0, np.where(interacts, (2 / 3) ** (count - 1), 0.0))
    own = np.where(varies, own, 0.0)
    mean = own.sum(axis=2, keepdims=True) / np.maximum(share.sum(axis=2, keepdims=True), 1)
    freedom = 0.8 * (count - 1)  # successive differences overlap
    joined: np.ndarray = (_JOINED * share * mean + freedom * own) / (_JOINED + freedom)
    return joined


def _worths_on_the_way(game: Game, inputs: Arrays, targets: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Worths of the first 1 … M − 1 players of each order, `[B, orders, M − 1, T]`."""
    count, players = orders.shape
    steps = players - 1
    worths = np.empty((len(targets), count * steps, targets.shape[1]))
    for block in blocks(count * steps, players * orders.itemsize):
        members = orders[block // steps] < (block % steps + 1)[:, None]
        # With few players, orders meet in the same coalitions.
        _, first, back = np.unique(
            np.packbits(members, axis=1), axis=0, return_index=True, return_inverse=True
        )
        worths[:, block] = game.scores(inputs, targets, members[first])[:, back.reshape(-1)]
    return worths.reshape(len(targets), count, steps, targets.shape[1])


def _exact(
    game: Game, inputs: Arrays, targets: np.ndarray, empty: np.ndarray, full: np.ndarray
) -> np.ndarray:
    """Shapley values from the worths of all coalitions, `[B, T, M]`."""
    coalitions, weights = enumeration(game.players.count)
    inside = slice(1, -1)
    exact = np.multiply.outer(empty, weights[0]) + np.multiply.outer(full, weights[-1])
    exact += np.swapaxes(game.scores(inputs, targets, coalitions[inside]), 1, 2) @ weights[inside]
    return exact


def spread_permutations(seed: int, count: int, players: int, number: int) -> np.ndarray:
    """Permutations, each as likely as any other, that together spread more evenly than independent ones.

    Each is the order of a direction's coordinates; up to M − 1 directions are orthogonal to one another. The
    distances of a player's coordinates from 0 are replaced by their ranks among all `count`, so that each
    player comes near the middle, where it matters who else has come, as often as near the ends.

    Args:
      seed: Of the run.
      count: Permutations; their reverses are as evenly spread.
      players: M, at least 2.
      number: Of the round, whose permutations are independent of the others'.
    Returns:
      The place of each player, `[count, M]` int32.
    """
    return _spread(seed, count, players, number)[0]


def _spread(seed: int, count: int, players: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Places, and each player's rank among the permutations by its distance from the middle, `[count, M]`."""
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
