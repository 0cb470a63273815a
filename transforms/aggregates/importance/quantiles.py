"""A histogram of attributions by their leading bits: quantiles that are the same in any order of merging.

A float32 is its own logarithm: its leading bits are the sign, the exponent and the first digits of what is
left. φ are counted by these, which takes a shift, no logarithm and no search: as HdrHistogram does for whole
numbers, and with the relative error of DDSketch (Masson, Rim, Lee 2019, doi:10.14778/3352063.3352135), whose
buckets are these but for their equal width within an octave.

Of each feature some octaves from that of its largest |φ| down have buckets; smaller values are counted as 0.
OCTAVES are enough for targets of different units beside each other and for tails as long as attributions
have them. The largest grows as states merge and buckets move along; two that become one would have become
one earlier or later as well, and so it is with the coarser buckets of a state of many groups: counts depend
on what was counted, never on the order.

A group and feature has 2 · (octaves << bits) + 1 buckets: of 0, of the positive values by size, of the
negative ones by size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: That have buckets, at most: what is less than 2^-31 of the largest |φ| of a feature may be counted as 0.
OCTAVES = 32
#: Of the mantissa, at most.
MOST_BITS = 6
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_MANTISSA = 23
_BIAS = 127
#: Of the total: what rounding may do to a sum of weights decides no quantile.
_SLACK = 1e-9
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Grid:
    """How values fall into buckets.

    Args:
      octaves: That have buckets, from that of the largest |φ| down; OCTAVES at most.
      bits: Of the mantissa, MOST_BITS at most: 2^bits buckets an octave.
    """

    octaves: int
    bits: int

    @property
    def half(self) -> int:
        """Buckets of the values of one sign."""
        return self.octaves << self.bits

    @property
    def buckets(self) -> int:
        """All of them."""
        return 2 * self.half + 1


def tops_of(values: np.ndarray) -> np.ndarray:
    """The exponent bits of the largest |φ| of each feature `[features, N]` float32, and OCTAVES at least."""
    largest = np.maximum(values.max(axis=1, initial=0.0), -values.min(axis=1, initial=0.0))
    largest = largest.astype(np.float32)
    return np.maximum(largest.view(np.int32) >> _MANTISSA, OCTAVES)


class Coded:
    """The finest buckets of a batch, from which the coarser ones follow.

    Args:
      values: φ, `[features, N]` float32, contiguous.
      tops: As `tops_of` gives them of these values and perhaps others; larger values have no bucket.
    """

    def __init__(self, values: np.ndarray, tops: np.ndarray) -> None:
        raw = values.view(np.int32)
        self._place = (raw & 0x7FFFFFFF) >> (_MANTISSA - MOST_BITS)
        self._place -= ((tops - (OCTAVES - 1)) << MOST_BITS).astype(np.int32)[:, None]
        np.maximum(self._place, -1, out=self._place)
        self._negative = (raw < 0) & (self._place >= 0)
        self._found: dict[Grid, np.ndarray] = {}

    def buckets(self, grid: Grid) -> np.ndarray:
        """Numbers of the buckets in a row of all the features', `[features, N]` int32."""
        if grid not in self._found:
            self._found[grid] = self._numbered(grid)
        return self._found[grid]

    def _numbered(self, grid: Grid) -> np.ndarray:
        found = self._place >> (MOST_BITS - grid.bits)
        found += self._negative * np.int32(grid.half)
        if grid.octaves < OCTAVES:
            lost = (OCTAVES - grid.octaves) << grid.bits
            found -= lost
            found[(self._place >> (MOST_BITS - grid.bits)) < lost] = -1
        first = 1 + grid.buckets * np.arange(len(found), dtype=np.int32)
        found += first[:, None]
        return found


def raised(counts: np.ndarray, octaves: int, grid: Grid) -> None:
    """Moves the buckets `[G, buckets]` of a feature whose largest |φ| has grown by octaves, in place."""
    half = grid.half
    step = min(octaves << grid.bits, half)
    for first in (1, 1 + half):
        part = counts[:, first : first + half]
        counts[:, 0] += part[:, :step].sum(axis=1, dtype=counts.dtype)
        part[:, : half - step] = part[:, step:].copy()
        part[:, half - step :] = 0


def coarser(counts: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """The same `[G, features, buckets]` on a grid of no more octaves and bits."""
    groups, features, _ = counts.shape
    found = np.empty((groups, features, new.buckets), counts.dtype)
    parts = counts[..., 1:].reshape(groups, features, 2, old.octaves << new.bits, 1 << (old.bits - new.bits))
    folded = parts.sum(axis=-1, dtype=counts.dtype)
    lost = folded.shape[-1] - new.half
    found[..., 0] = counts[..., 0] + folded[..., :lost].sum(axis=(-2, -1), dtype=counts.dtype)
    found[..., 1:].reshape(groups, features, 2, new.half)[:] = folded[..., lost:]
    return found


def quantiles(
    counts: np.ndarray, grid: Grid, tops: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The LEVELS' quantiles: the least value that the share of the weight is not above (the inverted CDF).

    Args:
      counts: `[G, features, buckets]`.
      grid: Of the buckets.
      tops: By feature.
      low: The smallest φ, `[G, features]`.
      high: The largest.
    Returns:
      `[levels, G, features]`: the middle of the bucket that holds it, and no less than `low`, no more than
      `high`: off by at most 2^-(bits + 1) of itself, and 2^-(octaves − 1) of the feature's largest |φ|.
    """
    middles = _middles(grid)
    half = len(middles)
    # By value: the negative from the largest |φ| down, 0, then the positive.
    order = np.concatenate([np.arange(2 * half, half, -1), np.arange(half + 1)])
    shown = np.concatenate([-middles[::-1], [0.0], middles])
    found = np.empty((len(LEVELS), *counts.shape[:2]))
    step = max(1, _AT_ONCE // max(1, counts[0].size)) if len(counts) else 1
    for first in range(0, len(counts), step):
        part = slice(first, first + step)
        below = np.cumsum(counts[part][..., order], axis=-1, dtype=np.float64)
        for level, out in zip(LEVELS, found, strict=True):
            reached = below >= (level - _SLACK) * below[..., -1:]
            out[part] = shown[reached.argmax(axis=-1)]
    found *= _scale(tops)
    return np.clip(found, low, high, out=found)


def shape(counts: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and excess kurtosis of |φ|, each `[G, features]`; 0 where |φ| hardly varies.

    They are those of the middles of the buckets.
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
    """The middles of the positive buckets, where the feature's largest |φ| lies in [1, 2)."""
    width = 2.0**-grid.bits
    octave = 1 + width * (np.arange(1 << grid.bits) + 0.5)
    return (2.0 ** np.arange(1 - grid.octaves, 1)[:, None] * octave).reshape(-1)


def _scale(tops: np.ndarray) -> np.ndarray:
    return np.ldexp(1.0, tops - _BIAS)
