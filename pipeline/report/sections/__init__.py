"""The sections of a run's report, in the order in which they are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.report.blocks import Prose, Section
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import View
from pipeline.report.sections import (
    beeswarm,
    dependence,
    distribution,
    examples,
    explained,
    glossary,
    images,
    importance,
    interactions,
    slices,
    summary,
    tokens,
    trust,
    vectors,
)
from pipeline.wording import plain, shorten

#: Sections from the summary, through trust and importance, to single rows, details and the glossary.
ORDER: Sequence[tuple[str, Callable[[View], list[Section]]]] = (
    ("What the model does", summary.sections),
    ("Can it be trusted", trust.sections),
    ("Importance", importance.sections),
    ("Pictures", lambda view: images.sections(view.data)),
    ("Texts", lambda view: tokens.sections(view.data)),
    ("Vectors", lambda view: vectors.sections(view.data)),
    ("Every row at a glance", beeswarm.sections),
    ("Single examples", lambda view: examples.sections(view.data)),
    ("Dependence", dependence.sections),
    ("Interactions", interactions.sections),
    ("Distribution", distribution.sections),
    ("Slices", slices.sections),
    ("What was explained", explained.sections),
    ("Glossary", glossary.sections),
)
#: Most characters of the reason why a section could not be drawn.
_REASON = 200


def all_sections(
    data: ReportData,
) -> tuple[str, list[tuple[str, str]], list[Section], list[str]]:
    """Draws a report: its lead, its facts, its sections, and reasons why parts could not be drawn.

    A section that fails is replaced by a section that says so, because the others are still of use.

    Args:
      data: The run's tables.
    """
    view = View(data)
    sections: list[Section] = []
    missing: list[str] = []

    def tried(title: str, make: Callable[[View], Any], otherwise: Any) -> Any:
        try:
            return make(view)
        except Exception as error:
            logging.getLogger(__name__).info("%s could not be drawn", title, exc_info=error)
            missing.append(f"{title}: {reason_of(error)}")
            return otherwise

    for number, (title, make) in enumerate(ORDER, 1):
        made = tried(title, make, None)
        sections += [_missing(number, title, missing[-1])] if made is None else made
    lead = tried("The line under the title", summary.in_a_sentence, "Explained.")
    facts = tried("The facts under the title", explained.facts, [])
    return lead, facts, sections, missing


def reason_of(error: BaseException) -> str:
    """The message of an exception in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return shorten(plain(f"{type(error).__name__}: {first}" if first else type(error).__name__), _REASON)


def _missing(number: int, title: str, why: str) -> Section:
    reason = why.removeprefix(f"{title}: ")
    text = (
        f"This section could not be drawn: {reason}. The run is complete, and the numbers are in its tables; "
        "attribeam report RUN draws the page again, and --debug shows more of the error."
    )
    return Section(f"missing-{number}", title, "Missing here.", [Prose(text, "bad")])
