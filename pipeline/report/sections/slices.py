"""Whether the model goes by other things in some slices than in the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report.blocks import Block, Choice, Figure, Prose, Section, Table
from pipeline.report.data.slicings import by_itself, slicing_of
from pipeline.report.data.view import View, brief, number_axis, rows_of
from pipeline.wording import TWO_LINES, chart_names, number, percent, plain, shorten, two_lines
from transforms.aggregates.importance.differences import FEWEST_ROWS, differences

if TYPE_CHECKING:
    import pandas as pd

#: Features across, slices down, cells of all heat maps of a report.
_ACROSS, _DOWN, _CELLS = 14, 50, 30_000
_STEP = 20
#: The narrowest column, in pixels: names stand aslant above them. A narrow page has the first features only.
_COLUMN = 20
_MOST = 20
_MOST_ROWS = 200


def sections(view: View) -> list[Section]:
    """Heat maps and ranked differences by target; none without slices."""
    sizes = [len(frame) for frame in map(view.sliced, view.targets) if frame is not None]
    if not sizes:
        return []
    each = sizes[0] // max(len(view.data.manifest["features"]), 1) * _ACROSS * 2
    blocks = view.by_target(lambda target: _of(view, target), max(1, _CELLS // max(each, 1)))
    lead = "Whether the model goes by other things in one part of the rows than in the rest."
    return [Section("slices", "Slices", lead, blocks)] if blocks else []


def _of(view: View, target: int) -> Sequence[Block]:
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
    """Slices by slicing; long ones in pages, and those of a single slice together."""
    labels = sliced["slice"].drop_duplicates().tolist()
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(slicing_of(label, slicings), []).append(label)
    single = [name for name, found in groups.items() if len(found) == 1]
    if len(single) > 1:
        groups["Conditions"] = [groups.pop(name)[0] for name in single]
    pages: dict[str, list[str]] = {}
    for name, found in groups.items():
        title = shorten(plain(name), 60)
        for first in range(0, len(found), _DOWN):
            last = min(first + _DOWN, len(found))
            key = f"{title} ({first + 1} to {last} of {len(found)})" if len(found) > _DOWN else title
            while key in pages:
                key += " "
            pages[key] = found[first:last]
    return pages


def _maps(view: View, target: int, sliced: pd.DataFrame, page: int, labels: list[str]) -> list[Block]:
    features = view.overall(target)["feature"].head(_ACROSS).tolist()
    part = sliced[sliced["slice"].isin(labels) & sliced["feature"].isin(features)]
    rows_of = part.drop_duplicates("slice").set_index("slice")["rows"]
    shown = chart_names(labels)
    made: dict[str, Sequence[Block]] = {}
    for key, title, column in (("share", "Share of importance", "share"), ("mean", "Mean φ", "mean")):
        table = part.pivot(index="slice", columns="feature", values=column).reindex(
            index=labels, columns=features
        )
        cells = table.to_numpy(np.float64)
        rows = [
            {
                "s": shown[label],
                "f": view.names[feature],
                "n": j,
                "v": brief(float(cells[i, j])),
                "t": percent(float(cells[i, j])) if column == "share" else number(float(cells[i, j])),
            }
            for i, label in enumerate(labels)
            for j, feature in enumerate(features)
        ]
        widest = float(np.nanmax(np.abs(cells))) or 1.0
        scale: dict[str, Any] = {"domain": [0, brief(widest)], "range": "heatmap"}
        if column == "mean":
            scale = {"domain": [brief(-widest), brief(widest)], "range": "diverging"}
        legend = {"title": f"{title}", "gradientLength": 160, "gradientThickness": 8, "tickCount": 3}
        if column == "share":
            legend["format"] = ".0%"
        spec = {
            "width": "container",
            "height": _STEP * len(labels),
            "usermeta": {"renderer": "canvas" if len(rows) > 1000 else "svg", "column": _COLUMN},
            "data": {"values": rows},
            "mark": {"type": "rect", "stroke": {"expr": "theme.card"}, "strokeWidth": 1},
            "encoding": {
                "x": {
                    "field": "f",
                    "type": "nominal",
                    "sort": None,
                    "title": None,
                    "axis": {"orient": "top", "labelAngle": -40, "labelLimit": 110, "labelOverlap": False},
                },
                "y": {"field": "s", "type": "nominal", "sort": None, "title": None},
                "color": {"field": "v", "type": "quantitative", "scale": scale, "legend": legend},
                "tooltip": [
                    {"field": "s", "title": "Slice"},
                    {"field": "f", "title": "Feature"},
                    {"field": "t", "title": title},
                ],
            },
        }
        at = np.unravel_index(np.nanargmax(np.abs(cells)), cells.shape)
        factor = 100 if column == "share" else 1
        figure = Figure(
            name=f"slices-{target}-{page}-{key}",
            title=f"{title}, slice by slice",
            description=(
                f"A heat map of {len(labels)} slices by {len(features)} features. Farthest from 0: "
                f"{view.labels[features[at[1]]]} where {labels[at[0]]}, {number(float(cells[at]))}."
            ),
            spec=spec,
            note=(
                "The stronger the colour, the more of its scores a slice owes to the feature. A column of "
                "one shade: the feature matters everywhere alike."
                if column == "share"
                else "Whether the feature raises or lowers the score in the slice, on average."
            ),
            table=Table(
                ["Slice", "Rows", *(view.labels[feature] for feature in features)],
                [
                    [label, int(rows_of[label]), *(float(value) * factor for value in cells[i])]
                    for i, label in enumerate(labels)
                ],
                f"{title}{', in %' if column == 'share' else ''}, of the {len(features)} most important "
                "features.",
            ),
        )
        made[title] = [figure]
    return [Choice("Show", made)]


def _differences(view: View, target: int, sliced: pd.DataFrame) -> list[Block]:
    found = differences(view.overall(target), sliced, view.fewest)
    if not len(found):
        return [
            Prose(
                f"No slice and its rest have {max(FEWEST_ROWS, view.fewest)} rows each, too few to compare."
            )
        ]
    blocks: list[Block] = []
    tests = len(found)
    for kind, title, about in (
        ("abs", "Where a feature matters more, or less, than elsewhere", "mean |φ|"),
        ("mean", "Where a feature pushes the other way, or harder", "mean φ"),
    ):
        real = found[(found["kind"] == kind) & found["significant"]]
        real = real.reindex(real["difference"].abs().sort_values(ascending=False, kind="stable").index)
        # That a feature differs where its own values do is no news.
        real = real.iloc[np.argsort(by_itself(real, view.data.manifest), kind="stable")]
        if not len(real):
            blocks.append(Prose(f"No slice differs from the rest in {about} by more than chance would do."))
            continue
        blocks.append(_dumbbells(view, target, kind, title, about, real, tests))
    return blocks


def _dumbbells(
    view: View, target: int, kind: str, title: str, about: str, real: pd.DataFrame, tests: int
) -> Figure:
    shown = real.head(_MOST)
    slices = chart_names(shown["slice"].drop_duplicates())
    keys = [two_lines(view.names[row.feature], slices[row.slice]) for row in rows_of(shown)]
    rows = [
        {
            "n": key,
            "a": brief(row.here),
            "b": brief(row.rest),
            "s": shorten(plain(row.slice), 80),
            "f": view.names[row.feature],
            "d": f"{number(row.difference)} ({number(row.low)} to {number(row.high)})",
            "r": f"{row.rows:,}",
        }
        for key, row in zip(keys, rows_of(shown), strict=True)
    ]
    x = {
        "type": "quantitative",
        "title": f"{about}, in units of the {view.unit(target)}",
        "axis": number_axis(shown[["here", "rest"]].to_numpy(np.float64)),
        "scale": {"zero": kind == "abs"},
    }
    colour = {
        "field": "k",
        "type": "nominal",
        "scale": {
            "domain": ["the slice", "the rest"],
            "range": [{"expr": "theme.positive"}, {"expr": "theme.neutral"}],
        },
        "legend": {"title": None, "symbolType": "circle", "symbolStrokeWidth": 2},
    }
    dot = {"type": "point", "filled": True, "opacity": 1, "size": 70}
    spec = {
        "width": "container",
        "height": 38 * len(rows),
        "data": {"values": rows},
        "encoding": {
            "y": {
                "field": "n",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": TWO_LINES,
            },
            "tooltip": [
                {"field": "f", "title": "Feature"},
                {"field": "s", "title": "Slice"},
                {"field": "r", "title": "Rows"},
                {"field": "a", "title": "In the slice"},
                {"field": "b", "title": "In the rest"},
                {"field": "d", "title": "Difference"},
            ],
        },
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 3, "color": {"expr": "theme.bar_soft"}},
                "encoding": {"x": {"field": "b", **x}, "x2": {"field": "a"}},
            },
            {
                "mark": {**dot, "filled": False, "strokeWidth": 2, "fill": {"expr": "theme.card"}},
                "transform": [{"calculate": "'the rest'", "as": "k"}],
                "encoding": {"x": {"field": "b", **x}, "color": colour},
            },
            {
                "mark": dot,
                "transform": [{"calculate": "'the slice'", "as": "k"}],
                "encoding": {"x": {"field": "a", **x}, "color": colour},
            },
        ],
    }
    first = shown.iloc[0]
    more = f" {len(real):,} in all; the first {_MOST} are drawn." if len(real) > _MOST else ""
    kept = min(len(real), _MOST_ROWS)
    return Figure(
        name=f"differences-{target}-{kind}",
        title=title,
        description=(
            f"{len(real):,} significant differences of {about}. Largest: {view.labels[first.feature]} where "
            f"{first['slice']}, {number(first.here)} against {number(first.rest)}."
        ),
        spec=spec,
        note=(
            "Full dot: the slice. Ring: all rows outside of it. Only differences that are more than "
            f"chance: Bennett's bound, which holds however φ is spread, on {tests:,} comparisons, "
            "corrected by Benjamini and Hochberg so that at most 1 in 20 of those shown is expected to "
            f"be false.{more}"
        ),
        table=Table(
            [
                "Slice",
                "Feature",
                "Rows",
                "Slice's",
                "Rest's",
                "Difference",
                "95 % low",
                "95 % high",
                "Effect",
                "q",
            ],
            [
                [
                    row.slice,
                    view.labels[row.feature],
                    int(row.rows),
                    *(
                        float(getattr(row, name))
                        for name in ("here", "rest", "difference", "low", "high", "effect", "q")
                    ),
                ]
                for row in rows_of(real.head(_MOST_ROWS))
            ],
            f"{about[0].upper()}{about[1:]}: the {kept} largest significant differences. Effect: the "
            "difference in standard deviations. q: the share of false findings if this one and all "
            "stronger ones are believed.",
        ),
    )
