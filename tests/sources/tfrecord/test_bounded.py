"""A config that would take a quarter of a terabyte at once runs in two gigabytes, and the plan says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.child import ROOT
from pipeline import load_run
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from pipeline.planning.summary import summarize

ROWS, FEATURES, BACKGROUND = 80, 2000, 100
#: The least that determine the values of so many features.
COALITIONS = 2 * FEATURES + 2


def test_what_would_take_a_quarter_of_a_terabyte_at_once(tmp_path: Path) -> None:
    at_once = 4 * FEATURES * ROWS * COALITIONS * BACKGROUND
    assert at_once >= 2.5e11
    import keras

    keras.utils.set_random_seed(5)
    names = [f"f{index:04d}" for index in range(FEATURES)]
    rows = np.random.default_rng(5).standard_normal((ROWS, FEATURES), dtype=np.float32)
    pq.write_table(pa.table(list(rows.T), names), tmp_path / "rows.parquet")
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(1, activation="softplus")]
    keras.Sequential(layers).save(tmp_path / "model.keras")
    config = tmp_path / "wide.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "name": "wide",
                "model": {"path": "model.keras", "score": "output"},
                "input": {"files": "rows.parquet", "features": names},
                "method": {"name": "kernel_shap", "n_samples": COALITIONS},
                "baseline": {"kind": "sample", "rows": BACKGROUND},
                "output": {"path": "run"},
            }
        )
    )
    estimate = summarize(make_plan(load_config(str(config))))["estimate"]
    assert estimate["device_bytes"] < at_once / 500
    assert estimate["device_calls_per_row"] >= 10
    # By way of a small process: a child's peak begins with the size of the one that it is made from.
    program = f"from benchmarks.child import attribeam; print(attribeam(['explain', {str(config)!r}]).peak)"
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak = int(told.stdout)
    # TensorFlow and Beam take half of it, the fit of 2,000 values most of the rest, the sample 0.1 GB.
    assert peak < 1.8e9, f"{peak / 1e9:.1f} GB for what takes {at_once / 1e12:.1f} TB at once"
    run = load_run(tmp_path / "run")
    assert run.manifest["counts"]["rows_attributed"] == ROWS
    assert run.manifest["quality"]["convergence_delta"]["relative_p99"] < 1e-4
