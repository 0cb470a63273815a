"""Rules about the order and the direction of features against earlier nights: rank_agreement and sign."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.audit.checks.base import bounded, finding_of
from pipeline.audit.checks.context import Context, Test, selected
from pipeline.audit.checks.messages import feature_in_words
from pipeline.audit.findings import Finding
from pipeline.audit.rules import RankAgreement, Sign
from pipeline.wording import count, number
from transforms.statistics.forecast import forecast
from transforms.statistics.rank_agreement import agreement

#: Fewest earlier nights.
_FEWEST_NIGHTS = 7
#: Share of the earlier nights whose mean φ must have one sign for a direction to be known.
_ONE_SIGN = 0.95


def rank_agreement_checks(rule: RankAgreement, context: Context) -> tuple[list[Test], list[Finding]]:
    """Checks that the order of features by mean |φ| agrees with that of the median night."""
    if too_few := _too_few(rule, context):
        return [], [too_few]
    history = context.history
    usual = history.usual
    tonight = history.columns["mean_abs"][-1]
    groups: dict[tuple[str, str], list[int]] = {}
    for at, (slice_, target, feature) in enumerate(history.keys):
        if selected(rule, feature, slice_, target) and np.isfinite(tonight[at]):
            groups.setdefault((slice_, target), []).append(at)
    findings = []
    for (slice_, target), members in groups.items():
        value = agreement(rule.measure, usual[members], tonight[members], rule.top)
        where = f" in {slice_}" if slice_ else ""
        message = (
            f"the {rule.measure} of the order of features{where} with the usual order is {number(value, 3)}"
        )
        findings.append(
            bounded(rule, value, message, slice=slice_, target_name=target, statistic=rule.measure)
        )
    return [], findings


def sign_tests(rule: Sign, context: Context) -> tuple[list[Test], list[Finding]]:
    """Tests whether mean φ of a feature has turned to the other side of 0."""
    if too_few := _too_few(rule, context):
        return [], [too_few]
    return list(_sign_tests(rule, context)), []


def _sign_tests(rule: Sign, context: Context) -> Iterator[Test]:
    history = context.history
    means = history.columns["mean"]
    known = np.maximum(np.isfinite(means[:-1]).sum(axis=0), 1)
    one_way = np.maximum((means[:-1] > 0).sum(axis=0), (means[:-1] < 0).sum(axis=0)) >= _ONE_SIGN * known
    season = history.weekdays if context.rules.reference.season == "week" else None
    values = history.scaled_mean
    expected = forecast(
        values[:-1],
        window=context.rules.reference.window,
        weekdays=season,
        floor=np.nan_to_num(history.scaled_mean_error),
    )
    p = expected.p_values(values[-1])
    targets = history.targets
    for at, (slice_, target, feature) in enumerate(history.keys):
        enough = np.isfinite(means[:-1, at]).sum() >= _FEWEST_NIGHTS
        if not (selected(rule, feature, slice_, target) and one_way[at] and enough and np.isfinite(p[at])):
            continue
        if feature in context.one_value_a_night:
            continue
        usual = float(np.nanmedian(means[:-1, at]))
        tonight = float(means[-1, at])
        where = feature_in_words(context.tonight, feature, slice_, target)
        verbs = ("raises", "lowers") if tonight > 0 else ("lowers", "raises")
        finding = finding_of(
            rule,
            "pass",
            f"{where} {verbs[0]} the score on average, and usually {verbs[1]} it",
            statistic="mean",
            feature=feature,
            slice=slice_,
            target=targets.get(target),
            target_name=target,
            expected=usual,
            actual=tonight,
            effect=(tonight - usual) / float(history.usual[at]),
            p_value=float(p[at]),
            verdict="inputs",
            rank=900.0,
        )
        matters = (
            np.nan_to_num(history.columns["share"][-1, at]) >= rule.min_share
            and history.columns["rows"][-1, at] >= rule.min_rows
        )
        yield Test(finding, bool(usual * tonight < 0 and matters))


def _too_few(rule: RankAgreement | Sign, context: Context) -> Finding | None:
    nights = len(context.same_model)
    if nights >= _FEWEST_NIGHTS:
        return None
    reason = f"{count(nights, 'earlier night')} had tonight's model, and {_FEWEST_NIGHTS} are needed"
    return finding_of(rule, "skipped", reason, slice=None)
