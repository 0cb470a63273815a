"""The report's sections and numbers: what they say is what the tables hold, whatever is in them."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline import wording as words
from pipeline.cli import commands as cli
from pipeline.report import report_is_current, write_report
from pipeline.report.blocks import Block, Choice, Figure, Grid, Section, Table
from pipeline.report.data.slicings import by_itself, slicing_of
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import View
from pipeline.report.page import render as page
from pipeline.report.pictures.figures import draw
from pipeline.report.sections import all_sections
from pipeline.report.sections.beeswarm import places, swarm
from tests.support import report_worlds
from tests.support.report_blocks import figures, prose
from tests.support.report_worlds import DEGENERATE, HOSTILE
from transforms.aggregates.importance.differences import bennett, differences
from transforms.errors import UserError
from transforms.statistics.multiple_testing import benjamini_hochberg

WORLDS = ("small", "many_targets", "large", "hostile", *DEGENERATE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def small(place: Path) -> Path:
    return made(place, "small")


def made(place: Path, name: str) -> Path:
    """A world's run, written once."""
    folder = place / name
    if not folder.exists():
        if name in DEGENERATE:
            report_worlds.degenerate(folder, name)
        else:
            getattr(report_worlds, name)(folder)
    return folder


@functools.cache
def sections_of(folder: Path) -> dict[str, Section]:
    _, _, found, _ = all_sections(ReportData.load(load_run(folder)))
    return {section.id: section for section in found}


# -- every world ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_a_report_of_every_world(place: Path, name: str) -> None:
    folder = made(place, name)
    began = time.monotonic()
    path = write_report(folder)
    assert time.monotonic() - began < 20
    html = Path(path).read_text(encoding="utf-8")
    assert path == str(folder / "report.html")
    assert len(html.encode()) < 6_000_000
    assert report_is_current(str(folder))
    found = sections_of(folder)
    assert {"summary", "trust", "importance", "explained", "glossary"} <= set(found)
    for section in found.values():
        assert section.blocks, section.id
        assert section.lead
    # Numbers that are none, and Python's own words for things, are nothing to show.
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    assert not re.search(r"\b(nan|None|NaN|inf|dtype|<NA>)\b", text)


@pytest.mark.parametrize("name", ["small", "hostile"])
def test_no_field_is_named_by_the_data(place: Path, name: str) -> None:
    for figure in figures(sections_of(made(place, name)).values()).values():
        assert figure.description
        spec = page.plain_json(figure.spec) or {}
        assert not [field for field in fields_of(spec) if not re.fullmatch(r"[A-Za-z0-9_]+", field)]


def fields_of(spec: Any) -> list[str]:
    if isinstance(spec, dict):
        own = [spec["field"]] if isinstance(spec.get("field"), str) else []
        return own + [field for key, item in spec.items() if key != "data" for field in fields_of(item)]
    return [field for item in spec for field in fields_of(item)] if isinstance(spec, list) else []


# -- numbers -------------------------------------------------------------------------------------------------


def test_charts_and_tables_are_the_run_s(small: Path) -> None:
    frame = pd.read_parquet(small / "importance.parquet")
    overall = frame[frame["slice"] == ""].sort_values("rank")
    found = figures(sections_of(small).values())
    bars = found["importance-0"]
    drawn = pd.DataFrame(bars.spec["data"]["values"])
    for column, field in (("mean_abs", "v"), ("mean_abs_low", "lo"), ("mean_abs_high", "hi")):
        np.testing.assert_allclose(drawn[field], overall[column], rtol=1e-4)
    table = pd.DataFrame(bars.table.rows, columns=bars.table.header)
    assert table["Column"].tolist() == overall["feature"].tolist()
    assert table["Feature"].tolist()[:3] == ["Scheduled hour", "carrier", "Distance, miles"]
    np.testing.assert_array_equal(table["Mean |φ|"], overall["mean_abs"])
    np.testing.assert_allclose(table["Share, %"] / 100, overall["share"], rtol=1e-12)
    assert "ranks-0" not in found  # there is nothing to see: each is certain
    spread = pd.DataFrame(found["distribution-0"].spec["data"]["values"])
    for name in ("min", "p05", "p25", "p50", "p75", "p95", "max", "mean"):
        np.testing.assert_allclose(spread[name].astype(float), overall[name], rtol=1e-3)
    heat = pd.DataFrame(found["slices-0-1-share"].spec["data"]["values"])
    cell = frame[(frame["slice"] == "carrier=EV") & (frame["feature"] == "distance")]["share"].item()
    at = heat[heat["s"].str.contains("EV") & heat["f"].str.contains("Distance")]["v"].item()
    assert at == pytest.approx(cell, rel=1e-3)


def test_dots_are_the_sample_s(small: Path) -> None:
    sample = pq.read_table(small / "report" / "sample.parquet").to_pylist()
    drawn = [row for row in sample if row["kind"] == "sample"]
    found = figures(sections_of(small).values())
    dots = pd.DataFrame(found["beeswarm-0"].spec["data"]["values"])
    ours = dots[dots["f"].str.contains("Visibility")]
    expected = [row["attribution"]["visib"] for row in drawn[: len(ours)]]
    np.testing.assert_allclose(ours["x"], expected, rtol=1e-3, atol=1e-12)
    values = [row["feature"]["visib"] for row in drawn[: len(ours)]]
    assert ours["c"].iloc[int(np.argmin(values))] == 0
    assert ours["c"].iloc[int(np.argmax(values))] == 1
    assert (dots[dots["f"].str.contains("carrier")]["c"] < 0).all()  # no order, no colour
    scatter = pd.DataFrame(found["dependence-0-1"].spec["data"]["values"])
    np.testing.assert_allclose(scatter["v"], [row["feature"]["dep_hour"] for row in drawn[: len(scatter)]])
    assert "month" in found["dependence-0-1"].note  # its modulator
    strips = found["dependence-0-2"].table.rows
    means = {}
    for row in drawn[: len(scatter)]:
        means.setdefault(row["feature"]["carrier"], []).append(row["attribution"]["carrier"])
    for name, mean, count in strips:
        assert mean == pytest.approx(np.mean(means[name]), rel=1e-5)
        assert count == len(means[name])


def test_many_features_are_cut_and_said(place: Path) -> None:
    found = figures(sections_of(made(place, "large")).values())
    bars = found["importance-0"]
    assert len(bars.spec["data"]["values"]) == 25
    assert len(bars.table.rows) == 500
    assert "475" in bars.note
    shown = [figure for name, figure in found.items() if re.fullmatch(r"slices-0-\d+-share", name)]
    assert sum(len(figure.table.rows) for figure in shown) == 200


def test_targets_are_chosen_from(place: Path) -> None:
    found = sections_of(made(place, "many_targets"))
    choice = next(block for block in found["importance"].blocks if isinstance(block, Choice))
    assert choice.label == "Target"
    assert len(choice.options) == 12
    frame = pd.read_parquet(place / "many_targets" / "importance.parquet")
    for target in (0, 7):
        rows = frame[(frame["slice"] == "") & (frame["target"] == target)].sort_values("rank")
        table = figures(found.values())[f"importance-{target}"].table
        assert [row[1] for row in table.rows] == rows["feature"].tolist()
    ranks = pd.DataFrame(figures(found.values())["ranks-7"].spec["data"]["values"])
    assert (
        ranks[["r", "lo", "hi"]].to_numpy().tolist()
        == rows[["rank", "rank_low", "rank_high"]].to_numpy().tolist()
    )
    assert "15 targets" in prose(found["importance"].blocks)[-1].text


# -- words ---------------------------------------------------------------------------------------------------


def test_what_the_model_does_is_said(small: Path) -> None:
    lead, _, _, _ = all_sections(ReportData.load(load_run(small)))
    assert "3,000 rows" in lead
    assert "Scheduled hour" in lead
    text = " ".join(block.text for block in prose(sections_of(small)["summary"].blocks))
    assert re.match(r"The score is (the (logit|probability) of|the number that the model gives for) ", text)
    text = re.sub("[\u2068\u2069]", "", text)
    assert "The higher Scheduled hour, the higher the score." in text
    assert "The higher “Distance, miles”, the lower the score." in text
    assert "Of carrier, EV raises the score most and HA lowers it most." in text
    assert "The strongest interaction: the effect of Scheduled hour depends on month." in text
    assert "carrier=HA: there carrier moves the score" in text
    assert "77 % of all movement" in text


def test_trust_is_in_words(small: Path, place: Path) -> None:
    def kinds(folder: Path) -> list[tuple[str, str]]:
        return [(block.kind, block.text) for block in prose(sections_of(folder)["trust"].blocks)]

    said = kinds(small)
    assert [kind for kind, _ in said] == ["caution", "good", "good"]
    assert "75 of 3,075 rows (2.4 %)" in said[0][1]
    assert ("plain", False) not in {(kind, bool(text)) for kind, text in said}
    reasons = next(block for block in sections_of(small)["trust"].blocks if isinstance(block, Table))
    assert [row[:2] for row in reasons.rows] == [
        ["explain: is null", 70],
        ["column distance: not a finite number", 5],
    ]
    bad = report_worlds.degenerate(place / "bad", "one feature")
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["quality"] |= {"exceeded": ["too much"], "limited_rows": 3}
    manifest["quality"]["convergence_delta"]["relative_p99"] = 0.2
    manifest["warnings"] = ["beware"]
    (bad / "manifest.json").write_text(json.dumps(manifest))
    said = kinds(bad)
    assert [kind for kind, _ in said[:2]] == ["bad", "bad"]
    assert ("caution", "beware") in said
    assert any(kind == "caution" and text.startswith("3 rows stayed") for kind, text in said)
    assert any("does not guarantee" in text for _, text in kinds(made(place, "no sum")))


def test_a_model_that_does_nothing(place: Path) -> None:
    found = sections_of(made(place, "constant"))
    assert "Nothing" in prose(found["summary"].blocks)[0].text
    assert not {"beeswarm", "dependence", "distribution", "interactions"} & set(found)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (1234, "1,234"), (-3, "−3"), (0.0, "0"), (1.0, "1"), (-0.5, "−0.5"), (1234.5678, "1,235"),
        (0.00012345, "0.0001234"), (1.2e-7, "1.2×10⁻⁷"), (-3e18, "−3×10¹⁸"), (99999.6, "100,000"),
        (float("nan"), "–"), (None, "–"), (float("inf"), "∞"), (9.9999e-5, "0.0001"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert words.number(value) == shown


def test_names_in_charts_are_short_and_each_its_own() -> None:
    names = words.chart_names(HOSTILE, {})
    assert len(set(names.values())) == len(HOSTILE)
    assert max(map(len, names.values())) <= 50
    for name in names.values():
        assert name[0] == "\u2068"
        assert name[-1] == "\u2069"
        assert not set("\u202e\n\t") & set(name)
        assert name[1:-1].strip()


@pytest.mark.parametrize(
    ("label", "slicing"),
    [
        ("carrier=UA", "carrier"), ("a=b=c", "a"), ("age >= 65", "age >= 65"), ("x == 1", "x == 1"),
        ("age=[18, 35)", "age"), ("carrier=UA & age >= 65", "carrier & age >= 65"), ("=", "="),
    ],
)  # fmt: skip
def test_the_slicing_of_a_slice(label: str, slicing: str) -> None:
    slicings = [
        "carrier",
        "age >= 65",
        "x == 1",
        {"column": "age", "bins": [18, 35]},
        ["carrier", "age >= 65"],
    ]
    assert slicing_of(label, slicings) == slicing
    assert slicing_of("brand=Johnson & Johnson", ["brand"]) == "brand"


# -- slices that differ --------------------------------------------------------------------------------------


def moments(values: np.ndarray, slice_: str, weights: np.ndarray | None = None) -> pd.DataFrame:
    names = [f"f{at}" for at in range(values.shape[1])]
    mean = np.average(values, axis=0, weights=weights)
    statistics = {
        "mean": mean,
        "mean_abs": np.average(np.abs(values), axis=0, weights=weights),
        "std": np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights)),
        "min": values.min(axis=0),
        "max": values.max(axis=0),
    }
    if weights is not None:
        statistics |= {"weight": weights.sum(), "effective_rows": weights.sum() ** 2 / (weights**2).sum()}
    return pd.DataFrame({"slice": slice_, "feature": names, "rows": len(values), **statistics})


def test_the_rest_of_weighted_rows_is_what_is_left() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 3)) * [1, 2, 3] + [0, 1, -1]
    weights, inside = rng.integers(0, 5, 500).astype(float), np.arange(500) < 120
    parts = [(values[rows], weights[rows]) for rows in (inside, ~inside)]
    found = differences(moments(values, "", weights), moments(values[inside], "s=1", weights[inside]))
    found = found.set_index(["kind", "feature"])
    for kind, of in (("abs", np.abs), ("mean", np.array)):
        got, errors = found.loc[kind], []
        for column, (part, weight) in zip(("here", "rest"), parts, strict=True):
            mean = np.average(of(part), axis=0, weights=weight)
            np.testing.assert_allclose(got[column], mean)
            variance = np.average((of(part) - mean) ** 2, axis=0, weights=weight)
            errors.append(variance * (weight**2).sum() / weight.sum() ** 2)
        np.testing.assert_allclose((got["high"] - got["low"]) / 2, 1.959964 * np.sqrt(sum(errors)))
    nothing = np.where(inside, weights, 0.0)
    assert not len(differences(moments(values, "", nothing), moments(values[inside], "s", nothing[inside])))


def test_the_rest_is_what_is_left() -> None:
    """Worked out from the aggregates, equal to the rows themselves."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 3)) * [1, 2, 3] + [0, 1, -1]
    inside = np.arange(500) < 120
    found = differences(moments(values, ""), moments(values[inside], "s=1")).set_index(["kind", "feature"])
    for kind, part in (("abs", np.abs(values)), ("mean", values)):
        here, rest = part[inside], part[~inside]
        got = found.loc[kind]
        np.testing.assert_allclose(got["here"], here.mean(axis=0))
        np.testing.assert_allclose(got["rest"], rest.mean(axis=0))
        error = np.sqrt(here.var(axis=0) / len(here) + rest.var(axis=0) / len(rest))
        np.testing.assert_allclose((got["high"] - got["low"]) / 2, 1.959964 * error)
        np.testing.assert_allclose(got["effect"], (here.mean(axis=0) - rest.mean(axis=0)) / part.std(axis=0))


def test_chance_finds_no_slice_and_a_difference_is_found() -> None:
    """Hundreds of small slices of a skewed φ: normal p-values find dozens of differences here."""
    rng = np.random.default_rng(1)
    values = rng.lognormal(size=(100 * 60, 20))
    groups = [slice(at * 60, (at + 1) * 60) for at in range(100)]
    parts = pd.concat([moments(values[group], f"s={at}") for at, group in enumerate(groups)])
    found = differences(moments(values, ""), parts)
    assert len(found) == 2 * 100 * 20
    assert not found["significant"].any()
    values[:1500, 0] *= 2
    found = differences(moments(values, ""), moments(values[:1500], "big"))
    assert found[found["significant"]]["feature"].unique().tolist() == ["f0"]


def test_small_slices_are_compared_with_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(100, 1))
    parts = pd.concat([moments(values[:29], "few"), moments(values[:80], "most")])
    assert not len(differences(moments(values, ""), parts))


def test_the_bound_holds() -> None:
    """Draws without replacement from a population with one giant in it: seldom beyond what is said."""
    rng = np.random.default_rng(2)
    population = np.concatenate([rng.exponential(size=399), [60.0]])
    mean, variance = population.mean(), population.var()
    drawn = np.array([rng.choice(population, 40, replace=False).mean() for _ in range(4000)]) - mean
    for deviation in (-0.3, -0.15, 0.5, 1.5):
        beyond = (drawn >= deviation if deviation > 0 else drawn <= deviation).mean()
        (bound,) = bennett(
            np.array([deviation]),
            np.array([40.0]),
            np.array([variance]),
            np.array([mean - population.min()]),
            np.array([population.max() - mean]),
        )
        assert beyond <= bound / 2


def test_q_values() -> None:
    """The example of Benjamini and Hochberg 1995, section 4.1: four of fifteen are found at 5 %."""
    first = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p = np.array([*first, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0])
    order = np.random.default_rng(0).permutation(len(p))
    found = benjamini_hochberg(p[order])
    assert sorted(p[order][found <= 0.05]) == p[:4].tolist()


# -- swarms --------------------------------------------------------------------------------------------------


def test_a_swarm_is_wide_where_it_is_dense() -> None:
    values = np.concatenate([np.zeros(50), [1.0], np.full(10, 2.0)])
    offsets = swarm(values, (0.0, 2.0))
    assert np.ptp(offsets[:50]) > np.ptp(offsets[51:]) > 0
    assert offsets[50] == 0
    assert np.abs(offsets).max() <= 1
    assert len(np.unique(offsets[:50])) == 50
    assert abs(offsets[:50].mean()) < 1e-9
    np.testing.assert_array_equal(swarm(np.zeros(3), (0.0, 0.0)).round(6).shape, (3,))


def test_places_among_others() -> None:
    found = places(np.array([3.0, 1.0, 1.0, np.nan, 100.0]))
    np.testing.assert_allclose(found[[1, 2]], 0)
    assert found[4] == 1
    assert 0 < found[0] < 1
    assert np.isnan(found[3])
    np.testing.assert_array_equal(places(np.array([5.0, 5.0])), [0.5, 0.5])


# -- the page ------------------------------------------------------------------------------------------------


def shown(blocks: list[Block]) -> str:
    return page.render("t", "l", [("a", "b")], [Section("s", "S", "", blocks)], meta={"m": '"<'})


def test_json_ends_no_script() -> None:
    for text in ("</script>", "<!--<script>", "&amp;", "\u2028", "\ud7ff"):
        written = page.to_json({"a": text})
        assert not re.search("[<>&\u2028]", written)
        assert json.loads(written) == {"a": text}
    assert page.to_json([float("nan"), np.float64(1.5), (np.int64(2),)]) == "[null,1.5,[2]]"


def test_names_of_figures_are_checked() -> None:
    one = Figure("a", "A", "d", {"mark": "bar", "data": {"values": []}})
    with pytest.raises(ValueError, match="named twice"):
        shown([one, Grid([one])])
    with pytest.raises(ValueError, match="'a b'"):
        shown([Figure("a b", "A", "d")])


def test_the_policy_allows_its_own_scripts_alone() -> None:
    html = shown([])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe-eval" not in policy
    assert not re.search(r"script-src[^;]*unsafe-inline", policy)
    assert '<meta name="m" content="&#34;&lt;">' in html


# -- the verb ------------------------------------------------------------------------------------------------


def test_the_verb(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(small)]) == 0
    assert capsys.readouterr().out.split() == [str(small / "report.html")]
    assert cli.run(["report", str(small), "--json", "--figures", str(tmp_path / "svg")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == str(small / "report.html")
    names = [Path(path).name for path in found["figures"]]
    assert names[:3] == ["importance-0.svg", "beeswarm-0.svg", "example-0-largest.svg"]
    for path in found["figures"]:
        assert Path(path).read_text(encoding="utf-8").startswith("<svg")
    one = str(report_worlds.degenerate(tmp_path / "run", "one feature"))
    assert cli.run(["report", one, "--figures", str(tmp_path / "png"), "--format", "png"]) == 0
    for path in capsys.readouterr().out.split()[1:]:
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_a_report_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    with pytest.raises(UserError, match="not a run directory"):
        report_is_current(tmp_path)


def test_a_report_of_another_run_is_not_current(place: Path) -> None:
    folder = report_worlds.degenerate(place / "other", "one feature")
    assert not report_is_current(load_run(folder))
    write_report(folder)
    assert report_is_current(load_run(folder))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "run_id": "fedcba9876543210"}))
    assert not report_is_current(load_run(folder))


def test_labels_are_looked_up(small: Path) -> None:
    view = View(ReportData.load(load_run(small)))
    assert view.labels["dep_hour"] == "Scheduled hour"
    assert view.labels["carrier"] == "carrier"
    assert view.labelled


def test_what_is_of_few_rows_is_not_told(small: Path, place: Path) -> None:
    """Neither as a category, nor as the rest of a slice."""
    private = place / "private"
    shutil.copytree(small, private)
    manifest = json.loads((small / "manifest.json").read_text())
    sample = pq.read_table(small / "report" / "sample.parquet").to_pandas()
    drawn = sample[sample["kind"] == "sample"]["feature"].map(lambda row: row["carrier"]).value_counts()
    few = drawn.index[-1]
    manifest["config"]["privacy"] = {"min_rows": int(drawn.iloc[-1]) + 1}
    (private / "manifest.json").write_text(json.dumps(manifest))
    told = []
    for folder in (small, private):
        figures = page.figures([sections_of(folder)["dependence"]])
        told.append(repr([(figure.description, figure.table) for figure in figures]))
    assert [f"'{few}'" in text for text in told] == [True, False]
    values = np.random.default_rng(0).normal(size=(500, 1))
    part = moments(values[:400], "s=1")
    assert len(differences(moments(values, ""), part, 100))
    assert not len(differences(moments(values, ""), part, 101))


def test_a_feature_in_slices_of_its_own_values_is_no_news(small: Path) -> None:
    manifest = json.loads((small / "manifest.json").read_text())
    manifest["config"]["input"] |= {
        "slices": ["carrier", {"column": "hour", "bins": 3}, ["carrier", "rain > 0"]],
        "groups": {"weather": ["rain", "wind"]},
    }
    manifest["slices"] = [
        {"name": "carrier", "columns": ["carrier"]},
        {"name": "hour", "columns": ["hour"]},
        {"name": "carrier & rain > 0", "columns": ["carrier", "rain"]},
    ]
    pairs = [
        ("carrier=UA", "carrier", True),
        ("carrier=UA", "hour", False),
        ("hour=[5, 9)", "hour", True),
        ("carrier=UA & rain > 0", "carrier", True),
        ("carrier=UA & rain > 0", "weather", True),
        ("carrier=UA & rain > 0", "hour", False),
    ]
    found = pd.DataFrame(pairs, columns=["slice", "feature", "itself"])
    assert by_itself(found, manifest).tolist() == found["itself"].tolist()


def test_figures_are_drawn_whatever_the_length_of_a_name(small: Path) -> None:
    """Vega cuts names at a number of pixels, and may do so between the halves of a character."""
    figure = next(page.figures([sections_of(small)["slices"]]))
    first = figure.spec["data"]["values"][0]["f"]
    for length in range(12):
        spec = copy.deepcopy(figure.spec)
        for cell in spec["data"]["values"]:
            cell["f"] = "a" * length + "😀" * 40 if cell["f"] == first else cell["f"]
        assert b"<svg" in draw(spec)
