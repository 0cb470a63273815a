"""Counts, means and extremes of groups of attributions, merged without differences of large sums."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

_BLOCK = 1 << 14
#: Exponents of w and |φ| whose products are summed if there are weights, for the skewness and kurtosis of
#: w(|φ| − mean).
HIGHER = ((3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3), (4, 4))


@dataclass
class Moments:
    """Statistics of G groups, all with weights or all without. Entries of weight 0 count only in `rows`.

    Args:
      rows: Number of entries, `[G]` float64.
      weight: Σw, `[G]`.
      weight2: Σw², `[G]`.
      weight3: Σw³, `[G]`.
      weight4: Σw⁴, `[G]`.
      mean: Σwφ / Σw, `[G, features]`; the shape of all fields that follow, except `higher`.
      m2: Σw(φ − mean)².
      absolute: Σw|φ|.
      low: The smallest φ.
      high: The largest φ.
      positive: Σw over φ > 0.
      absolute2: Σw²|φ|.
      power2: Σw²φ².
      higher: Sums of the products of HIGHER, `[G, features, 7]`; `[G, features, 0]` without weights.
    """

    rows: np.ndarray
    weight: np.ndarray
    weight2: np.ndarray
    weight3: np.ndarray
    weight4: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    absolute: np.ndarray
    low: np.ndarray
    high: np.ndarray
    positive: np.ndarray
    absolute2: np.ndarray
    power2: np.ndarray
    higher: np.ndarray

    @classmethod
    def empty(cls, groups: int, features: int, *, weighted: bool) -> Moments:
        """Moments of groups without rows."""
        one, two = np.zeros((5, groups)), np.zeros((8, groups, features))
        two[3], two[4] = np.inf, -np.inf
        higher = np.zeros((groups, features, len(HIGHER) if weighted else 0))
        return cls(*[*one, *two, higher])

    @property
    def weighted(self) -> bool:
        """True if the entries have weights."""
        return self.higher.shape[-1] > 0

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def at(self, groups: np.ndarray) -> Moments:
        """The moments of some groups, by number."""
        return Moments(*(array[groups] for array in self.arrays().values()))

    def extended(self, groups: int) -> Moments:
        """A copy with further empty groups at the end."""
        more = Moments.empty(groups, self.mean.shape[1], weighted=self.weighted).arrays().values()
        return Moments(*(np.concatenate(pair) for pair in zip(self.arrays().values(), more, strict=True)))

    def add(self, at: np.ndarray, other: Moments) -> None:
        """Adds each group of `other` to the group at its number in `at`; the numbers are distinct.

        Raises:
          ValueError: Only one of the two has weights.
        """
        if other.weighted != self.weighted:
            if not self.weight.any():
                self.higher = np.zeros((*self.mean.shape, other.higher.shape[-1]))
            elif not other.weight.any():
                other = replace(other, higher=np.zeros((*other.mean.shape, self.higher.shape[-1])))
            else:
                raise ValueError("entries with weights and entries without")
        # Chan, Golub, LeVeque 1979: no difference of large sums, whatever the sizes of the two.
        total = self.weight[at] + other.weight
        share = (other.weight / np.where(total > 0, total, 1.0))[:, None]
        shift = other.mean - self.mean[at]
        self.m2[at] += other.m2 + shift**2 * (self.weight[at][:, None] * share)
        self.mean[at] += shift * share
        self.low[at] = np.minimum(self.low[at], other.low)
        self.high[at] = np.maximum(self.high[at], other.high)
        for name in _SUMS:
            getattr(self, name)[at] += getattr(other, name)


_SUMS = (
    *("rows", "weight", "weight2", "weight3", "weight4"),
    *("absolute", "positive", "absolute2", "power2", "higher"),
)


def moments_of(
    values: np.ndarray, order: np.ndarray | None, counts: np.ndarray, weights: np.ndarray | None
) -> Moments:
    """Moments of runs of columns.

    Args:
      values: φ, `[features, N]`.
      order: Columns to take, in this order; None: all columns.
      counts: Number of columns in each run, `[G]`, at least 1.
      weights: Weight of each column taken, above 0; None: 1.
    Returns:
      Moments of G groups; `rows` counts the columns taken.
    Cost: about 2 ns per value, and 5 where runs are short; with weights 10 more.
    """
    moments = Moments.empty(len(counts), len(values), weighted=weights is not None)
    starts = np.cumsum(counts) - counts
    number = counts.astype(np.float64)
    for power, sums in enumerate(
        (moments.rows, moments.weight, moments.weight2, moments.weight3, moments.weight4)
    ):
        with np.errstate(over="ignore"):
            sums[:] = number if weights is None else np.add.reduceat(weights**power, starts)
    # A few features at a time, so that the working arrays stay in the cache: three times as fast.
    step = max(1, _BLOCK // values.shape[1])
    for first in range(0, len(values), step):
        part = values[first : first + step]
        block = (part if order is None else part.take(order, axis=1)).astype(np.float64)
        rows = slice(first, first + step)
        np.minimum.reduceat(block, starts, axis=1, out=moments.low.T[rows])
        np.maximum.reduceat(block, starts, axis=1, out=moments.high.T[rows])
        size = np.abs(block)
        if weights is None:
            above = np.add.reduceat((block > 0).view(np.int8), starts, axis=1, dtype=np.float64)
            mean = np.add.reduceat(block, starts, axis=1) / number
            absolute = np.add.reduceat(size, starts, axis=1)
        else:
            above = np.add.reduceat((block > 0) * weights, starts, axis=1)
            mean = np.add.reduceat(block * weights, starts, axis=1) / moments.weight
            size *= weights
            absolute = np.add.reduceat(size, starts, axis=1)
            moments.absolute2.T[rows] = np.add.reduceat(size * weights, starts, axis=1)
            moments.power2.T[rows] = np.add.reduceat(np.square(size), starts, axis=1)
            with np.errstate(over="ignore"):
                _higher(moments.higher[:, rows], size, weights, starts)
        block -= np.repeat(mean, counts, axis=1) if len(counts) > 1 else mean
        np.square(block, out=block)
        if weights is not None:
            block *= weights
        moments.m2.T[rows] = np.add.reduceat(block, starts, axis=1)
        moments.mean.T[rows], moments.absolute.T[rows], moments.positive.T[rows] = mean, absolute, above
    if weights is None:
        moments.absolute2[:] = moments.absolute
        moments.power2[:] = moments.m2 + number[:, None] * np.square(moments.mean)
    return moments


def _higher(higher: np.ndarray, size: np.ndarray, weights: np.ndarray, starts: np.ndarray) -> None:
    """Sums the products of HIGHER, `[G, features, 7]`, from w|φ| `[features, N]` and w `[N]`."""
    power = size.copy()
    for last in (1, 2, 3, 4):
        # w^total |φ|^last is (w|φ|)^last times a power of w.
        if last > 1:
            power *= size
        product = power
        for total in range(last, 5):
            if total > last:
                product = product * weights
            if (total, last) in HIGHER:
                higher[..., HIGHER.index((total, last))] = np.add.reduceat(product, starts, axis=1).T
