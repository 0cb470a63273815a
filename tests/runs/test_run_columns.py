"""Whole runs over columns that are more than numbers: which input they feed, and what their bytes are."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cli import commands as cli
from tests.support import worlds


def config(folder, model, features=None, files="rows.parquet", **blocks):
    given = {"files": files} | ({} if features is None else {"features": features})
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": str(model)},
        input=given,
        method="integrated_gradients",
        baseline={"kind": "zeros"},
        limits={"rejected": 1},
        output={"path": "run", "report": False},
        **blocks,
    )


def dense(weights):
    import keras

    kernel = keras.initializers.Constant(np.array(weights, np.float32)[:, None])
    return keras.layers.Dense(1, kernel_initializer=kernel)


def test_inputs_that_an_export_left_without_names_are_fed_by_the_key_input(tmp_path, capsys):
    import keras
    import tensorflow as tf

    inputs = [keras.Input((2,)), keras.Input((1,))]
    joined = keras.layers.Concatenate()(inputs)
    tf.saved_model.save(keras.Model(inputs, dense([1, 2, 5])(joined)), str(tmp_path / "model"))
    served = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    by_width = {spec.shape[1]: name for name, spec in served.structured_input_signature[1].items()}
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]}), tmp_path / "rows.parquet")
    assert cli.run(["plan", str(config(tmp_path, "model"))]) == 2
    assert "give each its column, as {name: a, input: " in capsys.readouterr().err
    features = [
        {"name": "c", "input": by_width[1]},
        {"name": "a", "input": by_width[2]},
        {"name": "b", "input": by_width[2]},
    ]
    run = worlds.explain(config(tmp_path, "model", features), tmp_path / "run")
    assert worlds.phi(run.attributions()).tolist() == [[25, 1, 6], [30, 2, 8]]


def test_a_struct_of_pictures_beside_a_number_and_tensors_in_bytes(tmp_path):
    import keras
    import tensorflow as tf

    inputs = {
        "image": keras.Input((2, 2, 1), name="image"),
        "a": keras.Input((1,), name="a"),
        "v": keras.Input((2,), name="v"),
    }
    parts = [keras.layers.Flatten()(inputs["image"]), inputs["a"], inputs["v"]]
    keras.Model(inputs, dense([1, 2, 3, 4, 10, 20, 30])(keras.layers.Concatenate()(parts))).save(
        tmp_path / "model.keras"
    )
    pixels = np.array([[[1], [2]], [[3], [4]]], np.uint8)
    struct = pa.StructArray.from_arrays(
        [
            pa.array([tf.io.encode_png(pixels).numpy()] * 2, pa.binary()),
            pa.array(["a.png", None], pa.string()),
        ],
        ["bytes", "path"],
    )
    vectors = pa.array([np.array([k, 1], "<f4").tobytes() for k in (1, 2)], pa.binary())
    table = pa.table({"image": struct, "a": [0.5, 1.5], "v": vectors})
    pq.write_table(table, tmp_path / "rows.parquet")
    features = ["image", "a", {"name": "v", "dtype": "float32"}]
    run = worlds.explain(config(tmp_path, "model.keras", features), tmp_path / "run")
    found = run.attributions()["attribution"].to_pylist()
    assert [row["image.bytes"] for row in found] == [[[[1], [4]], [[9], [16]]]] * 2
    assert [(row["a"], row["v"]) for row in found] == [(5, [20, 30]), (15, [40, 30])]


def test_feature_lists_of_any_length_go_into_a_model_that_takes_any(tmp_path, capsys):
    import keras
    import tensorflow as tf

    inputs = {"a": keras.Input((1,), name="a"), "tok": keras.Input((None, 2), name="tok")}
    total = keras.ops.sum(inputs["tok"], axis=1)
    joined = keras.layers.Concatenate()([inputs["a"], total])
    keras.Model(inputs, dense([1, 2, 3])(joined)).save(tmp_path / "model.keras")
    steps = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]], [], [[7.0]]]
    with tf.io.TFRecordWriter(str(tmp_path / "rows.tfrecord"), "ZLIB") as writer:
        for row in steps:
            of = [tf.train.Feature(float_list=tf.train.FloatList(value=step)) for step in row]
            one = tf.train.Feature(float_list=tf.train.FloatList(value=[9.0]))
            lists = tf.train.FeatureLists(feature_list={"tok": tf.train.FeatureList(feature=of)})
            context = tf.train.Features(feature={"a": one})
            writer.write(tf.train.SequenceExample(context=context, feature_lists=lists).SerializeToString())
    path = config(tmp_path, "model.keras", ["a", "tok"], "rows.tfrecord")
    assert cli.run(["plan", str(path)]) == 2
    assert "input.features tok: " in capsys.readouterr().err
    path = config(tmp_path, "model.keras", ["a", {"name": "tok", "pad": 0}], "rows.tfrecord")
    run = worlds.explain(path, tmp_path / "run")
    found = run.attributions()["attribution"].to_pylist()
    assert [row["a"] for row in found] == [9] * 3
    assert [row["tok"] for row in found] == [[[2, 6], [6, 12]], [[10, 18], [0, 0]], [[0, 0], [0, 0]]]
    (reason,) = run.rejected()["reason"].to_pylist()
    assert reason == "tok has steps that are not of the shape [2]"


def test_a_column_of_npy_bytes_needs_no_words(tmp_path):
    import keras

    x = keras.Input((3,), name="x")
    keras.Model(x, dense([1, 2, 3])(x)).save(tmp_path / "model.keras")
    items = []
    for row in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        buffer = io.BytesIO()
        np.save(buffer, np.array(row))
        items.append(buffer.getvalue())
    pq.write_table(pa.table({"data": pa.array(items, pa.binary())}), tmp_path / "rows.parquet")
    run = worlds.explain(config(tmp_path, "model.keras"), tmp_path / "run")
    assert [row["data"] for row in run.attributions()["attribution"].to_pylist()] == [[1, 4, 9], [4, 10, 18]]
