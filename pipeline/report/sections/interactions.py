"""Which feature decides what another one does."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.blocks import Block, Figure, Prose, Section, Table
from pipeline.report.data.view import View, brief
from pipeline.wording import TWO_LINES, number, percent, two_lines

_MOST = 20
_MOST_ROWS = 100
#: Strengths below this are no news.
HINT = 0.1


def sections(view: View) -> list[Section]:
    """Hints by target; none where the run kept none."""
    if view.data.interactions is None or view.data.sample is None:
        return []
    blocks = view.by_target(lambda target: _of(view, target))
    lead = "Where what a feature does depends on another feature: hints from the sample, not proofs."
    return [Section("interactions", "Interactions", lead, blocks)] if blocks else []


def strongest(view: View, target: int) -> list[tuple[str, str, float]]:
    """(feature, modulator, strength) of a target, strongest first."""
    table = view.data.interactions
    if table is None:
        return []
    rows = [row for row in table.to_pylist() if row["target"] == target]
    rows.sort(key=lambda row: -row["strength"])
    return [(row["feature"], row["modulator"], float(row["strength"])) for row in rows]


def _of(view: View, target: int) -> Sequence[Block]:
    found = strongest(view, target)
    if not view.matters(target):
        return []
    if not found:
        return [Prose("No feature was found to change what another one does: each acts on its own.")]
    shown = found[:_MOST]
    rows = [
        {
            "n": two_lines(view.names.get(feature, feature), f"by {view.names.get(modulator, modulator)}"),
            "v": brief(strength),
            "t": percent(strength),
        }
        for feature, modulator, strength in shown
    ]
    spec = {
        "width": "container",
        "height": 38 * len(rows),
        "data": {"values": rows},
        "mark": {"type": "bar", "cornerRadiusEnd": 2, "height": {"band": 0.62}},
        "encoding": {
            "y": {
                "field": "n",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": TWO_LINES,
            },
            "x": {
                "field": "v",
                "type": "quantitative",
                "title": "share of φ that the other explains",
                "axis": {"format": "%"},
                "scale": {"domain": [0, brief(max(0.05, shown[0][2] * 1.05))]},
            },
            "tooltip": [{"field": "n", "title": "What by what"}, {"field": "t", "title": "Strength"}],
        },
    }
    first = shown[0]
    words = view.labels.get(first[0], first[0]), view.labels.get(first[1], first[1])
    return [
        Figure(
            name=f"interactions-{target}",
            title="Which feature modulates which",
            description=(
                f"{len(found)} hints. Strongest: what {words[0]} does depends on {words[1]}, "
                f"{number(first[2])}."
            ),
            spec=spec,
            note=(
                f"“{words[0]} by {words[1]}”: among rows of like {words[0]}, the value of {words[1]} "
                f"explains {percent(first[2])} of how their φ still differs. Neighbours in the data may "
                "stand in for each other."
            ),
            table=Table(
                ["Feature", "Modulated by", "Strength"],
                [[view.labels.get(f, f), view.labels.get(m, m), s] for f, m, s in found[:_MOST_ROWS]],
                "From 0, not at all, to 1, completely.",
            ),
        )
    ]
