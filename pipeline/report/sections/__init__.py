"""The sections of a run's report, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.report.blocks import Section
from pipeline.report.data import ReportData
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
from pipeline.report.view import View

#: What the model does, whether to believe it, which features matter, single rows, the details, the words.
_ORDER: Sequence[Callable[[View], list[Section]]] = (
    summary.sections,
    trust.sections,
    importance.sections,
    lambda view: images.sections(view.data),
    lambda view: tokens.sections(view.data),
    lambda view: vectors.sections(view.data),
    beeswarm.sections,
    lambda view: examples.sections(view.data),
    dependence.sections,
    interactions.sections,
    distribution.sections,
    slices.sections,
    explained.sections,
    glossary.sections,
)


def all_sections(data: ReportData) -> tuple[str, list[tuple[str, str]], list[Section]]:
    """The lead, the facts and the sections of a report.

    Args:
      data: Of the run.
    """
    view = View(data)
    found = [section for make in _ORDER for section in make(view)]
    return summary.in_a_sentence(view), explained.facts(view), found
