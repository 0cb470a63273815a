"""Quality of a run: quantiles of |convergence_delta|, the error of the sums, as a mergeable state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: The ratio of a bucket's bounds, so that a quantile is off by at most half a percent.
_GROWTH = 1.01
_LOG_GROWTH = float(np.log(_GROWTH))
_ZERO = -(10**9)
_LARGEST = float(np.finfo(np.float64).max)


@dataclass
class Quantiles:
    """Quantiles of values ≥ 0 to 0.5 %, from counts in buckets that grow by 1 % each.

    A histogram on a fixed grid, as in DDSketch (Masson et al. 2019, https://arxiv.org/abs/1908.10693): it is
    deterministic, merges exactly in any order, and numpy counts a batch at once. `update` and `merge` mutate
    only the state that they are called on.
    """

    counts: dict[int, int] = field(default_factory=dict)
    max: float = 0.0

    def update(self, values: np.ndarray) -> None:
        """Adds values ≥ 0 of any shape; infinity and NaN count as the largest float64."""
        if values.size == 0:
            return
        values = np.fmin(values.ravel().astype(np.float64), _LARGEST)
        self.max = max(self.max, float(values.max()))
        positive = values[values > 0]
        counted = []
        if positive.size < values.size:
            counted.append((_ZERO, values.size - positive.size))
        if positive.size:
            index = np.floor(np.log(positive) / _LOG_GROWTH).astype(np.int64)
            least = int(index.min())
            counts = np.bincount(index - least)
            held = np.flatnonzero(counts)
            counted += zip((held + least).tolist(), counts[held].tolist(), strict=True)
        for bucket, count in counted:
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def merge(self, other: Quantiles) -> None:
        """Adds the counts of another state."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.max = max(self.max, other.max)

    def quantile(self, share: float) -> float | None:
        """The smallest value that at least this share of the values does not exceed; None without values."""
        if not self.counts:
            return None
        buckets = sorted(self.counts)
        seen = np.cumsum([self.counts[bucket] for bucket in buckets])
        # The margin absorbs rounding: in floats, 0.07 · 100 is a little more than 7.
        at = int(np.searchsorted(seen, share * seen[-1] * (1 - 1e-12)))
        bucket = buckets[min(at, len(buckets) - 1)]
        if bucket == _ZERO:
            return 0.0
        exponent = (bucket + 0.5) * _LOG_GROWTH
        return self.max if exponent > np.log(self.max) else float(np.exp(exponent))


def spread_of(scores: np.ndarray) -> np.ndarray:
    """Population standard deviation of scores `[R, T]` by target, `[T]`, over rows with finite scores."""
    finite = scores[np.isfinite(scores).all(axis=1)]
    return finite.std(axis=0, dtype=np.float64) if len(finite) else np.zeros(scores.shape[1])


def distance_of(scores: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Root mean square of prediction − base_value by target, `[T]`.

    Args:
      scores: Scores of rows that represent the input, `[B, T]`; rows that are not finite are left out.
      background: Scores of the baseline, `[R, T]`.
    """
    finite = scores[np.isfinite(scores).all(axis=1)].astype(np.float64)
    if not len(finite):
        return np.zeros(scores.shape[1])
    away: np.ndarray = finite - background.mean(axis=0, dtype=np.float64)
    distance: np.ndarray = np.sqrt((away**2).mean(axis=0))
    return distance


def yardsticks(spread: np.ndarray, away: np.ndarray, background_rows: int) -> np.ndarray:
    """The unit in which a convergence delta is measured, `[T]`.

    This is the spread of the score. Similar scores have little spread, however far they are from the
    baseline. So for a baseline of one row the unit is at least their distance from it, and for a baseline
    whose scores do not vary it is that distance.

    Args:
      spread: Spread of the score, `[T]`.
      away: Root mean square of prediction − base_value, `[T]`, over the rows that represent the input.
      background_rows: Number of rows in the baseline.
    """
    units: np.ndarray = (
        np.maximum(spread, away) if background_rows == 1 else np.where(spread > 0, spread, away)
    )
    return units


@dataclass
class Quality:
    """The quality of a run: deltas, absolute and relative to a yardstick, and rows that hit a limit.

    Args:
      delta: |convergence_delta|.
      relative: |convergence_delta| divided by its target's yardstick; targets with yardstick 0 are left out.
      limited: Number of rows that a limit of the method kept above its tolerance.
    """

    delta: Quantiles = field(default_factory=Quantiles)
    relative: Quantiles = field(default_factory=Quantiles)
    limited: int = 0

    def update(self, delta: np.ndarray | None, yardstick: np.ndarray, limited: np.ndarray) -> None:
        """Adds a batch: deltas and their yardsticks `[B, T]`, and which rows hit a limit `[B]`."""
        self.limited += int(limited.sum())
        if delta is None:
            return
        size = np.abs(delta.astype(np.float64))
        self.delta.update(size)
        known = yardstick > 0
        with np.errstate(over="ignore"):
            self.relative.update(size[known] / yardstick[known])

    def merge(self, other: Quality) -> None:
        """Adds another state."""
        self.delta.merge(other.delta)
        self.relative.merge(other.relative)
        self.limited += other.limited

    def to_json(self) -> dict[str, Any]:
        """Encodes the state for the journal."""
        return {
            "delta": {"counts": sorted(self.delta.counts.items()), "max": self.delta.max},
            "relative": {"counts": sorted(self.relative.counts.items()), "max": self.relative.max},
            "limited": self.limited,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Quality:
        """Undoes `to_json`."""
        delta, relative = (
            Quantiles({int(bucket): int(count) for bucket, count in part["counts"]}, float(part["max"]))
            for part in (data["delta"], data["relative"])
        )
        return cls(delta, relative, int(data["limited"]))

    def summary(self) -> dict[str, float | None] | None:
        """p50, p99, max and relative_p99 of |convergence_delta|; None if the method promises no sum."""
        if not self.delta.counts:
            return None
        return {
            "p50": self.delta.quantile(0.5),
            "p99": self.delta.quantile(0.99),
            "max": self.delta.max,
            # If all yardsticks are 0, no limit is exceeded.
            "relative_p99": self.relative.quantile(0.99) if self.relative.counts else 0.0,
        }
