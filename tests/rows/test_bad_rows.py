"""A model that raises on some rows, drops them or gives no number for them costs these rows and no others."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.execution.run import explain
from tests.support import worlds

ROWS = 1024

MODEL = """
import numpy as np

calls, rows, most = [], [0], [1 << 62]


class Odd(Exception):
    pass


def predict(given):
    a, b = given["a"], given["b"]
    calls.append(len(a))
    rows[0] += len(a)
    if len(a) > most[0]:
        raise MemoryError(f"no room for {len(a)} rows")
    if (a == -1).any():
        raise ValueError("a is -1")
    if (a == -2).any():
        {}["altitude"]
    if (a == -3).any():
        1 // 0
    if (a == -4).any():
        raise Odd
    if (a == -5).any():
        assert False, "never\\nmind"
    if (a == -6).any():
        [][7]
    score = np.where(a == -7, np.nan, np.where(a == -8, -np.inf, a + b * b))
    return score[a != -9]


def broken(given):
    calls.append(len(given["a"]))
    rows[0] += len(given["a"])
    if (given["a"] != 0).any():
        raise RuntimeError("out of order")
    return given["a"]
"""

REASONS = {
    -1: "ValueError: a is -1",
    -2: "KeyError: 'altitude'",
    -3: "ZeroDivisionError",
    -4: "Odd",
    -5: "AssertionError: never",
    -6: "IndexError",
    -7: "the model's score is not finite",
    -8: "the model's score is not finite",
    -9: "returns 0 rows for 1",
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "oddity.py").write_text(MODEL)
    yield tmp_path
    sys.modules.pop("oddity", None)


def write(folder: Path, bad: dict[int, float], function: str = "predict", rows: int = ROWS) -> Path:
    a = np.arange(1.0, rows + 1)
    for row, value in bad.items():
        a[row] = value
    table = pa.table({"a": a, "b": np.linspace(-1, 1, rows)})
    pq.write_table(table, folder / "rows.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        name="odd",
        model={"path": f"python:oddity:{function}"},
        input={"files": "rows.parquet", "features": ["a", "b"]},
        method={"name": "exact_shap"},
        baseline={"kind": "zeros"},
        output={"path": "run"},
        limits={"rejected": 0.05},
    )


def counted(config: Path, output: Path) -> tuple[Any, int, int]:
    """A run, with the calls and the rows that its shards, and not its plan, asked of the model."""
    import pipeline.execution.run as running

    begin, found = running._begin, {}

    def begun(*arguments: Any) -> None:
        begin(*arguments)
        module = sys.modules["oddity"]
        found["calls"], found["rows"] = len(module.calls), module.rows[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_begin", begun)
        run = explain(str(config), output=str(output))
    module = sys.modules["oddity"]
    return run, len(module.calls) - found["calls"], module.rows[0] - found["rows"]


def test_whatever_it_raises_on_a_row_costs_that_row(world: Path) -> None:
    bad = {37 + 101 * number: value for number, value in enumerate(REASONS)}
    run, calls, _ = counted(write(world, bad), world / "run")
    rejected = {row["row"]: row for row in run.rejected().to_pylist()}
    assert set(rejected) == set(bad)
    for row, value in bad.items():
        assert rejected[row]["stage"] == "predict"
        assert REASONS[value] in rejected[row]["reason"]
        assert "\n" not in rejected[row]["reason"]
    table = run.attributions()
    good = [row for row in range(ROWS) if row not in bad]
    assert table["example_id"].to_pylist() == [f"rows.parquet:{row}" for row in good]
    expected = np.stack([np.arange(1.0, ROWS + 1), np.linspace(-1, 1, ROWS) ** 2], axis=1)[good]
    np.testing.assert_allclose(worlds.phi(table), expected, rtol=1e-6, atol=1e-4)
    # The same without a bad row, and for each that stops a call a few calls at each halving.
    _, clean, _ = counted(write(world, {}), world / "clean")
    raising = len([value for value in bad.values() if value not in (-7, -8)])
    assert calls <= clean + 12 * raising * math.log2(ROWS), f"{calls} calls, {clean} without bad rows"


def test_a_model_that_takes_no_row_ends_with_all_of_them_rejected(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No row but the baseline: each is asked for alone once, and log₂ B times among others."""
    rows = 256
    config = write(world, {}, "broken", rows)
    run, calls, evaluated = counted(config, world / "run")
    assert run.manifest["counts"]["rows_rejected"] == rows
    assert (
        run.rejected()["reason"].to_pylist()
        == ["the model refuses the row: RuntimeError: out of order"] * rows
    )
    assert calls <= 4 * 2 * rows
    assert evaluated <= rows * (math.log2(rows) + 2)
    assert cli.run(["explain", str(config), "--output", str(world / "run")]) == 1
    said = capsys.readouterr()
    assert "100.00% of the rows were rejected" in said.err
    assert "out of order" in said.out


# -- memory --------------------------------------------------------------------------------------------------


def test_a_function_without_memory_is_given_fewer_rows(world: Path) -> None:
    config = write(world, {5: -1})
    expected = explain(str(config), output=str(world / "free"))
    oddity = sys.modules["oddity"]

    oddity.most[0] = 100
    config.write_text(config.read_text() + "seed: 3\n")
    run = explain(str(config), output=str(world / "full"))
    assert run.attributions().equals(expected.attributions())
    assert run.manifest["counts"]["rows_rejected"] == 1
    assert run.manifest["device_batch_size_used"] == 64
    assert "memory ran out" in run.manifest["warnings"][0]
    assert load_run(run.path).manifest["device_batch_size"] > 64


@pytest.mark.parametrize("kind", [MemoryError, pa.ArrowMemoryError])
def test_a_host_without_memory_explains_halves(
    kind: type[Exception], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(world, {5: -1}, rows=64)
    expected = explain(str(config), output=str(world / "free"))
    config.write_text(config.read_text() + "seed: 4\n")
    from transforms.methods.masking.exact_shap import ExactShap

    attribute, sizes = ExactShap.attribute, []

    def hungry(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        sizes.append(len(inputs["a"]))
        if len(inputs["a"]) > 20:
            raise kind("cannot allocate")
        return attribute(self, model, inputs, *rest)

    monkeypatch.setattr(ExactShap, "attribute", hungry)
    run = explain(str(config), output=str(world / "full"))
    assert run.attributions().equals(expected.attributions())
    assert run.manifest["counts"]["rows_rejected"] == 1
    assert max(size for size in sizes if size <= 20) == 16, "halves, not single rows"
    assert run.manifest["warnings"] == []


def test_a_host_without_memory_for_one_row_breaks_the_run(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transforms.methods.masking.exact_shap import ExactShap

    def hungry(*arguments: Any) -> Any:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(ExactShap, "attribute", hungry)
    assert cli.run(["explain", str(write(world, {}, rows=8))]) == 3
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "too little memory for a single row (Unable to allocate 9 TiB)" in last
    assert "compute.workers" in last
    assert not (world / "run" / "manifest.json").exists()
