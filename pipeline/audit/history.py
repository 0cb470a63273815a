"""Tonight's importance beside that of earlier nights, as arrays with one column for each series."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pipeline.audit.nights import Night
from transforms.statistics.intervals import HALF_WIDTH

#: Part of the total mean |φ| that is added before logarithms, so that φ near 0 have no wild logarithms.
SMALL = 1e-3
#: Columns of the importance whose history is needed.
_COLUMNS = ("rows", "mean_abs", "mean_abs_low", "mean_abs_high", "mean", "std", "share")


@dataclass(frozen=True)
class History:
    """The importance of tonight's (slice, target, feature) on earlier nights and tonight.

    Arrays are `[N + 1, K]`, oldest first and tonight last; NaN where a night lacks a series.

    Args:
      nights: The earlier nights, oldest first, `N`.
      tonight: The audited night.
      keys: The series: slice, target_name, feature, of tonight and of the latest earlier night, `K`.
      columns: The columns of the importance by name.
      small: What is added to mean |φ| before logarithms, `[K]`.
    """

    nights: Sequence[Night]
    tonight: Night
    keys: pd.Index[Any]
    columns: dict[str, np.ndarray]
    small: np.ndarray

    @classmethod
    def of(cls, nights: Sequence[Night], tonight: Night) -> History:
        """Aligns the nights' importance.

        Cost: reads the importance of each night; O(N · K) memory.
        """
        keys = tonight.importance.index
        if nights:
            keys = keys.union(nights[-1].importance.index, sort=False)
        tables = [night.importance.reindex(keys) for night in (*nights, tonight)]
        columns = {
            name: np.stack([table[name].to_numpy(np.float64) for table in tables]) for name in _COLUMNS
        }
        return cls(nights, tonight, keys, columns, _small(keys, columns["mean_abs"]))

    @property
    def weekdays(self) -> np.ndarray:
        """The day of the week of each night and of tonight, Monday 0, `[N + 1]`."""
        return np.array([night.date.weekday() for night in (*self.nights, self.tonight)])

    @property
    def targets(self) -> dict[str, int]:
        """The indexes of targets by name."""
        frame = self.tonight.importance.reset_index().drop_duplicates("target_name")
        return dict(zip(frame["target_name"].tolist(), frame["target"].tolist(), strict=True))

    @property
    def log_mean_abs(self) -> np.ndarray:
        """The logarithm of mean |φ|."""
        made: np.ndarray = np.log(self.columns["mean_abs"] + self.small)
        return made

    @property
    def log_mean_abs_error(self) -> np.ndarray:
        """The sampling error of the logarithm of mean |φ| tonight, `[K]`."""
        width = (self.columns["mean_abs_high"][-1] - self.columns["mean_abs_low"][-1]) / (2 * HALF_WIDTH)
        made: np.ndarray = width / (self.columns["mean_abs"][-1] + self.small)
        return made

    @cached_property
    def usual(self) -> np.ndarray:
        """The median of mean |φ| over the earlier nights, `[K]`: the unit of changes of mean φ."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a series without history
            median: np.ndarray = np.nanmedian(self.columns["mean_abs"][:-1], axis=0)
        return median + self.small

    @property
    def scaled_mean(self) -> np.ndarray:
        """Mean φ in units of its usual size, as an inverse hyperbolic sine, which tames rare large values."""
        made: np.ndarray = np.arcsinh(self.columns["mean"] / self.usual)
        return made

    @property
    def scaled_mean_error(self) -> np.ndarray:
        """The sampling error of the scaled mean tonight, `[K]`."""
        made: np.ndarray = (
            self.columns["std"][-1] / np.sqrt(np.maximum(self.columns["rows"][-1], 1.0)) / self.usual
        )
        return made

    @property
    def log_share(self) -> np.ndarray:
        """The logarithm of the share of the total mean |φ|."""
        made: np.ndarray = np.log(self.columns["share"] + SMALL)
        return made

    @property
    def one_value_a_night(self) -> np.ndarray:
        """Marks series whose φ is one value in nearly every night, `[K]`: the month, the day of the week.

        Such a value changes between nights by its nature, and never within one.
        """
        std = self.columns["std"][:-1]
        constant = np.where(np.isfinite(std), std <= 1e-3 * self.small, False).sum(axis=0)
        made: np.ndarray = constant > 0.5 * np.maximum(np.isfinite(std).sum(axis=0), 1)
        return made


def _small(keys: pd.Index[Any], mean_abs: np.ndarray) -> np.ndarray:
    """A thousandth of the total mean |φ| of all rows for the same target, averaged over the nights."""
    frame = pd.DataFrame({"slice": keys.get_level_values(0), "target": keys.get_level_values(1)})
    frame["mean_abs"] = np.nan_to_num(mean_abs).sum(axis=0) / np.maximum(np.isfinite(mean_abs).sum(axis=0), 1)
    whole = frame[frame["slice"] == ""].groupby("target")["mean_abs"].sum()
    small: np.ndarray = frame["target"].map(whole).fillna(0.0).to_numpy() * SMALL
    return np.maximum(small, np.finfo(np.float32).tiny)
