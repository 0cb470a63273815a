"""The report's section on importance: mean |φ| and ranks of features, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.blocks import Block, Figure, Prose, Section, Table
from pipeline.report.data.view import MOST_LISTED, View, brief, number_axis, rows_of
from pipeline.report.page.marks import Spec, chart, end, layer, mark, names, numbers, tooltip
from pipeline.wording import number, percent

if TYPE_CHECKING:
    import pandas as pd

#: Most features in a chart.
_MOST = 25
#: Height of a bar and of a rank, in pixels.
_STEP = 26
_RANK_STEP = 22


def sections(view: View) -> list[Section]:
    """Builds bars and ranks for each target."""
    return [
        Section(
            "importance",
            "Importance",
            "How far each feature moves the score, up or down, on average over all rows.",
            view.by_target(lambda target: _bars_and_ranks(view, target), mention_rest=True),
        )
    ]


def _bars_and_ranks(view: View, target: int) -> Sequence[Block]:
    if not view.matters(target):
        return [
            Prose("No feature moves this score at all: every attribution is 0.", "caution"),
            _table(view, target),
        ]
    blocks: list[Block] = [_bars(view, target)]
    shown = view.overall(target).head(_MOST)
    if len(shown) > 1 and (shown["rank_low"] == shown["rank_high"]).all():
        blocks.append(Prose("The order is certain: the 95 % interval of every rank is that rank alone."))
    elif len(shown) > 1:
        blocks.append(_ranks(view, target))
    return blocks


def _bars(view: View, target: int) -> Figure:
    frame = view.overall(target)
    shown = frame.head(_MOST)
    first = shown.iloc[0]
    rest = frame["share"].iloc[_MOST:].sum()
    where = "the table" if len(frame) <= MOST_LISTED else "importance.parquet"
    more = (
        f" The other {len(frame) - _MOST:,} make up {percent(rest)}; they are in {where}."
        if len(frame) > _MOST
        else ""
    )
    return Figure(
        name=f"importance-{target}",
        title=f"The {len(shown)} most important of {len(frame):,} features"
        if more
        else "Importance of each feature",
        description=(
            f"Bars of mean |φ|. Longest: {view.labels[first.feature]}, {number(first.mean_abs)}, "
            f"{percent(first.share)} of all."
        ),
        spec=_bar_chart(view, target, shown),
        table=_table(view, target),
        note=(
            "Bar: mean of the absolute attribution. Line across its end: the mean's 95 % interval, "
            "from how much rows differ. Percentage: the feature's share of the sum over all "
            f"features.{more}"
        ),
    )


def _bar_chart(view: View, target: int, shown: pd.DataFrame) -> Spec:
    rows = [
        {
            "f": view.names[row.feature],
            "v": brief(row.mean_abs, 5),
            "lo": brief(row.mean_abs_low, 5),
            "hi": brief(row.mean_abs_high, 5),
            "s": percent(row.share),
            "i": f"{number(row.mean_abs_low)} to {number(row.mean_abs_high)}",
            "t": number(row.mean_abs),
        }
        for row in rows_of(shown)
    ]
    # Percentages stand right of the longest interval.
    widest = float(shown["mean_abs_high"].max()) * 1.22
    length = numbers(
        "v",
        title=f"mean |φ|, in units of the {view.unit(target)}",
        axis=number_axis(shown["mean_abs"].to_numpy()),
        scale={"domain": [0, brief(widest)], "nice": False},
    )
    return chart(
        rows,
        _STEP * len(rows),
        layer(mark("bar", cornerRadiusEnd=2, height={"band": 0.68}), x=length),
        layer(mark("rule", "ink", strokeWidth=1.5), x=numbers("lo"), x2=end("hi")),
        layer(mark("text", "muted", align="left", dx=7), x=numbers("hi"), text={"field": "s"}),
        y=names("f"),
        tooltip=tooltip({"f": "Feature", "t": "Mean |φ|", "i": "95 % interval", "s": "Share"}),
    )


def _ranks(view: View, target: int) -> Figure:
    shown = view.overall(target).head(_MOST)
    sure = int((shown["rank_low"] == shown["rank_high"]).sum())
    return Figure(
        name=f"ranks-{target}",
        title="How certain the order is",
        description=f"Ranks with 95 % intervals; {sure} of {len(shown)} ranks are certain.",
        spec=_rank_chart(view, shown),
        note=(
            "Dot: the rank. Band: the 95 % interval of the rank. Features whose bands overlap cannot be "
            "ordered with certainty from these rows."
        ),
        table=Table(
            ["Feature", "Rank", "Rank, low", "Rank, high"],
            [
                [view.labels[row.feature], int(row.rank), int(row.rank_low), int(row.rank_high)]
                for row in rows_of(shown)
            ],
        ),
    )


def _rank_chart(view: View, shown: pd.DataFrame) -> Spec:
    rows = [
        {
            "f": view.names[row.feature],
            "r": int(row.rank),
            "lo": int(row.rank_low),
            "hi": int(row.rank_high),
            "i": _span(row.rank_low, row.rank_high),
        }
        for row in rows_of(shown)
    ]
    last = int(shown["rank_high"].max())
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100, 1000) if last <= 15 * size)
    ticks = [rank for rank in range(1, last + 1) if rank == 1 or rank % step == 0]
    places = {
        "scale": {"zero": False, "nice": False, "padding": 8},
        "axis": {"title": "rank, 1 is the most important", "values": ticks, "format": "d"},
    }
    band = mark("rule", "bar_soft", strokeWidth=7, strokeCap="round")
    return chart(
        rows,
        _RANK_STEP * len(rows),
        layer(band, x=numbers("lo", **places), x2=end("hi")),
        layer(mark("point", "bar", filled=True, size=60, opacity=1), x=numbers("r", **places)),
        y=names("f"),
        tooltip=tooltip({"f": "Feature", "r": "Rank", "i": "95 % interval"}),
    )


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _table(view: View, target: int) -> Table:
    header = [
        "Rank",
        "Feature",
        "Mean |φ|",
        "95 % low",
        "95 % high",
        "Share, %",
        "Mean φ",
        "Raises, % of rows",
    ]
    rows = []
    for row in rows_of(view.listed(target)):
        name: list[Any] = [view.labels[row.feature]]
        if view.labelled:
            name.append(row.feature)
        figures = [
            row.mean_abs,
            row.mean_abs_low,
            row.mean_abs_high,
            row.share * 100,
            row.mean,
            row.positive * 100,
        ]
        rows.append([int(row.rank), *name, *(float(value) for value in figures)])
    if view.labelled:
        header.insert(2, "Column")
    return Table(header, rows, f"{view.all_listed(target)}. φ in units of the {view.unit(target)}.")
