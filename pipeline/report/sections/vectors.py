"""The report's section on features that are vectors: which of their positions matter."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.report.blocks import Block, Cell, Figure, Section, Table
from pipeline.report.data.sampled_rows import (
    Shown,
    apart,
    mean_by_position,
    most_important,
    of_features,
    of_targets,
)
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import MOST_TARGETS
from pipeline.wording import isolated, listed, number, percent, plain, shorten

#: Bars of a chart, lines of the table behind it, positions that are told in words.
_BARS, _LINES, _TOLD = 30, 200, 3
#: Charts of all vectors and targets together, and lines of their tables.
_CHARTS, _ALL_LINES = 100, 4000
#: Bars from the first position to the last.
_STEPS = 400


def sections(data: ReportData) -> list[Section]:
    """Mean |φ| by position of each feature that is neither a number, a picture nor a text."""
    targets = list(data.targets)[:MOST_TARGETS]
    vectors, rest_of_them = most_important(data, "vector", max(1, _CHARTS // max(1, len(targets))))
    lines = max(_BARS, min(_LINES, _ALL_LINES // max(1, len(vectors) * len(targets))))
    made: dict[str, list[Block]] = {}
    for place, (name, feature) in enumerate(zip(apart(f.label for f in vectors), vectors, strict=True)):
        figures = {
            target: [figure]
            for target in targets
            if (figure := strongest(data, target, feature, f"vector-{place}-{target}", lines))
        }
        if not figures:
            continue
        made[name] = of_targets(data, figures)
    if not made:
        return []
    lead = "A vector is one feature of many numbers: which of them move the score."
    return [Section("vectors", "Vectors", lead, of_features("Vector", made, rest_of_them))]


def strongest(data: ReportData, target: int, feature: Shown, name: str, lines: int) -> Figure | None:
    """The positions of largest mean |φ| as bars; None where nothing is known of them."""
    means = mean_by_position(data, target, feature)
    if means is None:
        return None
    order = np.argsort(-means.absolute, axis=None, kind="stable")
    whole = float(means.absolute.sum()) or 1.0
    rows: list[list[Cell]] = []
    for at in order[:lines]:
        place = np.unravel_index(at, feature.shape)
        value, mean = float(means.absolute[place]), float(means.mean[place])
        rows.append([position(place, feature), value, percent(value / whole), mean])
    label = isolated(shorten(plain(feature.label)))
    told = listed([f"{row[0]} ({number(float(str(row[1])), 3)})" for row in rows[:_TOLD]])
    shown = rows[:_BARS]
    part = f"the {len(shown)} of {order.size:,}" if order.size > len(shown) else "all"
    return Figure(
        name,
        f"Positions of {label} by mean |φ|{of_target(data, target)}",
        f"Bars of mean |φ| by position, {part} positions. The largest are at {told}.",
        spec=_bars(shown),
        table=Table(["Position", "Mean |φ|", "Share", "Mean φ"], rows),
        note=f"{means.of} Positions are counted from 0. Red: raises the score on average; blue: lowers it.",
    )


def along(data: ReportData, target: int, feature: Shown, name: str) -> Figure | None:
    """Mean |φ| from the first position to the last; None where nothing is known of them."""
    means = mean_by_position(data, target, feature)
    if means is None:
        return None
    absolute, mean = means.absolute.reshape(-1), means.mean.reshape(-1)
    label = isolated(shorten(plain(feature.label)))
    best = int(absolute.argmax())
    most = _LINES if len(absolute) <= _LINES else _LINES // 2
    told = sorted(np.argsort(-absolute, kind="stable")[:most].tolist())
    rows: list[list[Cell]] = [[at, float(absolute[at]), float(mean[at])] for at in told]
    many = len(absolute)
    part = f"The {len(rows)} of {many:,} positions that matter most" if len(rows) < many else ""
    width = -(-many // _STEPS)
    starts = np.arange(0, many, width)
    counts = np.diff([*starts, many])
    values = [
        {"at": at, "value": float(f"{value:.5g}"), "mean": float(f"{low:.5g}")}
        for at, value, low in zip(
            starts.tolist(),
            (np.add.reduceat(absolute, starts) / counts).tolist(),
            (np.add.reduceat(mean, starts) / counts).tolist(),
            strict=True,
        )
    ]
    bars = f" A bar is the mean over {width} positions." if width > 1 else ""
    spec = {
        "data": {"values": values},
        "width": "container",
        "height": 160,
        "transform": [{"calculate": f"min(datum.at + {width}, {many})", "as": "next"}],
        "mark": {"type": "bar", "binSpacing": 1 if len(values) <= 120 else 0},
        "encoding": {
            "x": {
                "field": "at",
                "type": "quantitative",
                "scale": {"domain": [0, many], "nice": False},
                "axis": {"title": "position", "grid": False, "tickMinStep": 1, "format": "d"},
            },
            "x2": {"field": "next"},
            "y": {"field": "value", "type": "quantitative", "axis": {"title": "mean |φ|", "tickCount": 4}},
            "y2": {"datum": 0},
            "tooltip": [
                {"field": "at", "title": "Position"},
                {"field": "value", "title": "Mean |φ|", "format": ".4~g"},
                {"field": "mean", "title": "Mean φ", "format": ".4~g"},
            ],
        },
    }
    return Figure(
        name,
        f"Where in {label} the score is moved{of_target(data, target)}",
        f"Mean |φ| by position, from 0 to {many - 1}; largest at position {best}, "
        f"{number(float(absolute[best]), 3)}.",
        spec=spec,
        table=Table(["Position", "Mean |φ|", "Mean φ"], rows, part),
        note=f"{means.of}{bars} Positions are counted from 0.",
    )


def of_target(data: ReportData, target: int) -> str:
    """` for late`, where there are several targets."""
    return f" for {isolated(shorten(plain(data.targets[target])))}" if len(data.targets) > 1 else ""


def position(place: tuple[Any, ...], feature: Shown) -> str:
    """A place within a tensor: its number, or its index where there are several axes."""
    long = [int(at) for at, extent in zip(place, feature.shape, strict=True) if extent > 1]
    return str(long[0]) if len(long) == 1 else str(list(map(int, place)))


def _bars(rows: list[list[Cell]]) -> dict[str, Any]:
    values = [{"place": row[0], "value": row[1], "share": row[2], "mean": row[3]} for row in rows]
    return {
        "data": {"values": values},
        "width": "container",
        "height": 20 * len(values) + 10,
        "mark": {"type": "bar", "cornerRadiusEnd": 2},
        "encoding": {
            "y": {
                "field": "place",
                "type": "nominal",
                "scale": {"domain": [row[0] for row in rows]},
                "axis": {"title": None, "labelOverlap": False},
            },
            "x": {"field": "value", "type": "quantitative", "axis": {"title": "mean |φ|", "tickCount": 5}},
            "color": {
                "condition": {"test": "datum.mean < 0", "value": {"expr": "theme.negative"}},
                "value": {"expr": "theme.positive"},
            },
            "tooltip": [
                {"field": "place", "title": "Position"},
                {"field": "value", "title": "Mean |φ|", "format": ".4~g"},
                {"field": "share", "title": "Share"},
                {"field": "mean", "title": "Mean φ", "format": ".4~g"},
            ],
        },
    }
