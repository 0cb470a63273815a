"""What `attribeam show` prints: one example, from the base value to its prediction, feature by feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pipeline.screen.run_and_plan import fact
from pipeline.screen.text_table import (
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

#: Features that have a line each.
_MOST_LINES = 40
#: Rows of a repeated id that are named.
_OTHERS = 20
#: Columns of a name and of a value, fewer where the terminal is narrow; at last there are no values.
_NAME = 32
_FITS = ((_NAME, 20), (24, 14), (16, 12), (12, 0))
#: Columns of the bars: what is made room for, what makes sense at all, and what there is at most.
_BARS, _FEWEST_BARS, _WIDEST_BARS = 10, 6, 48
#: Places of a tensor that are named under the bars.
_PLACES = 3
#: Columns of a value there.
_PLACE = 12
#: A convergence delta is a step of its own where it is this share of the whole way.
_VISIBLE = 0.01


@dataclass(frozen=True)
class Step:
    """A line of the waterfall.

    Args:
      name: What it says; of a feature its label.
      value: The feature's value in words.
      phi: How far it leads; None for the first and the last line.
      total: Where it leads to.
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
    """`show`: how each feature leads from the base value to an example's prediction, largest |φ| first.

    Where the method promises no sum there is no way to lead along: bars stand to either side of nothing.

    Args:
      example_id: Its id.
      rows: Of the attributions table, one a target.
      values: The example's feature values, as far as they are known.
      labels: What features are called in words; the others by their names.
      places: `file:row` of all that have the id, its own first, where there are several.
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
            _print_waterfall(out, waterfall(row, values, words))
        _print_tensors(out, row, values, words)


# -- content -------------------------------------------------------------------------------------------------


def waterfall(row: Mapping[str, Any], values: Mapping[str, Any], labels: Mapping[str, str]) -> list[Step]:
    """The way from `base_value` to `prediction`: each feature's φ, largest first, what is left summed up.

    Args:
      row: Of the attributions table, in full or with the first k.
      values: Feature values, as far as they are known.
      labels: What features are called in words.
    Returns:
      Its lines, the first and the last without a φ. A convergence delta that would be seen is a line.
    """
    steps = [Step("base_value", "", None, row["base_value"])]
    for name, value, phi in _features(row, values, labels):
        steps.append(Step(name, value, phi, steps[-1].total + phi))
    totals = [step.total for step in steps]
    missing = row["prediction"] - steps[-1].total
    if abs(missing) > _VISIBLE * (max(totals) - min(totals)):
        steps.append(Step("(delta)", "", missing, row["prediction"]))
    return [*steps, Step("prediction", "", None, row["prediction"])]


def _features(
    row: Mapping[str, Any], values: Mapping[str, Any], labels: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    """Names, values and φ, largest |φ| first; the smallest of many, or those not kept, are one at the end."""
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


# -- how -----------------------------------------------------------------------------------------------------


def _print_waterfall(out: Console, steps: Sequence[Step]) -> None:
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
    """The header and the lines with names and values so short that bars fit beside them, and their room.

    The room is 0 where nothing would be seen of them.
    """
    known = any(value for _, value in named)
    for longest_name, longest_value in _FITS:
        shown = known and longest_value > 0
        whole = ["feature", *(["value"] if shown else []), *header]
        cells: list[list[str | Text]] = [
            [fitted(name, longest_name), *([fitted(value, longest_value)] if shown else []), *cells]
            for (name, value), cells in zip(named, numbers, strict=True)
        ]
        # What the columns before the bars take up, with two characters after each.
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
    """Where the φ of each tensor is largest, of which the lines above show the sum."""
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
