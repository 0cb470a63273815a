"""How φ is spread over the rows, feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.blocks import Block, Figure, Section, Table
from pipeline.report.data.view import View, brief, number_axis, rows_of
from pipeline.wording import number

_MOST = 20
_STEP = 28
_STATS = ("min", "p05", "p25", "p50", "p75", "p95", "max", "mean")
#: Whiskers that are longer than so many times what lies between 5 and 95 % would flatten all else.
_STRETCH = 3.0


def sections(view: View) -> list[Section]:
    """Quantiles of φ by target."""
    blocks = view.by_target(lambda target: _of(view, target))
    lead = "Whether a feature does the same to every row, or much to few: from all rows, not from a sample."
    return [Section("distribution", "Distribution of φ", lead, blocks)] if blocks else []


def _of(view: View, target: int) -> Sequence[Block]:
    if not view.matters(target):
        return []
    frame = view.overall(target)
    shown = frame.head(_MOST)
    rows = [
        {
            "f": view.names[row.feature],
            **{name: brief(getattr(row, name)) for name in _STATS},
            "m": number(row.p50),
            "b": f"{number(row.p25)} to {number(row.p75)}",
            "w": f"{number(row.p05)} to {number(row.p95)}",
            "a": f"{number(row.min)} to {number(row.max)}",
            "e": number(row.mean),
        }
        for row in rows_of(shown)
    ]
    inner = float(min(shown["p05"].min(), 0)), float(max(shown["p95"].max(), 0))
    outer = float(min(shown["min"].min(), 0)), float(max(shown["max"].max(), 0))
    reach = (inner[1] - inner[0]) * (_STRETCH - 1) / 2
    low, high = max(outer[0], inner[0] - reach), min(outer[1], inner[1] + reach)
    if high <= low:
        low, high = outer
    cut = low > outer[0] or high < outer[1]
    axis = {
        "title": f"φ, in units of the {view.unit(target)}",
        **number_axis(shown[list(_STATS)].to_numpy(np.float64)),
    }
    x = {
        "type": "quantitative",
        "scale": {"domain": [brief(low), brief(high)], "nice": True, "zero": False},
        "axis": axis,
    }

    y = {"field": "f", "type": "nominal", "sort": None, "title": None}

    def layer(mark: dict[str, Any], start: str, end: str | None = None) -> dict[str, Any]:
        encoding: dict[str, Any] = {"y": y, "x": {"field": start, **x}}
        return {
            "mark": {**mark, "clip": True},
            "encoding": encoding | ({"x2": {"field": end}} if end else {}),
        }

    spec = {
        "width": "container",
        "height": _STEP * len(rows),
        "data": {"values": rows},
        "encoding": {
            "tooltip": [
                {"field": "f", "title": "Feature"},
                {"field": "m", "title": "Median"},
                {"field": "e", "title": "Mean"},
                {"field": "b", "title": "Half of the rows"},
                {"field": "w", "title": "Nine in ten rows"},
                {"field": "a", "title": "All rows"},
            ],
        },
        "layer": [
            {
                "mark": {"type": "rule", "color": {"expr": "theme.neutral"}},
                "encoding": {"x": {"datum": 0}},
            },
            layer({"type": "rule", "strokeWidth": 1, "color": {"expr": "theme.neutral"}}, "min", "max"),
            layer(
                {"type": "bar", "height": 8, "cornerRadius": 2, "color": {"expr": "theme.bar_soft"}},
                "p05",
                "p95",
            ),
            layer(
                {"type": "bar", "height": 14, "cornerRadius": 2, "color": {"expr": "theme.bar"}}, "p25", "p75"
            ),
            layer({"type": "tick", "thickness": 2.5, "size": 16, "color": {"expr": "theme.card"}}, "p50"),
            layer(
                {
                    "type": "point",
                    "shape": "diamond",
                    "filled": True,
                    "opacity": 1,
                    "size": 46,
                    "color": {"expr": "theme.ink"},
                    "stroke": {"expr": "theme.card"},
                    "strokeWidth": 1,
                },
                "mean",
            ),
        ],
    }
    ends = " Thin lines that leave the chart go on to the extremes in the table." if cut else ""
    first = shown.iloc[0]
    return [
        Figure(
            name=f"distribution-{target}",
            title="From the lowest attribution to the highest",
            description=(
                f"Quantiles of φ by feature. {view.labels[first.feature]}: median {number(first.p50)}, "
                f"nine in ten rows from {number(first.p05)} to {number(first.p95)}."
            ),
            spec=spec,
            note=(
                "Thick bar: half of the rows (25 to 75 %), with the median in it. Thinner: nine rows in "
                "ten (5 to 95 %). Thin line: all. Diamond: the mean. Right of 0 the feature raises the "
                f"score.{ends}"
            ),
            table=_table(view, target),
        )
    ]


def _table(view: View, target: int) -> Table:
    header = ["Feature", "Min", "5 %", "25 %", "Median", "75 %", "95 %", "Max", "Mean", "Std"]
    rows: list[list[Any]] = [
        [view.labels[row.feature], *(float(getattr(row, name)) for name in (*_STATS, "std"))]
        for row in rows_of(view.listed(target))
    ]
    return Table(
        header, rows, f"Quantiles of φ over all rows. {view.all_listed(target)}, most important first."
    )
