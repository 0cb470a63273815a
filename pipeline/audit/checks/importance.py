"""Rules about tonight's importance alone: bounds of a statistic, and gaps between two slices."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.audit.checks.base import bounded, finding_of
from pipeline.audit.checks.context import Context, Test
from pipeline.audit.checks.messages import feature_in_words
from pipeline.audit.findings import Finding
from pipeline.audit.rules import Bound, Gap
from pipeline.wording import number, percent


def bound_checks(rule: Bound, context: Context) -> tuple[list[Test], list[Finding]]:
    """Checks that a statistic of the importance is within bounds."""
    known = context.tonight.importance[rule.statistic].to_dict()
    findings = []
    for slice_ in rule.slices:
        for target in _targets(rule.targets, context):
            for feature in rule.features:
                values = {"feature": feature, "slice": slice_, "target_name": target}
                where = feature_in_words(context.tonight, feature, slice_, target)
                if (slice_, target, feature) not in known:
                    findings.append(_missing(rule, context, values, where))
                    continue
                value = float(known[slice_, target, feature])
                shown = percent(value) if rule.statistic in ("share", "positive") else number(value)
                message = f"the {rule.statistic} of {where} is {shown}"
                findings.append(bounded(rule, value, message, statistic=rule.statistic, **values))
    return [], findings


def gap_checks(rule: Gap, context: Context) -> tuple[list[Test], list[Finding]]:
    """Checks that a feature does not push two slices apart.

    The gap is |mean φ in one slice − mean φ in the other| over the total mean |φ| of all rows.
    """
    frame = context.tonight.importance
    keys: list[tuple[str, str, str]] = list(frame.index)
    means = dict(zip(keys, frame["mean"].tolist(), strict=True))
    sizes = dict(zip(keys, frame["mean_abs"].tolist(), strict=True))
    features = list(dict.fromkeys(frame.index.get_level_values(2)))
    rows = {key[:2] for key in means}
    findings = []
    for target in _targets(rule.targets, context):
        lacking = [slice_ for slice_ in rule.slices if (slice_, target) not in rows]
        if lacking:
            message = f"no row is in the slice {lacking[0]} tonight"
            findings.append(finding_of(rule, "skipped", message, slice=lacking[0], target_name=target))
            continue
        total = sum(size for key, size in sizes.items() if key[:2] == ("", target))
        for feature in rule.features or features:
            values = {"feature": feature, "slice": " | ".join(rule.slices), "target_name": target}
            where = feature_in_words(context.tonight, feature, "", target)
            pair = [(slice_, target, feature) for slice_ in rule.slices]
            if any(key not in means for key in pair):
                findings.append(_missing(rule, context, values, where))
                continue
            one, other = (float(means[key]) for key in pair)
            gap = abs(one - other) / total if total else 0.0
            message = (
                f"{where} has mean φ {number(one, 3)} in {rule.slices[0]} and {number(other, 3)} in "
                f"{rule.slices[1]}: a gap of {percent(gap)} of all mean |φ|"
            )
            findings.append(bounded(rule, gap, message, statistic="gap", effect=gap, **values))
    return [], findings


def _targets(wanted: Sequence[str] | None, context: Context) -> list[str]:
    names = list(dict.fromkeys(context.tonight.importance.index.get_level_values(1)))
    return names if wanted is None else list(wanted)


def _missing(rule: Bound | Gap, context: Context, values: dict[str, str], where: str) -> Finding:
    """The finding for a series that tonight's importance lacks: a wrong name, or a slice without rows."""
    index = context.tonight.importance.index
    if values["feature"] not in set(index.get_level_values(2)):
        return finding_of(rule, "error", f"the run has no feature {values['feature']!r}", **values)
    if values["target_name"] not in set(index.get_level_values(1)):
        return finding_of(rule, "error", f"the run has no target {values['target_name']!r}", **values)
    return finding_of(rule, "skipped", f"no row tells about {where} tonight", **values)
