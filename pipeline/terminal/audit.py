"""The result of an audit on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.audit.findings import Audit, Finding
from pipeline.wording import count, listed, plain

#: Findings that a screen shows.
_MOST = 12
_VERDICTS = {
    "inputs": "the inputs changed",
    "model": "the model changed",
    "both": "both the inputs and the model changed",
}
_SIGNS = {"fail": "✗", "error": "✗", "warn": "!"}


def print_audit(result: Audit, written: Sequence[str]) -> None:
    """Prints the verdict, the most important findings and the counts of checks.

    Args:
      result: The audit.
      written: Paths of the files that were written.
    """
    nights = count(len(result.against), "earlier night")
    print(f"{plain(result.run)}: {result.date} against {nights}: {result.status.upper()}\n")
    broken = [finding for finding in result.findings if finding.is_finding]
    if result.verdict:
        print(f"{'verdict':<14} {_VERDICTS[result.verdict]}\n")
    groups = _grouped(broken)
    for group in groups[:_MOST]:
        print(_line(group))
    if len(groups) > _MOST:
        print(f"   and {count(sum(map(len, groups[_MOST:])), 'more finding')}")
    if broken:
        print()
    counts = [f"{number} {status}" for status, number in result.counts.items() if number]
    print(f"{'checks':<14} {', '.join(counts)}")
    skipped = [finding for finding in result.findings if finding.status == "skipped"]
    reasons = list(dict.fromkeys(f"{finding.rule}: {finding.message}" for finding in skipped))
    for reason in reasons[:3]:
        print(f"{'skipped':<14} {plain(reason)}")
    for run, reason in list(result.left_out.items())[:3]:
        print(f"{'not compared':<14} {plain(run)}: {reason}")
    if len(result.left_out) > 3:
        print(f"{'':<14} and {count(len(result.left_out) - 3, 'more run')}")
    print(f"{'written':<14} {listed(map(plain, written))}")


def _grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one rule, feature and statistic together, in the order of the first of each."""
    groups: dict[tuple[str, str | None, str | None], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.rule, finding.feature, finding.statistic), []).append(finding)
    return list(groups.values())


def _line(group: Sequence[Finding]) -> str:
    first = group[0]
    since = f", since {first.since}" if first.since else ""
    others = f" (and in {count(len(group) - 1, 'other slice')})" if len(group) > 1 else ""
    return f" {_SIGNS[first.status]} {first.rule}: {plain(first.message)}{since}{others}"
