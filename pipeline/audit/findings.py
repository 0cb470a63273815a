"""The results of checks: one finding for each check, and the tables and JSON made of them."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

Status = Literal["pass", "warn", "fail", "skipped", "error"]
Severity = Literal["warn", "error"]
Verdict = Literal["inputs", "model", "both"]

#: Statuses, worst first.
STATUSES: tuple[Status, ...] = ("error", "fail", "warn", "skipped", "pass")

#: The schema of findings.parquet.
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("run", "date", "rule", "kind", "severity", "status")),
        *(pa.field(name, pa.string()) for name in ("feature", "slice")),
        pa.field("target", pa.int32()),
        *(pa.field(name, pa.string()) for name in ("target_name", "statistic")),
        *(pa.field(name, pa.float64()) for name in ("expected", "actual", "effect", "p_value", "q_value")),
        *(pa.field(name, pa.string()) for name in ("verdict", "since", "message")),
    ]
)


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
      rule: The rule's name.
      kind: The rule's kind, such as "drift".
      severity: The rule's severity: what a broken rule is, a warning or an error.
      status: "pass"; "warn" or "fail", by the severity; "skipped" where there is too little to judge by;
        "error" where the check could not be made.
      message: What was found, in one sentence without a full stop.
      statistic: The quantity that was checked, such as "mean_abs".
      feature: The feature, or None for a check of the whole run.
      slice: The slice; "" is all rows.
      target: The index of the target, or None.
      target_name: Its name.
      expected: The value that was expected, in the statistic's unit.
      actual: Tonight's value.
      effect: The size of the change; each rule says in which unit.
      p_value: The probability of so large a change where nothing changed.
      q_value: The p-value adjusted for all checks of the night (Benjamini and Hochberg).
      verdict: What moved: the inputs, the model, or both.
      since: The first night of the change.
      rank: The order among findings of one status, smallest first: culprits before consequences.
    """

    rule: str
    kind: str
    severity: Severity
    status: Status
    message: str
    statistic: str | None = None
    feature: str | None = None
    slice: str | None = ""
    target: int | None = None
    target_name: str | None = None
    expected: float | None = None
    actual: float | None = None
    effect: float | None = None
    p_value: float | None = None
    q_value: float | None = None
    verdict: Verdict | None = None
    since: datetime.date | None = None
    rank: float = field(default=0.0, compare=False)

    @property
    def is_finding(self) -> bool:
        """Whether the rule is broken."""
        return self.status in ("warn", "fail", "error")


def broken(severity: Severity) -> Status:
    """The status of a broken rule."""
    return "fail" if severity == "error" else "warn"


def sorted_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Findings in order of importance: worst status first, then culprits before consequences."""
    return sorted(findings, key=lambda finding: (STATUSES.index(finding.status), finding.rank))


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
      run: The directory of the audited run.
      date: Its date.
      against: The directories of the nights that it was compared with, oldest first.
      findings: The result of every check, most important first.
      verdict: What moved, where something did.
      left_out: Runs that could not be compared, each with the reason.
      created: The time of the audit.
    """

    run: str
    date: datetime.date
    against: Sequence[str]
    findings: Sequence[Finding]
    verdict: Verdict | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    created: datetime.datetime = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    )

    @property
    def counts(self) -> dict[str, int]:
        """The number of checks by status."""
        counter = Counter(finding.status for finding in self.findings)
        return {status: counter[status] for status in reversed(STATUSES)}

    @property
    def status(self) -> Status:
        """The worst status: fail (also for a check that could not be made), warn, or pass."""
        counts = self.counts
        if counts["fail"] or counts["error"]:
            return "fail"
        return "warn" if counts["warn"] else "pass"

    def table(self) -> pa.Table:
        """Every check, passes too, as findings.parquet has them."""
        rows = [{"run": self.run, "date": self.date.isoformat(), **_plain(each)} for each in self.findings]
        return pa.Table.from_pylist([{name: row[name] for name in SCHEMA.names} for row in rows], SCHEMA)

    def to_json(self) -> dict[str, Any]:
        """The content of audit.json, with all findings except passes, which only the table has."""
        return {
            "schema_version": 1,
            "run": self.run,
            "date": self.date.isoformat(),
            "created": self.created.isoformat(),
            "against": list(self.against),
            "left_out": dict(self.left_out),
            "status": self.status,
            "counts": self.counts,
            "verdict": self.verdict,
            "findings": [
                {"run": self.run, "date": self.date.isoformat(), **_plain(each)}
                for each in self.findings
                if each.status != "pass"
            ],
        }


def _plain(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it: no NaN, dates as text."""
    values = dataclasses.asdict(finding)
    del values["rank"]
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
        elif isinstance(value, datetime.date):
            values[name] = value.isoformat()
    return values
