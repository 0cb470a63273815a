"""Lists of varying length from a file to what a model is given, and one line for what cannot be padded."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import column_worlds, worlds
from tests.support.column_worlds import model, rows_of
from transforms.errors import UserError
from transforms.methods.base import Attribution
from transforms.rows.padding import at_lengths, groups_of, narrowed
from transforms.rows.problems import Problems
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.rows.tensors import steps_of, tensor
from transforms.worker.batch import widened

OPEN = model(("x", (None,), "int64"))


@pytest.mark.parametrize("format", ["parquet", "tfrecord"])
def test_lists_are_padded_to_the_longest_or_to_the_shape(tmp_path, format):
    rows = [[1, 2, 3], [4], [5, 6]]
    columns = {"x": pa.array(rows, pa.list_(pa.int64()))} if format == "parquet" else {"x": rows}
    paths = column_worlds.write(tmp_path, format, columns)
    wide = [[1, 2, 3, 9, 9], [4, 9, 9, 9, 9], [5, 6, 9, 9, 9]]
    assert rows_of(paths, OPEN, [FeatureRequest("x", pad=9)]) == (
        {"x": [row[:3] for row in wide]},
        {},
    )
    assert rows_of(paths, OPEN, [FeatureRequest("x", pad=9, shape=(5,))])[0] == {"x": wide}
    closed = model(("x", (5,), "float32"))
    assert rows_of(paths, closed, [FeatureRequest("x", pad=9)])[0] == {"x": wide}
    inputs, reasons = rows_of(paths, OPEN, [FeatureRequest("x", pad=9, shape=(2,))])
    assert (inputs, reasons) == ({"x": [[4, 9], [5, 6]]}, {0: "x has 3 steps, more than the 2 of its shape"})


def test_every_defect_of_a_padded_list(tmp_path):
    rows = [[1.0, 2.0], [None, 1.0], None, [], [np.nan], [2.5], [1.0, 2.0, 3.0]]
    paths = column_worlds.write(tmp_path, "parquet", {"x": pa.array(rows, pa.large_list(pa.float64()))})
    inputs, reasons = rows_of(paths, OPEN, [FeatureRequest("x", pad=0)])
    assert inputs == {"x": [[1, 2, 0], [0, 0, 0], [1, 2, 3]]}
    assert reasons == {
        1: "x is null",
        2: "x is null",
        4: "x is NaN",
        5: "x is 2.5, and the model takes int64",
    }
    floats = model(("x", (None,), "float32"))
    inputs, reasons = rows_of(paths, floats, [FeatureRequest("x", pad=0, fill=7)])
    # A null is one step of fill, and an empty list none at all.
    padded = [[1, 2, 0], [7, 1, 0], [7, 0, 0], [0, 0, 0], [7, 0, 0], [2.5, 0, 0], [1, 2, 3]]
    assert (inputs, reasons) == ({"x": padded}, {})


def test_lists_of_whole_numbers_and_of_floats_in_one_column(tmp_path):
    """The longest list counts, whichever of a TFRecord column's two kinds of values it holds."""
    records = [{"x": [1, 2]}, {"x": [0.5, 1.5, 2.5, 3.5]}, {"x": [7]}]
    worlds.write_tfrecord(tmp_path / "rows.tfrecord", records)
    open_floats = model(("x", (None,), "float32"))
    inputs, reasons = rows_of([tmp_path / "rows.tfrecord"], open_floats, [FeatureRequest("x", pad=0)])
    assert inputs == {"x": [[1, 2, 0, 0], [0.5, 1.5, 2.5, 3.5], [7, 0, 0, 0]]}
    assert not reasons


def test_two_padded_features_of_one_input_get_zeros_each_behind_its_end():
    first, second = (
        FeatureSpec(name, "numeric", "float32", (size,), pa.list_(pa.float32()), None, "x", start, pad=0.0)
        for name, size, start in (("a", 3, 0), ("b", 2, 3))
    )
    wide = ExampleSchema((first, second), {"x": (5,)}, {})
    values = {"x": np.arange(1.0, 6.0, dtype=np.float32).reshape(1, 1, 5)}
    scores = np.zeros((1, 1))
    given = Attribution(values, scores, scores, scores, None, None, np.zeros(1, bool))
    found = widened(given, at_lengths(wide, (2, 1)), wide).values["x"]
    np.testing.assert_array_equal(found, [[[1, 2, 0, 4, 0]]])


def test_steps_with_a_shape_of_their_own_and_strings(tmp_path):
    steps = [[[1, 2], [3, 4]], [[5, 6]], [[7]], []]
    words = [["a", "b"], ["c"], ["d"], []]
    columns = {
        "x": pa.array(steps, pa.list_(pa.list_(pa.float32()))),
        "w": pa.array(words, pa.list_(pa.string())),
    }
    paths = column_worlds.write(tmp_path, "parquet", columns)
    signature = model(("x", (None, 2), "float32"), ("w", (None,), "string"))
    features = [FeatureRequest("x", pad=0), FeatureRequest("w", pad="")]
    inputs, reasons = rows_of(paths, signature, features)
    assert inputs["x"] == [[[1, 2], [3, 4]], [[5, 6], [0, 0]], [[0, 0], [0, 0]]]
    assert inputs["w"] == [[b"a", b"b"], [b"c", b""], [b"", b""]]
    assert reasons == {2: "x has steps that are not of the shape [2]"}
    flat = column_worlds.write(tmp_path, "parquet", {"x": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0], [7.0]]})
    signature = model(("x", (None, 2), "float32"))
    inputs, reasons = rows_of(flat, signature, [FeatureRequest("x", pad=0, shape=(2, 2))])
    assert inputs["x"] == [[[1, 2], [3, 4]], [[5, 6], [0, 0]]]
    assert list(reasons) == [2]


@pytest.mark.parametrize(
    ("column", "given", "message"),
    [
        ([1, 2], {"pad": 0}, "pad: 0 is for lists of numbers or strings, but the column holds int64"),
        ([[1], [2, 3]], {"pad": "-"}, "pad: '-', but the model takes int64; give a whole number from "),
        (
            [[1], [2, 3]],
            {},
            "give its shape, or pad, the value that fills shorter lists at their end, such as pad: 0",
        ),
    ],
)
def test_what_cannot_be_padded_is_one_line(tmp_path, column, given, message):
    paths = column_worlds.write(tmp_path, "parquet", {"x": column})
    with pytest.raises(UserError) as caught:
        rows_of(paths, OPEN, [FeatureRequest("x", **given)])
    assert message in str(caught.value)
    assert str(caught.value).startswith("input.features x: ")


@settings(max_examples=60)
@given(st.lists(st.none() | st.lists(st.integers(-5, 5), max_size=7), min_size=1, max_size=12))
def test_any_lists_are_themselves_with_padding_behind(rows):
    feature = FeatureSpec("x", "numeric", "int64", (8,), pa.null(), None, "x", 0, pad=-9, open=True)
    array, problems = pa.array(rows, pa.list_(pa.int64())), Problems()
    values, lengths = tensor(feature, array, problems, "rows"), steps_of(feature, array, Problems())
    assert list(problems.reasons) == [at for at, row in enumerate(rows) if row is None]
    good = problems.good(len(rows))
    kept = [row for row in rows if row is not None]
    assert values[good].tolist() == [row + [-9] * (8 - len(row)) for row in kept]
    assert lengths[good].tolist() == list(map(len, kept))
    schema = ExampleSchema((feature,), {"x": (8,)}, {})
    seen = 0
    for steps, at in groups_of(schema, {"x": lengths[good]}) if kept else ():
        own = at_lengths(schema, steps)
        narrow = narrowed({"x": values[good][at]}, own)["x"]
        assert narrow.tolist() == [kept[row] or [-9] for row in at.tolist()]
        assert own.players.count == steps[0]
        seen += len(at)
    assert seen == len(kept)
