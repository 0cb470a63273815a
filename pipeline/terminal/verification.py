"""Prints the checks of `attribeam verify`, failed ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from pipeline.terminal.text_table import clean, console, wrapped, write
from pipeline.wording import fitted

if TYPE_CHECKING:
    from pipeline.verify.verify import Verification

_KEY = 12
_STATE = 9
_MOST_DETAILS = 10
_LONGEST = 500
_STATES = {False: "FAILED", None: "unknown", True: "ok"}


def print_verification(verification: Verification) -> None:
    """Prints one line per check: failed ones, unknown ones, passed ones."""
    out = console()
    for state, word in _STATES.items():
        for check in verification.checks:
            if check.ok is not state:
                continue
            first = f"{check.name.ljust(_KEY)}{word.ljust(_STATE)}"
            wrapped(out, fitted(clean(check.what), _LONGEST), " " * (_KEY + _STATE), first)
            details = check.details if len(check.details) > 1 or check.name == "rows" else ()
            for line in details[:_MOST_DETAILS]:
                wrapped(out, fitted(clean(line), _LONGEST), " " * (_KEY + _STATE + 2), " " * (_KEY + _STATE))
            if len(details) > _MOST_DETAILS:
                rest = len(details) - _MOST_DETAILS
                write(out, Text(f"{'':{_KEY + _STATE}}… and {rest:,} more (--json has all)"))
