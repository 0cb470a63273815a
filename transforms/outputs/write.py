"""Attribution and rejection tables: their schemas, and the writing of a shard's parts."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.arrow.value_text import as_text
from transforms.arrow.values import slice_type
from transforms.methods.base import Attribution
from transforms.outputs.parts import DigestingFile, Part, written
from transforms.rows.decode import Rows
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources.base import Rejection
from transforms.storage import files
from transforms.storage.digests import digest_of

#: A row group is written once this many rows or bytes are there.
_ROW_GROUP_ROWS = 131_072
_ROW_GROUP_BYTES = 8 << 20

_UMASK = os.umask(0)  # it can only be read by setting it
os.umask(_UMASK)

_PAIR = pa.struct([("feature", pa.string()), ("attribution", pa.float32())])
_LABELLED = pa.struct([*_PAIR, ("label", pa.string())])

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
      fit: The method fits a surrogate to each row, and says how well.
      labels: With `top_k`, what features are called in words, beside their names; none: no such column.
    """

    attributions: str | int = "all"
    features: bool = False
    standard_error: bool = False
    fit: bool = False
    labels: tuple[tuple[str, str], ...] = ()


#: No slice column takes a name that the table may have for its own, whatever is written this time.
_OWN_NAMES = (
    *("example_id", "target", "target_name", "prediction", "output", "base_value", "convergence_delta"),
    *("attribution", "standard_error", "fit", "feature", "top", "rest", "weight"),
    *("kind", "key"),  # of the sample of rows
)


def attribution_schema(schema: ExampleSchema, output: OutputSpec, metadata: Mapping[str, str]) -> pa.Schema:
    """The schema of the attribution parts, with the run's metadata."""
    names = schema.attributed
    by_feature = pa.struct(
        [(name, _value_type(schema.attributed_shape(name), pa.float32())) for name in names]
    )
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
        pair = _LABELLED if output.labels else _PAIR
        fields += [("top", pa.list_(pair)), ("rest", pa.float32())]
    else:
        fields.append(("attribution", by_feature))
    if output.standard_error:
        fields.append(("standard_error", by_feature))
    if output.fit:
        fields.append(("fit", pa.float32()))
    if output.features:
        values = [(f.name, _value_type(f.shape, _feature_type(f))) for f in schema.features]
        fields.append(("feature", pa.struct(values)))
    if schema.weight is not None:
        fields.append(("weight", pa.float64()))
    slices = slice_names(schema)
    fields += [(slices[name], slice_type(stored)) for name, stored in schema.slices]
    return pa.schema(fields, metadata=dict(metadata))


def slice_names(schema: ExampleSchema) -> dict[str, str]:
    """What the table calls each slice column: its name, after `slice_` where that is the table's own."""
    found: dict[str, str] = {}
    columns = {name for name, _ in schema.slices}
    for name, _ in schema.slices:
        found[name] = name
        while found[name] in _OWN_NAMES or (found[name] != name and found[name] in columns):
            found[name] = f"slice_{found[name]}"
    return found


def _feature_type(feature: FeatureSpec) -> pa.DataType:
    if feature.categories is not None:
        return feature.categories.type
    return pa.string() if feature.dtype == "string" else pa.from_numpy_dtype(np.dtype(feature.dtype))


def _value_type(shape: Sequence[int], leaf: pa.DataType) -> pa.DataType:
    for extent in reversed(shape):
        leaf = pa.list_(leaf, extent)
    return leaf


def _value_array(values: np.ndarray | pa.Array, shape: Sequence[int]) -> pa.Array:
    """`[N, *shape]` as one Arrow column of nested fixed-size lists."""
    array = pa.array(values.reshape(-1)) if isinstance(values, np.ndarray) else values
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
        "target_name": pa.array(target_names, pa.string()).take(pa.array(flat)),
        "prediction": pa.array(attribution.prediction.reshape(-1)),
        "output": pa.array(attribution.output.reshape(-1)),
        "base_value": pa.array(attribution.base_value.reshape(-1)),
        "convergence_delta": pa.nulls(len(flat), pa.float32())
        if delta is None
        else pa.array(delta.reshape(-1)),
    }
    if isinstance(output.attributions, int):
        columns["top"], columns["rest"] = _top(split, output.attributions, dict(output.labels))
    else:
        columns["attribution"] = _by_feature(split, schema)
    if output.standard_error and attribution.standard_error is not None:
        columns["standard_error"] = _by_feature(split_errors(attribution.standard_error, schema), schema)
    elif output.standard_error:
        columns["standard_error"] = pa.nulls(len(flat), arrow_schema.field("standard_error").type)
    if output.fit:
        fit = attribution.fit
        columns["fit"] = pa.nulls(len(flat), pa.float32()) if fit is None else pa.array(fit.reshape(-1))
    if output.features:
        columns["feature"] = _feature_values(rows, schema, repeat if per_example > 1 else None)
    if rows.weights is not None:
        columns["weight"] = pa.array(rows.weights[repeat])
    for name, column in slice_names(schema).items():
        array = rows.slices[name]
        columns[column] = array.take(pa.array(repeat)) if per_example > 1 else array
    return pa.table([columns[name] for name in arrow_schema.names], schema=arrow_schema)


def _feature_values(rows: Rows, schema: ExampleSchema, repeat: np.ndarray | None) -> pa.StructArray:
    values = []
    for feature in schema.features:
        array = rows.features[feature.name] if repeat is None else rows.features[feature.name][repeat]
        held: np.ndarray | pa.Array = array
        if feature.categories is not None:  # readers know the categories, and not their codes
            held = feature.categories.of_codes(array)
        elif feature.dtype == "string":
            held = as_text(pa.array(array.reshape(-1), pa.binary()))
        values.append(_value_array(held, feature.shape))
    return pa.StructArray.from_arrays(values, names=[feature.name for feature in schema.features])


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
    """One number a feature and (example, target): `[features, N]` float32; a tensor's values are summed."""
    rows, targets = next(iter(split.values())).shape[:2]
    found = np.empty((len(split), rows * targets), np.float32)
    for total, value in zip(found, split.values(), strict=True):
        flat = value.reshape(rows * targets, -1)
        total[:] = flat[:, 0] if flat.shape[1] == 1 else flat.sum(axis=1, dtype=np.float64)
    return found


def _top(split: Mapping[str, np.ndarray], k: int, labels: Mapping[str, str]) -> tuple[pa.Array, pa.Array]:
    """The k features of largest |φ| of each row, and the sum of the others; equals in the features' order.

    Where some features have labels, each pair has one: its own, or else the feature's name.
    """
    values = feature_totals(split).T.astype(np.float64)
    rows, k = len(values), min(k, values.shape[1])
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    places = pa.array(order[:, :k].reshape(-1))
    found = [pa.array(list(split), pa.string()).take(places)]
    found.append(pa.array(ordered[:, :k].reshape(-1).astype(np.float32)))
    if labels:
        found.append(pa.array([labels.get(name, name) for name in split], pa.string()).take(places))
    pairs = pa.StructArray.from_arrays(found, fields=list(_LABELLED if labels else _PAIR))
    top = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * k), pairs)
    return top, pa.array(ordered[:, k:].sum(axis=1).astype(np.float32))


class PartWriter:
    """Writes one part file: row groups of a good size to a temporary name, then the name itself.

    A local part is written in its own folder, so that the last step is a rename; others are uploaded whole.
    What fails leaves nothing behind; after `close` or `abort` there is nothing more to do.

    Args:
      run: The run directory.
      file: Where the part goes in it.
      schema: Of the table.
      dictionary: Columns that repeat their values.
    Raises:
      OutputLost: The place cannot be written; so do the methods.
    """

    def __init__(self, run: str, file: str, schema: pa.Schema, dictionary: Sequence[str]) -> None:
        self._file, self._path = file, files.join(run, file)
        self._held: list[pa.Table] = []
        self._rows = self._bytes = self._written = 0
        folder = None if files.is_url(run) else os.path.dirname(self._path)
        with written(self._path):
            if folder is not None:
                files.makedirs(folder)
            # The dot keeps an interrupted attempt out of every glob.
            self._temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115 - lives as long as the part
                dir=folder, prefix=".part-", suffix=".tmp", delete=False
            )
        self._sink = DigestingFile(self._temporary.file)  # type: ignore[arg-type]  # a file behind a wrapper
        try:
            self._writer = pq.ParquetWriter(
                self._sink,
                schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=list(dictionary),
            )
        except BaseException:
            self._discard()
            raise

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        self._held.append(table)
        self._rows += len(table)
        self._bytes += table.nbytes
        if self._rows >= _ROW_GROUP_ROWS or self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            with written(self._path):
                self._writer.write_table(pa.concat_tables(self._held), row_group_size=self._rows)
        self._written += self._rows
        self._held, self._rows, self._bytes = [], 0, 0

    def close(self) -> Part:
        """Finishes the part: from here on it exists."""
        try:
            self._flush()
            with written(self._path):
                self._writer.close()
                self._temporary.flush()
                os.fsync(self._temporary.fileno())
                if files.is_url(self._path):
                    files.upload(self._temporary.name, self._path)
                else:
                    os.chmod(self._temporary.name, 0o666 & ~_UMASK)
                    files.put_in_place(self._temporary.name, self._path)
        except BaseException:
            self.abort()
            raise
        self._discard()
        return Part(self._file, self._written, self._sink.size, self._sink.digest)

    def abort(self) -> None:
        """Leaves nothing behind, whatever went wrong before."""
        self._held = []
        # Closing writes a footer, which may fail as the rows before it did.
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        # Otherwise it would try once more when it is collected.
        self._writer.is_open = False
        self._discard()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._temporary.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary.name)


def write_rejected(run: str, file: str, rejected: Sequence[Rejection], metadata: Mapping[str, str]) -> Part:
    """Writes a part of the rejected table.

    Args:
      run: The run directory.
      file: Where the part goes in it.
      rejected: In any order; the table has them in the input's.
      metadata: Of the part.
    Raises:
      OutputLost: The place cannot be written.
    """
    ordered = sorted(rejected, key=lambda r: (r.file, r.row))
    table = pa.table(
        {
            "example_id": [f"{r.file}:{r.row}" if r.example_id is None else r.example_id for r in ordered],
            "file": [r.file for r in ordered],
            "row": [r.row for r in ordered],
            "stage": [r.stage for r in ordered],
            "reason": [r.reason for r in ordered],
        },
        schema=REJECTED.with_metadata(dict(metadata)),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    data, path = buffer.getvalue(), files.join(run, file)
    with written(path):
        if not files.is_url(run):
            files.makedirs(os.path.dirname(path))
        files.write_atomic(path, data)
    return Part(file, len(table), len(data), digest_of(data))
