"""The report's section on single rows: which are shown, and their waterfalls; sums are made by hand."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from pipeline.report.data.chosen_examples import distances, gallery, picks
from pipeline.report.data.sampled_rows import in_words, sample_by_target, shown_features
from pipeline.report.sections import examples
from pipeline.report.sections.examples import Part, sentence, waterfall
from tests.support import media_worlds
from tests.support.report_blocks import figures, prose

# -- what a feature is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "form", "channels"),
    [
        ((), "float32", "numeric", "number", None),
        ((1,), "float32", "numeric", "number", None),
        ((), "int64", "categorical", "category", None),
        ((), "string", "categorical", "category", None),
        ((28, 28, 1), "float32", "image", "picture", 2),
        ((3, 32, 32), "float32", "numeric", "picture", 0),
        ((3, 3), "float32", "image", "picture", None),
        ((4, 4), "float32", "numeric", "picture", None),
        ((3, 9), "float32", "numeric", "vector", None),
        ((8, 8, 5), "float32", "numeric", "picture", 2),
        ((64,), "int64", "categorical", "tokens", None),
        ((64, 1), "string", "categorical", "tokens", None),
        ((50,), "float32", "numeric", "vector", None),
        ((8, 8), "string", "categorical", "vector", None),
        ((2, 4, 4, 3), "float32", "numeric", "vector", None),
    ],
)
def test_the_form_of_a_feature(
    shape: tuple[int, ...], dtype: str, kind: str, form: str, channels: int | None
) -> None:
    value = np.zeros((2, *shape), object if dtype == "string" else dtype)
    if dtype == "string":
        value[...] = "a"
    data = media_worlds.world({"x": np.zeros((2, 1, *shape))}, {"x": value}, kinds={"x": kind})
    (found,) = shown_features(data)
    assert (found.form, found.channels) == (form, channels)


@pytest.mark.parametrize(
    ("value", "counted", "words"),
    [
        (2475, True, "2,475"),
        (2013, False, "2013"),
        (np.float32(17.5), True, "17.5"),
        (np.float32(1017.6), True, "1,017.6"),
        (-0.25, True, "−0.25"),
        (float("nan"), True, "missing"),
        (None, True, "missing"),
        (True, True, "True"),
        ("UA", True, "UA"),
        ("क्\u200dष", True, "क्\u200dष"),
        ("a\nb" + "x" * 90, True, "a\\nb" + "x" * 35 + "…"),
        (np.zeros((2, 3)), True, "2×3 values"),
        (np.array([7]), True, "7"),
    ],
)
def test_values_in_words(value: Any, counted: bool, words: str) -> None:
    assert in_words(value, counted) == words


# -- which rows ----------------------------------------------------------------------------------------------


def test_the_rows_that_are_shown() -> None:
    data = media_worlds.flights()
    of = sample_by_target(data, 1)[0]
    sample = of["sample"]
    found = {pick.name: pick for pick in picks(of)}
    assert list(found) == ["largest", "smallest", "typical", "surprising"]
    scores = sample.prediction
    ids = sample.ids()
    for name, row in (("largest", scores.argmax()), ("smallest", scores.argmin()), ("surprising", 7)):
        pick = found[name]
        assert pick.rows.ids()[pick.row] == ids[row]
    # Whatever the measure, most rows are farther from the medians of the features that matter.
    away = np.abs(sample.phi - np.median(sample.phi, axis=0))[:, :3]
    typical = found["typical"].row
    assert (away[typical].sum() < away.sum(axis=1)).mean() > 0.9


def test_distances_are_robust() -> None:
    """By hand: medians 0, scales 1.4826 · MAD or 1.2533 · mean deviation, a tenth of the largest at least."""
    phi = np.array([[-1.0, 0, 0.0], [0, 0, 0.001], [1, 0, -0.001], [2, 0, 0.0], [-2, 5, 0.0]])
    scale = np.array([max(1.4826 * 1, 1.2533 * 6 / 5), 1.2533 * 5 / 5, 0.1 * 1.2533 * 6 / 5])
    np.testing.assert_allclose(distances(phi), np.sqrt(((phi / scale) ** 2).sum(axis=1)))
    assert distances(np.zeros((4, 2))).tolist() == [0, 0, 0, 0]
    usual = np.random.default_rng(9).normal(size=(500, 3)) * [1.0, 2.0, 3.0]
    wanted = np.linalg.norm(usual / [1, 2, 3], axis=1)
    np.testing.assert_allclose(distances(usual), wanted, rtol=0.2, atol=0.2)


def test_few_rows_have_no_usual() -> None:
    of = sample_by_target(media_worlds.flights(rows=4), 1)[0]
    assert [pick.name for pick in picks(of)] == ["largest", "smallest"]


def test_a_gallery_takes_turns() -> None:
    drawn = sample_by_target(media_worlds.digits(), 12)
    found = gallery(drawn, 7)
    assert len(found) == 7
    assert [sum(target == of for of, _ in found) for target in range(3)] == [3, 2, 2]
    assert len({(target, rows.ids()[0]) for target, rows in found}) == 7
    for target in range(3):
        best = drawn[target]["largest"].prediction.max()
        assert max(rows.prediction[0] for of, rows in found if of == target) == best


# -- waterfalls ----------------------------------------------------------------------------------------------


def bars(spec: Any) -> list[dict[str, Any]]:
    return [row for row in spec["data"]["values"] if row["phi"] is not None]


def test_a_waterfall_leads_from_the_base_value_to_the_score() -> None:
    data = media_worlds.flights()
    sample = sample_by_target(data, 1)[0]
    for pick in picks(sample):
        figure = figures(examples.sections(data))[f"example-0-{pick.name}"]
        first, *_, last = figure.spec["data"]["values"]
        assert first["end"] == 0.25
        assert last["end"] == pick.rows.prediction[pick.row]
        steps = bars(figure.spec)
        for before, after in itertools.pairwise([first, *steps]):
            assert after["start"] == pytest.approx(before["end"])
            assert after["end"] - after["start"] == pytest.approx(after["phi"])
        assert steps[-1]["end"] == pytest.approx(last["end"], rel=1e-6)
        sizes = [abs(row["phi"]) for row in steps if "others" not in row["name"]]
        assert sizes == sorted(sizes, reverse=True)
        low, high = figure.spec["encoding"]["x"]["scale"]["domain"]
        assert all(low <= row[end] <= high for row in steps for end in ("start", "end"))
        table = figure.table.rows
        assert len(table) == len(pick.rows.features) + 2 + (table[-2][0] == "Remainder")
        phi = sorted((row[2] for row in table[1 : 1 + len(pick.rows.features)]), key=abs, reverse=True)
        np.testing.assert_allclose(phi, sorted(pick.rows.phi[pick.row], key=abs, reverse=True))


def test_many_features_are_summed_up() -> None:
    found = [Part(f"f{n}", "", 1.0 / (n + 1)) for n in range(40)]
    total = sum(part.phi for part in found)
    steps = bars(waterfall(found, 1 + total, 1.0, "score"))
    assert len(steps) == 12
    assert steps[-1]["name"] == "29 others"
    assert steps[-1]["phi"] == pytest.approx(sum(part.phi for part in found[11:]))


def test_a_remainder_that_is_seen_is_a_bar() -> None:
    found = [Part("a", "", 2.0), Part("b", "", -1.0)]
    assert [row["name"] for row in bars(waterfall(found, 1.2, 0.0, "score"))] == ["a", "b", "Remainder"]
    assert [row["name"] for row in bars(waterfall(found, 1.0001, 0.0, "score"))] == ["a", "b"]


def test_without_a_sum_bars_begin_at_nothing() -> None:
    figure = figures(examples.sections(media_worlds.flights(additive=False)))["example-0-largest"]
    assert {row["start"] for row in figure.spec["data"]["values"]} == {0.0}
    assert "do not add up" in figure.note
    assert list(figure.table.header) == ["Feature", "Value", "φ"]


@pytest.mark.parametrize(
    ("prediction", "found", "additive", "words"),
    [
        (
            1.9,
            [Part("Distance", "2,475", 0.8), Part("Hour", "17", 1.1), Part("Rain", "0", 0.0)],
            True,
            "The score is 1.9, 1.9 above the base value, mostly because Distance = 2,475 adds 0.8 and "
            "Hour = 17 adds 1.1.",
        ),
        (
            -1.0,
            [Part("Distance", "2,475", -1.5), Part("Hour", "17", 0.5)],
            True,
            "The score is −1, 1 below the base value, mostly because Distance = 2,475 takes off 1.5; "
            "Hour = 17 adds 0.5.",
        ),
        (
            0.01,
            [Part("a", "1", 1.0), Part("b", "2", -0.99)],
            True,
            "The score is 0.01, close to the base value of 0: a = 1 adds 1 and b = 2 takes off 0.99.",
        ),
        (
            1.0,
            [Part(f"f{n}", "", 0.1) for n in range(10)],
            True,
            "The score is 1, 1 above the base value, in many small steps; the largest: f0 "
            "adds 0.1, f1 adds 0.1 and f2 adds 0.1.",
        ),
        (0.0, [Part("a", "1", 0.0)], True, "The score is 0, and no feature moves it."),
        (
            3.0,
            [Part("a", "1", 2.0), Part("b", "", -1.0)],
            False,
            "The score is 3. The largest effects: a = 1 (+2) and b (−1).",
        ),
        (
            2.0,
            [Part("Photo", "8×8 values", 2.0, has_words=False)],
            True,
            "The score is 2, 2 above the base value, mostly because Photo adds 2.",
        ),
    ],
)
def test_sentences(prediction: float, found: list[Part], additive: bool, words: str) -> None:
    assert sentence(prediction, 0.0, found, additive) == words


def test_groups_slices_and_labels_are_told() -> None:
    data = media_worlds.flights()
    found = examples.sections(data)
    figure = figures(found)["example-0-surprising"]
    by_name = {re.sub("[\u2068\u2069]", "", str(row[0])): row for row in figure.table.rows}
    assert by_name["Distance to destination"][2] == pytest.approx(-3.1)
    temp, wind = (sample_by_target(data, 1)[0]["sample"].value(name)[7] for name in ("temp", "wind"))
    assert by_name["weather"][1] == f"temp {temp:.4g}, wind {wind:.4g}"
    paragraphs = prose(block for section in found for block in section.blocks)
    text = next(paragraph.text for paragraph in paragraphs if "farthest" in paragraph.text)
    assert "2013-01-08 JFK B60007" in text
    origin = sample_by_target(data, 1)[0]["sample"].table["origin"][7].as_py()
    assert f"(\u2068origin\u2069 \u2068{origin}\u2069)" in text
