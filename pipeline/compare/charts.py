"""Charts of a comparison; names from the data are values in them and never fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.page.marks import ASLANT, Spec, chart, end, layer, mark, numbers, theme, tooltip
from pipeline.wording import chart_names

if TYPE_CHECKING:
    import pandas as pd

QUANTILES = ("p05", "p25", "p50", "p75", "p95")
#: Most features in a chart from A to B, and the height of each in pixels.
_MOST = 20
_STEP = 26
#: Most features whose quantiles are drawn, and the height of each in pixels.
MOST_BOXES = 8
_BOX_STEP = 36
#: Most slices (rows) and features (columns) of a heat map, and the height of a slice in pixels.
_MOST_SLICES = 30
_MOST_COLUMNS = 12
_SLICE_STEP = 22
#: The colour of a run.
_RUN: Spec = {
    "field": "run",
    "type": "nominal",
    "title": None,
    "scale": {"domain": ["A", "B"], "range": [theme("neutral"), theme("bar")]},
}
#: Changes that chance explains are faint.
_FAINT: Spec = {"condition": {"test": "datum.clear", "value": 1}, "value": 0.35}


def before_and_after(frame: pd.DataFrame, same: bool, unit: str) -> Spec:
    """A line from A to B for each of the features that changed most.

    Args:
      frame: Changes of one target, largest first.
      same: Whether mean |φ| can be compared; otherwise the share is.
      unit: The unit of φ.
    """
    shown = frame.head(_MOST).to_dict("records")
    names = _names(shown)
    title = f"mean |φ|, in units of the {unit}" if same else "share of importance"
    axis = {"title": title, **({} if same else {"format": ".0%"})}
    line = layer(
        mark("line", "bar_soft", strokeWidth=3),
        detail={"field": "name"},
        opacity=_FAINT,
        order={"field": "run"},
    )
    interval = layer(
        mark("rule", strokeWidth=1.2), x=numbers("low"), x2=end("high"), color=_RUN, opacity=_FAINT
    )
    dot = layer(
        mark("point", filled=True, size=90),
        color=_RUN,
        opacity=_FAINT,
        tooltip=tooltip({"name": "feature", "run": None, "value": title}, exact=("value",)),
    )
    return chart(
        _ends(shown, names, same),
        _STEP * len(names),
        *([line, interval, dot] if same else [line, dot]),
        x=numbers("value", axis=axis, scale={"zero": True}),
        y=_ordered("name", names.values()),
    )


def _ends(rows: Sequence[Mapping[Any, Any]], names: Mapping[str, str], same: bool) -> list[dict[str, Any]]:
    """Two rows for each feature, A and B, or one for a feature that only one run has."""
    key = "mean_abs" if same else "share"
    return [
        {
            "name": names[row["feature"]],
            "run": run,
            "value": row[f"{key}_{side}"],
            "clear": bool(row["significant"]) or row["status"] != "both",
            "low": row[f"mean_abs_low_{side}"] if same else None,
            "high": row[f"mean_abs_high_{side}"] if same else None,
        }
        for row in rows
        for side, run in (("a", "A"), ("b", "B"))
        if not math.isnan(row[f"{key}_{side}"])
    ]


def _ordered(field: str, names: Iterable[str], **axis: Any) -> Spec:
    """An axis of names in a given order."""
    return {"field": field, "type": "nominal", "sort": list(names), "axis": {"title": None, **axis}}


def _names(rows: Sequence[Mapping[Any, Any]]) -> dict[str, str]:
    """Names of the features in a chart."""
    return chart_names([row["feature"] for row in rows], {row["feature"]: row["label"] for row in rows})


def boxes(frame: pd.DataFrame, unit: str) -> Spec:
    """Quantiles of φ in A above those in B, by feature."""
    shown = frame.to_dict("records")
    names = _names(shown)
    rows = [
        {"name": names[row["feature"]], "run": run, **{q: row[f"{q}_{side}"] for q in QUANTILES}}
        for row in shown
        for side, run in (("a", "A"), ("b", "B"))
    ]
    # The quantiles share one axis, whose title Vega-Lite takes from the first layer.
    title = f"φ, in units of the {unit}"
    axis: Spec = {"axis": {"title": title}, "title": title}
    shared: Spec = {
        "tooltip": tooltip({"name": "feature", "run": None, **dict.fromkeys(QUANTILES)}, exact=QUANTILES)
    }
    zero = layer(mark("rule", strokeDash=[3, 3]), data=[{"at": 0}], x=numbers("at"))
    # Only the bars have a legend: a legend of thin lines would be unreadable.
    tails = layer(
        mark("rule", strokeWidth=1.5),
        x=numbers("p05", **axis),
        x2=end("p95"),
        color=_RUN | {"legend": None},
        **shared,
    )
    middles = layer(
        mark("bar", height=9, cornerRadius=2), x=numbers("p25", **axis), x2=end("p75"), color=_RUN, **shared
    )
    medians = layer(mark("tick", "ink", thickness=2.5, size=15), x=numbers("p50"), **shared)
    beside = {"field": "run", "type": "nominal", "scale": {"domain": ["A", "B"]}}
    whole: Spec = {
        "data": {"values": rows},
        "encoding": {"y": _ordered("name", names.values()), "yOffset": beside},
        "layer": [tails, middles, medians],
    }
    return {"width": "container", "height": _BOX_STEP * len(names), "layer": [zero, whole]}


def heat_map(changes: pd.DataFrame, slices: Sequence[str]) -> Spec:
    """Change of the share of importance by slice and feature.

    Args:
      changes: Changes within slices for one target, largest first.
      slices: Slices in the order of their importance; the first ones are shown.
    """
    slices = slices[:_MOST_SLICES]
    part = changes[changes["slice"].isin(slices)]
    features = list(
        part.groupby("feature")["share_change"].agg(lambda c: c.abs().sum()).nlargest(_MOST_COLUMNS).index
    )
    part = part[part["feature"].isin(features)]
    labels = dict(zip(part["feature"], part["label"], strict=True))
    rows_of, columns_of = chart_names(slices), chart_names(features, labels)
    rows = [
        {
            "slice": rows_of[row["slice"]],
            "feature": columns_of[row["feature"]],
            "points": 100 * row["share_change"],
            "clear": bool(row["significant"]),
        }
        for row in part.to_dict("records")
    ]
    most = max((abs(row["points"]) for row in rows), default=0.0) or 1.0
    colour = numbers(
        "points",
        title="percentage points",
        scale={"domain": [-most, 0, most], "range": "diverging", "interpolate": "lab"},
    )
    pointed_at = [{"field": "slice"}, {"field": "feature"}, {"field": "points", "format": "+.2f"}]
    cross = {"condition": {"test": "datum.clear", "value": ""}, "value": "×"}
    return chart(
        rows,
        _SLICE_STEP * len(rows_of),
        layer(mark("rect", cornerRadius=2), color=colour, tooltip=pointed_at),
        layer(mark("text", "muted", opacity=0.6), text=cross),
        x=_ordered("feature", columns_of.values(), **ASLANT),
        y=_ordered("slice", rows_of.values()),
    )
