"""The input side of the rule `drift`: values unlike those of earlier nights."""

from __future__ import annotations

import math

import numpy as np

from pipeline.audit.checks.base import finding_of
from pipeline.audit.checks.context import SLICE_WEIGHT, Context, Test, selected
from pipeline.audit.findings import Finding
from pipeline.audit.input_history import InputSeries, input_series
from pipeline.audit.rules import Drift
from pipeline.wording import count, percent
from transforms.statistics.forecast import Forecast, forecast
from transforms.statistics.shares import angle, angle_error, share_of

#: Smallest change of the share of rows that counts, for numbers and for categories. On a year of flights by
#: day, few nights without a change have more.
_LARGE = {
    "unseen": (0.75, 0.02),
    "far_outside": (0.05, 0.02),
    "most_common": (0.75, 0.5),
}
_WORDS = {
    "unseen": "{share} of the rows{slice} have a value of {feature} that no earlier night has",
    "far_outside": "{share} of the rows{slice} have a {feature} far outside the range of the earlier nights",
    "most_common": "{share} of the rows{slice} have one and the same {feature}; usually {usual}",
}
#: Margin by which a share must exceed that of every earlier night, in the variance-stabilised scale.
_MARGIN = 0.1


def input_tests(rule: Drift, context: Context) -> tuple[list[Test], list[Finding]]:
    """Tests the sampled values of every feature, over all rows and in each slice.

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
        return [], [finding_of(rule, "skipped", reason, statistic="inputs", slice=None)]
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


def _forecast(shares: np.ndarray, rows: np.ndarray, window: int, weekdays: np.ndarray | None) -> Forecast:
    error = angle_error(rows[-1])
    return forecast(angle(shares[:-1]), window=window, weekdays=weekdays, floor=error, fit_tail=False)


def _tests(rule: Drift, context: Context, series: InputSeries, expected: Forecast) -> list[Test]:
    tonight = angle(series.shares[-1])
    p = expected.p_values(tonight)
    with np.errstate(invalid="ignore"):
        highest = np.fmax.reduce(angle(series.shares[:-1]), axis=0, initial=0.0)
    label = context.tonight.run.labels.get(series.feature, series.feature)
    least = _LARGE[series.statistic][1 if series.categorical else 0]
    tests = []
    for at, name in enumerate(series.slices):
        if not selected(rule, series.feature, name, None) or series.rows[-1, at] < rule.min_rows:
            continue
        if not math.isfinite(p[at]):
            continue
        usual = float(share_of(expected.level[at]))
        share = float(series.shares[-1, at])
        words = _WORDS[series.statistic].format(
            share=percent(share), usual=percent(usual), feature=label, slice=f" in {name}" if name else ""
        )
        finding = finding_of(
            rule,
            "pass",
            words,
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
