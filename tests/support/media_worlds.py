"""Tables of runs written by hand: pictures, texts, vectors and numbers; helpers, not tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.report.data.tables import ReportData

HOSTILE = [
    "<script>alert(1)</script>",
    "\"quoted\" & 'so'",
    "</script><!-- ",
    "x" * 500,
    "שלום עולם",
    "new\nline\ttab",
    "dots.and[brackets]\\",
    "👩‍👩‍👧 family",
    "\u202eevil\u202c",
]


def nested(values: np.ndarray) -> pa.Array:
    """`[N, *shape]` as nested fixed-size lists; objects as strings."""
    flat = values.reshape(-1)
    array = pa.array(flat.tolist(), pa.string()) if values.dtype == object else pa.array(flat)
    for extent in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, extent)
    return array


def world(
    phi: Mapping[str, np.ndarray],
    values: Mapping[str, np.ndarray],
    *,
    kinds: Mapping[str, str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    slices: Mapping[str, Sequence[Any]] | None = None,
    targets: Sequence[str] = ("late",),
    score: str = "logit",
    base: float = 0.25,
    additive: bool = True,
    extremes: int = 3,
    positions: bool = True,
    ids: Sequence[str] | None = None,
) -> ReportData:
    """The data of a report.

    Args:
      phi: φ by feature or group, `[N, T, *shape]`.
      values: By feature, `[N, *shape]`.
      kinds: image, categorical or numeric (the default) by feature.
      extremes: Rows of the largest and of the smallest score that are kept beside the sample.
      positions: Whether the run kept means by position.
    """
    rows, many = next(iter(phi.values())).shape[:2]
    total = sum(value.reshape(rows, many, -1).sum(axis=2) for value in phi.values())
    prediction = (base + total).astype(np.float32)
    known = list(ids) if ids is not None else [f"row {number}" for number in range(rows)]
    tables = []
    for target in range(many):
        order = np.argsort(-prediction[:, target], kind="stable")
        for kind, chosen in (
            ("sample", np.arange(rows)),
            ("largest", order[:extremes]),
            ("smallest", order[::-1][:extremes]),
        ):
            if not len(chosen):
                continue
            structs = [
                pa.StructArray.from_arrays(
                    [nested(value[chosen]) for value in found.values()], names=list(found)
                )
                for found in (
                    {name: value[:, target].astype(np.float32) for name, value in phi.items()},
                    values,
                )
            ]
            own = prediction[chosen, target]
            columns: dict[str, Any] = {
                "kind": [kind] * len(chosen),
                "example_id": [known[row] for row in chosen],
                "target": pa.array([target] * len(chosen), pa.int32()),
                "target_name": [targets[target]] * len(chosen),
                "prediction": own,
                "output": (1 / (1 + np.exp(-own))).astype(np.float32) if score == "logit" else own,
                "base_value": np.full(len(chosen), base, np.float32),
                "convergence_delta": pa.array([0.0 if additive else None] * len(chosen), pa.float32()),
                "attribution": structs[0],
                "feature": structs[1],
            }
            columns |= {name: [column[row] for row in chosen] for name, column in (slices or {}).items()}
            tables.append(pa.table(columns))
    schema = [
        {
            "name": name,
            "kind": (kinds or {}).get(name, "numeric"),
            "dtype": "string" if value.dtype == object else value.dtype.name,
            "shape": list(value.shape[1:]),
        }
        for name, value in values.items()
    ]
    importance = [
        {
            "slice": "",
            "target": target,
            "target_name": targets[target],
            "feature": name,
            "rows": rows,
            "mean_abs": float(np.abs(value[:, target]).reshape(rows, -1).sum(axis=1).mean()),
        }
        for target in range(many)
        for name, value in phi.items()
    ]
    by_position = []
    for name, value in phi.items():
        if value.ndim > 2 and positions:
            shape = value.shape[2:]
            index = np.indices(shape, np.int32).reshape(len(shape), -1).T
            at = pa.ListArray.from_arrays(
                np.arange(len(index) + 1, dtype=np.int32) * len(shape), index.ravel()
            )
            for target in range(many):
                absolute, mean = np.abs(value[:, target]).mean(axis=0), value[:, target].mean(axis=0)
                by_position.append(
                    pa.table(
                        {
                            "target": pa.array(np.full(len(index), target, np.int32)),
                            "target_name": [targets[target]] * len(index),
                            "feature": [name] * len(index),
                            "index": at,
                            "mean_abs": absolute.ravel().astype(np.float64),
                            "mean": mean.ravel().astype(np.float64),
                        }
                    )
                )
    return ReportData(
        manifest={
            "config_folder": "/nowhere",
            "features": list(phi),
            "schema": schema,
            "model": {"outputs": [{"name": "out", "shape": [None, many], "score": score}]},
            "config": {"input": {"groups": dict(groups or {})}, "features": dict(labels or {})},
        },
        importance=pd.DataFrame(importance),
        sample=pa.concat_tables(tables),
        positions=pa.concat_tables(by_position) if by_position else None,
        interactions=None,
        rejected={},
    )


def flights(rows: int = 400, additive: bool = True, hostile: bool = False) -> ReportData:
    """Numbers, categories and a group, with a row that is like no other."""
    random = np.random.default_rng(1)
    hour, distance = random.uniform(5, 23, rows), random.integers(90, 5000, rows)
    carrier = random.choice(["UA", "AA", "B6", "DL"], rows).astype(object)
    month = random.integers(1, 13, rows)
    temp, wind = random.normal(55, 18, rows), random.gamma(2, 5, rows)
    rain = np.where(random.random(rows) < 0.06, random.gamma(1, 0.4, rows), 0.0)
    phi = {
        "dep_hour": (hour - 13) * 0.16,
        "distance": (distance - 1000) / 4000,
        "carrier": np.select([carrier == "B6", carrier == "UA"], [0.4, -0.2], 0.05),
        "month": np.sin(month / 12 * 6.28) * 0.3,
        "rain": rain * 1.5,
        "weather": (wind - 10) * 0.02 - (temp - 55) * 0.004,
    }
    odd = min(7, rows - 1)
    phi["distance"][odd], phi["rain"][odd], rain[odd] = -3.1, 2.9, 2.0
    for number in range(14):
        phi[f"seat_{number}"] = random.normal(0, 0.01, rows)
    values: dict[str, np.ndarray] = {
        "dep_hour": hour.astype(np.float32),
        "distance": distance,
        "carrier": carrier,
        "month": month,
        "rain": rain.astype(np.float32),
        "temp": temp.astype(np.float32),
        "wind": wind.astype(np.float32),
    }
    values |= {f"seat_{number}": random.integers(0, 2, rows) for number in range(14)}
    labels = {"distance": {"label": "Distance to destination"}, "dep_hour": {"label": "Hour of departure"}}
    if hostile:
        names = dict(zip(["dep_hour", "distance", "rain", "month"], HOSTILE, strict=False))
        phi = {names.get(name, name): value for name, value in phi.items()}
        values = {names.get(name, name): value for name, value in values.items()}
        values["carrier"] = np.array(HOSTILE, object)[random.integers(0, len(HOSTILE), rows)]
        labels = {}
    return world(
        {name: value[:, np.newaxis] for name, value in phi.items()},
        values,
        kinds={"month": "categorical", "carrier": "categorical"},
        groups={"weather": ["temp", "wind"]},
        labels=labels,
        slices={"origin": random.choice(["EWR", "JFK", "LGA"], rows).tolist()},
        additive=additive,
        ids=[f"2013-01-{1 + row % 28:02d} JFK B6{row:04d}" for row in range(rows)],
    )


def digits(
    rows: int = 60, side: int = 8, channels: int = 1, targets: int = 3, scale: float = 255.0
) -> ReportData:
    """Pictures with a bright stroke, to which φ belongs."""
    random = np.random.default_rng(2)
    y, x = np.mgrid[:side, :side] / side
    values = np.zeros((rows, side, side, channels), np.float32)
    phi = np.zeros((rows, targets, side, side, channels))
    for row in range(rows):
        slope, at = random.normal(0, 0.5), random.uniform(0.3, 0.7)
        stroke = np.exp(-((x - at - slope * (y - 0.5)) ** 2) / 0.012)
        tint = random.uniform(0.4, 1, channels) if channels > 1 else np.ones(1)
        values[row] = scale * np.clip(stroke[..., np.newaxis] * tint, 0, 1)
        for target in range(targets):
            look = np.exp(-((x - 0.3 - 0.2 * target) ** 2 + (y - 0.5) ** 2) / 0.05) - 0.25
            phi[row, target] = (stroke * look)[..., np.newaxis] * random.uniform(0.5, 1.5) / channels / side
    return world(
        {"image": phi},
        {"image": values},
        kinds={"image": "image" if scale == 255 else "numeric"},
        targets=["zero", "one", "two"][:targets],
        slices={"digit": random.integers(0, 10, rows).tolist()},
        labels={"image": {"label": "Handwritten digit"}},
    )


def reviews(
    rows: int = 300,
    length: int = 24,
    vocabulary: Path | None = None,
    strings: bool = False,
    hostile: bool = False,
) -> ReportData:
    """Texts of ids or strings, padded at the end, in which some words speak for and some against."""
    random = np.random.default_rng(3)
    words = ["", *["the", "film", "was", "a", "and", "of", "it", "plot", "in", "actors"]]
    words += ["wonderful", "moving", "clever", "dull", "awful", "waste", "perhaps", "שלום"]
    words += HOSTILE if hostile else []
    effect = np.zeros(len(words))
    effect[11:17] = [0.9, 0.6, 0.4, -0.5, -1.0, -0.8]
    ids = random.integers(1, len(words), (rows, length))
    lengths = random.integers(4, length + 1, rows)
    ids[np.arange(length)[np.newaxis] >= lengths[:, np.newaxis]] = 0
    phi = effect[ids] * random.uniform(0.6, 1.4, ids.shape) + 0.02 * random.normal(size=ids.shape) * (ids > 0)
    if vocabulary is not None:
        vocabulary.write_text("\n".join(word.replace("\n", " ") for word in words) + "\n", encoding="utf-8")
    values = np.array(words, object)[ids] if strings else ids
    return world(
        {"review": phi[:, np.newaxis], "stars": np.full((rows, 1), 0.01)},
        {"review": values, "stars": np.full(rows, 3)},
        labels={"review": {"label": "Review"} | ({"vocabulary": str(vocabulary)} if vocabulary else {})},
        targets=["positive"],
    )


def spectra(rows: int = 50, length: int = 50) -> ReportData:
    """A vector of numbers, one of which matters most, and a small matrix."""
    random = np.random.default_rng(4)
    weight = np.linspace(-1, 1, length)
    weight[7] = 3.0
    values = random.normal(size=(rows, length)).astype(np.float32)
    small = random.normal(size=(rows, 2, 3)).astype(np.float32)
    return world(
        {"spectrum": (values * weight)[:, np.newaxis], "small": small[:, np.newaxis] * 0.1},
        {"spectrum": values, "small": small},
    )
