"""How a feature's value decides what it does: φ against the value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.report.blocks import Block, Figure, Grid, Prose, Section, Table
from pipeline.report.data.view import View, as_word, brief, number_axis
from pipeline.report.sections.beeswarm import LEGEND, NO_ORDER, coloured
from pipeline.report.sections.interactions import HINT
from pipeline.wording import chart_names, isolated, listed, number, plain, shorten

_MOST, _MOST_OF_MANY = 12, 6
_DOTS, _DOTS_OF_MANY = 500, 150
_FEWEST = 10
#: Categories with a strip of their own.
_CATEGORIES = 12
#: Categories in a table, and characters of one.
_LISTED, _CELL = 200, 120
#: Points of the line of means, and the least dots that one stands for.
_LINE, _LINE_DOTS = 12, 8
_HEIGHT = 190
#: Categories that are numbers stand in their order, others by their means.
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
#: An upright axis of φ, with its name above it.
PHI = {
    "title": "φ",
    "titleAngle": 0,
    "titleAlign": "right",
    "titleAnchor": "end",
    "titleX": -7,
    "titleY": -9,
    "tickCount": 5,
}


def sections(view: View) -> list[Section]:
    """Plots by target; none without a sample of values."""
    blocks = view.by_target(lambda target: _of(view, target))
    lead = "What happens to the score as a feature's value goes up, or from one category to the next."
    return [Section("dependence", "Dependence", lead, blocks)] if blocks else []


def modulators(view: View, target: int) -> dict[str, str]:
    """The strongest modulator of each feature that has one."""
    table = view.data.interactions
    if table is None:
        return {}
    found: dict[str, tuple[float, str]] = {}
    for row in table.to_pylist():
        if (
            row["target"] == target
            and row["strength"] >= HINT
            and row["strength"] > found.get(row["feature"], (0.0, ""))[0]
        ):
            found[row["feature"]] = row["strength"], row["modulator"]
    return {feature: modulator for feature, (_, modulator) in found.items()}


def _of(view: View, target: int) -> Sequence[Block]:
    several = len(view.targets) > 1
    sample = view.sample(target, _DOTS_OF_MANY if several else _DOTS)
    if sample is None or len(sample) < _FEWEST or not view.matters(target):
        return []
    by = modulators(view, target)
    figures: list[Figure] = []
    left: list[str] = []
    for feature in view.overall(target)["feature"].tolist():
        if len(figures) == (_MOST_OF_MANY if several else _MOST):
            break
        values = view.values_of(sample, feature)
        if values is None:
            left.append(view.labels[feature])
            continue
        name = f"dependence-{target}-{len(figures) + 1}"
        phi = view.phi_of(sample, feature)
        if view.is_numeric(feature):
            figures.append(
                _scatter(view, name, feature, values.astype(np.float64), phi, sample, by.get(feature))
            )
        else:
            figures.append(_strips(view, name, feature, values, phi))
    if not figures:
        return []
    blocks: list[Block] = [Grid(figures)]
    if left:
        shown = listed([shorten(name, 40) for name in left[:5]])
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        blocks.append(
            Prose(f"Not shown, as an example has more than one value of it, or none here: {shown}{more}.")
        )
    return blocks


def _scatter(
    view: View,
    name: str,
    feature: str,
    values: np.ndarray,
    phi: np.ndarray,
    sample: pa.Table,
    modulator: str | None,
) -> Figure:
    colours: list[float | None] = [NO_ORDER] * len(values)
    words = [""] * len(values)
    other = None if modulator is None else view.values_of(sample, modulator)
    ordered = modulator is not None and other is not None and view.is_numeric(modulator)
    groups: list[str | None] = [None] * len(values)
    if other is not None and ordered:
        colours = coloured(other.astype(np.float64))
        words = [number(float(value)) for value in other]
    elif other is not None:
        words = [isolated(shorten(plain(as_word(value)), 24)) for value in other.tolist()]
        common = [word for word, _ in _counted(words)[:5]]
        groups = [word if word in common else "others" for word in words]
    rows = [
        {"v": brief(float(v), 6), "p": brief(float(p)), "c": c, "g": g, "w": w}
        for v, p, c, g, w in zip(values, phi, colours, groups, words, strict=True)
        if np.isfinite(v)
    ]
    line = _line(values, phi)
    by = shorten(plain(view.labels[modulator]), 40) if modulator is not None and other is not None else None
    colour: dict[str, Any] = {"value": {"expr": "theme.bar"}}
    if by is not None and ordered:
        legend = {**LEGEND, "title": isolated(by), "gradientLength": 90}
        colour = {
            "condition": {
                "test": "datum.c >= 0",
                "field": "c",
                "type": "quantitative",
                "scale": {"domain": [0, 1]},
                "legend": legend,
            },
            "value": {"expr": "theme.missing"},
        }
    elif by is not None:
        legend = {"title": isolated(by), "columns": 3, "symbolType": "circle", "labelLimit": 80}
        named = [word for word in dict.fromkeys(groups) if word is not None and word != "others"]
        palette: list[dict[str, str]] = [{"expr": f"theme.category[{at}]"} for at in range(len(named))]
        if "others" in groups:
            named, palette = [*named, "others"], [*palette, {"expr": "theme.missing"}]
        scale = {"domain": named, "range": palette}
        colour = {"field": "g", "type": "nominal", "scale": scale, "legend": legend}
    tooltip = [{"field": "v", "title": "Value"}, {"field": "p", "title": "φ"}]
    if by is not None:
        tooltip.append({"field": "w", "title": by})
    x = {
        "type": "quantitative",
        "title": None,
        "scale": {"zero": False, "nice": False, "padding": 6},
        "axis": {"tickCount": 5, **number_axis(values[np.isfinite(values)])},
    }
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": [{}]},
            "mark": {"type": "rule", "color": {"expr": "theme.neutral"}},
            "encoding": {"y": {"datum": 0}},
        },
        {
            "mark": {"type": "circle", "size": 15, "opacity": 0.75, "clip": True},
            "encoding": {
                "x": {"field": "v", **x},
                "y": {"field": "p", "type": "quantitative", "axis": {**PHI, **number_axis(phi)}},
                "color": colour,
                "tooltip": tooltip,
            },
        },
    ]
    if line:
        layers.append(
            {
                "data": {"values": [{"v": brief(v, 6), "p": brief(p)} for v, p, _ in line]},
                "mark": {
                    "type": "line",
                    "strokeWidth": 2,
                    "color": {"expr": "theme.ink"},
                    "interpolate": "monotone",
                },
                "encoding": {
                    "x": {"field": "v", **x},
                    "y": {"field": "p", "type": "quantitative", "axis": {**PHI, **number_axis(phi)}},
                },
            }
        )
    title = view.labels[feature]
    told = f" Coloured by {by}, which modulates it most." if by is not None else ""
    return Figure(
        name=name,
        title=shorten(plain(title), 90),
        description=f"φ of {title} against its value, {len(rows)} rows."
        + (_told(line) if line else "")
        + told,
        spec={"width": "container", "height": _HEIGHT, "data": {"values": rows}, "layer": layers},
        note=f"Line: the mean.{told}" if line else told.strip(),
        table=Table(
            ["Mean value", "Mean φ", "Rows"],
            [[float(v), float(p), count] for v, p, count in line],
            "The line: means of rows of similar values.",
        )
        if line
        else None,
    )


def _told(line: Sequence[tuple[float, float, int]]) -> str:
    (low, first, _), (high, last, _) = line[0], line[-1]
    return f" On average {number(first)} near {number(low)}, {number(last)} near {number(high)}."


def _line(values: np.ndarray, phi: np.ndarray) -> list[tuple[float, float, int]]:
    """Means of value and φ over rows of similar values, about as many in each."""
    real = np.isfinite(values)
    values, phi = values[real], phi[real]
    parts = min(_LINE, len(values) // _LINE_DOTS)
    if parts < 2:
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)[1:-1]))
    # A value that many rows share is on one side of an edge as a whole.
    places = np.searchsorted(edges, values, side="left")
    found = []
    for place in np.unique(places):
        chosen = places == place
        found.append((float(values[chosen].mean()), float(phi[chosen].mean()), int(chosen.sum())))
    return found


def _counted(words: Sequence[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


def _strips(view: View, name: str, feature: str, values: np.ndarray, phi: np.ndarray) -> Figure:
    words = [as_word(value) for value in values.tolist()]
    counted = [(word, count) for word, count in _counted(words) if count >= view.fewest]
    common = [word for word, _ in counted[:_CATEGORIES]]
    shown = chart_names(common)
    mean = {word: float(phi[[at for at, w in enumerate(words) if w == word]].mean()) for word, _ in counted}
    ordered = all(_NUMBER.fullmatch(word) for word in common)
    order = sorted(common, key=float if ordered else lambda word: -mean[word])
    ranked = sorted(common, key=lambda word: -mean[word])
    frequent = {word for word, _ in counted}
    rest = np.array([word not in shown for word in words])
    places = [*(shown[word] for word in order), *(["others"] if rest.any() else [])]
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-0.8, 0.8, len(words))
    rows = [
        {
            "g": shown.get(word, "others"),
            "p": brief(float(p)),
            "o": brief(float(o), 2),
            "w": isolated(shorten(plain(word), 40)) if word in frequent else "others",
        }
        for word, p, o in zip(words, phi, jitter, strict=True)
    ]
    means = [{"g": shown[word], "p": brief(mean[word])} for word in order]
    if rest.any():
        means.append({"g": "others", "p": brief(float(phi[rest].mean()))})
    y = {"field": "g", "type": "nominal", "title": None, "scale": {"domain": places}}
    spec = {
        "width": "container",
        "height": max(_HEIGHT, 22 * len(places)) if len(places) > 3 else 40 * len(places) + 30,
        "data": {"values": rows},
        "layer": [
            {
                "data": {"values": [{}]},
                "mark": {"type": "rule", "color": {"expr": "theme.neutral"}},
                "encoding": {"x": {"datum": 0}},
            },
            {
                "mark": {"type": "circle", "size": 13, "opacity": 0.5},
                "encoding": {
                    "x": {
                        "field": "p",
                        "type": "quantitative",
                        "title": "φ",
                        "axis": {"tickCount": 5, **number_axis(phi)},
                    },
                    "y": y,
                    "yOffset": {"field": "o", "type": "quantitative", "scale": {"domain": [-1, 1]}},
                    "tooltip": [{"field": "w", "title": "Value"}, {"field": "p", "title": "φ"}],
                },
            },
            {
                "data": {"values": means},
                "mark": {"type": "tick", "thickness": 3, "color": {"expr": "theme.ink"}},
                "encoding": {"x": {"field": "p", "type": "quantitative"}, "y": y},
            },
        ],
    }
    title = view.labels[feature]
    told = ""
    if ranked:
        best, worst = (shorten(plain(word), _CELL) for word in (ranked[0], ranked[-1]))
        told = (
            f" Highest mean: {best}, {number(mean[ranked[0]])}; lowest: {worst}, {number(mean[ranked[-1]])}."
        )
    return Figure(
        name=name,
        title=shorten(plain(title), 90),
        description=(f"φ of {title} by category, {len(rows)} rows.{told}"),
        spec=spec,
        note="Dark stroke: the mean of each category."
        + (f" The {_CATEGORIES} most frequent of {len(counted)} have a line each." if rest.any() else ""),
        table=Table(
            ["Category", "Mean φ", "Rows"],
            [
                [shorten(plain(word), _CELL), mean[word], count]
                for word, count in sorted(counted[:_LISTED], key=lambda item: -mean[item[0]])
            ],
            "Of the sample." + (f" The {_LISTED} most frequent." if len(counted) > _LISTED else ""),
        ),
    )
