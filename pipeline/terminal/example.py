"""Prints an example for `attribeam show`: from its base value to its prediction, feature by feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pipeline.terminal.run_and_plan import fact
from pipeline.terminal.text_table import (
    bar,
    bar_to_the_left,
    clean,
    console,
    print_table,
    span,
    width_of,
    wrapped,
    write,
)
from pipeline.wording import fitted

#: Most features with a line of their own.
_MOST_LINES = 40
#: Most rows listed for a repeated id.
_OTHERS = 20
#: Widths of a name and of a value, from wide to narrow terminals; the narrowest shows no values.
_NAME = 32
_FITS = ((_NAME, 20), (24, 14), (16, 12), (12, 0))
#: Width that bars should have; names and values are shortened to make room for it.
_BARS = 10
#: Smallest and largest width of the bars.
_FEWEST_BARS, _WIDEST_BARS = 6, 48
#: Most positions of a tensor listed under the bars.
_PLACES = 3
#: Width of a value in the list of positions.
_PLACE = 12
#: Smallest convergence delta shown as a step, as a share of |prediction − base_value|.
_VISIBLE = 0.01


@dataclass(frozen=True)
class WaterfallStep:
    """A line of the waterfall.

    Args:
      name: The text of the line: the label of a feature.
      value: The feature's value in words.
      phi: The feature's φ; None for the first and the last line.
      total: The sum up to this line.
    """

    name: str
    value: str
    phi: float | None
    total: float


def print_example(
    example_id: str,
    rows: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    places: Sequence[str] = (),
) -> None:
    """Prints how each feature leads from the base value to the prediction, largest |φ| first.

    For a method that promises no sum, bars start at zero instead.

    Args:
      example_id: The example's id.
      rows: Its rows of the attributions table, one per target.
      values: The example's feature values, as far as they are known.
      labels: Labels of features; others are shown by their names.
      places: `file:row` of all rows with the id, its own first, if several rows have it.
    """
    out = console()
    if places:
        own, *others = places
        more = f" and {len(others) - _OTHERS:,} more" if len(others) > _OTHERS else ""
        rest = f"{', '.join(others[:_OTHERS])}{more}. Choose one with --at FILE:ROW"
        fact(out, "repeated", f"{len(places):,} rows have this id; this is {own}, the others are {rest}")
    words = labels or {}
    for number, row in enumerate(rows):
        if number:
            write(out)
        fact(out, "example_id", example_id)
        fact(out, "target", f"{row['target_name']} (output {row['target']})")
        returned = (
            f", the model's output is {row['output']:.4g}" if row["output"] != row["prediction"] else ""
        )
        fact(out, "prediction", f"{row['prediction']:.6g}{returned}")
        fact(out, "base_value", f"{row['base_value']:.6g}")
        if row["convergence_delta"] is not None:
            fact(out, "delta", f"{row['convergence_delta']:.1g}")
        if "fit" in row:
            fact(out, "fit", f"{row['fit']:.3f}")
        write(out)
        if row["convergence_delta"] is None:
            _print_bars(out, _features(row, values, words))
        else:
            _print_waterfall(out, waterfall_steps(row, values, words))
        _print_tensors(out, row, values, words)


# -- content -------------------------------------------------------------------------------------------------


def waterfall_steps(
    row: Mapping[str, Any], values: Mapping[str, Any], labels: Mapping[str, str]
) -> list[WaterfallStep]:
    """The steps from `base_value` to `prediction`: each feature's φ, largest first, the rest summed.

    Args:
      row: A row of the attributions table, with all features or the first k.
      values: Feature values, as far as they are known.
      labels: Labels of features.
    Returns:
      The lines; the first and the last have no φ. A visible convergence delta has a line of its own.
    """
    steps = [WaterfallStep("base_value", "", None, row["base_value"])]
    for name, value, phi in _features(row, values, labels):
        steps.append(WaterfallStep(name, value, phi, steps[-1].total + phi))
    totals = [step.total for step in steps]
    missing = row["prediction"] - steps[-1].total
    if abs(missing) > _VISIBLE * (max(totals) - min(totals)):
        steps.append(WaterfallStep("(delta)", "", missing, row["prediction"]))
    return [*steps, WaterfallStep("prediction", "", None, row["prediction"])]


def _features(
    row: Mapping[str, Any], values: Mapping[str, Any], labels: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    """Names, values and φ, largest |φ| first; the last line sums the features without a line."""
    if "attribution" in row:
        arrays = {name: np.asarray(phi, np.float64) for name, phi in row["attribution"].items()}
        sums = sorted(arrays, key=lambda name: -abs(arrays[name].sum()))
        lines = []
        for name in sums:
            shape = arrays[name].shape
            value = f"{'×'.join(map(str, shape))} values" if shape else _value(values.get(name, ""))
            lines.append((clean(labels.get(name, name)), value, float(arrays[name].sum())))
    else:
        lines = [
            (
                clean(item.get("label") or labels.get(item["feature"], item["feature"])),
                _value(values.get(item["feature"], "")),
                float(item["attribution"]),
            )
            for item in row["top"]
        ]
    first, small = lines[:_MOST_LINES], lines[_MOST_LINES:]
    if small:
        first.append((f"({len(small):,} smaller ones)", "", sum(phi for _, _, phi in small)))
    if "rest" in row:
        first.append(("(all others)", "", float(row["rest"])))
    return first


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else clean(value)


# -- form ----------------------------------------------------------------------------------------------------


def _print_waterfall(out: Console, steps: Sequence[WaterfallStep]) -> None:
    ends = [step.total for step in steps]
    low, high = min(ends), max(ends)
    whole = (high - low) or 1.0
    numbers = [["" if step.phi is None else f"{step.phi:+.3g}", f"{step.total:.4g}"] for step in steps]
    named = [(step.name, step.value) for step in steps]
    header, cells, room = _fitted(out, ["φ", "total"], named, numbers)
    before = steps[0].total
    for line, step in zip(cells, steps, strict=True):
        start, end = sorted(((before - low) / whole, (step.total - low) / whole))
        style, sign = ("bold", "|") if step.phi is None else ("red", "+") if step.phi > 0 else ("blue", "-")
        line.append(Text(span(start, end, room, sign if _ascii(out) else None) if room else "", style=style))
        before = step.total
    ruler = f"{low:.3g}".ljust(room - cell_len(f"{high:.3g}")) + f"{high:.3g}"
    header.append(ruler if cell_len(ruler) <= room else "")
    print_table(out, cells, "<".ljust(len(header) - 1, ">") + "<", header=header)


def _print_bars(out: Console, features: Sequence[tuple[str, str, float]]) -> None:
    largest = max((abs(phi) for _, _, phi in features), default=0.0) or 1.0
    named = [(name, value) for name, value, _ in features]
    header, cells, room = _fitted(out, ["φ"], named, [[f"{phi:+.3g}"] for _, _, phi in features])
    room = (room - 2) // 2
    if room > 0:
        for line, (_, _, phi) in zip(cells, features, strict=True):
            share = abs(phi) / largest
            line.append(Text(bar_to_the_left(share if phi < 0 else 0.0, room), style="blue"))
            line.append(Text(bar(share if phi > 0 else 0.0, room), style="red"))
        header += [word.rjust(room) if word == "lowers" else word for word in ("lowers", "raises")]
    print_table(out, cells, "<".ljust(len(header) - 2 * (room > 0), ">") + "<<" * (room > 0), header=header)


def _fitted(
    out: Console, header: list[str], named: Sequence[tuple[str, str]], numbers: Sequence[list[str]]
) -> tuple[list[str], list[list[str | Text]], int]:
    """The header, the lines with names and values shortened to leave room for bars, and the room's width.

    The width is 0 if bars would be too short to read.
    """
    known = any(value for _, value in named)
    for longest_name, longest_value in _FITS:
        shown = known and longest_value > 0
        whole = ["feature", *(["value"] if shown else []), *header]
        cells: list[list[str | Text]] = [
            [fitted(name, longest_name), *([fitted(value, longest_value)] if shown else []), *cells]
            for (name, value), cells in zip(named, numbers, strict=True)
        ]
        # The width of the columns before the bars, with two characters after each.
        taken = sum(max(map(cell_len, map(str, cells))) + 2 for cells in zip(whole, *cells, strict=True))
        room = width_of(out) - taken
        if room >= _BARS:
            break
    return whole, cells, min(_WIDEST_BARS, room) if room >= _FEWEST_BARS else 0


def _ascii(out: Console) -> bool:
    return not out.encoding.lower().startswith("utf")


def _print_tensors(
    out: Console, row: Mapping[str, Any], values: Mapping[str, Any], labels: Mapping[str, str]
) -> None:
    """Lists the largest φ within each tensor, whose sum the lines above show."""
    for name, phi in row.get("attribution", {}).items():
        array = np.asarray(phi, np.float64)
        if not array.ndim or not array.size:
            continue
        flat = array.reshape(-1)
        strongest = np.argsort(-np.abs(flat), kind="stable")[:_PLACES]
        places = []
        for position in strongest:
            index = list(map(int, np.unravel_index(position, array.shape)))
            value = values.get(f"{name}{index}")
            held = "" if value is None else f" = {fitted(_value(value), _PLACE)}"
            places.append(f"{index}{held} {flat[position]:+.3g}")
        rest = ", the sum of its values" if array.size > 1 else ""
        text = f"{fitted(clean(labels.get(name, name)), _NAME)}{rest}; strongest: {', '.join(places)}"
        write(out)
        wrapped(out, f"{text} (--json has all)", "  ", "")
