"""Committed runs of nights on disk, small enough to write a hundred of them in a test.

Importance is computed here with pandas from φ, independently of `transforms.aggregates`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.run_directory.committed import SCHEMA_VERSION

FIRST = datetime.date(2026, 1, 5)  # a Monday


@dataclass
class NightData:
    """The rows of a night.

    Args:
      values: Feature values, `[R]` by feature; strings are categories.
      phi: φ, `[R]` by feature.
      model: The model's digest.
      baseline: The baseline's digest.
      method: The method's name.
      rejected: Number of rejected rows.
      sample: Whether the run keeps a sample of rows.
      slice_by: The column of the slices.
    """

    values: Mapping[str, np.ndarray]
    phi: Mapping[str, np.ndarray]
    model: str = "sha256:one"
    baseline: str = "sha256:base"
    method: str = "integrated_gradients"
    rejected: int = 0
    sample: bool = True
    slice_by: str = "region"


def usual_night(rng: np.random.Generator, rows: int = 400, shift: float = 0.0) -> NightData:
    """A night whose scale differs from other nights', as real nights' do.

    `age` is a whole number, `heat` a multiple of a half, `region` a category with three values.
    """
    scale = np.exp(0.1 * rng.standard_normal())
    age = rng.integers(18, 80, rows).astype(float)
    heat = np.round(2 * (20 + 3 * rng.standard_normal() + 5 * rng.standard_normal(rows))) / 2 + shift
    region = rng.choice(["north", "south", "west"], rows)
    phi = {
        "age": scale * (age - 50) / 30,
        "heat": 0.5 * scale * (heat - 20) / 5,
        "region": 0.3 * scale * np.select([region == "north", region == "south"], [1.0, -1.0], 0.2),
    }
    return NightData({"age": age, "heat": heat, "region": region}, phi)


def write_night(folder: Path, number: int, data: NightData, **manifest: Any) -> Path:
    """Writes the run of a night, `number` days after `FIRST`, and returns its directory."""
    date = FIRST + datetime.timedelta(number)
    run = folder / date.isoformat()
    (run / "report").mkdir(parents=True)
    importance(data).to_parquet(run / "importance.parquet", index=False)
    if data.sample:
        pq.write_table(sample(data), run / "report" / "sample.parquet")
    rows = len(data.phi["age"])
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": "nightly",
        "created": f"{date}T05:00:00+00:00",
        "config": {
            "method": {"name": data.method},
            "input": {"weight": None, "slices": [data.slice_by], "groups": {}},
            "limits": {"rejected": 0.01, "convergence": 0.05},
            "features": {"heat": {"label": "Temperature"}},
        },
        "model": {"digest": data.model, "outputs": [{"name": "risk", "shape": [1], "score": "logit"}]},
        "baseline": {"digest": data.baseline, "kind": "median"},
        "features": list(data.phi),
        "target_names": ["risk"],
        "schema": [{"name": name, "kind": _kind(values)} for name, values in data.values.items()],
        "slices": [{"name": data.slice_by, "kind": "column", "columns": [data.slice_by]}],
        "parts": [],
        "counts": {
            "rows_read": rows + data.rejected,
            "rows_attributed": rows,
            "rows_rejected": data.rejected,
            "attributions": rows,
        },
        "quality": {"convergence_delta": {"relative_p99": 1e-6}, "exceeded": []},
        **manifest,
    }
    (run / "manifest.json").write_text(json.dumps(content))
    return run


def _kind(values: np.ndarray) -> str:
    return "categorical" if values.dtype.kind in "UO" else "numeric"


def importance(data: NightData) -> pd.DataFrame:
    """The importance of a night, over all rows and by slice."""
    labels = data.values[data.slice_by]
    frames = []
    slices = {"": np.ones(len(labels), bool)}
    slices |= {f"{data.slice_by}={name}": labels == name for name in np.unique(labels)}
    for name, member in slices.items():
        records = []
        for feature, phi in data.phi.items():
            inside = phi[member]
            error = 1.96 * np.abs(inside).std() / np.sqrt(max(len(inside), 1)) if len(inside) else 0.0
            mean_abs = np.abs(inside).mean() if len(inside) else 0.0
            records.append(
                {
                    "slice": name,
                    "target": 0,
                    "target_name": "risk",
                    "feature": feature,
                    "rows": len(inside),
                    "mean_abs": mean_abs,
                    "mean_abs_low": mean_abs - error,
                    "mean_abs_high": mean_abs + error,
                    "mean": inside.mean() if len(inside) else 0.0,
                    "std": inside.std() if len(inside) else 0.0,
                    "positive": (inside > 0).mean() if len(inside) else 0.0,
                }
            )
        frame = pd.DataFrame(records)
        total = frame["mean_abs"].sum()
        frame["share"] = frame["mean_abs"] / total if total else 0.0
        frame["rank"] = frame["mean_abs"].rank(ascending=False, method="first").astype(int)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def sample(data: NightData) -> pa.Table:
    """The sample of rows, in the layout of `report/sample.parquet`: here every row."""
    rows = len(data.phi["age"])
    struct = pa.StructArray.from_arrays([pa.array(v) for v in data.values.values()], list(data.values))
    columns: dict[str, Any] = {
        "kind": ["sample"] * rows,
        "example_id": [str(number) for number in range(rows)],
        "feature": struct,
        data.slice_by: data.values[data.slice_by],
    }
    return pa.table(columns)


def write_nights(folder: Path, nights: Sequence[NightData]) -> list[Path]:
    """Writes nights in succession."""
    return [write_night(folder, number, data) for number, data in enumerate(nights)]
