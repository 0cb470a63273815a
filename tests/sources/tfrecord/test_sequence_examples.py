"""SequenceExamples: context features and feature_lists, alone and among Examples, as TensorFlow reads it."""

import numpy as np
import pytest

from tests.support import column_worlds
from tests.support.column_worlds import model
from transforms.rows.resolve.feature import FeatureRequest
from transforms.sources.base import Column
from transforms.sources.inspection import inspect_files
from transforms.sources.read import describe_columns, read_piece
from transforms.sources.shards import cut


def feature(values):
    import tensorflow as tf

    if any(isinstance(value, bytes) for value in values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if any(isinstance(value, float) for value in values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def record(context=None, lists=None):
    """A SequenceExample where there are lists, else an Example."""
    import tensorflow as tf

    features = tf.train.Features(feature={name: feature(value) for name, value in (context or {}).items()})
    if lists is None:
        return tf.train.Example(features=features).SerializeToString()
    steps = {
        name: tf.train.FeatureList(feature=[feature(step) for step in value]) for name, value in lists.items()
    }
    whole = tf.train.FeatureLists(feature_list=steps)
    return tf.train.SequenceExample(context=features, feature_lists=whole).SerializeToString()


def write(folder, records):
    import tensorflow as tf

    path = folder / "rows.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in records:
            writer.write(one)
    return path


def table(path, batch_size=1000, named=()):
    """The columns' types, their values by name and row, and the reasons of rejected rows."""
    files = inspect_files([(str(path), path.name)])
    types = describe_columns(files, named)
    columns = [Column(name, kind) for name, kind in types.items()]
    values, reasons = {name: {} for name in types}, {}
    for shard in cut(files, 1000):
        for piece in shard.pieces:
            for raw in read_piece(piece, columns, batch_size):
                reasons |= {one.row: one.reason for one in raw.rejected}
                for name in types:
                    rows = raw.rows.tolist()
                    values[name] |= dict(zip(rows, raw.columns.column(name).to_pylist(), strict=True))
    return {name: str(kind) for name, kind in types.items()}, values, reasons


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_context_and_lists_of_every_kind_and_length(tmp_path, batch_size):
    lists = [
        {"tok": [[1], [2], [3]], "pair": [[0.5, 1.0], [1.5, 2.0]], "word": [[b"a"]], "bag": [[1], [2, 3]]},
        {"tok": [[4]], "pair": [], "word": [[b"b"], [b"c"]], "bag": [[]]},
        {"tok": [], "pair": [[2.5, 3.0]], "bag": [[7, 8, 9]]},
    ]
    path = write(tmp_path, [record({"a": [float(i)]}, one) for i, one in enumerate(lists)])
    types, values, reasons = table(path, batch_size)
    assert not reasons
    assert {name: kind.replace("item", "element") for name, kind in types.items()} == {
        "a": "float",
        "bag": "list<element: list<element: int64>>",
        "pair": "list<element: fixed_size_list<element: float>[2]>",
        "tok": "list<element: int64>",
        "word": "list<element: binary>",
    }
    assert values == {
        "a": {0: 0.0, 1: 1.0, 2: 2.0},
        "bag": {0: [[1], [2, 3]], 1: [[]], 2: [[7, 8, 9]]},
        "pair": {0: [[0.5, 1.0], [1.5, 2.0]], 1: [], 2: [[2.5, 3.0]]},
        "tok": {0: [1, 2, 3], 1: [4], 2: []},
        "word": {0: [b"a"], 1: [b"b", b"c"], 2: None},
    }


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_examples_among_sequence_examples(tmp_path, batch_size):
    records = [
        record({"a": [1.0], "tok": [1, 2]}),
        record({"a": [2.0]}, {"tok": [[3], [4], [5]]}),
        record({"a": [3.0]}),
        record({"a": [4.0], "tok": []}),
        record({"a": [5.0]}, {"tok": [[6, 7]]}),
        record({"a": [6.0]}, {"tok": [[0.5]]}),
        record({}, {"a": [[7.0]], "tok": [[8]]}),
        record({"a": [8.0], "tok": [9, 9, 9]}),
    ]
    types, values, reasons = table(write(tmp_path, records), batch_size)
    assert types["tok"].startswith("list<")
    assert values["tok"] == {0: [1, 2], 1: [3, 4, 5], 2: None, 3: [], 7: [9, 9, 9]}
    assert reasons == {
        4: "feature tok has 2 values in a step of feature_lists, 1 expected",
        5: "feature tok is float in a step of feature_lists, int64 expected",
        6: "feature a is in feature_lists here, but among the features in most records",
    }


def test_a_list_that_has_a_features_name_is_had_by_its_prefix(tmp_path):
    records = [record({"t": [1.0]}, {"t": [[1], [2]]}), record({"t": [2.0]}, {"t": [[3]]})]
    types, values, reasons = table(write(tmp_path, records))
    assert list(types) == ["feature_lists.t", "t"]
    assert values == {"feature_lists.t": {0: [1, 2], 1: [3]}, "t": {0: 1.0, 1: 2.0}}
    assert not reasons


def test_a_list_that_only_late_records_have_is_found_where_it_is_named(tmp_path):
    records = [record({"a": [1.0]})] * 300 + [record({"a": [1.0]}, {"tok": [[5]]})]
    path = write(tmp_path, records)
    assert "tok" not in table(path)[0]
    types, values, _ = table(path, named=["tok"])
    assert types["tok"].startswith("list<")
    assert [row for row, value in values["tok"].items() if value] == [300]


def test_a_feature_list_is_a_models_input_and_another_length_costs_its_row(tmp_path):
    lists = [{"tok": [[1.0], [2.0]]}, {"tok": [[3.0]]}, {"tok": []}, {}]
    path = write(tmp_path, [record({"a": [9.0]}, one) for one in lists])
    signature = model(("x", (3,), "float32"))
    features = [FeatureRequest("a"), FeatureRequest("tok", shape=(2,), fill=0)]
    inputs, reasons = column_worlds.rows_of([path], signature, features)
    assert inputs["x"] == [[9, 1, 2], [9, 0, 0]]
    assert reasons == {1: "tok has 1 value, not 2", 2: "tok has no values"}


@pytest.mark.parametrize("seed", range(6))
def test_random_records_are_what_tensorflow_reads(tmp_path, seed):
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    kinds = {
        "i": lambda n: rng.integers(-5, 5, n).tolist(),
        "f": lambda n: [float(v) for v in rng.normal(size=n).astype(np.float32)],
        "b": lambda n: [rng.bytes(int(rng.integers(4))) for _ in range(n)],
    }
    width = int(rng.integers(2, 4))
    records = []
    for _ in range(int(rng.integers(20, 90))):
        lists = {}
        for name, draw in kinds.items():
            lists[f"one_{name}"] = [draw(1) for _ in range(rng.integers(5))]
            lists[f"many_{name}"] = [draw(width) for _ in range(rng.integers(1, 4))]
        records.append(record({"a": [1.0], "var": kinds["i"](int(rng.integers(4)))}, lists))
    path = write(tmp_path, records)
    dtypes = {"i": tf.int64, "f": tf.float32, "b": tf.string}
    names = {f"{kind}_{name}": dtype for kind in ("one", "many") for name, dtype in dtypes.items()}
    context, lists, _ = tf.io.parse_sequence_example(
        records,
        {"var": tf.io.RaggedFeature(tf.int64)},
        {name: tf.io.RaggedFeature(dtype) for name, dtype in names.items()},
    )
    _, values, reasons = table(path, int(rng.integers(1, 40)))
    assert not reasons
    assert list(values["var"].values()) == context["var"].to_list()
    for name in names:
        expected = lists[name].to_list()
        if name.startswith("one"):
            expected = [[value for step in row for value in step] for row in expected]
        assert list(values[name].values()) == expected
