"""The whole graph: it equals a direct computation however it is cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.results.run import Run
from tests.support import worlds
from tests.support.known_worlds import direct

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
