"""The report's section on slices: slices in which the model relies on other features than elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report.blocks import Block, Cell, Choice, Figure, Prose, Section, Table
from pipeline.report.data.slicings import by_itself, slicing_of
from pipeline.report.data.view import View, brief, number_axis, rows_of
from pipeline.report.page.marks import (
    ASLANT,
    Spec,
    chart,
    end,
    layer,
    mark,
    names,
    numbers,
    theme,
    tooltip,
)
from pipeline.wording import TWO_LINES, chart_names, number, percent, plain, shorten, two_lines
from transforms.aggregates.importance.differences import FEWEST_ROWS, differences

if TYPE_CHECKING:
    import pandas as pd

#: Most features across a heat map.
_ACROSS = 14
#: Most slices down a heat map; a slicing with more slices has several maps.
_DOWN = 50
#: Most cells of all heat maps in a report; beyond this limit, fewer targets are shown.
_CELLS = 30_000
#: Most cells of a heat map that is drawn as SVG; larger ones use a canvas, which is faster.
_MOST_IN_SVG = 1000
#: Height of a slice in a heat map, in pixels.
_STEP = 20
#: The narrowest column, in pixels, under slanted names. A narrow page shows only the first features.
_COLUMN = 20
#: Most differences in a chart, and the height of each in pixels.
_MOST = 20
_PAIR_STEP = 38
#: Most differences in the table behind the chart.
_MOST_ROWS = 200


def sections(view: View) -> list[Section]:
    """Builds heat maps and ranked differences for each target; nothing if the run has no slices."""
    sizes = [len(frame) for frame in map(view.sliced, view.targets) if frame is not None]
    if not sizes:
        return []
    each = sizes[0] // max(len(view.data.manifest["features"]), 1) * _ACROSS * 2
    blocks = view.by_target(lambda target: _slices(view, target), max(1, _CELLS // max(each, 1)))
    lead = "Whether the model relies on different features in a slice than in the rows outside it."
    return [Section("slices", "Slices", lead, blocks)] if blocks else []


def _slices(view: View, target: int) -> Sequence[Block]:
    sliced = view.sliced(target)
    if sliced is None or not view.matters(target):
        return []
    blocks: list[Block] = []
    pages = _pages(sliced, view.data.manifest["config"]["input"].get("slices") or [])
    maps = {
        name: _maps(view, target, sliced, page, labels)
        for page, (name, labels) in enumerate(pages.items(), 1)
    }
    if len(maps) > 1:
        blocks.append(Choice("Slices", maps))
    else:
        blocks += next(iter(maps.values()))
    return [*blocks, *_differences(view, target, sliced)]


def _pages(sliced: pd.DataFrame, slicings: Sequence[Any]) -> dict[str, list[str]]:
    """Slices by page title. Long slicings take several pages; one-slice slicings share "Conditions"."""
    labels = sliced["slice"].drop_duplicates().tolist()
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(slicing_of(label, slicings), []).append(label)
    single = [name for name, members in groups.items() if len(members) == 1]
    if len(single) > 1:
        groups["Conditions"] = [groups.pop(name)[0] for name in single]
    pages: dict[str, list[str]] = {}
    for name, members in groups.items():
        title = shorten(plain(name), 60)
        for first in range(0, len(members), _DOWN):
            last = min(first + _DOWN, len(members))
            key = f"{title} ({first + 1} to {last} of {len(members)})" if len(members) > _DOWN else title
            while key in pages:
                key += " "
            pages[key] = members[first:last]
    return pages


@dataclass(frozen=True)
class _Statistic:
    """A statistic of slices that has a heat map.

    Args:
      key: The statistic's part of the figure's name.
      title: The statistic in words.
      column: The column of the importance.
      is_share: Whether it is a share, from 0 to 1; otherwise it is signed.
      note: How to read the map.
    """

    key: str
    title: str
    column: str
    is_share: bool
    note: str

    def in_words(self, value: float) -> str:
        return percent(value) if self.is_share else number(value)


_STATISTICS = (
    _Statistic(
        "share",
        "Share of importance",
        "share",
        True,
        "The stronger the colour, the more the feature matters in the slice. If a column has one shade, its "
        "feature matters equally in all slices.",
    ),
    _Statistic(
        "mean",
        "Mean φ",
        "mean",
        False,
        "Whether the feature raises or lowers the score in the slice, on average.",
    ),
)


def _maps(view: View, target: int, sliced: pd.DataFrame, page: int, labels: list[str]) -> list[Block]:
    features = view.overall(target)["feature"].head(_ACROSS).tolist()
    part = sliced[sliced["slice"].isin(labels) & sliced["feature"].isin(features)]
    sizes = part.drop_duplicates("slice").set_index("slice")["rows"]
    made: dict[str, Sequence[Block]] = {}
    for statistic in _STATISTICS:
        table = part.pivot(index="slice", columns="feature", values=statistic.column)
        cells = table.reindex(index=labels, columns=features).to_numpy(np.float64)
        row, column = np.unravel_index(np.nanargmax(np.abs(cells)), cells.shape)
        farthest = number(float(cells[row, column]))
        factor = 100 if statistic.is_share else 1
        lines: list[list[Cell]] = [
            [label, int(sizes[label]), *(float(value) * factor for value in cells[at])]
            for at, label in enumerate(labels)
        ]
        made[statistic.title] = [
            Figure(
                name=f"slices-{target}-{page}-{statistic.key}",
                title=f"{statistic.title}, slice by slice",
                description=(
                    f"A heat map of {len(labels)} slices by {len(features)} features. Farthest from 0: "
                    f"{view.labels[features[column]]} where {labels[row]}, {farthest}."
                ),
                spec=_heat_map(view, statistic, labels, features, cells),
                note=statistic.note,
                table=Table(
                    ["Slice", "Rows", *(view.labels[feature] for feature in features)],
                    lines,
                    f"{statistic.title}{', in %' if statistic.is_share else ''}, of the {len(features)} most "
                    "important features.",
                ),
            )
        ]
    return [Choice("Show", made)]


def _heat_map(
    view: View, statistic: _Statistic, labels: Sequence[str], features: Sequence[str], cells: np.ndarray
) -> Spec:
    """A heat map with one square per slice and feature.

    Args:
      view: The run.
      statistic: The statistic that the colours show.
      labels: The slices, from top to bottom.
      features: The features, from left to right.
      cells: `[slices, features]`.
    """
    shown = chart_names(labels)
    rows = [
        {
            "s": shown[label],
            "f": view.names[feature],
            "n": column,
            "v": brief(float(cells[row, column])),
            "t": statistic.in_words(float(cells[row, column])),
        }
        for row, label in enumerate(labels)
        for column, feature in enumerate(features)
    ]
    widest = float(np.nanmax(np.abs(cells))) or 1.0
    legend = {"title": statistic.title, "gradientLength": 160, "gradientThickness": 8, "tickCount": 3}
    if statistic.is_share:
        legend["format"] = ".0%"
        scale = {"domain": [0, brief(widest)], "range": "heatmap"}
    else:
        scale = {"domain": [brief(-widest), brief(widest)], "range": "diverging"}
    squares = layer(
        mark("rect", stroke=theme("card"), strokeWidth=1),
        x=names("f", axis=ASLANT),
        y=names("s"),
        color=numbers("v", scale=scale, legend=legend),
        tooltip=tooltip({"s": "Slice", "f": "Feature", "t": statistic.title}),
    )
    renderer = "canvas" if len(rows) > _MOST_IN_SVG else "svg"
    return chart(rows, _STEP * len(labels), squares, usermeta={"renderer": renderer, "column": _COLUMN})


def _differences(view: View, target: int, sliced: pd.DataFrame) -> list[Block]:
    tested = differences(view.overall(target), sliced, view.fewest)
    if not len(tested):
        fewest = max(FEWEST_ROWS, view.fewest)
        return [Prose(f"Too few rows to compare: each slice, or the rest, has fewer than {fewest:,} rows.")]
    blocks: list[Block] = []
    for kind, title, about in (
        ("abs", "Where a feature matters more, or less, than elsewhere", "mean |φ|"),
        ("mean", "Where a feature pushes the other way, or harder", "mean φ"),
    ):
        real = tested[(tested["kind"] == kind) & tested["significant"]]
        real = real.reindex(real["difference"].abs().sort_values(ascending=False, kind="stable").index)
        # A feature trivially differs in slices of its own values: these come last.
        real = real.iloc[np.argsort(by_itself(real, view.data.manifest), kind="stable")]
        if not len(real):
            blocks.append(
                Prose(f"No slice differs from the rest in {about} by more than chance would explain.")
            )
            continue
        blocks.append(_dumbbells(view, target, kind, title, about, real, len(tested)))
    return blocks


def _dumbbells(
    view: View, target: int, kind: str, title: str, about: str, real: pd.DataFrame, tests: int
) -> Figure:
    """The largest differences between slices and the rows outside them.

    Args:
      view: The run.
      target: The target.
      kind: "abs" or "mean", for the figure's name.
      title: The figure's title.
      about: The quantity that differs, in words.
      real: Significant differences, in order.
      tests: Number of comparisons made.
    """
    shown = real.head(_MOST)
    first = shown.iloc[0]
    more = f" {len(real):,} in all; the first {_MOST} are drawn." if len(real) > _MOST else ""
    return Figure(
        name=f"differences-{target}-{kind}",
        title=title,
        description=(
            f"{len(real):,} significant differences of {about}. Largest: {view.labels[first.feature]} where "
            f"{first['slice']}, {number(first.here)} against {number(first.rest)}."
        ),
        spec=_dumbbell_chart(view, shown, f"{about}, in units of the {view.unit(target)}", kind == "abs"),
        note=(
            "Full dot: the slice. Ring: all rows outside it. Only differences beyond chance are shown: by "
            f"Bennett's bound, which holds for every distribution of φ, on {tests:,} comparisons, "
            "corrected by Benjamini and Hochberg so that at most 1 in 20 of those shown is expected to "
            f"be false.{more}"
        ),
        table=_difference_table(view, real, about),
    )


def _dumbbell_chart(view: View, shown: pd.DataFrame, title: str, zero: bool) -> Spec:
    slices = chart_names(shown["slice"].drop_duplicates())
    rows = [
        {
            "n": two_lines(view.names[row.feature], slices[row.slice]),
            "a": brief(row.here),
            "b": brief(row.rest),
            "s": shorten(plain(row.slice), 80),
            "f": view.names[row.feature],
            "d": f"{number(row.difference)} ({number(row.low)} to {number(row.high)})",
            "r": f"{row.rows:,}",
        }
        for row in rows_of(shown)
    ]
    axis = number_axis(shown[["here", "rest"]].to_numpy(np.float64))
    here, rest = (numbers(field, title=title, axis=axis, scale={"zero": zero}) for field in "ab")
    # Each layer names its dots, so that one legend explains both.
    kinds = {"domain": ["the slice", "the rest"], "range": [theme("positive"), theme("neutral")]}
    legend = {"title": None, "symbolType": "circle", "symbolStrokeWidth": 2}
    colour = {"field": "k", "type": "nominal", "scale": kinds, "legend": legend}
    ring = mark("point", filled=False, opacity=1, size=70, strokeWidth=2, fill=theme("card"))
    dot = mark("point", filled=True, opacity=1, size=70)
    return chart(
        rows,
        _PAIR_STEP * len(rows),
        layer(mark("rule", "bar_soft", strokeWidth=3), x=rest, x2=end("a")),
        layer(ring, transform=[{"calculate": "'the rest'", "as": "k"}], x=rest, color=colour),
        layer(dot, transform=[{"calculate": "'the slice'", "as": "k"}], x=here, color=colour),
        y=names("n", axis=TWO_LINES),
        tooltip=tooltip(
            {
                "f": "Feature",
                "s": "Slice",
                "r": "Rows",
                "a": "In the slice",
                "b": "In the rest",
                "d": "Difference",
            }
        ),
    )


def _difference_table(view: View, real: pd.DataFrame, about: str) -> Table:
    kept = real.head(_MOST_ROWS)
    header = ["Slice", "Feature", "Rows", "Slice's", "Rest's", "Difference"]
    header += ["95 % low", "95 % high", "Effect", "q"]
    columns = ("here", "rest", "difference", "low", "high", "effect", "q")
    rows = [
        [
            row.slice,
            view.labels[row.feature],
            int(row.rows),
            *(float(getattr(row, name)) for name in columns),
        ]
        for row in rows_of(kept)
    ]
    return Table(
        header,
        rows,
        f"{about[0].upper()}{about[1:]}: the {len(kept)} largest significant differences. Effect: the "
        "difference in standard deviations. q: the expected share of false findings among this "
        "difference and all stronger ones.",
    )
