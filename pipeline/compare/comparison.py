"""A comparison of two runs: how they were made, and how their results changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.compare.baselines import MovedBaseline, follows_data, moved_baselines
from pipeline.compare.changes import changes, matched_targets, of_slices, targets_of
from pipeline.compare.setting import Setting
from pipeline.results.summaries import rejected_by_reason, score_kinds
from transforms.arrow.types import is_number
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import SAMPLE
from transforms.storage import files

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.results.run import Run


@dataclass(frozen=True)
class Side:
    """One of the runs.

    Args:
      path: The run directory.
      name: The config's name.
      created: The time of its commit.
      rows: The number of explained rows.
      rejected: The number of rejected rows.
      reasons: Rejected rows by reason, most frequent first.
      relative_p99: The 99th percentile of |convergence delta| over the score's spread; None if the method
        promises no sum.
      exceeded: Limits that were exceeded, in words.
    """

    path: str
    name: str | None
    created: str
    rows: int
    rejected: int
    reasons: Mapping[str, int]
    relative_p99: float | None
    exceeded: tuple[str, ...]

    @classmethod
    def of(cls, run: Run) -> Side:
        """Summarises a run."""
        counts, quality = run.manifest["counts"], run.manifest["quality"]
        delta = quality["convergence_delta"]
        return cls(
            path=run.path,
            name=run.manifest["name"],
            created=run.manifest["created"],
            rows=counts["rows_attributed"],
            rejected=counts["rows_rejected"],
            reasons=rejected_by_reason(run),
            relative_p99=None if delta is None else delta["relative_p99"],
            exceeded=tuple(quality["exceeded"]),
        )


@dataclass(frozen=True)
class Predictions:
    """Scores of a target in both runs, from the sample of rows that each run keeps, or else from all rows.

    Args:
      target: The first run's name of the target.
      rows: Rows examined in each run.
      mean: Mean score in each run.
      error: Standard errors of these means.
      base: Mean base value in each run.
    """

    target: str
    rows: tuple[int, int]
    mean: tuple[float, float]
    error: tuple[float, float]
    base: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """The changes from one run to another.

    Args:
      first: The reference, usually the earlier run.
      second: The run that is compared with it.
      setting: Differences in how the runs were made.
      targets: The targets that are compared: the second run's names by the first's.
      only_first: Targets that only the first run has.
      only_second: Targets that only the second run has.
      units: The units of φ in both runs, by the first's targets.
      incomparable: The reason why nothing can be compared, in words; None if something can.
      features: Changes over all rows; see `changes`.
      slices: Changes within the slices that both runs have; see `changes`.
      by_slice: A summary of each slice and target; see `of_slices`.
      slices_gone: Slices that only the first run has.
      slices_new: Slices that only the second run has.
      predictions: Scores by target; empty where a run keeps neither a sample nor its attributions.
      baselines: Features whose baseline moved; see `moved_baselines`.
      held_by: The first run's directory if naming it would keep the second run's baseline as it was, because
        each run made its baseline from its own input; otherwise None.
      edges: Bins whose edges differ, by slicing: the first run's edges and the second's.
    """

    first: Side
    second: Side
    setting: Setting
    targets: Mapping[str, str]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    units: Mapping[str, tuple[str, str]]
    incomparable: str | None
    features: pd.DataFrame
    slices: pd.DataFrame
    by_slice: pd.DataFrame
    slices_gone: tuple[str, ...]
    slices_new: tuple[str, ...]
    predictions: tuple[Predictions, ...]
    baselines: tuple[MovedBaseline, ...] = ()
    held_by: str | None = None
    edges: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)

    @property
    def significant(self) -> pd.DataFrame:
        """Changes over all rows that are beyond chance, and features that only one run has."""
        frame = self.features
        return frame[frame["significant"] | (frame["status"] != "both")]


def compare(first: Run, second: Run) -> Comparison:
    """Compares two committed runs.

    Args:
      first: The reference.
      second: The run that is compared with it.
    Raises:
      UserError: The importance of a run lacks columns.
    Cost: reads the importance, the samples of rows, the baselines and the reasons of rejected rows; if a run
      keeps no sample, also the scores in its attributions.
    """
    before, after = first.importance(), second.importance()
    targets = matched_targets(before, after)
    units = _units(first, second, before, after, targets)
    labels = {**first.labels, **second.labels}
    changed = changes(before, after, targets, {name: a == b for name, (a, b) in units.items()}, labels)
    whole = changed["slice"] == ""
    names = [{name for name in frame["slice"].unique() if name} for frame in (before, after)]
    moved = moved_baselines(first, second, _spreads(first), labels)
    follows = all(follows_data(run.manifest) for run in (first, second))
    return Comparison(
        first=Side.of(first),
        second=Side.of(second),
        setting=Setting.of(first.manifest, second.manifest),
        targets=targets,
        only_first=tuple(name for name in targets_of(before) if name not in targets),
        only_second=tuple(name for name in targets_of(after) if name not in targets.values()),
        units=units,
        incomparable=_incomparable(first, second, targets),
        features=changed[whole].reset_index(drop=True),
        slices=changed[~whole].reset_index(drop=True),
        by_slice=of_slices(changed),
        slices_gone=tuple(sorted(names[0] - names[1])),
        slices_new=tuple(sorted(names[1] - names[0])),
        predictions=_predictions(first, second, before, after, targets),
        baselines=moved,
        held_by=_in_full(first.path) if moved and follows else None,
        edges=other_edges(first.manifest.get("slices") or [], second.manifest.get("slices") or []),
    )


def _in_full(run: str) -> str:
    """A run's directory as an absolute path or URL, which a config in any folder can name."""
    return run if files.is_url(run) else os.path.abspath(run)


def other_edges(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Bins whose edges differ between two runs, by the name of the slicing.

    Args:
      first: The `slices` of the first manifest.
      second: The `slices` of the second.
    """
    before, after = (dict(_bins(slicings)) for slicings in (first, second))
    return {
        name: (edges, after[name]) for name, edges in before.items() if name in after and after[name] != edges
    }


def _bins(slicings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[float, ...]]]:
    for slicing in slicings:
        if slicing["kind"] == "bins":
            yield slicing["name"], tuple(slicing["edges"])
        elif slicing["kind"] == "intersection":
            yield from _bins(slicing["parts"])


def _spreads(run: Run) -> dict[str, float]:
    """Standard deviations of scalar features over the run's sample of rows."""
    path = files.join(run.path, SAMPLE)
    if not files.exists(path):
        return {}
    table = read_whole(path)
    if "feature" not in table.column_names:
        return {}
    rows = table.filter(pc.equal(table["kind"], "sample"))["feature"].combine_chunks()
    spreads = {}
    for at, part in enumerate(rows.type):
        if is_number(part.type):
            values = rows.field(at).cast(pa.float64()).to_numpy(zero_copy_only=False)
            values = values[np.isfinite(values)]
            spreads[part.name] = float(values.std()) if len(values) else 0.0
    return spreads


def _incomparable(first: Run, second: Run, targets: Mapping[str, str]) -> str | None:
    empty = [
        which
        for which, run in (("first", first), ("second", second))
        if not run.manifest["counts"]["rows_attributed"]
    ]
    if empty:
        return f"no row was explained in {'either run' if len(empty) > 1 else f'the {empty[0]} run'}"
    if not set(first.features) & set(second.features):
        return "the runs have no feature in common"
    if not targets:
        return "the runs have no target in common"
    return None


def _units(
    first: Run, second: Run, before: pd.DataFrame, after: pd.DataFrame, targets: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    kinds, indices = (
        (score_kinds(first.manifest), score_kinds(second.manifest)),
        (targets_of(before), targets_of(after)),
    )
    return {
        ours: (kinds[0].get(indices[0][ours], "score"), kinds[1].get(indices[1][theirs], "score"))
        for ours, theirs in targets.items()
    }


def _predictions(
    first: Run, second: Run, before: pd.DataFrame, after: pd.DataFrame, targets: Mapping[str, str]
) -> tuple[Predictions, ...]:
    samples = [sample for run in (first, second) if (sample := _scores(run)) is not None]
    if len(samples) < 2:
        return ()
    indices = (targets_of(before), targets_of(after))
    predictions = []
    for ours, theirs in targets.items():
        sides = []
        for sample, index in zip(samples, (indices[0][ours], indices[1][theirs]), strict=True):
            mine = sample["target"] == index
            scores, bases = sample["prediction"][mine], sample["base_value"][mine]
            if len(scores) < 2:
                break
            error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
            sides.append((len(scores), float(scores.mean()), error, float(bases.mean())))
        if len(sides) == 2:
            rows, mean, errors, base = zip(*sides, strict=True)
            predictions.append(Predictions(ours, rows, mean, errors, base))
    return tuple(predictions)


def _scores(run: Run) -> dict[str, np.ndarray] | None:
    """Targets, scores and base values of the sampled rows, or of all rows where the run has no sample."""
    path = files.join(run.path, SAMPLE)
    columns = ["kind", "target", "prediction", "base_value"]
    if not files.exists(path):
        if not run.parts():
            return None
        whole = run.attributions(columns=columns[1:])
        return {name: whole[name].to_numpy().astype(np.float64) for name in columns[1:]}
    table = read_whole(path, columns)
    drawn = np.array(table["kind"].to_pylist(), object) == "sample"
    numbers = {name: table[name].to_numpy().astype(np.float64) for name in columns[1:]}
    return {name: values[drawn.astype(bool)] for name, values in numbers.items()}
