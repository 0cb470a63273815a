"""Coalitions that Kernel SHAP evaluates, and the regression that makes Shapley values of their scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from transforms.numerics.random import row_keys, stream, uniforms

#: Names the streams that coalitions are drawn from.
_COALITIONS = 1 << 21
#: Sizes with no more pairs than this are listed and shuffled; of larger ones, subsets are drawn until enough
#: are different.
_LISTED = 1 << 18
#: Pairs that the regression takes at a time.
PAIRS_AT_ONCE = 1 << 12
#: Draws of a small design, of which the one that tells the players apart best is taken.
_DRAWS = 16
#: Multiplications that choosing a draw may cost; larger designs are all alike.
_DRAW_COST = 1 << 28
_MOST_LEVERAGE = 0.99
_COUNTLESS = 1 << 50


@dataclass(frozen=True)
class Design:
    """Pairs of coalitions, each with its complement: a stratified sample without replacement.

    A stratum holds all pairs of the sizes s and M − s, of which it takes some at random, or all.

    Args:
      members: One coalition of each pair, of size s, `[P, M]` bool; stratum by stratum.
      sizes: s of each stratum, `[H]`.
      taken: Pairs taken of each, `[H]`.
      shares: Of those that there are, the share that is taken, `[H]`; 1 where none is left.
    """

    members: np.ndarray
    sizes: np.ndarray
    taken: np.ndarray
    shares: np.ndarray

    @property
    def players(self) -> int:
        """Players M."""
        return int(self.members.shape[1])

    @property
    def pairs(self) -> int:
        """Pairs P."""
        return len(self.members)

    @cached_property
    def weights(self) -> np.ndarray:
        """Weights of the strata in the regression, `[H]`: Shapley kernel × pairs there are ÷ pairs taken.

        Reference: Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874, theorem 2.
        """
        m = self.players
        whole = (m - 1) / (self.sizes * (m - self.sizes)) * np.where(2 * self.sizes == m, 0.5, 1.0)
        weights: np.ndarray = whole / self.taken
        return weights

    def _parts(self) -> Iterator[tuple[int, slice]]:
        """Strata by number, in parts of few pairs."""
        start = 0
        for number, taken in enumerate(self.taken.tolist()):
            for first in range(start, start + taken, PAIRS_AT_ONCE):
                yield number, slice(first, min(first + PAIRS_AT_ONCE, start + taken))
            start += taken

    def _centred(self, number: int, part: slice) -> np.ndarray:
        """Membership without what the sum of all values decides: x = z − s/M, `[P′, M]`."""
        return self.members[part] - self.sizes[number] / self.players

    @cached_property
    def gram(self) -> np.ndarray:
        """Σ ω x xᵀ, `[M, M]`."""
        gram = np.zeros((self.players, self.players))
        for number, part in self._parts():
            x = self._centred(number, part)
            gram += self.weights[number] * (x.T @ x)
        return gram

    @cached_property
    def inverse(self) -> np.ndarray:
        """Inverse of the Gram matrix among vectors that sum to zero, `[M, M]`."""
        ones = np.full(self.gram.shape, 1 / self.players)
        # 1 is an eigenvector of both: its eigenvalue is put in for the inversion and taken out again.
        scale = np.trace(self.gram) / self.players
        inverse: np.ndarray = np.linalg.inv(self.gram + scale * ones) - ones / scale
        return inverse

    def solve(self, gaps: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Shapley values: the weighted least squares fit to the gaps, among those that sum to `whole`.

        Args:
          gaps: (v(S) − v(Sᶜ))/2 of each pair, `[P, N]` float64.
          whole: v(all) − v(none), `[N]`.
        Returns:
          `[M, N]`.
        """
        m = self.players
        if not self.pairs:
            return np.repeat(whole[None] / m, m, axis=0)
        total = np.zeros((m, len(whole)))
        for number, part in self._parts():
            left = gaps[part] - (self.sizes[number] / m - 0.5) * whole
            total += self.weights[number] * (self._centred(number, part).T @ left)
        fitted: np.ndarray = self.inverse @ total + whole / m
        return fitted

    def variances(self, gaps: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Squares of the standard errors of `solve`, `[M, N]`, by its arguments and its result.

        φ̂ − φ is, to first order, a weighted sum over the sample of the residuals that the fit to all pairs
        would leave: its variance is that of a stratified sample without replacement, none where a stratum is
        taken whole. The residuals of the fit to the sample are too small, by 1 − the pair's leverage on
        average: MacKinnon and White divide the squares by its first power (HC2) or its second (HC3). Of the
        powers between, 1.5 was the closest over many games, budgets and seeds.

        Reference: Binder 1983, doi:10.2307/1402588, §4; Cochran 1977, eq. 5.6; MacKinnon and White 1985,
        doi:10.1016/0304-4076(85)90158-7.
        """
        variances = np.zeros_like(values)
        total = np.zeros_like(values)
        last = None
        for number, part in self._parts():
            taken, rest = self.taken[number], 1 - self.shares[number]
            if not rest:
                continue
            if number != last:
                variances -= total**2
                total[:], last = 0, number
            x = self._centred(number, part)
            # The values sum to `whole`, so that (z − 1/2)·φ is all that the fit says of the gap.
            residual = gaps[part] - (self.members[part] - 0.5) @ values
            moves = self.weights[number] * (x @ self.inverse)
            leverage = np.minimum(np.einsum("pm,pm->p", moves, x), _MOST_LEVERAGE)
            residual /= (1 - leverage[:, None]) ** 0.75
            factor = rest * taken / (taken - 1)
            variances += factor * ((moves**2).T @ residual**2)
            total += np.sqrt(factor / taken) * (moves.T @ residual)
        return np.maximum(variances - total**2, 0)


def pairs_of(players: int) -> list[int]:
    """Pairs that there are of each stratum: sizes 1, 2, … with their complements."""
    return [math.comb(players, s) // (2 if 2 * s == players else 1) for s in range(1, players // 2 + 1)]


def allocation(players: int, pairs: int, sampling: str) -> np.ndarray:
    """Pairs to take of each stratum, `[H]`.

    By leverage scores every size is worth the same, by the Shapley kernel a size s is worth 1/(s (M − s)).
    The dues of strata are rounded so that a larger budget never takes less of one (Webster's method);
    each stratum gets at least two pairs and at most all of its own.
    """
    # Of 1,030 players some strata hold more than a float does; no budget comes near the cap.
    there = np.array([min(count, _COUNTLESS) for count in pairs_of(players)], float)
    if pairs >= there.sum():
        return there.astype(np.int64)
    sizes = np.arange(1, len(there) + 1)
    due = np.where(2 * sizes == players, 0.5, 1.0)
    if sampling == "shapley":
        due = due / (sizes * (players - sizes))
    least = np.minimum(2, there)

    def taken(level: float) -> np.ndarray:
        return np.minimum(np.maximum(np.ceil(level * due - 0.5), least), there)

    low, high = 0.0, 1.0
    while taken(high).sum() <= pairs:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle).sum() <= pairs else (low, middle)
    pairs_taken = taken(low)
    # What is left over is due to several at once: to the smaller sizes first.
    for at in np.flatnonzero(taken(high) > pairs_taken)[: int(pairs - pairs_taken.sum())]:
        pairs_taken[at] += 1
    return pairs_taken.astype(np.int64)


@lru_cache(maxsize=32)
def design(players: int, pairs: int, sampling: str, seed: int, first: int | None = None) -> Design:
    """The pairs of a budget, the same in every process.

    The best of several draws is taken, that from which the values of all players are known best: it has the
    smallest trace of the inverse Gram matrix, which no score has a say in. It takes a seventh off the squared
    error of 80 coalitions of 10 players.

    Args:
      players: M.
      pairs: P; all that there are where it is as many.
      sampling: leverage | shapley.
      seed: Of the run.
      first: Pairs of the smallest budget of several, for which the draw is chosen: the pairs of a smaller
        budget are among those of a larger one.
    Reference: Musco and Witter 2024, https://arxiv.org/abs/2410.01917, algorithm 1; Morgan and Rubin 2012,
      doi:10.1214/12-AOS1008, on choosing among random designs.
    """
    if first is not None and first < pairs:
        return _draw(players, pairs, sampling, seed, _best(players, first, sampling, seed))
    return _draw(players, pairs, sampling, seed, _best(players, pairs, sampling, seed))


def _best(players: int, pairs: int, sampling: str, seed: int) -> int:
    """Number of the draw to take."""
    if pairs >= sum(pairs_of(players)) or _DRAWS * pairs * players**2 > _DRAW_COST:
        return 0

    def blur(number: int) -> float:
        # The smallest eigenvalue is 0 (eigenvector 1): skip it.
        spread = np.linalg.eigvalsh(_draw(players, pairs, sampling, seed, number).gram)[1:]
        return float((1 / spread).sum()) if spread[0] > 1e-9 * spread[-1] else np.inf

    return min(range(_DRAWS), key=blur)


def _draw(players: int, pairs: int, sampling: str, seed: int, number: int) -> Design:
    taken = allocation(players, pairs, sampling)
    sizes = np.arange(1, len(taken) + 1)
    keys = stream(row_keys(seed, sizes), _COALITIONS + number)
    drawn = [
        _drawn(players, int(size), int(count), keys[at : at + 1])
        for at, (size, count) in enumerate(zip(sizes, taken, strict=True))
    ]
    members = np.concatenate(drawn) if drawn else np.zeros((0, players), bool)
    # Far more than a float holds: Python's own numbers.
    shares = np.array([count / there for count, there in zip(taken.tolist(), pairs_of(players), strict=True)])
    return Design(members, sizes, taken, shares)


def _drawn(players: int, size: int, count: int, key: np.ndarray) -> np.ndarray:
    """The first `count` subsets of a stratum in its random order, `[count, M]` bool."""
    halves = 2 * size == players
    there = math.comb(players, size) // (2 if halves else 1)
    if there <= _LISTED:
        # Of a pair of halves, the one with the first player.
        chosen = _subsets(players - halves, size - halves) + int(halves)
        order = np.argsort(uniforms(key, 0, there)[:, 0], kind="stable")[:count]
        members = np.zeros((count, players), bool)
        np.put_along_axis(members, chosen[order], True, axis=1)
        members[:, :1] |= halves
        return members
    subsets = np.zeros((0, players), bool)
    first = 0
    while len(subsets) < count:
        more = count - len(subsets)
        more += more // 8 + 8
        draws = uniforms(key, first * players, more * players).reshape(more, players)
        first += more
        members = np.zeros((more, players), bool)
        np.put_along_axis(members, np.argpartition(draws, size - 1, axis=1)[:, :size], True, axis=1)
        if halves:
            members ^= ~members[:, :1]
        subsets = np.concatenate([subsets, members])
        _, places = np.unique(np.packbits(subsets, axis=1), axis=0, return_index=True)
        subsets = subsets[np.sort(places)]
    return subsets[:count]


@lru_cache(maxsize=32)
def _subsets(players: int, size: int) -> np.ndarray:
    """All subsets of a size, `[N, size]`."""
    every = itertools.chain.from_iterable(itertools.combinations(range(players), size))
    return np.fromiter(every, np.int32).reshape(math.comb(players, size), size)
