"""The report's beeswarm: a dot for every example and feature, coloured by the feature's value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.report.blocks import Block, Figure, Section, Table
from pipeline.report.data.view import View, as_word, brief, brief_all, number_axis
from pipeline.report.page.marks import (
    Spec,
    by_rank,
    chart,
    layer,
    mark,
    names,
    numbers,
    spread,
    theme,
    tooltip,
    zero_line,
)
from pipeline.wording import isolated, number, plain, shorten

#: Most features in a chart, and the height of each in pixels.
_MOST = 14
_STEP = 36
#: Most dots of one feature if one target is explained.
_DOTS = 600
#: Most dots of one feature if several targets are explained, each in a chart of its own.
_DOTS_OF_SEVERAL = 200
#: Positions along the axis at which dots are stacked.
_BINS = 120
#: Fewest rows for a chart.
_FEWEST = 3
#: The rank of a value that has none, such as a category; Vega-Lite would not draw null.
NO_ORDER = -1.0
_HEADER = [
    "Feature",
    "Smallest φ",
    "Median φ",
    "Largest φ",
    "Mean φ of low values",
    "Mean φ of high values",
]


def sections(view: View) -> list[Section]:
    """Builds a swarm for each target; nothing if the run has no sample."""
    blocks = view.by_target(lambda target: _swarm(view, target))
    lead = (
        "Each dot is one example. Its position shows the feature's effect on the score, its colour the "
        "feature's value."
    )
    return [Section("beeswarm", "Example by example", lead, blocks)] if blocks else []


@dataclass(frozen=True)
class _Dots:
    """The dots of one feature.

    Args:
      feature: Its name in the tables.
      phi: The dots' positions, `[N]`.
      values: The feature's values, `[N]`, if they are numbers; None otherwise.
      colours: Ranks of the values, from 0 to 1, or `NO_ORDER`.
      words: The values in words, for the tooltip.
    """

    feature: str
    phi: np.ndarray
    values: np.ndarray | None
    colours: list[float | None]
    words: list[str]

    @property
    def grey(self) -> bool:
        """True if no dot has a colour."""
        return set(self.colours) == {NO_ORDER}


def _swarm(view: View, target: int) -> Sequence[Block]:
    several = len(view.targets) > 1
    sample = view.sample(target, _DOTS_OF_SEVERAL if several else _DOTS)
    if sample is None or len(sample) < _FEWEST or not view.matters(target):
        return []
    features = view.overall(target)["feature"].head(_MOST).tolist()
    shown = [_dots(view, sample, feature) for feature in features]
    grey = sum(dots.grey for dots in shown)
    greys = (
        " Grey dots: values without an order, such as categories; point at a dot to see its value."
        if 0 < grey < len(shown)
        else ""
    )
    first = shown[0]
    return [
        Figure(
            name=f"beeswarm-{target}",
            title=f"{len(sample):,} rows drawn at random",
            description=(
                f"A beeswarm of the {len(shown)} most important features. {view.labels[first.feature]} "
                f"reaches from {number(float(first.phi.min()))} to {number(float(first.phi.max()))}."
            ),
            spec=_chart(view, target, shown),
            note=(
                "Right of the line, the feature raises the row's score; left of it, the feature lowers it. "
                "Where dots pile up, there are many such rows. Colour compares a row's value with the "
                f"feature's values in the other rows.{greys}"
            ),
            table=Table(
                _HEADER,
                [[view.labels[dots.feature], *_ends(dots.phi, dots.values)] for dots in shown],
                "What the dots show. Low and high: the lowest and the highest third of the feature's values.",
            ),
        )
    ]


def _dots(view: View, sample: pa.Table, feature: str) -> _Dots:
    phi, values = view.phi_of(sample, feature), view.values_of(sample, feature)
    if values is None:
        return _Dots(feature, phi, None, [NO_ORDER] * len(sample), [""] * len(sample))
    if view.is_numeric(feature):
        words = [number(float(value)) for value in values.astype(np.float64)]
        return _Dots(feature, phi, values, coloured(values.astype(np.float64)), words)
    words = [isolated(shorten(plain(as_word(value)), 30)) for value in values.tolist()]
    return _Dots(feature, phi, None, [NO_ORDER] * len(sample), words)


def _chart(view: View, target: int, shown: Sequence[_Dots]) -> Spec:
    extent = min(dots.phi.min() for dots in shown), max(dots.phi.max() for dots in shown)
    rows = [
        {"f": view.names[dots.feature], "x": brief(float(x)), "o": brief(float(offset), 3), "c": c, "w": word}
        for dots in shown
        for x, offset, c, word in zip(
            dots.phi, swarm(dots.phi, extent), dots.colours, dots.words, strict=True
        )
    ]
    x = numbers(
        "x",
        title=f"φ, in units of the {view.unit(target)}",
        axis=number_axis(np.array(extent)),
        scale={"zero": False},
    )
    dots = layer(
        mark("circle", size=16, opacity=0.85),
        x=x,
        y=names("f"),
        yOffset=spread("o"),
        color={"value": theme("bar")} if all(dots.grey for dots in shown) else by_rank("c"),
        tooltip=tooltip({"f": "Feature", "w": "Value", "x": "φ"}),
    )
    return chart(rows, _STEP * len(shown), zero_line(), dots)


def coloured(values: np.ndarray) -> list[float | None]:
    """Colours of values: their ranks from 0, the lowest, to 1; `NO_ORDER` for NaN."""
    return brief_all(np.nan_to_num(places(values), nan=NO_ORDER), 2)


def swarm(values: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """Offsets in [−1, 1] that stack dots of nearly equal values; larger stacks are wider.

    Args:
      values: `[N]`.
      extent: The ends of the axis.
    """
    span = extent[1] - extent[0]
    bins = np.zeros(len(values), np.int64)
    if span > 0:
        bins = np.floor((values - extent[0]) / span * (_BINS - 1)).astype(np.int64)
    order = np.argsort(bins, kind="stable")
    _, starts, counts = np.unique(bins[order], return_index=True, return_counts=True)
    place = np.arange(len(values)) - np.repeat(starts, counts)
    size = np.repeat(counts, counts)
    # Steps 0, 1, −1, 2, −2, …, so that a stack grows from the middle.
    steps = np.where(place % 2, (place + 1) // 2, -(place // 2)) - np.where(size % 2, 0, 0.5)
    offsets = np.empty(len(values))
    # Stacks of fewer than 14 dots do not fill the height.
    offsets[order] = steps / max(counts.max() / 2, 7)
    return np.clip(offsets, -1, 1) * 0.92


def places(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 to 1; equal values have equal ranks, and NaN stays NaN."""
    ranks = np.full(len(values), np.nan)
    real = np.isfinite(values)
    unique, inverse, counts = np.unique(values[real], return_inverse=True, return_counts=True)
    if len(unique) > 1:
        middle = np.cumsum(counts) - (counts + 1) / 2
        ranks[real] = ((middle - middle[0]) / (middle[-1] - middle[0]))[inverse]
    elif len(unique):
        ranks[real] = 0.5
    return ranks


def _ends(phi: np.ndarray, values: np.ndarray | None) -> list[Any]:
    """Smallest, median and largest φ, and its means over the lowest and the highest third of the values."""
    spread = [float(phi.min()), float(np.median(phi)), float(phi.max())]
    if values is None:
        return [*spread, None, None]
    ranked = places(values.astype(np.float64))
    low, high = phi[ranked <= 1 / 3], phi[ranked >= 2 / 3]
    return [*spread, *(float(part.mean()) if len(part) else None for part in (low, high))]
