"""Committed runs written by hand: a manifest and tables with known numbers; helpers, not tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import load_run
from pipeline.results.run import Run
from pipeline.run_directory.committed import SCHEMA_VERSION

_STATS = ("mean_abs", "mean", "std", "min", "p05", "p25", "p50", "p75", "p95", "max", "positive")


def importance_of(
    phi: Mapping[str, np.ndarray], slice: str = "", target: int = 0, name: str = "late"
) -> pd.DataFrame:
    """The rows of importance.parquet for φ by feature, by numpy alone; intervals of a normal mean."""
    rows = []
    for feature, values in phi.items():
        wide = 1.96 * np.abs(values).std() / np.sqrt(len(values))
        size = np.abs(values).mean()
        quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
        stats = [
            size,
            values.mean(),
            values.std(),
            values.min(),
            *quantiles,
            values.max(),
            (values > 0).mean(),
        ]
        rows.append(
            {
                **{"slice": slice, "target": target, "target_name": name, "feature": feature},
                **{"rows": len(values), **dict(zip(_STATS, stats, strict=True))},
                **{"mean_abs_low": size - wide, "mean_abs_high": size + wide},
            }
        )
    frame = pd.DataFrame(rows).sort_values("mean_abs", ascending=False, kind="stable").reset_index(drop=True)
    frame["share"] = frame["mean_abs"] / (frame["mean_abs"].sum() or 1.0)
    frame["rank"] = np.arange(1, len(frame) + 1)
    low, high = frame["mean_abs_low"].to_numpy(), frame["mean_abs_high"].to_numpy()
    frame["rank_low"] = 1 + (low[None, :] > high[:, None]).sum(axis=1)
    frame["rank_high"] = (high[None, :] >= low[:, None]).sum(axis=1)
    return frame


def manifest(features: list[str], rows: int, **changed: Any) -> dict[str, Any]:
    """As much of a manifest as readers of runs need; `changed` replaces top-level entries."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": "a" * 16,
        "name": "world",
        "created": "2026-11-20T12:00:00+00:00",
        "config": {
            "name": "world",
            "model": {"path": "model.keras", "target": 0, "score": "auto"},
            "input": {"files": ["data/*.parquet"], "groups": {}, "slices": []},
            "method": {"name": "integrated_gradients", "n_steps": 50},
            "baseline": {"kind": "mean"},
            "output": {"path": "runs/a", "attributions": "all", "features": False},
            "seed": 0,
        },
        "fingerprint": "f" * 16,
        "model": {
            "path": "model.keras",
            "digest": "d1" * 16,
            "outputs": [{"name": "late", "shape": [1], "score": "logit"}],
        },
        "baseline": {"kind": "mean", "rows": 1, "digest": "b1" * 16},
        "inputs": [{"file": "data/1.parquet", "rows": rows, "bytes": 100, "digest": "i1" * 16}],
        "target_names": ["late"],
        "features": features,
        "parts": [],
        "counts": {"rows_read": rows, "rows_attributed": rows, "rows_rejected": 0, "attributions": rows},
        "quality": {
            "convergence_delta": {"p50": 1e-6, "p99": 1e-5, "max": 1e-4, "relative_p99": 1e-4},
            "limited_rows": 0,
            "exceeded": [],
        },
        "versions": {"python": "3.12.0", "attribeam": "0.1.0"},
        **changed,
    }


def write_run(folder: Path, importance: pd.DataFrame, sample: pa.Table | None = None, **changed: Any) -> Run:
    """Writes and opens a run of these tables."""
    folder.mkdir(parents=True)
    features = list(dict.fromkeys(importance["feature"]))
    rows = int(importance["rows"].iloc[0])
    (folder / "manifest.json").write_text(json.dumps(manifest(features, rows, **changed)), encoding="utf-8")
    pq.write_table(pa.Table.from_pandas(importance, preserve_index=False), folder / "importance.parquet")
    if sample is not None:
        (folder / "report").mkdir()
        pq.write_table(sample, folder / "report" / "sample.parquet")
    return load_run(folder)
