"""Writes the tables of a run's aggregates when it is committed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.run_directory.increments import state_table
from pipeline.run_directory.kept_baseline import baseline_table
from transforms.aggregates.interactions import find_interactions
from transforms.aggregates.sample import narrowed
from transforms.outputs.parts import Part
from transforms.outputs.run_files import BASELINE, IMPORTANCE, INTERACTIONS, POSITIONS, SAMPLE, STATE
from transforms.rows.baselines.artifact import Artifact
from transforms.storage import files
from transforms.storage.digests import digest_of
from transforms.worker.journal import ShardResult

#: Largest number of features in the report's sample: the most important ones.
_SAMPLED_FEATURES = 1000
#: Number of most frequent targets that decide which features are most important, as in a report.
_SAMPLED_TARGETS = 12


class NoWeightError(Exception):
    """All explained rows have the weight 0, so no mean exists."""


def write_tables(
    place: str,
    draft: Mapping[str, Any],
    result: ShardResult,
    metadata: Mapping[str, str],
    *,
    min_rows: int,
    weighted: bool,
    keeps_state: bool,
    baseline: Artifact | None = None,
) -> tuple[list[Part], int]:
    """Writes the importance and the other tables of a report.

    Args:
      place: The directory in which the run is made.
      draft: The draft of the run's manifest.
      result: The aggregates of the run.
      metadata: The metadata of every table.
      min_rows: Fewest rows of a slice in the importance.
      weighted: Rows have weights.
      keeps_state: Keep the aggregates, so that another run may add to this one.
      baseline: The baseline, if the run keeps it.
    Returns:
      The parts that were written, and the number of slices left out of the importance.
    Raises:
      NoWeightError: All rows have the weight 0.
    """
    names = tuple(draft["target_names"])
    importance = result.importance.to_table(names, min_rows, weighted=weighted)
    if weighted and result.attributed and not len(importance):
        raise NoWeightError
    sample = result.sample.to_table()
    tables = {IMPORTANCE: importance, POSITIONS: result.positions.to_table(names)}
    if sample is not None:
        groups, features = draft["config"]["input"]["groups"], draft["features"]
        if len(features) > _SAMPLED_FEATURES:
            features = _most_important(importance, features)
            sample = narrowed(sample, features, groups)
        tables |= {SAMPLE: sample, INTERACTIONS: find_interactions(sample, features, groups)}
    if keeps_state:
        tables[STATE] = state_table(result)
    if baseline is not None:
        tables[BASELINE] = baseline_table(baseline)
    parts = [_write(place, file, table, metadata) for file, table in tables.items() if table is not None]
    return parts, _left_out(importance, result) if min_rows > 1 else 0


def _most_important(importance: pa.Table, features: Sequence[str]) -> list[str]:
    """The features of the report's sample, in their order: those with the best rank in any shown target."""
    table = importance.filter(pc.equal(importance["slice"], ""))
    rows = dict(zip(table["target"].to_pylist(), table["rows"].to_pylist(), strict=True))
    shown = sorted(rows, key=lambda target: (-rows[target], target))[:_SAMPLED_TARGETS]
    table = table.filter(pc.is_in(table["target"], pa.array(shown, table["target"].type)))
    best = table.group_by("feature").aggregate([("rank", "min")]).to_pydict()
    rank = dict(zip(best["feature"], best["rank_min"], strict=True))
    chosen = set(sorted(rank, key=lambda name: rank[name])[:_SAMPLED_FEATURES])
    return [name for name in features if name in chosen]


def _left_out(importance: pa.Table, result: ShardResult) -> int:
    """The number of slices that the table leaves out for some target."""
    there = importance.select(["slice", "target"]).group_by(["slice", "target"]).aggregate([]).to_pydict()
    written = set(zip(there["slice"], there["target"], strict=True))
    groups = result.importance.groups
    return len({key[:2] for key in groups if key[0] and (key[1], key[2]) not in written})


def _write(place: str, file: str, table: pa.Table, metadata: Mapping[str, str]) -> Part:
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(dict(metadata)), buffer, compression="zstd")
    data, path = buffer.getvalue(), files.join(place, file)
    if not files.is_url(path):
        files.makedirs(files.join(place, file.rpartition("/")[0]) if "/" in file else place)
    files.write_atomic(path, data)
    return Part(file, len(table), len(data), digest_of(data))
