"""Decoding tensors in bytes: raw values, TensorFlow's serialized tensors, .npy, and zlib streams of these."""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.sources.tfrecord.protobuf_classes import message_class, message_type

#: Types of raw values, least significant byte first.
DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
#: Stands for a dtype if each value states its own type and shape.
SELF_DESCRIBING = "tensor"

_NPY = b"\x93NUMPY"
#: Least number of bytes in a zlib stream or a serialized tensor.
_SHORTEST = 4
#: By type number in tensorflow/core/framework/types.proto: the dtype, and the field that may hold the values.
_PROTO_TYPES = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    14: ("bfloat16", "half_val"),
    17: ("uint16", "int_val"),
    19: ("float16", "half_val"),
    22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
}


@dataclass
class Decoded:
    """The tensors of a column.

    Args:
      groups: For each dtype, the rows whose tensors have it, `[n]`, and their values, `[n, size]`.
      reasons: By row, the reason why its bytes hold no such tensor.
    """

    groups: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)


def itemsize(dtype: str) -> int:
    """Bytes of a value."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def decode_tensors(array: pa.Array, dtype: str, shape: Sequence[int]) -> Decoded:
    """Decodes the tensors in a column of bytes.

    A value is first tried as a complete zlib stream, a serialized tensor or a .npy. Otherwise it holds raw
    values if its length is that of the shape in this dtype; if not, it is rejected.

    Args:
      array: `[B]` binary; nulls are skipped.
      dtype: One of DTYPES, or SELF_DESCRIBING.
      shape: Shape of each tensor.
    Cost: no Python work per row for raw values; ~10 µs per row for others.
    """
    decoded = Decoded()
    size = int(np.prod(shape, dtype=np.int64))
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
    lengths = np.diff(offsets)
    there = array.is_valid().to_numpy(zero_copy_only=False)
    raw = np.zeros(len(array), bool)
    if dtype != SELF_DESCRIBING:
        raw = there & (lengths == size * itemsize(dtype))
        raw[_only_raw_length(array, offsets, raw, size)] = False
        if raw.any():
            part = array if raw.all() else array.filter(pa.array(raw))
            values = _raw(_bytes_of(part), dtype).reshape(-1, size)
            _add_raw(decoded, np.flatnonzero(raw), values, dtype)
    others = np.flatnonzero(there & ~raw)
    tensors: dict[Any, tuple[list[int], list[np.ndarray]]] = {}
    for row, item in zip(others.tolist(), array.take(pa.array(others)).to_pylist(), strict=True):
        tensor = _tensor(item, dtype, size)
        if tensor is None:
            decoded.reasons[row] = _unknown(item, dtype, shape)
        elif tensor.size != size or (tensor.ndim > 1 and not _alike(tensor.shape, shape)):
            decoded.reasons[row] = f"has the shape {list(tensor.shape)}, not {list(shape)}"
        else:
            rows, values_of = tensors.setdefault(tensor.dtype, ([], []))
            rows.append(row)
            values_of.append(tensor.reshape(-1))
    for rows, values_of in tensors.values():
        _add_raw(decoded, np.array(rows), np.stack(values_of), dtype)
    return decoded


def _only_raw_length(array: pa.Array, offsets: np.ndarray, raw: np.ndarray, size: int) -> list[int]:
    """The rows whose bytes have the length of raw values only by chance, and hold a stream or a tensor."""
    rows = np.flatnonzero(raw)
    if not len(rows) or offsets[rows[0] + 1] - offsets[rows[0]] < _SHORTEST:
        return []
    data = np.frombuffer(array.buffers()[2], np.uint8)
    # The first bytes rule out most rows at little cost; the others are decoded.
    first, second, third = (data[offsets[rows] + byte] for byte in range(3))
    streams = (first & 0x8F == 8) & ((first.astype(np.int32) * 256 + second) % 31 == 0)
    looks = streams | ((first == 0x08) & (third == 0x12)) | ((first == _NPY[0]) & (second == _NPY[1]))
    self_describing = []
    for row in rows[looks].tolist():
        item = array[row].as_py()
        content = _inflated(item)
        tensor = tensor_of(item)
        if content is not None or (tensor is not None and tensor.size == size):
            self_describing.append(row)
    return self_describing


def describe_bytes(item: bytes) -> str | None:
    """A description of a self-describing value; None for other bytes."""
    content, packed = item, ""
    if tensor_of(item) is None and (inflated := _inflated(item)) is not None:
        content, packed = inflated, "compressed by zlib, "
    tensor = tensor_of(content)
    if tensor is None:
        return None
    kind = ".npy" if content.startswith(_NPY) else "serialized tensor"
    return f"a {kind}, {packed}of {tensor.dtype} {list(tensor.shape)}"


def unpacked(item: bytes) -> bytes:
    """The content of a zlib stream; other bytes unchanged."""
    content = _inflated(item)
    return item if content is None else content


def tensor_of(item: bytes) -> np.ndarray | None:
    """The tensor in a .npy or a serialized tensor; None for other bytes."""
    return _npy(item) if item.startswith(_NPY) else _proto(item)


def _add_raw(decoded: Decoded, rows: np.ndarray, values: np.ndarray, dtype: str) -> None:
    if values.dtype == bool and values.view(np.uint8).max(initial=0) > 1:
        odd = (values.view(np.uint8) > 1).any(axis=1)
        decoded.reasons.update(dict.fromkeys(rows[odd].tolist(), "has bytes that are neither true nor false"))
        rows, values = rows[~odd], values[~odd]
    decoded.groups.append((rows, values))


def _tensor(item: bytes, dtype: str, size: int) -> np.ndarray | None:
    tensor = tensor_of(item)
    if tensor is not None:
        return tensor
    inflated = _inflated(item)
    if inflated is None:
        return None
    if dtype != SELF_DESCRIBING and len(inflated) == size * itemsize(dtype):
        return _raw(inflated, dtype)
    return tensor_of(inflated)


def _unknown(item: bytes, dtype: str, shape: Sequence[int]) -> str:
    if dtype == SELF_DESCRIBING:
        return f"has {len(item)} bytes that are not a serialized tensor"
    needed = int(np.prod(shape, dtype=np.int64)) * itemsize(dtype)
    inflated = _inflated(item)
    held = f"{len(item)} bytes" if inflated is None else f"{len(inflated)} bytes in a zlib stream"
    return f"has {held}, but {dtype} of the shape {list(shape)} needs {needed}"


def _bytes_of(array: pa.Array) -> memoryview:
    """The concatenated bytes of all values of a column without nulls."""
    _, starts, data = array.buffers()
    offsets = np.frombuffer(starts, np.int32, len(array) + 1, 4 * array.offset)
    return memoryview(data)[int(offsets[0]) : int(offsets[-1])] if data is not None else memoryview(b"")


def _raw(data: bytes | memoryview, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        wide: np.ndarray = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32)
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    return np.require(values.astype(np.dtype(dtype), copy=False), requirements="A")


def _alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """True if two shapes are equal apart from axes of extent 1."""
    return [extent for extent in one if extent != 1] == [extent for extent in other if extent != 1]


def _inflated(item: bytes) -> bytes | None:
    """The content of a zlib stream; None for other bytes."""
    if len(item) < 6 or item[0] & 0x8F != 8 or int.from_bytes(item[:2], "big") % 31:
        return None
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(item)
    except zlib.error:
        return None
    return content if stream.eof and not stream.unused_data else None


def _npy(item: bytes) -> np.ndarray | None:
    try:
        array = np.load(io.BytesIO(item), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
    # A model does not take complex numbers, dates or strings.
    return array if isinstance(array, np.ndarray) and array.dtype.kind in "biuf" else None


def _proto(item: bytes) -> np.ndarray | None:
    """The values of a tensorflow.TensorProto; None for other bytes, and for tensors of other than numbers."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    proto = _tensor_class()()
    try:
        proto.ParseFromString(item)
    except DecodeError:
        return None
    if proto.dtype not in _PROTO_TYPES or proto.tensor_shape.unknown_rank:
        return None
    dtype, place = _PROTO_TYPES[proto.dtype]
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if min(shape, default=0) < 0:
        return None
    # In Python's integers, because the shape in damaged bytes may overflow those of numpy.
    size = functools.reduce(lambda one, other: one * other, shape, 1)
    content = proto.tensor_content
    if content:
        return _raw(content, dtype).reshape(shape) if len(content) == size * itemsize(dtype) else None
    given = getattr(proto, place)
    if not 0 < len(given) <= size or (len(given) < size and size > _MOST_REPEATED):
        return None if size or len(given) else _raw(b"", dtype).reshape(shape)
    if place == "half_val":
        values = _raw(np.array(given, np.uint32).astype("<u2").tobytes(), dtype)
    else:
        values = np.array(given).astype(dtype)
    # Values left out at the end repeat the last one.
    return np.r_[values, np.repeat(values[-1:], size - len(values))].reshape(shape)


#: Most values of a tensor whose repeated last value is left out: damaged bytes could ask for any size.
_MOST_REPEATED = 1 << 24


@functools.cache
def _tensor_class() -> Any:
    """The message class of tensorflow.TensorProto, built here so that planning does not import TensorFlow."""
    from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="attribeam/tensor.proto", package="attribeam", syntax="proto3"
    )

    shape = message_type(
        file.message_type,
        "TensorShape",
        ("dim*", 2, kinds.TYPE_MESSAGE, ".attribeam.TensorShape.Dim"),
        ("unknown_rank", 3, kinds.TYPE_BOOL, ""),
    )
    message_type(
        shape.nested_type, "Dim", ("size", 1, kinds.TYPE_INT64, ""), ("name", 2, kinds.TYPE_STRING, "")
    )
    message_type(
        file.message_type,
        "Tensor",
        ("dtype", 1, kinds.TYPE_INT32, ""),
        ("tensor_shape", 2, kinds.TYPE_MESSAGE, ".attribeam.TensorShape"),
        ("version_number", 3, kinds.TYPE_INT32, ""),
        ("tensor_content", 4, kinds.TYPE_BYTES, ""),
        ("float_val*", 5, kinds.TYPE_FLOAT, ""),
        ("double_val*", 6, kinds.TYPE_DOUBLE, ""),
        ("int_val*", 7, kinds.TYPE_INT32, ""),
        ("int64_val*", 10, kinds.TYPE_INT64, ""),
        ("bool_val*", 11, kinds.TYPE_BOOL, ""),
        ("half_val*", 13, kinds.TYPE_INT32, ""),
        ("uint32_val*", 16, kinds.TYPE_UINT32, ""),
        ("uint64_val*", 17, kinds.TYPE_UINT64, ""),
    )
    return message_class(file, "attribeam.Tensor")
