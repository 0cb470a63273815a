"""Builders of Vega-Lite specs: charts, layers, marks in the theme's colours, channels and tooltips.

With these, a section states only its own part of a chart: the data, the fields and how they are drawn.
Names from the data are values of fields; they are never fields themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

#: A chart, or a part of one, in Vega-Lite's form.
Spec = dict[str, Any]

#: The format of numbers in a tooltip.
_FOUR_DIGITS = ".4~g"
#: An axis with slanted names above its columns, so that long names fit.
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
      height: The height in pixels.
      layers: The layers from back to front; a single layer becomes the chart itself.
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
      mark: The result of `mark`.
      data: The layer's own data; None takes the chart's.
      transform: Filters and calculations before the rows are drawn.
      channels: The channels that fields determine: positions, colours, texts.
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
      alone: Give the line its own data. Otherwise it is drawn once for each of the chart's rows.
    """
    line: Spec = {"mark": mark("rule", "neutral"), "encoding": {channel: {"datum": 0}}}
    return {"data": {"values": [{}]}, **line} if alone else line


# -- channels ------------------------------------------------------------------------------------------------


def theme(colour: str) -> Spec:
    """A colour of the theme by its name; it follows the page's light or dark mode."""
    return {"expr": f"theme.{colour}"}


def names(field: str, **options: Any) -> Spec:
    """An axis of names in the order of the rows, without a title."""
    return {"field": field, "type": "nominal", "sort": None, "title": None, **options}


def all_names(field: str, order: Sequence[Any], axis: Spec | None = None, scale: Spec | None = None) -> Spec:
    """An axis of names in a given order, which shows every name even if they are close together.

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
    """A channel of numbers; without a field if each layer names its own."""
    return {**({} if field is None else {"field": field}), "type": "quantitative", **options}


def end(field: str) -> Spec:
    """The channel for the end of a mark that starts at another field."""
    return {"field": field}


def spread(field: str) -> Spec:
    """An offset of −1 to 1 across the height of a name's line, so that dots do not cover each other."""
    return numbers(field, scale={"domain": [-1, 1]})


def tooltip(titles: Mapping[str, str | None], exact: Collection[str] = ()) -> list[Spec]:
    """The lines that the pointer shows.

    Args:
      titles: Titles by field, in order; None takes the field's name.
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
    """The theme's ramp from 0 to 1; grey for values below 0, which stand for values without a rank."""
    ranked = {
        "test": f"datum.{field} >= 0",
        **numbers(field, scale={"domain": [0, 1]}, legend=legend),
    }
    return {"condition": ranked, "value": theme("missing")}
