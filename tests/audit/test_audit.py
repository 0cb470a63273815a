"""Audits of nights on disk: what is found, what is not, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.audit import Audit, Finding, audit, write_audit
from pipeline.audit.findings import SCHEMA
from pipeline.audit.rules import Rules, default_rules
from pipeline.cli.commands import run as command
from tests.audit.nights_on_disk import NightData, usual_night, write_night, write_nights

NIGHTS = 40


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty usual nights."""
    folder = tmp_path_factory.mktemp("history")
    rng = np.random.default_rng(7)
    write_nights(folder, [usual_night(rng) for _ in range(NIGHTS)])
    return folder


@pytest.fixture
def nights(history: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(history, tmp_path / "runs"))


def tonight(seed: int = 11, rows: int = 400) -> NightData:
    return usual_night(np.random.default_rng(seed), rows)


def audited(folder: Path, data: NightData, rules: Rules | None = None) -> Audit:
    return audit(str(write_night(folder, NIGHTS, data)), rules=rules)


def broken(result: Audit) -> list[Finding]:
    return [finding for finding in result.findings if finding.is_finding]


def test_a_usual_night_passes(nights: Path) -> None:
    result = audited(nights, tonight())
    assert result.status == "pass"
    assert result.verdict is None
    assert len(result.against) == NIGHTS
    assert result.counts["pass"] > 40  # not trivially


def test_nights_without_a_change_rarely_have_a_finding(history: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(23)
    alarms = 0
    for number in range(25):
        run = write_night(tmp_path, NIGHTS + number, usual_night(rng))
        alarms += audit(str(run), against=[f"{history}/*"]).status != "pass"
    assert alarms <= 2  # 0.3 are expected


def test_a_changed_unit_is_named_on_its_first_night(nights: Path) -> None:
    data = tonight()
    heat = data.values["heat"] * 9 / 5 + 32 + 0.03  # °C to °F
    phi = {**data.phi, "heat": 0.05 * (heat - 20) / 5}
    first = broken(audited(nights, replace(data, values={**data.values, "heat": heat}, phi=phi)))[0]
    assert (first.feature, first.verdict, first.status) == ("heat", "inputs", "fail")
    assert first.statistic in ("unseen", "far_outside")
    assert "Temperature" in first.message


def test_a_new_spelling_is_named_on_its_first_night(nights: Path) -> None:
    data = tonight()
    region = np.where(data.values["region"] == "south", "South", data.values["region"])
    first = broken(audited(nights, replace(data, values={**data.values, "region": region})))[0]
    assert (first.feature, first.statistic) == ("region", "unseen")


def test_a_feature_that_became_one_value_is_named_on_its_first_night(nights: Path) -> None:
    data = tonight()
    age = np.full_like(data.values["age"], 45.0)
    phi = {**data.phi, "age": np.full_like(age, -1 / 6)}
    first = broken(audited(nights, replace(data, values={**data.values, "age": age}, phi=phi)))[0]
    assert (first.feature, first.statistic) == ("age", "most_common")


def test_a_change_in_one_slice_alone_is_named_with_the_slice(nights: Path) -> None:
    data = tonight()
    south = data.values["region"] == "south"
    heat = np.where(south, data.values["heat"] * 9 / 5 + 32.01, data.values["heat"])
    result = broken(audited(nights, replace(data, values={**data.values, "heat": heat})))
    assert (result[0].feature, result[0].slice) == ("heat", "region=south")


def test_all_rows_are_named_before_a_slice_that_changed_little_more(nights: Path) -> None:
    data = tonight()
    spared = (data.values["region"] != "south") & (np.arange(400) % 12 == 0)
    heat = np.where(spared, data.values["heat"], data.values["heat"] + 0.01)
    result = broken(audited(nights, replace(data, values={**data.values, "heat": heat})))
    assert {"", "region=south"} <= {finding.slice for finding in result}
    assert (result[0].feature, result[0].slice) == ("heat", "")


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_numbers_far_outside_the_known_range_are_found_on_either_side(nights: Path, shift: float) -> None:
    data = tonight()
    heat = np.where(np.arange(400) % 5 == 0, data.values["heat"] + shift, data.values["heat"])
    result = broken(audited(nights, replace(data, values={**data.values, "heat": heat})))
    assert {(finding.feature, finding.statistic) for finding in result} == {("heat", "far_outside")}


def test_importance_that_grew_tenfold_is_found_without_a_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    write_nights(tmp_path, [replace(usual_night(rng), sample=False) for _ in range(NIGHTS)])
    data = replace(tonight(), sample=False)
    result = audited(tmp_path, replace(data, phi={**data.phi, "age": 10 * data.phi["age"]}))
    first = broken(result)[0]
    assert (first.feature, first.statistic, first.slice) == ("age", "mean_abs", "")
    assert first.effect == pytest.approx(9, rel=0.5)
    assert "tonight's run keeps no sample of rows" in [each.message for each in result.findings]


def test_a_direction_that_turned_is_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(13)

    def with_sign(data: NightData, sign: float) -> NightData:
        return replace(data, phi={**data.phi, "age": sign * (2 + 0.1 * data.phi["age"])})

    write_nights(tmp_path, [with_sign(usual_night(rng), 1.0) for _ in range(NIGHTS)])
    result = audited(tmp_path, with_sign(tonight(), -1.0))
    turned = [finding for finding in broken(result) if finding.rule == "sign"]
    assert {finding.feature for finding in turned} == {"age"}
    assert turned[0].status == "warn"
    assert turned[0].message.startswith("age lowers the score on average, and usually raises it")
    larger = with_sign(tonight(), 1.0)
    larger = replace(larger, phi={**larger.phi, "age": 10 * larger.phi["age"]})
    result = audit(str(write_night(tmp_path, NIGHTS + 1, larger)))
    assert {finding.rule for finding in broken(result)} == {"drift"}  # it has not turned


def test_a_new_model_leaves_nothing_to_compare_and_says_so(nights: Path) -> None:
    result = audited(nights, replace(tonight(), model="sha256:two"))
    reasons = [finding.message for finding in result.findings if finding.status == "skipped"]
    assert any("the model is new tonight" in reason for reason in reasons)
    assert any(finding.statistic == "unseen" for finding in result.findings)  # inputs are still compared


def test_runs_of_another_method_or_baseline_are_left_out_with_the_reason(nights: Path) -> None:
    write_night(nights, NIGHTS + 1, replace(tonight(1), method="deep_shap"))
    write_night(nights, NIGHTS + 2, replace(tonight(2), baseline="sha256:other"))
    damaged = write_night(nights, NIGHTS + 3, tonight(3))
    (damaged / "manifest.json").write_text("{")
    result = audit(str(write_night(nights, NIGHTS + 4, tonight(4))))
    assert sorted(result.left_out.values()) == [
        "is not a manifest",
        "its baseline differs",
        "its method is deep_shap",
    ]


def test_a_damaged_night_is_left_out_and_tonights_own_damage_is_an_error(
    nights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nights / "2026-01-20" / "importance.parquet").write_bytes(b"half")
    result = audited(nights, tonight())
    assert len(result.against) == NIGHTS - 1
    assert next(iter(result.left_out.values())).startswith("is damaged")
    run = write_night(nights, NIGHTS + 1, tonight())
    (run / "importance.parquet").unlink()
    assert command(["audit", str(run)]) == 2
    assert "importance.parquet" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_that_is_named_is_compared_whatever_its_date(nights: Path) -> None:
    later = write_night(nights, NIGHTS + 5, tonight(3))
    result = audit(str(write_night(nights, NIGHTS, tonight())), against=[str(later)])
    assert list(result.against) == [str(later)]
    assert any("14 are needed" in finding.message for finding in result.findings)


@pytest.mark.parametrize("rows", [0, 1, 35])
def test_tiny_nights_are_skipped_and_not_misjudged(nights: Path, rows: int) -> None:
    result = audited(nights, tonight(rows=rows))
    found = broken(result)
    assert {finding.statistic for finding in found} <= {"rows"}, found
    assert any("fewer than 50 rows" in finding.message for finding in result.findings)


def test_a_night_that_was_rejected_whole_fails_by_its_quality(nights: Path) -> None:
    result = audited(nights, replace(tonight(rows=0), rejected=400))
    first = next(finding for finding in broken(result) if finding.rule == "quality")
    assert first.message == "100 % of 400 rows were rejected; the limit is 1.0 %"


def test_a_feature_that_is_new_has_no_history_and_is_skipped(nights: Path) -> None:
    data = tonight()
    result = audited(nights, replace(data, phi={**data.phi, "new": data.phi["age"]}))
    skipped = [finding for finding in result.findings if finding.feature == "new"]
    assert {finding.status for finding in skipped} == {"skipped"}


def test_bounds_gaps_and_the_order_are_checked(nights: Path) -> None:
    rules = Rules.model_validate(
        {
            "rules": [
                {"kind": "bound", "features": ["age"], "warn_if": "> 0.1", "error_if": "> 0.99"},
                {"kind": "bound", "features": ["agee"], "error_if": "> 0.5"},
                {"kind": "gap", "slices": ["region=north", "region=south"], "features": ["region"]},
                {"kind": "gap", "slices": ["region=south", "region=north"], "features": ["region"]},
                {"kind": "gap", "slices": ["region=north", "region=east"]},
                {"kind": "rank_agreement", "slices": [""]},
            ]
        }
    )
    result = audited(nights, tonight(), rules)
    by_status = {(finding.kind, finding.status) for finding in result.findings}
    assert by_status == {
        ("bound", "warn"),
        ("bound", "error"),
        ("gap", "fail"),
        ("gap", "skipped"),
        ("rank_agreement", "pass"),
    }
    assert result.status == "fail"
    gaps = [each.actual for each in result.findings if each.statistic == "gap"]
    assert gaps[0] == gaps[1]  # whichever slice comes first


def test_the_files_hold_every_check_and_all_but_passes(nights: Path, tmp_path: Path) -> None:
    result = audited(nights, replace(tonight(), rejected=40))
    write_audit(result, str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "findings.parquet")
    assert table.schema.remove_metadata() == SCHEMA
    assert len(table) == len(result.findings)
    data = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert data["counts"]["fail"] == 1
    assert data["findings"][0]["statistic"] == "rejected"
    assert len(data["findings"]) == len(result.findings) - data["counts"]["pass"]


def test_the_verb_writes_beside_the_run_and_ends_with_1_where_a_rule_failed(
    nights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_night(nights, NIGHTS, tonight())
    assert command(["audit", str(good)]) == 0
    assert "PASS" in capsys.readouterr().out
    assert (nights / f"{good.name}-audit" / "findings.parquet").exists()
    bad = write_night(nights, NIGHTS + 1, replace(tonight(2), rejected=40))
    assert command(["audit", str(bad), "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["status"] == "fail"
    assert printed.err.strip().splitlines()[-1].startswith("error: ")


def test_warnings_fail_only_if_asked_and_the_output_goes_where_it_is_asked_for(
    nights: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text('rules: [{kind: bound, features: [age], warn_if: "> 0.1"}]')
    run, out = str(write_night(nights, NIGHTS, tonight())), tmp_path / "out"
    assert command(["audit", run, "--rules", str(rules), "--output", str(out)]) == 0
    assert json.loads((out / "audit.json").read_text())["status"] == "warn"
    assert not (nights / f"{Path(run).name}-audit").exists()
    assert command(["audit", run, "--rules", str(rules), "--output", str(out), "--fail-on", "warn"]) == 1


def test_errors_of_the_verb_are_one_line(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(nights / "2026-01-20")
    for arguments, words in (
        ([str(nights / "none")], "there is no such run"),
        ([run, "--against", str(nights / "x*")], "no run matches"),
        ([run, "--rules", str(nights / "none.yaml")], "none.yaml"),
    ):
        assert command(["audit", *arguments]) == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_an_earlier_audit_found_is_not_learnt_as_usual(nights: Path) -> None:
    data = tonight()
    large = replace(data, phi={**data.phi, "age": 10 * data.phi["age"]}, sample=False)
    for number in range(NIGHTS, NIGHTS + 4):
        run = str(write_night(nights, number, large))
        result = audit(run)
        assert ("age", "mean_abs") in {(each.feature, each.statistic) for each in broken(result)}
        write_audit(result, f"{run}-audit")
    last = {(each.feature, each.slice, each.statistic): each for each in result.findings}
    usual = last["age", "", "mean_abs"].expected
    assert usual is not None
    assert usual < 1.0  # three nights of ten times as much would have raised it to 1.5


def test_the_default_rules_are_used_without_a_file(nights: Path) -> None:
    result = audited(nights, tonight())
    assert {finding.rule for finding in result.findings} == {rule.title for rule in default_rules().rules}


def test_an_error_bound_of_a_rule_of_severity_warn_warns(nights: Path) -> None:
    rule = {"kind": "bound", "features": ["age"], "error_if": "> 0.1"}
    run = str(write_night(nights, NIGHTS, tonight()))
    for severity, status in (("error", "fail"), ("warn", "warn")):
        rules = Rules.model_validate({"rules": [{**rule, "severity": severity}]})
        assert audit(run, rules=rules).status == status


def test_a_rule_checks_only_what_it_selects(nights: Path) -> None:
    rules = Rules.model_validate(
        {"rules": [{"kind": "drift", "features": ["age"], "slices": ["region=south"], "inputs": False}]}
    )
    made = [each for each in audited(nights, tonight(), rules).findings if each.status == "pass"]
    assert {(each.feature, each.slice) for each in made} == {("age", "region=south")}
    assert {each.statistic for each in made} == {"mean_abs", "mean", "share"}


def test_quality_holds_a_run_against_limits_and_digests(nights: Path) -> None:
    run = str(write_night(nights, NIGHTS, replace(tonight(), rejected=4)))

    def failed(**keys: object) -> set[str | None]:
        rules = Rules.model_validate({"rules": [{"kind": "quality", **keys}]})
        return {each.statistic for each in broken(audit(run, rules=rules))}

    assert failed() == set()
    assert failed(rejected=0.005) == {"rejected"}
    assert failed(convergence=1e-7) == {"convergence"}
    assert failed(model_digest="sha256:one", baseline_digest="sha256:base") == set()
    assert failed(model_digest="sha256:two", baseline_digest="sha256:two") == {
        "model_digest",
        "baseline_digest",
    }


def test_a_night_of_far_fewer_rows_fails_by_its_quality_unless_rows_are_not_compared(nights: Path) -> None:
    run = str(write_night(nights, NIGHTS, tonight(rows=100)))
    for rows, statistics in ((True, {"rows"}), (False, set())):
        rules = Rules.model_validate({"rules": [{"kind": "quality", "rows": rows}]})
        assert {each.statistic for each in broken(audit(run, rules=rules))} == statistics


@pytest.mark.parametrize(
    ("day", "status", "age"),
    [("2026-02-14", "pass", 0.0), ("2026-02-12", "warn", 2.0), ("2026-02-10", "fail", 4.0)],
)
def test_the_age_of_the_latest_row_is_bounded(nights: Path, day: str, status: str, age: float) -> None:
    data = tonight()
    days = np.where(np.arange(400) == 7, day, "2026-01-31")
    data = replace(data, values={**data.values, "day": days}, slice_by="day")
    rule = {"kind": "freshness", "column": "day", "warn_if": "> 1", "error_if": "> 3"}
    result = audited(nights, data, Rules.model_validate({"rules": [rule]}))
    assert [(each.status, each.actual) for each in result.findings] == [(status, age)]


def test_a_column_that_holds_no_days_is_an_error(nights: Path) -> None:
    for column in ("region", "none"):
        rules = Rules.model_validate({"rules": [{"kind": "freshness", "column": column}]})
        result = audit(str(nights / "2026-02-10"), rules=rules)
        assert [each.status for each in result.findings] == ["error"]
