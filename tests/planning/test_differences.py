"""In what a run differs from the one that is there: told key by key, file by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from tests.support import worlds
from tests.support.faults import Point, armed

SCORING = """
def predict(batch):
    return batch["a"] * 2 - batch["b"]
"""


def write(path: Path, rows: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    pq.write_table(pa.table({"a": rng.normal(size=rows), "b": rng.normal(size=rows)}), path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write(tmp_path / "one.parquet", 20)
    write(tmp_path / "two.parquet", 10, 1)
    (tmp_path / "differing_scoring.py").write_text(SCORING, encoding="utf-8")
    return worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "python: differing_scoring:predict"},
        input={"files": "*.parquet"},
        method={"name": "kernel_shap", "n_samples": 50},
        baseline={"kind": "zeros"},
        output={"path": "run"},
        compute={"shard_rows": 10},
    )


def refused(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    for verb in ("plan", "explain"):
        assert cli.run([verb, str(config), *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")][1:]
    return line


def test_what_differs_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", str(config)]) == 0
    folder = config.parent
    line = refused(config, capsys, "--set", "method.n_samples=20")
    assert (
        "different config, model or input: method.n_samples: 50 there, 20 here; give another --output" in line
    )
    line = refused(config, capsys, "--set", "method=exact_shap", "--set", "seed=7")
    assert "method: kernel_shap there, exact_shap here; seed: 0 there, 7 here" in line
    line = refused(config, capsys, "--set", "baseline.kind=constant", "--set", "baseline.value={a: 1, b: 2}")
    assert "baseline.kind: zeros there, constant here" in line
    assert 'baseline.value: none there, {"a": 1, "b": 2} here' in line
    assert "rows: 30 there, 12 here" in refused(config, capsys, "--limit", "12")
    write(folder / "three.parquet", 5)
    assert "three.parquet is new in the input" in refused(config, capsys)
    (folder / "three.parquet").unlink()
    write(folder / "two.parquet", 11)
    assert "two.parquet: 10 rows there, 11 here" in refused(config, capsys)
    write(folder / "two.parquet", 10, 5)
    assert "two.parquet" in refused(config, capsys)
    write(folder / "two.parquet", 10, 1)
    (folder / "differing_scoring.py").write_text(SCORING + "\n", encoding="utf-8")
    assert "the model: " in refused(config, capsys)


def test_what_differs_from_a_run_that_did_not_finish_is_told(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with armed(Point("os.rename", r"attributions/part-00001\.parquet"), "broken"):
        assert cli.run(["explain", str(config)]) == 3
    line = refused(config, capsys, "--set", "seed=3")
    assert "of a different config, model or input: seed: 0 there, 3 here" in line
    assert cli.run(["explain", str(config)]) == 0
    assert not (config.parent / "run" / "_work").exists()


@pytest.mark.parametrize(
    "point",
    [
        Point("os.rename", r"\.next/attributions/part-00001\.parquet"),
        Point("os.rename", r"\.next/manifest\.json"),
        Point("before pipeline.execution.commit:swap"),
        Point("os.rename", "/run"),
    ],
    ids=lambda point: point.path or point.what,
)
def test_the_same_run_is_made_anew_whole_or_not_at_all(config: Path, point: Point) -> None:
    place = config.parent / "run"
    assert cli.run(["explain", str(config)]) == 0
    parts = worlds.part_bytes(load_run(place))
    (place / "attributions" / "part-00000.parquet").write_bytes(b"hurt")
    with armed(point, "broken"):
        assert cli.run(["explain", str(config), "--overwrite"]) == 3
    assert cli.run(["explain", str(config), "--overwrite"]) == 0
    assert worlds.part_bytes(load_run(place)) == parts
    assert not [path for path in config.parent.iterdir() if path.name.startswith(".run")]
    assert cli.run(["verify", str(place), "--rows", "0"]) == 0
