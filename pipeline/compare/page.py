"""A comparison as a page that needs no other file, rendered like a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.compare import charts
from pipeline.compare import sentences as words
from pipeline.report.blocks import Block, Cell, Choice, Figure, Prose, Section, Table
from pipeline.report.page.render import render
from pipeline.wording import count, listed, percent
from transforms.storage import files

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.compare.comparison import Comparison

_TITLE = "What changed between two runs"
_SIZES = (
    "The line leads from A to B; thin lines are 95 % intervals. Faint features changed by no more than "
    "chance explains (Benjamini–Hochberg, 5 % false). The intervals assume that the runs have different "
    "rows: if the rows are the same, changes are more certain than they look."
)
_SHARES = "The units of φ differ, so shares are compared. Faint: the intervals of the ranks overlap."
#: Most rows in the table of features by slice.
_MOST = 300
#: Most targets to choose from.
_TARGETS = 40
#: Most features whose change of direction gets a sentence.
_SENTENCES = 12


def write_page(comparison: Comparison, path: str) -> str:
    """Writes the page of a comparison and returns its path; an existing file is replaced.

    Raises:
      UserError: The path cannot be written.
    """
    facts = [
        (letter, f"{side.path} · {count(side.rows, 'row')} explained · {words.when(side.created)}")
        for letter, side in (("A", comparison.first), ("B", comparison.second))
    ]
    html = render(_TITLE, words.headline(comparison), facts, sections(comparison))
    files.write_atomic(path, html.encode())
    return path


def sections(comparison: Comparison) -> list[Section]:
    """Builds the sections of the page; those without content are left out."""
    made = [_setting(comparison)]
    if comparison.incomparable is None:
        made += [
            _importance(comparison),
            *_direction(comparison),
            *_distribution(comparison),
            *_slices(comparison),
        ]
    return [*made, *_quality(comparison)]


def _setting(comparison: Comparison) -> Section:
    rows: list[list[Cell]] = [
        [f"{each.subject} {each.name}".strip(), each.before, each.after]
        for each in comparison.setting.differences
    ]
    rows += [["target", ours, theirs] for ours, theirs in comparison.targets.items() if ours != theirs]
    rows += [["target only in A", name, None] for name in comparison.only_first]
    rows += [["target only in B", None, name] for name in comparison.only_second]
    table = Table(["What", "A", "B"], rows, "Everything in which the runs differ")
    blocks: list[Block] = (
        [table] if rows else [Prose("Model, data, method, baseline and config are the same.", "good")]
    )
    if comparison.baselines:
        header = ["Feature", "In A", "In B", "Moved by, in its spread"]
        lines = [
            [each.label, each.before, each.after, _number(each.size)] for each in comparison.baselines[:_MOST]
        ]
        blocks.append(Table(header, lines, "Features whose baseline moved"))
    lead = "Before numbers are compared: do the two runs describe the same thing?"
    return Section("setting", "How the runs differ", lead, blocks)


def _by_target(comparison: Comparison, make: Callable[[int, str], list[Block]]) -> list[Block]:
    """The blocks of the only target, or a choice between targets, largest change first."""
    # The table of changes has this order already.
    targets = list(dict.fromkeys([*comparison.features["target_name"], *comparison.targets]))
    if len(targets) == 1:
        return make(0, targets[0])
    options = {name: make(number, name) for number, name in enumerate(targets[:_TARGETS])}
    blocks: list[Block] = [Choice("Target", {name: shown for name, shown in options.items() if shown})]
    if len(targets) > _TARGETS:
        blocks.append(Prose(f"The {_TARGETS} targets of the largest changes, of {len(targets):,}."))
    return blocks


def _importance(comparison: Comparison) -> Section:
    def figures_of(number: int, target: str) -> list[Block]:
        frame = comparison.features[comparison.features["target_name"] == target]
        same = comparison.units[target][0] == comparison.units[target][1]
        unit = comparison.units[target][0]
        title = f"Largest changes of {'mean |φ|' if same else 'the share of importance'}"
        largest = "; ".join(
            f"{words.name(row['label'])} {percent(row['share_a'])} to {percent(row['share_b'])}"
            for row in frame.head(3).to_dict("records")
        )
        figure = Figure(
            name=f"changes-{number}",
            title=title,
            description=f"Importance in run A and in run B, by feature. Largest changes of share: {largest}.",
            spec=charts.before_and_after(frame, same, unit),
            table=_table(frame, same),
            note=_SIZES if same else _SHARES,
        )
        return [figure]

    before: list[Block] = [Prose(text, "caution") for text in words.other_units(comparison)]
    lead = "How much each feature matters in each of the runs, largest change first."
    return Section("importance", "Importance", lead, [*before, *_by_target(comparison, figures_of)])


def _table(frame: pd.DataFrame, same: bool) -> Table:
    header = ["Feature", "Share in A", "Share in B", "Rank in A", "Rank in B"]
    if same:
        header += ["Mean |φ| in A", "Mean |φ| in B", "Change", "From", "To", "q"]
    header.append("Judgement")
    rows = []
    for row in frame.to_dict("records"):
        keys = ["share_a", "share_b", "rank_a", "rank_b"]
        keys += ["mean_abs_a", "mean_abs_b", "change", "low", "high", "q"] if same else []
        rows.append([row["label"], *(_number(row[key]) for key in keys), _judgement(row)])
    return Table(header, rows, "Every feature; from and to: the 95 % interval of the change")


def _judgement(row: Any) -> str:
    if row["status"] != "both":
        return "only in B" if row["status"] == "new" else "only in A"
    return "clear" if row["significant"] else "within chance"


def _number(value: Any) -> float | int | None:
    if value is None or math.isnan(value):
        return None
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(value)


def _direction(comparison: Comparison) -> Iterator[Section]:
    lines = words.flips(comparison)
    if lines:
        lead = (
            "Features that raise the score on average in one run and lower it in the other, clearly in both."
        )
        blocks = [Prose(f"{line}.", "caution") for line in lines[:_SENTENCES]]
        if len(lines) > _SENTENCES:
            blocks.append(
                Prose(f"And {len(lines) - _SENTENCES:,} more, which attribeam compare --json lists.")
            )
        yield Section("direction", "Direction", lead, blocks)


def _distribution(comparison: Comparison) -> Iterator[Section]:
    def figures_of(number: int, target: str) -> list[Block]:
        frame = comparison.features[
            (comparison.features["target_name"] == target) & (comparison.features["status"] == "both")
        ]
        frame = frame[frame["shift"] > 0].sort_values("shift", ascending=False, kind="stable")
        if frame.empty:
            return [Prose("Each feature's φ has the same distribution in both runs.", "good")]
        shown = frame.head(charts.MOST_BOXES)
        names = listed(words.name(each) for each in shown["label"].head(3))
        header = ["Feature", "Distance", *(f"{q} in {run}" for q in charts.QUANTILES for run in ("A", "B"))]
        rows = [
            [
                row["label"],
                _number(row["shift"]),
                *(_number(row[f"{q}_{side}"]) for q in charts.QUANTILES for side in ("a", "b")),
            ]
            for row in frame.to_dict("records")
        ]
        figure = Figure(
            name=f"distribution-{number}",
            title="φ of the features whose distribution moved most",
            description=f"Quantiles of φ in run A and in run B; {names} moved most.",
            spec=charts.boxes(shown, comparison.units[target][0]),
            table=Table(
                header,
                rows,
                "Quantiles of φ; distance: between the two distributions, as a share of mean |φ|",
            ),
            note=(
                "Bars show the middle half of the rows, thin lines nine tenths of them, ticks the medians: "
                "A above, B below."
            ),
        )
        return [figure]

    if any(before == after for before, after in comparison.units.values()) and len(comparison.features):
        lead = "A feature may matter as much as before and yet push in another direction, or for other rows."
        yield Section("distribution", "Distribution of φ", lead, _by_target(comparison, figures_of))


def _slices(comparison: Comparison) -> Iterator[Section]:
    blocks: list[Block] = [
        Prose(f"{line[:1].upper()}{line[1:]}.", "caution") for line in words.bins(comparison)
    ]
    if len(comparison.by_slice):
        blocks += _by_target(comparison, lambda number, target: _slices_of(comparison, number, target))
    for text, names in (("A", comparison.slices_gone), ("B", comparison.slices_new)):
        if names:
            blocks.append(
                Table([f"Only in {text}"], [[name] for name in names], f"Slices of run {text} alone")
            )
    if blocks:
        lead = "Slices are parts of the rows. Where did importance change most, and for which feature?"
        yield Section("slices", "Slices", lead, blocks)


def _slices_of(comparison: Comparison, number: int, target: str) -> list[Block]:
    frame = comparison.by_slice[comparison.by_slice["target_name"] == target]
    if frame.empty:
        return []
    changes = comparison.slices[comparison.slices["target_name"] == target]
    rows = [
        [
            row["slice"],
            *(_number(row[key]) for key in ("rows_a", "rows_b", "moved")),
            row["label"],
            *(_number(row[key]) for key in ("share_a", "share_b")),
            "clear" if row["significant"] else "within chance",
        ]
        for row in frame.to_dict("records")
    ]
    header = [
        "Slice",
        "Rows in A",
        "Rows in B",
        "Moved",
        "Most of all",
        "Its share in A",
        "In B",
        "Judgement",
    ]
    largest = ", ".join(words.name(each) for each in frame["slice"].head(3))
    figure = Figure(
        name=f"slices-{number}",
        title="Change of the share of importance, by slice and feature",
        description=f"Change of each feature's share in each slice. The largest changes are in {largest}.",
        spec=charts.heat_map(changes, frame["slice"].tolist()),
        table=Table(header, rows, "Every slice; moved: the share of importance that moved to other features"),
        note="In percentage points; crosses mark changes that chance alone would explain.",
    )
    clear = changes[changes["significant"]].head(_MOST)
    if clear.empty:
        return [figure, Prose("No change within a slice is beyond chance.", "good")]
    keys = ["share_a", "share_b", "change", "q"]
    table = Table(
        ["Slice", "Feature", "Share in A", "Share in B", "Change of mean |φ|", "q"],
        [[row["slice"], row["label"], *(_number(row[k]) for k in keys)] for row in clear.to_dict("records")],
        "Clear changes within slices, largest first",
    )
    return [figure, table]


def _quality(comparison: Comparison) -> Iterator[Section]:
    rows: list[Sequence[Any]] = [["rows rejected", comparison.first.rejected, comparison.second.rejected]]
    rows += [[f"rejected: {why}", before, after] for why, before, after in words.reasons(comparison)[:20]]
    rows.append(
        [
            "p99 of the delta, relative to each run's own scale",
            comparison.first.relative_p99,
            comparison.second.relative_p99,
        ]
    )
    several = len(comparison.predictions) > 1
    for each in comparison.predictions:
        whose = f" of {each.target}" if several else ""
        rows += [
            [f"mean score{whose}, over the rows examined", *each.mean],
            [f"its standard error{whose}", *each.error],
            [f"base value{whose}", *each.base],
        ]
    if comparison.incomparable is None:
        rows += [[f"total of mean |φ|, {target}", *both] for target, *both in words.totals(comparison)]
    blocks: list[Block] = [Table(["What", "A", "B"], rows)]
    for letter, side in (("A", comparison.first), ("B", comparison.second)):
        blocks += [Prose(f"Run {letter} exceeded a limit: {line}", "bad") for line in side.exceeded]
    yield Section("quality", "Scores and quality", "Whether the two runs are equally reliable.", blocks)
