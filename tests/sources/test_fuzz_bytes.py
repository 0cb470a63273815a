"""Mutated TFRecord and Parquet files, a bounded number: refused or rejected row by row, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from tests.fuzz.fuzz_bytes import FORMATS, mutated, run
from tests.support import worlds

MODEL = """
def score(rows):
    return 2 * rows["x"] - rows["n"]
"""


@pytest.mark.parametrize(("format", "count"), [("parquet", 70), ("tfrecord", 30)])
def test_mutated_bytes_are_refused_or_rejected(format: str, count: int) -> None:
    outcomes, findings = run(format, 0, count)
    assert findings == []
    assert outcomes.total() == count
    assert outcomes["rejected"] > count / 3  # else nothing is tested


@pytest.mark.parametrize("format", FORMATS)
def test_whole_runs_over_mutated_bytes(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run explains what it can and its counts balance, or ends with status 2 and one line."""
    (tmp_path / "scoring.py").write_text(MODEL)
    statuses = []
    for number in range(1000, 1003):
        data, original = mutated(format, 0, number)
        (tmp_path / f"a.{format}").write_bytes(data)
        (tmp_path / f"b.{format}").write_bytes(original)
        config = worlds.write_config(
            tmp_path / "config.yaml",
            model={"path": "python: scoring:score"},
            input={"files": f"*.{format}", "features": ["x", "n"]},
            method="exact_shap",
            baseline={"kind": "mean"},
            output={"path": f"run-{number}"},
            compute={"shard_rows": 100, "batch_size": 64},
            limits={"rejected": 1, "convergence": 1e9},
        )
        status = cli.run(["explain", str(config)])
        error = capsys.readouterr().err
        statuses.append(status)
        assert "Traceback" not in error
        if status == 2:
            assert error.splitlines()[-1].startswith("error: ")
            continue
        assert status == 0, error
        found = load_run(tmp_path / f"run-{number}")
        counts = found.manifest["counts"]
        assert counts["rows_read"] == sum(file["rows"] for file in found.manifest["inputs"])
        assert counts["rows_read"] == counts["rows_attributed"] + counts["rows_rejected"]
        assert found.attributions().num_rows == counts["rows_attributed"]
        assert found.rejected().num_rows == counts["rows_rejected"]
    assert 0 in statuses
