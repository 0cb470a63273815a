"""Whole runs: methods, targets, and what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support import worlds
from tests.support.known_worlds import direct
from transforms.errors import UserError
from transforms.methods import METHODS


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
