"""Whole runs, whatever is in the files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import worlds
from tests.support.known_worlds import linear_config, linear_world

KINDS = [
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.decimal128(9, 2),
]  # fmt: skip


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
    assert re.fullmatch(r"the model refuses the row: indices\[\S+\] = 99 is not in \[0, 24\)", reason)
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
