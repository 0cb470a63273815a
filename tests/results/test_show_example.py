"""The waterfall in the terminal: where each line begins and ends, in wide, narrow and plain terminals."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from pipeline.terminal.example import print_example, waterfall_steps
from pipeline.terminal.text_table import bar, span

ROW: dict[str, Any] = {
    "example_id": "flight 7",
    "target": 0,
    "target_name": "late",
    "prediction": 1.5,
    "output": 0.8176,
    "base_value": 0.0,
    "convergence_delta": 0.0,
    "attribution": {"hour": 2.0, "distance": -1.0, "carrier": 0.5},
}
VALUES = {"hour": 17.5, "distance": 2475, "carrier": "UA"}
LABELS = {"distance": "Distance to destination"}


def shown(
    monkeypatch: pytest.MonkeyPatch, width: int, *rows: Mapping[str, Any], encoding: str = "utf-8"
) -> str:
    raw = io.BytesIO()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding, errors="replace", write_through=True))
    print_example("flight 7", rows or [ROW], VALUES, LABELS)
    return raw.getvalue().decode(encoding)


def table_of(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("feature")) :]


def test_the_way_leads_from_the_base_value_to_the_prediction() -> None:
    steps = waterfall_steps(ROW, VALUES, LABELS)
    assert [step.name for step in steps] == [
        "base_value", "hour", "Distance to destination", "carrier", "prediction",
    ]  # fmt: skip
    assert [step.phi for step in steps] == [None, 2.0, -1.0, 0.5, None]
    assert [step.total for step in steps] == [0.0, 2.0, 1.0, 1.5, 1.5]
    assert [step.value for step in steps] == ["", "17.5", "2475", "UA", ""]


def test_a_delta_that_is_seen_is_a_step() -> None:
    seen = waterfall_steps({**ROW, "prediction": 1.6, "convergence_delta": -0.1}, VALUES, {})
    assert seen[-2].name == "(delta)"
    assert seen[-2].phi == pytest.approx(0.1)
    unseen = waterfall_steps({**ROW, "prediction": 1.501, "convergence_delta": -0.001}, VALUES, {})
    assert unseen[-2].name == "carrier"
    assert unseen[-1].total == 1.501


def test_many_features_and_those_not_kept() -> None:
    many = {f"f{i}": (-1.0) ** i * (100 - i) for i in range(60)}
    steps = waterfall_steps({**ROW, "attribution": many, "prediction": sum(many.values())}, {}, {})
    assert len(steps) == 43
    assert steps[-2].name == "(20 smaller ones)"
    assert steps[-2].phi == pytest.approx(sum(list(many.values())[40:]))
    top = {key: value for key, value in ROW.items() if key != "attribution"} | {
        "top": [
            {"feature": "hour", "attribution": 2.0, "label": "Hour"},
            {"feature": "distance", "attribution": -1.0},
        ],
        "rest": 0.5,
    }
    assert [(step.name, step.phi) for step in waterfall_steps(top, VALUES, LABELS)[1:-1]] == [
        ("Hour", 2.0), ("Distance to destination", -1.0), ("(all others)", 0.5),
    ]  # fmt: skip


def test_bars_stand_where_the_totals_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bar begins where the one before it ended; halves of a character apart at most."""
    header, *lines = table_of(shown(monkeypatch, 100))
    assert header.split()[:4] == ["feature", "value", "φ", "total"]
    first = header.index("total") + len("total") + 2
    room = len(header) - first
    places = {
        line.split("  ")[0].strip(): [at - first for at, c in enumerate(line) if c in "█▐▌"] for line in lines
    }
    at = {name: (found[0] / room, (found[-1] + 1) / room) for name, found in places.items()}
    near = pytest.approx
    assert at["hour"] == (near(0, abs=1.5 / room), near(1, abs=1.5 / room))
    assert at["Distance to destination"] == (near(0.5, abs=1.5 / room), near(1, abs=1.5 / room))
    assert at["carrier"] == (near(0.5, abs=1.5 / room), near(0.75, abs=1.5 / room))
    assert at["prediction"][0] == near(0.75, abs=1.5 / room)
    assert at["base_value"][0] == 0
    assert header[first:].split() == ["0", "2"]


@pytest.mark.parametrize("width", [40, 50, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits(monkeypatch: pytest.MonkeyPatch, width: int, encoding: str) -> None:
    long = {f"{'name ' * 20}{i}": 0.1 * i for i in range(5)} | {"距離" * 30: -1.0, "x\n\x1b[31m": 0.1}
    text = shown(
        monkeypatch, width, {**ROW, "attribution": {**long, **ROW["attribution"]}}, encoding=encoding
    )
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text


def test_without_blocks_signs_are_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table_of(shown(monkeypatch, 80, encoding="ascii"))
    by_name = {line.split()[0]: line for line in lines}
    assert "++++" in by_name["hour"]
    assert "---" in by_name["Distance"]
    assert "?" not in "".join(lines[1:])


def test_tensors_are_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.zeros((4, 5, 1))
    picture[1, 2, 0], picture[3, 0, 0] = 2.0, -0.5
    text = shown(monkeypatch, 80, {**ROW, "attribution": {"picture": picture.tolist()}})
    line = next(line for line in text.splitlines() if line.startswith("picture "))
    assert line.split()[:5] == ["picture", "4×5×1", "values", "+1.5", "1.5"]
    assert "strongest: [1, 2, 0] +2, [3, 0, 0] -0.5" in text


def test_nothing_moves_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    still = {**ROW, "prediction": 0.0, "attribution": {"hour": 0.0, "distance": 0.0}}
    assert len(table_of(shown(monkeypatch, 80, still))) == 5
    bars = {**still, "convergence_delta": None}
    assert table_of(shown(monkeypatch, 80, bars))[0].split() == ["feature", "value", "φ", "lowers", "raises"]


def test_span() -> None:
    assert span(0, 1, 4) == "████"
    assert span(0.25, 0.75, 4) == " ██"
    assert span(0.125, 0.375, 4) == "▐▌"
    assert span(0.5, 0.5, 4) == "  ▌"
    assert span(1, 1, 4) == "   ▐"
    assert span(0, 0.5, 4, "+") == "++"
    assert span(0, 1, 4) == bar(1, 4)
