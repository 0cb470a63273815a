"""How importance changed: each (slice, target, feature) of two tables side by side, with significance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from transforms.aggregates.importance.differences import benjamini_hochberg
from transforms.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

#: Half the width of a 95 % interval in standard errors.
_WIDTH = 1.959964
#: The largest share of false findings among those called significant.
LEVEL = 0.05
#: What single precision makes of a φ of 0, as a share of the total mean |φ|: no change is smaller.
_ROUNDING = 1e-6
_KEYS = ["slice", "target_name", "feature"]
_QUANTILES = ("p05", "p25", "p50", "p75", "p95")
#: What each of them stands for: half the way to its neighbours, the ends to 0 and 1.
_WEIGHTS = (0.15, 0.225, 0.25, 0.225, 0.15)
_VALUES = (
    *("rows", "mean_abs", "mean_abs_low", "mean_abs_high", "share", "rank", "rank_low", "rank_high"),
    *("mean", "std", "positive", *_QUANTILES),
)


def targets_of(frame: pd.DataFrame) -> dict[str, int]:
    """Index of each target by name, in the table's order."""
    rows = frame.drop_duplicates("target_name")
    return dict(zip(rows["target_name"].tolist(), rows["target"].tolist(), strict=True))


def matched_targets(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, str]:
    """Names of the second run's targets by those of the first that they are compared with.

    By name; where none is in both and they are as many, one after the other: a library may name an output
    anew each time that it builds a model.
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
    """Every (slice, target, feature) that is in one of the tables, largest change first.

    Columns that end in `_a` are the first run's and in `_b` the second's. The others:
      status: "both", "new" or "gone".
      change, low, high: Of mean |φ| with its 95 % interval, from the intervals of the two as if the runs were
        of different rows: of the same rows, a change is surer than it says. NaN where the units of φ differ.
      share_change, rank_change: Of share and rank.
      size: |change| over the total mean |φ|, the mean of the two; where units differ, |share_change|.
      p, q: p of no change, and after Benjamini and Hochberg, all rows and slices apart; NaN where nothing
        varies, in either run, that a change could be measured by.
      significant: q ≤ 0.05; where units differ, the intervals of the rank do not meet.
      flip: Mean φ is clearly not 0 in either run and has another sign.
      shift: Mean distance of the two quantile functions of φ, from five quantiles, over the mean |φ| of the
        two (Wasserstein's).

    Args:
      first: Importance of the first run.
      second: Of the second.
      targets: Those to compare; see `matched_targets`.
      comparable: Whether the units of φ are the same, by the first run's targets.
      labels: What features are called in words, by name; the column `label` has them, or else the name.
    Raises:
      UserError: A table lacks columns.
    """
    before = _prepared(first, {name: name for name in targets})
    after = _prepared(second, {theirs: ours for ours, theirs in targets.items()})
    # A slice that is in one run alone says nothing of its features.
    common = set(before["slice"]) & set(after["slice"])
    tables = [table[table["slice"].isin(common)] for table in (before, after)]
    found = tables[0].merge(tables[1], on=_KEYS, how="outer", suffixes=("_a", "_b"), indicator="status")
    found["status"] = (
        found["status"].astype(str).map({"both": "both", "left_only": "gone", "right_only": "new"})
    )
    found["label"] = [labels.get(name, name) for name in found["feature"]]
    same = found["target_name"].map(dict(comparable)).to_numpy(bool)
    _difference(found, same)
    _significance(found, same)
    found["flip"] = _flips(found)
    found["shift"] = _shift(found, same)
    order = np.lexsort((-found["size"].to_numpy(), ~found["significant"].to_numpy()))
    return found.iloc[order].reset_index(drop=True)


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


def _difference(found: pd.DataFrame, same: np.ndarray) -> None:
    # A feature that is not there moves the score by nothing.
    here = {
        name: found[name].fillna(0.0).to_numpy()
        for name in ("mean_abs_a", "mean_abs_b", "share_a", "share_b")
    }
    by_group = found.groupby(["slice", "target_name"], sort=False)
    totals = [by_group[name].transform("max").to_numpy() for name in ("total_a", "total_b")]
    change = here["mean_abs_b"] - here["mean_abs_a"]
    error = np.hypot(*(_error(found, side) for side in "ab"))
    whole = np.nanmean(np.stack(totals), axis=0)
    size = np.abs(change) / np.where(whole > 0, whole, 1.0)
    found["change"] = np.where(same, change, np.nan)
    found["low"] = np.where(same, change - _WIDTH * error, np.nan)
    found["high"] = np.where(same, change + _WIDTH * error, np.nan)
    found["share_change"] = here["share_b"] - here["share_a"]
    found["rank_change"] = found["rank_b"] - found["rank_a"]
    found["size"] = np.where(same, size, found["share_change"].abs())
    chance = _chance(np.where(size > _ROUNDING, change, 0.0), error)
    found["p"] = np.where(same & (_varies(found) | (size <= _ROUNDING)), chance, np.nan)


def _varies(found: pd.DataFrame) -> np.ndarray:
    """Whether φ varies over the rows of either run by more than rounding.

    Where all rows of a slice hold one value, φ is one number, and the least move of the baseline moves it:
    a change with no error would pass for certain.
    """
    sides = [
        (found[f"std_{side}"] > _ROUNDING * found[f"total_{side}"]).to_numpy() for side in "ab"
    ]  # of a feature that is not there NaN, which is not larger
    varies: np.ndarray = sides[0] | sides[1]
    return varies


def _error(found: pd.DataFrame, side: str) -> np.ndarray:
    """Standard error of mean |φ|; unknown of a single row, 0 of a feature that is not there."""
    width = (found[f"mean_abs_high_{side}"] - found[f"mean_abs_low_{side}"]).to_numpy() / (2 * _WIDTH)
    rows = found[f"rows_{side}"].to_numpy()
    return np.where(np.isnan(rows), 0.0, np.where(rows > 1, width, np.nan))


def _chance(change: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Two-sided p of a change with its standard error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(change == 0, np.where(np.isnan(error), np.nan, 0.0), np.abs(change) / error)
    return np.array([math.erfc(value / math.sqrt(2)) for value in z.tolist()])


def _significance(found: pd.DataFrame, same: np.ndarray) -> None:
    q = np.full(len(found), np.nan)
    whole = (found["slice"] == "").to_numpy()
    for family in (whole, ~whole):
        at = np.flatnonzero(family & found["p"].notna().to_numpy())
        q[at] = benjamini_hochberg(found["p"].to_numpy()[at])
    found["q"] = q
    apart = (found["rank_low_a"] > found["rank_high_b"]) | (found["rank_low_b"] > found["rank_high_a"])
    found["significant"] = np.where(same, q <= LEVEL, apart.to_numpy())


def _flips(found: pd.DataFrame) -> np.ndarray:
    clear = _varies(found)
    for side in "ab":
        rows, std = found[f"rows_{side}"].to_numpy(), found[f"std_{side}"].to_numpy()
        mean = found[f"mean_{side}"].to_numpy()
        clear &= np.abs(mean) > _ROUNDING * found[f"total_{side}"].to_numpy()
        clear &= (rows > 1) & (np.abs(mean) > _WIDTH * std / np.sqrt(np.where(rows > 1, rows, 1.0)))
    return clear & (np.sign(found["mean_a"]) * np.sign(found["mean_b"]) < 0).to_numpy()


def _shift(found: pd.DataFrame, same: np.ndarray) -> np.ndarray:
    distance = sum(
        weight * (found[f"{name}_b"] - found[f"{name}_a"]).abs()
        for name, weight in zip(_QUANTILES, _WEIGHTS, strict=True)
    )
    scale = (found["mean_abs_a"] + found["mean_abs_b"]).to_numpy() / 2
    total = (found["total_a"] + found["total_b"]).to_numpy() / 2
    known = same & (scale > _ROUNDING * total)
    moved = np.where(known, distance / np.where(known, scale, 1.0), np.nan)
    return np.where(scale <= _ROUNDING * total, 0.0, moved)


def of_slices(found: pd.DataFrame) -> pd.DataFrame:
    """A row a (slice, target) of `changes`, those with significant changes first and of these the largest.

    `moved` is the share of importance that went from some features to others: half the sum of |share change|.
    `feature` is the one that changed most, with its `size`, `change` and `significant`.
    """
    parts = found[found["slice"] != ""]
    # `changes` has the largest first, so that the first of a slice is its largest.
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
