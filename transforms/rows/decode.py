"""Decoding record batches to rows for the model, with a reason for each rejected row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.value_text import as_text, widened
from transforms.arrow.values import nulls_of, numbers_of, plain, slice_type
from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.rows.problems import Problems
from transforms.rows.schema import ExampleSchema
from transforms.rows.tensors import steps_of, tensor
from transforms.rows.unions import by_type
from transforms.sources.base import RawBatch, Rejection

#: Limits of weights. Beyond them a weight is taken for a mistake: sensible weights can be rescaled.
_LIGHTEST, _HEAVIEST = 1e-30, 1e30


@dataclass
class Rows:
    """Decoded rows, ready for the model.

    Args:
      features: `[B, *shape]` by feature, in the dtype that the model takes; strings as bytes objects.
      ids: `[B]` str objects.
      slices: By slice column, the values `[B]` in the type of `slice_type`; null stays null.
      targets: Output index `[B]` if a column names it; None otherwise.
      rows: Row number in its file, `[B]` int64.
      ordinals: Row number in the whole input, `[B]` int64.
      file: Name of the file of each row, `[B]` str objects.
      weights: Weight of each row in the importance, `[B]` float64; None: equal weights.
      stored: The features' columns as in the file, for the first rows; None if they are not kept.
      lengths: By padded feature, the number of steps in each row, `[B]`.
    """

    features: dict[str, np.ndarray]
    ids: np.ndarray
    slices: dict[str, pa.Array]
    targets: np.ndarray | None
    rows: np.ndarray
    ordinals: np.ndarray
    file: np.ndarray
    weights: np.ndarray | None = None
    stored: pa.RecordBatch | None = None
    lengths: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray | slice) -> Rows:
        """Selects rows by index, mask or slice; a slice does not copy them."""
        if isinstance(chosen, slice):
            start, stop, _ = chosen.indices(len(self))
            slices = {name: value.slice(start, max(0, stop - start)) for name, value in self.slices.items()}
        else:
            index = pa.array(np.arange(len(self))[chosen])
            slices = {name: value.take(index) for name, value in self.slices.items()}
        return Rows(
            {name: value[chosen] for name, value in self.features.items()},
            self.ids[chosen],
            slices,
            None if self.targets is None else self.targets[chosen],
            self.rows[chosen],
            self.ordinals[chosen],
            self.file[chosen],
            None if self.weights is None else self.weights[chosen],
            lengths={name: value[chosen] for name, value in self.lengths.items()},
        )


def join(parts: Sequence[Rows]) -> Rows:
    """Joins parts into one, in order."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return Rows(
        {name: np.concatenate([part.features[name] for part in parts]) for name in first.features},
        np.concatenate([part.ids for part in parts]),
        {name: pa.concat_arrays([part.slices[name] for part in parts]) for name in first.slices},
        _joined([part.targets for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.ordinals for part in parts]),
        np.concatenate([part.file for part in parts]),
        _joined([part.weights for part in parts]),
        lengths={name: np.concatenate([part.lengths[name] for part in parts]) for name in first.lengths},
    )


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Joins the parts; None if they are None."""
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None


def decode(
    batch: RawBatch, schema: ExampleSchema, name: str, ordinal: int, targets: int
) -> tuple[Rows, list[Rejection]]:
    """Turns a batch of a file's rows into tensors.

    Args:
      batch: The batch from the reader.
      schema: The columns, and what the model takes.
      name: Name of the file.
      ordinal: Number of the file's row 0 in the whole input.
      targets: Number of the model's outputs, the upper bound of a target column.
    Returns:
      The usable rows in order, and the rejected ones, each with the first reason found.
    Raises:
      UserError: A column's type in this file cannot be converted to what the model takes.
    Cost: numpy on whole columns; Python work per row only for rejected rows, strings and pictures.
    """
    columns, problems = batch.columns, Problems()
    ids = _ids(columns, schema, batch.rows, name, problems)
    features = {
        f.name: by_type(_typed(columns, schema, f.name, f.stored), problems, partial(tensor, f, file=name))
        for f in schema.features
    }
    chosen = None
    if schema.target is not None:
        key = schema.target[0]
        read = partial(_targets, column=key, classes=schema.classes, count=targets, file=name)
        chosen = by_type(_typed(columns, schema, *schema.target), problems, read)
    weights = None
    if schema.weight is not None:
        key = schema.weight[0]
        weight_column = _typed(columns, schema, *schema.weight)
        weights = by_type(weight_column, problems, partial(_weights, column=key, file=name))
    slices = {
        key: by_type(columns.column(key), problems, partial(_slice, column=key, stored=stored, file=name))
        for key, stored in schema.slices
    }
    files = np.full(len(batch.rows), name, object)
    lengths = {
        f.name: by_type(columns.column(f.name), Problems(), partial(steps_of, f))
        for f in schema.features
        if f.pad is not None
    }
    rows = Rows(
        features, ids, slices, chosen, batch.rows, batch.rows + ordinal, files, weights, lengths=lengths
    )
    rejected = list(batch.rejected)
    if problems.reasons:
        for row, reason in sorted(problems.reasons.items()):
            rejected.append(Rejection(name, int(batch.rows[row]), "decode", reason, ids[row]))
        rows = rows.take(problems.good(len(rows)))
    return rows, rejected


def _typed(columns: pa.RecordBatch, schema: ExampleSchema, name: str, dtype: pa.DataType) -> pa.Array:
    """A column in the wanted type: folders' names are read as text, and may be needed as numbers."""
    column = columns.column(name)
    if name in schema.from_path and pt.is_string(column.type) and pt.is_integer(dtype):
        return column.cast(dtype)
    return column


def _slice(array: pa.Array, problems: Problems, column: str, stored: pa.DataType, file: str) -> pa.Array:
    """The values in the planned type; a file may hold a related type, as long as no value is changed."""
    wanted, array = slice_type(stored), _without_minus_zero(plain(array))
    if pt.is_string(wanted):
        return as_text(array)
    if array.type == wanted:
        return array
    if pt.is_null(array.type):  # pandas writes this type where a file has no value of a column
        return pa.nulls(len(array), wanted)
    if pt.is_floating(wanted) and pt.is_floating(array.type) and wanted.bit_width > array.type.bit_width:
        return widened(array, wanted)
    try:
        cast = array.cast(wanted, safe=False)
        if not (pt.is_floating(wanted) and pt.is_floating(array.type)):
            back = cast.cast(array.type, safe=False)
            lost = pc.fill_null(pc.not_equal(back, array), False).to_numpy(zero_copy_only=False)
            reason = f"and the column is {wanted} in other rows"
            problems.add(lost, lambda row: f"slice {column} is {as_text(array[row : row + 1])[0]}, {reason}")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"column is {array.type}, and {wanted} in other files", f"{file}: {column}"
        ) from error
    return cast


def _without_minus_zero(array: pa.Array) -> pa.Array:
    """The array with −0 as 0: they are equal, but their texts differ."""
    if not pt.is_floating(array.type):
        return array
    # Arrow cannot add half floats.
    dtype = array.type if not pt.is_float16(array.type) else pa.float32()
    return pc.add(array.cast(dtype), pa.scalar(0, dtype)).cast(array.type)


def _ids(
    columns: pa.RecordBatch, schema: ExampleSchema, rows: np.ndarray, name: str, problems: Problems
) -> np.ndarray:
    if schema.id is None:
        array = pc.binary_join_element_wise(name, pc.cast(pa.array(rows), pa.string()), ":")
    else:
        reason = f"id {schema.id[0]} is null"
        array = by_type(columns.column(schema.id[0]), problems, lambda array, _: as_text(array))
        problems.add(nulls_of(array), lambda row: reason)
    ids: np.ndarray = array.to_numpy(zero_copy_only=False)
    return ids


def _targets(
    array: pa.Array, problems: Problems, column: str, classes: Categories | None, count: int, file: str
) -> np.ndarray:
    """Output indices `[B]`: the column's own values, or those of the classes that it names."""
    array = plain(array)
    nulls = nulls_of(array)
    problems.add(nulls, lambda row: f"target {column} is null")
    if classes is not None:
        if classes.misfit(array.type):
            what = f"column is {array.type}, but the classes are {classes.words()}"
            raise UserError(what, f"{file}: {column}")
        codes, _ = classes.codes(array)
        unknown = np.isnan(codes)
        limits = f"not a class of the model: {classes.words()}"
        problems.add(unknown & ~nulls, lambda row: f"target {column} is {array[row].as_py()!r}, {limits}")
        return np.where(unknown, 0, codes).astype(np.int64)
    values = numbers_of(array, "the index of an output is needed", f"{file}: {column}")
    wrong = ~((values >= 0) & (values < count))
    if values.dtype.kind == "f":
        wrong |= values != np.floor(values)
    limits = f"not an output from 0 to {count - 1}"
    problems.add(wrong & ~nulls, lambda row: f"target {column} is {values[row]}, {limits}")
    return np.where(wrong | nulls, 0, values).astype(np.int64)


def _weights(array: pa.Array, problems: Problems, column: str, file: str) -> np.ndarray:
    array = plain(array)
    weights = numbers_of(array, "weights are numbers", f"{file}: {column}").astype(np.float64)
    nulls = nulls_of(array)
    problems.add(nulls, lambda row: f"weight {column} is null")
    wrong = ~(np.isfinite(weights) & (weights >= 0)) & ~nulls
    problems.add(wrong, lambda row: f"weight {column} is {weights[row]:g}, not a number from 0 on")
    # Squares and products of weights are summed, and must neither overflow nor underflow.
    lost = ~wrong & ~nulls & (weights > 0) & ((weights < _LIGHTEST) | (weights > _HEAVIEST))
    limits = f"not from {_LIGHTEST:g} to {_HEAVIEST:g}"
    problems.add(lost, lambda row: f"weight {column} is {weights[row]:g}, {limits}")
    wrong |= lost
    # Adding 0.0 turns −0 into 0.
    return np.where(wrong | nulls, 0.0, weights) + 0.0
