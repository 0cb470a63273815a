"""Tensors in columns of bytes, from file to model: what was written, or a line that says how to have it."""

import io
import zlib

import numpy as np
import pyarrow as pa
import pytest

from tests.support import column_worlds
from tests.support.column_worlds import model, rows_of
from transforms.errors import UserError
from transforms.rows.resolve.feature import FeatureRequest, free_input
from transforms.rows.resolve.resolve import ColumnRequest, resolve

X = model(("x", (4,), "float32"))
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) / 2
FORMATS = ["parquet", "tfrecord"]


def serialized(values):
    import tensorflow as tf

    return tf.io.serialize_tensor(values).numpy()


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("encode", "dtype"),
    [
        (lambda row: row.tobytes(), "float32"),
        (lambda row: row.astype("<f8").tobytes(), "float64"),
        (lambda row: zlib.compress(row.tobytes()), "float32"),  # TFDS: Tensor(encoding="zlib")
        (serialized, None),
        (serialized, "float32"),
        (npy, None),
    ],
    ids=["raw", "raw64", "zlib", "proto", "proto told", "npy"],
)
def test_tensors_are_read_and_a_damaged_one_costs_its_row(tmp_path, format, encode, dtype):
    items = [encode(row) for row in ROWS]
    paths = column_worlds.write(tmp_path, format, {"v": pa.array([*items, items[0][:-1]], pa.binary())})
    inputs, reasons = rows_of(paths, X, [FeatureRequest("v", dtype=dtype)])
    assert inputs["x"] == ROWS.tolist()
    assert list(reasons) == [3]
    assert reasons[3].startswith("v has ")


def test_numbers_in_bytes_are_checked_as_others_are(tmp_path):
    values = np.array([[1, np.nan, 0, 0], [1, 2, np.inf, 0], [1, 2, 3, 4], [1, 2, 3, 2.5]], np.float32)
    column = pa.array([row.tobytes() for row in values] + [None], pa.binary())
    paths = column_worlds.write(tmp_path, "parquet", {"v": column})
    whole = model(("x", (4,), "int32"))
    inputs, reasons = rows_of(paths, whole, [FeatureRequest("v", dtype="float32")])
    assert inputs["x"] == [[1, 2, 3, 4]]
    assert reasons == {
        0: "v is NaN",
        1: "v is infinite",
        3: "v is 2.5, and the model takes int32",
        4: "v is null",
    }
    inputs, reasons = rows_of(paths, X, [FeatureRequest("v", dtype="float32", fill=-1.0)])
    assert inputs["x"] == [[1, -1, 0, 0], [1, 2, -1, 0], [1, 2, 3, 4], [1, 2, 3, 2.5], [-1] * 4]
    assert not reasons


def test_one_value_of_bytes_and_one_of_numbers_side_by_side_and_a_function_takes_a_shape(tmp_path):
    column = pa.array([row.tobytes() for row in ROWS], pa.binary())
    paths = column_worlds.write(tmp_path, "parquet", {"v": column, "a": [7.0, 8.0, 9.0]})
    features = [FeatureRequest("v", dtype="float32", shape=(2, 2)), FeatureRequest("a")]
    inputs, _ = rows_of(paths, model(("x", (5,), "float32")), features)
    assert inputs["x"] == [[*row, a] for row, a in zip(ROWS.tolist(), [7.0, 8.0, 9.0], strict=True)]
    inputs, _ = rows_of(paths, None, features)
    assert inputs == {"v": ROWS.reshape(3, 2, 2).tolist(), "a": [7.0, 8.0, 9.0]}
    with pytest.raises(UserError, match="dtype: float32 without a shape"):
        rows_of(paths, None, [FeatureRequest("v", dtype="float32")])


PICTURE = model(("p", (2, 2, 3), "float32"))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def test_tensors_of_the_shape_of_pictures_are_told_from_pictures(tmp_path):
    pixels = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    paths = column_worlds.write(tmp_path, "parquet", {"p": pa.array([serialized(pixels)], pa.binary())})
    inputs, _ = rows_of(paths, PICTURE, None)
    assert inputs["p"] == [pixels.tolist()]
    paths = column_worlds.write(tmp_path, "parquet", {"p": pa.array([pixels.tobytes()], pa.binary())})
    inputs, _ = rows_of(paths, PICTURE, [FeatureRequest("p", dtype="float32")])
    assert inputs["p"] == [pixels.tolist()]


@pytest.mark.parametrize(
    ("signature", "values", "request_of", "message"),
    [
        (
            X, [ROWS[0].tobytes()], {},
            "input.features v: the column's first value has 16 bytes that are not a serialized tensor; "
            "if they are "
            "raw numbers of the shape [4], give their dtype: float32 or int32 or uint32",
        ),
        (
            X, [zlib.compress(ROWS.tobytes())], {},
            f"input.features v: the column's first value has {len(zlib.compress(ROWS.tobytes()))} "
            f"bytes that are not a "
            "serialized tensor; if they are the raw bytes of numbers (np.tobytes()), give their "
            "dtype (such "
            "as float32) and shape; pictures are kind: image",
        ),
        (
            X, [ROWS[0].tobytes()], {"dtype": "float64"},
            "input.features v: the column's first value has 16 bytes, but float64 of the shape [4] "
            "needs 32; if "
            "they are raw numbers of the shape [4], give their dtype: float32 or int32 or uint32",
        ),
        (
            X, [PNG], {"dtype": "float32"},
            "input.features v: the column holds encoded pictures (PNG, JPEG, GIF); give it kind: "
            "image and its "
            "shape, no dtype",
        ),
        (
            PICTURE, [np.zeros(12).tobytes()], {},
            "input.features v: the first 1 values are neither pictures nor 12 raw pixels of one byte; "
            "if they are "
            "raw numbers of the shape [2, 2, 3], give their dtype: float64 or int64 or uint64",
        ),
        (
            X, [npy(np.zeros(3))], {},
            "input.features v: the column's first value has the shape [3], not [4]; it is a .npy, of float64 "
            "[3]: give that shape, or store what the model takes",
        ),
    ],
)  # fmt: skip
def test_bytes_that_cannot_be_read_are_one_line_before_the_run(
    tmp_path, signature, values, request_of, message
):
    paths = column_worlds.write(tmp_path, "parquet", {"v": pa.array(values, pa.binary())})
    with pytest.raises(UserError) as caught:
        rows_of(paths, signature, [FeatureRequest("v", **request_of)])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("signature", "stored", "request_of", "message"),
    [
        (
            X, pa.list_(pa.float32(), 4), {"dtype": "float32"},
            "dtype: float32 is for a column of bytes, but this one holds",
        ),
        (
            model(("x", (1,), "string")), pa.binary(), {"dtype": "float32"},
            "dtype: float32 reads bytes as numbers, but the model takes strings; leave dtype out",
        ),
        (
            model(("x", (None,), "float32")), pa.binary(), {"dtype": "float32"},
            "says how many values a row has; give its shape",
        ),
    ],
)  # fmt: skip
def test_dtype_where_it_means_nothing_is_one_line(tmp_path, signature, stored, request_of, message):
    column = pa.array([None], stored)
    paths = column_worlds.write(tmp_path, "parquet", {"v": column})
    with pytest.raises(UserError) as caught:
        rows_of(paths, signature, [FeatureRequest("v", **request_of)])
    assert message in str(caught.value)


def test_bytes_of_a_shape_without_their_type_are_one_line_to_a_function():
    wanted = r"t: the column holds bytes, and the shape \[2, 3\] does not say .*; give their dtype as well"
    with pytest.raises(UserError, match=wanted):
        free_input(FeatureRequest("t", shape=(2, 3)), pa.binary())
    assert free_input(FeatureRequest("t", shape=(2, 3), dtype="float32"), pa.binary()).shape == (2, 3)
    assert free_input(FeatureRequest("t"), pa.binary()).dtype == "string"


def test_a_function_is_given_pictures_by_the_name_of_their_struct():
    """Hugging Face's column of pictures is {bytes, path}; a function knows it as what it is called there."""
    columns = {"photo.bytes": pa.binary(), "photo.path": pa.string()}
    features = (FeatureRequest("photo", kind="image", shape=(4, 4, 3)),)
    schema = resolve(ColumnRequest(features, {}, None, (), None), None, columns)
    assert [(feature.name, feature.input) for feature in schema.features] == [("photo.bytes", "photo")]
