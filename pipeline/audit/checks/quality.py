"""The rule `quality`: rejected rows, convergence, the number of rows, and digests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pipeline.audit.checks.base import finding_of
from pipeline.audit.checks.context import Context, Test
from pipeline.audit.findings import Finding, broken
from pipeline.audit.rules import Quality
from pipeline.wording import count, percent
from transforms.statistics.forecast import forecast

#: Smallest relative change of the number of rows that counts.
_LARGE = 0.5
#: Fewest earlier nights to judge the number of rows.
_FEWEST_NIGHTS = 7


def quality_tests(rule: Quality, context: Context) -> tuple[list[Test], list[Finding]]:
    """Checks a run's own figures, and tests its number of rows against earlier nights."""
    findings = [_rejected(rule, context), *_convergence(rule, context), *_digests(rule, context)]
    if not rule.rows:
        return [], findings
    rows = np.array([[night.run.manifest["counts"]["rows_read"]] for night in context.nights], float)
    if len(rows) < _FEWEST_NIGHTS:
        reason = f"{count(len(rows), 'earlier night')} can be compared, and {_FEWEST_NIGHTS} are needed"
        return [], [*findings, finding_of(rule, "skipped", reason, statistic="rows")]
    return [_rows(rule, context, rows)], findings


def _rejected(rule: Quality, context: Context) -> Finding:
    counts = context.tonight.run.manifest["counts"]
    limit = rule.rejected
    if limit is None:
        limit = float(context.tonight.run.manifest["config"]["limits"]["rejected"])
    share = counts["rows_rejected"] / counts["rows_read"] if counts["rows_read"] else 0.0
    status = broken(rule.severity) if share > limit else "pass"
    rows = count(counts["rows_read"], "row")
    message = f"{percent(share)} of {rows} were rejected; the limit is {percent(limit)}"
    return finding_of(rule, status, message, statistic="rejected", actual=share, expected=limit)


def _convergence(rule: Quality, context: Context) -> Iterator[Finding]:
    manifest = context.tonight.run.manifest
    delta = manifest["quality"]["convergence_delta"]
    if delta is None or delta["relative_p99"] is None:
        return  # the method promises no sum
    limit = rule.convergence
    if limit is None:
        limit = float(manifest["config"]["limits"]["convergence"])
    value = float(delta["relative_p99"])
    status = broken(rule.severity) if value > limit else "pass"
    message = f"the p99 of |convergence_delta| is {value:.2g} of the score's spread; the limit is {limit:g}"
    yield finding_of(rule, status, message, statistic="convergence", actual=value, expected=limit)


def _digests(rule: Quality, context: Context) -> Iterator[Finding]:
    for name, wanted, actual in (
        ("model", rule.model_digest, context.tonight.model),
        ("baseline", rule.baseline_digest, context.tonight.baseline),
    ):
        if wanted is not None:
            same = actual == wanted
            status = "pass" if same else broken(rule.severity)
            message = f"the {name} has the digest {actual}" + ("" if same else f", not {wanted}")
            yield finding_of(rule, status, message, statistic=f"{name}_digest")


def _rows(rule: Quality, context: Context, rows: np.ndarray) -> Test:
    tonight = float(context.tonight.run.manifest["counts"]["rows_read"])
    nights = [*context.nights, context.tonight]
    weekdays = None
    if context.rules.reference.season == "week":
        weekdays = np.array([night.date.weekday() for night in nights])
    value = np.log1p(np.array([tonight]))
    expected = forecast(
        np.log1p(rows), window=context.rules.reference.window, weekdays=weekdays, floor=1e-3, fit_tail=False
    )
    usual = math.expm1(float(expected.level[0]))
    change = (tonight - usual) / max(usual, 1.0)
    message = f"{count(int(tonight), 'row')} were read, and about {count(round(usual), 'row')} usually are"
    finding = finding_of(
        rule,
        "pass",
        message,
        statistic="rows",
        actual=tonight,
        expected=usual,
        effect=change,
        p_value=float(expected.p_values(value)[0]),
        verdict="inputs",
        rank=-500.0,
    )
    return Test(finding, abs(change) >= _LARGE)
