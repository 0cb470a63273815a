"""The report's section on texts: which tokens move the score, and texts with φ upon them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.report.blocks import Block, Cell, Figure, Prose, Section, Table
from pipeline.report.data.chosen_examples import gallery
from pipeline.report.data.sampled_rows import (
    Drawn,
    Shown,
    apart,
    drawn_by_target,
    most_important,
    of_features,
    of_targets,
)
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import MOST_TARGETS
from pipeline.report.page.marks import Spec, all_names, by_sign, chart, layer, mark, numbers, tooltip
from pipeline.report.page.markup import markup
from pipeline.report.sections import vectors
from pipeline.wording import chart_names, isolated, listed, number, plain, shorten, signed
from transforms.errors import UserError
from transforms.storage import files

#: Bars of the chart, tokens in the table behind it, the least important ones that are told.
_BARS, _LINES, _LEAST = 24, 150, 10
#: Features that are shown.
_FEATURES = 3
#: Texts of a target, lines of the table behind them.
_TEXTS, _TOLD = 6, 12
#: Tokens of a text, at most and however many texts there are, and of all texts together.
_LONGEST, _SHORTEST, _ALL_TOKENS = 300, 80, 10_000
#: Steps of colour; a share of the largest |φ| below the first is not coloured.
_STEPS, _FAINT = 5, 0.04
#: A token that stands in one of so many rows is told of, in two at least and in so many at most.
_ROWS_A_TOKEN, _FEWEST, _ENOUGH = 100, 2, 10
#: Characters of a token in a text and in a table.
_TOKEN, _WHOLE = 60, 120
#: Of the largest |φ|, what is none.
_ROUNDING = 1e-6
#: So much padding in a row is one word.
_PADDING = 3


@dataclass(frozen=True)
class Vocabulary:
    """What tokens are called.

    Args:
      words: By id; None: the feature holds strings, or nothing is known.
      problem: Why the config's vocabulary is not used.
    """

    words: Sequence[str] | None = None
    problem: str = ""

    def of(self, values: np.ndarray) -> np.ndarray:
        """Words of tokens, objects of the same shape; ids beyond the vocabulary as `#1234`."""
        distinct, inverse = np.unique(
            values.astype(str) if values.dtype == object else values, return_inverse=True
        )
        found = np.empty(len(distinct), object)
        found[:] = [self._word(value) for value in distinct.tolist()]
        return found[inverse].reshape(values.shape)

    def _word(self, value: int | str) -> str:
        if isinstance(value, str):
            return value
        if self.words is None:
            return str(value)
        return self.words[value] if 0 <= value < len(self.words) else f"#{value}"


def vocabulary(data: ReportData, feature: Shown) -> Vocabulary:
    """The words of a feature's ids, as the config's `features: {NAME: {vocabulary: FILE}}` has them."""
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
    """Of each text the tokens that matter most and least, where they stand, and some texts, by target."""
    texts, rest_of_them = most_important(data, "tokens", _FEATURES)
    drawn = drawn_by_target(data, MOST_TARGETS)
    made: dict[str, list[Block]] = {}
    for place, (name, feature) in enumerate(zip(apart(f.label for f in texts), texts, strict=True)):
        words = vocabulary(data, feature)
        blocks: list[Block] = [Prose(words.problem, "caution")] if words.problem else []
        found = {}
        for target in list(data.targets)[:MOST_TARGETS]:
            stem = f"text-{place}-{target}"
            of: list[Block] = []
            if target in drawn:
                of += _importance(data, target, drawn[target]["sample"], feature, words, stem)
                chosen = [rows for _, rows in gallery({target: drawn[target]}, _TEXTS)]
                of.append(_texts(data, target, chosen, feature, words, stem))
            if figure := vectors.along(data, target, feature, f"{stem}-positions"):
                of.append(figure)
            if of:
                found[target] = of
        if not found:
            continue
        made[name] = [*blocks, *of_targets(data, found)]
    if not made:
        return []
    lead = "Which words, or other tokens, move the score, over many rows and in single ones."
    return [Section("texts", "Texts", lead, of_features("Text", made, rest_of_them))]


# -- tokens over many rows -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Occurrences:
    """Tokens with how often they occur and their φ, largest mean |φ| first.

    Args:
      tokens: Words.
      counts: Occurrences of each.
      mean: Mean φ of each.
      absolute: Mean |φ| of each.
      least: Occurrences that a token has at least to be here.
      rare: Tokens that have fewer.
    """

    tokens: list[str]
    counts: np.ndarray
    mean: np.ndarray
    absolute: np.ndarray
    least: int
    rare: int


def occurrences(words: np.ndarray, phi: np.ndarray, padding: np.ndarray) -> Occurrences:
    """The tokens of some rows.

    Args:
      words: `[N, L]` strings.
      phi: `[N, L]`.
      padding: `[N, L]`, of what is no token.
    """
    least = 1 if len(words) < _FEWEST else max(_FEWEST, min(_ENOUGH, len(words) // _ROWS_A_TOKEN))
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
    data: ReportData, target: int, rows: Drawn, feature: Shown, words: Vocabulary, stem: str
) -> list[Block]:
    if not len(rows):
        return []
    values, phi, padding = _tokens(rows, feature)
    found = occurrences(words.of(values), phi, padding)
    label = isolated(shorten(plain(feature.label)))
    if not found.tokens:
        return [Prose(f"No token of {label} occurs {found.least} times in the {len(rows):,} rows drawn.")]
    names = chart_names(found.tokens)
    lines: list[list[Cell]] = [
        [shorten(plain(token), _WHOLE), int(count), float(mean), float(absolute)]
        for token, count, mean, absolute in zip(
            found.tokens, found.counts, found.mean, found.absolute, strict=True
        )
    ]
    shown = lines[:_BARS]
    told = listed(
        [
            f"{isolated(shorten(str(line[0])))} ({signed(float(mean))})"
            for line, mean in zip(lines[:3], found.mean, strict=False)
        ]
    )
    header = ["Token", "Occurrences", "Mean φ", "Mean |φ|"]
    note = (
        f"Over {len(rows):,} rows drawn at random. Bars: mean φ of a token's occurrences; marks: mean |φ|, "
        "which is larger where a token raises some scores and lowers others. Tokens that occur "
        f"{found.least} times or more"
    )
    blocks: list[Block] = [
        Figure(
            f"{stem}-tokens",
            f"The most important tokens of {label}{vectors.of_target(data, target)}",
            f"Bars of mean φ by token, the {len(shown)} of largest mean |φ|, which are {told}.",
            spec=_bars([names[token] for token in found.tokens[:_BARS]], shown),
            table=Table(header, lines[:_LINES], f"{min(len(lines), _LINES):,} of {len(lines):,} tokens"),
            note=f"{note}{f', {found.rare:,} others occur less often' if found.rare else ''}.",
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
    # The mark of mean |φ| stands on the bar's side of 0.
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


def _tokens(rows: Drawn, feature: Shown) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, φ and what is padding, `[N, L]` each: an id of 0, or nothing, that moves the score nowhere.

    Nowhere is to within rounding: differences of the model's float32 scores are seldom 0.
    """
    values = rows.value(feature.name).reshape(len(rows), -1)
    phi = rows.attribution(feature).reshape(len(rows), -1)
    still = np.abs(phi) <= _ROUNDING * np.abs(phi).max(initial=0.0)
    return values, phi, (values == ("" if values.dtype == object else 0)) & still


@dataclass(frozen=True)
class Word:
    """A token of a text: its word, how it is coloured, its φ in words, and how many of them it stands for."""

    text: str
    step: str
    phi: str
    count: int = 1


def highlighted(words: Sequence[str], phi: np.ndarray, padding: np.ndarray, reach: float) -> list[Word]:
    """The tokens of a text with their colours: `up1` to `up5`, `down1` to `down5`, `pad`, or none.

    Args:
      words: L of them.
      phi: `[L]`.
      padding: `[L]`.
      reach: The |φ| of full colour.
    """
    found: list[Word] = []
    for word, value, pad in zip(words, phi.tolist(), padding.tolist(), strict=True):
        if pad:
            if found and found[-1].step == "pad":
                found[-1] = replace(found[-1], count=found[-1].count + 1)
            else:
                found.append(Word(plain(word) or "∅", "pad", "padding"))
            continue
        share = abs(value) / reach if reach else 0.0
        step = ""
        if share >= _FAINT:
            step = f"{'up' if value > 0 else 'down'}{min(_STEPS, int(np.ceil(share * _STEPS)))}"
        found.append(Word(shorten(plain(word), _TOKEN) or "∅", step, signed(value)))
    return found


def _texts(
    data: ReportData, target: int, chosen: Sequence[Drawn], feature: Shown, words: Vocabulary, stem: str
) -> Figure:
    label = isolated(shorten(plain(feature.label)))
    title = f"Examples of {label}{vectors.of_target(data, target)}, with what each token does"
    many = _TEXTS * min(len(data.targets), MOST_TARGETS)
    return _figure(f"{stem}-texts", title, chosen, feature, words, many)


def of_example(rows: Drawn, row: int, feature: Shown, name: str, words: Vocabulary, many: int) -> Figure:
    """The text of one example, with what each token does.

    Args:
      rows: That it is one of.
      row: Which.
      feature: The text.
      name: Of the figure.
      words: Of its tokens.
      many: Texts that are shown like this one: the more, the shorter is each.
    """
    label = isolated(shorten(plain(feature.label)))
    return _figure(name, f"{label} of this example", [rows.take([row])], feature, words, many, titled=False)


def _figure(
    name: str,
    title: str,
    chosen: Sequence[Drawn],
    feature: Shown,
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
        named, own = words.of(values)[0], phi[0]
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
        for at in np.argsort(-np.abs(own), kind="stable")[:_TOLD]:
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
