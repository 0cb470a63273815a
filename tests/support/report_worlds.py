"""Runs written by hand as tables, for reports: what is in them is known, and no pipeline has run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.run_directory.committed import SCHEMA_VERSION
from transforms.outputs.run_files import IMPORTANCE, INTERACTIONS, SAMPLE

HOSTILE = [
    "<script>document.title='broken'</script>",
    "</script><img src=x onerror=\"document.title='broken'\">",
    "a.b[0].c\\d",
    "it's \"quoted\" & 'so'",
    "x" * 500,
    "y" * 499 + "z",
    "\u05e9\u05dc\u05d5\u05dd \u202eevil",
    "emoji 🛫👩‍👩‍👧 é",
    "line\nbreak\ttab",
    "{{ 7*7 }} ${7*7} %s",
    " ",
    "@positive",
]


def write_run(
    folder: Path,
    phi: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    slices: Mapping[str, np.ndarray] | None = None,
    targets: Sequence[str] = ("late",),
    kinds: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    interactions: Sequence[tuple[int, str, str, float]] = (),
    rejected: Mapping[str, int] | None = None,
    sample: bool = True,
    score: np.ndarray | None = None,
    output: np.ndarray | None = None,
    **changes: Any,
) -> Path:
    """Writes a run directory.

    Args:
      folder: Of the run.
      phi: `[targets, rows, features]`.
      values: `[rows]` by feature.
      slices: Labels `[rows]` by slicing.
      targets: Names.
      kinds: Of features that are not numeric.
      labels: Of features.
      interactions: (target, feature, modulator, strength).
      rejected: Rows by reason.
      sample: Whether there is one.
      score: `[targets, rows]`, where it is another than −1 + Σφ; the base value is −1.
      output: `[targets, rows]`, where it is another than the score.
      changes: Of the manifest.
    """
    names = list(values)
    folder.mkdir(parents=True)
    (folder / "report").mkdir()
    importance = _importance(phi, names, slices or {}, targets)
    pq.write_table(pa.Table.from_pandas(importance, preserve_index=False), folder / IMPORTANCE)
    if sample:
        pq.write_table(_sample(phi, values, slices or {}, targets, score, output), folder / SAMPLE)
        columns = list(zip(*interactions, strict=True)) or [(), (), (), ()]
        table = {
            "target": pa.array(columns[0], pa.int32()),
            "target_name": pa.array([targets[target] for target in columns[0]], pa.string()),
            "feature": pa.array(columns[1], pa.string()),
            "modulator": pa.array(columns[2], pa.string()),
            "strength": pa.array(columns[3], pa.float64()),
        }
        pq.write_table(pa.table(table), folder / INTERACTIONS)
    if rejected:
        (folder / "rejected").mkdir()
        reasons = [reason for reason, count in rejected.items() for _ in range(count)]
        rows = len(reasons)
        table = {
            "example_id": pa.array([f"r{row}" for row in range(rows)]),
            "file": pa.array(["a.parquet"] * rows),
            "row": pa.array(range(rows), pa.int64()),
            "stage": pa.array(["decode"] * rows),
            "reason": pa.array(reasons),
        }
        pq.write_table(pa.table(table), folder / "rejected" / "part-00000.parquet")
    manifest = _manifest(phi, values, targets, kinds or {}, labels or {}, sum((rejected or {}).values()))
    if not rejected:
        manifest["parts"] = []
    manifest["config"]["input"]["slices"] = list(slices or {})
    for key, change in changes.items():
        manifest[key] = {**manifest[key], **change} if isinstance(change, dict) else change
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _importance(
    phi: np.ndarray, names: list[str], slices: Mapping[str, np.ndarray], targets: Sequence[str]
) -> pd.DataFrame:
    everything = np.ones(phi.shape[1], bool)
    groups = [("", everything)] + [
        (str(label), labels == label) for labels in slices.values() for label in pd.unique(labels)
    ]
    frames = []
    for slice_, chosen in groups:
        for target, of_target in enumerate(phi):
            part = of_target[chosen].astype(np.float64)
            size = np.abs(part)
            mean_abs = size.mean(axis=0)
            error = 1.96 * size.std(axis=0) / np.sqrt(len(part))
            order = np.argsort(-mean_abs, kind="stable")
            rank = np.empty(len(names), np.int32)
            rank[order] = np.arange(1, len(names) + 1)
            low, high = mean_abs - error, mean_abs + error
            at = np.ceil(np.array([0.05, 0.25, 0.5, 0.75, 0.95]) * len(part)).astype(int) - 1
            quantiles = np.sort(part, axis=0)[at]
            total = mean_abs.sum()
            frame = pd.DataFrame(
                {
                    "slice": slice_,
                    "target": np.int32(target),
                    "target_name": targets[target],
                    "feature": names,
                    "rows": np.int64(len(part)),
                    "mean_abs": mean_abs,
                    "mean_abs_low": low,
                    "mean_abs_high": high,
                    "mean": part.mean(axis=0),
                    "std": part.std(axis=0),
                    "min": part.min(axis=0),
                    **dict(zip(("p05", "p25", "p50", "p75", "p95"), quantiles, strict=True)),
                    "max": part.max(axis=0),
                    "positive": (part > 0).mean(axis=0),
                    "share": mean_abs / total if total else mean_abs,
                    "rank": rank,
                    "rank_low": (len(names) - np.searchsorted(np.sort(low), high, "right") + 1).astype(
                        np.int32
                    ),
                    "rank_high": (len(names) - np.searchsorted(np.sort(high), low)).astype(np.int32),
                }
            )
            frames.append(frame.iloc[order])
    return pd.concat(frames, ignore_index=True)


def _sample(
    phi: np.ndarray,
    values: Mapping[str, np.ndarray],
    slices: Mapping[str, np.ndarray],
    targets: Sequence[str],
    scores: np.ndarray | None = None,
    outputs: np.ndarray | None = None,
) -> pa.Table:
    rows = min(phi.shape[1], 2000)
    tables = []
    for target, name in enumerate(targets):
        score = phi[target].sum(axis=1) - 1 if scores is None else scores[target]
        order = np.argsort(score, kind="stable")
        for kind, chosen in (
            ("sample", np.arange(rows)),
            ("largest", order[::-1][:3]),
            ("smallest", order[:3]),
        ):
            count = len(chosen)
            prediction = pa.array(score[chosen].astype(np.float32))
            output = score if outputs is None else outputs[target]
            attributed = [pa.array(phi[target][chosen, at].astype(np.float32)) for at in range(len(values))]
            given = [pa.array(column[chosen]) for column in values.values()]
            tables.append(
                pa.table(
                    {
                        "kind": pa.array([kind] * count),
                        "example_id": pa.array([f"row {at}" for at in chosen]),
                        "target": pa.array([target] * count, pa.int32()),
                        "target_name": pa.array([name] * count),
                        "prediction": prediction,
                        "output": pa.array(output[chosen].astype(np.float32)),
                        "base_value": pa.array(np.full(count, -1, np.float32)),
                        "convergence_delta": pa.array(np.zeros(count, np.float32)),
                        "attribution": pa.StructArray.from_arrays(attributed, list(values)),
                        "feature": pa.StructArray.from_arrays(given, list(values)),
                        **{column: pa.array(labels[chosen]) for column, labels in slices.items()},
                    }
                )
            )
    return pa.concat_tables(tables)


def _manifest(
    phi: np.ndarray,
    values: Mapping[str, np.ndarray],
    targets: Sequence[str],
    kinds: Mapping[str, str],
    labels: Mapping[str, str],
    rejected: int,
) -> dict[str, Any]:
    rows = phi.shape[1]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": "0123456789abcdef",
        "name": "flights",
        "created": "2026-11-28T14:01:49+00:00",
        "config": {
            "name": "flights",
            "model": {"path": "model.keras", "target": 0 if len(targets) == 1 else "all", "score": "auto"},
            "input": {"files": "data/*.parquet", "format": None, "id": "id", "groups": {}, "slices": []},
            "method": {"name": "integrated_gradients", "n_steps": 50, "tolerance": None},
            "baseline": {"kind": "median", "rows": None, "path": None, "value": None},
            "output": {"path": "runs/x", "attributions": "all", "features": False},
            "features": {name: {"label": label} for name, label in labels.items()},
            "seed": 0,
            "limits": {"rejected": 0.05, "convergence": 0.05},
        },
        "config_folder": "/home/someone",
        "fingerprint": "0" * 64,
        "model": {
            "path": "model.keras",
            "digest": "sha256:" + "a1" * 32,
            "inputs": [{"name": "x", "shape": [len(values)], "dtype": "float32"}],
            "outputs": [{"name": "late", "shape": [len(targets)], "score": "logit"}],
        },
        "baseline": {"kind": "median", "rows": 1, "digest": "sha256:" + "b2" * 32},
        "inputs": [{"file": "data/a.parquet", "rows": rows + rejected, "bytes": 123456}],
        "rows": rows + rejected,
        "increments": [{"files": 1, "rows": rows + rejected}],
        "target_names": list(targets),
        "features": list(values),
        "schema": [
            {"name": name, "kind": kinds.get(name, "numeric"), "dtype": "float32", "shape": [], "fill": None}
            for name in values
        ],
        "parts": [{"file": "rejected/part-00000.parquet", "rows": rejected, "bytes": 1, "digest": ""}],
        "counts": {
            "rows_read": rows + rejected,
            "rows_attributed": rows,
            "rows_rejected": rejected,
            "attributions": rows * len(targets),
        },
        "quality": {
            "convergence_delta": {"p50": 1e-6, "p99": 1e-4, "max": 1e-3, "relative_p99": 1e-4},
            "limited_rows": 0,
            "exceeded": [],
        },
        "warnings": [],
        "timing": {
            "seconds": 62.0,
            "planning_seconds": 2.0,
            "pipeline_seconds": 60.0,
            "explaining_seconds": 55.0,
            "rows_per_second": rows / 60,
        },
        "runner": "DirectRunner",
        "versions": {"python": "3.11.7", "attribeam": "0.1.0", "tensorflow": "2.21.0"},
    }


def small(folder: Path) -> Path:
    """Numbers and categories, slices that differ, an interaction, labels, rejected rows."""
    rng = np.random.default_rng(7)
    rows = 3000
    distance = rng.gamma(2.0, 500.0, rows)
    hour = rng.integers(5, 24, rows).astype(np.float64)
    visib = np.minimum(10, rng.exponential(20, rows))
    carrier = rng.choice(
        ["UA", "AA", "DL", "B6", "EV", "WN", "HA"], rows, p=[0.2, 0.15, 0.2, 0.2, 0.15, 0.08, 0.02]
    )
    month = rng.integers(1, 13, rows)
    noise = rng.normal(size=rows)
    by_carrier = {"UA": 0.1, "AA": -0.2, "DL": -0.35, "B6": 0.3, "EV": 0.55, "WN": 0.2, "HA": -1.2}
    phi = np.stack(
        [
            0.14 * (hour - 13) * np.where(month % 12 < 6, 1.2, 0.6) + 0.05 * rng.normal(size=rows),
            np.array([by_carrier[c] for c in carrier]) + 0.1 * rng.normal(size=rows),
            -0.0003 * (distance - 900) * np.where(carrier == "EV", 3.0, 1.0),
            0.3 * np.sin(month / 12 * 2 * np.pi) + 0.05 * rng.normal(size=rows),
            0.06 * (10 - visib),
            0.02 * noise,
        ],
        axis=1,
    )
    values = {
        "dep_hour": hour,
        "carrier": carrier,
        "distance": distance,
        "month": month,
        "visib": visib,
        "noise": noise,
    }
    origin = rng.choice(["JFK", "LGA", "EWR"], rows)
    return write_run(
        folder,
        phi[None],
        values,
        kinds={"carrier": "categorical", "month": "categorical"},
        labels={"dep_hour": "Scheduled hour", "distance": "Distance, miles", "visib": "Visibility, miles"},
        slices={
            "carrier": np.char.add("carrier=", carrier),
            "origin": np.char.add("origin=", origin),
            "distance > 1500": np.where(distance > 1500, "distance > 1500", "distance <= 1500"),
        },
        interactions=[
            (0, "dep_hour", "month", 0.62),
            (0, "distance", "carrier", 0.48),
            (0, "visib", "noise", 0.03),
        ],
        rejected={"explain: is null": 70, "column distance: not a finite number": 5},
    )


def many_targets(folder: Path, targets: int = 15) -> Path:
    """Digits, one a target, and more than are shown."""
    rng = np.random.default_rng(3)
    values = {f"f{at}": rng.normal(size=400) for at in range(8)}
    scale = rng.gamma(1.0, 1.0, (targets, 1, 8))
    phi = np.stack(list(values.values()), axis=1)[None] * scale * rng.choice([-1, 1], (targets, 1, 8))
    slices = {"s": rng.choice(["s=1", "s=2", "s=10"], 400)}
    return write_run(folder, phi, values, targets=[f"digit {at}" for at in range(targets)], slices=slices)


def large(folder: Path, features: int = 500, slices: int = 200) -> Path:
    """As many features and slices as a page must bear."""
    rng = np.random.default_rng(5)
    rows = 8000
    values = {f"feature_number_{at}": rng.normal(size=rows) for at in range(features)}
    matrix = np.stack(list(values.values()), axis=1)
    phi = matrix * (1.0 / np.arange(1, features + 1)) ** 0.7
    region = rng.integers(0, slices - 20, rows)
    phi[region == 3, 0] *= 2.5
    names = list(values)
    hints = [(0, names[at], names[at + 1], 0.9 / (at + 1)) for at in range(50)]
    return write_run(
        folder,
        phi[None],
        values,
        slices={
            "region": np.char.add("region=", region.astype(str)),
            "plan": np.char.add("plan=tariff ", rng.integers(0, 20, rows).astype(str)),
        },
        interactions=hints,
    )


def hostile(folder: Path) -> Path:
    """Names, categories, slices, targets and reasons that are anything but names."""
    rng = np.random.default_rng(11)
    rows = 300
    values: dict[str, np.ndarray] = {name: rng.normal(size=rows) for name in HOSTILE[:-2]}
    values |= {name: rng.choice(HOSTILE, rows).astype(object) for name in HOSTILE[-2:]}
    phi = rng.normal(size=(2, rows, len(values))) * np.linspace(2, 0.5, len(values))
    picked = rng.choice(HOSTILE, rows).astype(object)
    return write_run(
        folder,
        phi,
        values,
        kinds=dict.fromkeys(HOSTILE[-2:], "categorical"),
        labels={HOSTILE[0]: HOSTILE[1]},
        targets=(HOSTILE[0], HOSTILE[6]),
        slices={HOSTILE[2]: np.array([f"{HOSTILE[2]}={label}" for label in picked], object)},
        interactions=[(0, HOSTILE[0], HOSTILE[1], 0.5), (1, HOSTILE[3], HOSTILE[10], 0.5)],
        rejected={HOSTILE[1]: 2},
        name=HOSTILE[1],
        warnings=[HOSTILE[0]],
    )


def degenerate(folder: Path, kind: str) -> Path:
    """Runs with something missing: see `DEGENERATE`."""
    rng = np.random.default_rng(13)
    rows = 1 if kind == "one row" else 50
    names = ["x"] if kind == "one feature" else ["x", "y", "z"]
    values = {name: rng.normal(size=rows) for name in names}
    phi = np.stack(list(values.values()), axis=1)[None]
    if kind == "constant":
        phi = np.zeros_like(phi)
    if kind == "huge":
        phi = phi * 3e18
    if kind == "tiny":
        phi = phi * 2e-21
    changes: dict[str, Any] = {}
    if kind == "no sum":
        changes["quality"] = {"convergence_delta": None, "exceeded": []}
    return write_run(folder, phi, values, sample=kind != "no sample", **changes)


DEGENERATE = ("no sample", "one row", "one feature", "constant", "huge", "tiny", "no sum")
