"""Charts of a comparison as Vega-Lite; names from the data are values in them and never fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.wording import chart_names

if TYPE_CHECKING:
    import pandas as pd

QUANTILES = ("p05", "p25", "p50", "p75", "p95")
#: Features of a chart.
_MOST, MOST_BOXES = 20, 8
_MOST_SLICES, _MOST_COLUMNS = 30, 12
_STEP = 26
_RUN: dict[str, Any] = {
    "field": "run",
    "type": "nominal",
    "title": None,
    "scale": {"domain": ["A", "B"], "range": [{"expr": "theme.neutral"}, {"expr": "theme.bar"}]},
}


def before_and_after(frame: pd.DataFrame, same: bool, unit: str) -> dict[str, Any]:
    """A line from A to B for each of the features that changed most.

    Args:
      frame: Changes of one target, largest first.
      same: Whether mean |φ| can be compared; else the share is.
      unit: Of φ.
    """
    shown = frame.head(_MOST).to_dict("records")
    names = _names(shown)
    key = "mean_abs" if same else "share"
    rows = []
    for row in shown:
        clear = bool(row["significant"]) or row["status"] != "both"
        for side, run in (("a", "A"), ("b", "B")):
            if not math.isnan(row[f"{key}_{side}"]):
                bounds = [row[f"mean_abs_{end}_{side}"] if same else None for end in ("low", "high")]
                value = row[f"{key}_{side}"]
                one = {"name": names[row["feature"]], "run": run, "value": value, "clear": clear}
                rows.append({**one, "low": bounds[0], "high": bounds[1]})
    title = f"mean |φ|, in units of the {unit}" if same else "share of importance"
    axis = {"title": title, **({} if same else {"format": ".0%"})}
    faint = {"condition": {"test": "datum.clear", "value": 1}, "value": 0.35}
    y = {"field": "name", "type": "nominal", "sort": list(names.values()), "axis": {"title": None}}
    x = {"field": "value", "type": "quantitative", "axis": axis, "scale": {"zero": True}}
    tooltip = [
        {"field": "name", "title": "feature"},
        {"field": "run"},
        {"field": "value", "title": title, "format": ".4~g"},
    ]
    interval = {
        "mark": {"type": "rule", "strokeWidth": 1.2},
        "encoding": {
            "x": {"field": "low", "type": "quantitative"},
            "x2": {"field": "high"},
            "color": _RUN,
            "opacity": faint,
        },
    }
    return {
        "width": "container",
        "height": _STEP * len(names),
        "data": {"values": rows},
        "encoding": {"y": y, "x": x},
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 3, "color": {"expr": "theme.bar_soft"}},
                "encoding": {"detail": {"field": "name"}, "opacity": faint, "order": {"field": "run"}},
            },
            *([interval] if same else []),
            {
                "mark": {"type": "point", "filled": True, "size": 90},
                "encoding": {"color": _RUN, "opacity": faint, "tooltip": tooltip},
            },
        ],
    }


def _names(rows: Sequence[Mapping[Any, Any]]) -> dict[str, str]:
    """What each feature is called in a chart."""
    return chart_names([row["feature"] for row in rows], {row["feature"]: row["label"] for row in rows})


def boxes(frame: pd.DataFrame, unit: str) -> dict[str, Any]:
    """Quantiles of φ in A above those in B, by feature."""
    shown = frame.to_dict("records")
    names = _names(shown)
    rows = [
        {"name": names[row["feature"]], "run": run, **{q: row[f"{q}_{side}"] for q in QUANTILES}}
        for row in shown
        for side, run in (("a", "A"), ("b", "B"))
    ]
    y = {"field": "name", "type": "nominal", "sort": list(names.values()), "axis": {"title": None}}
    # The quantiles share one axis, whose title is that of the first.
    axis = {"title": f"φ, in units of the {unit}"}
    tooltip = [{"field": "name", "title": "feature"}, {"field": "run"}]
    tooltip += [{"field": q, "format": ".4~g"} for q in QUANTILES]

    def layer(mark: dict[str, Any], low: str, high: str | None) -> dict[str, Any]:
        x = {"field": low, "type": "quantitative", "axis": axis, "title": axis["title"]}
        ends = {"x": x, **({"x2": {"field": high}} if high else {})}
        # A legend of lines would show nothing: bars have it.
        legend: dict[str, Any] = {} if mark["type"] == "bar" else {"legend": None}
        return {"mark": mark, "encoding": {**ends, "color": _RUN | legend, "tooltip": tooltip}}

    zero = {
        "data": {"values": [{"at": 0}]},
        "mark": {"type": "rule", "strokeDash": [3, 3]},
        "encoding": {"x": {"field": "at", "type": "quantitative"}},
    }
    return {
        "width": "container",
        "height": 36 * len(names),
        "layer": [
            zero,
            {
                "data": {"values": rows},
                "encoding": {
                    "y": y,
                    "yOffset": {"field": "run", "type": "nominal", "scale": {"domain": ["A", "B"]}},
                },
                "layer": [
                    layer({"type": "rule", "strokeWidth": 1.5}, "p05", "p95"),
                    layer({"type": "bar", "height": 9, "cornerRadius": 2}, "p25", "p75"),
                    layer(
                        {"type": "tick", "thickness": 2.5, "size": 15, "color": {"expr": "theme.ink"}},
                        "p50",
                        None,
                    )
                    | {"encoding": {"x": {"field": "p50", "type": "quantitative"}, "tooltip": tooltip}},
                ],
            },
        ],
    }


def heat_map(changes: pd.DataFrame, slices: Sequence[str]) -> dict[str, Any]:
    """Change of the share of importance by slice and feature.

    Args:
      changes: Of slices, of one target, largest first.
      slices: In the order of their importance; the first of them are shown.
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
    y = {"field": "slice", "type": "nominal", "sort": list(rows_of.values()), "axis": {"title": None}}
    x = {
        "field": "feature",
        "type": "nominal",
        "sort": list(columns_of.values()),
        "axis": {"title": None, "orient": "top", "labelAngle": -40, "labelLimit": 110, "labelOverlap": False},
    }
    colour = {
        "field": "points",
        "type": "quantitative",
        "title": "points of per cent",
        "scale": {"domain": [-most, 0, most], "range": "diverging", "interpolate": "lab"},
    }
    tooltip = [{"field": "slice"}, {"field": "feature"}, {"field": "points", "format": "+.2f"}]
    return {
        "width": "container",
        "height": 22 * len(rows_of),
        "data": {"values": rows},
        "encoding": {"y": y, "x": x},
        "layer": [
            {"mark": {"type": "rect", "cornerRadius": 2}, "encoding": {"color": colour, "tooltip": tooltip}},
            {
                "mark": {"type": "text", "color": {"expr": "theme.muted"}, "opacity": 0.6},
                "encoding": {"text": {"condition": {"test": "datum.clear", "value": ""}, "value": "×"}},
            },
        ],
    }
