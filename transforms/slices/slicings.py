"""What the importance is broken down by: columns, conditions, bins, and intersections of these.

A slicing gives each row at most one slice; `labels` says which, in words that the tables show:
`carrier=UA`, `age >= 65`, `age=[18, 35)`, `carrier=UA & age >= 65`. Null is `carrier=null`, in bins NaN too;
a text that reads null is quoted, to stay another slice.
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
#: Edges of bins of equally many rows, by column and number of bins.
Edges = Mapping[tuple[str, int], tuple[float, ...]]


@dataclass(frozen=True)
class BinsRequest:
    """`{column: age, bins: …}`: edges, or how many bins of equally many rows."""

    column: str
    bins: int | tuple[float, ...]


#: A column's name or a condition, bins, or several of these that are to be intersected.
SliceRequest = str | BinsRequest | tuple["str | BinsRequest", ...]


@dataclass(frozen=True)
class ByColumn:
    """A slice for each value of a column."""

    column: str

    @property
    def name(self) -> str:
        """The column's."""
        return self.column

    @property
    def columns(self) -> tuple[str, ...]:
        """That are needed."""
        return (self.column,)


@dataclass(frozen=True)
class ByCondition:
    """One slice: the rows for which a condition is true.

    Args:
      name: The condition as it is written.
      condition: The same as a tree.
    """

    name: str
    condition: expressions.Node

    @property
    def columns(self) -> tuple[str, ...]:
        """That are needed."""
        return expressions.columns_of(self.condition)


@dataclass(frozen=True)
class ByBins:
    """A slice for each stretch of a column's numbers: below the first edge, between two, from the last on.

    Args:
      column: Of numbers.
      edges: Increasing; a stretch begins with its lower edge and ends before its upper one.
      count: How many bins of equally many rows are asked for, where the edges are to be found; else 0.
    """

    column: str
    edges: tuple[float, ...]
    count: int = 0

    @property
    def name(self) -> str:
        """The column's."""
        return self.column

    @property
    def columns(self) -> tuple[str, ...]:
        """That are needed."""
        return (self.column,)


@dataclass(frozen=True)
class Intersection:
    """A slice for each combination of the slices of two or more slicings."""

    parts: tuple[ByColumn | ByCondition | ByBins, ...]

    @property
    def name(self) -> str:
        """Those of the parts."""
        return AND.join(part.name for part in self.parts)

    @property
    def columns(self) -> tuple[str, ...]:
        """That are needed."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.columns))


Slicing = ByColumn | ByCondition | ByBins | Intersection


def labels(slicings: Sequence[Slicing], columns: Mapping[str, pa.Array]) -> dict[str, pa.DictionaryArray]:
    """The slice of each row, by the name of a slicing.

    Args:
      slicings: Of the run.
      columns: Of each column that they need the values `[B]`, as they are decoded for slices.
    Returns:
      Labels `[B]`, dictionary-encoded; null where a row is in no slice. A dictionary may hold labels that no
      row has.
    Cost: a hash or a search a row; text is made of distinct values alone.
    """
    # A value with the word between the parts of an intersection must not read like one.
    within = any(isinstance(slicing, Intersection) for slicing in slicings)
    return {slicing.name: _labels(slicing, columns, within=within) for slicing in slicings}


def described(slicings: Sequence[Slicing]) -> list[dict[str, Any]]:
    """For plan and manifest: `name`, `kind`, `columns`; of bins the `edges`, of intersections the `parts`.

    A kind is column, condition, bins or intersection.
    """
    return [_described(slicing) for slicing in slicings]


def columns_needed(slicings: Sequence[Slicing]) -> tuple[str, ...]:
    """The columns of all of them, each once."""
    return tuple(dict.fromkeys(name for slicing in slicings for name in slicing.columns))


def _described(slicing: Slicing) -> dict[str, Any]:
    kinds = {ByColumn: "column", ByCondition: "condition", ByBins: "bins", Intersection: "intersection"}
    found: dict[str, Any] = {"name": slicing.name, "kind": kinds[type(slicing)]}
    found["columns"] = list(slicing.columns)
    if isinstance(slicing, ByBins):
        found["edges"] = list(slicing.edges)
    if isinstance(slicing, Intersection):
        found["parts"] = described(slicing.parts)
    return found


# -- what the config says ------------------------------------------------------------------------------------


def candidates(requests: Sequence[SliceRequest]) -> list[str]:
    """The columns that the config may mean, before the input's are known."""
    found: list[str] = []
    for item in requests:
        if isinstance(item, tuple):
            found += candidates(item)
        elif isinstance(item, BinsRequest):
            found.append(item.column)
        else:
            found += (expressions.names_in(item) if expressions.looks_like_one(item) else []) or [item]
    return list(dict.fromkeys(found))


def resolve_slicings(
    requests: Sequence[SliceRequest], types: Mapping[str, pa.DataType]
) -> tuple[Slicing, ...]:
    """Decides what each item means.

    Args:
      requests: What the config says.
      types: Of the input's columns.
    Returns:
      The slicings; bins of which only the number is given have no edges yet, see `with_edges`.
    Raises:
      UserError: An item is neither a column nor a condition, does not fit the types, or is there twice.
    """
    found: dict[object, Slicing] = {}
    for item in requests:
        slicing = _resolved(item, types)
        earlier = found.setdefault(_key(slicing), slicing)
        if earlier is not slicing:
            raise UserError(*_twice(earlier, slicing))
        if [other.name for other in found.values()].count(slicing.name) > 1:
            what = f"two of them would be called {slicing.name!r}"
            raise UserError(what, KEY, "give one of the columns another name")
    return tuple(found.values())


def _resolved(item: SliceRequest, types: Mapping[str, pa.DataType]) -> Slicing:
    if not isinstance(item, tuple):
        return _one(item, types)
    parts = tuple(_one(part, types) for part in item)
    keys = [_key(part) for part in parts]
    for part, key in zip(parts, keys, strict=True):
        if keys.count(key) > 1:
            raise UserError(f"{part.name!r} is intersected with itself", KEY, "name others")
    return Intersection(parts)


def _twice(one: Slicing, other: Slicing) -> tuple[str, str, str]:
    if {type(one), type(other)} == {ByColumn, ByBins}:
        return f"{one.name} is listed by its values and in bins", KEY, "keep one of the two"
    if one.name == other.name:
        return f"{one.name} is listed twice", KEY, "list it once"
    return f"{other.name!r} is {one.name!r} once more", KEY, "list it once"


def _one(item: str | BinsRequest, types: Mapping[str, pa.DataType]) -> ByColumn | ByCondition | ByBins:
    if isinstance(item, BinsRequest):
        _check_column(item.column, types)
        if kind_of(types[item.column]) != "number":
            what = f"bins of {item.column!r}, which holds {types[item.column]}, and numbers are needed"
            raise UserError(what, KEY, f"slice by its values: {item.column}")
        if isinstance(item.bins, int):
            return ByBins(item.column, (), item.bins)
        return ByBins(item.column, tuple(map(float, item.bins)))
    if item in types or not expressions.looks_like_one(item):
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
        what = f"column {name!r} holds {types[name]}, and one value a row is needed"
        raise UserError(what, KEY, "name another column")


def _key(slicing: Slicing) -> object:
    """Equal for two that would have slices of the same name, or of the same rows."""
    if isinstance(slicing, Intersection):
        return frozenset(map(_key, slicing.parts))
    if isinstance(slicing, ByCondition):
        return expressions.canonical(slicing.condition)
    return slicing.column


# -- edges ---------------------------------------------------------------------------------------------------


def with_edges(
    slicings: Sequence[Slicing], columns: Mapping[str, pa.Array], known: Edges | None = None
) -> tuple[Slicing, ...]:
    """The same with edges for the bins of which the config gives only the number.

    Args:
      slicings: As `resolve_slicings` gives them.
      columns: A draw of the input's values, by column.
      known: Edges that are taken as they are, by column and number of bins.
    Raises:
      UserError: The values drawn do not differ.
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
        what = f"bins of {slicing.column!r}, whose values do not differ in the rows that were looked at"
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
    if pt.is_float16(values.type):  # of which Arrow makes no dictionary
        values = as_text(values)
    encoded = values.dictionary_encode(null_encoding="encode")
    distinct = as_text(encoded.dictionary)
    if pt.is_string(values.type):
        distinct = _quoted(distinct, within)
    found = pc.binary_join_element_wise(
        pa.scalar(column), distinct, "=", null_handling="replace", null_replacement="null"
    )
    return pa.DictionaryArray.from_arrays(encoded.indices, found)


def _quoted(texts: pa.Array, within: bool) -> pa.Array:
    """Texts in quotes where another value or combination of values would read the same."""
    alike = pc.or_(pc.equal(texts, "null"), pc.starts_with(texts, '"'))
    if within:
        alike = pc.or_(alike, pc.match_substring(texts, AND))
    if not pc.any(alike).as_py():
        return texts
    escaped = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    return pc.if_else(alike, pc.binary_join_element_wise("", '"', escaped, '"', ""), texts)


def _numbers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A column's numbers as floating or whole ones, and where they are missing, both `[B]`."""
    if pt.is_string(values.type):  # so decimal numbers are decoded
        values = values.cast(pa.float64())
    found = values.to_numpy(zero_copy_only=False)
    return found, np.isnan(found) if found.dtype.kind == "f" else np.zeros(len(found), bool)


def _of_bins(slicing: ByBins, values: pa.Array) -> pa.DictionaryArray:
    numbers, missing = _numbers(values)
    edges = np.array(slicing.edges)
    if pt.is_float32(values.type) or pt.is_float16(values.type):
        # In single precision 0.7 is less than in double: an edge means the column's 0.7.
        with np.errstate(over="ignore"):
            edges = edges.astype(values.type.to_pandas_dtype())
    places = np.searchsorted(edges, numbers, side="right")
    places[missing] = len(edges) + 1
    found = [f"{slicing.column}={stretch}" for stretch in (*_stretches(slicing.edges), "null")]
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(found, pa.string()))


def _stretches(edges: Sequence[float]) -> Iterator[str]:
    shown = ["-inf", *map(_shown, edges), "inf"]
    for at, (low, high) in enumerate(pairwise(shown)):
        yield f"{'[' if at else '('}{low}, {high})"


def _shown(edge: float) -> str:
    return str(int(edge)) if edge == int(edge) and abs(edge) < 1e15 else repr(edge)


def _of_both(one: pa.DictionaryArray, other: pa.DictionaryArray) -> pa.DictionaryArray:
    """The combinations that there are, in the order of their first rows."""
    width = max(1, len(other.dictionary))
    numbers = pc.add(pc.multiply(one.indices.cast(pa.int64()), width), other.indices.cast(pa.int64()))
    encoded = numbers.dictionary_encode()
    places = np.divmod(encoded.dictionary.to_numpy(zero_copy_only=False), width)
    texts = (part.dictionary.take(pa.array(at)) for part, at in zip((one, other), places, strict=True))
    return pa.DictionaryArray.from_arrays(encoded.indices, pc.binary_join_element_wise(*texts, AND))
