"""Renders the page: one HTML file that needs no other file and, by its own policy, loads none."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from pipeline.report.blocks import Block, Cell, Choice, Figure, Grid, Prose, Section, Table, Terms
from pipeline.report.page.theme import DARK, LIGHT, SANS, SERIF, vega_config
from pipeline.wording import number

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
#: Most options of a choice that are shown as buttons; more options become a list.
_MOST_RADIOS = 5
#: Most characters of all options together that are shown as buttons.
_LONGEST_RADIOS = 60
#: Most rows of a table without a search field.
_SEARCHED = 12
#: Most rows of a chart's data that are written by row; more are written by column, in half the space.
_BY_COLUMN = 40


def render(
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    *,
    meta: Mapping[str, str] | None = None,
) -> str:
    """Renders the page as HTML that needs no network and, by its own policy, has none.

    Args:
      title: The heading.
      lead: The line under the heading: the page's message in a sentence or two.
      facts: Names and values under the lead.
      sections: The sections in order; names of sections and figures must be unique.
      meta: Names and contents of meta tags.
    Raises:
      ValueError: Two figures or sections share a name, or a name cannot be a file's name.
    Cost: a second for the first page of a process, which bundles Vega; the bundle is 1 MB.
    """
    seen: set[str] = set()
    for name in [*(section.id for section in sections), *(figure.name for figure in figures(sections))]:
        if name in seen or not _NAME.fullmatch(name):
            raise ValueError(f"figure or section {name!r}: named twice, or not of letters, digits, hyphens")
        seen.add(name)
    environment = _environment()
    settings = to_json({"light": _theme(LIGHT), "dark": _theme(DARK)})
    scripts = [bundle(), environment.get_template("page.js").render()]
    return environment.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        facts=facts,
        sections=sections,
        meta=meta or {},
        style=Markup(_style()),
        settings=settings,
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        ids=itertools.count(1),
    )


def figures(sections: Sequence[Section]) -> Iterator[Figure]:
    """All figures in order, including those within grids and choices."""

    def within(blocks: Sequence[Block]) -> Iterator[Figure]:
        for block in blocks:
            if isinstance(block, Figure):
                yield block
            elif isinstance(block, Grid):
                yield from block.figures
            elif isinstance(block, Choice):
                for inner in block.options.values():
                    yield from within(inner)

    for section in sections:
        yield from within(section.blocks)


@functools.cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which defines `vegaEmbed`."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if re.search(r"</script|<!--|\r", script, re.IGNORECASE):
        raise ValueError("the installed Vega cannot be written into a page as it is")
    return script


def to_json(value: Any) -> Markup:
    """JSON that is safe within a script element for any strings; NaN and infinity become null."""
    text = json.dumps(plain_json(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def plain_json(value: Any) -> Any:
    """The value in the types of JSON: without tuples and numpy numbers, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if hasattr(value, "item"):  # a numpy number
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def by_column(value: Any) -> Any:
    """A spec with long data by column, `{"byColumn": {name: [...]}}`, which the page turns back into rows."""
    if isinstance(value, Mapping):
        rows = value.get("values")
        if isinstance(rows, list) and len(rows) > _BY_COLUMN and all(isinstance(r, Mapping) for r in rows):
            names = list(rows[0])
            if all(list(row) == names for row in rows):
                rest = {key: item for key, item in value.items() if key != "values"}
                return {**rest, "byColumn": {name: [row[name] for row in rows] for name in names}}
        return {key: by_column(item) for key, item in value.items()}
    return [by_column(item) for item in value] if isinstance(value, list | tuple) else value


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"next": next, "cell": _cell, "spec": _spec, "numeric": _numeric}
    environment.tests |= {
        "prose": lambda block: isinstance(block, Prose),
        "figure": lambda block: isinstance(block, Figure),
        "grid": lambda block: isinstance(block, Grid),
        "table": lambda block: isinstance(block, Table),
        "terms": lambda block: isinstance(block, Terms),
        "choice": lambda block: isinstance(block, Choice),
        "as_radios": _as_radios,
        "searched": lambda table: len(table.rows) > _SEARCHED,
    }
    return environment


def _as_radios(choice: Choice) -> bool:
    return len(choice.options) <= _MOST_RADIOS and sum(map(len, choice.options)) <= _LONGEST_RADIOS


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else number(value)


def _numeric(table: Table) -> list[bool]:
    """Marks the columns that contain only numbers."""
    columns = zip(*table.rows, strict=True) if table.rows else ([] for _ in table.header)
    return [
        any(cell is not None for cell in column) and not any(isinstance(cell, str) for cell in column)
        for column in map(list, columns)
    ]


def _spec(figure: Figure) -> Markup:
    return to_json(by_column(figure.spec))


def _theme(colours: dict[str, Any]) -> dict[str, Any]:
    return vega_config(colours)


def _style() -> str:
    # The style sheet holds no names from the data, so nothing needs to be escaped.
    template = _environment().overlay(autoescape=False).get_template("page.css")
    return template.render(light=LIGHT, dark=DARK, sans=SANS, serif=SERIF)


def _policy(scripts: Sequence[str]) -> str:
    """Allows these scripts, styles and pictures within the page, and nothing from anywhere else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
