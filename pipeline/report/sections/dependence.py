"""The report's section on dependence: φ of a feature against its value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.report.blocks import Block, Figure, Grid, Prose, Section, Table
from pipeline.report.data.view import View, as_word, brief, number_axis
from pipeline.report.page.marks import (
    LOW_TO_HIGH,
    Spec,
    by_rank,
    chart,
    layer,
    mark,
    numbers,
    spread,
    theme,
    tooltip,
    zero_line,
)
from pipeline.report.sections.beeswarm import NO_ORDER, coloured
from pipeline.report.sections.interactions import HINT
from pipeline.wording import chart_names, isolated, listed, number, plain, shorten

#: Most plots if one target is explained, and for each target if several are.
_MOST = 12
_MOST_OF_SEVERAL = 6
#: Most dots of a plot if one target is explained, and if several are.
_DOTS = 500
_DOTS_OF_SEVERAL = 150
#: Fewest rows for a plot.
_FEWEST = 10
#: Most categories with their own strips.
_CATEGORIES = 12
#: Most categories in a table.
_LISTED = 200
#: Most characters of a category in a table.
_CELL = 120
#: Most categories of a modulator with their own colours.
_MOST_GROUPS = 5
#: Points on the line of means.
_LINE = 12
#: Fewest dots averaged in one point of the line.
_LINE_DOTS = 8
#: The height of a plot in pixels.
_HEIGHT = 190
#: The name for all categories that share one strip or one colour.
_OTHERS = "others"
#: Categories that look like numbers are sorted as numbers, others by their means.
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
    """Builds plots for each target; nothing if the run has no sample of values."""
    blocks = view.by_target(lambda target: _plots(view, target))
    lead = "How the score changes as a feature's value increases, or from one category to the next."
    return [Section("dependence", "Dependence", lead, blocks)] if blocks else []


def modulators(view: View, target: int) -> dict[str, str]:
    """The strongest modulator of each feature that has one."""
    table = view.data.interactions
    if table is None:
        return {}
    strongest: dict[str, tuple[float, str]] = {}
    for row in table.to_pylist():
        if (
            row["target"] == target
            and row["strength"] >= HINT
            and row["strength"] > strongest.get(row["feature"], (0.0, ""))[0]
        ):
            strongest[row["feature"]] = row["strength"], row["modulator"]
    return {feature: modulator for feature, (_, modulator) in strongest.items()}


def _plots(view: View, target: int) -> Sequence[Block]:
    several = len(view.targets) > 1
    sample = view.sample(target, _DOTS_OF_SEVERAL if several else _DOTS)
    if sample is None or len(sample) < _FEWEST or not view.matters(target):
        return []
    modulator_of = modulators(view, target)
    figures: list[Figure] = []
    left_out: list[str] = []
    for feature in view.overall(target)["feature"].tolist():
        if len(figures) == (_MOST_OF_SEVERAL if several else _MOST):
            break
        values = view.values_of(sample, feature)
        if values is None:
            left_out.append(view.labels[feature])
            continue
        name = f"dependence-{target}-{len(figures) + 1}"
        phi = view.phi_of(sample, feature)
        if view.is_numeric(feature):
            modulator = _modulator(view, sample, modulator_of.get(feature))
            figures.append(_scatter(view, name, feature, values.astype(np.float64), phi, modulator))
        else:
            figures.append(_strips(view, name, feature, values, phi))
    if not figures:
        return []
    blocks: list[Block] = [Grid(figures)]
    if left_out:
        shown = listed([shorten(name, 40) for name in left_out[:5]])
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        blocks.append(
            Prose(f"Not shown, with several values per example or none in the sample: {shown}{more}.")
        )
    return blocks


# -- numbers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Modulator:
    """The feature that colours a plot.

    Args:
      name: The feature's name in words.
      words: The feature's value in each row, in words, `[N]`.
      ranks: For numbers, the ranks of the values from 0 to 1; otherwise None.
      groups: For categories, the frequent ones and "others".
    """

    name: str
    words: list[str]
    ranks: list[float | None] | None
    groups: list[str] | None

    def colour(self) -> Spec:
        """The channel of the dots' colours."""
        if self.groups is None:
            return by_rank("c", {**LOW_TO_HIGH, "title": isolated(self.name), "gradientLength": 90})
        named = [word for word in dict.fromkeys(self.groups) if word != _OTHERS]
        palette = [theme(f"category[{at}]") for at in range(len(named))]
        if _OTHERS in self.groups:
            named, palette = [*named, _OTHERS], [*palette, theme("missing")]
        return {
            "field": "g",
            "type": "nominal",
            "scale": {"domain": named, "range": palette},
            "legend": {
                "title": isolated(self.name),
                "columns": 3,
                "symbolType": "circle",
                "labelLimit": 80,
            },
        }


def _modulator(view: View, sample: pa.Table, feature: str | None) -> _Modulator | None:
    """The modulator of a feature with its values; None if there is none, or if its values are not kept."""
    values = None if feature is None else view.values_of(sample, feature)
    if feature is None or values is None:
        return None
    name = shorten(plain(view.labels[feature]), 40)
    if view.is_numeric(feature):
        words = [number(float(value)) for value in values]
        return _Modulator(name, words, coloured(values.astype(np.float64)), None)
    words = [isolated(shorten(plain(as_word(value)), 24)) for value in values.tolist()]
    frequent = [word for word, _ in _counted(words)[:_MOST_GROUPS]]
    return _Modulator(name, words, None, [word if word in frequent else _OTHERS for word in words])


def _scatter(
    view: View, name: str, feature: str, values: np.ndarray, phi: np.ndarray, modulator: _Modulator | None
) -> Figure:
    line = _line(values, phi)
    title = view.labels[feature]
    coloured_by = f" Coloured by {modulator.name}, which modulates it most." if modulator else ""
    rows = int(np.isfinite(values).sum())
    return Figure(
        name=name,
        title=shorten(plain(title), 90),
        description=f"φ of {title} against its value, {rows} rows."
        + (_ends_in_words(line) if line else "")
        + coloured_by,
        spec=_scatter_chart(values, phi, modulator, line),
        note=f"Line: the mean.{coloured_by}" if line else coloured_by.strip(),
        table=Table(
            ["Mean value", "Mean φ", "Rows"],
            [[float(v), float(p), count] for v, p, count in line],
            "The line: means over rows with similar values.",
        )
        if line
        else None,
    )


def _scatter_chart(
    values: np.ndarray,
    phi: np.ndarray,
    modulator: _Modulator | None,
    line: Sequence[tuple[float, float, int]],
) -> Spec:
    count = len(values)
    ranks: Sequence[float | None] = [NO_ORDER] * count
    groups: Sequence[str | None] = [None] * count
    words = [""] * count
    if modulator is not None:
        words, ranks, groups = modulator.words, modulator.ranks or ranks, modulator.groups or groups
    rows = [
        {"v": brief(float(v), 6), "p": brief(float(p)), "c": rank, "g": group, "w": word}
        for v, p, rank, group, word in zip(values, phi, ranks, groups, words, strict=True)
        if np.isfinite(v)
    ]
    places: Spec = {
        "x": numbers(
            "v",
            title=None,
            scale={"zero": False, "nice": False, "padding": 6},
            axis={"tickCount": 5, **number_axis(values[np.isfinite(values)])},
        ),
        "y": numbers("p", axis={**PHI, **number_axis(phi)}),
    }
    dots = layer(
        mark("circle", size=15, opacity=0.75, clip=True),
        **places,
        color=modulator.colour() if modulator else {"value": theme("bar")},
        tooltip=tooltip({"v": "Value", "p": "φ", **({"w": modulator.name} if modulator else {})}),
    )
    layers = [zero_line("y", alone=True), dots]
    if line:
        means = [{"v": brief(v, 6), "p": brief(p)} for v, p, _ in line]
        layers.append(layer(mark("line", "ink", strokeWidth=2, interpolate="monotone"), data=means, **places))
    return chart(rows, _HEIGHT, *layers)


def _ends_in_words(line: Sequence[tuple[float, float, int]]) -> str:
    (low, first, _), (high, last, _) = line[0], line[-1]
    return f" On average {number(first)} near {number(low)}, {number(last)} near {number(high)}."


def _line(values: np.ndarray, phi: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean value, mean φ, rows) for parts of the rows with similar values and about equally many rows."""
    real = np.isfinite(values)
    values, phi = values[real], phi[real]
    parts = min(_LINE, len(values) // _LINE_DOTS)
    if parts < 2:
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, parts + 1)[1:-1]))
    # Rows with equal values fall on the same side of an edge.
    places = np.searchsorted(edges, values, side="left")
    means = []
    for place in np.unique(places):
        chosen = places == place
        means.append((float(values[chosen].mean()), float(phi[chosen].mean()), int(chosen.sum())))
    return means


def _counted(words: Sequence[str]) -> list[tuple[str, int]]:
    """Each category with its number of occurrences, most frequent first."""
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


# -- categories ----------------------------------------------------------------------------------------------


def _strips(view: View, name: str, feature: str, values: np.ndarray, phi: np.ndarray) -> Figure:
    words = [as_word(value) for value in values.tolist()]
    counted = [(word, count) for word, count in _counted(words) if count >= view.fewest]
    means = {word: float(phi[[at for at, w in enumerate(words) if w == word]].mean()) for word, _ in counted}
    common = [word for word, _ in counted[:_CATEGORIES]]
    ranked = sorted(common, key=lambda word: -means[word])
    title = view.labels[feature]
    extremes = ""
    if ranked:
        best, worst = (shorten(plain(word), _CELL) for word in (ranked[0], ranked[-1]))
        high, low = number(means[ranked[0]]), number(means[ranked[-1]])
        extremes = f" Highest mean: {best}, {high}; lowest: {worst}, {low}."
    some_left = any(word not in common for word in words)
    return Figure(
        name=name,
        title=shorten(plain(title), 90),
        description=f"φ of {title} by category, {len(words)} rows.{extremes}",
        spec=_strip_chart(words, phi, common, means),
        note="Dark stroke: the mean of each category."
        + (f" The {_CATEGORIES} most frequent of {len(counted)} have their own lines." if some_left else ""),
        table=Table(
            ["Category", "Mean φ", "Rows"],
            [
                [shorten(plain(word), _CELL), means[word], count]
                for word, count in sorted(counted[:_LISTED], key=lambda item: -means[item[0]])
            ],
            "Of the sample." + (f" The {_LISTED} most frequent." if len(counted) > _LISTED else ""),
        ),
    )


def _strip_chart(
    words: Sequence[str], phi: np.ndarray, common: Sequence[str], means: Mapping[str, float]
) -> Spec:
    """A strip of dots per category, with a stroke at the category's mean φ.

    Args:
      words: The category of each row.
      phi: `[N]`.
      common: Categories with a strip of their own; the rest share one.
      means: Mean φ of the categories that may be named; privacy.min_rows excludes rare ones.
    """
    shown = chart_names(common)
    numeric = all(_NUMBER.fullmatch(word) for word in common)
    order = sorted(common, key=float if numeric else lambda word: -means[word])
    rest = np.array([word not in shown for word in words])
    jitter = np.random.default_rng(0).uniform(-0.8, 0.8, len(words))
    rows = [
        {
            "g": shown.get(word, _OTHERS),
            "p": brief(float(p)),
            "o": brief(float(offset), 2),
            "w": isolated(shorten(plain(word), 40)) if word in means else _OTHERS,
        }
        for word, p, offset in zip(words, phi, jitter, strict=True)
    ]
    strokes = [{"g": shown[word], "p": brief(means[word])} for word in order]
    places = [shown[word] for word in order]
    if rest.any():
        strokes.append({"g": _OTHERS, "p": brief(float(phi[rest].mean()))})
        places.append(_OTHERS)
    strips = {"field": "g", "type": "nominal", "title": None, "scale": {"domain": places}}
    dots = layer(
        mark("circle", size=13, opacity=0.5),
        x=numbers("p", title="φ", axis={"tickCount": 5, **number_axis(phi)}),
        y=strips,
        yOffset=spread("o"),
        tooltip=tooltip({"w": "Value", "p": "φ"}),
    )
    height = max(_HEIGHT, 22 * len(places)) if len(places) > 3 else 40 * len(places) + 30
    return chart(
        rows,
        height,
        zero_line(alone=True),
        dots,
        layer(mark("tick", "ink", thickness=3), data=strokes, x=numbers("p"), y=strips),
    )
