"""Runs over TFRecords in which single records differ from the rest: they cost themselves alone."""

from functools import cache

import numpy as np
import pytest

from pipeline.cli import commands as cli
from tests.support import worlds

WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)


@cache
def model(dtype="float32"):
    """Σ weights · x of three values, or of three inputs of a value each."""
    import keras

    path = worlds.shelf() / f"weigh-{dtype}.keras"
    kernel = keras.initializers.Constant(WEIGHTS[:, None])
    last = keras.layers.Dense(1, kernel_initializer=kernel, name="y")
    if dtype == "float32":
        inputs = keras.Input((3,), name="x")
        keras.Model(inputs, last(inputs)).save(path)
        return path
    inputs = {name: keras.Input((1,), name=name, dtype=dtype if name == "b" else "float32") for name in "abc"}
    table = np.arange(10, dtype=np.float32)[:, None]
    embed = keras.layers.Embedding(10, 1, embeddings_initializer=keras.initializers.Constant(table))
    values = [inputs["a"], keras.layers.Flatten()(embed(inputs["b"])), inputs["c"]]
    keras.Model(inputs, last(keras.layers.Concatenate()(values))).save(path)
    return path


def config(folder, rows, features=("a", "b", "c"), dtype="float32", **given):
    worlds.write_tfrecord(folder / "rows.tfrecord", rows)
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": str(model(dtype))},
        input={"files": "rows.tfrecord", "features": list(features), **given},
        method="integrated_gradients",
        baseline={"kind": "zeros"},
        limits={"rejected": 1},
        output={"path": "run"},
    )


def outcome(path):
    """{row: φ, or the reason for its rejection}."""
    run = worlds.explain(path, path.parent / "run")
    table, rejected = run.attributions(), run.rejected()
    rows = [int(one.rsplit(":", 1)[1]) for one in table["example_id"].to_pylist()]
    found = dict(zip(rows, worlds.phi(table).round(3).tolist(), strict=True))
    found |= dict(zip(rejected["row"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    ("first", "found"),
    [
        ({"b": 3}, [1.0, -6.0, 1.0]),
        ({"b": b"x"}, "feature b is binary, float expected"),
        ({"b": [1.0, 2.0]}, "feature b has 2 values, 1 expected"),
        ({"b": None}, "b is null"),
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [0, 5])
def test_one_odd_record_costs_itself(tmp_path, first, found, at):
    usual = {"a": 1.0, "b": 0.5, "c": 2.0}
    path = config(tmp_path, [usual | first if i == at else usual for i in range(8)])
    assert outcome(path) == {i: found if i == at else [1.0, -1.0, 1.0] for i in range(8)}


def test_numbers_of_either_kind_for_a_model_that_takes_whole_ones(tmp_path):
    values = [3, 2.0, 2.5, 4, float("nan"), 2.0, 1e30, 3.0]
    path = config(tmp_path, [{"a": 1, "b": b, "c": 2.0} for b in values], dtype="int32")
    assert outcome(path) == {
        0: [1.0, -6.0, 1.0],
        1: [1.0, -4.0, 1.0],
        2: "b is 2.5, and the model takes int32",
        3: [1.0, -8.0, 1.0],
        4: "b is NaN",
        5: [1.0, -4.0, 1.0],
        6: "b is 1.0000000150474662e+30, beyond the range of the model's int32",
        7: [1.0, -6.0, 1.0],
    }


def test_ids_and_slices_of_either_kind_of_number(tmp_path):
    rows = [{"a": 1.0, "b": 1.0, "c": 1.0, "g": g, "n": n} for g, n in ((7, 2**53 + 1), (7.0, 0.5), (0.5, 2))]
    path = config(tmp_path, [*rows, rows[0], rows[0]], id="n", slices=["g"])
    run = worlds.explain(path, tmp_path / "run")
    table = run.attributions().to_pydict()
    assert (table["example_id"], table["g"]) == ([str(2**53 + 1), "0.5", *[str(2**53 + 1)] * 2], [7] * 4)
    assert run.rejected().to_pydict()["reason"] == ["slice g is 0.5, and the column is int64 in other rows"]


def test_a_feature_that_the_first_records_lack(tmp_path):
    late = [{"a": 1.0, "c": 1.0}] * 300 + [{"a": 1.0, "b": 2, "c": 1.0}]
    filled = outcome(config(tmp_path, late, ["a", {"name": "b", "fill": 0.5}, "c"]))
    assert filled == {i: [1.0, -1.0, 0.5] for i in range(300)} | {300: [1.0, -4.0, 0.5]}
    (tmp_path / "bare").mkdir()
    bare = outcome(config(tmp_path / "bare", late))
    assert bare == dict.fromkeys(range(300), "b is null") | {300: [1.0, -4.0, 0.5]}


def test_a_feature_that_no_record_has_is_filled_and_its_values_can_be_had_again(tmp_path):
    rows = [{"a": float(i), "c": 1.0} for i in range(4)]
    for dtype, fill in (("float32", 0.5), ("int32", 3)):
        folder = tmp_path / dtype
        folder.mkdir()
        path = config(folder, rows, ["a", {"name": "b", "fill": fill}, "c"], dtype)
        assert outcome(path) == {i: [float(i), -2.0 * fill, 0.5] for i in range(4)}
        explanation = worlds.explain(path, folder / "again").explanation()
        assert explanation.data.tolist() == [[i, fill, 1.0] for i in range(4)]


NOWHERE = "no record in a sample from the whole input has 'tmp'"


RARE = "if only few records have it, give it a fill"


@pytest.mark.parametrize(
    ("row", "feature", "message"),
    [
        (
            {"temp": 1.0},
            "tmp",
            f"{NOWHERE}; did you mean temp? Or, {RARE}",
        ),
        ({"temp": 1.0}, {"name": "tmp", "fill": 0}, f"{NOWHERE}; did you mean temp?"),
        ({}, "tmp", f"{NOWHERE}; the records have a, c; {RARE}"),
    ],
    ids=str,
)
def test_a_misspelt_feature_is_one_line_before_anything_runs(tmp_path, capsys, row, feature, message):
    path = config(tmp_path, [{"a": 1.0, "c": 1.0, **row}] * 3, ["a", feature, "c"])
    assert cli.run(["plan", str(path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {path}: input.features: {message}"


def test_a_name_like_that_of_a_feature_in_use_is_no_misspelling(tmp_path):
    rows = [{"x1": 1.0, "x3": 1.0}] * 3
    found = outcome(config(tmp_path, rows, ["x1", {"name": "x2", "fill": 2}, "x3"]))
    assert found == {i: [1.0, -4.0, 0.5] for i in range(3)}


@pytest.mark.parametrize(("fill", "good"), [(0, True), (None, False)])
def test_pictures_two_to_a_record(tmp_path, fill, good):
    import keras

    inputs = keras.Input((2, 2, 1), name="image")
    output = keras.layers.Dense(1, kernel_initializer="ones")(keras.layers.Flatten()(inputs))
    keras.Model(inputs, output).save(tmp_path / "model.keras")
    raw = bytes([1, 2, 3, 4])
    worlds.write_tfrecord(tmp_path / "rows.tfrecord", [{"p": [raw, raw]}, {"p": raw}, {"z": 1}, {"p": raw}])
    path = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "model.keras"},
        input={"files": "rows.tfrecord", "features": [{"name": "p", "kind": "image", "fill": fill}]},
        method="integrated_gradients",
        baseline={"kind": "zeros"},
        limits={"rejected": 1},
    )
    run = worlds.explain(path, tmp_path / "run")
    found = dict(zip(run.rejected()["row"].to_pylist(), run.rejected()["reason"].to_pylist(), strict=True))
    reason = "feature p has 2 values, 1 expected"
    assert found == ({0: reason} if good else {0: reason, 2: "p is null"})
    pixels = run.attributions()["attribution"].to_pylist()[-1]["p"]
    np.testing.assert_allclose(np.reshape(pixels, 4), [1, 2, 3, 4], rtol=1e-5)
