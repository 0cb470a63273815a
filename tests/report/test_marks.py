"""Charts built of marks: what Vega-Lite is given, that it draws it, and that no function is a page of it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.page.marks import (
    Spec,
    all_names,
    by_rank,
    by_sign,
    chart,
    end,
    layer,
    mark,
    names,
    numbers,
    spread,
    theme,
    tooltip,
    zero_line,
)
from pipeline.report.page.theme import LIGHT
from pipeline.report.pictures.figures import draw

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"f": "a", "x": 1.0, "c": 0.0}, {"f": "b", "x": -2.0, "c": -1.0}]
#: Lines of a function, which a reader sees at once.
LONGEST = 50


def test_a_single_layer_is_the_chart() -> None:
    bars = layer(mark("bar"), x=numbers("x"), y=names("f"))
    found = chart(ROWS, 40, bars)
    assert found == {"width": "container", "height": 40, "data": {"values": ROWS}, **bars}
    shared = chart(ROWS, 40, bars, zero_line(), tooltip=tooltip({"x": "φ"}))
    assert shared["layer"] == [bars, zero_line()]
    assert shared["encoding"] == {"tooltip": [{"field": "x", "title": "φ"}]}
    assert "mark" not in shared


def test_a_layer_has_data_and_transforms_only_if_it_is_given_some() -> None:
    assert set(layer(mark("bar"))) == {"mark", "encoding"}
    own = layer(mark("bar", "bar"), data=ROWS, transform=[{"filter": "datum.x > 0"}], x=numbers("x"))
    assert own["data"] == {"values": ROWS}
    assert own["transform"] == [{"filter": "datum.x > 0"}]
    assert own["mark"] == {"type": "bar", "color": {"expr": "theme.bar"}}


def test_only_exact_fields_of_a_tooltip_have_a_format() -> None:
    assert tooltip({"f": "Feature", "x": None}, exact=("x",)) == [
        {"field": "f", "title": "Feature"},
        {"field": "x", "format": ".4~g"},
    ]


@pytest.mark.parametrize(
    ("colour", "shown"),
    [
        (by_sign("x"), [LIGHT["positive"], LIGHT["negative"]]),
        (by_rank("c"), [LIGHT["ramp"][0], LIGHT["missing"]]),
        ({"value": theme("good")}, [LIGHT["good"]]),
    ],
)
def test_colours_are_the_theme_s(colour: Spec, shown: list[str]) -> None:
    dots = layer(
        mark("circle"), x=numbers("x"), y=all_names("f", ["a", "b"]), yOffset=spread("c"), color=colour
    )
    band = layer(mark("rule", "muted"), x=numbers("x"), x2=end("c"), y=names("f"))
    drawing = draw(chart(ROWS, 80, zero_line(), band, dots)).decode()
    fills = [_rgb(text) for text in shown]
    assert all(text in drawing or fill in drawing for text, fill in zip(shown, fills, strict=True))


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


@pytest.mark.parametrize("folder", ["report", "compare", "exports"])
def test_no_function_is_long(folder: str) -> None:
    def lines(node: Any) -> int:
        return int(node.end_lineno - node.lineno + 1)

    long = [
        f"{path.name}: {node.name}, {lines(node)} lines"
        for path in sorted((ROOT / "pipeline" / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and lines(node) > LONGEST
    ]
    assert long == []
