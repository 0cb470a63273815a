"""A comparison in sentences: the headline, and lines for each kind of change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.wording import count, listed, number, percent, plain, shorten

if TYPE_CHECKING:
    from pipeline.compare.baselines import MovedBaseline
    from pipeline.compare.comparison import Comparison, Predictions

#: Most characters of a name from the data in a sentence.
_NAME = 60
#: Standard errors above which a mean score has changed by more than chance.
_CLEAR = 3.0
#: Most moved baselines that the headline names.
_BASELINES = 3
#: Shift of a distribution, in mean |φ|, below which it counts as unmoved.
MOVED = 0.25


def name(text: str) -> str:
    """Formats a name from the data for a sentence."""
    return shorten(plain(text), _NAME)


def when(created: str) -> str:
    """A time to the minute, such as `2026-11-28 14:01 UTC`."""
    return f"{created[:10]} {created[11:16]} UTC" if created[19:] in ("+00:00", "Z") else created


def headline(comparison: Comparison) -> str:
    """The most important changes, in a few sentences."""
    return " ".join(_headline(comparison))


def _headline(comparison: Comparison) -> Iterator[str]:
    summary = comparison.setting.summary
    yield f"{summary[:1].upper()}{summary[1:]}."
    if comparison.incomparable is not None:
        yield f"Nothing can be compared: {comparison.incomparable}."
        return
    yield from scores(comparison)
    yield from moved_baseline(comparison)
    both = comparison.features[comparison.features["status"] == "both"]
    if both.empty:
        return
    clear = both[both["significant"]]
    features = both["feature"].nunique()
    if len(clear):
        changed = clear["feature"].nunique()
        which, most = f"{changed:,} of {count(features, 'feature')}", _largest(comparison, clear.iloc[0])
        yield f"The importance of {which} clearly changed, most of all that of {most}."
    elif (both["size"] == 0).all() and (both["shift"].fillna(0.0) == 0).all():
        yield "Importance is the same in both."
    else:
        yield f"No change in the importance of the {count(features, 'feature')} is more than chance."
    turned = both[both["flip"]]["feature"].nunique()
    if turned:
        yield f"The mean effect of {count(turned, 'feature')} has changed sign."
    came = [
        comparison.features[comparison.features["status"] == kind]["feature"].nunique()
        for kind in ("new", "gone")
    ]
    parts = [f"{count(n, 'feature')} {verb}" for n, verb in zip(came, ("came", "went"), strict=True) if n]
    if parts:
        yield f"{listed(parts).capitalize()}."
    yield from other_units(comparison)


def scores(comparison: Comparison) -> Iterator[str]:
    """A sentence on the mean score that changed most clearly; none if all changes may be chance."""
    best, clearest = None, _CLEAR
    for each in comparison.predictions:
        before, after = comparison.units[each.target]
        way, error = each.mean[1] - each.mean[0], math.hypot(*each.error)
        rounding = 1e-6 * max(abs(mean) for mean in each.mean)
        if before == after and abs(way) > rounding and abs(way) > clearest * error:
            best, clearest = each, abs(way) / error if error else math.inf
    if best is not None:
        whose = f" of {name(best.target)}" if len(comparison.targets) > 1 else ""
        rose = "rose" if best.mean[1] > best.mean[0] else "fell"
        yield f"The mean score{whose} {rose} from {number(best.mean[0], 3)} to {number(best.mean[1], 3)}."


def moved_baseline(comparison: Comparison) -> Iterator[str]:
    """A sentence on the baselines that moved, and how to keep the baseline of the first run."""
    if not comparison.baselines:
        return
    named = [baseline(each) for each in comparison.baselines[:_BASELINES]]
    rest = len(comparison.baselines) - len(named)
    more = [f"{rest:,} more"] if rest else []
    yield f"The baseline moved: {listed([*named, *more])}."
    if comparison.held_by is not None:
        yield (
            "φ are measured from the baseline, so they do not show what moved it; to keep it, give the "
            f"second run baseline: {{kind: run, path: {comparison.held_by}}}."
        )


def baseline(each: MovedBaseline) -> str:
    """A feature's baseline in both runs, in words."""
    before, after = (shorten(plain(text), _NAME) for text in (each.before, each.after))
    return f"{name(each.label)} from {before} to {after}"


def bins(comparison: Comparison) -> list[str]:
    """Lines on bins whose edges differ, so that their slices cannot be compared."""
    lines = []
    for column, (before, after) in comparison.edges.items():
        shown = [", ".join(f"{edge:g}" for edge in edges) for edges in (before, after)]
        lines.append(f"the bins of {name(column)} have the edges {shown[0]} in A and {shown[1]} in B")
    if lines:
        held = "give them in the config, bins: [18, 35], or take the baseline of the first run, kind: run"
        lines.append(f"only bins between the same edges are compared; to keep edges, {held}")
    return lines


def _largest(comparison: Comparison, row: Any) -> str:
    before, after = percent(row["share_a"]), percent(row["share_b"])
    return f"{_named(comparison, row)}: {before} of the total before, {after} now"


def other_units(comparison: Comparison) -> Iterator[str]:
    """A sentence for runs whose units of φ differ, so that only shares and ranks can be compared."""
    for target, (before, after) in comparison.units.items():
        if before != after:
            whose = f" of {name(target)}" if len(comparison.targets) > 1 else ""
            yield (
                f"φ{whose} is in units of the {before} in the first run and of the {after} in the second: "
                "shares and ranks are compared, sizes are not."
            )
            return


def totals(comparison: Comparison) -> Iterator[tuple[str, float, float]]:
    """(target, total mean |φ| in the first run, in the second) of targets in the same units."""
    for target, (before, after) in comparison.units.items():
        mine = comparison.features[comparison.features["target_name"] == target]
        if before == after and len(mine):
            yield target, float(mine["mean_abs_a"].sum()), float(mine["mean_abs_b"].sum())


def flips(comparison: Comparison) -> list[str]:
    """Lines on features that raise the score on average in one run and lower it in the other."""
    rows = comparison.features[comparison.features["flip"]]
    lines = []
    for row in rows.to_dict("records"):
        before = "raised" if row["mean_a"] > 0 else "lowered"
        now = "raises" if row["mean_b"] > 0 else "lowers"
        means = f"{number(row['mean_a'], 3)} to {number(row['mean_b'], 3)}"
        lines.append(f"{_named(comparison, row)} {before} the score on average and now {now} it: {means}")
    return lines


def moved(comparison: Comparison) -> list[str]:
    """Lines on features whose distribution of φ moved, even if their importance is about the same."""
    rows = comparison.features[comparison.features["shift"] >= MOVED]
    return [
        f"φ of {_named(comparison, row)} moved by {percent(row['shift'])} of its mean size: its median went "
        f"from {number(row['p50_a'], 3)} to {number(row['p50_b'], 3)}"
        for row in rows.sort_values("shift", ascending=False, kind="stable").to_dict("records")
    ]


def _named(comparison: Comparison, row: Any) -> str:
    """A feature's name, with its target where there are several."""
    feature = name(row["label"])
    return f"{feature} for {name(row['target_name'])}" if len(comparison.targets) > 1 else feature


def predictions(each: Predictions) -> str:
    """The mean score and the base value in both runs, in words."""
    shown = [f"{number(m, 3)} ± {number(1.96 * e, 2)}" for m, e in zip(each.mean, each.error, strict=True)]
    base = [number(value, 3) for value in each.base]
    return f"mean score {shown[0]} → {shown[1]}, base value {base[0]} → {base[1]}"


def rejected(comparison: Comparison) -> str:
    """Rejected rows in both runs, in words."""
    sides = (comparison.first, comparison.second)
    shares = [percent(side.rejected / max(side.rejected + side.rows, 1)) for side in sides]
    return f"{sides[0].rejected:,} ({shares[0]}) → {sides[1].rejected:,} ({shares[1]})"


def reasons(comparison: Comparison) -> list[tuple[str, int, int]]:
    """(reason, rows in A, rows in B) where the numbers of rows differ, the largest difference first."""
    before, after = comparison.first.reasons, comparison.second.reasons
    rows = [(why, before.get(why, 0), after.get(why, 0)) for why in dict.fromkeys([*before, *after])]
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: -abs(row[1] - row[2]))
