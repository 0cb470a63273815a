"""Baselines: what is drawn, computed and stored, the same for every format and layout of the same rows."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.errors import UserError
from transforms.rows.baselines import baselines
from transforms.rows.baselines.baselines import Artifact, BaselineRequest, first_rows, make_background
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources import inspection, read

ROWS = 500


def columns(rows=ROWS):
    """A million-free input: every seventh row is unusable, each for another reason."""
    rng = np.random.default_rng(0)
    number = rng.normal(size=rows).astype(np.float32)
    number[rng.random(rows) < 0.05] = np.nan
    carrier = [None if i % 7 == 3 else ["AA", "UA", "ÅØ"][int(rng.integers(3))] for i in range(rows)]
    return {
        "number": [None if i % 11 == 5 else float(v) for i, v in enumerate(number)],
        "carrier": carrier,
        "seats": rng.integers(0, 9, rows).tolist(),
        "pixels": rng.integers(0, 5, (rows, 2)).astype(np.float32).tolist(),
        "row": list(range(rows)),
    }


KINDS = {
    "number": pa.float32(), "carrier": pa.string(), "seats": pa.int64(), "pixels": pa.list_(pa.float32(), 2),
    "row": pa.int64(),
}  # fmt: skip


def write_parquet(folder, data, pieces=1):
    """The rows in so many files, in order."""
    table = pa.table({name: pa.array(values, KINDS[name]) for name, values in data.items()})
    cuts = [len(table) * at // pieces for at in range(pieces + 1)]
    paths = []
    for at, (start, stop) in enumerate(itertools.pairwise(cuts)):
        path = folder / f"part-{at:03d}.parquet"
        pq.write_table(table.slice(start, stop - start), path, row_group_size=64)
        paths.append((str(path), path.name))
    return inspection.inspect_files(paths)


def write_tfrecord(folder, data):
    import tensorflow as tf

    path = folder / "rows.tfrecord"
    lists = {
        "number": lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=[v])),
        "carrier": lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode()])),
        "seats": lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=[v])),
        "pixels": lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
        "row": lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=[v])),
    }
    with tf.io.TFRecordWriter(str(path)) as out:
        for row in zip(*data.values(), strict=True):
            features = {name: lists[name](v) for name, v in zip(data, row, strict=True) if v is not None}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            out.write(example.SerializeToString())
    return inspection.inspect_files([(str(path), path.name)])


def spec(name, kind, dtype, shape=(), fill=None):
    return FeatureSpec(name, kind, dtype, shape, KINDS[name], fill, name, 0)


FEATURES = (
    spec("number", "numeric", "float32"),
    spec("carrier", "categorical", "string"),
    spec("seats", "numeric", "int64"),
    spec("pixels", "numeric", "float32", (2,)),
    spec("row", "numeric", "float64"),
)


def schema_of(inputs, features=FEATURES, **parts):
    types = read.describe_columns(inputs)
    features = tuple(dataclasses.replace(feature, stored=types[feature.name]) for feature in features)
    return ExampleSchema(features, {f.name: f.shape for f in features}, {}, **parts)


def usable(data):
    """Numbers of the rows without a null or NaN."""
    return [
        row
        for row, values in enumerate(zip(*data.values(), strict=True))
        if None not in values and values[0] == values[0]
    ]


def drawn(kind, inputs, seed=0, features=FEATURES, **request):
    return make_background(BaselineRequest(kind, **request), schema_of(inputs, features), inputs, seed)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("one"), columns())


def test_zeros_in_the_type_of_every_feature(inputs):
    found = drawn("zeros", inputs)
    assert {name: (value.dtype, value.shape, value.tolist()) for name, value in found.items()} == {
        "number": (np.float32, (1,), [0]),
        "carrier": (object, (1,), [b""]),
        "seats": (np.int64, (1,), [0]),
        "pixels": (np.float32, (1, 2), [[0, 0]]),
        "row": (np.float64, (1,), [0]),
    }


def test_a_constant_by_feature(inputs):
    value = {"number": -1.5, "carrier": "ÅØ", "seats": 3.0, "pixels": 7, "row": 2}
    found = drawn("constant", inputs, value=value)
    assert {name: array.tolist() for name, array in found.items()} == {
        "number": [-1.5], "carrier": ["ÅØ".encode()], "seats": [3], "pixels": [[7, 7]], "row": [2],
    }  # fmt: skip
    assert found["seats"].dtype == np.int64
    numbers = drawn("constant", inputs, features=FEATURES[2:], value=4)
    assert {name: array.tolist() for name, array in numbers.items()} == {
        "seats": [4],
        "pixels": [[4, 4]],
        "row": [4],
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "kind: constant needs a value; give a value for each feature, or one for all"),
        (0, "0 does not fit carrier, which takes a string; give each its own value"),
        ({"number": 1}, "no value for carrier, seats; give one for each feature"),
        ({"number": 1, "carier": "a"}, "'carier' is not a feature; did you mean carrier?"),
        (
            {"number": 1, "carrier": "a", "seats": 2.5},
            "2.5 does not fit seats, which takes a whole number from -9223372036854775808 to "
            "9223372036854775807; give each its own value",
        ),
        (
            {"number": float("inf"), "carrier": "a", "seats": 2},
            "inf does not fit number, which takes a finite number; give each its own value",
        ),
    ],
)
def test_a_constant_that_does_not_fit(inputs, value, message):
    with pytest.raises(UserError) as caught:
        drawn("constant", inputs, features=FEATURES[:3], value=value)
    assert str(caught.value) == f"baseline.value: {message}"


@pytest.mark.parametrize("kind", ["mean", "median", "mode"])
def test_statistics_over_the_usable_rows(inputs, kind):
    data = columns()
    rows = usable(data)
    assert 300 < len(rows) < 450
    found = drawn(kind, inputs)

    def mode(values):
        return max(sorted(set(values)), key=values.count)

    statistic = {"mean": np.mean, "median": np.median, "mode": mode}[kind]
    for name in ("number", "row"):
        values = [data[name][row] for row in rows]
        assert found[name].tolist() == [pytest.approx(float(statistic(values)), rel=1e-6)]
    pixels = [[data["pixels"][row][at] for row in rows] for at in range(2)]
    np.testing.assert_allclose(found["pixels"], [[statistic(one) for one in pixels]], rtol=1e-6)
    # There is no mean of carriers, nor may a model that takes whole numbers be given 2.5.
    assert found["carrier"].tolist() == [mode([data["carrier"][row] for row in rows]).encode()]
    assert found["seats"].tolist() == [mode([data["seats"][row] for row in rows])]
    assert found["seats"].dtype == np.int64
    assert found["number"].dtype == np.float32


def test_a_number_that_is_a_category_has_a_mode(inputs):
    features = (spec("seats", "categorical", "float32"),)
    seats = columns()["seats"]
    assert drawn("mean", inputs, features=features)["seats"].tolist() == [max(range(9), key=seats.count)]


def test_a_sample_is_of_usable_rows_without_replacement_and_in_order(inputs):
    data = columns()
    found = drawn("sample", inputs, rows=40)
    rows = found["row"].astype(int).tolist()
    assert len(set(rows)) == 40
    assert rows == sorted(rows)
    assert set(rows) <= set(usable(data))
    for at, row in enumerate(rows):
        assert found["number"][at] == np.float32(data["number"][row])
        assert found["carrier"][at] == data["carrier"][row].encode()
        assert found["seats"][at] == data["seats"][row]
        assert found["pixels"][at].tolist() == data["pixels"][row]
    other = drawn("sample", inputs, seed=1, rows=40)["row"].astype(int).tolist()
    assert other != rows
    assert len(drawn("sample", inputs)["row"]) == 100


def test_a_sample_reaches_every_part_of_the_input(inputs):
    counts = np.zeros(5)
    for seed in range(20):
        counts += np.histogram(drawn("sample", inputs, seed=seed, rows=25)["row"], 5, (0, ROWS))[0]
    # 100 a part are expected; five standard deviations are 45.
    assert (np.abs(counts - 100) < 45).all()


def test_a_smaller_sample_is_part_of_a_larger_one(inputs):
    small, large = (set(drawn("sample", inputs, rows=rows)["row"].tolist()) for rows in (10, 60))
    assert small < large


def test_a_sample_is_whole_where_most_rows_are_not_usable(tmp_path):
    numbers = [1.0 if row % 20 == 7 else None for row in range(1000)]
    inputs = write_parquet(tmp_path, {"number": numbers, "row": list(range(1000))})
    found = drawn("sample", inputs, features=(FEATURES[0], FEATURES[4]), rows=30)
    assert len(found["row"]) == 30
    assert set(found["row"] % 20) == {7}


def test_more_rows_than_are_usable_give_all_of_them(inputs):
    assert drawn("sample", inputs, rows=10_000)["row"].astype(int).tolist() == usable(columns())


@pytest.mark.parametrize("pieces", [2, 7])
def test_the_layout_of_the_files_changes_nothing(inputs, tmp_path, monkeypatch, pieces):
    split = write_parquet(tmp_path, columns(), pieces)
    for kind, rows, block in (("sample", 30, 16_384), ("median", 30, 50), ("sample", 3, 5)):
        monkeypatch.setattr(baselines, "_BLOCK_ROWS", 16_384)
        expected = drawn(kind, inputs, rows=rows)
        monkeypatch.setattr(baselines, "_BLOCK_ROWS", block)
        found = drawn(kind, split, rows=rows)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


def test_tfrecord_gives_the_rows_that_parquet_gives(inputs, tmp_path):
    records = write_tfrecord(tmp_path, columns())
    for kind in ("sample", "mean", "mode"):
        expected, found = drawn(kind, inputs, rows=50), drawn(kind, records, rows=50)
        for name in expected:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_larger_input_than_the_pool_is_drawn_from_in_windows(tmp_path, monkeypatch):
    rows = 5_000
    data = {"row": list(range(rows))}
    inputs = write_parquet(tmp_path, data, 3)
    monkeypatch.setattr(baselines, "_POOL_ROWS", 1_280)
    monkeypatch.setattr(baselines, "_BLOCK_ROWS", 100)
    features = (spec("row", "numeric", "float64"),)
    pool = drawn("sample", inputs, features=features, rows=10_000)["row"].astype(int)
    assert len(np.unique(pool)) == 64 * 20
    starts = [rows * at // 64 for at in range(64)]
    assert pool.tolist() == [start + at for start in starts for at in range(20)]
    assert drawn("mean", inputs, features=features)["row"].tolist() == [pytest.approx(pool.mean())]
    assert set(drawn("sample", inputs, features=features, rows=50)["row"]) <= set(pool)


def test_rows_cap_the_rows_of_a_statistic(inputs):
    sample = drawn("sample", inputs, rows=20)
    assert drawn("mean", inputs, rows=20)["row"].tolist() == [pytest.approx(sample["row"].mean())]


def test_a_file_of_baselines_needs_only_the_features(tmp_path):
    data = {"number": [1.0, None, 3.0], "carrier": ["a", "b", "c"]}
    inputs = write_parquet(tmp_path, data)
    schema = schema_of(
        inputs,
        FEATURES[:2],
        id=("flight", pa.string()),
        slices=(("origin", pa.string()),),
        target=("y", pa.int64()),
    )
    found = make_background(BaselineRequest("file"), schema, inputs, 0)
    assert {name: value.tolist() for name, value in found.items()} == {
        "number": [1, 3],
        "carrier": [b"a", b"c"],
    }
    assert len(make_background(BaselineRequest("file", rows=1), schema, inputs, 0)["number"]) == 1


def test_an_input_without_a_usable_row_is_an_error_that_says_why(tmp_path):
    inputs = write_parquet(tmp_path, {"number": [None, None], "carrier": ["a", "b"]})
    with pytest.raises(UserError) as caught:
        drawn("sample", inputs, features=FEATURES[:2])
    assert str(caught.value) == (
        "baseline: none of 2 rows is usable: number is null in the first; mend the rows, or use kind: zeros"
    )


def test_fill_makes_rows_usable(tmp_path):
    inputs = write_parquet(tmp_path, {"number": [None, 2.0]})
    assert drawn("sample", inputs, features=(spec("number", "numeric", "float32", fill=9),))[
        "number"
    ].tolist() == [9, 2]


def test_first_rows_are_the_first_usable_ones(inputs, tmp_path):
    schema = schema_of(inputs)
    found = first_rows(inputs, schema, 120)
    assert found.rows.tolist() == usable(columns())[:120]
    assert found.features["row"].astype(int).tolist() == found.rows.tolist()
    assert len(first_rows(inputs, schema, 10_000)) == len(usable(columns()))
    empty = write_parquet(tmp_path, {"number": [None]})
    assert first_rows(empty, schema_of(empty, FEATURES[:1]), 5) is None


def artifact(**changes):
    words = np.empty((2, 2), object)
    words[:] = [[b"", b"a\x00"], ["ÅØ".encode() * 50, b"\xff"]]
    made = Artifact(
        {"a/b": np.float32([[1.5], [2]]), "Größe": words, "file": np.array([True, False])},
        np.float32([[0.5, 1], [2, 3]]),
        np.array([0.1, 0.0]),
        (np.float32([1, 2]), np.float32([[3]])),
    )
    return dataclasses.replace(made, **changes)


def test_an_artifact_survives_storing():
    made = artifact()
    again = Artifact.from_bytes(made.to_bytes())
    assert again.features.keys() == made.features.keys()
    for name, value in made.features.items():
        assert again.features[name].dtype == value.dtype
        assert again.features[name].tolist() == value.tolist()
    np.testing.assert_array_equal(again.scores, made.scores)
    np.testing.assert_array_equal(again.spread, made.spread)
    assert [one.tolist() for one in again.noise] == [[1, 2], [[3]]]
    assert again.digest == made.digest
    assert again.to_bytes() == made.to_bytes()
    assert Artifact.from_bytes(artifact(noise=()).to_bytes()).noise == ()


def test_the_digest_is_of_the_background_rows_and_nothing_else():
    made = artifact()
    assert made.digest == artifact(scores=np.zeros((2, 2)), spread=np.ones(2), noise=()).digest
    assert made.digest.startswith("sha256:")
    assert len(made.digest) == 7 + 64
    rows = dict(made.features)
    reordered = dict(reversed(rows.items()))
    assert artifact(features=reordered).digest == made.digest
    words = rows["Größe"].copy()
    words[0, 1] = b"a"
    moved = rows["Größe"].copy()
    moved[0, 0], moved[0, 1] = b"a", b"\x00"
    changes = [
        {**rows, "a/b": np.float32([[1.5], [2.0000002]])},
        {**rows, "a/b": np.float64([[1.5], [2]])},
        {**rows, "a/b": np.float32([[1.5, 2]])},
        {**rows, "Größe": words},
        {**rows, "Größe": moved},
        {"other" if name == "file" else name: value for name, value in rows.items()},
    ]
    digests = {artifact(features=features).digest for features in changes}
    assert len(digests | {made.digest}) == len(changes) + 1


def test_the_digest_stays_what_it_is():
    # Stored in manifests: a change here says that every baseline has changed.
    made = Artifact({"x": np.float32([[1.5]]), "w": np.array([b"a"], object)}, np.zeros((1, 1)), np.zeros(1))
    stated = b"w:object:(1,);" + (1).to_bytes(8, "little") + b"a" + b"x:float32:(1, 1);" + b"\0\0\xc0\x3f"
    assert made.digest == f"sha256:{hashlib.sha256(stated).hexdigest()}"
