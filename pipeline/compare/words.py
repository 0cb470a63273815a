"""A comparison in sentences: what to say first, and what each change is called."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.wording import count, listed, number, percent, plain, shorten

if TYPE_CHECKING:
    from pipeline.compare.baselines import MovedBaseline
    from pipeline.compare.comparison import Comparison, Predictions

_NAME = 60
#: Standard errors from which on a mean score has changed by more than chance; baselines that are told.
_CLEAR, _BASELINES = 3.0, 3
#: A distribution that moved by less than this part of the mean |φ| is about the same.
MOVED = 0.25


def name(text: str) -> str:
    """A name from the data in a sentence."""
    return shorten(plain(text), _NAME)


def when(created: str) -> str:
    """A time as people write it, to the minute."""
    return f"{created[:10]} {created[11:16]} UTC" if created[19:] in ("+00:00", "Z") else created


def headline(found: Comparison) -> str:
    """What changed, in a sentence or two."""
    return " ".join(_headline(found))


def _headline(found: Comparison) -> Iterator[str]:
    summary = found.setting.summary
    yield f"{summary[:1].upper()}{summary[1:]}."
    if found.incomparable is not None:
        yield f"Nothing can be compared: {found.incomparable}."
        return
    yield from scores(found)
    yield from moved_baseline(found)
    both = found.features[found.features["status"] == "both"]
    if both.empty:
        return
    clear = both[both["significant"]]
    features = both["feature"].nunique()
    if len(clear):
        changed = clear["feature"].nunique()
        which, most = f"{changed:,} of {count(features, 'feature')}", _largest(found, clear.iloc[0])
        yield f"The importance of {which} clearly changed, most of all that of {most}."
    elif (both["size"] == 0).all() and (both["shift"].fillna(0.0) == 0).all():
        yield "Importance is the same in both."
    else:
        yield f"No change in the importance of the {count(features, 'feature')} is more than chance."
    turned = both[both["flip"]]["feature"].nunique()
    if turned:
        yield f"The mean effect of {count(turned, 'feature')} has turned to the other side of 0."
    came = [found.features[found.features["status"] == kind]["feature"].nunique() for kind in ("new", "gone")]
    parts = [f"{count(n, 'feature')} {verb}" for n, verb in zip(came, ("came", "went"), strict=True) if n]
    if parts:
        yield f"{listed(parts).capitalize()}."
    yield from other_units(found)


def scores(found: Comparison) -> Iterator[str]:
    """How the mean score changed, where it did by more than chance: of the target of the clearest change."""
    best, clearest = None, _CLEAR
    for each in found.predictions:
        before, after = found.units[each.target]
        way, error = each.mean[1] - each.mean[0], math.hypot(*each.error)
        rounding = 1e-6 * max(abs(mean) for mean in each.mean)
        if before == after and abs(way) > rounding and abs(way) > clearest * error:
            best, clearest = each, abs(way) / error if error else math.inf
    if best is not None:
        of = f" of {name(best.target)}" if len(found.targets) > 1 else ""
        rose = "rose" if best.mean[1] > best.mean[0] else "fell"
        yield f"The mean score{of} {rose} from {number(best.mean[0], 3)} to {number(best.mean[1], 3)}."


def moved_baseline(found: Comparison) -> Iterator[str]:
    """That φ are measured from another point, and how to hold it."""
    if not found.baselines:
        return
    told = [baseline(each) for each in found.baselines[:_BASELINES]]
    rest = len(found.baselines) - len(told)
    more = [f"{rest:,} more"] if rest else []
    yield f"The baseline moved: {listed([*told, *more])}."
    if found.held_by is not None:
        yield (
            "φ are measured from it, so that what moved it does not show in them; to hold it, give the "
            f"second run baseline: {{kind: run, path: {found.held_by}}}."
        )


def baseline(each: MovedBaseline) -> str:
    """A feature's baseline in both runs."""
    before, after = (shorten(plain(text), _NAME) for text in (each.before, each.after))
    return f"{name(each.label)} from {before} to {after}"


def bins(found: Comparison) -> list[str]:
    """Bins whose edges differ, so that slices do not meet."""
    lines = []
    for column, (before, after) in found.edges.items():
        shown = [", ".join(f"{edge:g}" for edge in edges) for edges in (before, after)]
        lines.append(f"the bins of {name(column)} have the edges {shown[0]} in A and {shown[1]} in B")
    if lines:
        held = "give them in the config, bins: [18, 35], or take the baseline of the first run, kind: run"
        lines.append(f"only bins between the same edges are compared; to hold edges, {held}")
    return lines


def _largest(found: Comparison, row: Any) -> str:
    before, after = percent(row["share_a"]), percent(row["share_b"])
    return f"{_named(found, row)}: {before} of the total before, {after} now"


def other_units(found: Comparison) -> Iterator[str]:
    """That shares and ranks alone can be compared, where the units of φ differ."""
    for target, (before, after) in found.units.items():
        if before != after:
            of = f" of {name(target)}" if len(found.targets) > 1 else ""
            yield (
                f"φ{of} is in units of the {before} in the first run and of the {after} in the second: "
                "shares and ranks are compared, sizes are not."
            )
            return


def totals(found: Comparison) -> Iterator[tuple[str, float, float]]:
    """(target, total mean |φ| in the first run, in the second) of targets in the same units."""
    for target, (before, after) in found.units.items():
        mine = found.features[found.features["target_name"] == target]
        if before == after and len(mine):
            yield target, float(mine["mean_abs_a"].sum()), float(mine["mean_abs_b"].sum())


def flips(found: Comparison) -> list[str]:
    """Features that raise the score on average in one run and lower it in the other."""
    rows = found.features[found.features["flip"]]
    lines = []
    for row in rows.to_dict("records"):
        before = "raised" if row["mean_a"] > 0 else "lowered"
        now = "raises" if row["mean_b"] > 0 else "lowers"
        means = f"{number(row['mean_a'], 3)} to {number(row['mean_b'], 3)}"
        lines.append(f"{_named(found, row)} {before} the score on average and now {now} it: {means}")
    return lines


def moved(found: Comparison) -> list[str]:
    """Features whose φ is distributed otherwise, though their importance may be about the same."""
    rows = found.features[found.features["shift"] >= MOVED]
    return [
        f"φ of {_named(found, row)} moved by {percent(row['shift'])} of its mean size: its median went from "
        f"{number(row['p50_a'], 3)} to {number(row['p50_b'], 3)}"
        for row in rows.sort_values("shift", ascending=False, kind="stable").to_dict("records")
    ]


def _named(found: Comparison, row: Any) -> str:
    """A feature; with its target where there are several."""
    feature = name(row["label"])
    return f"{feature} for {name(row['target_name'])}" if len(found.targets) > 1 else feature


def predictions(each: Predictions) -> str:
    """How the score and what it is compared with changed."""
    shown = [f"{number(m, 3)} ± {number(1.96 * e, 2)}" for m, e in zip(each.mean, each.error, strict=True)]
    base = [number(value, 3) for value in each.base]
    return f"mean score {shown[0]} → {shown[1]}, base value {base[0]} → {base[1]}"


def rejected(found: Comparison) -> str:
    """Rejected rows in either run."""
    sides = (found.first, found.second)
    shares = [percent(side.rejected / max(side.rejected + side.rows, 1)) for side in sides]
    return f"{sides[0].rejected:,} ({shares[0]}) → {sides[1].rejected:,} ({shares[1]})"


def reasons(found: Comparison) -> list[tuple[str, int, int]]:
    """Reasons that rejected another number of rows, the largest difference first."""
    before, after = found.first.reasons, found.second.reasons
    rows = [(why, before.get(why, 0), after.get(why, 0)) for why in dict.fromkeys([*before, *after])]
    return sorted((row for row in rows if row[1] != row[2]), key=lambda row: -abs(row[1] - row[2]))
