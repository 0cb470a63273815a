"""Figures made of HTML or SVG instead of charts, by templates that escape everything from the data."""

from __future__ import annotations

import functools
from typing import Any

import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def markup(template: str, **values: Any) -> str:
    """Renders a template of the report; values are escaped."""
    return _environment().get_template(template).render(**values)
