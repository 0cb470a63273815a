"""Vega-Lite in few words: charts, layers, marks in the theme's colours, channels and tooltips.

A section builds a chart of these and keeps its own part in sight: the data, which fields are drawn, and how.
Names from the data are values of fields; they are never fields themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

#: A chart or a part of one, as Vega-Lite has it.
Spec = dict[str, Any]

#: Numbers in a tooltip.
_FOUR_DIGITS = ".4~g"
#: Names above columns stand aslant, so that long ones fit.
ASLANT: Spec = {"orient": "top", "labelAngle": -40, "labelLimit": 110, "labelOverlap": False}
#: The legend of colours that stand for a feature's value, from its lowest to its highest.
LOW_TO_HIGH: Spec = {
    "title": "Feature's value",
    "orient": "top",
    "direction": "horizontal",
    "gradientLength": 160,
    "gradientThickness": 8,
    "values": [0, 1],
    "labelExpr": "datum.value == 0 ? 'low' : 'high'",
}


# -- charts and layers ---------------------------------------------------------------------------------------


def chart(
    rows: Sequence[Mapping[str, Any]],
    height: float,
    *layers: Spec,
    usermeta: Spec | None = None,
    **shared: Any,
) -> Spec:
    """A chart as wide as its column.

    Args:
      rows: The data.
      height: In pixels.
      layers: From the back to the front. A single one becomes the chart itself.
      usermeta: Notes to the page; see `blocks.Figure`.
      shared: Channels that all layers have.
    """
    whole: Spec = {"width": "container", "height": height, "data": {"values": rows}}
    if usermeta is not None:
        whole["usermeta"] = usermeta
    if shared:
        whole["encoding"] = shared
    return whole | (layers[0] if len(layers) == 1 else {"layer": list(layers)})


def layer(
    mark: Spec,
    *,
    data: Sequence[Mapping[str, Any]] | None = None,
    transform: Sequence[Spec] = (),
    **channels: Any,
) -> Spec:
    """Marks of one kind.

    Args:
      mark: As `mark` gives it.
      data: Rows of the layer's own; None: the chart's.
      transform: Filters and calculations before the rows are drawn.
      channels: What the fields decide: places, colours, texts.
    """
    made: Spec = {"mark": mark, "encoding": channels}
    if data is not None:
        made["data"] = {"values": data}
    if transform:
        made["transform"] = list(transform)
    return made


def mark(kind: str, colour: str | None = None, **style: Any) -> Spec:
    """The look of a layer's marks.

    Args:
      kind: rule, bar, point, circle, tick, line, rect or text.
      colour: A name from the theme; None: the theme's own for the kind, or the channel `color`.
      style: Further properties of the mark in Vega-Lite.
    """
    return {"type": kind, **({} if colour is None else {"color": theme(colour)}), **style}


def zero_line(channel: str = "x", *, alone: bool = False) -> Spec:
    """A line at 0.

    Args:
      channel: "x" for an upright line, "y" for a level one.
      alone: Whether it has data of its own. Otherwise it is drawn once for each of the chart's rows.
    """
    line: Spec = {"mark": mark("rule", "neutral"), "encoding": {channel: {"datum": 0}}}
    return {"data": {"values": [{}]}, **line} if alone else line


# -- channels ------------------------------------------------------------------------------------------------


def theme(colour: str) -> Spec:
    """A colour of the theme by its name, light or dark as the page is."""
    return {"expr": f"theme.{colour}"}


def names(field: str, **options: Any) -> Spec:
    """An axis of names in the order of the rows, without a title."""
    return {"field": field, "type": "nominal", "sort": None, "title": None, **options}


def all_names(field: str, order: Sequence[Any], axis: Spec | None = None, scale: Spec | None = None) -> Spec:
    """An axis of names in a given order, none of which is left out where they are close to each other.

    Args:
      field: The names.
      order: Every name, from the first to the last.
      axis: Further properties of the axis.
      scale: Further properties of the scale.
    """
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": order, **(scale or {})},
        "axis": {"title": None, "labelOverlap": False, **(axis or {})},
    }


def numbers(field: str | None = None, **options: Any) -> Spec:
    """A channel of numbers; without a field where each layer names its own."""
    return {**({} if field is None else {"field": field}), "type": "quantitative", **options}


def end(field: str) -> Spec:
    """Where a mark ends that starts at another field."""
    return {"field": field}


def spread(field: str) -> Spec:
    """An offset of −1 to 1 across the height of a name's line, so that dots do not cover each other."""
    return numbers(field, scale={"domain": [-1, 1]})


def tooltip(titles: Mapping[str, str | None], exact: Collection[str] = ()) -> list[Spec]:
    """The lines that the pointer shows.

    Args:
      titles: What fields are called, in order; None: by their name.
      exact: Fields that are numbers, to be shown in four digits; the others are shown as they are.
    """
    return [
        {
            "field": field,
            **({} if title is None else {"title": title}),
            **({"format": _FOUR_DIGITS} if field in exact else {}),
        }
        for field, title in titles.items()
    ]


# -- colours -------------------------------------------------------------------------------------------------


def by_sign(field: str) -> Spec:
    """Red above 0, blue below."""
    below = {"test": f"datum.{field} < 0", "value": theme("negative")}
    return {"condition": below, "value": theme("positive")}


def by_rank(field: str, legend: Spec = LOW_TO_HIGH) -> Spec:
    """The theme's ramp from 0 to 1; grey for less than 0, which stands for a value without a place."""
    ranked = {
        "test": f"datum.{field} >= 0",
        **numbers(field, scale={"domain": [0, 1]}, legend=legend),
    }
    return {"condition": ranked, "value": theme("missing")}
