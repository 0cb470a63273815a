"""Attribution and rejection tables: their schemas, and the writing of a shard's parts."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import files
from transforms.decode import Rows, slice_type
from transforms.methods.base import Attribution
from transforms.read import Rejection
from transforms.schema import ExampleSchema

#: A row group is written once this many rows or bytes are there.
_ROW_GROUP_ROWS = 131_072
_ROW_GROUP_BYTES = 64 << 20

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)

REJECTED = pa.schema(
    [
        ("example_id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class OutputSpec:
    """What is written of each example.

    Args:
      attributions: "all", "none", or the k of `top_k`.
      features: The feature values too.
      standard_error: The method gives standard errors and they are wanted.
    """

    attributions: str | int = "all"
    features: bool = False
    standard_error: bool = False


def attribution_schema(schema: ExampleSchema, output: OutputSpec, metadata: Mapping[str, str]) -> pa.Schema:
    """The schema of the attribution parts, with the run's metadata."""
    names = schema.attributed
    by_feature = pa.struct([(name, _value_type(schema.attributed_shape(name), pa.float32())) for name in names])
    fields = [
        ("example_id", pa.string()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("prediction", pa.float32()),
        ("output", pa.float32()),
        ("base_value", pa.float32()),
        ("convergence_delta", pa.float32()),
    ]
    if isinstance(output.attributions, int):
        pair = pa.struct([("feature", pa.string()), ("attribution", pa.float32())])
        fields += [("top", pa.list_(pair)), ("rest", pa.float32())]
    else:
        fields.append(("attribution", by_feature))
    if output.standard_error:
        fields.append(("standard_error", by_feature))
    if output.features:
        values = [(f.name, _value_type(f.shape, _feature_type(f.dtype))) for f in schema.features]
        fields.append(("feature", pa.struct(values)))
    taken = {name for name, _ in fields}
    fields += [(_slice_name(name, taken), slice_type(stored)) for name, stored in schema.slices]
    return pa.schema(fields, metadata={key: value for key, value in metadata.items()})


def _slice_name(name: str, taken: set[str]) -> str:
    # A slice column may be called like one of ours; the prefix says whose it is.
    return f"slice_{name}" if name in taken else name


def _feature_type(dtype: str) -> pa.DataType:
    return pa.string() if dtype == "string" else pa.from_numpy_dtype(np.dtype(dtype))


def _value_type(shape: Sequence[int], leaf: pa.DataType) -> pa.DataType:
    for extent in reversed(shape):
        leaf = pa.list_(leaf, extent)
    return leaf


def _value_array(values: np.ndarray, shape: Sequence[int]) -> pa.Array:
    """`[N, *shape]` as one Arrow column of nested fixed-size lists."""
    array = pa.array(values.reshape(-1))
    for extent in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, extent)
    return array


def attribution_table(
    rows: Rows,
    attribution: Attribution,
    split: Mapping[str, np.ndarray],
    targets: np.ndarray,
    target_names: np.ndarray,
    schema: ExampleSchema,
    output: OutputSpec,
    arrow_schema: pa.Schema,
) -> pa.Table:
    """The table of a batch, one row a (example, target), example by example.

    Args:
      rows: The examples, B.
      attribution: Of these.
      split: φ by feature or group, `[B, T, *shape]`.
      targets: Output index, `[B, T]`.
      target_names: A name a target, object array.
      schema: Of the examples.
      output: What to write.
      arrow_schema: As `attribution_schema` gives it.
    """
    per_example = targets.shape[1]
    repeat = np.repeat(np.arange(len(rows)), per_example)
    flat = targets.reshape(-1)
    delta = attribution.convergence_delta
    columns: dict[str, Any] = {
        "example_id": pa.array(rows.ids[repeat] if per_example > 1 else rows.ids, pa.string()),
        "target": pa.array(flat.astype(np.int32)),
        "target_name": pa.array(target_names).take(pa.array(flat)),
        "prediction": pa.array(attribution.prediction.reshape(-1)),
        "output": pa.array(attribution.output.reshape(-1)),
        "base_value": pa.array(attribution.base_value.reshape(-1)),
        "convergence_delta": pa.nulls(len(flat), pa.float32()) if delta is None else pa.array(delta.reshape(-1)),
    }
    if isinstance(output.attributions, int):
        columns["top"], columns["rest"] = _top(split, output.attributions, len(flat))
    else:
        columns["attribution"] = _by_feature(split, schema)
    if output.standard_error and attribution.standard_error is not None:
        columns["standard_error"] = _by_feature(split_errors(attribution.standard_error, schema), schema)
    if output.features:
        values = []
        for feature in schema.features:
            array = rows.features[feature.name]
            array = array[repeat] if per_example > 1 else array
            if feature.dtype == "string":
                texts = [value.decode("utf-8", "replace") for value in array.reshape(-1)]
                values.append(_value_array(np.array(texts, object), feature.shape))
            else:
                values.append(_value_array(array, feature.shape))
        columns["feature"] = pa.StructArray.from_arrays(values, names=[f.name for f in schema.features])
    taken = set(columns)
    for name, array in rows.slices.items():
        columns[_slice_name(name, taken)] = array.take(pa.array(repeat)) if per_example > 1 else array
    return pa.table([columns[name] for name in arrow_schema.names], schema=arrow_schema)


def split_errors(errors: Mapping[str, np.ndarray], schema: ExampleSchema) -> dict[str, np.ndarray]:
    """Standard errors by feature; a group's is that of a sum of values that are taken as independent."""
    squared = schema.split({name: value.astype(np.float64) ** 2 for name, value in errors.items()})
    return {name: np.sqrt(value).astype(np.float32) for name, value in squared.items()}


def _by_feature(split: Mapping[str, np.ndarray], schema: ExampleSchema) -> pa.StructArray:
    names = list(schema.attributed)
    shapes = [schema.attributed_shape(name) for name in names]
    arrays = [_value_array(split[name], shape) for name, shape in zip(names, shapes, strict=True)]
    return pa.StructArray.from_arrays(arrays, names=names)


def feature_totals(split: Mapping[str, np.ndarray]) -> np.ndarray:
    """One number a feature and (example, target): `[features, N]`; a tensor's values are summed."""
    return np.stack([value.reshape(value.shape[0] * value.shape[1], -1).sum(axis=1) for value in split.values()])


def _top(split: Mapping[str, np.ndarray], k: int, count: int) -> tuple[pa.Array, pa.Array]:
    """The k features of largest |φ| of each row, and the sum of the others."""
    values = feature_totals(split)
    k = min(k, len(values))
    order = np.argsort(-np.abs(values), axis=0, kind="stable")[:k].T
    chosen = np.take_along_axis(values.T, order, axis=1)
    names = pa.array(list(split)).take(pa.array(order.reshape(-1)))
    pairs = pa.StructArray.from_arrays([names, pa.array(chosen.reshape(-1))], names=["feature", "attribution"])
    offsets = pa.array(np.arange(0, count * k + 1, max(k, 1), dtype=np.int32)) if k else pa.array([0] * (count + 1))
    top = pa.ListArray.from_arrays(offsets, pairs)
    rest = values.sum(axis=0, dtype=np.float64) - chosen.sum(axis=1, dtype=np.float64)
    return top, pa.array(rest.astype(np.float32))


class PartWriter:
    """Writes one part file: row groups of a good size to a temporary name, then the name itself.

    A local part is written in its own folder, so that the last step is a rename; elsewhere it is uploaded whole.

    Args:
      path: Where the part goes.
      schema: Of the table.
      dictionary: Columns that repeat their values.
    """

    def __init__(self, path: str, schema: pa.Schema, dictionary: Sequence[str]) -> None:
        self._path = path
        self._held: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._schema = schema
        if files.is_url(path):
            self._temporary = tempfile.NamedTemporaryFile(suffix=".parquet", delete=False)  # noqa: SIM115 - closed below
        else:
            folder = os.path.dirname(path)
            os.makedirs(folder, exist_ok=True)
            self._temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below
                dir=folder, prefix="_", suffix=".tmp", delete=False
            )
        self._writer = pq.ParquetWriter(
            self._temporary, schema, compression="zstd", compression_level=1, use_dictionary=list(dictionary)
        )

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        self._held.append(table)
        self._rows += len(table)
        self._bytes += table.nbytes
        if self._rows >= _ROW_GROUP_ROWS or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held), row_group_size=max(self._rows, 1))
        self._held, self._rows, self._bytes = [], 0, 0

    def close(self) -> None:
        """Finishes the part: from here on it exists."""
        self._flush()
        self._writer.close()
        self._temporary.flush()
        os.fsync(self._temporary.fileno())
        self._temporary.close()
        if files.is_url(self._path):
            with open(self._temporary.name, "rb") as source:
                files.write_atomic(self._path, source.read())
            os.unlink(self._temporary.name)
        else:
            os.chmod(self._temporary.name, 0o666 & ~_UMASK)
            os.replace(self._temporary.name, self._path)

    def abort(self) -> None:
        """Leaves nothing behind."""
        self._held = []
        self._writer.close()
        self._temporary.close()
        if os.path.exists(self._temporary.name):
            os.unlink(self._temporary.name)


def rejected_bytes(rejected: Sequence[Rejection], metadata: Mapping[str, str]) -> bytes:
    """A part of the rejected table."""
    ordered = sorted(rejected, key=lambda r: (r.file, r.row))
    table = pa.table(
        {
            "example_id": [r.example_id if r.example_id is not None else f"{r.file}:{r.row}" for r in ordered],
            "file": [r.file for r in ordered],
            "row": [r.row for r in ordered],
            "stage": [r.stage for r in ordered],
            "reason": [r.reason for r in ordered],
        },
        schema=REJECTED.with_metadata(dict(metadata)),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
