"""Planning over many files and damaged ones: each is opened once, and what cannot be read is passed over."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.rows.baselines.baselines import BaselineRequest, first_rows, make_background
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources import base, inspection, read
from transforms.storage import files

MODEL = """
def score(rows):
    return 2 * rows["x"] - rows["n"]
"""


def write_files(folder: Path, count: int, rows: int = 10) -> list[Path]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        table = pa.table({"x": rng.normal(size=rows), "n": pa.array(range(rows), pa.int32())})
        paths.append(folder / f"part-{number:03d}.parquet")
        pq.write_table(table, paths[-1], use_dictionary=False, write_page_checksum=True)
    return paths


def config_over(folder: Path, pattern: str, **blocks: object) -> Path:
    (folder / "scoring.py").write_text(MODEL)
    given = {
        "model": {"path": "python: scoring:score"},
        "input": {"files": pattern, "features": ["x", "n"]},
        "method": "exact_shap",
        "baseline": {"kind": "mean"},
        "output": {"path": "run"},
        "limits": {"rejected": 1, "convergence": 1e9},
    }
    return worlds.write_config(folder / "config.yaml", **given | blocks)


def test_a_file_is_opened_once_for_all_that_a_plan_asks_of_its_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_files(tmp_path / "data", 40)
    for path in paths:
        MemoryFileSystem.blobs[f"mem://many/{path.name}"] = path.read_bytes()
    config = config_over(tmp_path, "mem://many/*.parquet", baseline={"kind": "zeros"})
    MemoryFileSystem.opened.clear()
    asked = []
    real = MemoryFileSystem.metadata
    monkeypatch.setattr(
        MemoryFileSystem, "metadata", lambda self, path: asked.append(path) or real(self, path)
    )
    plan = make_plan(load_config(str(config)), limit=10, in_process=True)
    # Once for the footer, and once for the first rows.
    assert len(MemoryFileSystem.opened) <= 2 * len(paths)
    assert len(asked) <= 2 * len(paths)
    assert len(plan.fingerprint) == 64
    assert {id(file.schema) for file in plan.files} == {id(plan.files[0].schema)}
    assert len(pickle.dumps(plan.files)) < 400 * len(paths)


def test_rows_of_an_object_store_are_read_ahead_and_are_the_same(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "data", 45)
    for path in paths:
        MemoryFileSystem.blobs[f"mem://ahead/{path.name}"] = path.read_bytes()
    local = inspection.inspect_files([(str(path), path.name) for path in paths])
    remote = inspection.inspect_files([(f"mem://ahead/{path.name}", path.name) for path in paths])
    spec = FeatureSpec("x", "numeric", "float32", (), pa.float64(), None, "x", 0)
    schema = ExampleSchema((spec,), {"x": ()}, {})
    for count in (7, 301):
        first, again = first_rows(local, schema, count), first_rows(remote, schema, count)
        assert first is not None
        assert again is not None
        assert len(first) == count
        np.testing.assert_array_equal(first.ordinals, np.arange(count))
        np.testing.assert_array_equal(first.features["x"], again.features["x"])
    request = BaselineRequest("sample", 60)
    drawn = [make_background(request, schema, found, 3)["x"] for found in (local, remote)]
    assert len(drawn[0]) == 60
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("first", [True, False])
def test_damaged_files_are_warned_of_and_cost_themselves(
    first: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A truncated file, one of no bytes and a corrupt page: the plan says so, the run explains the rest."""
    paths = write_files(tmp_path / "data", 4, rows=2000)
    cut, empty, hurt = (0, 1, 2) if first else (3, 2, 1)
    paths[cut].write_bytes(paths[cut].read_bytes()[:-9])
    paths[empty].write_bytes(b"")
    data = bytearray(paths[hurt].read_bytes())
    data[pq.read_metadata(paths[hurt]).row_group(0).column(0).data_page_offset + 100] ^= 1
    paths[hurt].write_bytes(data)
    config = config_over(tmp_path, "data/*.parquet", compute={"shard_rows": 1500, "batch_size": 256})
    plan = make_plan(load_config(str(config)), in_process=True)
    assert plan.rows == 4002
    assert len(plan.warnings) == 2
    lines = sorted(plan.warnings)
    assert f"input.files: data/{paths[min(cut, empty)].name}: the file" in lines[0]
    assert all(line.endswith("it counts as one row, which will be rejected") for line in lines)
    assert cli.run(["explain", str(config)]) == 0
    assert "Traceback" not in capsys.readouterr().err
    run = load_run(tmp_path / "run")
    counts = run.manifest["counts"]
    assert (counts["rows_read"], counts["rows_attributed"]) == (4002, 2000)
    rejected = run.rejected().to_pandas()
    assert len(rejected) == counts["rows_rejected"] == 2002
    assert set(rejected["stage"]) == {"read"}
    named = rejected.groupby("file")["row"].agg(["min", "max", "count"]).loc[f"data/{paths[hurt].name}"]
    assert named.tolist() == [0, 1999, 2000]
    assert (
        rejected["reason"].str.contains("rows 0 to 1,999 cannot be read: corrupt page in column x").sum()
        == 2000
    )
    assert rejected["reason"].str.contains("the number of its rows is unknown").sum() == 2
    assert {item["digest"] for item in run.manifest["inputs"]} == {file.digest for file in plan.files}
    # What is asked for later passes over the damage, too.
    assert len(run.explanation(rows=50).data) == 50


def test_digests(tmp_path: Path) -> None:
    (path,) = write_files(tmp_path, 1)

    def digest() -> str:
        return inspection.inspect_files([(str(path), path.name)])[0].digest

    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    of = data[-8 - length :] + len(data).to_bytes(8, "little")
    assert digest() == hashlib.blake2b(of, digest_size=32).hexdigest()
    before = digest()
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "x", pa.array(np.arange(10.0))), path, use_dictionary=False)
    assert digest() != before


def test_reading_holds_no_more_than_it_says(tmp_path: Path) -> None:
    """One row group of 100 MB, from its middle on, in a process of its own."""
    rows, names = 850_000, [f"f{i:02d}" for i in range(30)]
    rng = np.random.default_rng(0)
    table = pa.table([pa.array(rng.standard_normal(rows, dtype=np.float32)) for _ in names], names)
    path = tmp_path / "large.parquet"
    pq.write_table(table, path, row_group_size=rows, use_dictionary=False, compression="none")
    program = f"""
import pyarrow as pa
from transforms.sources import base, inspection, read, shards
(file,) = inspection.inspect_files([({str(path)!r}, "large.parquet")])
columns = [base.Column(name, kind) for name, kind in read.describe_columns([file]).items()]
before = pa.default_memory_pool().max_memory()
_, second = (shard.pieces[0] for shard in shards.cut([file], {rows // 2}))
met = sum(len(raw.rows) for raw in read.read_piece(second, columns, 4096))
print(met, pa.default_memory_pool().max_memory(), read.read_bytes([file], columns, 4096))
"""
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=worlds.ROOT, capture_output=True, text=True, check=True
    )
    met, held, most = map(int, told.stdout.split())
    assert met == rows // 2
    assert held < 30 << 20
    assert held < most


def test_what_reading_may_hold(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.float32()), ("s", pa.string()), ("v", pa.list_(pa.float32(), 100))])
    x, v = pa.array(np.zeros(1000, np.float32)), pa.array(np.zeros(100_000, np.float32))
    arrays = [x, pa.array(["a" * 50] * 1000), pa.FixedSizeListArray.from_arrays(v, 100)]
    pq.write_table(pa.table(arrays, schema=schema), tmp_path / "a.parquet", use_dictionary=False)
    inputs = inspection.inspect_files([(str(tmp_path / "a.parquet"), "a.parquet")])
    columns = [base.Column(field.name, field.type) for field in schema]

    def grows(named: list[base.Column]) -> float:
        """Bytes for another row a batch."""
        return (read.read_bytes(inputs, named, 500) - read.read_bytes(inputs, named, 100)) / 400

    assert grows(columns[:1]) == 2 * 5
    assert grows(columns[2:]) == 2 * 500
    assert 2 * 50 < grows(columns[1:2]) < 2 * 600
    assert read.read_bytes(inputs, columns, 10**6) == read.read_bytes(inputs, columns, 1000)
    assert read.read_bytes(inputs, columns, 10) < 10 << 20
    assert files.size(str(tmp_path / "a.parquet")) < 10 << 20


@pytest.mark.usefixtures("children")
def test_a_child_s_plan_is_the_launcher_s_own(tmp_path: Path) -> None:
    """What a model says in a process of its own comes back whole, and so does a refusal."""
    write_files(tmp_path / "data", 2)
    config = load_config(str(config_over(tmp_path, "data/*.parquet")))
    theirs, ours = make_plan(config), make_plan(config, in_process=True)
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.probe.artifact.to_bytes() == ours.probe.artifact.to_bytes()
    (tmp_path / "scoring.py").write_text("def score(rows):\n    raise LookupError('no such place')\n")
    for in_process in (False, True):
        with pytest.raises(UserError, match="no such place"):
            make_plan(config, in_process=in_process)
