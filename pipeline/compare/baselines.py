"""Where the baselines of two runs differ: which features' values moved, from what to what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.run_directory.baseline_summary import described_values, in_words
from pipeline.run_directory.kept_baseline import categories_of, kept_baseline

if TYPE_CHECKING:
    from pipeline.results.run import Run

#: A mean that moves by less than this part of the feature's spread, or of itself, has not moved.
_LEAST = 0.1
#: Standard errors of two draws' difference below which a move is one of chance.
_CHANCE = 3.0
#: Kinds that are made of the run's own input.
_DRAWN = ("mean", "median", "mode", "sample")


@dataclass(frozen=True)
class MovedBaseline:
    """A feature whose baseline is another in the second run.

    Args:
      feature: Its name.
      label: What it is called.
      before: What the first run's baseline holds, in words.
      after: What the second's does.
      size: How far its mean moved, in the feature's spread; of categories the share that changed; NaN where
        that cannot be said.
    """

    feature: str
    label: str
    before: str
    after: str
    size: float


def follows_data(manifest: Mapping[str, Any]) -> bool:
    """Whether a run's baseline was made of its own input, and moves with it."""
    return manifest["baseline"]["kind"] in _DRAWN


def moved_baselines(
    first: Run, second: Run, spreads: Mapping[str, float], labels: Mapping[str, str]
) -> tuple[MovedBaseline, ...]:
    """The features of both runs whose baselines differ by more than chance, largest move first.

    Args:
      first: A run.
      second: Another; empty where either keeps no baseline, or both have the same.
      spreads: Standard deviations of features in the first run, as far as they are known.
      labels: What features are called.
    """
    if first.manifest["baseline"]["digest"] == second.manifest["baseline"]["digest"]:
        return ()
    before, after = (_values(run) for run in (first, second))
    shared = {name: values for name, values in before.items() if name in after}
    rows = [
        run.manifest["counts"]["rows_read"] if follows_data(run.manifest) else 0 for run in (first, second)
    ]
    # Of the mean of so many rows, and near enough of their median.
    chance = float(np.sqrt(sum(1.6 / of for of in rows if of)))
    found = list(_moved(shared, after, spreads, chance, labels))
    return tuple(sorted(found, key=lambda each: -np.nan_to_num(each.size, nan=0.0)))


def _values(run: Run) -> dict[str, np.ndarray]:
    """The rows of a run's baseline, codes as the categories that they stand for."""
    known = categories_of(run.manifest) if run.manifest.get("schema") else {}
    kept = kept_baseline(run.path) or {}
    return {name: in_words(v, known[name]) if name in known else v for name, v in kept.items()}


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
            continue  # another kind of feature: the features themselves are told to differ
        size = (
            _changed(values, others)
            if values.dtype == object
            else _moved_by(values.astype(np.float64), others.astype(np.float64), spreads.get(name), chance)
        )
        if size:
            texts = [described_values({name: each})[0]["text"] for each in (values, others)]
            yield MovedBaseline(name, labels.get(name, name), texts[0], texts[1], size)


def _moved_by(before: np.ndarray, after: np.ndarray, spread: float | None, chance: float) -> float:
    """How far the mean moved, in spreads; 0 where that is next to nothing, or chance.

    A tensor has moved as far as the value that moved most.

    Args:
      before: Rows of the first run's baseline, `[R, *shape]`.
      after: Of the second's.
      spread: Of the feature; None where it is not known.
      chance: Standard error of the difference of two single rows that are statistics, in spreads.
    """
    if before.shape[1:] != after.shape[1:]:
        return float("nan")
    sides = [values.reshape(len(values), -1) for values in (before, after)]
    known = [~np.isnan(side) for side in sides]
    rows = [of.sum(axis=0) for of in known]
    both = (rows[0] > 0) & (rows[1] > 0)
    if not both.all() and ((rows[0] > 0) != (rows[1] > 0)).any():
        return float("nan")  # missing in one of the two alone
    sides = [side[:, both] for side in sides]
    means = [np.nanmean(side, axis=0) for side in sides]
    deviations = [np.nanstd(side, axis=0) for side in sides]
    way = np.abs(means[1] - means[0])
    errors = [each / np.sqrt(of[both]) for each, of in zip(deviations, rows, strict=True)]
    error = np.hypot(*errors) if max(map(len, sides)) > 1 else chance * (spread or 0.0)
    scale = np.full(len(way), spread) if spread else np.maximum(*deviations)
    # Of one row each, of a feature that nothing is known of, only whether it is much the same can be said.
    least = np.where(scale > 0, _LEAST * scale, _LEAST * np.maximum(*map(np.abs, means)))
    clear = way > np.maximum(least, _CHANCE * error)
    if not clear.any():
        return 0.0
    measured = clear & (scale > 0)
    return float((way[measured] / scale[measured]).max()) if measured.any() else float("nan")


def _changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of rows that hold another category; 0 where that may be chance."""
    shares: list[dict[Any, float]] = []
    for values in (before, after):
        found: dict[Any, float] = {}
        for item in values.reshape(-1).tolist():
            found[item] = found.get(item, 0.0) + 1 / values.size
        shares.append(found)
    either = {*shares[0], *shares[1]}
    gaps = [abs(shares[0].get(item, 0.0) - shares[1].get(item, 0.0)) for item in either]
    rows = min(before.size, after.size)
    chance = 0.0 if rows == 1 else _CHANCE * np.sqrt(0.5 / rows)
    return sum(gaps) / 2 if max(gaps, default=0.0) > chance else 0.0
