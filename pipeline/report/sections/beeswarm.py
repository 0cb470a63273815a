"""A dot for every example and feature: φ, coloured by the feature's value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.blocks import Block, Figure, Section, Table
from pipeline.report.data.view import View, as_word, brief, brief_all, number_axis
from pipeline.wording import isolated, number, plain, shorten

_MOST = 14
_STEP = 36
#: Dots of one feature; fewer where there are several targets.
_DOTS, _DOTS_OF_MANY = 600, 200
#: Places along the scale at which dots are stacked.
_BINS = 120
_FEWEST = 3


def sections(view: View) -> list[Section]:
    """A swarm by target; none without a sample."""
    blocks = view.by_target(lambda target: _of(view, target))
    lead = (
        "Each dot is one example. Its place is what the feature did to the score, its colour the "
        "feature's value."
    )
    return [Section("beeswarm", "Example by example", lead, blocks)] if blocks else []


def _of(view: View, target: int) -> Sequence[Block]:
    several = len(view.targets) > 1
    sample = view.sample(target, _DOTS_OF_MANY if several else _DOTS)
    if sample is None or len(sample) < _FEWEST or not view.matters(target):
        return []
    shown = view.overall(target)["feature"].head(_MOST).tolist()
    phi = {feature: view.phi_of(sample, feature) for feature in shown}
    extent = min(values.min() for values in phi.values()), max(values.max() for values in phi.values())
    rows: list[dict[str, Any]] = []
    table: list[list[Any]] = []
    uncoloured = []
    for feature in shown:
        values = view.values_of(sample, feature)
        colours: list[float | None] = [NO_ORDER] * len(sample)
        words = ["" for _ in range(len(sample))]
        if values is not None and view.is_numeric(feature):
            numbers = values.astype(np.float64)
            colours = coloured(numbers)
            words = [number(float(v)) for v in numbers]
        elif values is not None:
            words = [isolated(shorten(plain(as_word(v)), 30)) for v in values.tolist()]
        if set(colours) == {NO_ORDER}:
            uncoloured.append(view.labels[feature])
        name = view.names[feature]
        offsets = swarm(phi[feature], extent)
        for at in range(len(sample)):
            rows.append(
                {
                    "f": name,
                    "x": brief(float(phi[feature][at])),
                    "o": brief(float(offsets[at]), 3),
                    "c": colours[at],
                    "w": words[at],
                }
            )
        table.append(
            [view.labels[feature], *_ends(phi[feature], values if view.is_numeric(feature) else None)]
        )
    colour: dict[str, Any] = {"value": {"expr": "theme.bar"}}
    if len(uncoloured) < len(shown):
        colour = {
            "condition": {
                "test": "datum.c >= 0",
                "field": "c",
                "type": "quantitative",
                "scale": {"domain": [0, 1]},
                "legend": LEGEND,
            },
            "value": {"expr": "theme.missing"},
        }
    spec = {
        "width": "container",
        "height": _STEP * len(shown),
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rule", "color": {"expr": "theme.neutral"}},
                "encoding": {"x": {"datum": 0}},
            },
            {
                "mark": {"type": "circle", "size": 16, "opacity": 0.85},
                "encoding": {
                    "y": {"field": "f", "type": "nominal", "sort": None, "title": None},
                    "yOffset": {"field": "o", "type": "quantitative", "scale": {"domain": [-1, 1]}},
                    "x": {
                        "field": "x",
                        "type": "quantitative",
                        "title": f"φ, in units of the {view.unit(target)}",
                        "axis": number_axis(np.array(extent)),
                        "scale": {"zero": False},
                    },
                    "color": colour,
                    "tooltip": [
                        {"field": "f", "title": "Feature"},
                        {"field": "w", "title": "Value"},
                        {"field": "x", "title": "φ"},
                    ],
                },
            },
        ],
    }
    grey = (
        " Grey dots: values that have no order, such as categories; they are named under the pointer."
        if 0 < len(uncoloured) < len(shown)
        else ""
    )
    first = view.labels[shown[0]]
    return [
        Figure(
            name=f"beeswarm-{target}",
            title=f"{len(sample):,} rows drawn at random",
            description=(
                f"A beeswarm of the {len(shown)} most important features. {first} reaches from "
                f"{number(float(phi[shown[0]].min()))} to {number(float(phi[shown[0]].max()))}."
            ),
            spec=spec,
            note=(
                "Right of the line the feature raises the score of that row, left of it it lowers it. "
                "Where dots pile up there are many such rows. Colour compares a row's value with the "
                f"feature's own others.{grey}"
            ),
            table=Table(
                [
                    "Feature",
                    "Smallest φ",
                    "Median φ",
                    "Largest φ",
                    "Mean φ of low values",
                    "Mean φ of high values",
                ],
                table,
                "What the dots show. Low and high: the lowest and the highest third of the feature's values.",
            ),
        )
    ]


#: Of colours by a feature's value, from the lowest to the highest.
LEGEND = {
    "title": "Feature's value",
    "orient": "top",
    "direction": "horizontal",
    "gradientLength": 160,
    "gradientThickness": 8,
    "values": [0, 1],
    "labelExpr": "datum.value == 0 ? 'low' : 'high'",
}


#: Instead of a place among a feature's values, where there is none: a null would not be drawn.
NO_ORDER = -1.0


def coloured(values: np.ndarray) -> list[float | None]:
    """What the colour of each value is, from 0, the lowest, to 1."""
    return brief_all(np.nan_to_num(places(values), nan=NO_ORDER), 2)


def swarm(values: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """Offsets in [−1, 1] that put values near each other beside each other, as wide as they are dense.

    Args:
      values: `[N]`.
      extent: Of the axis.
    """
    span = extent[1] - extent[0]
    bins = np.zeros(len(values), np.int64)
    if span > 0:
        bins = np.floor((values - extent[0]) / span * (_BINS - 1)).astype(np.int64)
    order = np.argsort(bins, kind="stable")
    _, starts, counts = np.unique(bins[order], return_index=True, return_counts=True)
    place = np.arange(len(values)) - np.repeat(starts, counts)
    size = np.repeat(counts, counts)
    # 0, 1, −1, 2, −2, …: the first in the middle.
    steps = np.where(place % 2, (place + 1) // 2, -(place // 2)) - np.where(size % 2, 0, 0.5)
    offsets = np.empty(len(values))
    # Few dots do not fill the whole height.
    offsets[order] = steps / max(counts.max() / 2, 7)
    return np.clip(offsets, -1, 1) * 0.92


def places(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 to 1, equal values alike; NaN stays."""
    found = np.full(len(values), np.nan)
    real = np.isfinite(values)
    unique, inverse, counts = np.unique(values[real], return_inverse=True, return_counts=True)
    if len(unique) > 1:
        middle = np.cumsum(counts) - (counts + 1) / 2
        found[real] = ((middle - middle[0]) / (middle[-1] - middle[0]))[inverse]
    elif len(unique):
        found[real] = 0.5
    return found


def _ends(phi: np.ndarray, values: np.ndarray | None) -> list[Any]:
    spread = [float(phi.min()), float(np.median(phi)), float(phi.max())]
    if values is None:
        return [*spread, None, None]
    ranked = places(values.astype(np.float64))
    low, high = phi[ranked <= 1 / 3], phi[ranked >= 2 / 3]
    return [*spread, *(float(part.mean()) if len(part) else None for part in (low, high))]
