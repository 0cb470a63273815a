"""The result of an audit on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.audit.findings import Audit, Finding
from pipeline.wording import count, listed, plain

#: Findings that a screen shows.
_MOST = 12
_VERDICTS = {
    "inputs": "the inputs changed; the model is the same",
    "model": "the model changed; the inputs did not",
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
    for finding in broken[:_MOST]:
        print(_line(finding))
    if len(broken) > _MOST:
        print(f"   and {count(len(broken) - _MOST, 'more finding')}")
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


def _line(finding: Finding) -> str:
    since = f", since {finding.since}" if finding.since else ""
    return f" {_SIGNS[finding.status]} {finding.rule}: {plain(finding.message)}{since}"
