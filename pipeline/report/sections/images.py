"""The report's section on pictures: maps of where φ is large, and examples with φ drawn over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.report.blocks import Block, Card, Cell, Figure, Pictures, Section, Table, Tile
from pipeline.report.data.chosen_examples import gallery
from pipeline.report.data.sampled_rows import (
    SampledRows,
    ShownFeature,
    distinct,
    feature_choice,
    mean_by_position,
    most_important,
    sample_by_target,
    target_choice,
)
from pipeline.report.data.tables import ReportData
from pipeline.report.data.view import MOST_TARGETS
from pipeline.report.page.theme import LIGHT
from pipeline.report.pictures.overlays import (
    SIDE,
    colours_in_words,
    extremes,
    flat,
    pair,
    pixels,
    reach_of,
    scale_of,
    shades_of,
    side_within,
    signs,
    squares,
    tile,
)
from pipeline.report.pictures.png import colours, png, reduced
from pipeline.wording import isolated, number, percent, plain, shorten, signed

#: Most picture features that are shown.
_FEATURES = 4
#: Most examples of all galleries together.
_GALLERY = 12
#: Most slice columns below an example of a gallery.
_SLICES = 6
#: Most bytes of a gallery.
_BYTES = 1_500_000
#: Most pixels of a picture with a table by pixel; larger pictures are divided into regions.
_FEW = 400
#: Regions along each side of a larger picture.
_REGIONS = 8
#: Most pixels or regions in the table.
_LINES = 15


def sections(data: ReportData) -> list[Section]:
    """Shows maps of where φ is large for each picture and target, and a gallery of examples."""
    pictures, rest_of_them = most_important(data, "picture", _FEATURES)
    if not pictures:
        return []
    share = max(1, _GALLERY // len(pictures))
    drawn = sample_by_target(data, MOST_TARGETS)
    made: dict[str, list[Block]] = {}
    names = distinct(feature.label for feature in pictures)
    for place, (name, feature) in enumerate(zip(names, pictures, strict=True)):
        maps = {
            target: [figure]
            for target in list(data.targets)[:MOST_TARGETS]
            if (figure := _maps(data, target, feature, f"picture-{place}-map-{target}"))
        }
        blocks = target_choice(data, maps)
        if drawn:
            chosen = gallery(drawn, share)
            blocks.append(_gallery(data, chosen, feature, f"picture-{place}-gallery"))
        made[name] = blocks
    lead = "Which parts of a picture move the score, over all rows and in single ones."
    return [Section("pictures", "Pictures", lead, feature_choice("Picture", made, rest_of_them))]


# -- where, over all rows ------------------------------------------------------------------------------------


def _maps(data: ReportData, target: int, feature: ShownFeature, name: str) -> Figure | None:
    """Maps of mean |φ| and mean φ by pixel; None if the run has neither means nor a sample."""
    means = mean_by_position(data, target, feature)
    if means is None:
        return None
    absolute, mean = flat(feature, means.absolute), flat(feature, means.mean)
    (small, size), (signs_of, _) = reduced(absolute, SIDE), reduced(mean, SIDE)
    largest, farthest = float(small.max()), float(np.abs(signs_of).max())
    scope = f"for {isolated(plain(data.targets[target]))}" if len(data.targets) > 1 else "over all rows"
    label = isolated(shorten(plain(feature.label)))
    tiles = [
        _map(small, 0.0, largest, LIGHT["heat"], f"Map of mean |φ| of {label} {scope}. {_where(absolute)}"),
        _map(
            signs_of,
            -farthest,
            farthest,
            LIGHT["diverging"],
            f"Map of mean φ of {label} {scope}. {_where(mean)}",
        ),
    ]
    heat = scale_of(LIGHT["heat"], "0", "", number(largest, 3), "Mean |φ|: how much a pixel matters")
    diverging = scale_of(
        LIGHT["diverging"], signed(-farthest), "0", signed(farthest), "Mean φ: what it does to the score"
    )
    captions = [
        "Darker: moves the score more, up or down.",
        "Red raises the score on average, blue lowers it.",
    ]
    squares = f" Each square is the mean over {size}×{size} pixels." if size > 1 else ""
    channels = (
        " φ is summed over the channels."
        if feature.channels is not None and min(feature.shape[feature.channels], 2) > 1
        else ""
    )
    cards = [
        Card([tile], lines=[caption], scale=scale)
        for tile, caption, scale in zip(tiles, captions, [heat, diverging], strict=True)
    ]
    return Figure(
        name,
        f"Where {label} matters {scope}",
        f"Two maps of {label}, {scope}. {_where(absolute)}",
        pictures=Pictures(cards, "large"),
        table=_regions(absolute, mean),
        note=f"{means.rows}{squares}{channels} Rows and columns are counted from 0 at the top left.",
    )


def _map(values: np.ndarray, low: float, high: float, stops: Sequence[str], alt: str) -> Tile:
    share = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
    return tile(png(np.rint(share * 255).astype(np.uint8), colours(stops)), values.shape, alt)


def _where(values: np.ndarray) -> str:
    """The place where a map is largest, in words for readers who cannot see it."""
    at = np.unravel_index(int(np.abs(values).argmax()), values.shape)
    return f"Largest at row {at[0]}, column {at[1]}: {number(float(values[at]), 3)}."


def _regions(absolute: np.ndarray, mean: np.ndarray) -> Table:
    """A table of the pixels that matter most, or of the regions of a larger picture."""
    whole = float(absolute.sum()) or 1.0
    sizes = [1 if absolute.size <= _FEW else -(-extent // _REGIONS) for extent in absolute.shape]
    starts = [np.arange(0, extent, size) for extent, size in zip(absolute.shape, sizes, strict=True)]

    def summed(values: np.ndarray) -> np.ndarray:
        first: np.ndarray = np.add.reduceat(values, starts[0], axis=0)
        regions: np.ndarray = np.add.reduceat(first, starts[1], axis=1)
        return regions

    by_region, means = summed(absolute), summed(mean)
    rows: list[list[Cell]] = []
    for at in np.argsort(-by_region, axis=None, kind="stable")[:_LINES]:
        place = np.unravel_index(at, by_region.shape)
        ends: list[Cell] = []
        for axis in (0, 1):
            first = int(starts[axis][place[axis]])
            last = min(first + sizes[axis], absolute.shape[axis]) - 1
            ends.append(first if sizes[axis] == 1 else f"{first}–{last}")
        rows.append(
            [*ends, float(by_region[place]), percent(float(by_region[place]) / whole), float(means[place])]
        )
    part = f"The {len(rows)} of {by_region.size:,}"
    caption = (
        f"{part} pixels that matter most"
        if max(sizes) == 1
        else f"{part} regions that matter most; summed over their pixels"
    )
    return Table(["Row", "Column", "Mean |φ|", "Share", "Mean φ"], rows, caption)


# -- examples ------------------------------------------------------------------------------------------------


def _gallery(
    data: ReportData, chosen: Sequence[tuple[int, SampledRows]], feature: ShownFeature, name: str
) -> Figure:
    phi = [flat(feature, rows.attribution(feature))[0] for _, rows in chosen]
    values = [pixels(feature, rows) for _, rows in chosen]
    side = side_within(_BYTES // max(1, len(chosen)))
    reach, clipped = reach_of(phi)
    shades = shades_of(feature, values)
    cards: list[Card] = []
    table: list[list[Cell]] = []
    for (target, rows), value, own in zip(chosen, values, phi, strict=True):
        id = plain(rows.ids()[0])
        score = float(rows.prediction[0])
        lines = [f"Score {number(score)}"]
        if len(data.targets) > 1:
            lines.insert(0, plain(data.targets[target]))
        slices = rows.slices(0)
        lines += [f"{plain(column)}: {text}" for column, text in slices[:_SLICES]]
        if len(slices) > _SLICES:
            lines.append(f"and {len(slices) - _SLICES} more columns")
        cards.append(Card(pair(id, value, own, shades, reach, side), shorten(id, 60), lines))
        up, down = extremes(own)
        table.append([id, plain(data.targets[target]), score, float(own.sum()), *up, *down])
    label = isolated(shorten(plain(feature.label)))
    header = ["Example", "Target", "Score", "Sum of φ"]
    header += ["Raised most at", "Raised by", "Lowered most at", "Lowered by"]
    return Figure(
        name,
        f"Examples of {label}, and what in them moves the score",
        f"{len(cards)} examples of {label}, each as it is and with the φ of its pixels over it.",
        pictures=Pictures(cards, "small", signs(reach)),
        table=Table(header, table),
        note=f"{_NOTE} {shades.words} {colours_in_words(reach, clipped)} {squares(feature, side)}".strip(),
    )


_NOTE = (
    "Left: the picture. Right: the picture in grey with φ over it; red pixels raise this row's score, blue "
    "ones lower it."
)


def of_example(rows: SampledRows, row: int, feature: ShownFeature, name: str, budget: int) -> Figure:
    """The picture of one example, as it is and with φ drawn over it.

    Args:
      rows: The rows that the example is one of.
      row: The example's position among the rows.
      feature: The picture.
      name: The figure's name.
      budget: Most bytes in the page.
    """
    one = rows.take([row])
    own = flat(feature, one.attribution(feature))[0]
    value = pixels(feature, one)
    reach, clipped = reach_of([own])
    shades = shades_of(feature, [value])
    side = side_within(budget)
    id = plain(one.ids()[0])
    up, down = extremes(own)
    card = Card(pair(id, value, own, shades, reach, side), scale=signs(reach))
    label = isolated(shorten(plain(feature.label)))
    where: list[list[Cell]] = [
        [effect, place, value]
        for effect, (place, value) in (("Raised most", up), ("Lowered most", down))
        if place
    ]
    return Figure(
        name,
        f"{label} of this example",
        f"The picture, and the φ of its pixels over it, {signed(float(own.sum()))} together.",
        pictures=Pictures([card], "single"),
        table=Table(["", "At", "φ"], where),
        note=f"{_NOTE} {shades.words} {colours_in_words(reach, clipped)} {squares(feature, side)}".strip(),
    )
