"""The report's section on interactions: features whose effect depends on another feature."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.blocks import Block, Figure, Prose, Section, Table
from pipeline.report.data.view import View, brief
from pipeline.report.page.marks import Spec, chart, layer, mark, names, numbers, tooltip
from pipeline.wording import TWO_LINES, number, percent, two_lines

#: Most hints in a chart, and the height of each in pixels.
_MOST = 20
_STEP = 38
#: Most hints in the table behind the chart.
_MOST_ROWS = 100
#: Strength below which a hint is not worth a sentence.
HINT = 0.1


def sections(view: View) -> list[Section]:
    """Builds the hints for each target; nothing if the run kept none."""
    if view.data.interactions is None or view.data.sample is None:
        return []
    blocks = view.by_target(lambda target: _hints(view, target))
    lead = "Where the effect of a feature depends on another feature: hints from the sample, not proofs."
    return [Section("interactions", "Interactions", lead, blocks)] if blocks else []


def strongest(view: View, target: int) -> list[tuple[str, str, float]]:
    """(feature, modulator, strength) of a target, strongest first."""
    table = view.data.interactions
    if table is None:
        return []
    rows = [row for row in table.to_pylist() if row["target"] == target]
    rows.sort(key=lambda row: -row["strength"])
    return [(row["feature"], row["modulator"], float(row["strength"])) for row in rows]


def _hints(view: View, target: int) -> Sequence[Block]:
    hints = strongest(view, target)
    if not view.matters(target):
        return []
    if not hints:
        return [Prose("No feature was found to change the effect of another: each acts on its own.")]
    feature, modulator, strength = hints[0]
    words = view.labels.get(feature, feature), view.labels.get(modulator, modulator)
    return [
        Figure(
            name=f"interactions-{target}",
            title="Which feature modulates which",
            description=(
                f"{len(hints)} hints. Strongest: the effect of {words[0]} depends on {words[1]}, "
                f"{number(strength)}."
            ),
            spec=_bars(view, hints[:_MOST]),
            note=(
                f"“{words[0]} by {words[1]}”: among rows of similar {words[0]}, the value of {words[1]} "
                f"explains {percent(strength)} of the remaining differences in φ. Features that are "
                "correlated in the data may stand in for each other."
            ),
            table=Table(
                ["Feature", "Modulated by", "Strength"],
                [[view.labels.get(f, f), view.labels.get(m, m), s] for f, m, s in hints[:_MOST_ROWS]],
                "Strength: from 0 (not at all) to 1 (completely).",
            ),
        )
    ]


def _bars(view: View, hints: Sequence[tuple[str, str, float]]) -> Spec:
    rows = [
        {
            "n": two_lines(view.names.get(feature, feature), f"by {view.names.get(modulator, modulator)}"),
            "v": brief(strength),
            "t": percent(strength),
        }
        for feature, modulator, strength in hints
    ]
    x = numbers(
        "v",
        title="share of differences in φ explained by the second feature",
        axis={"format": "%"},
        scale={"domain": [0, brief(max(0.05, hints[0][2] * 1.05))]},
    )
    bars = layer(
        mark("bar", cornerRadiusEnd=2, height={"band": 0.62}),
        y=names("n", axis=TWO_LINES),
        x=x,
        tooltip=tooltip({"n": "What by what", "t": "Strength"}),
    )
    return chart(rows, _STEP * len(rows), bars)
