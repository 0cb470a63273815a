"""The report's section on vectors: the positions with the largest mean |φ|."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.report.blocks import Block, Cell, Figure, Section, Table
from pipeline.report.data.sampled_rows import (
    ShownFeature,
    distinct,
    feature_choice,
    mean_by_position,
    most_important,
    target_choice,
)
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import MOST_TARGETS
from pipeline.report.page.marks import Spec, all_names, by_sign, chart, end, layer, mark, numbers, tooltip
from pipeline.wording import isolated, listed, number, percent, plain, shorten

#: Most bars of a chart.
_BARS = 30
#: Most lines of the table behind a chart.
_LINES = 200
#: Most positions that a chart's description names.
_NAMED = 3
#: Most charts of all vectors and targets together.
_CHARTS = 100
#: Most lines of the tables of these charts together.
_ALL_LINES = 4000
#: Most bars in a chart from the first position to the last.
_STEPS = 400
#: Most bars that are drawn with gaps between them.
_APART = 120
#: The height of a chart of all positions, in pixels.
_HEIGHT = 160


def sections(data: ReportData) -> list[Section]:
    """Builds charts of mean |φ| by position for features that are neither numbers, pictures nor texts."""
    targets = list(data.targets)[:MOST_TARGETS]
    vectors, rest_of_them = most_important(data, "vector", max(1, _CHARTS // max(1, len(targets))))
    lines = max(_BARS, min(_LINES, _ALL_LINES // max(1, len(vectors) * len(targets))))
    made: dict[str, list[Block]] = {}
    for place, (name, feature) in enumerate(zip(distinct(f.label for f in vectors), vectors, strict=True)):
        figures = {
            target: [figure]
            for target in targets
            if (figure := strongest(data, target, feature, f"vector-{place}-{target}", lines))
        }
        if not figures:
            continue
        made[name] = target_choice(data, figures)
    if not made:
        return []
    lead = "A vector is one feature of many numbers: which of them move the score."
    return [Section("vectors", "Vectors", lead, feature_choice("Vector", made, rest_of_them))]


def strongest(data: ReportData, target: int, feature: ShownFeature, name: str, lines: int) -> Figure | None:
    """The positions of largest mean |φ| as bars; None if no means are known."""
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
    largest = listed([f"{row[0]} ({number(float(str(row[1])), 3)})" for row in rows[:_NAMED]])
    shown = rows[:_BARS]
    part = f"the {len(shown)} of {order.size:,}" if order.size > len(shown) else "all"
    return Figure(
        name,
        f"Positions of {label} by mean |φ|{of_target(data, target)}",
        f"Bars of mean |φ| by position, {part} positions. The largest are at {largest}.",
        spec=_bars(shown),
        table=Table(["Position", "Mean |φ|", "Share", "Mean φ"], rows),
        note=f"{means.rows} Positions are counted from 0. Red: raises the score on average; blue: lowers it.",
    )


def along(data: ReportData, target: int, feature: ShownFeature, name: str) -> Figure | None:
    """Mean |φ| from the first position to the last; None if no means are known."""
    means = mean_by_position(data, target, feature)
    if means is None:
        return None
    absolute, mean = means.absolute.reshape(-1), means.mean.reshape(-1)
    length = len(absolute)
    label = isolated(shorten(plain(feature.label)))
    best = int(absolute.argmax())
    most = _LINES if length <= _LINES else _LINES // 2
    largest = sorted(np.argsort(-absolute, kind="stable")[:most].tolist())
    rows: list[list[Cell]] = [[at, float(absolute[at]), float(mean[at])] for at in largest]
    part = f"The {len(rows)} of {length:,} positions that matter most" if len(rows) < length else ""
    width = -(-length // _STEPS)
    bars = f" A bar is the mean over {width} positions." if width > 1 else ""
    return Figure(
        name,
        f"Where in {label} the score is moved{of_target(data, target)}",
        f"Mean |φ| by position, from 0 to {length - 1}; largest at position {best}, "
        f"{number(float(absolute[best]), 3)}.",
        spec=_along_chart(absolute, mean, width),
        table=Table(["Position", "Mean |φ|", "Mean φ"], rows, part),
        note=f"{means.rows}{bars} Positions are counted from 0.",
    )


def _along_chart(absolute: np.ndarray, mean: np.ndarray, width: int) -> Spec:
    """A chart with one bar per `width` successive positions of a vector `[length]`."""
    length = len(absolute)
    starts = np.arange(0, length, width)
    counts = np.diff([*starts, length])
    heights, signs = (np.add.reduceat(values, starts) / counts for values in (absolute, mean))
    rows = [
        {"at": at, "value": float(f"{value:.5g}"), "mean": float(f"{low:.5g}")}
        for at, value, low in zip(starts.tolist(), heights.tolist(), signs.tolist(), strict=True)
    ]
    bars = layer(
        mark("bar", binSpacing=1 if len(rows) <= _APART else 0),
        transform=[{"calculate": f"min(datum.at + {width}, {length})", "as": "next"}],
        x=numbers(
            "at",
            scale={"domain": [0, length], "nice": False},
            axis={"title": "position", "grid": False, "tickMinStep": 1, "format": "d"},
        ),
        x2=end("next"),
        y=numbers("value", axis={"title": "mean |φ|", "tickCount": 4}),
        y2={"datum": 0},
        tooltip=tooltip({"at": "Position", "value": "Mean |φ|", "mean": "Mean φ"}, exact=("value", "mean")),
    )
    return chart(rows, _HEIGHT, bars)


def of_target(data: ReportData, target: int) -> str:
    """The target in a title, ` for late`; empty if there is only one."""
    return f" for {isolated(shorten(plain(data.targets[target])))}" if len(data.targets) > 1 else ""


def position(place: tuple[Any, ...], feature: ShownFeature) -> str:
    """A place within a tensor: a number, or an index if several axes are longer than 1."""
    long = [int(at) for at, extent in zip(place, feature.shape, strict=True) if extent > 1]
    return str(long[0]) if len(long) == 1 else str(list(map(int, place)))


def _bars(rows: list[list[Cell]]) -> Spec:
    values = [{"place": row[0], "value": row[1], "share": row[2], "mean": row[3]} for row in rows]
    titles = {"place": "Position", "value": "Mean |φ|", "share": "Share", "mean": "Mean φ"}
    bars = layer(
        mark("bar", cornerRadiusEnd=2),
        y=all_names("place", [row[0] for row in rows]),
        x=numbers("value", axis={"title": "mean |φ|", "tickCount": 5}),
        color=by_sign("mean"),
        tooltip=tooltip(titles, exact=("value", "mean")),
    )
    return chart(values, 20 * len(values) + 10, bars)
