"""Coalitions that Kernel SHAP evaluates, and the regression that turns their scores into Shapley values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from transforms.numerics.random import row_keys, stream, uniforms

#: Name of the random streams from which coalitions are drawn.
_COALITIONS = 1 << 21
#: Strata with at most this many pairs are listed and shuffled; from larger ones, subsets are drawn until
#: enough of them are distinct.
_LISTED = 1 << 18
#: Pairs that the regression processes at a time.
PAIRS_AT_ONCE = 1 << 12
#: Draws of a small design; the draw that determines the players' values best is used.
_DRAWS = 16
#: Most multiplications for choosing a draw; larger designs hardly differ from draw to draw.
_DRAW_COST = 1 << 28
_MOST_LEVERAGE = 0.99
_COUNTLESS = 1 << 50


@dataclass(frozen=True)
class Design:
    """Pairs of a coalition and its complement: a stratified sample without replacement.

    A stratum consists of all pairs of sizes s and M − s, from which some are drawn at random, or all taken.

    Args:
      members: One coalition of each pair, of size s, `[P, M]` bool; stratum by stratum.
      sizes: The size s of each stratum, `[H]`.
      taken: Number of pairs taken from each stratum, `[H]`.
      shares: Share of each stratum's pairs that is taken, `[H]`; 1 if all are.
    """

    members: np.ndarray
    sizes: np.ndarray
    taken: np.ndarray
    shares: np.ndarray

    @property
    def players(self) -> int:
        """The number of players M."""
        return int(self.members.shape[1])

    @property
    def pairs(self) -> int:
        """The number of pairs P."""
        return len(self.members)

    @cached_property
    def weights(self) -> np.ndarray:
        """Weights of the strata in the regression, `[H]`: Shapley kernel × all pairs ÷ pairs taken.

        Reference: Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874, theorem 2.
        """
        m = self.players
        whole = (m - 1) / (self.sizes * (m - self.sizes)) * np.where(2 * self.sizes == m, 0.5, 1.0)
        weights: np.ndarray = whole / self.taken
        return weights

    def _parts(self) -> Iterator[tuple[int, slice]]:
        """Yields the strata's numbers and pairs, in parts of at most `PAIRS_AT_ONCE` pairs."""
        start = 0
        for number, taken in enumerate(self.taken.tolist()):
            for first in range(start, start + taken, PAIRS_AT_ONCE):
                yield number, slice(first, min(first + PAIRS_AT_ONCE, start + taken))
            start += taken

    def _centred(self, number: int, part: slice) -> np.ndarray:
        """Membership z minus its mean, so that its rows sum to zero: x = z − s/M, `[P′, M]`."""
        return self.members[part] - self.sizes[number] / self.players

    @cached_property
    def gram(self) -> np.ndarray:
        """The Gram matrix Σ ω x xᵀ over all pairs, `[M, M]`."""
        gram = np.zeros((self.players, self.players))
        for number, part in self._parts():
            x = self._centred(number, part)
            gram += self.weights[number] * (x.T @ x)
        return gram

    @cached_property
    def inverse(self) -> np.ndarray:
        """The inverse of the Gram matrix on vectors that sum to zero, `[M, M]`."""
        ones = np.full(self.gram.shape, 1 / self.players)
        # The vector of ones has eigenvalue 0: it gets `scale` for the inversion, which is removed again.
        scale = np.trace(self.gram) / self.players
        inverse: np.ndarray = np.linalg.inv(self.gram + scale * ones) - ones / scale
        return inverse

    def solve(self, gaps: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Fits Shapley values to the gaps by weighted least squares, among values that sum to `whole`.

        Args:
          gaps: (v(S) − v(Sᶜ))/2 of each pair, `[P, N]` float64, for N rows and targets.
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
        """Squared standard errors of `solve`, `[M, N]`, from its arguments and its result.

        To first order φ̂ − φ is a weighted sum, over the sample, of the residuals that a fit to all pairs
        would leave. Its variance is that of a stratified sample without replacement; a stratum that is taken
        whole contributes nothing. The residuals of the fit to the sample are too small, on average by the
        factor 1 − leverage of the pair: MacKinnon and White divide the squares by its first power (HC2) or
        its second (HC3). The power 1.5 was the most accurate over many games, budgets and seeds.

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
            # The values sum to `whole`, so that the fitted gap is (z − 1/2)·φ.
            residual = gaps[part] - (self.members[part] - 0.5) @ values
            moves = self.weights[number] * (x @ self.inverse)
            leverage = np.minimum(np.einsum("pm,pm->p", moves, x), _MOST_LEVERAGE)
            residual /= (1 - leverage[:, None]) ** 0.75
            factor = rest * taken / (taken - 1)
            variances += factor * ((moves**2).T @ residual**2)
            total += np.sqrt(factor / taken) * (moves.T @ residual)
        return np.maximum(variances - total**2, 0)


def pairs_of(players: int) -> list[int]:
    """The number of pairs in each stratum: sizes 1, 2, … with their complements."""
    return [math.comb(players, s) // (2 if 2 * s == players else 1) for s in range(1, players // 2 + 1)]


def allocation(players: int, pairs: int, sampling: str) -> np.ndarray:
    """The number of pairs to take from each stratum, `[H]`.

    Leverage sampling gives every size the same share; the Shapley kernel gives size s a share proportional to
    1/(s (M − s)). Shares are rounded so that a larger budget never takes fewer pairs from a stratum
    (Webster's method); each stratum gets at least two pairs and at most all of its own.
    """
    # With 1,030 players some strata have more pairs than a float can hold; no budget comes near the cap.
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
    # If strata tie for the remaining pairs, those of smaller sizes come first.
    for stratum in np.flatnonzero(taken(high) > pairs_taken)[: int(pairs - pairs_taken.sum())]:
        pairs_taken[stratum] += 1
    return pairs_taken.astype(np.int64)


@lru_cache(maxsize=32)
def design(players: int, pairs: int, sampling: str, seed: int, first: int | None = None) -> Design:
    """Draws the pairs of a budget, the same in every process.

    The best of several draws is used: that with the smallest trace of the inverse Gram matrix, which
    determines the values of all players best and does not depend on any score. With 80 coalitions of 10
    players this reduces the squared error by a seventh.

    Args:
      players: M.
      pairs: P; if there are not more, all pairs are taken.
      sampling: leverage | shapley.
      seed: Seed of the run.
      first: Pairs of the smallest of several budgets, for which the draw is chosen, so that the pairs of a
        smaller budget are among those of a larger one.
    Reference: Musco and Witter 2024, https://arxiv.org/abs/2410.01917, algorithm 1; Morgan and Rubin 2012,
      doi:10.1214/12-AOS1008, on choosing among random designs.
    """
    if first is not None and first < pairs:
        return _draw(players, pairs, sampling, seed, _best(players, first, sampling, seed))
    return _draw(players, pairs, sampling, seed, _best(players, pairs, sampling, seed))


def _best(players: int, pairs: int, sampling: str, seed: int) -> int:
    """The number of the best draw."""
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
        _drawn(players, int(size), int(count), keys[i : i + 1])
        for i, (size, count) in enumerate(zip(sizes, taken, strict=True))
    ]
    members = np.concatenate(drawn) if drawn else np.zeros((0, players), bool)
    # The counts may exceed the range of floats: Python's own integers.
    shares = np.array([count / there for count, there in zip(taken.tolist(), pairs_of(players), strict=True)])
    return Design(members, sizes, taken, shares)


def _drawn(players: int, size: int, count: int, key: np.ndarray) -> np.ndarray:
    """The first `count` subsets of a stratum in its random order, `[count, M]` bool."""
    halves = 2 * size == players
    there = math.comb(players, size) // (2 if halves else 1)
    if there <= _LISTED:
        # Of two complementary halves, the one with the first player is listed.
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
