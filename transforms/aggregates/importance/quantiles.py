"""A histogram of attributions by their leading bits: quantiles that do not depend on the order of merging.

The bits of a float32 are nearly its logarithm: the sign, the exponent and the first bits of the mantissa. φ
are counted by these leading bits, which takes a shift but neither a logarithm nor a search, as in
HdrHistogram for whole numbers. The relative error is that of DDSketch (Masson, Rim, Lee 2019,
doi:10.14778/3352063.3352135), but buckets have equal widths within an octave.

Each feature has buckets for some octaves, from that of its largest |φ| down; smaller values are counted as 0.
OCTAVES are enough for targets in different units, and for the tails that attributions have. As states merge,
the largest |φ| may grow, and buckets move. Buckets that are joined then, or when a state of many groups gets
coarser, would be joined in any other order too: counts depend only on the values, never on the order.

Each group and feature has 2 · (octaves << bits) + 1 buckets: one for 0, then those of the positive values by
size, then those of the negative values by size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Most octaves with buckets: values below 2^-31 of a feature's largest |φ| may be counted as 0.
OCTAVES = 32
#: Most bits of the mantissa.
MOST_BITS = 6
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_MANTISSA = 23
_BIAS = 127
#: Fraction of the total weight by which a quantile's threshold is lowered, so that rounding does not decide.
_SLACK = 1e-9
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Grid:
    """The layout of buckets.

    Args:
      octaves: Number of octaves with buckets, from that of the largest |φ| down; at most OCTAVES.
      bits: Bits of the mantissa, at most MOST_BITS: there are 2^bits buckets per octave.
    """

    octaves: int
    bits: int

    @property
    def half(self) -> int:
        """The number of buckets for values of one sign."""
        return self.octaves << self.bits

    @property
    def buckets(self) -> int:
        """The number of all buckets."""
        return 2 * self.half + 1


def tops_of(values: np.ndarray) -> np.ndarray:
    """The exponent bits of each feature's largest |φ|, `[features]`, at least OCTAVES; φ `[features, N]`."""
    largest = np.maximum(values.max(axis=1, initial=0.0), -values.min(axis=1, initial=0.0))
    largest = largest.astype(np.float32)
    return np.maximum(largest.view(np.int32) >> _MANTISSA, OCTAVES)


class Coded:
    """The finest buckets of a batch, from which coarser ones follow.

    Args:
      values: φ, `[features, N]` float32, contiguous.
      tops: From `tops_of`, for these values and perhaps others; larger values have no bucket.
    """

    def __init__(self, values: np.ndarray, tops: np.ndarray) -> None:
        # Without the sign bit, the leading bits of a float32, exponent and MOST_BITS of the mantissa, are a
        # number that grows with |φ|. `_place` [features, N] counts it from the lowest octave with buckets;
        # −1 stands for smaller values, which are counted as 0.
        raw = values.view(np.int32)
        self._place = (raw & 0x7FFFFFFF) >> (_MANTISSA - MOST_BITS)
        self._place -= ((tops - (OCTAVES - 1)) << MOST_BITS).astype(np.int32)[:, None]
        np.maximum(self._place, -1, out=self._place)
        self._negative = (raw < 0) & (self._place >= 0)
        self._by_grid: dict[Grid, np.ndarray] = {}

    def buckets(self, grid: Grid) -> np.ndarray:
        """Numbers of the values' buckets, counted through all features, `[features, N]` int32."""
        if grid not in self._by_grid:
            self._by_grid[grid] = self._numbered(grid)
        return self._by_grid[grid]

    def _numbered(self, grid: Grid) -> np.ndarray:
        # Bucket 0 of a feature is that of 0, 1 … half are positive and half + 1 … 2 · half negative values:
        # here from −1 up, to which `first` adds one and the buckets of the features before.
        number = self._place >> (MOST_BITS - grid.bits)
        number += self._negative * np.int32(grid.half)
        if grid.octaves < OCTAVES:
            lost = (OCTAVES - grid.octaves) << grid.bits
            number -= lost
            number[(self._place >> (MOST_BITS - grid.bits)) < lost] = -1
        first = 1 + grid.buckets * np.arange(len(number), dtype=np.int32)
        number += first[:, None]
        return number


def raised(counts: np.ndarray, octaves: int, grid: Grid) -> None:
    """Moves the counts `[G, buckets]` of a feature whose largest |φ| has grown by some octaves, in place."""
    # Within each sign, counts move down by `step` buckets; those that leave the lowest octave are added to 0.
    half = grid.half
    step = min(octaves << grid.bits, half)
    for first in (1, 1 + half):
        part = counts[:, first : first + half]
        counts[:, 0] += part[:, :step].sum(axis=1, dtype=counts.dtype)
        part[:, : half - step] = part[:, step:].copy()
        part[:, half - step :] = 0


def coarser(counts: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """The counts `[G, features, buckets]` on a grid with no more octaves and no more bits."""
    # `parts` is [G, features, sign, coarse bucket, fine bucket within it]; the lowest octaves are added to 0.
    groups, features, _ = counts.shape
    coarse = np.empty((groups, features, new.buckets), counts.dtype)
    parts = counts[..., 1:].reshape(groups, features, 2, old.octaves << new.bits, 1 << (old.bits - new.bits))
    folded = parts.sum(axis=-1, dtype=counts.dtype)
    lost = folded.shape[-1] - new.half
    coarse[..., 0] = counts[..., 0] + folded[..., :lost].sum(axis=(-2, -1), dtype=counts.dtype)
    coarse[..., 1:].reshape(groups, features, 2, new.half)[:] = folded[..., lost:]
    return coarse


def quantiles(
    counts: np.ndarray, grid: Grid, tops: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The quantiles at LEVELS, by the inverted CDF: the least value with at least this share at or below it.

    Args:
      counts: `[G, features, buckets]`.
      grid: The layout of the buckets.
      tops: From `tops_of`, `[features]`.
      low: The smallest φ, `[G, features]`.
      high: The largest φ, `[G, features]`.
    Returns:
      `[levels, G, features]`: the middle of the quantile's bucket, limited to `low` … `high`. It is off by at
      most 2^-(bits + 1) of itself, or 2^-(octaves − 1) of the feature's largest |φ|.
    """
    middles = _middles(grid)
    half = len(middles)
    # Buckets in the order of their values: negative ones from the largest |φ| down, 0, then positive ones.
    order = np.concatenate([np.arange(2 * half, half, -1), np.arange(half + 1)])
    shown = np.concatenate([-middles[::-1], [0.0], middles])
    levels = np.empty((len(LEVELS), *counts.shape[:2]))
    step = max(1, _AT_ONCE // max(1, counts[0].size)) if len(counts) else 1
    for first in range(0, len(counts), step):
        part = slice(first, first + step)
        below = np.cumsum(counts[part][..., order], axis=-1, dtype=np.float64)
        for level, out in zip(LEVELS, levels, strict=True):
            reached = below >= (level - _SLACK) * below[..., -1:]
            out[part] = shown[reached.argmax(axis=-1)]
    levels *= _scale(tops)
    return np.clip(levels, low, high, out=levels)


def shape(counts: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and excess kurtosis of |φ|, each `[G, features]`; 0 where |φ| hardly varies.

    Every value is taken to be in the middle of its bucket.
    """
    middles = _middles(grid)
    sizes = np.concatenate([[0.0], middles, middles])
    powers = np.stack([sizes**power for power in range(5)], axis=1)
    skewness, kurtosis = np.zeros((2, *counts.shape[:2]))
    step = max(1, _AT_ONCE // max(1, counts[0].size)) if len(counts) else 1
    for first in range(0, len(counts), step):
        part = slice(first, first + step)
        total, *sums = np.moveaxis(counts[part].astype(np.float64) @ powers, -1, 0)
        one, two, three, four = (moment / np.where(total > 0, total, 1.0) for moment in sums)
        variance = two - one**2
        varies = variance > (2.0**-grid.bits * one) ** 2 / 12
        variance[~varies] = 1.0
        skewed = (three - 3 * one * two + 2 * one**3) / variance**1.5
        peaked = (four - 4 * one * three + 6 * one**2 * two - 3 * one**4) / variance**2 - 3
        skewness[part], kurtosis[part] = np.where(varies, skewed, 0.0), np.where(varies, peaked, 0.0)
    return skewness, kurtosis


def _middles(grid: Grid) -> np.ndarray:
    """The middles of the positive buckets `[half]`, for a feature whose largest |φ| lies in [1, 2)."""
    width = 2.0**-grid.bits
    octave = 1 + width * (np.arange(1 << grid.bits) + 0.5)
    return (2.0 ** np.arange(1 - grid.octaves, 1)[:, None] * octave).reshape(-1)


def _scale(tops: np.ndarray) -> np.ndarray:
    return np.ldexp(1.0, tops - _BIAS)
