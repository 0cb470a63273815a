"""What every check of an audit is given, and how tests of many series are decided together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from pipeline.audit.findings import Finding, broken
from pipeline.audit.history import History
from pipeline.audit.nights import Night
from pipeline.audit.rules import Rules, Selection
from transforms.statistics.multiple_testing import benjamini_hochberg

#: A series of findings: (feature, slice, target_name).
SeriesKey = tuple[str | None, str | None, str | None]


@dataclass(frozen=True)
class Context:
    """The material of an audit.

    Args:
      tonight: The audited night.
      nights: The earlier nights that φ can be compared with but for the model, oldest first.
      rules: The rules.
      flagged: The series that earlier audits found drifting, by the date of the night in ISO format.
    """

    tonight: Night
    nights: Sequence[Night]
    rules: Rules
    flagged: Mapping[str, frozenset[SeriesKey]] = field(default_factory=dict)

    @cached_property
    def same_model(self) -> list[Night]:
        """The earlier nights that were explained with tonight's model, oldest first, without a gap.

        Nights before another model's are left out: a model that returns after a rollback starts anew.
        """
        kept: list[Night] = []
        for night in reversed(self.nights):
            if night.model != self.tonight.model:
                break
            kept.append(night)
        return kept[::-1]

    @cached_property
    def history(self) -> History:
        """The importance of the nights with tonight's model, and tonight."""
        window = 2 * self.rules.reference.window
        return History.of(self.same_model[-window:], self.tonight)

    @cached_property
    def model_before(self) -> str | None:
        """The digest of the model of the latest earlier night; None without one."""
        return self.nights[-1].model if self.nights else None

    @property
    def model_changed(self) -> bool:
        """Whether tonight's model is not the latest earlier night's."""
        return self.model_before is not None and self.model_before != self.tonight.model


@dataclass(frozen=True)
class Test:
    """One test of many that are decided together.

    Args:
      finding: The finding as it is if the test is significant; its p_value is set.
      large: Whether the effect is large enough to count.
    """

    finding: Finding
    large: bool

    __test__ = False  # not a test of pytest's


def decide(tests: Sequence[Test], alpha: float) -> list[Finding]:
    """Decides tests of one night together.

    Benjamini and Hochberg's procedure at the level `alpha` keeps the probability of any finding on a night on
    which nothing changed at `alpha`; the number of false alarms over nights follows from it.

    Args:
      tests: All tests of the night.
      alpha: The probability of a false alarm in one night.
    """
    p = np.array([test.finding.p_value for test in tests], np.float64)
    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    q[known] = benjamini_hochberg(p[known])
    decided = []
    for test, adjusted in zip(tests, q.tolist(), strict=True):
        significant = test.large and adjusted <= alpha
        status = broken(test.finding.severity) if significant else "pass"
        decided.append(replace(test.finding, q_value=adjusted, status=status))
    return decided


def selected(rule: Selection, feature: str | None, slice: str | None, target: str | None) -> bool:
    """Whether a rule checks a series."""
    return (
        (rule.features is None or feature is None or feature in rule.features)
        and (rule.slices is None or slice in rule.slices)
        and (rule.targets is None or target is None or target in rule.targets)
    )
