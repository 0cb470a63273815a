"""How well the attributions of a run sum up: quantiles of |convergence_delta| as a state that merges exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: A bucket's bounds are this factor apart, so that a quantile is off by half a percent at most.
_GROWTH = 1.01
_LOG_GROWTH = float(np.log(_GROWTH))
_ZERO = -(10**9)


@dataclass
class Quantiles:
    """Quantiles of values ≥ 0 to 0.5 %, from counts in buckets that grow by 1 % each.

    A histogram on a fixed grid, the idea of DDSketch (Masson et al. 2019, https://arxiv.org/abs/1908.10693), because
    it is deterministic and merges exactly in any order, and numpy counts a batch at once.
    """

    counts: dict[int, int] = field(default_factory=dict)
    max: float = 0.0

    def update(self, values: np.ndarray) -> None:
        """Adds finite values ≥ 0 of any shape."""
        if values.size == 0:
            return
        values = values.ravel().astype(np.float64)
        with np.errstate(divide="ignore"):
            index = np.floor(np.log(values) / _LOG_GROWTH)
        buckets, counts = np.unique(np.where(values > 0, index, _ZERO), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self.counts[int(bucket)] = self.counts.get(int(bucket), 0) + count
        self.max = max(self.max, float(values.max()))

    def merge(self, other: Quantiles) -> None:
        """Adds another's counts."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.max = max(self.max, other.max)

    def quantile(self, share: float) -> float | None:
        """The smallest value that at least this share of the values does not exceed; None of no values."""
        total = sum(self.counts.values())
        if not total:
            return None
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= share * total:
                middle = float(np.exp((bucket + 0.5) * _LOG_GROWTH)) if bucket != _ZERO else 0.0
                return min(middle, self.max)
        return self.max


@dataclass
class Quality:
    """What a run says of itself: deltas, as they are and relative to the score's spread, and rows cut short.

    Args:
      delta: |convergence_delta|.
      relative: The same over the spread of its target's score; targets of spread 0 are left out.
      limited: Rows that a limit of the method kept above its tolerance.
    """

    delta: Quantiles = field(default_factory=Quantiles)
    relative: Quantiles = field(default_factory=Quantiles)
    limited: int = 0

    def update(self, delta: np.ndarray | None, spread: np.ndarray, limited: np.ndarray) -> None:
        """Adds a batch: deltas and their score's spread `[B, T]`, rows cut short `[B]`."""
        self.limited += int(limited.sum())
        if delta is None:
            return
        size = np.abs(delta.astype(np.float64))
        self.delta.update(size)
        varies = spread > 0
        self.relative.update(size[varies] / spread[varies])

    def merge(self, other: Quality) -> None:
        """Adds another's."""
        self.delta.merge(other.delta)
        self.relative.merge(other.relative)
        self.limited += other.limited

    def to_json(self) -> dict[str, object]:
        """For the journal."""
        return {
            "delta": {"counts": sorted(self.delta.counts.items()), "max": self.delta.max},
            "relative": {"counts": sorted(self.relative.counts.items()), "max": self.relative.max},
            "limited": self.limited,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Quality:
        """Undoes `to_json`."""

        def quantiles(key: str) -> Quantiles:
            part = data[key]
            assert isinstance(part, Mapping)  # noqa: S101 - for the type checker: this module wrote it
            return Quantiles({int(k): int(v) for k, v in part["counts"]}, float(part["max"]))

        return cls(quantiles("delta"), quantiles("relative"), int(str(data["limited"])))

    def summary(self) -> dict[str, float | None] | None:
        """p50, p99, max and relative_p99 of |convergence_delta|; None where the method promises no sum."""
        if not self.delta.counts:
            return None
        return {
            "p50": self.delta.quantile(0.5),
            "p99": self.delta.quantile(0.99),
            "max": self.delta.max,
            "relative_p99": self.relative.quantile(0.99) if self.relative.counts else 0.0,
        }
