"""Converting one Arrow column to a numpy tensor; an unusable row gets a reason and a placeholder value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.types import is_list, squeezed
from transforms.arrow.values import nulls_of, numbers_of, plain
from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.rows.encodings import SELF_DESCRIBING, decode_tensors
from transforms.rows.images import decode_images
from transforms.rows.problems import Problems
from transforms.rows.schema import FeatureSpec

#: Rejects the rows that own the values in a mask; the reason is a function of a value's position.
_Mark = Callable[[np.ndarray, Callable[[int], str]], None]


def tensor(feature: FeatureSpec, column: pa.Array, problems: Problems, file: str) -> np.ndarray:
    """The values of a column in the dtype and shape that the model takes.

    Args:
      feature: The feature, with what the model takes.
      column: `[B]`, of any type that can be converted.
      problems: Receives the rows whose value is null, not finite, changed by the cast or of another size.
      file: Name of the column's file, for errors.
    Returns:
      `[B, *shape]` in the feature's dtype, strings as bytes objects; a view of the column where possible.
    Raises:
      UserError: The column's type cannot be converted to what the model takes.
    """
    if feature.categories is not None:
        return _codes(feature, feature.categories, column, problems, file)
    array = plain(column)
    rows, where = len(array), f"{file}: {feature.name}"
    if feature.encoding is not None and (pt.is_binary(array.type) or pt.is_string(array.type)):
        return _encoded(feature, array.cast(pa.binary()), problems, where)
    if feature.kind == "image" and pt.is_binary(array.type):
        return _images(feature, array, problems)
    if feature.pad is not None and is_list(array.type):
        return _padded(feature, array, problems, where)
    # The flattened array holds `feature.size` values for each row of right size, [len(owners) · size];
    # `right` is the mask [B] of these rows, and None means all of them.
    right: np.ndarray | None = None
    if is_list(array.type):
        array, right = _flatten(feature, array, problems)
    elif feature.size != 1:
        raise UserError(f"column is {array.type}, and {feature.size} values are needed", where)
    owners = np.arange(rows) if right is None else np.flatnonzero(right)
    mark = _marker(feature, rows, partial(_owners, owners, feature.size), problems)
    read = _strings if feature.dtype == "string" else _numbers
    values = read(feature, array, mark, where)
    if right is not None:
        whole = np.full((rows, feature.size), _fill(feature), values.dtype)
        whole[right] = values.reshape(-1, feature.size)
        values = whole
    return values.reshape(rows, *feature.shape)


def _marker(
    feature: FeatureSpec, rows: int, owners: Callable[[np.ndarray], np.ndarray], problems: Problems
) -> _Mark:
    """Makes a function that rejects the rows owning the values in a mask.

    Args:
      feature: The feature, named in reasons.
      rows: Number of rows, B.
      owners: Maps positions of values to the rows that own them.
      problems: Receives the rows.
    """

    def mark(mask: np.ndarray, reason: Callable[[int], str]) -> None:
        positions = np.flatnonzero(mask)
        if not positions.size:
            return
        # A row is rejected for the first of its marked values.
        marked, first = np.unique(owners(positions), return_index=True)
        position = dict(zip(marked.tolist(), positions[first].tolist(), strict=True))
        bad = np.zeros(rows, bool)
        bad[marked] = True
        problems.add(bad, lambda row: f"{feature.name} {reason(position[row])}")

    return mark


def _codes(
    feature: FeatureSpec, known: Categories, column: pa.Array, problems: Problems, file: str
) -> np.ndarray:
    """The codes of a column of categories, `[B]`; NaN, or the code of `fill`, for null."""
    if known.misfit(column.type):
        what = f"column is {column.type}, but the model's categories are {known.words()}"
        raise UserError(what, f"{file}: {feature.name}")
    # Each word of a dictionary is looked up once.
    array = column if pt.is_dictionary(column.type) else plain(column)
    codes, strange = known.codes(array)
    if known.reject and strange.any():
        reason = "not a category that the model was trained on"
        problems.add(strange, lambda row: f"{feature.name} is {array[row].as_py()!r}, {reason}")
    missing = np.isnan(codes) & ~strange
    if feature.fill is not None:
        codes[missing] = known.code(feature.fill)
    elif not feature.nan:
        problems.add(missing, lambda row: f"{feature.name} is null")
        codes[missing] = 0
    return feature.known(codes.astype(feature.dtype))


def _fill(feature: FeatureSpec) -> Any:
    if feature.dtype == "string" and feature.fill is not None:
        return str(feature.fill).encode()
    if feature.dtype == "string":
        return None if feature.nan else b""
    if feature.fill is None:
        return np.nan if feature.nan else 0
    return feature.fill


def _flatten(feature: FeatureSpec, array: pa.Array, problems: Problems) -> tuple[pa.Array, np.ndarray | None]:
    """The flat values of rows that have `feature.size` values, and these rows' mask `[B]`; None: all."""
    rows = len(array)
    size, nulls = feature.size, nulls_of(array)
    # Each pass of the loop opens one level of lists. `owner` [values so far] is the row of each value, and
    # `extents` gets the length [B] of each row's first list at that level: a row is ragged if others differ.
    owner = np.arange(rows)
    extents: list[np.ndarray] = []
    ragged = np.zeros(rows, bool)
    while is_list(array.type):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        held = np.bincount(owner, minlength=rows) > 0
        extent = np.zeros(rows, np.int64)
        extent[held] = lengths[np.searchsorted(owner, np.flatnonzero(held))]
        ragged[owner[lengths != extent[owner]]] = True
        extents.append(extent)
        owner = np.repeat(owner, lengths)
        array = plain(array.flatten())
    counts = np.bincount(owner, minlength=rows)
    empty = ~nulls & (counts == 0)
    if feature.fill is None and not feature.nan:
        problems.add(nulls, lambda row: f"{feature.name} is null")
    # An empty list counts as a missing value, to be filled, only for a feature of one value.
    if feature.fill is None or size > 1:
        problems.add(empty, lambda row: f"{feature.name} has no values")
    held = counts > 0
    wrong = held & (counts != size)
    problems.add(
        wrong,
        lambda row: f"{feature.name} has {counts[row]} value{'' if counts[row] == 1 else 's'}, not {size}",
    )
    if len(extents) > 1 and len(squeezed(feature.shape)) > 1:
        shapes = np.stack(extents, axis=1)
        problems.add(held & ragged, lambda row: f"{feature.name} is ragged: its lists differ in length")
        wrong |= ragged
        for shape in np.unique(shapes[held & ~wrong], axis=0).tolist():
            # Axes of extent 1 do not matter, but [3, 32, 32] for [32, 32, 3] would scramble a picture.
            if squeezed(shape) != squeezed(feature.shape):
                other = held & ~wrong & (shapes == shape).all(axis=1)
                reason = f"{feature.name} has the shape {shape}, not {list(feature.shape)}"
                problems.add(other, lambda row, reason=reason: reason)  # type: ignore[misc]
                wrong |= other
    right = held & ~wrong
    if right.all():
        return array, None
    keep = right[owner]
    return (array if keep.all() else array.filter(pa.array(keep))), right


def steps_of(feature: FeatureSpec, column: pa.Array, _: Problems) -> np.ndarray:
    """The number of steps in each row's list, `[B]`, at most the shape's; 1 for a null, which gets `fill`."""
    array, tail = plain(column), feature.size // max(1, feature.shape[0])
    if not is_list(array.type):
        return np.ones(len(array), np.int64)
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    counts = np.where(nulls_of(array), 1, np.nan_to_num(lengths)).astype(np.int64)
    # A flat list holds the values of its steps, one step after another.
    flat = not is_list(array.type.value_type)
    return np.minimum(counts // tail if flat and tail > 1 else counts, feature.shape[0])


def _padded(feature: FeatureSpec, array: pa.Array, problems: Problems, where: str) -> np.ndarray:
    """Lists of varying length, each padded at its end, `[B, *shape]`."""
    rows, nulls, name = len(array), nulls_of(array), feature.name
    most, tail = feature.shape[0], feature.size // max(1, feature.shape[0])
    if feature.fill is None:
        problems.add(nulls, lambda row: f"{name} is null")
    # As in `_flatten`: `owner` [values so far] is each value's row. `steps` [B] counts each row's outer list;
    # a row is ragged if a step of it has another shape than `feature.shape[1:]`.
    owner, level, ragged = np.arange(rows), 0, np.zeros(rows, bool)
    while is_list(array.type):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        if level == 0:
            steps = lengths
        elif len(feature.shape) > 1 and level < len(feature.shape):
            ragged[owner[lengths != feature.shape[level]]] = True
        owner, level = np.repeat(owner, lengths), level + 1
        array = plain(array.flatten())
    counts = np.bincount(owner, minlength=rows)
    if level == 1 and tail > 1:
        ragged |= counts % tail != 0
        steps = counts // tail
    step = list(feature.shape[1:])
    problems.add(ragged, lambda row: f"{name} has steps that are not of the shape {step}")
    long = steps > most
    problems.add(long, lambda row: f"{name} has {steps[row]} steps, more than the {most} of its shape")
    wrong = ragged | long | (counts != steps * tail)
    problems.add(wrong, lambda row: f"{name} has {counts[row]} values in {steps[row]} steps of {tail}")
    keep = ~wrong[owner]
    if not keep.all():
        array, owner, counts = array.filter(pa.array(keep)), owner[keep], np.where(wrong, 0, counts)
    mark = _marker(feature, rows, lambda at: owner[at], problems)
    values = (_strings if feature.dtype == "string" else _numbers)(feature, array, mark, where)
    dtype = object if feature.dtype == "string" else np.dtype(feature.dtype)
    whole = np.full((rows, feature.size), feature.pad_value, dtype)
    whole[np.arange(feature.size) < counts[:, None]] = values
    if feature.fill is not None:
        whole[nulls, :tail] = _fill(feature)
    return whole.reshape(rows, *feature.shape)


def _numbers(feature: FeatureSpec, array: pa.Array, mark: _Mark, where: str) -> np.ndarray:
    values = numbers_of(array, f"the model takes {feature.dtype}", where)
    gaps = nulls_of(array) if array.null_count else None
    missing = feature.nan and feature.fill is None
    if gaps is not None and feature.fill is None and not missing:
        mark(gaps, lambda at: "is null")
    if values.dtype.kind == "f":
        odd = ~np.isfinite(values)
        if odd.any():
            if missing:
                # The value stored under a null is arbitrary, so it does not count.
                infinite = np.isinf(values) if gaps is None else np.isinf(values) & ~gaps
                if feature.missing is not None:
                    infinite &= values != feature.missing
                mark(infinite, lambda at: "is infinite")
            elif feature.fill is None:
                mark(odd, lambda at: "is NaN" if np.isnan(values[at]) else "is infinite")
            gaps = odd if gaps is None else gaps | odd
    if gaps is None:
        return _missing(feature, values, _cast(feature, values, mark))
    values = values.copy()
    values[gaps] = 0
    cast = _missing(feature, values, _cast(feature, values, mark))
    cast[gaps] = _fill(feature)
    return feature.known(cast)


def _missing(feature: FeatureSpec, values: np.ndarray, cast: np.ndarray) -> np.ndarray:
    """The cast values, with NaN where the model takes a value for missing; the column is not changed."""
    if feature.missing is None:
        return cast
    return feature.known(cast.copy() if cast is values else cast)


def _cast(feature: FeatureSpec, values: np.ndarray, mark: _Mark) -> np.ndarray:
    """Casts to the model's dtype; a value that the cast would change is marked."""
    dtype = np.dtype(feature.dtype)
    if values.dtype == dtype:
        return values

    def beyond(at: int) -> str:
        return f"is {values[at]}, beyond the range of the model's {dtype}"

    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = values.astype(dtype)
        if dtype.itemsize > (values.dtype.itemsize if values.dtype.kind == "f" else 2):
            return cast
        mark(~np.isfinite(cast), beyond)
        return cast
    if dtype.kind == "b":
        mark((values != 0) & (values != 1), lambda at: f"is {values[at]}, and the model takes 0 or 1")
        return values != 0
    if values.dtype.kind == "f":
        mark(values != np.trunc(values), lambda at: f"is {values[at]}, and the model takes {dtype}")
    limits = np.iinfo(dtype)
    if values.dtype.kind == "f":
        # The largest int64 is not exactly representable as a float; the next number is.
        lost = (values < float(limits.min)) | (values >= float(limits.max) + 1)
    else:
        lost = (values < limits.min) | (values > limits.max)
    if lost.any():
        mark(lost, beyond)
        values = np.where(lost, 0, values)
    return values.astype(dtype)


def _encoded(feature: FeatureSpec, array: pa.Array, problems: Problems, where: str) -> np.ndarray:
    """The tensors encoded in a column of bytes, `[B, *shape]`."""
    rows, nulls = len(array), nulls_of(array)
    if feature.fill is None and not feature.nan:
        problems.add(nulls, lambda row: f"{feature.name} is null")
    decoded = decode_tensors(array, feature.encoding or SELF_DESCRIBING, feature.shape)
    bad = np.zeros(rows, bool)
    bad[list(decoded.reasons)] = True
    problems.add(bad, lambda row: f"{feature.name} {decoded.reasons[row]}")
    whole = np.full((rows, feature.size), _fill(feature), np.dtype(feature.dtype))
    for owners, values in decoded.groups:
        mark = _marker(feature, rows, partial(_owners, owners, feature.size), problems)
        numbers = _numbers(feature, pa.array(values.reshape(-1)), mark, where)
        whole[owners] = numbers.reshape(len(owners), feature.size)
    return whole.reshape(rows, *feature.shape)


def _owners(rows: np.ndarray, size: int, positions: np.ndarray) -> np.ndarray:
    """The rows that own the values at these positions, if each of `rows` owns `size` consecutive values."""
    owners: np.ndarray = rows[positions // size]
    return owners


def _strings(feature: FeatureSpec, array: pa.Array, mark: _Mark, where: str) -> np.ndarray:
    dtype = array.type
    if not (pt.is_string(dtype) or pt.is_binary(dtype) or pt.is_null(dtype)):
        raise UserError(f"column is {dtype}, and the model takes strings", where)
    # Bytes rather than str, so that text that is not UTF-8 reaches the model unchanged.
    array = array.cast(pa.binary())
    if array.null_count and not (feature.nan and feature.fill is None):
        if feature.fill is None:
            mark(nulls_of(array), lambda at: "is null")
        array = array.fill_null(_fill(feature))
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values


def _images(feature: FeatureSpec, array: pa.Array, problems: Problems) -> np.ndarray:
    nulls = nulls_of(array)
    if feature.fill is None:
        problems.add(nulls, lambda row: f"{feature.name} is null")
    pictures, reasons = decode_images(array.to_pylist(), feature.shape)
    bad = np.zeros(len(nulls), bool)
    bad[list(reasons)] = True
    problems.add(bad, lambda row: f"{feature.name} {reasons[row]}")
    values = pictures.astype(feature.dtype)
    values[nulls] = _fill(feature)
    return values
