"""Columns to model inputs: every form that fits, and one clear line for every form that does not."""

import pyarrow as pa
import pytest

from transforms.errors import UserError
from transforms.models.base import HeadSpec, InputSpec, Signature
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.resolve import ColumnRequest, resolve
from transforms.wording import did_you_mean

FLIGHTS = {
    "flight_id": pa.string(),
    "distance": pa.float64(),
    "dep_hour": pa.int8(),
    "carrier": pa.string(),
    "temp": pa.float32(),
    "late": pa.bool_(),
}


def model(*inputs):
    return Signature(tuple(InputSpec(*one) for one in inputs), (HeadSpec("y", (3,)),))


def fit(inputs, columns, features=None, *, groups=None, id=None, slices=(), target=None):
    if features is not None:
        features = tuple(one if isinstance(one, FeatureRequest) else FeatureRequest(one) for one in features)
    request = ColumnRequest(features, groups or {}, id, tuple(slices), target)
    return resolve(request, model(*inputs), columns)


def places(schema):
    return [(f.name, f.kind, f.dtype, f.shape, f.input, f.start) for f in schema.features]


def error(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        fit(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


VECTOR = ("x", (3,), "float32")


def test_a_vector_of_columns_in_the_configs_order():
    schema = fit(
        [VECTOR],
        FLIGHTS,
        ["temp", "distance", "dep_hour"],
        id="flight_id",
        slices=["carrier", "late"],
        target="late",
    )
    assert places(schema) == [
        ("temp", "numeric", "float32", (), "x", 0),
        ("distance", "numeric", "float32", (), "x", 1),
        ("dep_hour", "numeric", "float32", (), "x", 2),
    ]
    assert schema.inputs == {"x": (3,)}
    assert [f.stored for f in schema.features] == [pa.float32(), pa.float64(), pa.int8()]
    assert schema.id == ("flight_id", pa.string())
    assert schema.slices == (("carrier", pa.string()), ("late", pa.bool_()))
    assert schema.target == ("late", pa.bool_())


def test_a_vector_of_columns_in_file_order_without_those_that_have_another_part():
    schema = fit([VECTOR], FLIGHTS, slices=["late"])
    assert [f.name for f in schema.features] == ["distance", "dep_hour", "temp"]
    schema = fit([VECTOR], FLIGHTS | {"key": pa.int64()}, id="key", target="late")
    assert [f.name for f in schema.features] == ["distance", "dep_hour", "temp"]


def test_a_left_over_label_is_an_error_that_counts_and_names():
    assert error([VECTOR], FLIGHTS) == (
        "input.features: the model's input 'x' takes 3 float32 values per row, and the columns that could be "
        "features "
        "give 4: distance, dep_hour, temp, late (of other types: flight_id, carrier); list the columns that "
        "the model "
        "was trained on, in its order, or use the others as id or slices"
    )


def test_a_vector_of_scalars_and_lists():
    columns = {"a": pa.float32(), "t": pa.list_(pa.list_(pa.int16(), 3), 2), "b": pa.float64()}
    schema = fit([("x", (8,), "float32")], columns)
    assert places(schema) == [
        ("a", "numeric", "float32", (), "x", 0),
        ("t", "numeric", "float32", (2, 3), "x", 1),
        ("b", "numeric", "float32", (), "x", 7),
    ]
    schema = fit([("x", (8,), "float32")], columns, ["t", FeatureRequest("b"), FeatureRequest("a", shape=())])
    assert [f.start for f in schema.features] == [0, 6, 7]
    columns["t"] = pa.list_(pa.float32())
    schema = fit([("x", (4,), "float32")], columns, ["a", FeatureRequest("t", shape=(2,)), "b"])
    assert [f.start for f in schema.features] == [0, 1, 3]


@pytest.mark.parametrize(
    ("shape", "stored", "kind", "expected"),
    [
        ((8, 8, 1), pa.list_(pa.float32(), 64), "numeric", (8, 8, 1)),
        ((8, 8, 1), pa.list_(pa.uint8()), "numeric", (8, 8, 1)),
        ((8, 8, 1), pa.list_(pa.list_(pa.float32(), 8), 8), "numeric", (8, 8, 1)),
        ((8, 8, 1), pa.fixed_shape_tensor(pa.float32(), (8, 8)), "numeric", (8, 8, 1)),
        ((8, 8, 1), pa.binary(), "image", (8, 8, 1)),
        ((8, 8, 3), pa.large_binary(), "image", (8, 8, 3)),
        ((4,), pa.binary(4), "numeric", (4,)),  # each value must say itself what it is
        ((64,), pa.fixed_shape_tensor(pa.float32(), (8, 8)), "numeric", (64,)),
        ((None,), pa.list_(pa.float32(), 5), "numeric", (5,)),
        ((None, 2), pa.list_(pa.list_(pa.float32(), 2), 5), "numeric", (5, 2)),
        ((1,), pa.float32(), "numeric", ()),
        ((), pa.float32(), "numeric", ()),
        ((1,), pa.list_(pa.float32()), "numeric", ()),
    ],
    ids=str,
)
def test_one_column_that_is_the_whole_input(shape, stored, kind, expected):
    columns = {"label": pa.string(), "pixels": stored}
    for features in (None, ["pixels"]):
        schema = fit([("x", shape, "float32")], columns, features)
        assert places(schema) == [("pixels", kind, "float32", expected, "x", 0)]
        assert schema.inputs["x"] == (expected or ((1,) if shape == (1,) else ()))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (1, 4, 4), (16,), (1, 16), (4, 1, 4)], ids=str)
@pytest.mark.parametrize("stored", [pa.list_(pa.uint8()), pa.list_(pa.uint8(), 16), pa.binary()], ids=str)
def test_a_shape_may_be_flat_or_have_axes_of_one_value(shape, stored):
    request = FeatureRequest("p", kind="image", shape=shape)
    schema = fit([("x", (4, 4, 1), "float32")], {"p": stored}, [request])
    assert (schema.features[0].shape, schema.inputs["x"]) == (shape, (4, 4, 1))


def test_the_column_named_like_the_input_is_taken_before_any_other():
    columns = {"other": pa.list_(pa.float32(), 4), "x": pa.list_(pa.float32(), 4)}
    assert [f.name for f in fit([("x", (4,), "float32")], columns).features] == ["x"]
    assert "give 8: other, y" in error([("x", (4,), "float32")], {"other": columns["x"], "y": columns["x"]})


def test_several_inputs_take_columns_by_name_and_leave_the_label_alone():
    inputs = [("carrier", (1,), "string"), ("temp", (1,), "float32"), ("pixels", (4, 4, 1), "float32")]
    columns = FLIGHTS | {"pixels": pa.binary()}
    schema = fit(inputs, columns, id="flight_id", slices=["carrier"])
    assert places(schema) == [
        ("carrier", "categorical", "string", (), "carrier", 0),
        ("temp", "numeric", "float32", (), "temp", 0),
        ("pixels", "image", "float32", (4, 4, 1), "pixels", 0),
    ]
    assert schema.inputs == {"carrier": (1,), "temp": (1,), "pixels": (4, 4, 1)}
    schema = fit(inputs, columns, ["temp", "pixels", FeatureRequest("carrier", kind="categorical", fill="?")])
    assert [(f.name, f.kind, f.fill) for f in schema.features] == [
        ("temp", "numeric", None), ("pixels", "image", None), ("carrier", "categorical", "?"),
    ]  # fmt: skip


def test_several_inputs_that_do_not_fit():
    inputs = [("Carrier", (1,), "string"), ("temp", (1,), "float32"), ("wind", (1,), "float32")]
    assert error(inputs, FLIGHTS, id="flight_id", slices=["late"]) == (
        "input.features: the model's inputs Carrier, wind have no column of the same name; left over: "
        "distance, dep_hour, "
        "carrier; did you mean carrier for Carrier? A model with several inputs takes them by name: "
        "Carrier, temp, wind"
    )
    assert error(inputs[:2], FLIGHTS, ["temp", "carrier"]).startswith(
        "input.features: the model's inputs Carrier are not among the features; left over: carrier; did you "
        "mean carrier "
        "for Carrier?"
    )
    assert "left over: distance" in error(
        [("carrier", (1,), "string"), inputs[1]], FLIGHTS, ["carrier", "temp", "distance"]
    )


def test_inputs_whose_names_an_export_lost():
    lost = [("args_0_1", (1,), "float32"), ("args_0", (1,), "float32")]
    assert error(lost, FLIGHTS).endswith(
        "; the names of its inputs do not say what they are: give each its column, as "
        "{name: distance, input: args_0_1}"
    )
    mixed = [("args_0_1", (1,), "float32"), ("mean", (1,), "float32")]
    assert error(mixed, FLIGHTS).endswith(
        "; a model with several inputs takes them by name: args_0_1, mean, or by the key input: "
        "{name: distance, input: args_0_1}"
    )
    wide = {"age": pa.list_(pa.float32(), 6), "pay": pa.list_(pa.float32(), 2)}
    lost = [("inputs_1", (2,), "float32"), ("inputs", (6,), "float32")]
    assert error(lost, wide).endswith("as {name: age, input: inputs}")  # the one that takes six values


TWO_OR_MORE = [("inputs", (2,), "float32"), ("inputs_1", (1,), "float32"), ("image", (8, 8, 3), "float32")]


def test_a_column_feeds_the_input_that_it_says_and_several_one_of_a_vector():
    columns = FLIGHTS | {"image.bytes": pa.binary(), "image.path": pa.string()}
    features = [
        FeatureRequest("temp", input="inputs_1"),
        FeatureRequest("dep_hour", input="inputs"),
        FeatureRequest("image"),
        FeatureRequest("distance", input="inputs"),
    ]
    schema = fit(TWO_OR_MORE, columns, features)
    assert places(schema) == [
        ("temp", "numeric", "float32", (), "inputs_1", 0),
        ("dep_hour", "numeric", "float32", (), "inputs", 0),
        ("image.bytes", "image", "float32", (8, 8, 3), "image", 0),
        ("distance", "numeric", "float32", (), "inputs", 1),
    ]
    assert schema.inputs == {"inputs": (2,), "inputs_1": (1,), "image": (8, 8, 3)}
    assert places(fit([("x", (1,), "float32")], FLIGHTS, [FeatureRequest("temp", input="x")]))
    assert error([("x", (1,), "float32")], FLIGHTS, [FeatureRequest("temp", input="y")]) == (
        "input.features temp: the model has no input 'y': its one input is 'x'; leave the key input out"
    )
    assert error(TWO_OR_MORE, columns, [*features[:3]]) == (
        "input.features dep_hour: the column holds 1 value per row, but 2 are needed; list the columns "
        "that the "
        "model was trained on, in its order"
    )
    assert error(TWO_OR_MORE, columns, [*features, FeatureRequest("late", input="inpts_1")]).startswith(
        "input.features: left over: late; "
    )


@pytest.mark.parametrize("features", [None, ["image", "a"], ["image.bytes", "a"]], ids=str)
def test_pictures_in_a_struct_of_bytes_and_path_feed_the_input_of_its_name(features):
    inputs = [("image", (8, 8, 3), "float32"), ("a", (1,), "float32")]
    columns = {"image.bytes": pa.binary(), "image.path": pa.string(), "a": pa.float64()}
    schema = fit(inputs, columns, features)
    assert sorted(places(schema)) == [
        ("a", "numeric", "float32", (), "a", 0),
        ("image.bytes", "image", "float32", (8, 8, 3), "image", 0),
    ]
    alone = fit(inputs[:1], columns, features[:1] if features else None)
    assert places(alone) == [("image.bytes", "image", "float32", (8, 8, 3), "image", 0)]


def test_a_column_may_have_two_parts_when_the_config_says_so():
    schema = fit([("x", (2,), "float32")], FLIGHTS, ["dep_hour", "temp"], id="dep_hour", slices=["temp"])
    assert [name for name, _ in schema.columns] == ["dep_hour", "temp"]


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("input.features", {"features": ["distnce"]}),
        ("input.id", {"id": "distnce"}),
        ("input.slices", {"slices": ["distnce"]}),
        ("model.target", {"target": "distnce"}),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(key, parts):
    assert (
        error([VECTOR], FLIGHTS, **parts)
        == f"{key}: the input has no column 'distnce'; did you mean distance?"
    )
    other = {name: "zzz" if isinstance(value, str) else ["zzz"] for name, value in parts.items()}
    assert error([VECTOR], FLIGHTS, **other) == (
        f"{key}: the input has no column 'zzz'; its columns are flight_id, distance, dep_hour, carrier, "
        "temp, late"
    )


TWO = [("x", (2,), "float32")]
WORD = [("w", (1,), "string")]
PICTURE = [("x", (8, 8, 3), "float32")]


@pytest.mark.parametrize(
    ("inputs", "features", "columns", "message"),
    [
        (
            [VECTOR], ["distance", "temp"], FLIGHTS,
            "input.features: the model's input 'x' takes 3 values per row, and the 2 features give 2: "
            "distance, temp; list "
            "the columns that the model was trained on, in its order",
        ),
        (
            TWO, ["distance", "carrier"], FLIGHTS,
            "input.features carrier: the column holds string, but the model's input 'x' takes float32 "
            "numbers; store it as the numbers that the model was trained on, or leave it out",
        ),
        (
            WORD, ["distance"], FLIGHTS,
            "input.features distance: the column holds double, but the model's input 'w' takes strings; "
            "store it as "
            "strings",
        ),
        (
            TWO, ["t"], {"t": pa.timestamp("us")},
            "input.features t: the column holds timestamp[us], but the model's input 'x' takes float32 "
            "numbers; store what the model was trained on: the hour, or the days since a date, in a "
            "column of "
            "its own",
        ),
        (
            TWO, ["temp", "temp"], FLIGHTS,
            "input.features: temp is listed twice; list it once",
        ),
        (
            TWO, [], FLIGHTS,
            "input.features: no feature is listed; list some, or leave the key out",
        ),
        (
            TWO, [FeatureRequest("temp", fill="zero"), "distance"], FLIGHTS,
            "input.features temp: fill: 'zero', but the model takes float32; give a finite number",
        ),
        (
            TWO, [FeatureRequest("temp", fill=float("nan")), "distance"], FLIGHTS,
            "input.features temp: fill: nan, but the model takes float32; give missing: keep instead, which "
            "passes null and NaN to the model",
        ),
        (
            WORD, [FeatureRequest("carrier", fill=0)], FLIGHTS,
            "input.features carrier: fill: 0, but the model takes string; give a string",
        ),
        (
            [("n", (1,), "int8")], [FeatureRequest("dep_hour", fill=200)], FLIGHTS,
            "input.features dep_hour: fill: 200, but the model takes int8; give a whole number from -128 to "
            "127",
        ),
        (
            PICTURE, [FeatureRequest("p", shape=(8, 8, 1))], {"p": pa.binary()},
            "input.features p: shape [8, 8, 1] has 64 values, but the model's input 'x' takes 192; give the "
            "shape "
            "[8, 8, 3]",
        ),
        (
            [("x", (4, 4, 1), "float32")], [FeatureRequest("p", shape=(2, 8, 1))], {"p": pa.binary()},
            "input.features p: shape [2, 8, 1] is given, but the model's input 'x' takes [4, 4, 1]; give the "
            "shape [4, 4, 1]",
        ),
        (
            TWO, [FeatureRequest("temp", kind="image"), "distance"], FLIGHTS,
            "input.features temp: the column holds float, but an image is bytes or a list of numbers; leave "
            "kind out",
        ),
        (
            PICTURE, [FeatureRequest("p", kind="image")], {"p": pa.list_(pa.binary())},
            "input.features p: the column holds list<item: binary>, but an image is bytes or a list of "
            "numbers; store one picture per row",
        ),
        (
            PICTURE, ["p"], {"p": pa.list_(pa.float32(), 100)},
            "input.features p: the column holds 100 values per row, but 192 are needed; list the columns "
            "that the model was trained on, in its order",
        ),
        (
            PICTURE, ["p"], {"p": pa.list_(pa.list_(pa.list_(pa.float32(), 8), 8), 3)},
            "input.features p: the column holds the shape [3, 8, 8], but [8, 8, 3] is needed; store it in "
            "that order",
        ),
        (
            PICTURE, ["p", "q"], {"p": pa.float32(), "q": pa.float32()},
            "input.features: 2 features are given, and the model's input 'x' has the shape [8, 8, 3]; "
            "give the one "
            "column that holds it",
        ),
        (
            PICTURE, [FeatureRequest("p", kind="image")], {"p": pa.string()},
            "input.features p: the column holds string, but an image is bytes or a list of numbers; leave "
            "kind out",
        ),
        (
            [("x", (8, 8, 3), "int8")], [FeatureRequest("p", kind="image")], {"p": pa.binary()},
            "input.features p: kind: image gives 0 to 255, but the model takes int8; leave kind out",
        ),
        (
            [("x", (None, None, 3), "float32")], ["p"], {"p": pa.binary()},
            "input.features p: neither the column (binary) nor the model's input 'x' [any, any, 3] says how "
            "many values a "
            "row has; give its shape",
        ),
        (
            [("x", (None, None, 3), "float32")], [FeatureRequest("p", shape=(8, 8, 1))], {"p": pa.binary()},
            "input.features p: its shape is [8, 8, 1], but the model's input 'x' takes [any, any, 3]; give "
            "it a shape of "
            "that form",
        ),
        (
            [VECTOR], ["distance", "t"], FLIGHTS | {"t": pa.list_(pa.float32())},
            "input.features t: neither the column (list<item: float>) nor the model's input 'x' [3] says "
            "how many values "
            "a row has; give its shape, or pad, the value that fills shorter lists at their end, "
            "such as pad: 0",
        ),
        (
            [("x", (1,), "complex64")], ["temp"], FLIGHTS,
            "model.path: the model's input 'x' takes complex64, which no column holds",
        ),
    ],
)  # fmt: skip
def test_one_clear_line_for_features_that_do_not_fit(inputs, features, columns, message):
    found = error(inputs, columns, features)
    assert found.replace("list<element:", "list<item:") == message


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"slices": ["late", "late"]}, "input.slices: late is listed twice; list it once"),
        (
            {"slices": ["many"]},
            "input.slices: column 'many' holds list<item: int64>, and one value per row is needed; name "
            "another column",
        ),
        (
            {"id": "many"},
            "input.id: column 'many' holds list<item: int64>, and one value per row is needed; name another "
            "column",
        ),
        (
            {"target": "carrier"},
            "model.target: column 'carrier' holds string, and an output's index is needed; name a column of "
            "whole "
            "numbers, or give the output itself",
        ),
        (
            {"groups": {"g": ("temp", "distnce")}},
            "input.groups.g: 'distnce' is not a feature; did you mean distance?",
        ),
        (
            {"groups": {"g": ("temp", "carrier")}},
            "input.groups.g: 'carrier' is not a feature; the features are distance, temp",
        ),
        ({"groups": {"g": ()}}, "input.groups.g: the group has no members; list some, or leave it out"),
        ({"groups": {"g": ("temp", "temp")}}, "input.groups.g: temp is listed twice; list it once"),
        (
            {"groups": {"g": ("temp",), "h": ("distance", "temp")}},
            "input.groups.h: 'temp' is in the group 'g' too; keep it in one of them",
        ),
        (
            {"groups": {"temp": ("distance",)}},
            "input.groups.temp: the group 'temp' has the name of a feature; give it another name",
        ),
    ],
)
def test_one_clear_line_for_other_parts_that_do_not_fit(parts, message):
    columns = FLIGHTS | {"many": pa.list_(pa.int64())}
    assert (
        error(TWO, columns, ["distance", "temp"], **parts).replace("list<element:", "list<item:") == message
    )


def test_groups_are_kept_in_the_configs_order():
    schema = fit(TWO, FLIGHTS, ["distance", "temp"], groups={"temp": ("temp", "distance")})
    assert schema.groups == {"temp": ("temp", "distance")}
    assert schema.attributed == ("temp",)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "bool"])
@pytest.mark.parametrize(
    "stored",
    [
        pa.uint64(),
        pa.float16(),
        pa.bool_(),
        pa.decimal128(5, 2),
        pa.null(),
        pa.dictionary(pa.int8(), pa.float32()),
    ],
    ids=str,
)
def test_any_number_fits_any_number(stored, dtype):
    assert places(fit([("x", (1,), dtype)], {"a": stored}))[0][:3] == ("a", "numeric", dtype)


@pytest.mark.parametrize(
    "stored",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.binary(3),
        pa.dictionary(pa.int8(), pa.string()),
        pa.null(),
    ],
    ids=str,
)
def test_any_text_fits_a_string_input(stored):
    assert places(fit(WORD, {"a": stored}))[0][:3] == ("a", "categorical", "string")


def test_did_you_mean_prefers_the_same_name_in_another_case():
    assert did_you_mean("DISTANCE", ["distances", "distance"]) == "did you mean distance?"
    assert did_you_mean("temps", ["temp", "late", "tempo"]) == "did you mean temp or tempo?"
    assert did_you_mean("zzz", ["temp"]) == ""
