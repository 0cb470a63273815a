"""Audits a committed run against earlier nights: the rules, the verdict and the files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence

import pyarrow.parquet as pq

from pipeline.audit.checks import CHECKS
from pipeline.audit.checks.context import Context, Memory, SeriesKey, Test, decide
from pipeline.audit.findings import Audit, Finding, Verdict, sorted_findings
from pipeline.audit.nights import Night, earlier_nights, incomparable, open_night
from pipeline.audit.rules import Rules, load_rules
from transforms.errors import UserError
from transforms.outputs.read_whole import read_whole
from transforms.storage import files

AUDIT, FINDINGS = "audit.json", "findings.parquet"


def audit(
    run: str,
    *,
    against: Sequence[str] = (),
    rules: str | Rules | None = None,
    memory: Memory | None = None,
) -> Audit:
    """Audits a committed run: did the model's reasons change, where, and is it the data or the model?

    Args:
      run: The run directory.
      against: Earlier runs or globs of them; by default the committed runs beside it with the same name.
      rules: A rules file, or rules; None takes the default rules.
      memory: What audits of several nights share.
    Raises:
      UserError: There is no such run, its tables are damaged, or a rules file is wrong.
    Cost: reads the importance and the sample of up to twice the reference window of nights; loads no model.
    """
    rules = rules if isinstance(rules, Rules) else load_rules(rules)
    memory = memory or Memory()
    if run not in memory.nights:
        memory.nights[run] = open_night(run)
    tonight = memory.nights[run]
    earlier, left = earlier_nights(tonight, against, most=2 * rules.reference.window)
    nights = []
    for night in earlier:
        night = memory.nights.setdefault(night.run.path, night)
        reason = incomparable(tonight, night) or _damage(night)
        if reason is None:
            nights.append(night)
        else:
            left[night.run.path] = reason
    context = Context(tonight, nights, rules, _flagged(nights), memory)
    findings = _findings(context)
    return Audit(
        run=run,
        date=tonight.date,
        against=[night.run.path for night in nights],
        findings=sorted_findings(findings),
        verdict=verdict_of(findings),
        left_out=left,
    )


def _damage(night: Night) -> str | None:
    """The reason why an earlier night's tables cannot be read; None if they can.

    A damaged earlier night is left out. Tonight's own damage ends the audit.
    """
    try:
        _ = night.importance, night.inputs
    except UserError as error:
        return error.what
    return None


def _findings(context: Context) -> list[Finding]:
    findings: list[Finding] = []
    tests: list[Test] = []
    for rule in context.rules.rules:
        made, judged = CHECKS[rule.kind](rule, context)
        tests += made
        findings += judged
    return [*findings, *decide(tests, context.rules.alpha)]


def verdict_of(findings: Sequence[Finding]) -> Verdict | None:
    """The verdict on a night: what the broken rules say moved; None where no rule says so."""
    verdicts = {finding.verdict for finding in findings if finding.is_finding and finding.verdict}
    if not verdicts:
        return None
    return "both" if len(verdicts) > 1 or "both" in verdicts else verdicts.pop()


def audit_directory(run: str, output: str | None = None) -> str:
    """The directory of a run's audit: beside the run, unless it is given."""
    return output if output is not None else f"{run.rstrip('/')}-audit"


def _flagged(nights: Sequence[Night]) -> dict[str, frozenset[SeriesKey]]:
    """The series that earlier audits found drifting, by date, from their findings beside the runs."""
    flagged = {}
    for night in nights:
        path = files.join(audit_directory(night.run.path), FINDINGS)
        if files.exists(path):
            columns = ["kind", "status", "feature", "slice", "target_name"]
            rows = read_whole(path, columns).to_pylist()
            flagged[night.date.isoformat()] = frozenset(
                (row["feature"], row["slice"], row["target_name"])
                for row in rows
                if row["kind"] == "drift" and row["status"] in ("warn", "fail")
            )
    return flagged


def write_audit(result: Audit, directory: str) -> list[str]:
    """Writes audit.json and findings.parquet and returns their paths; existing files are replaced.

    Raises:
      UserError: The directory cannot be written.
    """
    if not files.is_url(directory):
        os.makedirs(directory, exist_ok=True)
    buffer = io.BytesIO()
    table = result.table().replace_schema_metadata({"attribeam.audited_run": result.run})
    pq.write_table(table, buffer, compression="zstd")
    texts = {
        FINDINGS: buffer.getvalue(),
        AUDIT: json.dumps(result.to_json(), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n",
    }
    paths = []
    for name, data in texts.items():
        paths.append(files.join(directory, name))
        files.write_atomic(paths[-1], data)
    return paths
