"""Spark's ML vectors, dense and sparse ones in one column, as lists of numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

#: pyspark.ml.linalg.VectorUDT: type 0 is sparse, and has size and indices; 1 is dense, and has values alone.
_FIELDS = {
    "type": pa.int8(),
    "size": pa.int32(),
    "indices": pa.list_(pa.int32()),
    "values": pa.list_(pa.float64()),
}
_SPARSE = 0
#: What a vector is read as.
VECTOR = pa.list_(pa.float64())


def is_vector(kind: pa.DataType) -> bool:
    """Whether a struct is one that Spark writes its vectors as."""
    if not pt.is_struct(kind) or {field.name for field in kind} != set(_FIELDS):
        return False
    return all(_same(kind.field(name).type, wanted) for name, wanted in _FIELDS.items())


def _same(kind: pa.DataType, wanted: pa.DataType) -> bool:
    if pt.is_list(wanted):
        listed = pt.is_list(kind) or pt.is_large_list(kind)
        return listed and bool(kind.value_type == wanted.value_type)
    return bool(kind == wanted)


def dense(array: pa.StructArray) -> pa.Array:
    """The vectors as lists, sparse ones filled with zeros; a null is null.

    A sparse vector whose indices and values do not belong together, or whose size is less than an index, has
    no values: its row is rejected.

    Cost: no work a row in Python; memory of the dense values.
    """
    rows = len(array)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    kinds = array.field("type").fill_null(1).to_numpy(zero_copy_only=False)
    sizes = array.field("size").fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    places, values = array.field("indices"), array.field("values")
    held = _lengths(values)
    sparse = valid & (kinds == _SPARSE)
    lengths = np.where(sparse, sizes, held)
    numbers = values.flatten().to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(rows), held)
    if sparse.any():
        counts = _lengths(places)
        wrong = sparse & ((counts != held) | (sizes < 0))
        at = np.zeros(len(numbers), np.int64)
        own = (sparse & ~wrong)[owners]
        indices = places.flatten().to_numpy(zero_copy_only=False)
        at[own] = indices[(sparse & ~wrong)[np.repeat(np.arange(rows), counts)]]
        beyond = own & ((at < 0) | (at >= sizes[owners]))
        wrong[owners[beyond]] = True
        lengths[wrong] = 0
    lengths[~valid] = 0
    offsets = np.r_[0, np.cumsum(lengths)]
    place = np.arange(len(numbers)) - np.r_[0, np.cumsum(held)][owners] + offsets[owners]
    keep = lengths[owners] > 0
    if sparse.any():
        place = np.where(own, offsets[owners] + at, place)
    flat = np.zeros(offsets[-1])
    flat[place[keep]] = numbers[keep]
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(flat), mask=pa.array(~valid) if not valid.all() else None
    )


def _lengths(lists: pa.Array) -> np.ndarray:
    """Values of each list, none of a null."""
    found: np.ndarray = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)
