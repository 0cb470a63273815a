"""Features into model inputs and attributions back out: what goes in at a place comes out under its name."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from transforms.rows.schema import ExampleSchema, FeatureSpec, misfit


def feature(name, shape=(), *, input="x", start=0, dtype="float32"):
    return FeatureSpec(name, "numeric", dtype, shape, pa.float32(), None, input, start)


def vector_schema(groups=None):
    """Three features side by side in one vector, the middle one a tensor; one input of its own."""
    return ExampleSchema(
        (
            feature("a"),
            feature("t", (2, 3), start=1),
            feature("b", start=7),
            feature("own", (2,), input="y"),
        ),
        {"x": (8,), "y": (2, 1)},
        groups or {},
    )


def test_assemble_puts_every_value_at_its_place():
    values = {
        "a": np.array([1.0, 10.0], np.float32),
        "t": np.arange(12, dtype=np.float32).reshape(2, 2, 3),
        "b": np.array([7.0, 70.0], np.float32),
        "own": np.array([[5.0, 6.0], [50.0, 60.0]], np.float32),
    }
    inputs = vector_schema().assemble(values)
    assert inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(inputs["x"], [[1, 0, 1, 2, 3, 4, 5, 7], [10, 6, 7, 8, 9, 10, 11, 70]])
    np.testing.assert_array_equal(inputs["y"], [[[5], [6]], [[50], [60]]])


def test_assemble_keeps_strings_and_whole_numbers():
    schema = ExampleSchema(
        (feature("c", dtype="string", input="c"), feature("n", dtype="int64", input="n")),
        {"c": (1,), "n": ()},
        {},
    )
    words = np.array([b"AA", b"\xff\x00"], object)
    inputs = schema.assemble({"c": words, "n": np.array([2**53 + 1, 3])})
    assert inputs["c"].tolist() == [[b"AA"], [b"\xff\x00"]]
    assert inputs["n"].tolist() == [2**53 + 1, 3]


@pytest.mark.parametrize("targets", [1, 3])
def test_split_undoes_assemble_for_every_target(targets):
    schema, rows = vector_schema(), 5
    rng = np.random.default_rng(0)
    expected = {
        f.name: rng.normal(size=(rows, targets, *f.shape)).astype(np.float32) for f in schema.features
    }
    by_target = [
        schema.assemble({name: value[:, t] for name, value in expected.items()}) for t in range(targets)
    ]
    attributions = {name: np.stack([inputs[name] for inputs in by_target], axis=1) for name in schema.inputs}
    found = schema.split(attributions)
    assert list(found) == ["a", "t", "b", "own"]
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)


def test_a_group_is_the_sum_of_its_members_over_inputs_and_shapes_in_place_of_the_first():
    schema = vector_schema({"g": ("own", "t"), "h": ("b",)})
    assert schema.attributed == ("a", "g", "h")
    assert schema.attributed_shape("g") == ()
    values = {
        "x": np.arange(16, dtype=np.float32).reshape(2, 1, 8),
        "y": np.array([[[[100.0], [200.0]]], [[[1.0], [2.0]]]], np.float32),
    }
    found = schema.split(values)
    assert list(found) == ["a", "g", "h"]
    np.testing.assert_array_equal(
        found["g"], [[1 + 2 + 3 + 4 + 5 + 6 + 300], [9 + 10 + 11 + 12 + 13 + 14 + 3]]
    )
    np.testing.assert_array_equal(found["h"], [[7], [15]])
    assert found["g"].dtype == np.float32


def test_a_group_may_have_the_name_of_a_member_and_does_not_lose_digits():
    schema = ExampleSchema(
        (feature("a"), feature("b", start=1), feature("c", start=2)), {"x": (3,)}, {"a": ("a", "b", "c")}
    )
    found = schema.split({"x": np.array([[[1e8, 1.0, -1e8]]], np.float32)})
    assert list(found) == ["a"]
    assert found["a"].tolist() == [[1.0]]
    schema = ExampleSchema((feature("t", (3,)),), {"x": (3,)}, {"g": ("t",)})
    assert schema.split({"x": np.array([[[1e8, 1.0, -1e8]]], np.float32)})["g"].tolist() == [[1.0]]


def test_columns_are_read_once_each_and_survive_pickling():
    schema = ExampleSchema(
        (feature("a"), feature("b", start=1)),
        {"x": (2,)},
        {},
        id=("a", pa.float32()),
        slices=(("b", pa.float32()), ("carrier", pa.string())),
        target=("label", pa.int64()),
    )
    assert schema.features[0].size == 1  # cached on a frozen dataclass
    again = pickle.loads(pickle.dumps(schema))
    assert again == schema
    assert again.columns == [
        ("a", pa.float32()), ("b", pa.float32()), ("carrier", pa.string()), ("label", pa.int64()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "dtype", "wanted"),
    [
        ("UA", "string", None),
        (3, "string", "a string"),
        (0.5, "float32", None),
        (-1, "float16", None),
        (1e39, "float32", "a finite number"),
        (float("nan"), "float32", "a finite number"),
        (float("inf"), "float64", "a finite number"),
        (True, "float32", "a finite number"),
        ("3", "float32", "a finite number"),
        (None, "float32", "a finite number"),
        (3.0, "int32", None),
        (3.5, "int32", "a whole number from -2147483648 to 2147483647"),
        (float("nan"), "int64", "a whole number from -9223372036854775808 to 9223372036854775807"),
        (float("inf"), "int8", "a whole number from -128 to 127"),
        (300, "uint8", "a whole number from 0 to 255"),
        (True, "bool", None),
        (0, "bool", None),
        (2, "bool", "true or false"),
        ("yes", "bool", "true or false"),
    ],
)
def test_misfit_says_what_a_feature_takes(value, dtype, wanted):
    assert misfit(value, dtype) == wanted
