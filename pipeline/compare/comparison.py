"""A comparison of two runs: what differs in how they were made, and what changed in what they say."""

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
      path: Its directory.
      name: From its config.
      created: When it was committed.
      rows: That were explained.
      rejected: That were not.
      reasons: Why, with the number of rows, most frequent first.
      relative_p99: Of |convergence delta|, over the score's spread; None where no sum is promised.
      exceeded: Limits that were, in words.
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
        """Of a run."""
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
    """What the model said of a target, from the sample of rows that each run keeps.

    Args:
      target: The first run's name for it.
      rows: That were looked at in each run.
      mean: Of the score that is explained, in each run.
      error: Its standard error.
      base: Mean of the base value.
    """

    target: str
    rows: tuple[int, int]
    mean: tuple[float, float]
    error: tuple[float, float]
    base: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """What changed from one run to another.

    Args:
      first: The run that is compared with.
      second: The run that is compared.
      setting: In what they differ before anything was explained.
      targets: The second run's names of the targets by the first's, those that are compared.
      only_first: Targets of the first run alone.
      only_second: Of the second alone.
      units: The units of φ in either run by the first's targets.
      incomparable: Why nothing can be compared, in words; None where something can.
      features: Changes over all rows, as `changes` has them.
      slices: The same of slices that are in both.
      by_slice: A row a slice and target, as `of_slices` has them.
      slices_gone: Slices of the first run alone.
      slices_new: Of the second alone.
      predictions: By target; empty where a run keeps neither a sample nor its attributions.
      baselines: Features whose baseline moved, see `moved_baselines`.
      held_by: The first run's directory, where the second would hold its baseline by naming it: both
        baselines are made of their own inputs. None otherwise.
      edges: Bins of other edges, by the name of the slicing: those of the first and of the second run.
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
        """Changes over all rows that are no chance, and features that came or went."""
        frame = self.features
        return frame[frame["significant"] | (frame["status"] != "both")]


def compare(first: Run, second: Run) -> Comparison:
    """Compares two committed runs.

    Args:
      first: To compare with.
      second: To compare.
    Raises:
      UserError: The importance of one lacks columns.
    Cost: reads the importance, the samples of rows, the baselines and the reasons of rejected rows; of the
      attributions the scores, where a run keeps no sample.
    """
    before, after = first.importance(), second.importance()
    targets = matched_targets(before, after)
    units = _units(first, second, before, after, targets)
    labels = {**first.labels, **second.labels}
    found = changes(before, after, targets, {name: a == b for name, (a, b) in units.items()}, labels)
    whole = found["slice"] == ""
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
        features=found[whole].reset_index(drop=True),
        slices=found[~whole].reset_index(drop=True),
        by_slice=of_slices(found),
        slices_gone=tuple(sorted(names[0] - names[1])),
        slices_new=tuple(sorted(names[1] - names[0])),
        predictions=_predictions(first, second, before, after, targets),
        baselines=moved,
        held_by=_in_full(first.path) if moved and follows else None,
        edges=other_edges(first.manifest.get("slices") or [], second.manifest.get("slices") or []),
    )


def _in_full(run: str) -> str:
    """A run's directory, whichever folder the config that will name it lies in."""
    return run if files.is_url(run) else os.path.abspath(run)


def other_edges(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Bins of both runs that have other edges in each, by the name of the slicing.

    Args:
      first: The manifest's `slices` of a run.
      second: Of another.
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
    """Standard deviation of the features of single numbers, over the rows that a run keeps."""
    path = files.join(run.path, SAMPLE)
    if not files.exists(path):
        return {}
    table = read_whole(path)
    if "feature" not in table.column_names:
        return {}
    rows = table.filter(pc.equal(table["kind"], "sample"))["feature"].combine_chunks()
    found = {}
    for at, part in enumerate(rows.type):
        if is_number(part.type):
            values = rows.field(at).cast(pa.float64()).to_numpy(zero_copy_only=False)
            values = values[np.isfinite(values)]
            found[part.name] = float(values.std()) if len(values) else 0.0
    return found


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
    found = []
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
            found.append(Predictions(ours, rows, mean, errors, base))
    return tuple(found)


def _scores(run: Run) -> dict[str, np.ndarray] | None:
    """Scores and base values by target, of the rows that a run keeps as a sample, else of all."""
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
