"""What is in the sections of a report; helpers, not tests."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.report import page
from pipeline.report.blocks import Block, Choice, Figure, Prose, Section


def prose(blocks: Iterable[Block]) -> list[Prose]:
    """All paragraphs, those within choices included."""
    found: list[Prose] = []
    for block in blocks:
        if isinstance(block, Prose):
            found.append(block)
        elif isinstance(block, Choice):
            found += [inner for option in block.options.values() for inner in prose(option)]
    return found


def figures(sections: Iterable[Section]) -> dict[str, Figure]:
    """All figures by name, those within choices included."""
    return {figure.name: figure for figure in page.figures(list(sections))}
