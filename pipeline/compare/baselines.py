"""Differences between the baselines of two runs: the features whose values moved, and how far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.run_directory.baseline_summary import described_values, values_of_codes
from pipeline.run_directory.kept_baseline import categories_of, kept_baseline

if TYPE_CHECKING:
    from pipeline.results.run import Run

#: Smallest move of a mean that counts, as a part of the feature's spread, or else of the mean itself.
_LEAST = 0.1
#: Smallest move of a mean that counts, in standard errors of the difference of two samples.
_CHANCE = 3.0
#: Kinds of baselines that are made from the run's own input.
_DRAWN = ("mean", "median", "mode", "sample")


@dataclass(frozen=True)
class MovedBaseline:
    """A feature whose baseline differs between the runs.

    Args:
      feature: Its name in the tables.
      label: Its name in words.
      before: The first run's baseline, in words.
      after: The second run's baseline, in words.
      size: The move of the mean in units of the feature's spread, or the share of categories that changed;
        NaN where it cannot be measured.
    """

    feature: str
    label: str
    before: str
    after: str
    size: float


def follows_data(manifest: Mapping[str, Any]) -> bool:
    """True if a run's baseline was made from its own input, and moves with it."""
    return manifest["baseline"]["kind"] in _DRAWN


def moved_baselines(
    first: Run, second: Run, spreads: Mapping[str, float], labels: Mapping[str, str]
) -> tuple[MovedBaseline, ...]:
    """Finds features whose baselines differ by more than chance, largest move first.

    The result is empty if a run keeps no baseline, or if both runs have the same one.

    Args:
      first: The reference run.
      second: The run that is compared with it.
      spreads: Standard deviations of features in the first run, as far as they are known.
      labels: Names of features in words.
    """
    if first.manifest["baseline"]["digest"] == second.manifest["baseline"]["digest"]:
        return ()
    before, after = (_values(run) for run in (first, second))
    shared = {name: values for name, values in before.items() if name in after}
    rows = [
        run.manifest["counts"]["rows_read"] if follows_data(run.manifest) else 0 for run in (first, second)
    ]
    # The standard error of the difference of two means or medians, in spreads. A median's variance is π/2
    # times that of a mean; 1.6 rounds that up.
    chance = float(np.sqrt(sum(1.6 / count for count in rows if count)))
    moved = list(_moved(shared, after, spreads, chance, labels))
    return tuple(sorted(moved, key=lambda each: -np.nan_to_num(each.size, nan=0.0)))


def _values(run: Run) -> dict[str, np.ndarray]:
    """The rows of a run's baseline by feature, with codes turned into categories."""
    known = categories_of(run.manifest) if run.manifest.get("schema") else {}
    kept = kept_baseline(run.path) or {}
    return {name: values_of_codes(v, known[name]) if name in known else v for name, v in kept.items()}


def _moved(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    spreads: Mapping[str, float],
    chance: float,
    labels: Mapping[str, str],
) -> Iterator[MovedBaseline]:
    for name, values in before.items():
        others = after[name]
        if (values.dtype == object) != (others.dtype == object):
            continue  # the feature's type differs, which the comparison of features reports
        size = (
            _changed(values, others)
            if values.dtype == object
            else _moved_by(values.astype(np.float64), others.astype(np.float64), spreads.get(name), chance)
        )
        if size:
            texts = [described_values({name: each})[0]["text"] for each in (values, others)]
            yield MovedBaseline(name, labels.get(name, name), texts[0], texts[1], size)


def _moved_by(before: np.ndarray, after: np.ndarray, spread: float | None, chance: float) -> float:
    """Measures the move of a mean in spreads; 0 where it is negligible or may be chance.

    The move of a tensor is the largest move of its values.

    Args:
      before: Rows of the first run's baseline, `[R, *shape]`.
      after: Rows of the second run's baseline.
      spread: The feature's standard deviation; None where it is not known.
      chance: Standard error of the difference of two baselines of one row each, in spreads.
    """
    if before.shape[1:] != after.shape[1:]:
        return float("nan")
    sides = [values.reshape(len(values), -1) for values in (before, after)]
    known = [~np.isnan(side) for side in sides]
    rows = [mask.sum(axis=0) for mask in known]
    both = (rows[0] > 0) & (rows[1] > 0)
    if not both.all() and ((rows[0] > 0) != (rows[1] > 0)).any():
        return float("nan")  # missing in only one of the two
    sides = [side[:, both] for side in sides]
    means = [np.nanmean(side, axis=0) for side in sides]
    deviations = [np.nanstd(side, axis=0) for side in sides]
    way = np.abs(means[1] - means[0])
    errors = [each / np.sqrt(count[both]) for each, count in zip(deviations, rows, strict=True)]
    error = np.hypot(*errors) if max(map(len, sides)) > 1 else chance * (spread or 0.0)
    scale = np.full(len(way), spread) if spread else np.maximum(*deviations)
    # Two single rows of a feature without a known spread: compare the move with the means themselves.
    least = np.where(scale > 0, _LEAST * scale, _LEAST * np.maximum(*map(np.abs, means)))
    clear = way > np.maximum(least, _CHANCE * error)
    if not clear.any():
        return 0.0
    measured = clear & (scale > 0)
    return float((way[measured] / scale[measured]).max()) if measured.any() else float("nan")


def _changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of rows whose category changed; 0 where that may be chance."""
    shares: list[dict[Any, float]] = []
    for values in (before, after):
        share: dict[Any, float] = {}
        for item in values.reshape(-1).tolist():
            share[item] = share.get(item, 0.0) + 1 / values.size
        shares.append(share)
    either = {*shares[0], *shares[1]}
    gaps = [abs(shares[0].get(item, 0.0) - shares[1].get(item, 0.0)) for item in either]
    rows = min(before.size, after.size)
    chance = 0.0 if rows == 1 else _CHANCE * np.sqrt(0.5 / rows)
    return sum(gaps) / 2 if max(gaps, default=0.0) > chance else 0.0
