"""Files of a few rows to what a model is given of them, without a model: helpers, not tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support import worlds
from transforms.models.base import HeadSpec, InputSpec, Signature
from transforms.rows.decode import decode
from transforms.rows.padding import with_lengths
from transforms.rows.resolve.bytes_columns import with_encodings
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.missing_features import named, with_absent
from transforms.rows.resolve.resolve import ColumnRequest, resolve
from transforms.rows.schema import ExampleSchema
from transforms.sources.base import TFRECORD, Column
from transforms.sources.inspection import inspect_files
from transforms.sources.read import check_columns, describe_columns, read_piece
from transforms.sources.shards import cut


def model(*inputs: tuple[Any, ...]) -> Signature:
    """(name, shape, dtype) each."""
    return Signature(tuple(InputSpec(*one) for one in inputs), (HeadSpec("y", (1,)),))


def write(folder: Path, format: str, columns: Mapping[str, Any]) -> list[Path]:
    """One file of these columns."""
    path = folder / f"rows.{format}"
    if format == "parquet":
        pq.write_table(pa.table(dict(columns)), path)
    else:
        values = [
            column.to_pylist() if isinstance(column, pa.Array) else column for column in columns.values()
        ]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
        worlds.write_tfrecord(path, rows)
    return [path]


def planned(
    paths: Sequence[Path], signature: Signature | None, features: Sequence[FeatureRequest] | None
) -> ExampleSchema:
    """The schema, as a plan makes it."""
    files = inspect_files([(str(path), path.name) for path in paths])
    request = ColumnRequest(None if features is None else tuple(features), {}, None, (), None)
    types = describe_columns(files, named(request))
    if files[0].format == TFRECORD:
        types = with_absent(request, signature, types)
    request, types = with_lengths(request, signature, types, files)
    schema = resolve(request, signature, types)
    check_columns(files, [Column(name, kind) for name, kind in schema.columns])
    return with_encodings(schema, files)


def rows_of(
    paths: Sequence[Path],
    signature: Signature | None,
    features: Sequence[FeatureRequest] | None,
    batch_size: int = 1000,
) -> tuple[dict[str, list[Any]], dict[int, str]]:
    """By model input, the values of each usable row; and why others are rejected, by row number."""
    schema = planned(paths, signature, features)
    columns = [Column(name, kind) for name, kind in schema.columns]
    inputs: dict[str, list[Any]] = {name: [] for name in schema.inputs}
    reasons: dict[int, str] = {}
    for shard in cut(inspect_files([(str(path), path.name) for path in paths]), 1000):
        for piece in shard.pieces:
            for raw in read_piece(piece, columns, batch_size):
                rows, rejected = decode(raw, schema, piece.name, 0, 1)
                reasons |= {one.row: one.reason for one in rejected}
                if len(rows):
                    for name, values in schema.assemble(rows.features).items():
                        inputs[name] += np.asarray(values).tolist()
    return inputs, reasons
