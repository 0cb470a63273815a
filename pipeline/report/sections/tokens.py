"""The report's section on texts: the tokens that move the score, and examples coloured by φ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.report.blocks import Block, Cell, Figure, Prose, Section, Table
from pipeline.report.data.chosen_examples import gallery
from pipeline.report.data.sampled_rows import (
    SampledRows,
    ShownFeature,
    distinct,
    feature_choice,
    most_important,
    sample_by_target,
    target_choice,
)
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import MOST_TARGETS
from pipeline.report.page.marks import Spec, all_names, by_sign, chart, layer, mark, numbers, tooltip
from pipeline.report.page.markup import markup
from pipeline.report.sections import vectors
from pipeline.wording import chart_names, isolated, listed, number, plain, shorten, signed
from transforms.errors import UserError
from transforms.storage import files

#: Most bars of a chart of tokens.
_BARS = 24
#: Most tokens in the table behind the chart.
_LINES = 150
#: Most tokens in the table of the least important ones.
_LEAST = 10
#: Most text features that are shown.
_FEATURES = 3
#: Most example texts of a target.
_TEXTS = 6
#: Most tokens of each example in the table behind the examples.
_STRONGEST = 12
#: Tokens shown per example if there are few examples.
_LONGEST = 300
#: Fewest tokens shown per example, however many examples there are.
_SHORTEST = 80
#: Most tokens of all examples together.
_ALL_TOKENS = 10_000
#: Steps of colour, for raising and for lowering.
_STEPS = 5
#: Share of the largest |φ| below which a token has no colour.
_FAINT = 0.04
#: A token is listed if it occurs at least once in this many rows, within the two bounds below.
_ROWS_PER_OCCURRENCE = 100
#: Fewest occurrences of a listed token, however few rows there are.
_FEWEST_OCCURRENCES = 2
#: A token with this many occurrences is listed, however many rows there are.
_ENOUGH_OCCURRENCES = 10
#: Most characters of a token in an example.
_TOKEN = 60
#: Most characters of a token in a table.
_WHOLE = 120
#: Share of the largest |φ| below which a φ counts as rounding error.
_ROUNDING = 1e-6
#: Fewest successive padding tokens that are drawn as one.
_PADDING = 3


@dataclass(frozen=True)
class Vocabulary:
    """The words of a feature's tokens.

    Args:
      words: Words by id; None if the feature holds strings, or if no vocabulary is known.
      problem: The reason why the config's vocabulary is not used, in a sentence.
    """

    words: Sequence[str] | None = None
    problem: str = ""

    def words_of(self, values: np.ndarray) -> np.ndarray:
        """Words of tokens, as objects in an array of the same shape; unknown ids as `#1234`."""
        distinct, inverse = np.unique(
            values.astype(str) if values.dtype == object else values, return_inverse=True
        )
        named = np.empty(len(distinct), object)
        named[:] = [self._word(value) for value in distinct.tolist()]
        return named[inverse].reshape(values.shape)

    def _word(self, value: int | str) -> str:
        if isinstance(value, str):
            return value
        if self.words is None:
            return str(value)
        return self.words[value] if 0 <= value < len(self.words) else f"#{value}"


def vocabulary(data: ReportData, feature: ShownFeature) -> Vocabulary:
    """Reads the words of a feature's ids from the file that the config names as its `vocabulary`."""
    keys = (data.manifest["config"].get("features") or {}).get(feature.name) or {}
    if not keys.get("vocabulary"):
        return Vocabulary()
    path = files.join(data.manifest["config_folder"], keys["vocabulary"])
    try:
        text = files.read_bytes(path).decode("utf-8")
    except (OSError, UserError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Vocabulary(
            None, f"The vocabulary {path} could not be read, so tokens are shown as ids: {reason}"
        )
    return Vocabulary(text.removesuffix("\n").split("\n"))


def sections(data: ReportData) -> list[Section]:
    """Shows, by target, the most and least important tokens of each text, their positions, and examples."""
    texts, rest_of_them = most_important(data, "tokens", _FEATURES)
    drawn = sample_by_target(data, MOST_TARGETS)
    made: dict[str, list[Block]] = {}
    for place, (name, feature) in enumerate(zip(distinct(f.label for f in texts), texts, strict=True)):
        words = vocabulary(data, feature)
        blocks: list[Block] = [Prose(words.problem, "caution")] if words.problem else []
        by_target = {}
        for target in list(data.targets)[:MOST_TARGETS]:
            stem = f"text-{place}-{target}"
            own: list[Block] = []
            if target in drawn:
                own += _importance(data, target, drawn[target]["sample"], feature, words, stem)
                chosen = [rows for _, rows in gallery({target: drawn[target]}, _TEXTS)]
                own.append(_texts(data, target, chosen, feature, words, stem))
            if figure := vectors.along(data, target, feature, f"{stem}-positions"):
                own.append(figure)
            if own:
                by_target[target] = own
        if not by_target:
            continue
        made[name] = [*blocks, *target_choice(data, by_target)]
    if not made:
        return []
    lead = "Which words, or other tokens, move the score, over many rows and in single ones."
    return [Section("texts", "Texts", lead, feature_choice("Text", made, rest_of_them))]


# -- tokens over many rows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Occurrences:
    """The tokens of some rows, largest mean |φ| first.

    Args:
      tokens: The tokens' words.
      counts: Occurrences of each.
      mean: Mean φ of each.
      absolute: Mean |φ| of each.
      least: Fewest occurrences of a listed token.
      rare: The number of tokens that are not listed.
    """

    tokens: list[str]
    counts: np.ndarray
    mean: np.ndarray
    absolute: np.ndarray
    least: int
    rare: int


def occurrences(words: np.ndarray, phi: np.ndarray, padding: np.ndarray) -> Occurrences:
    """Counts the tokens of some rows.

    Args:
      words: `[N, L]` strings.
      phi: `[N, L]`.
      padding: `[N, L]`, true for padding.
    """
    least = 1
    if len(words) >= _FEWEST_OCCURRENCES:
        share = len(words) // _ROWS_PER_OCCURRENCE
        least = max(_FEWEST_OCCURRENCES, min(_ENOUGH_OCCURRENCES, share))
    distinct, inverse = np.unique(words[~padding].astype(str), return_inverse=True)
    flat = phi[~padding]
    counts = np.bincount(inverse, minlength=len(distinct))
    mean = np.bincount(inverse, flat, len(distinct)) / np.maximum(counts, 1)
    absolute = np.bincount(inverse, np.abs(flat), len(distinct)) / np.maximum(counts, 1)
    kept = np.flatnonzero(counts >= least)
    order = kept[np.argsort(-absolute[kept], kind="stable")]
    return Occurrences(
        [str(word) for word in distinct[order]],
        counts[order],
        mean[order],
        absolute[order],
        least,
        len(distinct) - len(kept),
    )


def _importance(
    data: ReportData, target: int, rows: SampledRows, feature: ShownFeature, words: Vocabulary, stem: str
) -> list[Block]:
    if not len(rows):
        return []
    values, phi, padding = _tokens(rows, feature)
    tokens = occurrences(words.words_of(values), phi, padding)
    label = isolated(shorten(plain(feature.label)))
    if not tokens.tokens:
        return [Prose(f"No token of {label} occurs {tokens.least} times in the {len(rows):,} rows drawn.")]
    names = chart_names(tokens.tokens)
    lines: list[list[Cell]] = [
        [shorten(plain(token), _WHOLE), int(count), float(mean), float(absolute)]
        for token, count, mean, absolute in zip(
            tokens.tokens, tokens.counts, tokens.mean, tokens.absolute, strict=True
        )
    ]
    shown = lines[:_BARS]
    largest = listed(
        [
            f"{isolated(shorten(str(line[0])))} ({signed(float(mean))})"
            for line, mean in zip(lines[:3], tokens.mean, strict=False)
        ]
    )
    header = ["Token", "Occurrences", "Mean φ", "Mean |φ|"]
    note = (
        f"Over {len(rows):,} rows drawn at random. Bars: mean φ of a token's occurrences; marks: mean |φ|, "
        "which is larger where a token raises some scores and lowers others. Tokens that occur "
        f"{tokens.least} times or more"
    )
    blocks: list[Block] = [
        Figure(
            f"{stem}-tokens",
            f"The most important tokens of {label}{vectors.of_target(data, target)}",
            f"Bars of mean φ by token, the {len(shown)} of largest mean |φ|, which are {largest}.",
            spec=_bars([names[token] for token in tokens.tokens[:_BARS]], shown),
            table=Table(header, lines[:_LINES], f"{min(len(lines), _LINES):,} of {len(lines):,} tokens"),
            note=f"{note}{f', {tokens.rare:,} others occur less often' if tokens.rare else ''}.",
        )
    ]
    if len(lines) > _BARS:
        least = lines[: -_LEAST - 1 : -1]
        blocks.append(Table(header, least, f"The least important tokens of {label}: smallest mean |φ| first"))
    return blocks


def _bars(names: Sequence[str], lines: Sequence[Sequence[Cell]]) -> Spec:
    rows = [
        {
            "token": name,
            "count": line[1],
            "mean": line[2],
            "absolute": line[3],
            "told": signed(float(str(line[2]))),
        }
        for name, line in zip(names, lines, strict=True)
    ]
    titles = {"token": "Token", "count": "Occurrences", "mean": "Mean φ", "absolute": "Mean |φ|"}
    axis = {"title": "mean φ", "tickCount": 5}
    # The mark for mean |φ| is drawn on the same side of 0 as the bar.
    side = {"calculate": "datum.mean < 0 ? -datum.absolute : datum.absolute", "as": "mark"}
    return chart(
        rows,
        22 * len(rows) + 10,
        layer(mark("bar", cornerRadius=1.5), x=numbers("mean", axis=axis), color=by_sign("mean")),
        layer(mark("tick", "ink", thickness=2, height=12), transform=[side], x=numbers("mark", axis=axis)),
        y=all_names("token", list(names)),
        tooltip=tooltip(titles, exact=("mean", "absolute")),
    )


# -- single texts --------------------------------------------------------------------------------------------


def _tokens(rows: SampledRows, feature: ShownFeature) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, φ and a mask of the padding, `[N, L]` each.

    Padding is an id of 0, or an empty string, whose φ is 0 to within rounding: differences of the model's
    float32 scores are seldom exactly 0.
    """
    values = rows.value(feature.name).reshape(len(rows), -1)
    phi = rows.attribution(feature).reshape(len(rows), -1)
    still = np.abs(phi) <= _ROUNDING * np.abs(phi).max(initial=0.0)
    return values, phi, (values == ("" if values.dtype == object else 0)) & still


@dataclass(frozen=True)
class Word:
    """A token of an example: its word, its colour, its φ in words, and the number of tokens it stands for."""

    text: str
    step: str
    phi: str
    count: int = 1


def highlighted(words: Sequence[str], phi: np.ndarray, padding: np.ndarray, reach: float) -> list[Word]:
    """The tokens of an example with their colours: `up1` to `up5`, `down1` to `down5`, `pad`, or "".

    Args:
      words: `[L]`.
      phi: `[L]`.
      padding: `[L]`.
      reach: The |φ| of full colour.
    """
    coloured: list[Word] = []
    for word, value, pad in zip(words, phi.tolist(), padding.tolist(), strict=True):
        if pad:
            if coloured and coloured[-1].step == "pad":
                coloured[-1] = replace(coloured[-1], count=coloured[-1].count + 1)
            else:
                coloured.append(Word(plain(word) or "∅", "pad", "padding"))
            continue
        share = abs(value) / reach if reach else 0.0
        step = ""
        if share >= _FAINT:
            step = f"{'up' if value > 0 else 'down'}{min(_STEPS, int(np.ceil(share * _STEPS)))}"
        coloured.append(Word(shorten(plain(word), _TOKEN) or "∅", step, signed(value)))
    return coloured


def _texts(
    data: ReportData,
    target: int,
    chosen: Sequence[SampledRows],
    feature: ShownFeature,
    words: Vocabulary,
    stem: str,
) -> Figure:
    label = isolated(shorten(plain(feature.label)))
    title = f"Examples of {label}{vectors.of_target(data, target)}, with what each token does"
    many = _TEXTS * min(len(data.targets), MOST_TARGETS)
    return _figure(f"{stem}-texts", title, chosen, feature, words, many)


def of_example(
    rows: SampledRows, row: int, feature: ShownFeature, name: str, words: Vocabulary, many: int
) -> Figure:
    """The text of one example, with each token's φ.

    Args:
      rows: The rows that the example is one of.
      row: The example's position among the rows.
      feature: The text.
      name: The figure's name.
      words: The words of its tokens.
      many: Number of texts in the section; with more texts, fewer tokens of each are shown.
    """
    label = isolated(shorten(plain(feature.label)))
    return _figure(name, f"{label} of this example", [rows.take([row])], feature, words, many, titled=False)


def _figure(
    name: str,
    title: str,
    chosen: Sequence[SampledRows],
    feature: ShownFeature,
    words: Vocabulary,
    many: int,
    titled: bool = True,
) -> Figure:
    longest = max(_SHORTEST, min(_LONGEST, _ALL_TOKENS // many))
    held = [_tokens(rows, feature) for rows in chosen]
    reach = max((float(np.abs(phi).max(initial=0.0)) for _, phi, _ in held), default=0.0)
    texts: list[dict[str, Any]] = []
    lines: list[list[Cell]] = []
    for rows, (values, phi, padding) in zip(chosen, held, strict=True):
        named, own = words.words_of(values)[0], phi[0]
        whole = highlighted(named[:longest], own[:longest], padding[0, :longest], reach)
        id = plain(rows.ids()[0])
        more = int((~padding[0, longest:]).sum())
        beyond = float(own[longest:].sum())
        rest = f"… and {more:,} more tokens, {signed(beyond)} together" if more else ""
        texts.append(
            {
                "title": shorten(id, 80) if titled else "",
                "score": f"score {number(float(rows.prediction[0]))}",
                "words": whole,
                "rest": rest,
            }
        )
        for at in np.argsort(-np.abs(own), kind="stable")[:_STRONGEST]:
            if own[at]:
                lines.append(
                    [*([id] if titled else []), int(at), shorten(plain(named[at]), _WHOLE), float(own[at])]
                )
    return Figure(
        name,
        title,
        f"{len(texts)} texts whose tokens are coloured by φ; the table has the numbers.",
        html=markup("tokens.html.j2", texts=texts, long=_PADDING),
        table=Table(
            [*(["Example"] if titled else []), "Position", "Token", "φ"], lines, "The strongest tokens"
        ),
        note="Red and underlined: the token raises the score. Blue and dotted: it lowers it. Full colour is "
        f"a φ of ±{number(reach, 3)}. Tokens show their φ under the pointer; padding is grey.",
    )
