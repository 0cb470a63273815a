"""The report's section on the distribution of φ over the rows, feature by feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report.blocks import Block, Figure, Section, Table
from pipeline.report.data.view import View, brief, number_axis, rows_of
from pipeline.report.page.marks import (
    Spec,
    chart,
    end,
    layer,
    mark,
    names,
    numbers,
    theme,
    tooltip,
    zero_line,
)
from pipeline.wording import number

if TYPE_CHECKING:
    import pandas as pd

#: Most features in a chart, and the height of each in pixels.
_MOST = 20
_STEP = 28
_STATS = ("min", "p05", "p25", "p50", "p75", "p95", "max", "mean")
#: The axis is at most this many times as long as the stretch from 5 to 95 %; extremes may lie beyond it.
_STRETCH = 3.0


def sections(view: View) -> list[Section]:
    """Builds a chart of the quantiles of φ for each target."""
    blocks = view.by_target(lambda target: _quantiles(view, target))
    lead = (
        "Whether a feature affects all rows alike or a few rows strongly. All rows count, not only a sample."
    )
    return [Section("distribution", "Distribution of φ", lead, blocks)] if blocks else []


def _quantiles(view: View, target: int) -> Sequence[Block]:
    if not view.matters(target):
        return []
    shown = view.overall(target).head(_MOST)
    low, high, cut = _reach(shown)
    ends = " Thin lines that leave the chart continue to the extremes in the table." if cut else ""
    first = shown.iloc[0]
    return [
        Figure(
            name=f"distribution-{target}",
            title="From the lowest attribution to the highest",
            description=(
                f"Quantiles of φ by feature. {view.labels[first.feature]}: median {number(first.p50)}, "
                f"nine in ten rows from {number(first.p05)} to {number(first.p95)}."
            ),
            spec=_chart(view, target, shown, low, high),
            note=(
                "Thick bar: half of the rows (25 to 75 %), with the median in it. Thinner: nine rows in "
                "ten (5 to 95 %). Thin line: all. Diamond: the mean. Right of 0 the feature raises the "
                f"score.{ends}"
            ),
            table=_table(view, target),
        )
    ]


def _reach(shown: pd.DataFrame) -> tuple[float, float, bool]:
    """The ends of the axis, and whether some lines go beyond them."""
    inner = float(min(shown["p05"].min(), 0)), float(max(shown["p95"].max(), 0))
    outer = float(min(shown["min"].min(), 0)), float(max(shown["max"].max(), 0))
    margin = (inner[1] - inner[0]) * (_STRETCH - 1) / 2
    low, high = max(outer[0], inner[0] - margin), min(outer[1], inner[1] + margin)
    if high <= low:
        low, high = outer
    return low, high, low > outer[0] or high < outer[1]


def _chart(view: View, target: int, shown: pd.DataFrame, low: float, high: float) -> Spec:
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
    axis = {
        "title": f"φ, in units of the {view.unit(target)}",
        **number_axis(shown[list(_STATS)].to_numpy(np.float64)),
    }
    scale = {"domain": [brief(low), brief(high)], "nice": True, "zero": False}

    def statistic(look: Spec, first: str, last: str | None = None) -> Spec:
        """Marks at a statistic, or from one to another."""
        ends: Spec = {} if last is None else {"x2": end(last)}
        return layer(look | {"clip": True}, y=names("f"), x=numbers(first, scale=scale, axis=axis), **ends)

    diamond = {"shape": "diamond", "filled": True, "opacity": 1, "size": 46}
    border = {"stroke": theme("card"), "strokeWidth": 1}
    return chart(
        rows,
        _STEP * len(rows),
        zero_line(),
        statistic(mark("rule", "neutral", strokeWidth=1), "min", "max"),
        statistic(mark("bar", "bar_soft", height=8, cornerRadius=2), "p05", "p95"),
        statistic(mark("bar", "bar", height=14, cornerRadius=2), "p25", "p75"),
        statistic(mark("tick", "card", thickness=2.5, size=16), "p50"),
        statistic(mark("point", "ink", **diamond, **border), "mean"),
        tooltip=tooltip(
            {
                "f": "Feature",
                "m": "Median",
                "e": "Mean",
                "b": "Half of the rows",
                "w": "Nine in ten rows",
                "a": "All rows",
            }
        ),
    )


def _table(view: View, target: int) -> Table:
    header = ["Feature", "Min", "5 %", "25 %", "Median", "75 %", "95 %", "Max", "Mean", "Std"]
    rows: list[list[Any]] = [
        [view.labels[row.feature], *(float(getattr(row, name)) for name in (*_STATS, "std"))]
        for row in rows_of(view.listed(target))
    ]
    return Table(
        header, rows, f"Quantiles of φ over all rows. {view.all_listed(target)}, most important first."
    )
