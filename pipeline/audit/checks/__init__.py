"""The rules of an audit: their checks, by kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.audit.checks.context import Context, Test
from pipeline.audit.checks.drift import drift_tests
from pipeline.audit.checks.freshness import freshness_checks
from pipeline.audit.checks.importance import bound_checks, gap_checks
from pipeline.audit.checks.order import rank_agreement_checks, sign_tests
from pipeline.audit.checks.quality import quality_tests
from pipeline.audit.findings import Finding

#: The check of each kind of rule. It returns tests, which are decided together under the rate of false
#: alarms, and findings that stand by themselves.
CHECKS: dict[str, Callable[[Any, Context], tuple[list[Test], list[Finding]]]] = {
    "drift": drift_tests,
    "rank_agreement": rank_agreement_checks,
    "sign": sign_tests,
    "bound": bound_checks,
    "gap": gap_checks,
    "quality": quality_tests,
    "freshness": freshness_checks,
}

__all__ = ["CHECKS", "Context", "Test"]
