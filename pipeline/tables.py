"""The tables that a run's aggregates become at its commit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.increments import state_metadata
from transforms import files
from transforms.interactions import find_interactions
from transforms.parts import IMPORTANCE, INTERACTIONS, POSITIONS, SAMPLE, Part, digest_of
from transforms.shard_result import ShardResult


def write_tables(
    place: str,
    draft: Mapping[str, Any],
    result: ShardResult,
    metadata: Mapping[str, str],
    *,
    keeps_state: bool,
) -> list[Part]:
    """Writes the importance, and what the report shows besides.

    Args:
      place: Where the run is made.
      draft: Its manifest.
      result: Its aggregates.
      metadata: Of every table.
      keeps_state: Whether another run may add to this one: the importance then has the state with it.
    Returns:
      What was written.
    """
    names = tuple(draft["target_names"])
    importance = dict(metadata) | (state_metadata(result) if keeps_state else {})
    parts = [_write(place, IMPORTANCE, result.importance.to_table(names), importance)]
    sample = result.sample.to_table()
    shown = {SAMPLE: sample, POSITIONS: result.positions.to_table(names)}
    if sample is not None:
        groups = draft["config"]["input"]["groups"]
        shown[INTERACTIONS] = find_interactions(sample, draft["features"], groups)
    return parts + [
        _write(place, file, table, metadata) for file, table in shown.items() if table is not None
    ]


def _write(place: str, file: str, table: pa.Table, metadata: Mapping[str, str]) -> Part:
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(dict(metadata)), buffer, compression="zstd")
    data, path = buffer.getvalue(), files.join(place, file)
    if not files.is_url(path):
        files.makedirs(files.join(place, file.rpartition("/")[0]) if "/" in file else place)
    files.write_atomic(path, data)
    return Part(file, len(table), len(data), digest_of(data))
