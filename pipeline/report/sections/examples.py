"""The report's section on single examples: waterfalls from the base value to the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.report.blocks import Block, Choice, Figure, Prose, Section, Table
from pipeline.report.data.chosen_examples import Pick, picks
from pipeline.report.data.sampled_rows import (
    TENSORS,
    SampledRows,
    by_target,
    left_out,
    sample_by_target,
    shown_features,
    value_in_words,
)
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import MOST_TARGETS
from pipeline.report.page.marks import Spec, all_names, by_sign, chart, end, layer, mark, numbers, tooltip
from pipeline.report.sections import images, tokens
from pipeline.results.summaries import score_kinds
from pipeline.wording import chart_names, isolated, listed, number, plain, shorten, signed

#: Most bars of a waterfall; the features beyond are summed up.
_BARS = 12
#: Most lines of the table behind a waterfall.
_LINES = 60
#: Height of a bar with its two lines of text, in pixels.
_ROW = 36
#: Most characters of a value in a chart.
_VALUE = 34
#: Smallest bars: for the remainder, a share of the chart's width; for a feature, a share of the largest φ.
_VISIBLE = 0.01
#: Share of the width that a number to the left of a bar needs.
_BESIDE = 0.3
#: Most bytes of all pictures in the examples.
_PICTURES = 1_000_000


def sections(data: ReportData) -> list[Section]:
    """Shows the largest score, the smallest, a typical example and the most surprising one, by target."""
    drawn = sample_by_target(data, MOST_TARGETS)
    several = len(data.targets) > 1
    picked = {
        target: picks(of, isolated(shorten(plain(data.targets[target]))) if several else "")
        for target, of in drawn.items()
    }
    picked = {target: picked_rows for target, picked_rows in picked.items() if picked_rows}
    if not picked:
        return []
    many = sum(map(len, picked.values()))
    words = {f.name: tokens.vocabulary(data, f) for f in shown_features(data) if f.form == "tokens"}
    made = {
        target: [
            Choice("Example", {pick.title: _blocks(data, target, pick, many, words) for pick in picked_rows})
        ]
        for target, picked_rows in picked.items()
    }
    blocks: list[Block] = []
    if rest := left_out(data, len(made)):
        blocks.append(Prose(rest))
    if len(made) > 1:
        blocks.append(Choice("Target", by_target(data, made)))
    else:
        blocks += next(iter(made.values()))
    lead = "How the features lead, one after another, from the base value to the score of one row."
    return [Section("examples", "Single examples", lead, blocks)]


# -- sentences -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A feature of an example, or several that are summed up.

    Args:
      name: The name in words.
      value: The value in words.
      phi: The φ of the part.
      has_words: Whether the value is informative in a sentence; a tensor's shape is not.
      features: Number of features in the part.
    """

    name: str
    value: str
    phi: float
    has_words: bool = True
    features: int = 1

    @property
    def both(self) -> str:
        """The feature with its value, such as `Distance = 2,475`."""
        return f"{self.name} = {self.value}" if self.value and self.has_words else self.name


def parts(data: ReportData, rows: SampledRows, row: int) -> list[Part]:
    """The features of an example, largest |φ| first; features that the sample lacks form the last part."""
    names = chart_names((f.name for f in rows.features), {f.name: f.label for f in rows.features})
    order = np.argsort(-np.abs(rows.phi[row]), kind="stable")
    features = []
    for at in order:
        feature = rows.features[at]
        value = value_in_words(feature, rows, row)
        has_words = feature.form not in TENSORS
        features.append(Part(names[feature.name], value, float(rows.phi[row, at]), has_words))
    beyond = len(data.manifest["features"]) - len(rows.features)
    delta = float(rows.numbers("convergence_delta")[row])
    if beyond and np.isfinite(delta):
        # The sum over all features follows from the row's score and delta.
        rest = float(rows.prediction[row]) - float(rows.base_value[row]) + delta - float(rows.phi[row].sum())
        features.append(Part(f"{beyond:,} less important features", "", rest, False, beyond))
    return features


def sentence(prediction: float, base: float, features: Sequence[Part], additive: bool) -> str:
    """Explains a score in a sentence.

    Args:
      prediction: The score.
      base: The base value.
      features: The features, largest |φ| first.
      additive: Whether φ sum to the difference.
    """
    way = prediction - base
    up = [part for part in features if part.phi > 0]
    down = [part for part in features if part.phi < 0]
    strongest = abs(features[0].phi) if features else 0.0
    if not strongest and additive and abs(way) > 1e-6 * max(abs(prediction), abs(base)):
        return (
            f"The score is {number(prediction)}, {number(abs(way), 3)} {'above' if way > 0 else 'below'} the "
            "base value, and every φ is 0: they do not add up to it."
        )
    if not strongest:
        return f"The score is {number(prediction)}, and no feature moves it."
    if not additive:
        largest = [part for part in features[:3] if abs(part.phi) >= 0.2 * strongest]
        named = listed([f"{part.both} ({signed(part.phi)})" for part in largest])
        return f"The score is {number(prediction)}. The largest effects: {named}."
    if abs(way) < 0.05 * strongest:
        sides = [
            f"{side[0].both} {verb} {number(abs(side[0].phi), 3)}"
            for side, verb in ((up, "adds"), (down, "takes off"))
            if side
        ]
        start = f"The score is {number(prediction)}, close to the base value of {number(base)}"
        return f"{start}: {listed(sides)}."
    along, against = (up, down) if way > 0 else (down, up)
    verb, other = ("adds", "takes off") if way > 0 else ("takes off", "adds")
    side = "above" if way > 0 else "below"
    start = f"The score is {number(prediction)}, {number(abs(way), 3)} {side} the base value"
    if not along:
        largest = [part for part in against[:3] if abs(part.phi) >= 0.2 * strongest]
        named = listed([f"{part.both} {other} {number(abs(part.phi), 3)}" for part in largest])
        return f"{start}. No feature moves it in that direction: {named}, so that φ do not add up to it."
    reasons = [part for part in along[:3] if abs(part.phi) >= 0.2 * abs(along[0].phi)]
    share = sum(abs(part.phi) for part in reasons) / sum(abs(part.phi) for part in along)
    why = listed([f"{part.both} {verb} {number(abs(part.phi), 3)}" for part in reasons])
    how = "mostly because" if share >= 0.5 else "in many small steps; the largest:"
    text = f"{start}, {how} {why}"
    if against and abs(against[0].phi) >= 0.2 * abs(along[0].phi):
        text += f"; {against[0].both} {other} {number(abs(against[0].phi), 3)}"
    return f"{text}."


def _blocks(
    data: ReportData, target: int, pick: Pick, many: int, words: Mapping[str, tokens.Vocabulary]
) -> list[Block]:
    rows, row = pick.rows, pick.row
    features = parts(data, rows, row)
    prediction, base = float(rows.prediction[row]), float(rows.base_value[row])
    additive = bool(np.isfinite(rows.numbers("convergence_delta")[row]))
    unit = score_kinds(data.manifest).get(target, "score")
    said = sentence(prediction, base, features, additive)
    output = float(rows.numbers("output")[row])
    facts = [f"{isolated(plain(name))} {isolated(text)}" for name, text in rows.slices(row)]
    where = f" ({', '.join(facts)})" if facts else ""
    returned = f" The model's output is {_output(output)}." if output != prediction else ""
    id = isolated(shorten(plain(rows.ids()[row]), 80))
    name = f"example-{target}-{pick.name}"
    title = "score" if unit == "score" else f"score ({unit})"
    chart = waterfall(features, prediction, base, title) if additive else bars(features)
    blocks: list[Block] = [Prose(f"Example {id}{where}. {said}{returned} {pick.why}")]
    # A chart of a single picture or text would have one bar and add nothing to the sentence.
    if len(features) > 1 or features[0].has_words:
        table = _table(features, prediction, base, additive)
        note = _HOW if additive else _NO_SUM
        blocks.append(Figure(name, f"{pick.title}: {id}", said, spec=chart, table=table, note=note))
    for at, feature in enumerate(rows.features):
        if feature.form == "picture":
            blocks.append(images.of_example(rows, row, feature, f"{name}-{at}", _PICTURES // many))
        elif feature.form == "tokens":
            blocks.append(tokens.of_example(rows, row, feature, f"{name}-{at}", words[feature.name], many))
    return blocks


def _output(value: float) -> str:
    return "not a number (NaN)" if np.isnan(value) else number(value)


_HOW = (
    "Read it from the top: each bar begins where the one above it ended and goes right (up) or left (down), "
    "as far as the feature's value moves the score."
)
_NO_SUM = "This method's φ do not add up to the score, so the bars stand side by side."


# -- charts --------------------------------------------------------------------------------------------------


def waterfall(features: Sequence[Part], prediction: float, base: float, title: str) -> Spec:
    """A waterfall from the base value to the score: a bar for each feature, with the smallest summed."""
    seen = sum(abs(part.phi) >= _VISIBLE * abs(features[0].phi) for part in features)
    steps = _summed(features, min(_BARS, max(seen + 1, 3)))
    total, rows = base, [_stop("Base value", base)]
    for part in steps:
        rows.append(_step(part, total, total + part.phi))
        total += part.phi
    reach = [row["end"] for row in rows]
    if abs(prediction - total) > _VISIBLE * (max(reach) - min(reach)):
        rows.append(_step(Part("Remainder", "", prediction - total), total, prediction))
    rows.append(_stop("Score", prediction))
    for row, following in pairwise(rows):
        row["next"] = following["line"]
    low, high = min(row["end"] for row in rows), max(row["end"] for row in rows)
    x, y = _scores(low, high, title), _lines(rows)
    link = layer(
        mark("rule", "neutral", strokeWidth=1, opacity=0.7),
        transform=[{"filter": "isValid(datum.next)"}],
        x=x | {"field": "end"},
        y=y,
        y2=end("next"),
    )
    stop = layer(
        mark("tick", "ink", thickness=3, height=20),
        transform=[{"filter": "!isValid(datum.phi)"}],
        x=x | {"field": "end"},
    )
    layers = [link, *_bars_with_numbers(x, title), stop]
    return chart(_numbered(rows, low, high), _ROW * len(rows), *layers, x=x, y=y)


def bars(features: Sequence[Part]) -> Spec:
    """A bar from 0 for each feature, for methods that promise no sum of φ."""
    shown = features[:_BARS]
    rows = [_step(part, 0.0, part.phi) for part in shown]
    reach = [0.0, *(part.phi for part in shown)]
    low, high = min(reach), max(reach)
    x = _scores(low, high, "φ")
    layers = _bars_with_numbers(x, "φ")
    return chart(_numbered(rows, low, high), _ROW * len(rows), *layers, x=x, y=_lines(rows))


def _summed(features: Sequence[Part], most: int) -> list[Part]:
    """The first parts, with all later parts summed into one."""
    if len(features) <= most:
        return list(features)
    rest = features[most - 1 :]
    number = sum(part.features for part in rest)
    return [*features[: most - 1], Part(f"{number:,} others", "", sum(part.phi for part in rest))]


def _step(part: Part, start: float, stop: float) -> dict[str, Any]:
    """A row of the chart's data: a feature, whose bar leads from one score to another."""
    value = shorten(part.value, _VALUE)
    return {
        "line": f"{part.name}\n{isolated(value) if value else ''}",
        "name": part.name,
        "value": value,
        "start": start,
        "end": stop,
        "phi": part.phi,
        "told": signed(part.phi),
    }


def _stop(name: str, value: float) -> dict[str, Any]:
    """A row of the chart's data: the base value or the score, a mark without a bar."""
    return {
        "line": f"{name}\n",
        "name": name,
        "value": "",
        "start": value,
        "end": value,
        "phi": None,
        "told": number(value),
    }


def _numbered(rows: Sequence[Mapping[str, Any]], low: float, high: float) -> list[dict[str, Any]]:
    """The rows with the place of each number: right of its bar, or left of a bar that is far right."""
    numbered = []
    for row in rows:
        ends = sorted((row["start"], row["end"]))
        right = high - ends[1] >= ends[0] - low or ends[0] - low < _BESIDE * _width(low, high)
        numbered.append({**row, "at": ends[1] if right else ends[0], "side": "right" if right else "left"})
    return numbered


def _width(low: float, high: float) -> float:
    return (high - low) or abs(high) or 1.0


def _scores(low: float, high: float, title: str) -> Spec:
    """The axis of scores, with room for the numbers beside the bars."""
    width = _width(low, high)
    scale = {"domain": [low - 0.05 * width, high + 0.16 * width], "nice": False, "zero": False}
    return numbers(scale=scale, axis={"title": title, "tickCount": 5})


def _lines(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """The axis of features, each with its value in a second line."""
    axis = {
        "labelExpr": "split(datum.label, '\\n')",
        "labelLineHeight": 14,
        # The first of two lines stands above the middle of the bar.
        "labelOffset": {
            "condition": {"test": "split(datum.value, '\\n')[1] !== ''", "value": -7},
            "value": 0,
        },
        "minExtent": 60,
    }
    padding = {"paddingInner": 0.3, "paddingOuter": 0.2}
    return all_names("line", [row["line"] for row in rows], axis=axis, scale=padding)


def _bars_with_numbers(x: Spec, title: str) -> list[Spec]:
    bar = layer(
        mark("bar", minBandSize=2, cornerRadius=1.5),
        transform=[{"filter": "isValid(datum.phi)"}],
        x=x | {"field": "start"},
        x2=end("end"),
        color=by_sign("phi"),
        tooltip=tooltip({"name": "Feature", "value": "Value", "told": "φ", "end": title}, exact=("end",)),
    )
    right, left = (
        layer(
            mark("text", align=align, dx=away),
            transform=[{"filter": f"datum.side === '{side}'"}],
            x=x | {"field": "at"},
            text={"field": "told"},
        )
        for side, align, away in (("right", "left", 6), ("left", "right", -6))
    )
    return [bar, right, left]


def _table(features: Sequence[Part], prediction: float, base: float, additive: bool) -> Table:
    """The numbers behind a waterfall."""
    shown = _summed(features, _LINES)
    if not additive:
        return Table(["Feature", "Value", "φ"], [[part.name, part.value, part.phi] for part in shown])
    rows: list[list[str | float | None]] = [["Base value", "", None, base]]
    total = base
    for part in shown:
        total += part.phi
        rows.append([part.name, part.value, part.phi, total])
    if prediction != total:
        rows.append(["Remainder", "", prediction - total, prediction])
    return Table(["Feature", "Value", "φ", "Leads to"], [*rows, ["Score", "", None, prediction]])
