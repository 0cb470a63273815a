"""What every check of an audit is given, and how tests of many series are decided together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from pipeline.audit.findings import Finding, broken
from pipeline.audit.history import History
from pipeline.audit.input_history import Shares, one_value_a_night, shares_of_night
from pipeline.audit.nights import Night
from pipeline.audit.rules import Rules, Selection
from transforms.statistics.multiple_testing import benjamini_hochberg

#: Weight of a slice's effect in the order of findings: all rows come first unless a slice changed more.
SLICE_WEIGHT = 0.8
#: A series of findings: (feature, slice, target_name).
SeriesKey = tuple[str | None, str | None, str | None]


@dataclass(frozen=True)
class Memory:
    """What audits of several nights share: a night of one is the history of the next.

    Args:
      nights: Open nights by run directory.
      shares: The input statistics of a night, by its run directory and those of the nights before it.
    """

    nights: dict[str, Night] = field(default_factory=dict)
    shares: dict[tuple[str, ...], Shares] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """The material of an audit.

    Args:
      tonight: The audited night.
      nights: The earlier nights that φ can be compared with but for the model, oldest first.
      rules: The rules.
      flagged: The series that earlier audits found drifting, by the date of the night in ISO format.
      memory: What audits of several nights share.
    """

    tonight: Night
    nights: Sequence[Night]
    rules: Rules
    flagged: Mapping[str, frozenset[SeriesKey]] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)

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
    def sampled(self) -> list[Night]:
        """The latest nights that keep a sample of rows, whatever their model, and tonight, oldest first.

        There are up to twice as many as in the reference window; tonight is left out if it keeps none.
        """
        nights = [*self.nights[-2 * self.rules.reference.window :], self.tonight]
        return [night for night in nights if night.inputs is not None]

    def input_shares(self) -> list[Shares]:
        """The input statistics of each night in `sampled`."""
        made = []
        for at, night in enumerate(self.sampled):
            before = self.sampled[max(0, at - self.rules.reference.window) : at]
            key = (night.run.path, *(other.run.path for other in before))
            if key not in self.memory.shares:
                samples = [other.inputs for other in (night, *before) if other.inputs is not None]
                self.memory.shares[key] = shares_of_night(samples[0], samples[1:])
            made.append(self.memory.shares[key])
        return made

    @cached_property
    def one_value_a_night(self) -> frozenset[str]:
        """The features that have one value in each night for most nights, such as the month."""
        samples = [night.inputs for night in self.sampled if night is not self.tonight]
        return one_value_a_night([sample for sample in samples if sample is not None])

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
