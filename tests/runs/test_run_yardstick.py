"""Convergence is measured by the larger of the score's spread and its distance from one baseline row."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.report import report_is_current
from tests.support import worlds

pytestmark = pytest.mark.usefixtures("reports")


def world(folder: Path, slope: float, rows: list[float]) -> Path:
    """A config of a model of one number, sigmoid(1000 x − 500) − slope · x, compared with 0."""
    import keras

    number = keras.Input((1,), name="x")
    jump = keras.layers.Dense(1, activation="sigmoid", name="jump")(number)
    score = keras.layers.Dense(1, use_bias=False, name="y")(keras.layers.Concatenate()([jump, number]))
    model = keras.Model(number, score)
    model.get_layer("jump").set_weights([np.array([[1000.0]]), np.array([-500.0])])
    model.get_layer("y").set_weights([np.array([[1.0], [-slope]])])
    model.save(folder / "model.keras")
    pq.write_table(pa.table({"x": pa.array(rows, pa.float32())}), folder / "rows.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": "model.keras"},
        input={"files": "rows.parquet"},
        method={"name": "integrated_gradients", "n_steps": 4},
        baseline={"kind": "zeros"},
        output={"path": "run"},
    )


@pytest.mark.parametrize(
    ("slope", "rows", "delta", "distance", "word", "sentence"),
    [
        # Four nodes miss the jump: φ is −0.1 x. The score is 1 − 0.1 x, and 0 at the baseline.
        (0.1, [1, 2, 0.9], 1.0, np.sqrt(np.mean(np.square([0.9, 0.8, 0.91]))), "spread around the base value",
         "No feature moves it in that direction"),
        # All scores are 1: they have no spread.
        (0.0, [1, 1, 0.9], 1.0, 1.0, "whose spread is 0", "every φ is 0: they do not add up to it"),
    ],
)  # fmt: skip
def test_a_sum_that_misses_the_whole_way_exceeds_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slope: float, rows: list[float], delta: float,
    distance: float, word: str, sentence: str,
) -> None:  # fmt: skip
    config = world(tmp_path, slope, rows)
    assert cli.run(["explain", str(config)]) == 1
    out, err = capsys.readouterr()
    run = load_run(tmp_path / "run")
    found = run.manifest["quality"]["convergence_delta"]
    np.testing.assert_allclose(found["relative_p99"], delta / distance, rtol=0.006)
    assert word in err.splitlines()[-1]
    assert word in " ".join(out.split())
    page = html.unescape((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert report_is_current(run)
    assert "φ does not add up to the score as it should" in page
    assert sentence in page


def test_where_nothing_moves_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = world(tmp_path, 0.0, [0.0, 0.1, 0.0])
    assert cli.run(["explain", str(config)]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["quality"]["convergence_delta"]["relative_p99"] == 0.0
    assert "cannot be measured: the score's spread is 0" in " ".join(capsys.readouterr().out.split())
