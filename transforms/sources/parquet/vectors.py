"""Spark's ML vectors, dense and sparse, as lists of numbers."""

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
#: The type as which a vector is read.
VECTOR = pa.list_(pa.float64())


def is_vector(dtype: pa.DataType) -> bool:
    """True for the struct type in which Spark writes its vectors."""
    if not pt.is_struct(dtype) or {field.name for field in dtype} != set(_FIELDS):
        return False
    return all(_same(dtype.field(name).type, wanted) for name, wanted in _FIELDS.items())


def _same(dtype: pa.DataType, wanted: pa.DataType) -> bool:
    if pt.is_list(wanted):
        listed = pt.is_list(dtype) or pt.is_large_list(dtype)
        return listed and bool(dtype.value_type == wanted.value_type)
    return bool(dtype == wanted)


def dense(array: pa.StructArray) -> pa.Array:
    """The vectors as lists, with zeros filled into sparse ones; nulls stay null.

    A sparse vector becomes an empty list, so that its row is rejected, if its indices and values differ in
    number or an index is outside its size.

    Cost: no Python work per row; memory of the dense values.
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
        indices_of = np.zeros(len(numbers), np.int64)
        own = (sparse & ~wrong)[owners]
        indices = places.flatten().to_numpy(zero_copy_only=False)
        indices_of[own] = indices[(sparse & ~wrong)[np.repeat(np.arange(rows), counts)]]
        beyond = own & ((indices_of < 0) | (indices_of >= sizes[owners]))
        wrong[owners[beyond]] = True
        lengths[wrong] = 0
    lengths[~valid] = 0
    offsets = np.r_[0, np.cumsum(lengths)]
    targets = np.arange(len(numbers)) - np.r_[0, np.cumsum(held)][owners] + offsets[owners]
    keep = lengths[owners] > 0
    if sparse.any():
        targets = np.where(own, offsets[owners] + indices_of, targets)
    flat = np.zeros(offsets[-1])
    flat[targets[keep]] = numbers[keep]
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(flat), mask=pa.array(~valid) if not valid.all() else None
    )


def _lengths(lists: pa.Array) -> np.ndarray:
    """The number of values in each list, 0 for a null."""
    lengths: np.ndarray = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)
