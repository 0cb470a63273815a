"""How well the attributions of a run sum up: quantiles of |convergence_delta| as a state that merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: A bucket's bounds are this factor apart, so that a quantile is off by half a percent at most.
_GROWTH = 1.01
_LOG_GROWTH = float(np.log(_GROWTH))
_ZERO = -(10**9)
_LARGEST = float(np.finfo(np.float64).max)


@dataclass
class Quantiles:
    """Quantiles of values ≥ 0 to 0.5 %, from counts in buckets that grow by 1 % each.

    A histogram on a fixed grid, the idea of DDSketch (Masson et al. 2019, https://arxiv.org/abs/1908.10693):
    it is deterministic, merges exactly in any order, and numpy counts a batch at once. `update` and `merge`
    mutate the state that they are called on and nothing else.
    """

    counts: dict[int, int] = field(default_factory=dict)
    max: float = 0.0

    def update(self, values: np.ndarray) -> None:
        """Adds values ≥ 0 of any shape; what is infinite or NaN counts as the largest number there is."""
        if values.size == 0:
            return
        values = np.fmin(values.ravel().astype(np.float64), _LARGEST)
        self.max = max(self.max, float(values.max()))
        positive = values[values > 0]
        found = []
        if positive.size < values.size:
            found.append((_ZERO, values.size - positive.size))
        if positive.size:
            index = np.floor(np.log(positive) / _LOG_GROWTH).astype(np.int64)
            least = int(index.min())
            counts = np.bincount(index - least)
            held = np.flatnonzero(counts)
            found += zip((held + least).tolist(), counts[held].tolist(), strict=True)
        for bucket, count in found:
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def merge(self, other: Quantiles) -> None:
        """Adds another's counts."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.max = max(self.max, other.max)

    def quantile(self, share: float) -> float | None:
        """The smallest value that at least this share of the values does not exceed; None of no values."""
        if not self.counts:
            return None
        buckets = sorted(self.counts)
        seen = np.cumsum([self.counts[bucket] for bucket in buckets])
        # 0.07 · 100 is a little more than 7.
        at = int(np.searchsorted(seen, share * seen[-1] * (1 - 1e-12)))
        bucket = buckets[min(at, len(buckets) - 1)]
        if bucket == _ZERO:
            return 0.0
        exponent = (bucket + 0.5) * _LOG_GROWTH
        return self.max if exponent > np.log(self.max) else float(np.exp(exponent))


def spread_of(scores: np.ndarray) -> np.ndarray:
    """Population standard deviation of scores `[R, T]` by target, `[T]`; of the finite rows."""
    finite = scores[np.isfinite(scores).all(axis=1)]
    return finite.std(axis=0, dtype=np.float64) if len(finite) else np.zeros(scores.shape[1])


def distance_of(scores: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Root mean square of prediction − base_value by target, `[T]`.

    Args:
      scores: Of rows that stand for the input, `[B, T]`; those that are not finite count not.
      background: Of the baseline, `[R, T]`.
    """
    finite = scores[np.isfinite(scores).all(axis=1)].astype(np.float64)
    if not len(finite):
        return np.zeros(scores.shape[1])
    away: np.ndarray = finite - background.mean(axis=0, dtype=np.float64)
    found: np.ndarray = np.sqrt((away**2).mean(axis=0))
    return found


def yardsticks(spread: np.ndarray, away: np.ndarray, background_rows: int) -> np.ndarray:
    """What a convergence delta is measured by, `[T]`.

    The spread of the score. Scores that are alike have none, however far they are from what they are compared
    with: where that is one row, or rows that all have one score, it is how far they are, if that is larger.

    Args:
      spread: Of the score, `[T]`.
      away: Root mean square of prediction − base_value, `[T]`, over the rows that stand for the input.
      background_rows: Of the baseline.
    """
    found: np.ndarray = (
        np.maximum(spread, away) if background_rows == 1 else np.where(spread > 0, spread, away)
    )
    return found


@dataclass
class Quality:
    """What a run says of itself: deltas, as they are and over a yardstick, and rows cut short.

    Args:
      delta: |convergence_delta|.
      relative: The same over the yardstick of its target; where that is 0, nothing is measured.
      limited: Rows that a limit of the method kept above its tolerance.
    """

    delta: Quantiles = field(default_factory=Quantiles)
    relative: Quantiles = field(default_factory=Quantiles)
    limited: int = 0

    def update(self, delta: np.ndarray | None, yardstick: np.ndarray, limited: np.ndarray) -> None:
        """Adds a batch: deltas and their yardsticks `[B, T]`, see `yardsticks`; rows cut short `[B]`."""
        self.limited += int(limited.sum())
        if delta is None:
            return
        size = np.abs(delta.astype(np.float64))
        self.delta.update(size)
        known = yardstick > 0
        with np.errstate(over="ignore"):
            self.relative.update(size[known] / yardstick[known])

    def merge(self, other: Quality) -> None:
        """Adds another's."""
        self.delta.merge(other.delta)
        self.relative.merge(other.relative)
        self.limited += other.limited

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
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
        """p50, p99, max and relative_p99 of |convergence_delta|; None where the method promises no sum."""
        if not self.delta.counts:
            return None
        return {
            "p50": self.delta.quantile(0.5),
            "p99": self.delta.quantile(0.99),
            "max": self.delta.max,
            # A yardstick of 0 trips no limit.
            "relative_p99": self.relative.quantile(0.99) if self.relative.counts else 0.0,
        }
