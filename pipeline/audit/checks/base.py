"""Findings of a rule, with what the rule itself fills in."""

from __future__ import annotations

from typing import Any

from pipeline.audit.bounds import status_of
from pipeline.audit.findings import Finding, broken
from pipeline.audit.rules import Rule


def finding_of(rule: Rule, status: Any, message: str, **values: Any) -> Finding:
    """A finding of a rule.

    Args:
      rule: The rule.
      status: The finding's status.
      message: The result in one sentence without a full stop.
      values: Other fields of `Finding`.
    """
    kind: str = getattr(rule, "kind", "")
    return Finding(rule.title, kind, rule.severity, status, message, **values)


def bounded(rule: Any, value: float, message: str, **values: Any) -> Finding:
    """A finding of a rule with bounds: its status follows from the value.

    A warning bound gives "warn", and an error bound what the rule's severity says.

    Args:
      rule: The rule, with `warn_if` and `error_if`.
      value: The value that the bounds are about.
      message: The result in one sentence; the bound that is met is added.
      values: Other fields of `Finding`.
    """
    status, bound = status_of(value, rule.warn_if, rule.error_if)
    if status == "fail":
        status = broken(rule.severity)
    if bound is not None:
        message = f"{message}; the rule's bound is {bound}"
    return finding_of(rule, status, message, actual=value, **values)
