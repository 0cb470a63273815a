"""A comparison on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.compare import sentences as words
from pipeline.compare.comparison import Comparison, Side
from pipeline.terminal.run_and_plan import fact, nearby
from pipeline.terminal.text_table import clean, console, print_table, wrapped, write
from pipeline.wording import count, fitted, number, percent, signed

#: Most features and slices in a table.
_TOP = 10
#: Width of a feature's name, in characters.
_NAME = 20
#: Width of a slice's name, in characters.
_SLICE = 24
#: Most sentences for each kind of change.
_LINES = 5


def print_comparison(comparison: Comparison, page: str | None = None) -> None:
    """Prints a comparison: the headline, how the runs differ, and the changes, most important first.

    Args:
      comparison: The comparison.
      page: The path of the page, if one was written.
    """
    out = console()
    wrapped(out, clean(words.headline(comparison)))
    write(out)
    for letter, side in (("A", comparison.first), ("B", comparison.second)):
        _side(out, letter, side)
    for difference in comparison.setting.differences:
        part = f"{difference.name}: " if difference.name else ""
        fact(out, difference.subject, f"{part}{difference.before} → {difference.after}")
    if comparison.first.rejected or comparison.second.rejected:
        fact(out, "rejected", words.rejected(comparison))
        for why, before, after in words.reasons(comparison)[:_LINES]:
            fact(out, "", f"{before:,} → {after:,} × {fitted(clean(why), 200)}")
    if page is not None:
        fact(out, "page", nearby(page))
    _quality(out, comparison)
    for each in comparison.predictions:
        whose = f"{words.name(each.target)}: " if len(comparison.predictions) > 1 else ""
        fact(out, "scores", f"{whose}{words.predictions(each)} ({_in_rows(*each.rows)})")
    for at, moved in enumerate(comparison.baselines[:_TOP]):
        fact(out, "" if at else "baseline moved", words.baseline(moved))
    if comparison.incomparable is not None:
        return
    _targets(out, comparison)
    _features(out, comparison)
    _sentences(out, "Direction", words.flips(comparison))
    _sentences(out, "Distribution of φ", words.moved(comparison))
    _slices(out, comparison)


def _side(out: Console, letter: str, side: Side) -> None:
    fact(out, letter, f"{nearby(side.path)}: {count(side.rows, 'row')} explained, {words.when(side.created)}")


def _in_rows(before: int, after: int) -> str:
    """The numbers of rows examined in each run, in words."""
    return f"in {count(before, 'row')} of each" if before == after else f"in {before:,} and {after:,} rows"


def _quality(out: Console, comparison: Comparison) -> None:
    before, after = comparison.first.relative_p99, comparison.second.relative_p99
    if before != after:
        shown = ["none promised" if value is None else f"{value:.1g}" for value in (before, after)]
        fact(out, "Σφ", f"misses by {shown[0]} → {shown[1]} (p99), relative to each run's own scale")
    for letter, side in (("A", comparison.first), ("B", comparison.second)):
        for line in side.exceeded:
            fact(out, f"limit of {letter}", line)


def _targets(out: Console, comparison: Comparison) -> None:
    for ours, theirs in comparison.targets.items():
        if ours != theirs:
            fact(out, "target", f"{words.name(ours)} is compared with {words.name(theirs)}")
    for text, names in (("only in A", comparison.only_first), ("only in B", comparison.only_second)):
        if names:
            fact(out, f"targets {text}", _some(names))
    for target, before, after in words.totals(comparison):
        whose = f"{words.name(target)}: " if len(comparison.targets) > 1 else ""
        fact(out, "Σ mean |φ|", f"{whose}{number(before, 3)} → {number(after, 3)}")


def _features(out: Console, comparison: Comparison) -> None:
    write(out)
    shown = comparison.features.head(_TOP)
    part = f", {len(shown)} of {len(comparison.features):,}" if len(comparison.features) > len(shown) else ""
    write(out, Text(f"Largest changes{part}", style="bold"))
    several = len(comparison.targets) > 1
    lines: list[list[str | Text]] = [
        [
            "*" if row["significant"] else "",
            *([fitted(clean(row["target_name"]), 12)] if several else []),
            fitted(clean(row["label"]), _NAME),
            number(row["mean_abs_a"], 3),
            number(row["mean_abs_b"], 3),
            _change(row),
            f"{_share(row['share_a'])} → {_share(row['share_b'])}",
            _ranks(row),
        ]
        for row in shown.to_dict("records")
    ]
    header = ["", *(["target"] if several else []), "feature", "A", "B", "change", "share", "rank"]
    print_table(out, lines, f"<{'<' if several else ''}<>>>>>", header=header)
    note = (
        "A and B: mean |φ|; ±: 95 % interval of the change. *: beyond chance, by Benjamini–Hochberg at 5 %, "
        "or, where units differ, by intervals of the ranks that do not overlap."
    )
    wrapped(out, note, "  ")


def _change(row: Any) -> Text:
    if row["status"] != "both":
        return Text(row["status"], style="bold yellow")
    if math.isnan(row["change"]):
        points = 100 * row["share_change"]
        text = f"{points:+.1f} points".replace("-", "−")
    else:
        wide = (row["high"] - row["low"]) / 2
        text = (
            signed(row["change"], 2)
            if math.isnan(wide)
            else f"{signed(row['change'], 2)} ± {number(wide, 2)}"
        )
    style = ("red" if row["share_change"] > 0 else "blue") if row["significant"] else "dim"
    return Text(text, style=style)


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _ranks(row: Any) -> str:
    ranks = ["–" if math.isnan(row[key]) else f"{row[key]:.0f}" for key in ("rank_a", "rank_b")]
    return ranks[0] if ranks[0] == ranks[1] else " → ".join(ranks)


def _sentences(out: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    write(out)
    write(out, Text(title, style="bold"))
    for line in lines[:_LINES]:
        wrapped(out, line, "    ", "  ")
    if len(lines) > _LINES:
        write(out, f"  … and {len(lines) - _LINES:,} more (--json has all)")


def _slices(out: Console, comparison: Comparison) -> None:
    _sentences(out, "Bins", words.bins(comparison))
    clear = comparison.by_slice[comparison.by_slice["significant"]]
    if len(comparison.by_slice):
        write(out)
        title = f"Slices: {len(clear):,} of {len(comparison.by_slice):,} with a clear change"
        write(out, Text(title, style="bold"))
        several = len(comparison.targets) > 1
        lines = [
            [
                *([fitted(clean(row["target_name"]), 12)] if several else []),
                fitted(clean(row["slice"]), _SLICE),
                f"{row['rows_a']:,.0f} → {row['rows_b']:,.0f}",
                percent(row["moved"]),
                fitted(clean(row["label"]), 16),
                f"{_share(row['share_a'])} → {_share(row['share_b'])}",
            ]
            for row in clear.head(_TOP).to_dict("records")
        ]
        header = [*(["target"] if several else []), "slice", "rows", "moved", "most of all", "share"]
        print_table(out, lines, f"{'<' if several else ''}<>><>", header=header if lines else ())
    for text, names in (("A", comparison.slices_gone), ("B", comparison.slices_new)):
        if names:
            wrapped(out, f"{count(len(names), 'slice')} only in {text}: {_some(names)}", "  ")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(words.name(each) for each in names[:8])
    return f"{shown} and {len(names) - 8:,} more" if len(names) > 8 else shown
