"""Plans slices: finds the edges of bins, estimates the number of slices, and warns of too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.rows.baselines.baselines import drawn_slices
from transforms.rows.schema import ExampleSchema
from transforms.slices.slicings import ByBins, ByColumn, ByCondition, Slicing, labels, with_edges
from transforms.sources.base import InputFile

#: Rows that are drawn to estimate the number of slices.
_DRAWN = 10_000
#: The largest number of slices without a warning, in general and for floating-point columns, which are
#: rarely categories.
_MANY, _MANY_NUMBERS = 1000, 50


def plan_slicings(
    schema: ExampleSchema,
    files: Sequence[InputFile],
    seed: int,
    rows: int,
    edges: Mapping[tuple[str, int], tuple[float, ...]] | None = None,
) -> tuple[ExampleSchema, int, tuple[str, ...]]:
    """Completes a schema's slicings from a draw of the input.

    Args:
      schema: The schema that `resolve` returns.
      files: The files to draw from; the same files give the same edges.
      seed: The seed of the run.
      rows: Rows of the input.
      edges: Edges of an earlier run, by column and number of bins; they take precedence.
    Returns:
      The schema with all edges, the estimated number of slices over all slicings, and warnings.
    Raises:
      UserError: Bins are requested for a column whose values are all equal.
    Cost: see `drawn_slices`.
    """
    if not schema.slicings:
        return schema, 0, ()
    drawn = drawn_slices(files, schema, _DRAWN, seed)
    if not drawn:  # no row can be read, which is reported elsewhere
        return schema, 0, ()
    schema = replace(schema, slicings=with_edges(schema.slicings, drawn, edges or {}))
    number, looked_at = 0, len(next(iter(drawn.values())))
    warnings = []
    for slicing, labels_of_rows in zip(schema.slicings, labels(schema.slicings, drawn).values(), strict=True):
        counts = _counts(labels_of_rows)
        if looked_at >= rows:
            number += len(counts)
        else:
            number += _estimated(slicing, counts, rows)
        warning = _warning(slicing, drawn, len(counts), looked_at)
        if warning is not None:
            warnings.append(f"input.slices: {warning}")
    return schema, number, tuple(warnings)


def _counts(labels_of_rows: pa.DictionaryArray) -> np.ndarray:
    """The number of rows of each slice with rows."""
    places = labels_of_rows.indices.drop_null().to_numpy(zero_copy_only=False)
    counts = np.bincount(places, minlength=1)
    return counts[counts > 0]


def _estimated(slicing: Slicing, counts: np.ndarray, rows: int) -> int:
    """Estimates the number of slices of the whole input from those that were drawn once or twice.

    Chao 1984, "Nonparametric estimation of the number of classes in a population", bias-corrected.
    """
    if isinstance(slicing, ByCondition):
        return 1
    if isinstance(slicing, ByBins):
        return len(slicing.edges) + 2
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return min(rows, len(counts) + once * (once - 1) // (2 * (twice + 1)))


def _warning(slicing: Slicing, drawn: Mapping[str, pa.Array], number: int, looked_at: int) -> str | None:
    seen = f"has {number:,} values in {looked_at:,} rows, and each is a slice"
    if not isinstance(slicing, ByColumn):
        if number > _MANY:
            return (
                f"{slicing.name} divides {looked_at:,} rows into {number:,} slices; intersect fewer columns, "
                "or use bins"
            )
        return None
    kind = drawn[slicing.column].type
    many = _MANY_NUMBERS if pt.is_floating(kind) else _MANY
    if number <= many:
        return None
    if pt.is_floating(kind) or pt.is_integer(kind):
        return f"{slicing.column} {seen}; give bins: {{column: {slicing.column}, bins: 5}}"
    return f"{slicing.column} {seen}; slice by a coarser column"
