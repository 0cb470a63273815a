"""Figures of a report as files, drawn without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import vl_convert

from pipeline.report.blocks import Pictures, Section
from pipeline.report.page.render import figures, plain_json
from pipeline.report.page.theme import LIGHT, vega_config
from pipeline.report.pictures.picture_files import drawing
from transforms.errors import UserError
from transforms.storage import files

FORMATS = ("svg", "png")
#: The width of a figure that fills its column in the page, in the page's units.
_WIDTH = 760
#: Pixels of a PNG for each unit.
_PIXELS = 2


def write_figures(sections: Sequence[Section], folder: str, format: str = "svg") -> list[str]:
    """Writes every chart and the pictures of a report into a folder, in the light theme.

    Args:
      sections: The report's sections.
      folder: A path or URL; it is created if it is missing.
      format: svg, or png with two pixels per unit.
    Returns:
      The paths, in the report's order. Other figures, such as texts, are left out.
    Raises:
      UserError: The folder cannot be written, or the format is unknown.
    """
    if format not in FORMATS:
        raise UserError(f"{format!r} is not a format of figures", "--format", f"known: {', '.join(FORMATS)}")
    files.makedirs(folder)
    written = []
    for figure in figures(sections):
        if figure.spec is not None:
            data = draw(figure.spec, format)
        elif figure.pictures is not None:
            data = draw_pictures(figure.pictures, figure.description, format)
        else:
            continue
        path = files.join(folder, f"{figure.name}.{format}")
        files.write_atomic(path, data)
        written.append(path)
    return written


def draw(spec: Any, format: str = "svg") -> bytes:
    """A chart as the bytes of a file."""
    config = {**vega_config(LIGHT), "background": "white", "padding": 16}
    # Names are already short. A second cut could split a character, which would then not be drawn.
    whole = _unlimited({**plain_json(spec), "config": config})
    if whole.get("width") == "container":
        whole |= {"width": _WIDTH, "autosize": {"type": "fit-x", "contains": "padding"}}
    if format == "png":
        image: bytes = vl_convert.vegalite_to_png(whole, scale=_PIXELS)
        return image
    drawing: str = vl_convert.vegalite_to_svg(whole)
    return drawing.encode()


def draw_pictures(shown: Pictures, description: str, format: str = "svg") -> bytes:
    """Pictures as the bytes of a file."""
    svg = drawing(shown, description)
    if format == "png":
        image: bytes = vl_convert.svg_to_png(svg, scale=_PIXELS)
        return image
    return svg.encode()


def _unlimited(part: Any) -> Any:
    """A config without limits to the length of labels and titles, at any depth."""
    if isinstance(part, dict):
        limits = ("labelLimit", "titleLimit")
        return {key: 0 if key in limits else _unlimited(value) for key, value in part.items()}
    return [_unlimited(value) for value in part] if isinstance(part, list) else part
