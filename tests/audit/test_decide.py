"""Tests of one night are decided together, at the level of the rules' rate of false alarms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from pipeline.audit.checks.context import Test, decide
from pipeline.audit.findings import Finding


def several(p: list[float], *, large: bool = True, severity: str = "error") -> list[Test]:
    made = [Finding("r", "drift", severity, "pass", "", p_value=value) for value in p]  # type: ignore[arg-type]
    return [Test(finding, large) for finding in made]


def test_adjusted_p_values_are_scipys_and_decide_at_the_level() -> None:
    p = [0.001, 0.02, 0.03, 0.5, 0.9]
    decided = decide(several(p), 0.05)
    np.testing.assert_allclose([each.q_value or 0.0 for each in decided], false_discovery_control(p))
    assert [each.status for each in decided] == ["fail", "fail", "fail", "pass", "pass"]
    assert [each.status for each in decide(several(p), 0.01)] == ["fail", "pass", "pass", "pass", "pass"]


def test_a_small_effect_passes_and_a_warning_warns() -> None:
    assert decide(several([1e-9], large=False), 0.05)[0].status == "pass"
    assert decide(several([1e-9], severity="warn"), 0.05)[0].status == "warn"


def test_a_test_without_a_p_value_does_not_count() -> None:
    decided = decide(several([float("nan"), 0.04]), 0.05)
    assert [each.status for each in decided] == ["pass", "fail"]
    assert decided[1].q_value == pytest.approx(0.04)
