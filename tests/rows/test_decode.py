"""Columns to tensors: every type, and every defect rejecting its row, with its reason, and no other."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.arrow.value_text import as_text
from transforms.arrow.values import slice_type
from transforms.errors import UserError
from transforms.rows.decode import decode, join
from transforms.rows.images import decode_images
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources.base import RawBatch, Rejection

FIRST = 100  # number in its file of a batch's first row
BEFORE = 1000  # rows of the input before the file


def feature(name="x", dtype="float32", shape=(), fill=None, kind="numeric", start=0):
    return FeatureSpec(name, kind, dtype, shape, pa.null(), fill, name, start)


def schema_of(*features, **parts):
    return ExampleSchema(features, {f.name: f.shape for f in features}, {}, **parts)


def run(schema, columns, targets=3, rejected=()):
    batch = pa.record_batch(columns) if isinstance(columns, dict) else columns
    raw = RawBatch(batch, np.arange(len(batch)) + FIRST, tuple(rejected))
    return decode(raw, schema, "in/ü.parquet", BEFORE, targets)


def run_one(array, **spec):
    """The values of a single column, and {position in the batch: reason}."""
    rows, rejected = run(schema_of(feature(**spec)), {"x": array})
    reasons = {one.row - FIRST: one.reason for one in rejected}
    assert all(one.stage == "decode" and one.file == "in/ü.parquet" for one in rejected)
    assert (rows.rows - FIRST).tolist() == [row for row in range(len(array)) if row not in reasons]
    values = rows.features["x"]
    shape = spec.get("shape", ())
    assert values.shape == (len(rows), *shape)
    assert values.dtype == (
        object if spec.get("dtype") == "string" else np.dtype(spec.get("dtype", "float32"))
    )
    return values, reasons


NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize(
    "wanted", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "uint64"]
)
@pytest.mark.parametrize("stored", [*NUMBERS, *FLOATS, pa.decimal128(9, 2), pa.decimal256(60, 3)], ids=str)
def test_numbers_of_every_type_and_a_null_among_them(stored, wanted):
    array = pa.array([3, None, 0, 100], pa.int8()).cast(stored)
    values, reasons = run_one(array, dtype=wanted)
    assert values.tolist() == [3, 0, 100]
    assert reasons == {1: "x is null"}
    values, reasons = run_one(array.slice(1), dtype=wanted, fill=7)
    assert values.tolist() == [7, 0, 100]
    assert not reasons


def test_negative_numbers_and_bools():
    assert run_one(pa.array([-3, 2], pa.int8()))[0].tolist() == [-3, 2]
    assert run_one(pa.array([True, None, False]), fill=True)[0].tolist() == [1, 1, 0]
    assert run_one(pa.array([True, False]), dtype="bool")[0].tolist() == [True, False]
    values, reasons = run_one(pa.array([0.0, 1.0, 0.5, 2.0, np.nan]), dtype="bool")
    assert values.tolist() == [False, True]
    assert reasons == {
        2: "x is 0.5, and the model takes 0 or 1",
        3: "x is 2.0, and the model takes 0 or 1",
        4: "x is NaN",
    }


def test_whole_numbers_beyond_float64_stay_exact_beside_a_null():
    big = 2**53 + 1
    assert run_one(pa.array([big, None], pa.int64()), dtype="int64", fill=-1)[0].tolist() == [big, -1]
    values, reasons = run_one(pa.array([2**64 - 1, None, big], pa.uint64()), dtype="uint64")
    assert values.tolist() == [2**64 - 1, big]
    assert list(reasons) == [1]
    assert run_one(pa.array([2**63, big], pa.uint64()), dtype="int64")[0].tolist() == [big]


@pytest.mark.parametrize(
    ("stored", "value", "dtype", "reason"),
    [
        (pa.int64(), 2**31, "int32", "x is 2147483648, beyond the range of the model's int32"),
        (pa.int64(), -(2**31) - 1, "int32", "x is -2147483649, beyond the range of the model's int32"),
        (pa.uint64(), 2**63, "int64", "x is 9223372036854775808, beyond the range of the model's int64"),
        (pa.int8(), -1, "uint64", "x is -1, beyond the range of the model's uint64"),
        (pa.float64(), 2.0**63, "int64", "x is 9.223372036854776e+18, beyond the range of the model's int64"),
        (
            pa.float64(),
            2.0**64,
            "uint64",
            "x is 1.8446744073709552e+19, beyond the range of the model's uint64",
        ),
        (pa.float32(), 128.0, "int8", "x is 128.0, beyond the range of the model's int8"),
        (pa.float64(), 3.5, "int64", "x is 3.5, and the model takes int64"),
        (pa.float16(), 0.5, "uint8", "x is 0.5, and the model takes uint8"),
        (pa.decimal128(5, 1), decimal.Decimal("3.5"), "int32", "x is 3.5, and the model takes int32"),
        (pa.float64(), 1e39, "float32", "x is 1e+39, beyond the range of the model's float32"),
        (pa.float64(), -1e39, "float32", "x is -1e+39, beyond the range of the model's float32"),
        (pa.uint16(), 65535, "float16", "x is 65535, beyond the range of the model's float16"),
        (pa.float32(), float("-inf"), "float32", "x is infinite"),
        (pa.float16(), float("nan"), "float64", "x is NaN"),
    ],
)
def test_a_value_that_the_model_cannot_take_rejects_its_row(stored, value, dtype, reason):
    array = pa.array([1, value, 2], stored)
    values, reasons = run_one(array, dtype=dtype)
    assert values.tolist() == [1, 2]
    assert reasons == {1: reason}


def test_the_largest_values_that_fit_are_taken():
    assert run_one(pa.array([2**31 - 1, -(2**31)], pa.int64()), dtype="int32")[0].tolist() == [
        2**31 - 1,
        -(2**31),
    ]
    assert run_one(pa.array([2**63 - 1], pa.uint64()), dtype="int64")[0].tolist() == [2**63 - 1]
    assert run_one(pa.array([-(2.0**63)]), dtype="int64")[0].tolist() == [-(2**63)]
    assert run_one(pa.array([127.0, -128.0], pa.float32()), dtype="int8")[0].tolist() == [127, -128]
    assert run_one(pa.array([3.4e38]))[0][0] == np.float32(3.4e38)


def test_fill_replaces_null_nan_and_infinity_but_not_what_does_not_fit():
    array = pa.array([1.0, None, np.nan, np.inf, -np.inf, 1e39])
    values, reasons = run_one(array, fill=-2.5)
    assert values.tolist() == [1, -2.5, -2.5, -2.5, -2.5]
    assert list(reasons) == [5]
    assert run_one(pa.nulls(2), fill=3)[0].tolist() == [3, 3]
    assert run_one(pa.nulls(2))[1] == {0: "x is null", 1: "x is null"}


def test_what_lies_under_a_null_is_never_looked_at():
    hidden = np.array([np.nan, np.inf, 1e300, 5.0])
    array = pa.Array.from_buffers(
        pa.float64(), 4, [pa.array([False, False, False, True]).buffers()[1], pa.py_buffer(hidden)]
    )
    assert array.to_pylist() == [None, None, None, 5.0]
    values, reasons = run_one(array)
    assert values.tolist() == [5]
    assert set(reasons.values()) == {"x is null"}
    values, reasons = run_one(array, fill=0, dtype="int8")
    assert (values.tolist(), reasons) == ([0, 0, 0, 5], {})


@pytest.mark.parametrize(
    "stored",
    [
        pa.string(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
    ids=str,
)
def test_strings_of_every_type_reach_the_model_as_bytes(stored):
    array = pa.array(["UA", None, "Zürich", ""], pa.string())
    array = array.dictionary_encode() if pa.types.is_dictionary(stored) else array.cast(stored)
    values, reasons = run_one(array, dtype="string")
    assert values.tolist() == [b"UA", "Zürich".encode(), b""]
    assert reasons == {1: "x is null"}
    values, reasons = run_one(array.slice(1, 2), dtype="string", fill="ø")
    assert (values.tolist(), reasons) == (["ø".encode(), "Zürich".encode()], {})


def test_bytes_need_not_be_utf8():
    assert run_one(pa.array([b"\xff\x00a"]), dtype="string")[0].tolist() == [b"\xff\x00a"]
    assert run_one(pa.array([b"ab", b"cd"], pa.binary(2)), dtype="string")[0].tolist() == [b"ab", b"cd"]
    assert run_one(pa.nulls(1), dtype="string")[1] == {0: "x is null"}


@pytest.mark.parametrize(
    ("array", "spec", "message"),
    [
        (pa.array(["a"]), {}, "in/ü.parquet: x: column is string, and the model takes float32"),
        (pa.array([1]), {"dtype": "string"}, "in/ü.parquet: x: column is int64, and the model takes strings"),
        (pa.array([1.0]), {"shape": (2,)}, "in/ü.parquet: x: column is double, and 2 values are needed"),
        (
            pa.array([["a"]]),
            {"shape": (1,)},
            "in/ü.parquet: x: column is string, and the model takes float32",
        ),
    ],
)
def test_a_file_with_a_column_of_another_type_is_an_error_that_names_both(array, spec, message):
    with pytest.raises(UserError) as caught:
        run_one(array, **spec)
    assert str(caught.value) == message


LISTS = [
    pa.list_(pa.float64()),
    pa.large_list(pa.float32()),
    pa.list_(pa.float64(), 3),
    pa.list_view(pa.float64()),
    pa.list_(pa.int8()),
    pa.list_(pa.dictionary(pa.int8(), pa.float64())),
]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_lists_of_every_type_and_a_null_among_them(kind):
    values, reasons = run_one(pa.array([[9, 9, 9], [1, 2, 3], None, [4, 5, 6]], kind).slice(1), shape=(3,))
    assert values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert reasons == {1: "x is null"}
    values, reasons = run_one(pa.array([[1, 2, 3], None], kind), shape=(3,), fill=7, dtype="int64")
    assert values.tolist() == [[1, 2, 3], [7, 7, 7]]
    assert not reasons


def test_half_floats_all_of_which_are_null_for_a_model_of_whole_numbers():
    values, reasons = run_one(pa.nulls(2, pa.float16()), dtype="uint64")
    assert (len(values), reasons) == (0, {0: "x is null", 1: "x is null"})


def test_every_defect_of_a_list():
    array = pa.array(
        [[1, 2], [1], None, [], [1, 2, 3], [None, 2], [1, np.nan], [np.inf, 1], [3, 4]],
        pa.list_(pa.float64()),
    )
    values, reasons = run_one(array, shape=(2,))
    assert values.tolist() == [[1, 2], [3, 4]]
    assert reasons == {
        1: "x has 1 value, not 2",
        2: "x is null",
        3: "x has no values",
        4: "x has 3 values, not 2",
        5: "x is null",
        6: "x is NaN",
        7: "x is infinite",
    }
    values, reasons = run_one(array, shape=(2,), fill=-1)
    assert values.tolist() == [[1, 2], [-1, -1], [-1, 2], [1, -1], [-1, 1], [3, 4]]
    assert reasons == {1: "x has 1 value, not 2", 3: "x has no values", 4: "x has 3 values, not 2"}
    values, reasons = run_one(pa.array([[1, 300], [2, 3]]), shape=(2,), dtype="uint8")
    assert reasons == {0: "x is 300, beyond the range of the model's uint8"}


def test_a_tfrecord_feature_that_some_records_lack_is_a_scalar_all_the_same():
    ragged = pa.array([[5], None, [], [1, 2], [6]], pa.list_(pa.int64()))
    values, reasons = run_one(ragged, dtype="int64")
    assert values.tolist() == [5, 6]
    assert reasons == {1: "x is null", 2: "x has no values", 3: "x has 2 values, not 1"}
    values, reasons = run_one(ragged, dtype="int64", fill=0)
    assert (values.tolist(), reasons) == ([5, 0, 0, 6], {3: "x has 2 values, not 1"})
    words = pa.array([[b"a"], None, [b"b"]], pa.list_(pa.binary()))
    assert run_one(words, dtype="string", fill="?")[0].tolist() == [b"a", b"?", b"b"]
    assert run_one(words, dtype="string")[1] == {1: "x is null"}


def test_string_lists():
    array = pa.array([["a", "b"], ["c", None], ["d"], None], pa.list_(pa.string()))
    values, reasons = run_one(array, dtype="string", shape=(2,))
    assert values.tolist() == [[b"a", b"b"]]
    assert reasons == {1: "x is null", 2: "x has 1 value, not 2", 3: "x is null"}
    values, reasons = run_one(array, dtype="string", shape=(2,), fill="z")
    assert values.tolist() == [[b"a", b"b"], [b"c", b"z"], [b"z", b"z"]]


def nested(values, depth, leaf=pa.float32(), size=None):  # noqa: B008
    kind = leaf
    for axis in range(depth):
        kind = pa.list_(kind, size[-1 - axis]) if size else pa.list_(kind)
    return pa.array(values, kind)


@pytest.mark.parametrize("fixed", [False, True])
def test_nested_lists_fill_a_shape_row_major(fixed):
    pictures = np.arange(3 * 64, dtype=np.float32).reshape(3, 8, 8)
    rows = [pictures[0].tolist(), None, pictures[1].tolist(), pictures[2].tolist()]
    array = nested(rows, 2, size=(8, 8) if fixed else None).slice(1)
    values, reasons = run_one(array, shape=(8, 8, 1))
    np.testing.assert_array_equal(values[..., 0], pictures[1:])
    assert reasons == {0: "x is null"}
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(pictures)
    np.testing.assert_array_equal(run_one(tensors, shape=(8, 8, 1))[0][..., 0], pictures)
    np.testing.assert_array_equal(run_one(tensors.storage, shape=(8, 8))[0], pictures)


def test_nested_lists_of_another_form_are_rejected_though_they_hold_as_many_values():
    array = nested(
        [
            [[1, 2, 3], [4, 5, 6]],
            [[1, 2], [3, 4], [5, 6]],
            [[1, 2, 3, 4], [5, 6]],
            [[1, 2, 3], None],
            None,
            [[]],
            [],
        ],
        2,
    )
    values, reasons = run_one(array, shape=(2, 3))
    assert values.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert reasons == {
        1: "x has the shape [3, 2], not [2, 3]",
        2: "x is ragged: its lists differ in length",
        3: "x has 3 values, not 6",
        4: "x is null",
        5: "x has no values",
        6: "x has no values",
    }
    deep = nested([[[[1, 2], [3, 4]], [[5, 6, 7], [8]]]], 3)
    assert run_one(deep, shape=(2, 2, 2))[1] == {0: "x is ragged: its lists differ in length"}
    # A flat feature takes any nesting in its order; axes of one value say nothing.
    assert run_one(nested([[[1, 2], [3]]], 2), shape=(3,))[0].tolist() == [[1, 2, 3]]
    assert run_one(nested([[[1], [2]]], 2), shape=(1, 2))[0].tolist() == [[[1, 2]]]


IDS = [
    (pa.array(["a", "Zürich"]), ["a", "Zürich"]),
    (pa.array([b"a", b"\xff"]), ["a", r"\xff"]),
    (pa.array([2**60 + 1, -2]), ["1152921504606846977", "-2"]),
    (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
    (pa.array([1.5, 2.0]), ["1.5", "2"]),
    (pa.array([True, False]), ["true", "false"]),
    (pa.array([datetime.date(2013, 1, 1), datetime.date(2013, 1, 2)]), ["2013-01-01", "2013-01-02"]),
    (pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")]), ["1.5", "2"]),
    (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
    (pa.array([b"\xff\xfe", b"\xff\xfd"], pa.binary(2)), [r"\xff\xfe", r"\xff\xfd"]),
]


@pytest.mark.parametrize(("array", "expected"), IDS, ids=lambda value: str(getattr(value, "type", "")))
def test_ids_of_every_type_are_text(array, expected):
    schema = schema_of(feature(), id=("key", array.type))
    rows, _ = run(schema, {"key": array, "x": pa.array([1.0, 2.0])})
    assert rows.ids.tolist() == expected
    assert all(type(one) is str for one in rows.ids)


def test_a_string_column_that_is_not_utf8_does_not_stop_the_run():
    lying = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xe9"]).buffers())
    assert as_text(lying).to_pylist() == ["ok", r"\xe9"]


def test_without_an_id_column_rows_are_called_by_file_and_number():
    rows, _ = run(schema_of(feature()), {"x": pa.array([1.0, None, 2.0])})
    assert rows.ids.tolist() == ["in/ü.parquet:100", "in/ü.parquet:102"]
    assert rows.rows.tolist() == [100, 102]
    assert rows.ordinals.tolist() == [1100, 1102]
    assert rows.file.tolist() == ["in/ü.parquet"] * 2


def test_a_null_id_rejects_its_row_and_the_others_are_rejected_under_their_ids():
    schema = schema_of(feature(), id=("key", pa.string()))
    earlier = Rejection("in/ü.parquet", 99, "read", "damaged")
    _, rejected = run(
        schema, {"key": pa.array(["a", None, "c"]), "x": pa.array([1.0, 2.0, None])}, rejected=[earlier]
    )
    assert rejected == [
        earlier,
        Rejection("in/ü.parquet", 101, "decode", "id key is null", None),
        Rejection("in/ü.parquet", 102, "decode", "x is null", "c"),
    ]


def test_the_first_defect_of_a_row_is_its_reason():
    schema = schema_of(feature("a"), feature("b"))
    _, rejected = run(schema, {"a": pa.array([1.0, None]), "b": pa.array([np.nan, np.nan])})
    assert [one.reason for one in rejected] == ["b is NaN", "a is null"]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.decimal128(5, 1)], ids=str
)
def test_a_target_column_of_any_number_type(kind):
    array = pa.array([0, 2, None, 3, 1], pa.int8()).cast(kind)
    rows, rejected = run(schema_of(feature(), target=("y", kind)), {"y": array, "x": pa.array([1.0] * 5)})
    assert rows.targets.dtype == np.int64
    assert rows.targets.tolist() == [0, 2, 1]
    assert [(one.row, one.reason.split(".")[0]) for one in rejected[:1]] == [(102, "target y is null")]
    assert rejected[1].reason.startswith("target y is 3")
    assert rejected[1].reason.endswith(", not an output from 0 to 2")


def test_target_columns_of_bools_and_fractions():
    schema = schema_of(feature(), target=("y", pa.float64()))
    rows, rejected = run(schema, {"y": pa.array([1.0, 0.5, -1.0, np.nan, np.inf]), "x": pa.array([1.0] * 5)})
    assert rows.targets.tolist() == [1]
    assert [one.reason.split(",")[0] for one in rejected] == [
        f"target y is {value}" for value in ("0.5", "-1.0", "nan", "inf")
    ]
    rows, _ = run(schema, {"y": pa.array([True, False]), "x": pa.array([1.0] * 2)})
    assert rows.targets.tolist() == [1, 0]
    with pytest.raises(UserError, match="y: column is string, and the index of an output is needed"):
        run(schema, {"y": pa.array(["1"]), "x": pa.array([1.0])})


def test_a_column_of_both_kinds_of_number_is_read_kind_by_kind():
    def column(codes, whole, others):
        offsets = [codes[:i].count(code) for i, code in enumerate(codes)]
        arrays = [pa.array(whole), pa.array(others, pa.float32())]
        return pa.UnionArray.from_dense(pa.array(codes, pa.int8()), pa.array(offsets, pa.int32()), arrays)

    columns = {
        "x": column([0, 1, 0, 1, 1], [2**53 + 1, None], [2.0, 2.5, 1e30]),
        "y": column([1, 0, 1, 0, 1], [2, 1], [1.0, 0.0, 0.5]),
        "s": column([0, 0, 0, 0, 1], [1, 2, 3, 4], [5.0]),
    }
    parts = {"id": ("x", pa.int64()), "target": ("y", pa.int64()), "slices": (("s", pa.int64()),)}
    rows, rejected = run(schema_of(feature(dtype="int64"), **parts), columns)
    assert rows.features["x"].tolist() == [2**53 + 1, 2]
    assert (rows.ids.tolist(), rows.targets.tolist()) == ([str(2**53 + 1), "2"], [1, 2])
    assert rows.slices["s"].to_pylist() == [1, 2]
    assert {one.row - FIRST: (one.reason, one.example_id) for one in rejected} == {
        2: ("id x is null", None),
        3: ("x is 2.5, and the model takes int64", "2.5"),
        4: ("x is 1.0000000150474662e+30, beyond the range of the model's int64", "1e+30"),
    }
    rows, rejected = run(schema_of(feature("y"), target=("y", pa.int64())), columns)
    assert (rows.features["y"].tolist(), rows.targets.tolist()) == ([1, 2, 0, 1], [1, 2, 0, 1])
    assert [one.reason for one in rejected] == ["target y is 0.5, not an output from 0 to 2"]


SLICES = [
    (pa.array([1, None, 3], pa.int8()), pa.int8()),
    (pa.array([1.5, None, np.nan], pa.float16()), pa.float16()),
    (pa.array([True, None, False]), pa.bool_()),
    (pa.array([datetime.date(2013, 1, 1)] * 3), pa.date32()),
    (pa.array(["a", None, "null"]), pa.string()),
    (pa.array(["a", None, "a"]).dictionary_encode(), pa.string()),
    (pa.array([b"a", None, b"c"]), pa.string()),
    (pa.array([decimal.Decimal("1.5"), None, None]), pa.string()),
    (pa.nulls(3), pa.string()),
]


@pytest.mark.parametrize(("array", "kind"), SLICES, ids=lambda value: str(getattr(value, "type", value)))
def test_slices_keep_their_type_and_their_nulls(array, kind):
    assert slice_type(array.type) == kind
    schema = schema_of(feature(), slices=(("s", array.type),))
    rows, _ = run(schema, {"s": array, "x": pa.array([1.0, None, 2.0])})
    found = rows.slices["s"]
    assert found.type == kind
    assert str(found.to_pylist()) == str(as_plain(array.take(pa.array([0, 2])), kind))


def as_plain(array, kind):
    found = array.to_pylist()
    if not pa.types.is_string(kind):
        return found
    return [v.decode() if isinstance(v, bytes) else None if v is None else str(v) for v in found]


def test_a_slice_of_another_number_type_in_another_file_loses_nothing():
    schema = schema_of(feature(), slices=(("s", pa.int8()),))
    rows, rejected = run(schema, {"s": pa.array([1.0, None, 2.5, 300.0]), "x": pa.array([1.0] * 4)})
    assert rows.slices["s"].type == pa.int8()
    assert rows.slices["s"].to_pylist() == [1, None]
    assert [one.reason for one in rejected] == [
        "slice s is 2.5, and the column is int8 in other rows",
        "slice s is 300, and the column is int8 in other rows",
    ]
    schema = schema_of(feature(), slices=(("s", pa.float32()),))
    rows, rejected = run(schema, {"s": pa.array([0.1]), "x": pa.array([1.0])})
    assert (rows.slices["s"].to_pylist(), rejected) == ([pytest.approx(0.1)], [])


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_minus_zero_is_the_slice_zero(kind):
    array = pa.array([-0.0, 0.0, None, -1.5, np.nan], pa.float32()).cast(kind)
    rows, _ = run(schema_of(feature(), slices=(("s", kind),)), {"s": array, "x": pa.array([1.0] * 5)})
    assert rows.slices["s"].type == kind
    assert as_text(rows.slices["s"]).to_pylist() == ["0", "0", None, "-1.5", "nan"]
    # As text, too, where the type over all files is none of numbers.
    text = schema_of(feature(), slices=(("s", pa.decimal128(20)),))
    rows, _ = run(text, {"s": array, "x": pa.array([1.0] * 5)})
    assert rows.slices["s"].to_pylist() == ["0", "0", None, "-1.5", "nan"]


def test_whole_numbers_that_no_float_holds_are_no_slice_of_floats():
    schema = schema_of(feature(), slices=(("s", pa.float64()),))
    rows, rejected = run(schema, {"s": pa.array([2**53, 2**53 + 1, 7]), "x": pa.array([1.0] * 3)})
    assert rows.slices["s"].to_pylist() == [2**53, 7]
    assert [one.reason for one in rejected] == [
        "slice s is 9007199254740993, and the column is double in other rows"
    ]


def encoded(pixels, kind="png"):
    import tensorflow as tf

    return getattr(tf.io, f"encode_{kind}")(pixels).numpy()


RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 6, 1), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(4, 6, 1), (4, 6), (4, 6, 3), (4, 6, 4)], ids=str)
def test_png_and_raw_bytes_give_the_same_pixels(shape):
    pixels = RNG.integers(0, 256, (5, *shape), dtype=np.uint8)
    whole = pixels if len(shape) == 3 else pixels[..., None]
    data = [encoded(picture) for picture in whole]
    data[2] = pixels[2].tobytes()
    for array in (pa.array([*data, None], pa.binary()), pa.array([*data, None], pa.large_binary())):
        values, reasons = run_one(array, kind="image", shape=shape)
        np.testing.assert_array_equal(values, pixels)
        assert reasons == {5: "x is null"}
    values, _ = run_one(pa.array([None, data[0]], pa.binary()), kind="image", shape=shape, fill=9.5)
    np.testing.assert_array_equal(values, [np.full(shape, 9.5), pixels[0]])


def test_jpeg_is_decoded_as_tensorflow_decodes_it_and_grey_becomes_colour():
    import tensorflow as tf

    data = encoded(COLOUR, "jpeg")
    values, _ = run_one(pa.array([data, encoded(GREY)]), kind="image", shape=(4, 6, 3), dtype="uint8")
    np.testing.assert_array_equal(values[0], tf.io.decode_jpeg(data).numpy())
    np.testing.assert_array_equal(values[1], np.repeat(GREY, 3, axis=2))


def test_pictures_as_lists_of_numbers():
    flat = [GREY.reshape(-1).tolist(), None, GREY.reshape(-1).tolist()[:-1]]
    values, reasons = run_one(pa.array(flat), kind="image", shape=(4, 6, 1))
    np.testing.assert_array_equal(values, GREY[None])
    assert reasons == {1: "x is null", 2: "x has 23 values, not 24"}
    values, _ = run_one(nested([COLOUR.tolist()], 3, pa.uint8()), kind="image", shape=(4, 6, 3))
    np.testing.assert_array_equal(values, COLOUR[None])


def test_damaged_pictures_are_found_among_many():
    good = encoded(GREY)
    data = [good] * 300
    bad = {
        7: (good[:-20], "could not be decoded: "),
        8: (b"\xff\xd8\xff broken", "could not be decoded: "),
        100: (encoded(GREY[:3]), "is a picture of [3, 6, 1], not [4, 6, 1]"),
        101: (b"", "is not PNG or JPEG, and its 0 bytes are not the 24 of a raw picture"),
        298: (b"x" * 25, "is not PNG or JPEG, and its 25 bytes are not the 24 of a raw picture"),
        299: (b"x" * 23, "is not PNG or JPEG, and its 23 bytes are not the 24 of a raw picture"),
    }
    for row, (item, _) in bad.items():
        data[row] = item
    values, reasons = run_one(pa.array(data), kind="image", shape=(4, 6, 1))
    assert (values == GREY).all()
    assert list(reasons) == list(bad)
    for row, (_, reason) in bad.items():
        assert reasons[row].startswith(f"x {reason}")
        assert "{{" not in reasons[row]
        assert "[Op" not in reasons[row]


def test_pictures_of_shapes_that_cannot_be_encoded():
    pixels, reasons = decode_images([encoded(GREY), GREY.tobytes(), None], (4, 3, 2))
    assert reasons == {0: "is an encoded picture, which cannot have the shape [4, 3, 2]"}
    np.testing.assert_array_equal(pixels[1], GREY.reshape(4, 3, 2))


def test_taking_rows_by_slice_mask_and_index_and_joining_them():
    schema = schema_of(
        feature("a"), feature("w", "string", (2,)), slices=(("s", pa.string()),), target=("y", pa.int8())
    )
    columns = {
        "a": pa.array([0.0, 1.0, 2.0, 3.0]),
        "w": pa.array([[str(i), "x"] for i in range(4)]),
        "s": pa.array(["p", None, "q", "r"]),
        "y": pa.array([0, 1, 2, 0], pa.int8()),
    }
    rows, _ = run(schema, columns)

    def content(found):
        return [
            found.features["a"].tolist(),
            found.features["w"].tolist(),
            found.ids.tolist(),
            found.rows.tolist(),
            found.slices["s"].to_pylist(),
            found.targets.tolist(),
            found.ordinals.tolist(),
            found.file.tolist(),
        ]

    picked = [
        rows.take(slice(1, 3)),
        rows.take(np.array([False, True, True, False])),
        rows.take(np.array([1, 2])),
        join([rows.take(slice(1, 2)), rows.take(slice(2, 3))]),
        rows.take(slice(1, None)).take(slice(0, 2)),
    ]
    for found in picked:
        assert len(found) == 2
        assert content(found) == [values[1:3] for values in content(rows)]
    assert content(rows.take(slice(0, 9))) == content(rows)
    assert len(rows.take(slice(4, None))) == 0


# One row of each kind of damage, by column; None is a sound row.
DAMAGE = {
    "f": [None, np.nan, np.inf, 1e39],
    "i": [None, 3.5, 2.0**40],
    "c": [None],
    "t": [None, [1.0], [1.0, None], [np.nan, 1.0], []],
    "y": [None, 7, -1],
    "key": [None],
}


@st.composite
def batches(draw):
    """Columns of sound values with damage here and there, and which rows are damaged and where."""
    rows = draw(st.integers(1, 30))
    columns = {
        "f": draw(st.lists(st.floats(-1e30, 1e30), min_size=rows, max_size=rows)),
        "i": draw(st.lists(st.integers(-(2**31), 2**31 - 1).map(float), min_size=rows, max_size=rows)),
        "c": draw(st.lists(st.text(max_size=4), min_size=rows, max_size=rows)),
        "t": draw(st.lists(st.lists(st.floats(-9, 9), min_size=2, max_size=2), min_size=rows, max_size=rows)),
        "y": draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows)),
        "key": [f"id{i}" for i in range(rows)],
    }
    sound = {name: list(values) for name, values in columns.items()}
    damaged = draw(
        st.dictionaries(
            st.tuples(st.integers(0, rows - 1), st.sampled_from(sorted(DAMAGE))),
            st.integers(0, 9),
            max_size=8,
        )
    )
    for (row, name), which in damaged.items():
        columns[name][row] = DAMAGE[name][which % len(DAMAGE[name])]
    return sound, columns, damaged


@given(batches(), st.integers(0, 3))
def test_exactly_the_damaged_rows_are_rejected_and_the_others_are_what_they_were(example, offset):
    sound, columns, damaged = example
    schema = schema_of(
        feature("f"),
        feature("i", "int32"),
        feature("c", "string"),
        feature("t", shape=(2,)),
        id=("key", pa.string()),
        target=("y", pa.int64()),
    )
    kinds = {"c": pa.string(), "t": pa.list_(pa.float64()), "y": pa.int64(), "key": pa.string()}
    arrays = {
        name: pa.array(values[:1] * offset + values, kinds.get(name, pa.float64())).slice(offset)
        for name, values in columns.items()
    }
    rows, rejected = run(schema, arrays)
    bad = sorted({row for row, _ in damaged})
    good = [row for row in range(len(sound["f"])) if row not in bad]
    assert [one.row - FIRST for one in rejected] == bad
    for one in rejected:
        names = [name for row, name in damaged if row == one.row - FIRST]
        assert any(f"{name} " in one.reason for name in names)
        assert one.example_id == columns["key"][one.row - FIRST]
    assert (rows.rows - FIRST).tolist() == good
    assert rows.ids.tolist() == [sound["key"][row] for row in good]
    assert rows.targets.tolist() == [sound["y"][row] for row in good]
    assert rows.features["c"].tolist() == [sound["c"][row].encode() for row in good]
    for name, dtype in (("f", np.float32), ("i", np.int32), ("t", np.float32)):
        expected = np.array([sound[name][row] for row in good], dtype).reshape(rows.features[name].shape)
        np.testing.assert_array_equal(rows.features[name], expected)


def test_an_empty_batch():
    schema = schema_of(
        feature("a"),
        feature("w", "string"),
        feature("t", shape=(2,)),
        feature("p", kind="image", shape=(4, 6, 1)),
        id=("key", pa.string()),
        slices=(("s", pa.int8()),),
        target=("y", pa.int8()),
    )
    kinds = {
        "a": pa.float64(),
        "w": pa.string(),
        "t": pa.list_(pa.list_(pa.int8())),
        "p": pa.binary(),
        "key": pa.string(),
        "s": pa.int8(),
        "y": pa.int8(),
    }
    rows, rejected = run(schema, {name: pa.array([], kind) for name, kind in kinds.items()})
    assert len(rows) == 0
    assert rejected == []
    assert {name: value.shape for name, value in rows.features.items()} == {
        "a": (0,),
        "w": (0,),
        "t": (0, 2),
        "p": (0, 4, 6, 1),
    }


def test_float32_columns_without_nulls_are_not_copied():
    column = pa.array(np.arange(8, dtype=np.float32)).slice(2)
    rows, _ = run(schema_of(feature()), {"x": column})
    assert rows.features["x"].tolist() == [2, 3, 4, 5, 6, 7]
    address = rows.features["x"].__array_interface__["data"][0]
    assert address == column.buffers()[1].address + 2 * 4
