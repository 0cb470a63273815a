"""What changed between two runs: against changes that were made on purpose, numpy and pandas."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import commands as cli
from pipeline.compare import Comparison, compare, to_json
from pipeline.compare.changes import changes
from pipeline.compare.page import sections, write_page
from pipeline.compare.sentences import headline
from pipeline.report.blocks import Choice, Prose
from pipeline.report.page.render import figures
from tests.support import worlds
from tests.support.run_worlds import importance_of, manifest, write_run
from transforms.errors import UserError
from transforms.statistics.multiple_testing import benjamini_hochberg

FEATURES = ("distance", "carrier", "humid", "temp")


def phi(seed: int, rows: int = 2000, **scales: float) -> dict[str, np.ndarray]:
    """Normal φ of mean |φ| 0.8, 0.4, 0.2 and 0.1, times a scale by feature."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=rows) * scales.get(name, 1.0) * 0.5**at for at, name in enumerate(FEATURES)}


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    """Makes a run of a table; its folder is made anew."""
    made = iter("abcdefghij")
    return lambda table, **changed: write_run(tmp_path / next(made), table, **changed)


def other_model(score: str = "logit") -> dict[str, Any]:
    return {
        "path": "next.keras",
        "digest": "d2" * 16,
        "outputs": [{"name": "late", "shape": [1], "score": score}],
    }


def row(found: Comparison, feature: str) -> dict[str, Any]:
    return found.features[found.features["feature"] == feature].to_dict("records")[0]


# -- importance ----------------------------------------------------------------------------------------------


def test_a_run_and_itself(runs: Any) -> None:
    run = runs(importance_of(phi(0)))
    found = compare(run, run)
    assert found.setting.differences == ()
    assert headline(found) == "The same model, data, method and baseline. Importance is the same in both."
    assert not found.features["significant"].any()
    assert (found.features[["change", "size", "shift", "share_change", "rank_change"]] == 0).all(axis=None)
    assert found.significant.empty


def test_what_changed_comes_first_and_is_right(runs: Any) -> None:
    before, after = importance_of(phi(0)), importance_of(phi(1, carrier=2.0, temp=1.3))
    found = compare(runs(before), runs(after, model=other_model()))
    assert list(found.features["feature"][:2]) == ["carrier", "temp"]
    assert list(found.significant["feature"]) == ["carrier", "temp"]
    # Against the two tables, by pandas.
    a, b = before.set_index("feature"), after.set_index("feature")
    mine = found.features.set_index("feature")
    for name in ("mean_abs", "share", "rank"):
        change = "change" if name == "mean_abs" else f"{name}_change"
        pd.testing.assert_series_equal(
            mine[change].astype(float), (b[name] - a[name]).loc[mine.index].astype(float), check_names=False
        )
    assert mine.loc["carrier", "rank_a"] == 2
    assert mine.loc["carrier", "rank_b"] in (1, 2)
    total = (a["mean_abs"].sum() + b["mean_abs"].sum()) / 2
    size = (b["mean_abs"] - a["mean_abs"]).abs() / total
    pd.testing.assert_series_equal(mine["size"], size.loc[mine.index], check_names=False)
    said = headline(found)
    assert said.startswith(
        "Another model, the same data, method and baseline. The importance of 2 of 4 features "
    )
    share = f"{a.loc['carrier', 'share']:.0%}".replace("%", " %")
    assert f"most of all that of carrier: {share} of the total before" in said


def test_the_interval_of_a_change_covers_it_and_no_change_is_rarely_called_one() -> None:
    """Of 60 pairs of runs of one world 5 % of p are below 0.05, and intervals cover what was doubled."""
    below, covered, called = [], [], 0
    for seed in range(60):
        tables = [importance_of(phi(2 * seed)), importance_of(phi(2 * seed + 1, carrier=2.0))]
        found = changes(*tables, {"late": "late"}, {"late": True}, {}).set_index("feature")
        same = found.loc[["distance", "humid", "temp"]]
        below += (same["p"] < 0.05).tolist()
        called += int(same["significant"].sum())
        carrier = found.loc["carrier"]
        truth = 0.5 * np.sqrt(2 / np.pi)
        covered.append(carrier["low"] <= truth <= carrier["high"])
        assert carrier["significant"]
    assert 0.01 <= np.mean(below) <= 0.11
    assert np.mean(covered) >= 0.88
    assert called / 180 <= 0.1


def test_benjamini_and_hochberg() -> None:
    """The example of their paper of 1995: fifteen p, of which four are rejected at 5 %."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719]
    p += [0.6528, 0.7590, 1.0000]
    turned = np.random.default_rng(0).permutation(15)
    adjusted = benjamini_hochberg(np.array(p)[turned])
    assert set(np.array(p)[turned][adjusted <= 0.05]) == set(p[:4])
    assert adjusted[turned.tolist().index(3)] == pytest.approx(0.0095 * 15 / 4)
    assert (adjusted >= np.array(p)[turned]).all()
    assert len(benjamini_hochberg(np.array([]))) == 0
    # The second of these is no less sure than the third.
    assert benjamini_hochberg(np.array([0.01, 0.04, 0.041])) == pytest.approx([0.03, 0.041, 0.041])


def test_direction(runs: Any) -> None:
    before, after = phi(0), phi(1)
    for values, sign in ((before, 1), (after, -1)):
        values["humid"] = values["humid"] + sign * 0.1
        values["temp"] = values["temp"] + sign * 1e-4  # of another sign, within chance
    found = compare(runs(importance_of(before)), runs(importance_of(after)))
    assert list(found.features[found.features["flip"]]["feature"]) == ["humid"]
    assert "The mean effect of 1 feature has changed sign." in headline(found)
    (direction,) = [each for each in sections(found) if each.id == "direction"]
    (said,) = direction.blocks
    assert isinstance(said, Prose)
    assert said.text.startswith("humid raised the score on average and now lowers it: 0.1")


def test_distribution(runs: Any) -> None:
    """φ that only changes its sign keeps its importance; the mean distance of quantiles is known."""
    before, after = phi(0), phi(0)
    before["humid"] = np.full(2000, 0.25)
    after["humid"] = np.full(2000, -0.25)
    found = compare(runs(importance_of(before)), runs(importance_of(after)))
    humid = row(found, "humid")
    assert humid["change"] == humid["size"] == 0
    assert humid["shift"] == pytest.approx(0.5 / 0.25)
    assert row(found, "temp")["shift"] == 0
    a, b = np.random.default_rng(3).gamma(1, 1, (2, 100_000)) + np.array([[0.0], [0.3]])
    found = compare(runs(importance_of({"a": a, "b": b})), runs(importance_of({"a": b, "b": b})))
    exact = np.abs(np.sort(a) - np.sort(b)).mean() / ((a.mean() + b.mean()) / 2)
    assert row(found, "a")["shift"] == pytest.approx(exact, rel=0.05)
    # Wider, which tells what each quantile stands for.
    found = compare(runs(importance_of({"a": a})), runs(importance_of({"a": 1.5 * a})))
    assert row(found, "a")["shift"] == pytest.approx(0.5 / 1.25, rel=0.04)


def test_features_that_came_and_went(runs: Any) -> None:
    before, after = phi(0), phi(1)
    after["wind"] = after.pop("humid")
    found = compare(runs(importance_of(before)), runs(importance_of(after)))
    assert (row(found, "humid")["status"], row(found, "wind")["status"]) == ("gone", "new")
    assert row(found, "wind")["share_change"] == pytest.approx(row(found, "wind")["share_b"])
    assert "1 feature came and 1 feature went" in headline(found)
    assert [(d.subject, d.before, d.after) for d in found.setting.differences] == [
        ("features", "humid", "wind")
    ]
    assert set(found.significant["feature"]) == {"humid", "wind"}


def test_labels_stand_for_names(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = manifest(list(FEATURES), 2000)["config"] | {"features": {"carrier": {"label": "Airline"}}}
    first = runs(importance_of(phi(0)))
    second = runs(importance_of(phi(1, carrier=2.0)), config=config)
    found = compare(first, second)
    assert "most of all that of Airline: " in headline(found)
    assert to_json(found)["features"][0]["feature"] == "carrier"
    (figure, *_) = figures(sections(found))
    assert figure.table is not None
    assert figure.table.rows[0][0] == "Airline"
    assert figure.spec is not None
    assert "Airline" in figure.spec["data"]["values"][0]["name"]
    assert cli.run(["compare", first.path, second.path]) == 0
    assert "\n*  Airline " in capsys.readouterr().out


# -- targets and units ---------------------------------------------------------------------------------------


def test_other_units_compare_shares_and_ranks(runs: Any) -> None:
    before = importance_of(phi(0))
    after = importance_of({name: 0.01 * value for name, value in phi(1, humid=8.0).items()})
    found = compare(runs(before), runs(after, model=other_model("probability")))
    assert found.units == {"late": ("logit", "probability")}
    assert found.features[["change", "low", "high", "p", "q", "shift"]].isna().all(axis=None)
    assert "φ is in units of the logit in the first run and of the probability in the second" in headline(
        found
    )
    humid = row(found, "humid")
    assert humid["size"] == pytest.approx(humid["share_b"] - humid["share_a"])
    # 0.8, 0.4, 0.2, 0.1 became 0.8, 0.4, 1.6, 0.1: three ranks changed.
    assert set(found.significant["feature"]) == {"humid", "distance", "carrier"}


def test_targets_go_by_name_or_by_place(runs: Any) -> None:
    def table(*names: str) -> pd.DataFrame:
        parts = [importance_of(phi(at), target=at, name=name) for at, name in enumerate(names)]
        return pd.concat(parts, ignore_index=True)

    def outputs(count: int) -> dict[str, Any]:
        return {**other_model(), "outputs": [{"name": "x", "shape": [count], "score": "logit"}]}

    two, turned = (
        runs(table("late", "early"), model=outputs(2)),
        runs(table("early", "late"), model=outputs(2)),
    )
    found = compare(two, turned)
    assert found.targets == {"late": "late", "early": "early"}
    assert {row["target_name"] for row in found.features.to_dict("records")} == {"late", "early"}
    first = found.features[(found.features["target_name"] == "late") & (found.features["feature"] == "temp")]
    assert first["mean_abs_b"].item() == importance_of(phi(1)).set_index("feature").loc["temp", "mean_abs"]
    assert compare(runs(table("dense_3")), runs(table("dense_7"))).targets == {"dense_3": "dense_7"}
    found = compare(two, runs(table("late")))
    assert (found.only_first, found.only_second) == (("early",), ())
    found = compare(two, runs(table("other")))
    assert found.incomparable == "the runs have no target in common"


def test_nothing_in_common_is_said_in_a_line(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first = runs(importance_of({"a": phi(0)["temp"]}))
    second = runs(importance_of({"b": phi(0)["temp"]}))
    assert cli.run(["compare", first.path, second.path]) == 0
    out = capsys.readouterr().out
    assert "Nothing can be compared: the runs have no feature in common." in " ".join(out.split())
    assert [section.id for section in sections(compare(first, second))] == ["setting", "quality"]


# -- setting -------------------------------------------------------------------------------------------------


def test_in_what_runs_differ(runs: Any) -> None:
    table = importance_of(phi(0))
    plain = manifest(list(FEATURES), 2000)
    config = plain["config"]
    first = runs(table)
    method = {**config, "method": {"name": "integrated_gradients", "n_steps": 20}}
    elsewhere = {**config, "output": {**config["output"], "path": "elsewhere"}, "compute": {"workers": 9}}
    sliced = {**config, "input": {**config["input"], "slices": ["carrier"]}}
    more = [*plain["inputs"], {"file": "data/2.parquet", "rows": 5, "bytes": 9, "digest": "i2" * 16}]
    counts = {"rows_read": 2005, "rows_attributed": 2000, "rows_rejected": 5, "attributions": 2000}
    cases: list[tuple[dict[str, Any], str, list[tuple[str, str]]]] = [
        ({"config": elsewhere}, "the same model, data, method and baseline", []),
        ({"config": method}, "another method, the same model, data and baseline", [("method", "n_steps")]),
        ({"config": sliced}, "another config, the same model", [("config", "input.slices")]),
        ({"inputs": more, "counts": counts}, "other data, the same model", [("data", "")]),
        ({"baseline": {**plain["baseline"], "digest": "b2"}}, "another baseline", [("baseline", "")]),
        (
            {"versions": {"python": "3.13.0", "attribeam": "0.1.0"}},
            "the same model",
            [("versions", "python")],
        ),
    ]
    for changed, summary, differences in cases:
        found = compare(first, runs(table, **changed)).setting
        assert found.summary.startswith(summary), found
        assert [(each.subject, each.name) for each in found.differences] == differences
    data = compare(first, runs(table, inputs=more, counts=counts))
    assert data.setting.differences[0].after == "2 files, 2,005 rows (1 file in both)"


def test_a_moved_file_of_the_same_content_is_the_same_data(runs: Any) -> None:
    table = importance_of(phi(0))
    moved = [{"file": "elsewhere/1.parquet", "rows": 2000, "bytes": 100, "digest": "i1" * 16}]
    assert compare(runs(table), runs(table, inputs=moved)).setting.differences == ()


def test_scores_and_quality(runs: Any) -> None:
    rng = np.random.default_rng(0)

    def sample(mean: float) -> pa.Table:
        score = np.append(rng.normal(mean, 1, 400), 1e6)
        return pa.table(
            {
                "kind": ["sample"] * 400 + ["largest"],
                "target": pa.array([0] * 401, pa.int32()),
                "prediction": pa.array(score, pa.float32()),
                "base_value": pa.array(np.full(401, mean / 2), pa.float32()),
            }
        )

    table = importance_of(phi(0))
    tables = [sample(1.0), sample(3.0)]
    found = compare(runs(table, sample=tables[0]), runs(table, sample=tables[1]))
    (scores,) = found.predictions
    drawn = [t["prediction"].to_numpy()[:400].astype(float) for t in tables]
    assert scores.rows == (400, 400)
    assert scores.mean == pytest.approx([each.mean() for each in drawn])
    assert scores.error == pytest.approx([each.std(ddof=1) / 20 for each in drawn])
    assert scores.base == pytest.approx([0.5, 1.5])
    assert compare(runs(table), runs(table, sample=tables[1])).predictions == ()


# -- slices --------------------------------------------------------------------------------------------------


def sliced(seed: int, *names: str, **scales: dict[str, float]) -> pd.DataFrame:
    parts = [importance_of(phi(seed))]
    for at, name in enumerate(names):
        parts.append(
            importance_of(phi(seed + 100 + at, 800, **scales.get(name, {})), slice=f"carrier={name}")
        )
    return pd.concat(parts, ignore_index=True)


def test_slices(runs: Any) -> None:
    before, after = sliced(0, "UA", "AA", "HA"), sliced(1, "UA", "AA", "YX", UA={"temp": 3.0, "humid": 1.5})
    found = compare(runs(before), runs(after))
    assert (found.slices_gone, found.slices_new) == (("carrier=HA",), ("carrier=YX",))
    assert list(found.by_slice["slice"]) == ["carrier=UA", "carrier=AA"]
    assert list(found.by_slice["significant"]) == [True, False]
    assert found.by_slice["feature"].iloc[0] == "temp"
    mine = [t[t["slice"] == "carrier=UA"].set_index("feature")["share"] for t in (before, after)]
    assert found.by_slice["moved"][0] == pytest.approx((mine[1] - mine[0]).abs().sum() / 2)
    assert set(found.slices[found.slices["significant"]]["slice"]) == {"carrier=UA"}
    assert list(found.slices["feature"][:2]) == ["temp", "humid"]
    # All rows and slices are corrected apart.
    p = found.slices["p"].to_numpy()
    np.testing.assert_allclose(found.slices["q"], benjamini_hochberg(p))
    assert not found.features["significant"].any()


# -- what is shown -------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>\x1b[31m\n" + "x" * 500


@pytest.fixture
def changed(runs: Any) -> tuple[Any, Any]:
    before, after = sliced(0, "UA", "AA"), sliced(1, "UA", "AA", UA={"temp": 3.0})
    after.loc[after["feature"] == "carrier", ["mean_abs", "mean_abs_low", "mean_abs_high"]] *= 2
    for table in (before, after):
        table["feature"] = table["feature"].replace({"humid": HOSTILE})
    return runs(before), runs(after, model=other_model())


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_on_a_terminal(
    changed: Any, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.run(["compare", changed[0].path, changed[1].path]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert all(line == line.rstrip() and line.isprintable() for line in lines)
    if columns >= 80:
        assert all(len(line) <= columns or "/" in line for line in lines)
    assert lines[0].startswith("Another model, the same data, method and baseline.")
    (carrier,) = [line for line in lines if re.match(r"\*  carrier ", line)]
    assert re.search(r"\+0\.[34]\d* ± 0\.0\d+ +\d+\.\d% → \d+\.\d%", carrier)
    assert "Slices: 2 of 2 with a clear change" in lines


def test_json(changed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", changed[0].path, changed[1].path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"].startswith("Another model")
    assert told["features"][0]["feature"] == "carrier"
    assert told["features"][0]["significant"] is True
    assert {row["feature"] for row in told["features"]} == {"distance", "carrier", HOSTILE, "temp"}
    assert told["slices"]["compared"][0]["slice"] in ("carrier=UA", "carrier=AA")
    assert told["setting"]["differences"][0]["subject"] == "model"
    assert told["html"] is None


def test_the_page_holds_the_same_numbers(changed: Any, tmp_path: Path) -> None:
    found = compare(*changed)
    path = write_page(found, str(tmp_path / "page.html"))
    html = Path(path).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert len(html) < 2_000_000
    made = {figure.name: figure for figure in figures(sections(found))}
    assert set(made) == {"changes-0", "distribution-0", "slices-0"}
    table = made["changes-0"].table
    assert table is not None
    shown = {r[0]: dict(zip(table.header, r, strict=True)) for r in table.rows}
    assert shown["carrier"]["Change"] == row(found, "carrier")["change"]
    assert shown["carrier"]["Judgement"] == "clear"
    spec = made["changes-0"].spec
    assert spec is not None
    points = [point for point in spec["data"]["values"] if "carrier" in point["name"]]
    assert {(p["run"], p["value"]) for p in points} == {
        ("A", row(found, "carrier")["mean_abs_a"]),
        ("B", row(found, "carrier")["mean_abs_b"]),
    }


def test_two_hundred_slices_and_five_hundred_features_take_seconds(runs: Any, tmp_path: Path) -> None:
    import time

    rng = np.random.default_rng(0)
    one = importance_of({f"f{i}": rng.normal(size=30) for i in range(500)})
    tables = []
    for _ in range(2):
        parts = [one.assign(slice=name) for name in ["", *(f"day={i}" for i in range(200))]]
        table = pd.concat(parts, ignore_index=True)
        noise = rng.normal(1, 0.1, len(table))
        tables.append(
            table.assign(**{c: table[c] * noise for c in ("mean_abs", "mean_abs_low", "mean_abs_high")})
        )
    first, second = runs(tables[0]), runs(tables[1])
    start = time.process_time()
    found = compare(first, second)
    path = write_page(found, str(tmp_path / "page.html"))
    assert time.process_time() - start < 15  # 3 s here
    assert Path(path).stat().st_size < 6_000_000


def test_very_many_targets(runs: Any, tmp_path: Path) -> None:
    tables = []
    for seed in (0, 1):
        one = importance_of({f"f{i}": values for i, values in enumerate(phi(seed, 50).values())})
        parts = [one.assign(target=at, target_name=f"class {at}") for at in range(300)]
        for at in (7, 130):
            parts[at] = parts[at].assign(mean_abs=parts[at]["mean_abs"] * (1 + seed * at))
        tables.append(pd.concat(parts, ignore_index=True))
    outputs = {**other_model(), "outputs": [{"name": "class", "shape": [300], "score": "logit"}]}
    found = compare(*(runs(table, model=outputs) for table in tables))
    path = write_page(found, str(tmp_path / "page.html"))
    assert Path(path).stat().st_size < 2_000_000
    (importance,) = [each for each in sections(found) if each.id == "importance"]
    choice = importance.blocks[0]
    assert isinstance(choice, Choice)
    assert list(choice.options)[:2] == ["class 130", "class 7"]
    assert len(choice.options) == 40


def test_runs_that_explained_nothing(runs: Any) -> None:
    table = importance_of(phi(0))
    full = runs(table)
    empty = runs(table, counts=dict.fromkeys(manifest([], 0)["counts"], 0))
    pq.write_table(
        pa.Table.from_pandas(table.head(0), preserve_index=False), Path(empty.path) / "importance.parquet"
    )
    for pair, which in (
        ((full, empty), "the second run"),
        ((empty, full), "the first run"),
        ((empty, empty), "either run"),
    ):
        found = compare(*pair)
        assert found.incomparable == f"no row was explained in {which}"
        assert sections(found)
        assert json.dumps(to_json(found), default=str)


# -- what cannot be compared ---------------------------------------------------------------------------------


def test_runs_of_older_versions_are_refused_in_a_line(runs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    table = importance_of(phi(0))
    first, second = runs(table), runs(table)
    path = Path(second.path) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 1}))
    assert cli.run(["compare", first.path, second.path]) == 2
    assert "schema_version 1" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"importance\.parquet: has no column mean_abs_low; explain again"):
        compare(first, runs(table.drop(columns="mean_abs_low")))
    assert cli.run(["compare", first.path, str(path.parent / "gone")]) == 2
    assert cli.run(["compare", first.path]) == 2
    assert "SECOND: is missing" in capsys.readouterr().err


def test_a_single_row_is_no_evidence(runs: Any) -> None:
    tables = [importance_of({name: values[:1] for name, values in phi(seed).items()}) for seed in range(2)]
    found = compare(*(runs(table) for table in tables))
    assert not found.features["significant"].any()
    assert found.features["p"].isna().all()
    assert "No change" in headline(found)


# -- real runs -----------------------------------------------------------------------------------------------

MODELS = """
def first(rows):
    return 2 * rows["a"] + rows["b"]


def second(rows):
    return 2 * rows["a"] - 3 * rows["b"]
"""


def test_runs_that_were_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=400) for name in ("a", "b", "c")}
    pq.write_table(pa.table({**columns, "kind": rng.choice(["x", "y"], 400)}), tmp_path / "rows.parquet")
    (tmp_path / "compared_models.py").write_text(MODELS, encoding="utf-8")
    made = {}
    for name in ("first", "second"):
        config = worlds.write_config(
            tmp_path / f"{name}.yaml",
            model={"path": f"python: compared_models:{name}"},
            input={"files": "rows.parquet", "features": list(columns), "slices": ["kind"]},
            method={"name": "exact_shap"},
            baseline={"kind": "zeros"},
            output={"path": f"runs/{name}"},
        )
        made[name] = worlds.explain(config, tmp_path / "runs" / name)
    sys.modules.pop("compared_models", None)
    found = compare(made["first"], made["second"])
    assert found.setting.summary == "another model, the same data, method and baseline"
    assert {each.subject for each in found.setting.differences} == {"model"}
    assert list(found.significant["feature"]) == ["b"]
    b = np.abs(columns["b"].astype(np.float32)).mean()
    assert row(found, "b")["change"] == pytest.approx(2 * b, rel=1e-5)
    # What rounding makes of c, which neither model looks at, is no change.
    assert row(found, "c")["size"] < 1e-12
    assert row(found, "a")["size"] < 1e-6
    assert not found.features["flip"].any()
    assert list(found.by_slice["significant"]) == [True, True]
    (scores,) = found.predictions
    assert scores.rows == (400, 400)
    assert scores.mean[1] == pytest.approx((2 * columns["a"] - 3 * columns["b"]).mean(), abs=1e-5)
    page = tmp_path / "page.html"
    assert cli.run(["compare", made["first"].path, made["second"].path, "--html", str(page)]) == 0
    assert page.stat().st_size > 100_000
    assert f"page           {page}" in capsys.readouterr().out
