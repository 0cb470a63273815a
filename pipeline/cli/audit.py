"""The verb that audits a run."""

from __future__ import annotations

import sys

import click

from pipeline.cli.options import DONE, LIMIT, common, print_json, printable, stdout_guard


@click.command(short_help="Audit a run against earlier nights: what changed, where, and why.")
@click.argument("run")
@click.option(
    "--against",
    multiple=True,
    metavar="RUN_OR_GLOB",
    help="Earlier runs to compare with; repeatable. By default the earlier runs beside RUN of its name.",
)
@click.option("--rules", metavar="FILE", help="The rules; without it the default rules.")
@click.option("--output", metavar="DIR", help="Where the audit is written; RUN-audit by default.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warn"]),
    default="error",
    metavar="LEVEL",
    help="error (default) exits with 1 where a rule of severity error is broken; warn also for warnings.",
)
@common
def audit(
    run: str,
    against: tuple[str, ...],
    rules: str | None,
    output: str | None,
    fail_on: str,
    as_json: bool,
    debug: bool,
) -> int:
    """Audit a committed run: did the model's reasons change, where, and is it the data or the model?

    Reads aggregates and samples of the run and of earlier nights, and writes audit.json and findings.parquet.
    Exit status 1 if a rule of severity error is broken.
    """
    from pipeline.audit import audit as make_audit
    from pipeline.audit import audit_directory, write_audit
    from pipeline.terminal.audit import print_audit

    result = make_audit(run, against=against, rules=rules)
    written = write_audit(result, audit_directory(run, output))
    with stdout_guard():
        if as_json:
            print_json(result.to_json())
        else:
            print_audit(result, written)
    if result.status != "fail" and not (fail_on == "warn" and result.status == "warn"):
        return DONE
    culprit = next(finding for finding in result.findings if finding.is_finding)
    print(f"error: {printable(run)}: the audit failed: {printable(culprit.message)}", file=sys.stderr)
    return LIMIT
