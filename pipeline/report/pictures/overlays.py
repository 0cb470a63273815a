"""Pictures in the page: a feature's pixels, φ drawn over them, and scales of what the colours mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.blocks import Scale, Tile
from pipeline.report.data.sampled_rows import SampledRows, ShownFeature
from pipeline.report.page.theme import LIGHT
from pipeline.report.pictures.png import colours, data_uri, png, reduced
from pipeline.wording import isolated, number, shorten, signed

#: Most rows and columns of a picture in the page.
SIDE = 160
#: Bytes of a pixel in the page: three channels, a third more in base 64.
_PIXEL = 4
#: With more values of φ than this, full colour is a quantile of |φ|, so that one outlier does not pale the
#: rest.
_FEW = 5000
#: The quantile of |φ| that has full colour if there are many values.
_QUANTILE = 0.995
#: The darkest grey under the colours of φ; the lightest is white.
_DIMMED = 0.55


def flat(feature: ShownFeature, values: np.ndarray) -> np.ndarray:
    """Sums φ of a picture over its channels, `[…, height, width]`."""
    if feature.channels is None:
        return values
    summed: np.ndarray = values.sum(axis=values.ndim - len(feature.shape) + feature.channels)
    return summed


def tile(file: bytes, shape: Sequence[int], alt: str) -> Tile:
    """A PNG file in the page; a picture of few pixels is drawn with sharp pixels."""
    return Tile(data_uri(file), alt, (shape[0], shape[1]), max(shape[:2]) < SIDE // 2)


def scale_of(stops: Sequence[str], low: str, middle: str, high: str, title: str) -> Scale:
    """A palette with the texts at its ends and in its middle."""
    line = np.arange(256, dtype=np.uint8)[np.newaxis]
    return Scale(data_uri(png(line, colours(stops))), low, middle, high, title)


def side_within(budget: int) -> int:
    """The largest side of two pictures within a budget of bytes."""
    return int(min(SIDE, max(16, (budget / (2 * _PIXEL)) ** 0.5)))


def squares(feature: ShownFeature, side: int) -> str:
    """A sentence on the reduction of a picture; empty if it was not reduced."""
    spatial = [extent for axis, extent in enumerate(feature.shape) if axis != feature.channels]
    size = -(-max(spatial) // side)
    return f"Each square is the mean over {size}×{size} pixels." if size > 1 else ""


def pixels(feature: ShownFeature, rows: SampledRows) -> np.ndarray | None:
    """The picture of a row, `[height, width, 1 or 3]`, float64; channels are averaged unless they are 3."""
    if "feature" not in rows.table.column_names:
        return None
    value = rows.value(feature.name)[0].astype(np.float64)
    value = (
        np.moveaxis(value, feature.channels, -1) if feature.channels is not None else value[..., np.newaxis]
    )
    return value if value.shape[-1] in (1, 3) else value.mean(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Shades:
    """The values that are shown as black and as white, and a sentence on them."""

    low: float
    high: float
    words: str

    def shares(self, value: np.ndarray) -> np.ndarray:
        """Shares from 0, black, to 1, white; NaN is black."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return np.clip(np.nan_to_num(share, nan=0.0), 0.0, 1.0)


def shades_of(feature: ShownFeature, values: Sequence[np.ndarray | None]) -> Shades:
    """Shades over the narrowest usual range that contains the values, or else over their own range."""
    known = [value for value in values if value is not None]
    finite = np.concatenate([value[np.isfinite(value)] for value in known]) if known else np.zeros(0)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    for first, last in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if first <= low and high <= last and not (feature.image and high > 1 and last == 1):
            low, high = first, last
            break
    if not known:
        return Shades(low, high, "")
    return Shades(low, high, f"{number(low)} is black, {number(high)} is white.")


def reach_of(phi: Sequence[np.ndarray]) -> tuple[float, bool]:
    """The |φ| that has full colour, and whether any |φ| is larger."""
    absolute = np.abs(np.concatenate([own.ravel() for own in phi]))
    largest = float(absolute.max(initial=0.0))
    if absolute.size <= _FEW:
        return largest, False
    reach = float(np.quantile(absolute, _QUANTILE)) or largest
    return reach, reach < largest


def colours_in_words(reach: float, clipped: bool) -> str:
    """A sentence on the φ of full colour."""
    beyond = "; larger ones have the same" if clipped else ""
    return f"Full colour is a φ of ±{number(reach, 3)}{beyond}." if reach else "Every φ is 0."


def signs(reach: float) -> Scale:
    """The scale of φ, from blue to red."""
    return scale_of(LIGHT["diverging"], signed(-reach), "0", signed(reach), "φ of a pixel")


def pair(
    id: str, value: np.ndarray | None, phi: np.ndarray, shades: Shades, reach: float, side: int
) -> list[Tile]:
    """The picture, if it is known, and φ drawn over its greys."""
    small, _ = reduced(phi, side)
    shape = small.shape
    strength = np.clip(small / (reach or 1.0), -1.0, 1.0)
    grey = np.ones(shape)
    tiles = []
    short = isolated(shorten(id, 60))
    if value is not None:
        share = shades.shares(reduced(value, side)[0])
        grey = share.mean(axis=-1)
        pixels = np.rint(share * 255).astype(np.uint8)
        whole = png(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        size = "×".join(map(str, phi.shape))
        tiles.append(tile(whole, shape, f"Picture of example {short}, {size} pixels."))
    (up, most), (down, least) = extremes(phi)
    effects = [
        f"raised most at {up} ({signed(most)})" if up else "",
        f"lowered most at {down} ({signed(least)})" if down else "",
    ]
    words = ", ".join(filter(None, effects)) or "no pixel moves it"
    paper = (_DIMMED + (1 - _DIMMED) * grey)[..., np.newaxis] * 255.0
    ends = colours([LIGHT["diverging"][0], LIGHT["diverging"][-1]], 2).astype(np.float64)
    ink = np.where(strength[..., np.newaxis] < 0, ends[0], ends[1])
    alpha = np.abs(strength)[..., np.newaxis] ** 0.75
    mixed = np.rint(paper * (1 - alpha) + ink * alpha).astype(np.uint8)
    tiles.append(tile(png(mixed), shape, f"φ of example {short}: the score is {words}."))
    return tiles


def extremes(phi: np.ndarray) -> tuple[tuple[str, float], tuple[str, float]]:
    """The places of the largest and smallest φ with their values; an empty place if no φ has that sign."""
    places = []
    for sign in (1.0, -1.0):
        at = np.unravel_index(int((sign * phi).argmax()), phi.shape)
        value = float(phi[at])
        places.append(
            (f"row {at[0]}, column {at[1]}" if sign * value > 0 else "", value if sign * value > 0 else 0.0)
        )
    return places[0], places[1]
