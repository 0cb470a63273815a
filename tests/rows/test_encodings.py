"""Tensors in bytes: what numpy and TensorFlow write is what is read, and nothing else is taken for one."""

import io
import zlib

import numpy as np
import pyarrow as pa
import pytest

from transforms.rows.encodings import DTYPES, SELF_DESCRIBING, decode_tensors, describe_bytes, tensor_of

WHOLE = [name for name in DTYPES if name != "bfloat16"]


def sample(dtype, shape, seed=0):
    draws = np.random.default_rng(seed).integers(0, 100, shape)
    return (draws % 2 if dtype == "bool" else draws).astype(dtype)


def values(items, dtype, shape):
    """By row the values, or the reason."""
    found = decode_tensors(pa.array(items, pa.binary()), dtype, shape)
    rows = dict(found.reasons)
    for at, tensors in found.groups:
        rows |= {int(row): tensor.tolist() for row, tensor in zip(at, tensors, strict=True)}
    return [rows.get(row) for row in range(len(items))]


@pytest.mark.parametrize("dtype", WHOLE)
def test_raw_values_of_every_type_also_in_slices_with_nulls_and_as_zlib_streams(dtype):
    tensors = [sample(dtype, (2, 3), seed) for seed in range(4)]
    items = [b"x", *(tensor.tobytes() for tensor in tensors), None, zlib.compress(tensors[0].tobytes())]
    expected = [tensor.reshape(-1).tolist() for tensor in tensors]
    whole = pa.array(items, pa.binary())
    assert values(items[1:5], dtype, (2, 3)) == expected
    found = decode_tensors(whole.slice(1, 4), dtype, (2, 3))
    assert found.groups[0][1].tolist() == expected
    reason = f"has 1 bytes, but {dtype} of the shape [2, 3] needs {6 * np.dtype(dtype).itemsize}"
    assert values(items, dtype, (2, 3)) == [reason, *expected, None, expected[0]]


def test_bfloat16_is_the_upper_half_of_float32():
    wanted = np.array([1.5, -2.0, 0.0078125], np.float32)
    halves = (wanted.view(np.uint32) >> 16).astype("<u2")
    assert values([halves.tobytes()], "bfloat16", (3,)) == [wanted.tolist()]


def test_truth_is_one_byte_of_0_or_1():
    assert values([b"\0\1", b"\0\2"], "bool", (2,)) == [
        [False, True],
        "has bytes that are neither true nor false",
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)], ids=str)
def test_serialized_tensors_are_what_tensorflow_reads(dtype, shape):
    import tensorflow as tf

    tensor = tf.cast(sample("int32", shape) % (2 if dtype == "bool" else 100), dtype)
    written = tf.io.serialize_tensor(tensor).numpy()
    also = tf.make_tensor_proto(tensor.numpy(), dtype=dtype).SerializeToString()
    filled = tf.make_tensor_proto(tensor.numpy().reshape(-1)[:1], dtype=dtype, shape=shape)
    for data in (written, also) if 0 in shape else (written, also, filled.SerializeToString()):
        found = tensor_of(data)
        expected = tf.cast(tf.io.parse_tensor(data, dtype), "float64").numpy()
        assert found.astype(np.float64).tolist() == expected.tolist()
        assert found.shape == shape


def test_values_say_what_they_are_and_each_row_its_own_type():
    import tensorflow as tf

    buffer = io.BytesIO()
    np.save(buffer, np.array([1, 2], np.int16))
    big = 2**53 + 1
    items = [
        tf.io.serialize_tensor(tf.constant([1.5, 2.5])).numpy(),
        buffer.getvalue(),
        tf.io.serialize_tensor(tf.constant([big, 0], tf.int64)).numpy(),
        zlib.compress(buffer.getvalue()),
        tf.io.serialize_tensor(tf.constant([1.0])).numpy(),
        tf.io.serialize_tensor(tf.constant(["a", "b"])).numpy(),
        b"",
        np.ones(2, np.float32).tobytes(),
    ]
    assert values(items, SELF_DESCRIBING, (2,)) == [
        [1.5, 2.5],
        [1, 2],
        [big, 0],
        [1, 2],
        "has the shape [1], not [2]",
        f"has {len(items[5])} bytes that are not a serialized tensor",
        "has 0 bytes that are not a serialized tensor",
        "has 8 bytes that are not a serialized tensor",
    ]
    assert describe_bytes(items[0]) == "a serialized tensor, of float32 [2]"
    assert describe_bytes(items[3]) == "a .npy, compressed by zlib, of int16 [2]"
    assert describe_bytes(items[7]) is None


def test_a_tensor_of_another_order_is_none_and_axes_of_one_value_say_nothing():
    import tensorflow as tf

    items = [tf.io.serialize_tensor(tf.zeros(shape)).numpy() for shape in ((2, 3), (3, 2), (1, 2, 3), (6,))]
    found = values(items, "float32", (2, 3))
    assert found == [[0.0] * 6, "has the shape [3, 2], not [2, 3]", [0.0] * 6, [0.0] * 6]


@pytest.mark.parametrize("seed", range(20))
def test_bytes_of_nobodys_are_no_tensor(seed):
    rng = np.random.default_rng(seed)
    for size in range(40):
        assert tensor_of(rng.bytes(size)) is None or size < 12
