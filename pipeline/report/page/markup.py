"""Figures that are markup rather than charts: templates with escaping, nothing of the data as it is."""

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
    """A template of the report with its values, which are escaped."""
    return _environment().get_template(template).render(**values)
