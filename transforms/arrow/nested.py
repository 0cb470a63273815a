"""Nested fixed-size lists, which hold tensors: their flat values and the tensors' shape."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def unnested(array: pa.Array) -> tuple[pa.Array, tuple[int, ...]]:
    """The innermost values of all rows, one after another, and the shape of a row's tensor.

    Args:
      array: `[n]` nested fixed-size lists; a column without lists has the shape `()`.
    """
    shape = []
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    return array, tuple(shape)


def as_tensor(array: pa.Array) -> np.ndarray:
    """A column of numbers, strings or nested fixed-size lists as `[n, *shape]`."""
    values, shape = unnested(array)
    tensor: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(len(array), *shape)
    return tensor
