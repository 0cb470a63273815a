"""The input side of the rule `drift`: values, missing values and slices unlike those of earlier nights."""

from __future__ import annotations

import math

import numpy as np

from pipeline.audit.checks.context import SLICE_WEIGHT, Context, Test, selected
from pipeline.audit.findings import Finding
from pipeline.audit.input_history import InputSeries, input_series
from pipeline.audit.rules import Drift
from pipeline.wording import count, percent
from transforms.statistics.forecast import Forecast, forecast

#: Smallest change of the share of rows that counts, for numbers and for categories. On a year of flights, no
#: night without a change has more than these.
_LARGE = {
    "unseen": (0.75, 0.02),
    "far_outside": (0.05, 0.02),
    "filled": (0.25, 0.25),
    "most_common": (0.75, 0.5),
}
_WORDS = {
    "unseen": "{share} of the rows{slice} have a value of {feature} that no earlier night has",
    "far_outside": "{share} of the rows{slice} have a {feature} far outside the range of the earlier nights",
    "filled": "{feature} was missing and filled in {share} of the rows{slice}; usually {usual}",
    "most_common": "{share} of the rows{slice} have one and the same {feature}; usually {usual}",
}
#: Margin by which a share must exceed that of every earlier night, in the variance-stabilised scale.
_MARGIN = 0.1


def input_tests(rule: Drift, context: Context) -> tuple[list[Test], list[Finding]]:
    """Tests the sampled values of every feature and slice, and the share of rows of each slice.

    The model does not matter here, so nights of other models count too.

    Returns:
      The tests, and findings for what was skipped.
    """
    window = context.rules.reference.window
    nights = context.sampled
    earlier = len(nights) - 1
    if not nights or nights[-1] is not context.tonight or earlier < rule.min_history:
        reason = (
            f"{count(earlier, 'earlier night')} kept a sample of rows; {rule.min_history} are needed"
            if nights and nights[-1] is context.tonight
            else "tonight's run keeps no sample of rows"
        )
        return [], [
            Finding(rule.title, rule.kind, rule.severity, "skipped", reason, statistic="inputs", slice=None)
        ]
    weekdays = None
    if context.rules.reference.season == "week":
        weekdays = np.array([night.date.weekday() for night in nights])
    samples = [night.inputs for night in nights if night.inputs is not None]
    tests: list[Test] = []
    for series in input_series(samples, context.input_shares()):
        if series.feature in context.one_value_a_night:
            continue
        expected = _forecast(series.shares, series.rows, window, weekdays)
        tests += _tests(rule, context, series, expected)
    return tests, []


def _angle(shares: np.ndarray) -> np.ndarray:
    """The arcsine of the root of a share, whose sampling error, 1 / (2 √rows), is the same for all shares."""
    angle: np.ndarray = np.arcsin(np.sqrt(np.clip(shares, 0.0, 1.0)))
    return angle


def _forecast(shares: np.ndarray, rows: np.ndarray, window: int, weekdays: np.ndarray | None) -> Forecast:
    error = 0.5 / np.sqrt(np.maximum(rows[-1], 1.0))
    return forecast(_angle(shares[:-1]), window=window, weekdays=weekdays, floor=error, fit_tail=False)


def _tests(rule: Drift, context: Context, series: InputSeries, expected: Forecast) -> list[Test]:
    tonight, p = _angle(series.shares[-1]), expected.p_values(_angle(series.shares[-1]))
    with np.errstate(invalid="ignore"):
        highest = np.fmax.reduce(_angle(series.shares[:-1]), axis=0, initial=0.0)
    label = context.tonight.run.labels.get(series.feature, series.feature)
    least = _LARGE[series.statistic][1 if series.categorical else 0]
    tests = []
    for at, name in enumerate(series.slices):
        if not selected(rule, series.feature, name, None) or series.rows[-1, at] < rule.min_rows:
            continue
        if not math.isfinite(p[at]):
            continue
        usual = float(np.sin(np.clip(expected.level[at], 0.0, np.pi / 2)) ** 2)
        share = float(series.shares[-1, at])
        words = _WORDS[series.statistic].format(
            share=percent(share), usual=percent(usual), feature=label, slice=f" in {name}" if name else ""
        )
        finding = Finding(
            rule=rule.title,
            kind=rule.kind,
            severity=rule.severity,
            status="pass",
            message=words,
            statistic=series.statistic,
            feature=series.feature,
            slice=name,
            expected=usual,
            actual=share,
            effect=share - usual,
            p_value=float(p[at]),
            verdict="inputs",
            # What happened to the inputs explains what happened to φ, so it is named first. A slice is named
            # before all rows only if it changed clearly more.
            rank=-100.0 * (share - usual) * (SLICE_WEIGHT if name else 1.0),
        )
        large = share - usual >= least and tonight[at] > highest[at] + _MARGIN
        tests.append(Test(finding, bool(large)))
    return tests
