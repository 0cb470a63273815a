"""Small worlds to explain: real files, real Keras models, and configs over them; helpers, not tests."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import pipeline
from pipeline.results.run import Run

ROOT = Path(__file__).resolve().parents[2]


@cache
def shelf() -> Path:
    """A folder for what is made once and used by many tests."""
    folder = Path(tempfile.mkdtemp(prefix="attribeam-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def workshop() -> Path:
    """A copy of the repository's layout: configs/ as it is, data/ made small."""
    folder = shelf() / "workshop"
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name, *options in (("flights", "--rows", "3000", "--epochs", "1"), ("digits", "--epochs", "1")):
        # Processes of their own: training makes TensorFlow deterministic for good.
        command = [sys.executable, "-m", f"examples.{name}", "--out", str(folder / "data" / name), *options]
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


def write_config(path: Path, **blocks: Any) -> Path:
    path.write_text(yaml.safe_dump(blocks, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def explain(config: Path, output: Path, *settings: str, **options: Any) -> Run:
    return pipeline.explain(config, output=str(output), settings=list(settings), **options)


@cache
def explained(config: Path, *settings: str) -> Run:
    """A run that many tests may read and none may change."""
    place = Path(tempfile.mkdtemp(dir=shelf())) / "run"
    return explain(config, place, *settings)


def part_bytes(run: Run) -> dict[str, bytes]:
    """All tables of a run by their names in it."""
    folder = Path(run.path)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def phi(table: pa.Table) -> np.ndarray:
    """The scalar attributions of a table, `[rows, features]`."""
    struct = table["attribution"].combine_chunks()
    return np.column_stack(
        [struct.field(i).to_numpy(zero_copy_only=False) for i in range(struct.type.num_fields)]
    )


def tf_example(values: Mapping[str, Any]) -> bytes:
    """A serialised tf.train.Example; None leaves a feature out."""
    import tensorflow as tf

    features = {}
    for name, value in values.items():
        if value is None:
            continue
        items = value if isinstance(value, list | tuple | np.ndarray) else [value]
        if isinstance(items[0], str | bytes):
            encoded = [item.encode() if isinstance(item, str) else item for item in items]
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
        elif isinstance(items[0], bool | int | np.integer | np.bool_):
            features[name] = tf.train.Feature(
                int64_list=tf.train.Int64List(value=[int(item) for item in items])
            )
        else:
            features[name] = tf.train.Feature(
                float_list=tf.train.FloatList(value=[float(item) for item in items])
            )
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


def write_tfrecord(path: Path, rows: Sequence[Mapping[str, Any]], compression: str = "") -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for row in rows:
            writer.write(tf_example(row))


# -- a vector of numbers of many types, in many files --------------------------------------------------------

NUMBERS = {
    "level": pa.int8(),
    "count": pa.int32(),
    "größe": pa.float32(),
    "rate": pa.float64(),
    "old": pa.bool_(),
    "weight": pa.uint16(),
}
FORMATS = ("parquet", "tfrecord", "tfrecord.gz")


@dataclass(frozen=True)
class Vectors:
    """301 rows of six numbers in five files, and a network 6-12-3 on them.

    Args:
      folder: Where all of it is.
      rows: As written, None for null.
      files: Name of the file and row in it, for each row; without the suffix.
      good: Whether the row can be explained.
    """

    folder: Path
    rows: list[dict[str, Any]]
    files: list[tuple[str, int]]
    good: np.ndarray

    def config(self, format: str) -> Path:
        return self.folder / f"{format.replace('.', '_')}.yaml"

    @property
    def values(self) -> np.ndarray:
        """The good rows as the model takes them."""
        return _numbers([row for row, good in zip(self.rows, self.good, strict=True) if good])

    @property
    def mean(self) -> np.ndarray:
        """Mean of the rows whose numbers are all there, one of which has no id and is rejected for that."""
        found = [row for row in self.rows if np.isfinite(_numbers([row])).all()]
        assert len(found) == self.good.sum() + 1
        mean: np.ndarray = _numbers(found).astype(np.float64).mean(axis=0, keepdims=True)
        return mean.astype(np.float32)

    @property
    def ids(self) -> list[str]:
        return [row["id"] for row, good in zip(self.rows, self.good, strict=True) if good]


def _numbers(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([[row[name] for name in NUMBERS] for row in rows], np.float32)


#: Rows in each file, and in each of its row groups.
_FILES: dict[str, Sequence[int]] = {
    "part-a": (40, 40, 40, 30),
    "part-b": (90,),
    "part-c-leer": (),
    "part-d-ünï": (25, 0, 35),
    "part-e": (1,),
}
_BAD: dict[int, tuple[str, Any]] = {
    3: ("größe", None),
    57: ("rate", float("nan")),
    99: ("level", None),
    151: ("größe", float("inf")),
    240: ("id", None),
    299: ("rate", float("-inf")),
}


def _vector_rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    count = sum(sum(groups) for groups in _FILES.values())
    rows: list[dict[str, Any]] = [
        {
            "id": f"row-{i:03d}",
            "level": int(rng.integers(-3, 4)),
            "count": int(rng.integers(-2, 3)),
            # TFRecord has single precision alone: numbers that it holds exactly are the same in both formats.
            "größe": float(np.float32(rng.normal())),
            "rate": float(np.float32(rng.normal())),
            "old": bool(rng.integers(2)),
            "weight": int(rng.integers(0, 4)),
            "colour": ["red", "grün", "blue"][int(rng.integers(3))],
            "label": int(rng.integers(3)),
        }
        for i in range(count)
    ]
    for index, (name, value) in _BAD.items():
        rows[index][name] = value
    return rows


def _arrow(rows: Sequence[Mapping[str, Any]], names: Sequence[str], colour: pa.DataType) -> pa.Table:
    types = {"id": pa.string(), **NUMBERS, "colour": colour, "label": pa.int16()}
    columns = {name: pa.array([row[name] for row in rows], types[name]) for name in names}
    return pa.table(columns, schema=pa.schema([(name, types[name]) for name in names]))


@cache
def vectors() -> Vectors:
    import keras

    folder = shelf() / "vectors"
    folder.mkdir()
    rows, places, start = _vector_rows(), [], 0
    names = ["id", *NUMBERS, "colour", "label"]
    for number, (name, groups) in enumerate(_FILES.items()):
        # One file has its columns in another order, and plain strings where the others have a dictionary.
        order = names[::-1] if number == 1 else names
        colour = pa.string() if number == 1 else pa.dictionary(pa.int8(), pa.string())
        mine = rows[start : start + sum(groups)]
        with pq.ParquetWriter(folder / f"{name}.parquet", _arrow(mine, order, colour).schema) as writer:
            done = 0
            for size in groups:
                writer.write_table(_arrow(mine[done : done + size], order, colour))
                done += size
        write_tfrecord(folder / f"{name}.tfrecord", mine)
        write_tfrecord(folder / f"{name}.tfrecord.gz", mine, "GZIP")
        places += [(name, row) for row in range(len(mine))]
        start += len(mine)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((len(NUMBERS),), name="x")
    hidden = keras.layers.Dense(12, activation="tanh", bias_initializer="normal")(inputs)
    keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="kind")(hidden)).save(
        folder / "model.keras"
    )
    good = np.array([index not in _BAD for index in range(len(rows))])
    world = Vectors(folder, rows, places, good)
    for format in FORMATS:
        write_config(
            world.config(format),
            name="vectors",
            model={"path": "model.keras", "target": 1},
            input={"files": f"part-*.{format}", "id": "id", "features": list(NUMBERS), "slices": ["colour"]},
            method={"name": "integrated_gradients", "n_steps": 40},
            output={"path": "runs/unused"},
            limits={"rejected": 0.05},
        )
    return world


# -- words, whole numbers and numbers, each an input of its own ----------------------------------------------

CITIES = ("Paris", "Köln", "Oslo", "Roma")


@cache
def trips() -> Path:
    """A config over 200 trips: StringLookup, Embeddings and Normalization behind one sigmoid, "late"."""
    import keras

    folder = shelf() / "trips"
    folder.mkdir()
    rng = np.random.default_rng(3)
    count = 200
    city = rng.choice(CITIES, count)
    distance = rng.normal(800, 300, count).astype(np.float32)
    columns = {
        "trip": pa.array([f"trip {i}" for i in range(count)]),
        "hour": pa.array(rng.integers(0, 24, count), pa.int8()),
        "city": pa.array(city).dictionary_encode(),
        "distance": pa.array([None if i == 11 else d for i, d in enumerate(distance)], pa.float32()),
        "wind": pa.array(rng.normal(10, 4, count)),
        "carrier": pa.array(rng.choice(["X", "Y"], count)),
        "which": pa.array([None if i % 50 == 7 else 0 for i in range(count)], pa.int64()),
    }
    table = pa.table(columns)
    pq.write_table(table.slice(0, 120), folder / "trips-1.parquet", row_group_size=50)
    pq.write_table(table.slice(120), folder / "trips-2.parquet")
    keras.utils.set_random_seed(4)
    layers = keras.layers
    inputs = {
        "city": keras.Input((1,), name="city", dtype="string"),
        "hour": keras.Input((1,), name="hour", dtype="int32"),
        "distance": keras.Input((1,), name="distance"),
        "wind": keras.Input((1,), name="wind"),
    }
    scale = layers.Normalization(mean=800.0, variance=300.0**2)
    hidden = layers.Concatenate()(
        [
            layers.Flatten()(
                layers.Embedding(5, 3)(layers.StringLookup(vocabulary=list(CITIES))(inputs["city"]))
            ),
            layers.Flatten()(layers.Embedding(24, 2)(inputs["hour"])),
            scale(inputs["distance"]),
            layers.Rescaling(0.1)(inputs["wind"]),
        ]
    )
    late = layers.Dense(1, activation="sigmoid", name="late")(layers.Dense(8, activation="tanh")(hidden))
    keras.Model(inputs, late).save(folder / "model.keras")
    return write_config(
        folder / "trips.yaml",
        name="trips",
        model={"path": "model.keras"},
        input={"files": "trips-*.parquet", "id": "trip", "slices": ["carrier"]},
        method={"name": "integrated_gradients", "n_steps": 20},
        output={"path": "runs/trips"},
        compute={"shard_rows": 60},
    )


# -- pictures, and several heads -----------------------------------------------------------------------------


@cache
def pictures() -> Path:
    """A config over 90 PNG images of 6 by 6 pixels in gzipped TFRecord; one of them is no picture."""
    import keras
    import tensorflow as tf

    folder = shelf() / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (90, 6, 6, 1)).astype(np.uint8)
    np.save(folder / "images.npy", images)
    rows = [
        {
            "id": f"picture {i}",
            "image": b"no picture" if i == 40 else tf.io.encode_png(image).numpy(),
            "really": i % 3,
        }
        for i, image in enumerate(images)
    ]
    write_tfrecord(folder / "pictures.tfrecord.gz", rows, "GZIP")
    keras.utils.set_random_seed(6)
    inputs = keras.Input((6, 6, 1), name="image")
    hidden = keras.layers.Conv2D(3, 3, activation="tanh")(keras.layers.Rescaling(1 / 255)(inputs))
    shape = keras.layers.Dense(3, activation="softmax", name="shape")(keras.layers.Flatten()(hidden))
    keras.Model({"image": inputs}, shape).save(folder / "model.keras")
    return write_config(
        folder / "pictures.yaml",
        name="pictures",
        model={"path": "model.keras", "target": "predicted"},
        input={
            "files": "pictures.tfrecord.gz",
            "id": "id",
            "features": [{"name": "image", "kind": "image", "shape": [6, 6, 1]}],
            "slices": ["really"],
        },
        method={"name": "integrated_gradients", "n_steps": 20},
        baseline={"kind": "zeros"},
        output={"path": "runs/pictures"},
        compute={"shard_rows": 32},
        limits={"rejected": 0.05},
    )


@cache
def heads() -> Path:
    """A config over 100 rows of a number and a list of four; the model's heads are "late" and "minutes"."""
    import keras

    folder = shelf() / "heads"
    folder.mkdir()
    rng = np.random.default_rng(7)
    series = rng.normal(size=(100, 4)).astype(np.float32)
    table = pa.table(
        {
            "load": pa.array(rng.normal(size=100)),
            "series": pa.FixedSizeListArray.from_arrays(pa.array(series.reshape(-1)), 4),
            "which": pa.array(rng.integers(0, 3, 100), pa.int32()),
        }
    )
    pq.write_table(table, folder / "rows.parquet")
    keras.utils.set_random_seed(8)
    inputs = {"load": keras.Input((1,), name="load"), "series": keras.Input((4,), name="series")}
    hidden = keras.layers.Dense(6, activation="tanh")(keras.layers.Concatenate()(list(inputs.values())))
    late = keras.layers.Dense(1, activation="sigmoid", name="late")(hidden)
    minutes = keras.layers.Dense(2, name="minutes")(hidden)
    keras.Model(inputs, {"late": late, "minutes": minutes}).save(folder / "model.keras")
    return write_config(
        folder / "heads.yaml",
        model={"path": "model.keras", "target": "all"},
        input={"files": "rows.parquet"},
        method={"name": "integrated_gradients", "n_steps": 20},
        output={"path": "runs/heads"},
        compute={"shard_rows": 40, "batch_size": 16},
    )
