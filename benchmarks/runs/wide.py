"""Processor seconds of whole runs of wide tables, by their columns: 30 rows, five trees, top_k 5."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import xgboost
import yaml

from benchmarks.child import attribeam
from benchmarks.common import SEED, Row

ROWS = 30
WIDTHS = (750, 1_500, 3_000, 6_000, 12_000)


def run(folder: Path, quick: bool) -> list[Row]:
    found = []
    seconds: dict[int, float] = {}
    for width in WIDTHS[:2] if quick else WIDTHS:
        config = _world(folder, width)
        runs = []
        for _ in range(1 if quick else 3):
            runs.append(attribeam(["explain", str(config)]).processor_seconds)
            shutil.rmtree(folder / f"run-{width}")
        seconds[width] = median(runs)
        bar = 20.0 if width == 12_000 else None
        found.append(
            Row(f"tree_shap, {ROWS} rows × {width:,} columns", "processor time", runs, "s", at_most=bar)
        )
    low, high = min(seconds), max(seconds)
    # Twice the columns may cost twice the time and no more: the constant start-up lies below the line.
    growth = seconds[high] / seconds[low]
    found.append(
        Row(f"time at {high:,} ÷ at {low:,} columns", "", [growth], at_most=float(high) / low),
    )
    return found


def _world(folder: Path, width: int) -> Path:
    """A table, a model that goes by two of its columns, and a config over them."""
    rng = np.random.default_rng(SEED)
    frame = pd.DataFrame(rng.normal(size=(ROWS, width)), columns=[f"f{at}" for at in range(width)])
    learns = frame["f0"] + frame[f"f{width // 2}"]
    model = xgboost.XGBRegressor(n_estimators=5, max_depth=3, n_jobs=1).fit(frame, learns)
    model.save_model(folder / f"model-{width}.json")
    frame.to_parquet(folder / f"wide-{width}.parquet", index=False)
    config = {
        "name": "wide",
        "model": {"path": f"model-{width}.json"},
        "input": {"files": f"wide-{width}.parquet"},
        "method": {"name": "tree_shap"},
        "output": {"path": f"run-{width}", "attributions": {"top_k": 5}},
    }
    path = folder / f"wide-{width}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
