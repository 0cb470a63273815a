"""The rules file: what is accepted, and the one line that an error is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.audit.bounds import meets
from pipeline.audit.rules import KINDS, default_rules, load_rules
from transforms.errors import UserError


def written(folder: Path, text: str) -> str:
    path = folder / "rules.yaml"
    path.write_text(text)
    return str(path)


def test_every_kind_of_rule_is_read(tmp_path: Path) -> None:
    text = """
reference: {window: 14, season: null}
false_alarms: 2 per year
rules:
  - {kind: drift, name: reasons, severity: warn, min_effect: 0.2, features: [age]}
  - {kind: rank_agreement, measure: kendall, error_if: "< 0.8"}
  - {kind: sign, min_share: 0.05}
  - {kind: bound, features: [age], statistic: share, error_if: "> 40 %"}
  - {kind: gap, slices: [sex=F, sex=M], warn_if: "> 0.05", error_if: "> 0.1"}
  - {kind: quality, rejected: 0.02}
  - {kind: freshness, column: day, error_if: "> 1"}
"""
    rules = load_rules(written(tmp_path, text))
    assert {rule.kind for rule in rules.rules} == set(KINDS)
    assert rules.rules[0].title == "reasons"
    assert rules.rules[1].title == "rank_agreement"
    assert rules.alpha == pytest.approx(2 / 365.25)


def test_by_default_one_night_in_a_quarter_may_be_a_false_alarm() -> None:
    assert default_rules().alpha == pytest.approx(4 / 365.25)
    assert load_rules(None) == default_rules()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{kind: drft}]", "rules.0.kind: 'drft' is not a kind of rule; did you mean drift"),
        ("rules: [{severity: warn}]", "rules.0.kind: is missing"),
        ("rules: [{kind: drift, min_row: 3}]", "min_row: unknown key; did you mean min_rows"),
        ("rules: [{kind: drift, severity: bad}]", "severity: must be warn or error, not 'bad'"),
        ("rules: [{kind: bound, features: [a]}]", "has no bound"),
        ("rules: [{kind: bound, features: [a], error_if: big}]", "is not a bound"),
        ("rules: [{kind: gap, slices: [one]}]", "slices"),
        ("rules: []", "rules: is empty"),
        ("false_alarms: some\nrules: [{kind: drift}]", "false_alarms"),
        ("rule: [{kind: drift}]", "rule: unknown key; did you mean rules"),
    ],
)
def test_an_error_names_the_key_and_the_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_rules(written(tmp_path, text))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "bound", "met"),
    [
        (0.05, "< 0.1", True),
        (0.1, "< 0.1", False),
        (0.1, "<= 10 %", True),
        (3.0, "> 5", False),
        (-2.0, ">= -2e0", True),
        (float("nan"), "> 0", False),
        (1.0, None, False),
    ],
)
def test_bounds(value: float, bound: str | None, met: bool) -> None:
    assert meets(value, bound) is met


def test_the_guide_shows_every_kind_of_rule(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide" / "audits.md").read_text()
    block = page.partition("<!-- rules -->\n```yaml\n")[2].partition("```")[0]
    assert {rule.kind for rule in load_rules(written(tmp_path, block)).rules} == set(KINDS)
    assert all(f"| `{kind}` |" in page for kind in KINDS)
