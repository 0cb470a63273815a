"""Slicings: ways to divide the rows into slices, by a column, a condition, bins, or an intersection of these.

A slicing puts each row into at most one slice. The tables show the names of slices as `labels` returns them:
`carrier=UA`, `age >= 65`, `age=[18, 35)`, `carrier=UA & age >= 65`. Rows with null are in a slice such as
`carrier=null`; with bins, rows with NaN are in this slice, too. The text "null" is quoted, because its rows
are in another slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.value_text import as_text
from transforms.errors import UserError
from transforms.slices import expressions
from transforms.slices.edges import equal_count_edges
from transforms.slices.evaluation import evaluate
from transforms.slices.expressions import KEY, kind_of
from transforms.wording import did_you_mean, names_in_words

AND = " & "
#: Computed edges of bins with about equally many rows, by column and number of bins.
Edges = Mapping[tuple[str, int], tuple[float, ...]]


@dataclass(frozen=True)
class BinsRequest:
    """An item `{column: age, bins: …}` of the config.

    Args:
      column: The column.
      bins: Edges of the bins, or the number of bins, which then have about equally many rows.
    """

    column: str
    bins: int | tuple[float, ...]


#: An item of the config: a column's name or a condition, bins, or several of these to intersect.
SliceRequest = str | BinsRequest | tuple["str | BinsRequest", ...]


@dataclass(frozen=True)
class ByColumn:
    """A slice for each value of a column."""

    column: str

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the slicing needs."""
        return (self.column,)


@dataclass(frozen=True)
class ByCondition:
    """One slice: the rows for which a condition is true.

    Args:
      name: The condition as written, on one line.
      condition: The condition as a tree.
    """

    name: str
    condition: expressions.Node

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the slicing needs."""
        return expressions.columns_of(self.condition)


@dataclass(frozen=True)
class ByBins:
    """A slice for each bin of a column: below the first edge, between two edges, or from the last edge on.

    Args:
      column: A column of numbers.
      edges: Increasing edges; a bin includes its lower edge but not its upper edge.
      count: The number of bins, if the config gives a number instead of edges; else 0.
    """

    column: str
    edges: tuple[float, ...]
    count: int = 0

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the slicing needs."""
        return (self.column,)


@dataclass(frozen=True)
class Intersection:
    """A slice for each combination of the slices of two or more slicings."""

    parts: tuple[ByColumn | ByCondition | ByBins, ...]

    @property
    def name(self) -> str:
        """The joined names of the parts."""
        return AND.join(part.name for part in self.parts)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the slicing needs."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.columns))


Slicing = ByColumn | ByCondition | ByBins | Intersection


def labels(slicings: Sequence[Slicing], columns: Mapping[str, pa.Array]) -> dict[str, pa.DictionaryArray]:
    """The slice of each row, for each slicing.

    Args:
      slicings: The run's slicings.
      columns: The values of each column that the slicings need, `[B]`, as decoded for slices.
    Returns:
      By name of the slicing, the label of each row's slice, `[B]`, dictionary-encoded; null if a row is in no
      slice. A dictionary may hold labels that no row has.
    Cost: one hash or search per row; only distinct values are converted to text.
    """
    # If there are intersections, values that contain ' & ' are quoted, so as not to look like intersections.
    within = any(isinstance(slicing, Intersection) for slicing in slicings)
    return {slicing.name: _labels(slicing, columns, within=within) for slicing in slicings}


def described(slicings: Sequence[Slicing]) -> list[dict[str, Any]]:
    """Descriptions of slicings for the plan and the manifest, each with `name`, `kind` and `columns`.

    `kind` is column, condition, bins or intersection. Bins also have `edges`, and intersections have `parts`.
    """
    return [_described(slicing) for slicing in slicings]


def columns_needed(slicings: Sequence[Slicing]) -> tuple[str, ...]:
    """The columns that the slicings need, without duplicates."""
    return tuple(dict.fromkeys(name for slicing in slicings for name in slicing.columns))


def _described(slicing: Slicing) -> dict[str, Any]:
    kinds = {ByColumn: "column", ByCondition: "condition", ByBins: "bins", Intersection: "intersection"}
    description: dict[str, Any] = {"name": slicing.name, "kind": kinds[type(slicing)]}
    description["columns"] = list(slicing.columns)
    if isinstance(slicing, ByBins):
        description["edges"] = list(slicing.edges)
    if isinstance(slicing, Intersection):
        description["parts"] = described(slicing.parts)
    return description


# -- what the config says ------------------------------------------------------------------------------------


def candidates(requests: Sequence[SliceRequest]) -> list[str]:
    """Names in the config that may be columns, for use before the input's columns are known."""
    names: list[str] = []
    for item in requests:
        if isinstance(item, tuple):
            names += candidates(item)
        elif isinstance(item, BinsRequest):
            names.append(item.column)
        else:
            names += (expressions.names_in(item) if expressions.is_condition(item) else []) or [item]
    return list(dict.fromkeys(names))


def resolve_slicings(
    requests: Sequence[SliceRequest], types: Mapping[str, pa.DataType]
) -> tuple[Slicing, ...]:
    """Checks the config's items, and converts them to slicings.

    Args:
      requests: The items of the config.
      types: Types of the input's columns.
    Returns:
      The slicings; if the config gives only the number of bins, `with_edges` must compute their edges.
    Raises:
      UserError: An item is neither a column nor a condition, does not fit the columns' types, or is listed
        twice.
    """
    by_key: dict[object, Slicing] = {}
    for item in requests:
        slicing = _resolved(item, types)
        earlier = by_key.setdefault(_key(slicing), slicing)
        if earlier is not slicing:
            raise UserError(*_twice(earlier, slicing))
        if [other.name for other in by_key.values()].count(slicing.name) > 1:
            what = f"two slicings would be called {slicing.name!r}"
            raise UserError(what, KEY, "give one of the columns another name")
    return tuple(by_key.values())


def _resolved(item: SliceRequest, types: Mapping[str, pa.DataType]) -> Slicing:
    if not isinstance(item, tuple):
        return _one(item, types)
    parts = tuple(_one(part, types) for part in item)
    keys = [_key(part) for part in parts]
    for part, key in zip(parts, keys, strict=True):
        if keys.count(key) > 1:
            raise UserError(f"{part.name!r} is intersected with itself", KEY, "intersect different ones")
    return Intersection(parts)


def _twice(one: Slicing, other: Slicing) -> tuple[str, str, str]:
    if {type(one), type(other)} == {ByColumn, ByBins}:
        return f"{one.name} is listed by its values and in bins", KEY, "keep one of the two"
    if one.name == other.name:
        return f"{one.name} is listed twice", KEY, "list it once"
    return f"{other.name!r} is the same as {one.name!r}", KEY, "list it once"


def _one(item: str | BinsRequest, types: Mapping[str, pa.DataType]) -> ByColumn | ByCondition | ByBins:
    if isinstance(item, BinsRequest):
        _check_column(item.column, types)
        if kind_of(types[item.column]) != "number":
            what = f"bins of {item.column!r}, which holds {types[item.column]}, but numbers are needed"
            raise UserError(what, KEY, f"slice by its values: {item.column}")
        if isinstance(item.bins, int):
            return ByBins(item.column, (), item.bins)
        return ByBins(item.column, tuple(map(float, item.bins)))
    if item in types or not expressions.is_condition(item):
        _check_column(item, types)
        return ByColumn(item)
    text = expressions.in_a_line(item)
    return ByCondition(text, expressions.parse(text, types))


def _check_column(name: str, types: Mapping[str, pa.DataType]) -> None:
    if name not in types:
        known = list(types)
        remedy = did_you_mean(name, known, f"its columns are {names_in_words(known, 12)}")
        raise UserError(f"the input has no column {name!r}", KEY, remedy)
    if kind_of(types[name]) is None:
        what = f"column {name!r} holds {types[name]}, and one value per row is needed"
        raise UserError(what, KEY, "name another column")


def _key(slicing: Slicing) -> object:
    """A key that is equal for two slicings if their slices would have the same names or the same rows."""
    if isinstance(slicing, Intersection):
        return frozenset(map(_key, slicing.parts))
    if isinstance(slicing, ByCondition):
        return expressions.canonical(slicing.condition)
    return slicing.column


# -- edges ---------------------------------------------------------------------------------------------------


def with_edges(
    slicings: Sequence[Slicing], columns: Mapping[str, pa.Array], known: Edges | None = None
) -> tuple[Slicing, ...]:
    """The slicings, with edges computed for bins of which the config gives only the number.

    Args:
      slicings: From `resolve_slicings`.
      columns: A sample of the input's values, by column.
      known: Edges to use instead of computing them, by column and number of bins.
    Raises:
      UserError: The sampled values of a column are all equal.
    """
    return tuple(_with_edges(slicing, columns, known or {}) for slicing in slicings)


def _with_edges(slicing: Slicing, columns: Mapping[str, pa.Array], known: Edges) -> Any:
    if isinstance(slicing, Intersection):
        return Intersection(tuple(_with_edges(part, columns, known) for part in slicing.parts))
    if not isinstance(slicing, ByBins) or not slicing.count:
        return slicing
    if (slicing.column, slicing.count) in known:
        return replace(slicing, edges=known[slicing.column, slicing.count])
    edges = equal_count_edges(_numbers(columns[slicing.column])[0], slicing.count)
    if not edges:
        what = f"bins of {slicing.column!r}: its values are all equal in the sampled rows"
        raise UserError(what, KEY, "give edges, such as bins: [18, 35], or leave it out")
    return replace(slicing, edges=edges)


# -- labels --------------------------------------------------------------------------------------------------


def _labels(slicing: Slicing, columns: Mapping[str, pa.Array], *, within: bool = False) -> pa.DictionaryArray:
    if isinstance(slicing, ByColumn):
        return _of_values(slicing.column, columns[slicing.column], within)
    if isinstance(slicing, ByCondition):
        true = evaluate(slicing.condition, columns)
        places = pc.if_else(true, pa.scalar(0, pa.int32()), pa.scalar(None, pa.int32()))
        return pa.DictionaryArray.from_arrays(places, pa.array([slicing.name], pa.string()))
    if isinstance(slicing, ByBins):
        return _of_bins(slicing, columns[slicing.column])
    return reduce(_of_both, (_labels(part, columns, within=True) for part in slicing.parts))


def _of_values(column: str, values: pa.Array, within: bool) -> pa.DictionaryArray:
    if pt.is_float16(values.type):  # Arrow cannot encode half floats
        values = as_text(values)
    encoded = values.dictionary_encode(null_encoding="encode")
    distinct = as_text(encoded.dictionary)
    if pt.is_string(values.type):
        distinct = _quoted(distinct, within)
    names = pc.binary_join_element_wise(
        pa.scalar(column), distinct, "=", null_handling="replace", null_replacement="null"
    )
    return pa.DictionaryArray.from_arrays(encoded.indices, names)


def _quoted(texts: pa.Array, within: bool) -> pa.Array:
    """Quotes the texts that could be mistaken for null, for a quoted text or for an intersection."""
    alike = pc.or_(pc.equal(texts, "null"), pc.starts_with(texts, '"'))
    if within:
        alike = pc.or_(alike, pc.match_substring(texts, AND))
    if not pc.any(alike).as_py():
        return texts
    escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    return pc.if_else(alike, pc.binary_join_element_wise("", '"', escaped, '"', ""), texts)


def _numbers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A column's numbers (floats or integers) and a mask of the missing numbers, both `[B]`."""
    if pt.is_string(values.type):  # decimal numbers arrive as strings
        values = values.cast(pa.float64())
    numbers = values.to_numpy(zero_copy_only=False)
    return numbers, np.isnan(numbers) if numbers.dtype.kind == "f" else np.zeros(len(numbers), bool)


def _of_bins(slicing: ByBins, values: pa.Array) -> pa.DictionaryArray:
    numbers, missing = _numbers(values)
    edges = np.array(slicing.edges)
    if pt.is_float32(values.type) or pt.is_float16(values.type):
        # 0.7 is a different number in single and in double precision: use the one of the column's type.
        with np.errstate(over="ignore"):
            edges = edges.astype(values.type.to_pandas_dtype())
    places = np.searchsorted(edges, numbers, side="right")
    places[missing] = len(edges) + 1
    names = [f"{slicing.column}={stretch}" for stretch in (*_stretches(slicing.edges), "null")]
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(names, pa.string()))


def _stretches(edges: Sequence[float]) -> Iterator[str]:
    shown = ["-inf", *map(_shown, edges), "inf"]
    for at, (low, high) in enumerate(pairwise(shown)):
        yield f"{'[' if at else '('}{low}, {high})"


def _shown(edge: float) -> str:
    return str(int(edge)) if edge == int(edge) and abs(edge) < 1e15 else repr(edge)


def _of_both(one: pa.DictionaryArray, other: pa.DictionaryArray) -> pa.DictionaryArray:
    """The intersection of two slicings; its dictionary has only combinations that occur in the batch."""
    width = max(1, len(other.dictionary))
    numbers = pc.add(pc.multiply(one.indices.cast(pa.int64()), width), other.indices.cast(pa.int64()))
    encoded = numbers.dictionary_encode()
    places = np.divmod(encoded.dictionary.to_numpy(zero_copy_only=False), width)
    texts = (part.dictionary.take(pa.array(at)) for part, at in zip((one, other), places, strict=True))
    return pa.DictionaryArray.from_arrays(encoded.indices, pc.binary_join_element_wise(*texts, AND))
