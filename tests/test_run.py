"""The whole graph: it equals a direct computation however it is cut, and whatever is in the files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import worlds

import pipeline
from pipeline import explain, load_run, runners
from pipeline.config import load_config
from pipeline.results import Run
from pipeline.run import execute
from transforms.errors import UserError
from transforms.methods import METHODS

# -- the direct computation ----------------------------------------------------------------------------------


def direct(world: worlds.Vectors, target: int = 1, steps: int = 40) -> dict[str, np.ndarray]:
    """Integrated gradients of the logit, from the mean row, in plain TensorFlow on arrays in memory."""
    import keras
    import tensorflow as tf

    model = keras.models.load_model(world.folder / "model.keras")
    (w1, b1), (w2, b2) = (layer.get_weights() for layer in model.layers[1:])

    def score(x: Any) -> Any:
        return (tf.tanh(x @ w1 + b1) @ w2 + b2)[:, target]

    x = tf.constant(world.values)
    base = tf.constant(world.mean)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = tf.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        point = base + np.float32(node) * (x - base)
        with tf.GradientTape() as tape:
            tape.watch(point)
            found = score(point)
        total += np.float32(weight) * tape.gradient(found, point)
    return {
        "attribution": ((x - base) * total).numpy(),
        "prediction": score(x).numpy(),
        "output": model(x).numpy()[:, target],
        "base_value": score(base).numpy(),
    }


# Every format, every size of shard and every size of batch.
CUTS = [
    ("parquet", "4096", "1"),
    ("parquet", "1", "auto"),
    ("parquet", "7", "5"),
    ("tfrecord", "7", "64"),
    ("tfrecord", "1", "5"),
    ("tfrecord.gz", "1", "64"),
    ("tfrecord.gz", "4096", "5"),
    ("tfrecord.gz", "7", "auto"),
]
SHARDS = {"1": 301, "5": 61, "64": 5, "auto": 1}


@pytest.mark.parametrize(("format", "batch", "rows"), CUTS)
def test_the_graph_equals_a_direct_computation(format: str, batch: str, rows: str) -> None:
    world = worlds.vectors()
    run = worlds.explained(world.config(format), f"compute.batch_size={batch}", f"compute.shard_rows={rows}")
    check_against_direct(run, world)
    assert len(run.parts()) == SHARDS[rows]


def check_against_direct(run: Run, world: worlds.Vectors) -> None:
    wanted = direct(world)
    # Not trivial: rows were rejected, and the values differ from row to row and from feature to feature.
    assert not world.good.all()
    assert wanted["attribution"].std(axis=0).min() > 0.01
    assert wanted["prediction"].std() > 0.1

    table = run.attributions()
    assert table["example_id"].to_pylist() == world.ids, "the input's order, each row once"
    np.testing.assert_allclose(worlds.phi(table), wanted["attribution"], rtol=1e-4, atol=1e-6)
    for name in ("prediction", "output"):
        np.testing.assert_allclose(table[name].to_numpy(), wanted[name], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        table["base_value"].to_numpy(), np.full(len(table), wanted["base_value"][0]), rtol=1e-5, atol=1e-6
    )
    assert table["target"].to_pylist() == [1] * len(table)
    assert set(table["target_name"].to_pylist()) == {"kind[1]"}
    delta = worlds.phi(table).sum(axis=1, dtype=np.float64) - (
        table["prediction"].to_numpy().astype(np.float64) - table["base_value"].to_numpy()
    )
    np.testing.assert_allclose(table["convergence_delta"].to_numpy(), delta, atol=1e-6)
    assert np.abs(delta).max() < 1e-4

    counts = run.manifest["counts"]
    assert counts["rows_read"] == len(world.rows) == counts["rows_attributed"] + counts["rows_rejected"]
    assert counts["rows_attributed"] == counts["attributions"] == len(table) == world.good.sum()
    check_rejected(run, world)


def check_rejected(run: Run, world: worlds.Vectors) -> None:
    """Each bad row once, under its id where it has one, with its place and a reason that names the column."""
    suffix = run.manifest["inputs"][0]["file"].partition(".")[2]
    table = run.rejected()
    assert len(table) == run.manifest["counts"]["rows_rejected"]
    found = {(row["file"], row["row"]): row for row in table.to_pylist()}
    assert len(found) == len(table)
    bad = [i for i, good in enumerate(world.good) if not good]
    assert set(found) == {(f"{world.files[i][0]}.{suffix}", world.files[i][1]) for i in bad}
    for i in bad:
        name, row = world.files[i]
        entry = found[f"{name}.{suffix}", row]
        assert entry["example_id"] == (world.rows[i]["id"] or f"{name}.{suffix}:{row}")
        assert entry["stage"] == "decode"
        column = next(
            c for c, v in world.rows[i].items() if v is None or (isinstance(v, float) and not np.isfinite(v))
        )
        assert column in entry["reason"]


def test_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    world = worlds.vectors()
    settings = ("compute.shard_rows=64",)
    alone = worlds.explained(world.config("parquet"), *settings)
    both = worlds.explain(world.config("parquet"), tmp_path / "run", *settings, "compute.workers=2")
    check_against_direct(both, world)
    assert both.manifest["fingerprint"] == alone.manifest["fingerprint"]
    found, wanted = worlds.part_bytes(both), worlds.part_bytes(alone)
    # Workers finish in any order; importance is merged in the shards' all the same.
    assert "importance.parquet" in wanted
    assert len(wanted) >= 8
    assert found == wanted


def test_the_same_plan_writes_the_same_bytes(tmp_path: Path) -> None:
    config = worlds.vectors().config("parquet")
    first = worlds.explain(config, tmp_path / "one", "compute.shard_rows=64")
    worlds.explain(config, tmp_path / "between", "compute.shard_rows=200")  # the worker forgets the first
    second = worlds.explain(config, tmp_path / "two", "compute.shard_rows=64")
    assert len(worlds.part_bytes(first)) >= 8
    assert worlds.part_bytes(first) == worlds.part_bytes(second)
    assert first.manifest["run_id"] == second.manifest["run_id"]


def test_formats_give_the_same_bits() -> None:
    world = worlds.vectors()
    tables = [
        worlds.explained(world.config(format), "compute.shard_rows=64").attributions()
        for format in worlds.FORMATS
    ]
    assert tables[0].num_rows == len(world.ids)
    for other in tables[1:]:
        assert other.equals(tables[0])


def test_every_part_says_what_made_it() -> None:
    run = worlds.explained(worlds.vectors().config("parquet"), "compute.shard_rows=64")
    manifest = run.manifest
    wanted = {
        b"attribeam.run_id": manifest["run_id"],
        b"attribeam.method": "integrated_gradients",
        b"attribeam.model_digest": manifest["model"]["digest"],
        b"attribeam.baseline_digest": manifest["baseline"]["digest"],
    }
    parts = list(Path(run.path).rglob("part-*.parquet"))
    assert len(parts) > 5
    for part in parts:
        metadata = pq.read_schema(part).metadata
        assert {key: metadata[key].decode() for key in wanted} == wanted


def test_the_manifest_is_whole() -> None:
    world = worlds.vectors()
    run = worlds.explained(world.config("parquet"), "compute.shard_rows=64")
    manifest = json.loads((Path(run.path) / "manifest.json").read_text())
    assert manifest["schema_version"] == 3
    assert manifest["config"]["method"] == {
        "name": "integrated_gradients", "n_steps": 40, "tolerance": None, "max_steps": 2000,
    }  # fmt: skip
    assert [entry["file"] for entry in manifest["inputs"]] == sorted(
        p.name for p in world.folder.glob("*.parquet")
    )
    assert [entry["rows"] for entry in manifest["inputs"]] == [150, 90, 0, 60, 1]
    assert all(
        entry["bytes"] == (world.folder / entry["file"]).stat().st_size for entry in manifest["inputs"]
    )
    assert manifest["baseline"]["kind"] == "mean"
    assert manifest["baseline"]["rows"] == 1
    assert manifest["model"]["path"] == str(world.folder / "model.keras")
    assert manifest["model"]["outputs"][0]["score"] == "logit"
    quality = manifest["quality"]["convergence_delta"]
    delta = np.abs(run.attributions(columns=["convergence_delta"])["convergence_delta"].to_numpy())
    assert quality["max"] == pytest.approx(delta.max())
    assert quality["p99"] == pytest.approx(np.quantile(delta, 0.99), rel=0.1)
    assert quality["p50"] == pytest.approx(np.quantile(delta, 0.5), rel=0.1)
    assert manifest["timing"]["seconds"] > 0
    assert {"python", "tensorflow", "keras", "numpy", "pyarrow", "apache-beam"} <= set(manifest["versions"])
    assert not (Path(run.path) / "_work").exists()


def test_importance_equals_a_groupby() -> None:
    run = worlds.explained(worlds.trips(), "model.target={column: which}")
    check_importance(run)
    assert set(run.importance()["slice"]) == {"", "carrier=X", "carrier=Y"}


def test_importance_of_several_outputs_equals_a_groupby() -> None:
    run = worlds.explained(worlds.heads())
    check_importance(run)
    assert run.importance()["target_name"].nunique() == 3


def check_importance(run: Run) -> None:
    table = run.attributions()
    sums = {
        name: np.array(
            [np.sum(value) for value in table["attribution"].combine_chunks().field(name).to_pylist()]
        )
        for name in run.features
    }
    wide = pd.DataFrame({"target": table["target"].to_pylist(), **sums})
    slices = run.manifest["config"]["input"]["slices"]
    wide = wide.assign(**{f"slice {name}": table[name].to_pylist() for name in slices})
    wanted = []
    for column in ["", *slices]:
        keys = [wide["target"]] + ([wide[f"slice {column}"]] if column else [])
        for key, part in wide.groupby(keys):
            target, *value = key if isinstance(key, tuple) else (key,)
            for feature in run.features:
                phi = part[feature]
                wanted.append(
                    {
                        "slice": f"{column}={value[0]}" if column else "",
                        "target": target,
                        "feature": feature,
                        "rows": len(phi),
                        "mean_abs": phi.abs().mean(),
                        "mean": phi.mean(),
                        "std": phi.std(ddof=0),
                        "min": phi.min(),
                        "max": phi.max(),
                        "positive": (phi > 0).mean(),
                    }
                )
    frame = pd.DataFrame(wanted)
    by_group = frame.groupby(["slice", "target"])["mean_abs"]
    frame["share"] = frame["mean_abs"] / by_group.transform("sum")
    frame["rank"] = by_group.rank(ascending=False).astype(int)
    order = ["slice", "target", "rank"]
    found = run.importance()[frame.columns.tolist()].sort_values(order, ignore_index=True)
    frame = frame.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found, frame, check_dtype=False, rtol=1e-5, atol=1e-7)


# -- methods, targets, and what is written -------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.needs.trees])
def test_methods(name: str) -> None:
    run = worlds.explained(worlds.trips(), f"method={name}")
    table = run.attributions()
    assert len(table) == 199
    assert len(run.parts()) == 4
    assert table.schema.field("attribution").type == pa.struct(
        [(feature, pa.float32()) for feature in ("city", "distance", "hour", "wind")]
    )
    values = worlds.phi(table)
    assert np.isfinite(values).all()
    assert values.std(axis=0).min() > 0
    gap = table["prediction"].to_numpy().astype(np.float64) - table["base_value"].to_numpy()
    if METHODS[name].additive:
        delta = table["convergence_delta"].to_numpy()
        np.testing.assert_allclose(delta, values.sum(axis=1, dtype=np.float64) - gap, atol=1e-6)
        assert np.quantile(np.abs(delta), 0.99) < 0.05 * gap.std()
    else:
        assert table["convergence_delta"].null_count == len(table)
        assert run.manifest["quality"]["convergence_delta"] is None


@pytest.mark.parametrize("name", ["smoothgrad", "expected_gradients"])
def test_draws_belong_to_rows(name: str, tmp_path: Path) -> None:
    """Neither shards nor batches change a value of a method that samples; the seed changes all of them."""
    usual = worlds.phi(worlds.explained(worlds.trips(), f"method={name}").attributions())
    cut = worlds.explain(
        worlds.trips(), tmp_path / "cut", f"method={name}", "compute.shard_rows=17", "compute.batch_size=5"
    )
    np.testing.assert_allclose(worlds.phi(cut.attributions()), usual, rtol=2e-4, atol=2e-6)
    seeded = worlds.explain(worlds.trips(), tmp_path / "seeded", f"method={name}", "seed=1")
    assert np.abs(worlds.phi(seeded.attributions()) - usual).max() > 1e-3


@pytest.mark.parametrize("name", ["smoothgrad", "expected_gradients"])
def test_standard_errors_are_written(name: str) -> None:
    setting = f"method={{name: {name}, n_samples: 20, standard_error: true}}"
    run = worlds.explained(worlds.trips(), setting, "input.groups={weather: [wind, distance]}")
    table = run.attributions()
    assert table.schema.field("standard_error").type == table.schema.field("attribution").type
    wider = worlds.explained(worlds.trips(), f"method={{name: {name}, n_samples: 2000}}").attributions()
    for feature in ("city", "hour", "weather"):
        error = table["standard_error"].combine_chunks().field(feature).to_numpy()
        assert (error >= 0).all()
        assert error.mean() > 0
        if feature == "weather":
            continue
        value, better = (t["attribution"].combine_chunks().field(feature).to_numpy() for t in (table, wider))
        # If errors are honest, hardly a value is four of them away from that of a hundred times the samples.
        assert (np.abs(value - better) <= 4 * error + 1e-6).mean() > 0.98


def test_all_targets_and_each() -> None:
    every = worlds.explained(worlds.heads()).attributions()
    assert len(every) == 300
    assert every["target"].to_pylist() == [0, 1, 2] * 100
    assert every["target_name"].to_pylist()[:3] == ["late", "minutes[0]", "minutes[1]"]
    assert every["example_id"].to_pylist()[:4] == ["rows.parquet:0"] * 3 + ["rows.parquet:1"]
    for target, setting in [(0, "late"), (1, "1"), (2, "'minutes[1]'")]:
        one = worlds.explained(worlds.heads(), f"model.target={setting}").attributions()
        check_same(one, every.filter(pc.equal(every["target"], target)))
    which = pq.read_table(worlds.heads().parent / "rows.parquet")["which"].to_numpy()
    assert len(set(which)) == 3
    named = worlds.explained(worlds.heads(), "model.target={column: which}").attributions()
    check_same(named, every.take(pa.array(3 * np.arange(100) + which)))


def check_same(found: pa.Table, wanted: pa.Table) -> None:
    """The same rows; floats to rounding, for the device's calls hold other rows."""
    assert len(found) == len(wanted) > 0
    for name in ("example_id", "target", "target_name"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
    for name in ("prediction", "output", "base_value"):
        np.testing.assert_allclose(found[name].to_numpy(), wanted[name].to_numpy(), rtol=1e-5, atol=1e-6)
    for field in wanted.schema.field("attribution").type:
        one, other = (
            np.array(t["attribution"].combine_chunks().field(field.name).to_pylist()) for t in (found, wanted)
        )
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_predicted_target() -> None:
    world = worlds.vectors()
    run = worlds.explained(world.config("parquet"), "model.target=predicted", "compute.shard_rows=64")
    table = run.attributions()
    wanted = np.stack([direct(world, target)["output"] for target in range(3)], axis=1)
    assert len(set(wanted.argmax(axis=1))) > 1
    assert table["target"].to_pylist() == wanted.argmax(axis=1).tolist()
    np.testing.assert_allclose(table["output"].to_numpy(), wanted.max(axis=1), rtol=1e-4)
    assert set(table["target_name"].to_pylist()) <= {"kind[0]", "kind[1]", "kind[2]"}


def test_a_null_target_rejects_the_row() -> None:
    run = worlds.explained(worlds.trips(), "model.target={column: which}")
    rejected = run.rejected().to_pylist()
    assert [row["example_id"] for row in rejected] == ["trip 7", "trip 11", "trip 57", "trip 107", "trip 157"]
    assert sum("which is null" in row["reason"] for row in rejected) == 4
    assert run.manifest["quality"]["exceeded"], "5 of 200 are more than limits.rejected: 0.01"


def test_tensor_features() -> None:
    table = worlds.explained(worlds.heads()).attributions()
    assert table.schema.field("attribution").type.field("series").type == pa.list_(pa.float32(), 4)
    values = np.array(table["attribution"].combine_chunks().field("series").to_pylist())
    load = np.array(table["attribution"].combine_chunks().field("load").to_pylist())
    gap = table["prediction"].to_numpy() - table["base_value"].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1) + load, gap, atol=1e-4)
    picture = (
        worlds.explained(worlds.pictures())
        .attributions()
        .schema.field("attribution")
        .type.field("image")
        .type
    )
    assert picture == pa.list_(pa.list_(pa.list_(pa.float32(), 1), 6), 6)


def test_a_row_that_is_no_picture_is_rejected() -> None:
    run = worlds.explained(worlds.pictures())
    rejected = run.rejected().to_pylist()
    assert [(row["example_id"], row["row"], row["stage"]) for row in rejected] == [
        ("picture 40", 40, "decode")
    ]
    assert run.attributions()["example_id"].to_pylist() == [f"picture {i}" for i in range(90) if i != 40]


def test_groups_are_sums_of_their_members() -> None:
    run = worlds.explained(worlds.trips(), "input.groups={weather: [wind, distance]}")
    plain = worlds.explained(worlds.trips()).attributions()["attribution"].combine_chunks()
    grouped = run.attributions()["attribution"].combine_chunks()
    assert [field.name for field in grouped.type] == ["city", "weather", "hour"]
    summed = plain.field("wind").to_numpy() + plain.field("distance").to_numpy()
    np.testing.assert_allclose(grouped.field("weather").to_numpy(), summed, rtol=1e-5, atol=1e-6)
    assert set(run.importance()["feature"]) == {"city", "hour", "weather"}


def test_top_k_keeps_the_largest_and_the_sum() -> None:
    run = worlds.explained(worlds.trips(), "output.attributions={top_k: 2}")
    full = worlds.explained(worlds.trips())
    table, values = run.attributions(), worlds.phi(full.attributions())
    assert "attribution" not in table.column_names
    names = np.array(full.features)
    order = np.argsort(-np.abs(values), axis=1)[:, :2]
    for row, best, all_values in zip(table.to_pylist(), order, values, strict=True):
        assert [item["feature"] for item in row["top"]] == names[best].tolist()
        assert [item["attribution"] for item in row["top"]] == pytest.approx(
            all_values[best].tolist(), rel=1e-5
        )
        total = sum(item["attribution"] for item in row["top"]) + row["rest"]
        assert total == pytest.approx(all_values.sum(), abs=1e-5)
    pd.testing.assert_frame_equal(run.importance(), full.importance())


def test_no_attributions() -> None:
    run = worlds.explained(worlds.trips(), "output.attributions=none")
    assert run.parts() == []
    assert not (Path(run.path) / "attributions").exists()
    pd.testing.assert_frame_equal(run.importance(), worlds.explained(worlds.trips()).importance())
    assert run.manifest["counts"] == worlds.explained(worlds.trips()).manifest["counts"]
    with pytest.raises(UserError, match="holds no attributions"):
        run.attributions()


def test_features_beside_attributions() -> None:
    run = worlds.explained(worlds.trips(), "output.features=true")
    wanted = {
        row["trip"]: row
        for path in worlds.trips().parent.glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    table = run.attributions()
    assert len(table) == 199
    for row in table.to_pylist():
        mine = wanted[row["example_id"]]
        assert row["feature"]["city"] == mine["city"]
        assert row["feature"]["hour"] == mine["hour"]
        assert row["feature"]["distance"] == pytest.approx(mine["distance"])
        assert row["feature"]["wind"] == pytest.approx(mine["wind"], rel=1e-6)


def test_fill_keeps_rows_with_nulls() -> None:
    features = "[city, hour, {name: distance, fill: 800.0}, wind]"
    run = worlds.explained(worlds.trips(), f"input.features={features}", "output.features=true")
    assert run.manifest["counts"]["rows_rejected"] == 0
    table = run.attributions()
    filled = table.filter(pc.equal(table["example_id"], "trip 11"))["feature"].to_pylist()
    assert [row["distance"] for row in filled] == [800.0]


# -- what is in files ----------------------------------------------------------------------------------------

KINDS = [
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.decimal128(9, 2),
]  # fmt: skip


def linear_world(folder: Path, count: int) -> np.ndarray:
    """Saves F = Σ wᵢxᵢ + 1 of one vector, and returns w."""
    import keras

    inputs = keras.Input((count,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(1, name="sum")(inputs))
    weights = np.linspace(-2, 2, count, dtype=np.float32)
    model.layers[-1].set_weights([weights[:, None], np.ones(1)])
    model.save(folder / "model.keras")
    return weights


def linear_config(folder: Path, **changes: Any) -> Path:
    blocks: dict[str, Any] = {
        "model": {"path": "model.keras"},
        "input": {"files": "*.parquet"},
        "method": "integrated_gradients",
        "output": {"path": "run"},
    }
    return worlds.write_config(folder / "config.yaml", **{**blocks, **changes})


def test_every_type_of_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 2, (30, len(KINDS)))
    columns = {
        str(kind): pa.array(column.tolist(), pa.int8()).cast(kind)
        for kind, column in zip(KINDS, whole.T, strict=True)
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    weights = linear_world(tmp_path, len(KINDS))
    run = worlds.explain(linear_config(tmp_path, baseline={"kind": "zeros"}), tmp_path / "run")
    np.testing.assert_allclose(worlds.phi(run.attributions()), whole * weights, atol=1e-5)


def test_files_may_differ_in_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.int8()), "b": [0.5, 1.5]}), tmp_path / "1.parquet")
    second = {"b": pa.array([2, 3], pa.int64()), "more": ["x", "y"], "a": pa.array([3.0, 4.0], pa.float64())}
    pq.write_table(pa.table(second), tmp_path / "2.parquet")
    weights = linear_world(tmp_path, 2)
    config = linear_config(
        tmp_path, baseline={"kind": "zeros"}, input={"files": "*.parquet", "features": ["a", "b"]}
    )
    run = worlds.explain(config, tmp_path / "run")
    wanted = np.array([[1, 0.5], [2, 1.5], [3, 2], [4, 3]]) * weights
    np.testing.assert_allclose(worlds.phi(run.attributions()), wanted, atol=1e-6)
    assert run.attributions()["example_id"].to_pylist() == [
        "1.parquet:0", "1.parquet:1", "2.parquet:0", "2.parquet:1",
    ]  # fmt: skip


def test_a_slice_is_one_over_files_that_differ_in_its_type(tmp_path: Path) -> None:
    """Numbers of every width and minus zero; and a dictionary beside plain strings."""
    parts = [
        (pa.array([0, 2], pa.int8()), pa.array(["u", "v"]).dictionary_encode()),
        (pa.array([300, 2], pa.int64()), pa.array(["u", "v"])),
        (pa.array([-0.0, 1.5], pa.float32()), pa.array(["w", "u"], pa.large_string())),
    ]
    for number, (g, h) in enumerate(parts):
        pq.write_table(pa.table({"a": [1.0, 2.0], "g": g, "h": h}), tmp_path / f"{number}.parquet")
    linear_world(tmp_path, 1)
    block = {"files": "*.parquet", "features": ["a"], "slices": ["g", "h"]}
    run = worlds.explain(linear_config(tmp_path, baseline={"kind": "zeros"}, input=block), tmp_path / "run")
    assert run.attributions()["g"].to_pylist() == [0.0, 2.0, 300.0, 2.0, 0.0, 1.5]
    assert run.attributions()["h"].to_pylist() == ["u", "v", "u", "v", "w", "u"]
    importance = run.importance()
    assert dict(zip(importance["slice"], importance["rows"], strict=True)) == {
        "": 6, "g=0": 2, "g=1.5": 1, "g=2": 2, "g=300": 1, "h=u": 3, "h=v": 2, "h=w": 1,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["tfrecord", "tfrecord.gz"])
def test_a_truncated_last_record_is_one_rejected_row(suffix: str, tmp_path: Path) -> None:
    rows = [{"a": float(i), "b": float(i % 3)} for i in range(40)]
    path = tmp_path / f"rows.{suffix}"
    worlds.write_tfrecord(path, rows, "GZIP" if suffix.endswith("gz") else "")
    if suffix.endswith("gz"):
        import gzip

        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-9]))
    else:
        path.write_bytes(path.read_bytes()[:-9])
    weights = linear_world(tmp_path, 2)
    config = linear_config(tmp_path, input={"files": path.name}, baseline={"kind": "zeros"})
    run = worlds.explain(config, tmp_path / "run", "compute.shard_rows=16")
    assert run.manifest["counts"] == {
        "rows_read": 40, "rows_attributed": 39, "rows_rejected": 1, "attributions": 39,
    }  # fmt: skip
    rejected = run.rejected().to_pylist()
    assert [(row["row"], row["stage"]) for row in rejected] == [(39, "read")]
    assert "truncated" in rejected[0]["reason"]
    wanted = np.array([[row["a"], row["b"]] for row in rows[:-1]]) * weights
    np.testing.assert_allclose(worlds.phi(run.attributions()), wanted, atol=1e-5)


def test_a_row_that_the_model_refuses_is_rejected(tmp_path: Path) -> None:
    """An index outside an embedding fails the whole device call; only the row itself is lost."""
    config = worlds.trips()
    for name in ("trips.yaml", "model.keras"):
        shutil.copy(config.parent / name, tmp_path / name)
    table = pq.read_table(config.parent / "trips-2.parquet")
    hours = table["hour"].to_pylist()
    hours[13] = 99
    table = table.set_column(table.column_names.index("hour"), "hour", pa.array(hours, pa.int8()))
    pq.write_table(table, tmp_path / "trips-2.parquet")
    run = worlds.explain(tmp_path / "trips.yaml", tmp_path / "run")
    assert [(row["row"], row["stage"]) for row in run.rejected().to_pylist()] == [(13, "predict")]
    (reason,) = run.rejected()["reason"].to_pylist()
    assert re.fullmatch(r"the model does not take the row: indices\[\S+\] = 99 is not in \[0, 24\)", reason)
    whole = worlds.explain(
        tmp_path / "trips.yaml", tmp_path / "whole", f"input.files={config.parent}/trips-2.parquet"
    )
    assert whole.manifest["counts"]["rows_rejected"] == 0
    assert run.manifest["counts"]["rows_attributed"] == 79
    assert np.isfinite(worlds.phi(run.attributions())).all()


def test_limit_reads_the_first_rows(tmp_path: Path) -> None:
    world = worlds.vectors()
    run = worlds.explain(world.config("parquet"), tmp_path / "run", "compute.shard_rows=64", limit=170)
    assert run.manifest["counts"]["rows_read"] == 170
    assert run.attributions()["example_id"].to_pylist() == [i for i in world.ids if int(i[4:]) < 170]
    beyond = worlds.explain(
        world.config("parquet"), tmp_path / "beyond", "compute.shard_rows=64", limit=10_000
    )
    assert beyond.manifest["counts"]["rows_read"] == 301


# -- going on, leaving alone, replacing ----------------------------------------------------------------------


class Trouble:
    """Moves an input file away after the plan was made, so that shards that need it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self._path, self._away = path, path.with_name("away")
        real: Callable[..., None] = runners.run_pipeline

        def run_pipeline(*arguments: Any) -> None:
            if self.on:
                self._path.rename(self._away)
            try:
                real(*arguments)
            finally:
                if self.on:
                    self._away.rename(self._path)

        self.on = True
        monkeypatch.setattr(runners, "run_pipeline", run_pipeline)


def vectors_copy(folder: Path) -> Path:
    world = worlds.vectors()
    shutil.copytree(world.folder, folder, dirs_exist_ok=True)
    return folder / "parquet.yaml"


def test_a_broken_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = vectors_copy(tmp_path / "data")
    trouble = Trouble(monkeypatch, tmp_path / "data" / "part-d-ünï.parquet")
    place = tmp_path / "run"
    with pytest.raises((UserError, pipeline.run.RunBrokenError), match="part-d-ünï"):
        worlds.explain(config, place, "compute.shard_rows=40")
    done = {path.name: path.stat().st_mtime_ns for path in (place / "attributions").glob("part-*.parquet")}
    journal = sorted(path.name for path in (place / "_work" / "shards").glob("*.done"))
    assert 2 <= len(journal) < 8
    assert len(done) == len(journal), "no part without its journal entry"
    assert not (place / "manifest.json").exists()
    with pytest.raises(UserError, match="did not finish"):
        load_run(place)

    with pytest.raises(UserError, match="did not finish"):  # another config must not take it over
        worlds.explain(config, place, "compute.shard_rows=40", "seed=5")
    assert sorted(path.name for path in (place / "_work" / "shards").glob("*.done")) == journal

    trouble.on = False
    run = worlds.explain(config, place, "compute.shard_rows=40")
    for name, time in done.items():
        assert (place / "attributions" / name).stat().st_mtime_ns == time, (
            "a finished shard is not done again"
        )
    assert not (place / "_work").exists()
    undisturbed = worlds.explain(config, tmp_path / "undisturbed", "compute.shard_rows=40")
    assert len(worlds.part_bytes(run)) > len(done)
    assert worlds.part_bytes(run) == worlds.part_bytes(undisturbed)
    assert run.manifest["counts"] == undisturbed.manifest["counts"]
    assert run.manifest["quality"] == undisturbed.manifest["quality"]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_committed_run_is_left_alone_refused_or_replaced(tmp_path: Path) -> None:
    config = worlds.trips()
    place = tmp_path / "run"
    worlds.explain(config, place)
    before = contents(place)

    again = execute(load_config(str(config), output=str(place)))
    assert again.reused
    assert contents(place) == before

    with pytest.raises(UserError, match=r"another config.*--overwrite"):
        worlds.explain(config, place, "method.n_steps=30")
    assert contents(place) == before

    replaced = worlds.explain(config, place, "method.n_steps=30", "compute.shard_rows=150", overwrite=True)
    assert replaced.manifest["config"]["method"]["n_steps"] == 30
    assert len(replaced.parts()) == 2, "no part of the old run is left"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_that_is_being_replaced_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = vectors_copy(tmp_path / "data")
    place = tmp_path / "run"
    worlds.explain(config, place, "compute.shard_rows=64")
    before = contents(place)
    trouble = Trouble(monkeypatch, tmp_path / "data" / "part-d-ünï.parquet")
    with pytest.raises((UserError, pipeline.run.RunBrokenError)):
        worlds.explain(config, place, "compute.shard_rows=40", overwrite=True)
    assert contents(place) == before
    trouble.on = False
    replaced = worlds.explain(config, place, "compute.shard_rows=40", overwrite=True)
    assert len(replaced.parts()) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]


def test_limits_are_judged_anew_on_a_run_that_is_there(tmp_path: Path) -> None:
    config, place = str(worlds.trips()), str(tmp_path / "run")
    target = "model.target={column: which}"
    first = execute(load_config(config, output=place, settings=[target]))
    assert len(first.exceeded) == 1
    wider = execute(load_config(config, output=place, settings=[target, "limits.rejected=0.5"]))
    assert wider.reused
    assert wider.exceeded == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_never_touched(overwrite: bool, tmp_path: Path) -> None:
    place = tmp_path / "letters"
    place.mkdir()
    (place / "to-mother.txt").write_text("Dear mother")
    before = contents(place)
    with pytest.raises(UserError, match=r"letters: is no run directory.*to-mother\.txt"):
        explain(worlds.trips(), output=str(place), overwrite=overwrite)
    assert contents(place) == before


def test_a_change_of_the_input_is_another_run(tmp_path: Path) -> None:
    config = vectors_copy(tmp_path / "data")
    place = tmp_path / "run"
    worlds.explain(config, place)
    part = tmp_path / "data" / "part-b.parquet"
    pq.write_table(pq.read_table(part), part)
    with pytest.raises(UserError, match="another config, model or input"):
        worlds.explain(config, place)


def test_a_model_that_is_saved_again_is_loaded_again(tmp_path: Path) -> None:
    """As in a notebook: train, explain, train, explain, all in one process."""
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [3.0, 5.0]}), tmp_path / "rows.parquet")
    config = linear_config(tmp_path, baseline={"kind": "zeros"})
    weights = linear_world(tmp_path, 2)
    rows = np.array([[1.0, 3.0], [2.0, 5.0]])
    first = worlds.explain(config, tmp_path / "one")
    np.testing.assert_allclose(worlds.phi(first.attributions()), rows * weights, atol=1e-6)

    import keras

    model = keras.models.load_model(tmp_path / "model.keras")
    model.set_weights([np.array([[7.0], [9.0]]), np.zeros(1)])
    model.save(tmp_path / "model.keras")
    second = worlds.explain(config, tmp_path / "two")
    np.testing.assert_allclose(worlds.phi(second.attributions()), rows * [7.0, 9.0], atol=1e-5)
    assert first.manifest["model"]["digest"] != second.manifest["model"]["digest"]


def test_rows_that_the_model_refuses_are_no_background(tmp_path: Path) -> None:
    """A sample of all rows holds the one that is outside the embedding; the others stand for it."""
    config = worlds.trips()
    for name in ("trips.yaml", "model.keras"):
        shutil.copy(config.parent / name, tmp_path / name)
    table = pq.read_table(config.parent / "trips-2.parquet")
    hours = [99 if i == 13 else hour for i, hour in enumerate(table["hour"].to_pylist())]
    at = table.column_names.index("hour")
    pq.write_table(table.set_column(at, "hour", pa.array(hours, pa.int8())), tmp_path / "trips-2.parquet")
    run = worlds.explain(tmp_path / "trips.yaml", tmp_path / "run", "method=expected_gradients")
    assert run.manifest["baseline"] == {**run.manifest["baseline"], "kind": "sample", "rows": 79}
    assert run.manifest["counts"]["rows_attributed"] == 79
