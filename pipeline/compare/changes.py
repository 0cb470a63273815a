"""Changes of importance: each (slice, target, feature) of two tables side by side, with significance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from transforms.errors import UserError
from transforms.statistics.intervals import HALF_WIDTH
from transforms.statistics.multiple_testing import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

#: The largest share of false findings among those called significant.
LEVEL = 0.05
#: Share of the total mean |φ| below which φ, or its change, is within single precision's rounding.
_ROUNDING = 1e-6
_KEYS = ["slice", "target_name", "feature"]
_QUANTILES = ("p05", "p25", "p50", "p75", "p95")
#: The share of rows that each quantile represents: up to halfway to its neighbours, or to 0 and 1.
_WEIGHTS = (0.15, 0.225, 0.25, 0.225, 0.15)
_VALUES = (
    *("rows", "mean_abs", "mean_abs_low", "mean_abs_high", "share", "rank", "rank_low", "rank_high"),
    *("mean", "std", "positive", *_QUANTILES),
)


def targets_of(frame: pd.DataFrame) -> dict[str, int]:
    """Indexes of targets by name, in the table's order."""
    rows = frame.drop_duplicates("target_name")
    return dict(zip(rows["target_name"].tolist(), rows["target"].tolist(), strict=True))


def matched_targets(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, str]:
    """Matches targets of two runs: the second run's names by the first's.

    Targets match by name. If the runs share no name and have equally many targets, targets match by
    position: a library may give an output a new name each time it builds a model.
    """
    before, after = targets_of(first), targets_of(second)
    shared = {name: name for name in before if name in after}
    if shared or len(before) != len(after):
        return shared
    by_index = sorted(after, key=after.__getitem__)
    return dict(zip(sorted(before, key=before.__getitem__), by_index, strict=True))


def changes(
    first: pd.DataFrame,
    second: pd.DataFrame,
    targets: Mapping[str, str],
    comparable: Mapping[str, bool],
    labels: Mapping[str, str],
) -> pd.DataFrame:
    """Compares every (slice, target, feature) that is in one of the tables, largest change first.

    Columns that end in `_a` are the first run's, those in `_b` the second's. The others:
      status: "both", "new" or "gone".
      change, low, high: Change of mean |φ| with its 95 % interval. The interval assumes that the runs have
        different rows; if the rows are the same, the change is more certain. NaN where the units of φ differ.
      share_change, rank_change: Changes of share and rank.
      size: |change| over the total mean |φ|, averaged over the runs; where units differ, |share_change|.
      p, q: The p-value of no change, and its correction by Benjamini and Hochberg, for all rows and for
        slices separately; NaN where φ varies in neither run, so that no error is known.
      significant: q ≤ 0.05; where units differ, the intervals of the rank do not overlap.
      flip: Mean φ clearly differs from 0 in both runs, with opposite signs.
      shift: Wasserstein distance of the two distributions of φ, from five quantiles, over the mean |φ|,
        averaged over the runs.

    Args:
      first: Importance of the first run.
      second: Importance of the second run.
      targets: Targets to compare; see `matched_targets`.
      comparable: Whether the units of φ are the same, by the first run's targets.
      labels: Names of features in words; the column `label` has them, or else the name in the tables.
    Raises:
      UserError: A table lacks columns.
    """
    before = _prepared(first, {name: name for name in targets})
    after = _prepared(second, {theirs: ours for ours, theirs in targets.items()})
    # A slice that only one run has cannot show changes of its features.
    common = set(before["slice"]) & set(after["slice"])
    tables = [table[table["slice"].isin(common)] for table in (before, after)]
    merged = tables[0].merge(tables[1], on=_KEYS, how="outer", suffixes=("_a", "_b"), indicator="status")
    merged["status"] = (
        merged["status"].astype(str).map({"both": "both", "left_only": "gone", "right_only": "new"})
    )
    merged["label"] = [labels.get(name, name) for name in merged["feature"]]
    same = merged["target_name"].map(dict(comparable)).to_numpy(bool)
    _difference(merged, same)
    _significance(merged, same)
    merged["flip"] = _flips(merged)
    merged["shift"] = _shift(merged, same)
    order = np.lexsort((-merged["size"].to_numpy(), ~merged["significant"].to_numpy()))
    return merged.iloc[order].reset_index(drop=True)


def _prepared(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    missing = [name for name in _VALUES if name not in frame]
    if missing:
        raise UserError(
            f"has no column {missing[0]}", "importance.parquet", "explain again with this version"
        )
    frame = frame[frame["target_name"].isin(names)]
    frame = frame.assign(target_name=frame["target_name"].map(names))
    total = frame.groupby(["slice", "target_name"], sort=False)["mean_abs"].transform("sum")
    return frame[[*_KEYS, *_VALUES]].assign(total=total)


def _difference(merged: pd.DataFrame, same: np.ndarray) -> None:
    # A feature that a run does not have has φ = 0 there.
    here = {
        name: merged[name].fillna(0.0).to_numpy()
        for name in ("mean_abs_a", "mean_abs_b", "share_a", "share_b")
    }
    by_group = merged.groupby(["slice", "target_name"], sort=False)
    totals = [by_group[name].transform("max").to_numpy() for name in ("total_a", "total_b")]
    change = here["mean_abs_b"] - here["mean_abs_a"]
    error = np.hypot(*(_error(merged, side) for side in "ab"))
    whole = np.nanmean(np.stack(totals), axis=0)
    size = np.abs(change) / np.where(whole > 0, whole, 1.0)
    merged["change"] = np.where(same, change, np.nan)
    merged["low"] = np.where(same, change - HALF_WIDTH * error, np.nan)
    merged["high"] = np.where(same, change + HALF_WIDTH * error, np.nan)
    merged["share_change"] = here["share_b"] - here["share_a"]
    merged["rank_change"] = merged["rank_b"] - merged["rank_a"]
    merged["size"] = np.where(same, size, merged["share_change"].abs())
    chance = _chance(np.where(size > _ROUNDING, change, 0.0), error)
    merged["p"] = np.where(same & (_varies(merged) | (size <= _ROUNDING)), chance, np.nan)


def _varies(merged: pd.DataFrame) -> np.ndarray:
    """Marks rows of the table where φ varies, in either run, by more than rounding.

    If all rows of a slice have one value, φ is one number without an error, and its slightest change, due to
    a moved baseline, would look certain.
    """
    sides = [
        (merged[f"std_{side}"] > _ROUNDING * merged[f"total_{side}"]).to_numpy() for side in "ab"
    ]  # NaN > 0 is False: a feature that the run does not have does not vary
    varies: np.ndarray = sides[0] | sides[1]
    return varies


def _error(merged: pd.DataFrame, side: str) -> np.ndarray:
    """Standard error of mean |φ|: NaN for a single row, 0 for a feature that the run does not have."""
    width = (merged[f"mean_abs_high_{side}"] - merged[f"mean_abs_low_{side}"]).to_numpy() / (2 * HALF_WIDTH)
    rows = merged[f"rows_{side}"].to_numpy()
    return np.where(np.isnan(rows), 0.0, np.where(rows > 1, width, np.nan))


def _chance(change: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Two-sided p-values of changes with their standard errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(change == 0, np.where(np.isnan(error), np.nan, 0.0), np.abs(change) / error)
    return np.array([math.erfc(value / math.sqrt(2)) for value in z.tolist()])


def _significance(merged: pd.DataFrame, same: np.ndarray) -> None:
    q = np.full(len(merged), np.nan)
    whole = (merged["slice"] == "").to_numpy()
    for family in (whole, ~whole):
        at = np.flatnonzero(family & merged["p"].notna().to_numpy())
        q[at] = benjamini_hochberg(merged["p"].to_numpy()[at])
    merged["q"] = q
    apart = (merged["rank_low_a"] > merged["rank_high_b"]) | (merged["rank_low_b"] > merged["rank_high_a"])
    merged["significant"] = np.where(same, q <= LEVEL, apart.to_numpy())


def _flips(merged: pd.DataFrame) -> np.ndarray:
    clear = _varies(merged)
    for side in "ab":
        rows, std = merged[f"rows_{side}"].to_numpy(), merged[f"std_{side}"].to_numpy()
        mean = merged[f"mean_{side}"].to_numpy()
        clear &= np.abs(mean) > _ROUNDING * merged[f"total_{side}"].to_numpy()
        clear &= (rows > 1) & (np.abs(mean) > HALF_WIDTH * std / np.sqrt(np.where(rows > 1, rows, 1.0)))
    return clear & (np.sign(merged["mean_a"]) * np.sign(merged["mean_b"]) < 0).to_numpy()


def _shift(merged: pd.DataFrame, same: np.ndarray) -> np.ndarray:
    distance = sum(
        weight * (merged[f"{name}_b"] - merged[f"{name}_a"]).abs()
        for name, weight in zip(_QUANTILES, _WEIGHTS, strict=True)
    )
    scale = (merged["mean_abs_a"] + merged["mean_abs_b"]).to_numpy() / 2
    total = (merged["total_a"] + merged["total_b"]).to_numpy() / 2
    known = same & (scale > _ROUNDING * total)
    moved = np.where(known, distance / np.where(known, scale, 1.0), np.nan)
    return np.where(scale <= _ROUNDING * total, 0.0, moved)


def of_slices(merged: pd.DataFrame) -> pd.DataFrame:
    """Summarises `changes` by (slice, target), one row each, significant and large changes first.

    `moved` is the share of importance that moved between features: half the sum of |share change|.
    `feature` is the one that changed most, with its `size`, `change` and `significant`.
    """
    parts = merged[merged["slice"] != ""]
    # `changes` is sorted, so that a slice's first row is its largest change.
    best = parts.drop_duplicates(["slice", "target_name"])
    keys = ["slice", "target_name"]
    moved = parts.groupby(keys, sort=False)["share_change"].agg(lambda change: change.abs().sum() / 2)
    best = best.merge(moved.rename("moved").reset_index(), on=keys)
    columns = [
        *keys,
        "rows_a",
        "rows_b",
        "moved",
        "feature",
        "label",
        "share_a",
        "share_b",
        "change",
        "size",
        "significant",
    ]
    return best[columns].reset_index(drop=True)
