"""The rule `drift`: tonight differs from its forecast by more than nights usually differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipeline.audit.checks.base import finding_of
from pipeline.audit.checks.context import SLICE_WEIGHT, Context, Test, selected
from pipeline.audit.checks.drift_inputs import input_tests
from pipeline.audit.checks.messages import feature_in_words
from pipeline.audit.findings import Finding
from pipeline.audit.history import SMALL, History
from pipeline.audit.rules import Drift
from pipeline.wording import count, number, percent
from transforms.statistics.forecast import Forecast, forecast

#: Smallest move of mean φ that counts, in units of the usual mean |φ|.
_MOVE = 0.5
#: Fraction of the earlier nights on which a slice must have had enough rows.
_MOST_NIGHTS = 0.5


def drift_tests(rule: Drift, context: Context) -> tuple[list[Test], list[Finding]]:
    """Tests every series of a night; `decide` judges them together.

    Returns:
      The tests, and findings for what was skipped.
    """
    tests: list[Test] = []
    skipped: list[Finding] = []
    if rule.inputs:
        made, left = input_tests(rule, context)
        tests += made
        skipped += left
    nights = len(context.same_model)
    if nights < rule.min_history:
        reason = (
            f"the model is new tonight, and {count(nights, 'earlier night')} had it"
            if context.model_changed
            else f"{count(nights, 'earlier night')} can be compared, and {rule.min_history} are needed"
        )
        return tests, [*skipped, finding_of(rule, "skipped", reason, slice=None)]
    history = context.history
    usable, reasons = _usable(rule, context, history)
    skipped += reasons
    tests += _tests(rule, context, history, usable)
    return tests, skipped


def _usable(rule: Drift, context: Context, history: History) -> tuple[np.ndarray, list[Finding]]:
    """Marks the series that can be tested, `[K]`; and findings that say why the others are skipped."""
    known = np.isfinite(history.columns["mean_abs"][:-1]).sum(axis=0)
    here = np.isfinite(history.columns["mean_abs"][-1])
    constant = history.one_value_a_night & ~(np.nan_to_num(history.columns["std"][-1]) > history.small)
    small = _small_slices(rule, history)
    usable = np.zeros(len(history.keys), bool)
    too_few = f"fewer than {count(rule.min_rows, 'row')} tonight or on most nights"
    skipped = [
        finding_of(rule, "skipped", too_few, slice=slice_)
        for slice_ in small
        if selected(rule, None, slice_, None)
    ]
    for at, (slice_, target, feature) in enumerate(history.keys):
        if slice_ in small or not selected(rule, feature, slice_, target):
            continue
        reason = None
        if not here[at]:
            reason = "the latest earlier night had it, and tonight has not"
        elif known[at] < rule.min_history:
            reason = f"{count(int(known[at]), 'earlier night')} had it, and {rule.min_history} are needed"
        elif constant[at] or feature in context.one_value_a_night:
            reason = "it has one value in each night, which differs between nights by its nature"
        if reason is None:
            usable[at] = True
        else:
            key = {"slice": slice_, "feature": feature, "target_name": target}
            skipped.append(finding_of(rule, "skipped", f"{feature}: {reason}", **key))
    return usable, skipped


def _small_slices(rule: Drift, history: History) -> list[str]:
    """The slices with too few rows tonight, or on most of the earlier nights."""
    rows = np.nan_to_num(history.columns["rows"])
    names = history.keys.get_level_values(0).to_numpy(str)
    small = []
    for name in dict.fromkeys(names.tolist()):
        of_slice = rows[:, names == name].max(axis=1)
        if of_slice[-1] < rule.min_rows or (of_slice[:-1] >= rule.min_rows).mean() < _MOST_NIGHTS:
            small.append(name)
    return small


def _tests(rule: Drift, context: Context, history: History, usable: np.ndarray) -> Iterator[Test]:
    if not usable.any():
        return
    keys = history.keys[usable]
    groups = np.unique(keys.get_level_values(0).to_numpy(str), return_inverse=True)[1]
    season = history.weekdays if context.rules.reference.season == "week" else None
    masked = _masked(context, history)
    floors = {
        "mean_abs": history.log_mean_abs_error,
        "mean": history.scaled_mean_error,
        "share": history.log_mean_abs_error,
    }
    series = {"mean_abs": history.log_mean_abs, "mean": history.scaled_mean, "share": history.log_share}
    targets = history.targets
    for statistic, values in series.items():
        values = values[:, usable]
        before = np.where(masked[:, usable], np.nan, values[:-1])
        expected = forecast(
            before,
            window=context.rules.reference.window,
            weekdays=season,
            groups=groups,
            floor=np.nan_to_num(floors[statistic][usable]),
        )
        p = expected.p_values(values[-1])
        for at, (slice_, target, feature) in enumerate(keys):
            finding = finding_of(
                rule,
                "pass",
                "",
                statistic=statistic,
                feature=feature,
                slice=slice_,
                target=targets.get(target),
                target_name=target,
                p_value=float(p[at]),
                verdict="inputs",  # the model is the one of the earlier nights
            )
            yield _judged(rule, finding, expected, values[-1], history, np.flatnonzero(usable)[at], at)


def _judged(
    rule: Drift, finding: Finding, expected: Forecast, values: np.ndarray, history: History, key: int, at: int
) -> Test:
    """A test with its figures in the statistic's own unit, and in words."""
    level, value, spread = float(expected.level[at]), float(values[at]), float(expected.spread[at])
    where = feature_in_words(history.tonight, finding.feature or "", finding.slice, finding.target_name)
    small = float(history.small[key])
    if finding.statistic == "mean":
        usual_size = float(history.usual[key])
        actual, usual = math.sinh(value) * usual_size, math.sinh(level) * usual_size
        effect = (actual - usual) / usual_size
        large = abs(effect) >= _MOVE
        low, high = (math.sinh(level + sign * 2 * spread) * usual_size for sign in (-1, 1))
        words = f"mean φ of {where} is {number(actual, 3)}, and usually {number(low, 3)} to {number(high, 3)}"
    else:
        effect = math.expm1(value - level) if math.isfinite(level) else float("nan")
        large = abs(value - level) >= math.log1p(rule.min_effect)
        low, high = (math.exp(level + sign * 2 * spread) for sign in (-1, 1))
        if finding.statistic == "share":
            actual, usual = math.exp(value) - SMALL, math.exp(level) - SMALL
            words = (
                f"the share of {where} is {percent(actual)}, and usually {percent(max(low - SMALL, 0))} to "
                f"{percent(min(high - SMALL, 1))}"
            )
        else:
            actual, usual = math.exp(value) - small, math.exp(level) - small
            words = (
                f"mean |φ| of {where} is {number(actual, 3)}, and usually "
                f"{number(max(low - small, 0.0), 3)} to {number(high - small, 3)}"
            )
    # Shares are consequences: where one feature moves, the shares of all others move the other way.
    weight = SLICE_WEIGHT if finding.slice else 1.0
    rank = (2.0 if finding.statistic == "share" else 1.0) * 1000 - min(abs(effect), 9.0) * weight * 10
    judged = replace(finding, actual=actual, expected=usual, effect=effect, message=words, rank=rank)
    return Test(judged, bool(large))


def _masked(context: Context, history: History) -> np.ndarray:
    """Marks earlier values that an audit found drifting, `[N, K]`, so that they are not learnt as usual.

    A series found on most of the latest fourteen nights has a new level, which is learnt.
    """
    masked = np.zeros((len(history.nights), len(history.keys)), bool)
    if not context.flagged:
        return masked
    index = {(feature, slice_, target): at for at, (slice_, target, feature) in enumerate(history.keys)}
    for night, held in enumerate(history.nights):
        for key in context.flagged.get(held.date.isoformat(), ()):
            if key in index:
                masked[night, index[key]] = True
    masked[:, masked[-14:].sum(axis=0) > 7] = False
    return masked
