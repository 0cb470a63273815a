"""The report's colours and type: one source for the page's style sheet and for the charts."""

from __future__ import annotations

from typing import Any

#: Fonts of the page; a reader's system has one of them.
SANS = (
    '"Inter", "Source Sans 3", "Segoe UI", system-ui, -apple-system, "Helvetica Neue", "Noto Sans", '
    '"DejaVu Sans", sans-serif'
)
SERIF = (
    '"Source Serif 4", "Iowan Old Style", Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, '
    '"Noto Serif", "DejaVu Serif", serif'
)

# Blue and red differ in lightness and hue: readers who are colour-blind can tell them apart, and each has a
# contrast of at least 4.5:1 on its background. The ramp shows a feature's value, so it must not resemble the
# colours of φ's sign.
LIGHT: dict[str, Any] = {
    "paper": "#fcfbf8",
    "card": "#ffffff",
    "sunk": "#f4f1ea",
    "ink": "#1f1d1a",
    "muted": "#625d55",
    "rule": "#e3ded4",
    "grid": "#ece8df",
    "accent": "#1a5a8a",
    "focus": "#0b63c4",
    "positive": "#b8402a",
    "negative": "#2a68a8",
    "neutral": "#8b857b",
    "bar": "#2f6c93",
    "bar_soft": "#bcd3e2",
    "middle": "#f3f0ea",
    "good": "#22693c",
    "good_soft": "#e9f3ea",
    "caution": "#855000",
    "caution_soft": "#fbf0db",
    "bad": "#a62b21",
    "bad_soft": "#fae7e3",
    "missing": "#a9a49b",
    "ramp": ["#3f2a8c", "#7a3aa0", "#b5477f", "#dd6b4e", "#eba22f"],
    "heat": ["#f6f3ec", "#d3e1e8", "#9cc1d6", "#5c97bb", "#2b6a97", "#123f66"],
    "diverging": ["#1f5a99", "#7fadd6", "#f3f0ea", "#e39a82", "#a8321f"],
    "category": ["#2a68a8", "#c9711c", "#2b8a78", "#a5477f", "#7b6a2e", "#5d5aa8", "#8a8378", "#3f3b36"],
}
DARK: dict[str, Any] = {
    "paper": "#16171a",
    "card": "#1c1e22",
    "sunk": "#222429",
    "ink": "#ebe8e2",
    "muted": "#a8a49c",
    "rule": "#34363c",
    "grid": "#2a2c32",
    "accent": "#8ec1ea",
    "focus": "#8ec1ea",
    "positive": "#f08f74",
    "negative": "#75b2ec",
    "neutral": "#918c83",
    "bar": "#6fadd6",
    "bar_soft": "#34536a",
    "middle": "#2b2d32",
    "good": "#8bcf9b",
    "good_soft": "#1d2b22",
    "caution": "#e8b65f",
    "caution_soft": "#322817",
    "bad": "#f39a8c",
    "bad_soft": "#351f1d",
    "missing": "#6d6a64",
    "ramp": ["#8675e0", "#b470d0", "#e0749b", "#f0986a", "#f7d06a"],
    "heat": ["#212429", "#253c4d", "#2c5a77", "#4084a8", "#74b3d4", "#cbe7f5"],
    "diverging": ["#6fb0ee", "#3a6a97", "#2b2d32", "#a0553f", "#f39a7f"],
    "category": ["#75b2ec", "#eda658", "#68c7b3", "#e08dbd", "#cdbb6c", "#a8a4ec", "#b3ada2", "#ddd8cf"],
}


def vega_config(colours: dict[str, Any]) -> dict[str, Any]:
    """The Vega-Lite config of a palette.

    Specs name colours by `{"expr": "theme.positive"}`, after the names of the palettes; scales without
    their own range take the theme's.
    """
    return {
        "params": [{"name": "theme", "value": colours}],
        "background": None,
        "font": SANS,
        "aria": False,
        "padding": 2,
        "view": {"stroke": None},
        "mark": {"color": colours["bar"]},
        "bar": {"color": colours["bar"]},
        "rule": {"color": colours["muted"]},
        "text": {"color": colours["ink"], "fontSize": 12, "font": SANS},
        **_guides(colours),
        "range": {
            "category": colours["category"],
            "ramp": colours["ramp"],
            "heatmap": colours["heat"],
            "diverging": colours["diverging"],
        },
    }


def _guides(colours: dict[str, Any]) -> dict[str, Any]:
    """Axes, legends and headers."""
    text = {"labelColor": colours["muted"], "titleColor": colours["muted"]}
    type_ = {"labelFont": SANS, "titleFont": SANS, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "axis": {
            **text,
            **type_,
            "titleFontWeight": 500,
            "domain": False,
            "ticks": False,
            "gridColor": colours["grid"],
            "labelPadding": 6,
            "titlePadding": 10,
            "labelOverlap": True,
            "labelSeparation": 5,
        },
        "axisX": {"titleAnchor": "end", "titleAlign": "right", "labelFlush": True},
        "axisY": {"titleAnchor": "end", "labelLimit": 260},
        "axisQuantitative": {"tickCount": 6},
        "axisBand": {"grid": False, "labelColor": colours["ink"]},
        "legend": {
            **text,
            **type_,
            "titleFontWeight": 500,
            "orient": "top",
            "symbolStrokeWidth": 0,
            "labelLimit": 180,
            "titleLimit": 320,
        },
        "header": {**text, **type_},
    }
