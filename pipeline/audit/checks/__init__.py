"""The rules of an audit: one file for each kind."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.audit.checks.context import Context
from pipeline.audit.checks.drift import drift_tests
from pipeline.audit.findings import Finding
from pipeline.audit.rules import Rule

#: Kinds whose tests are decided together, under the rules' rate of false alarms.
TESTED = {"drift": drift_tests}
#: The other kinds, which judge by themselves.
CHECKED: dict[str, Callable[[Rule, Context], list[Finding]]] = {}

__all__ = ["CHECKED", "TESTED", "Context"]
