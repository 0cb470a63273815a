"""Makes a shap.Explanation from a sample of a run: attributions with the matching feature values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.results.feature_values import feature_values
from pipeline.wording import scalar_or_shape
from transforms.arrow.nested import as_tensor
from transforms.errors import UserError
from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.tables import RunTables


def make_explanation(run: RunTables, rows: int | None, target: int | str | None, seed: int) -> Any:
    """Makes a shap.Explanation; see `Run.explanation`."""
    if rows is not None and rows < 1:
        raise UserError(f"rows is {rows}", "explanation", "give 1 or more, or None for all rows")
    counts = run.manifest["counts"]
    index = run.target_index(target)
    if index is None and counts["attributions"] != counts["rows_attributed"]:
        known = ", ".join(run.manifest["target_names"][:12])
        raise UserError("the run explains several outputs per row", "target", f"give one of {known}")
    table, places = _sample(run, rows, index, seed)
    struct = table["attribution"].combine_chunks()
    values, names = _columns(struct, run.features)
    by_name = feature_values(run, table, places)
    data, display = _beside(by_name, run.features, run.manifest["config"]["input"]["groups"], len(table))

    import shap

    return shap.Explanation(
        values=values.astype(np.float64),
        base_values=table["base_value"].to_numpy().astype(np.float64),
        data=data,
        display_data=display,
        feature_names=names,
    )


def _sample(run: RunTables, rows: int | None, target: int | None, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Sampled rows of the attributions table, and each row's (part, example within the part), `[n, 2]`."""
    parts = run.parts()
    if not parts or "attribution" not in _schema(parts[0]).names:
        raise UserError("the run holds no attributions in full", run.path, "set output.attributions: all")
    columns = [name for name in ("attribution", "base_value", "feature") if name in _schema(parts[0]).names]
    per_example = run.rows_per_example
    kept = []
    for part in parts:
        targets = _read(part, ["target"])["target"].to_numpy()
        kept.append(np.flatnonzero(targets == target) if target is not None else np.arange(len(targets)))
    chosen = _draw(sum(map(len, kept)), rows, seed)
    tables, places, first = [], [], 0
    for number, (part, positions) in enumerate(zip(parts, kept, strict=True)):
        mine = positions[chosen[(chosen >= first) & (chosen < first + len(positions))] - first]
        first += len(positions)
        if len(mine):
            tables.append(_read(part, columns).take(pa.array(mine)))
            places.append(np.column_stack([np.full(len(mine), number), mine // per_example]))
    if not tables:
        problem = (
            "the run explained no row" if target is None else f"no row was explained for target {target}"
        )
        raise UserError(problem, run.path)
    return pa.concat_tables(tables), np.concatenate(places)


def _draw(total: int, rows: int | None, seed: int) -> np.ndarray:
    """Positions of a random sample without replacement, sorted."""
    if rows is None or rows >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, rows, replace=False))


def _read(path: str, columns: Sequence[str]) -> pa.Table:
    return pq.read_table(files.local_copy(path), columns=list(columns))


def _schema(path: str) -> pa.Schema:
    return pq.read_schema(files.local_copy(path))


def _columns(struct: pa.StructArray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Flattens a struct of numbers and fixed-size lists to `[n, columns]`, with a name per column."""
    columns, labels = [], []
    for name in names:
        values = as_tensor(struct.field(name))
        shape = values.shape[1:]
        columns.append(values.reshape(len(struct), -1))
        labels += [f"{name}{list(index)}" for index in np.ndindex(*shape)] if shape else [name]
    return np.concatenate(columns, axis=1), labels


def _beside(
    by_name: Mapping[str, np.ndarray], names: Sequence[str], groups: Mapping[str, Sequence[str]], rows: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Feature values as numbers, `[n, columns]`, and the values to display; None if all are numbers.

    The number for a string is its alphabetical rank. The number for a group is the rank of its members'
    values in lexicographic order, and the group displays the values of all its members.
    """
    columns: list[np.ndarray] = []
    shown: list[np.ndarray] = []
    texts = False
    for name in names:
        if name in groups:
            members = [by_name[member] for member in groups[name]]
            whole = np.concatenate([_numbers(value.reshape(rows, -1)) for value in members], axis=1)
            ranks = np.unique(whole, axis=0, return_inverse=True)[1]
            columns.append(ranks.reshape(rows, 1).astype(np.float64))
            shown.append(_joined(members))
            texts = True
        else:
            value = by_name[name].reshape(rows, -1)
            columns.append(_numbers(value))
            shown.append(value.astype(object))
            texts |= value.dtype == object
    return np.concatenate(columns, axis=1), np.concatenate(shown, axis=1) if texts else None


def _numbers(value: np.ndarray) -> np.ndarray:
    """Converts strings to their alphabetical ranks, missing strings to NaN, and numbers to float64."""
    if value.dtype != object:
        return value.astype(np.float64)
    ranks = np.unique(value.astype(str), return_inverse=True)[1].reshape(value.shape).astype(np.float64)
    return np.where(value == None, np.nan, ranks)  # noqa: E711 - compares entry by entry


def _joined(members: Sequence[np.ndarray]) -> np.ndarray:
    """The values of a group's members as one text per row, `[n, 1]`."""
    rows = [", ".join(value_in_words(value[row]) for value in members) for row in range(len(members[0]))]
    joined = np.empty((len(rows), 1), object)
    joined[:, 0] = rows
    return joined


def value_in_words(value: Any) -> str:
    """A feature's value as short text: a number with six significant digits, a tensor as its shape."""
    return scalar_or_shape(value, lambda one: f"{one:.6g}" if isinstance(one, float) else str(one))
