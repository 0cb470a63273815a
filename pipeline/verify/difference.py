"""Measures the difference between an example's rows in a run's table and the recomputed rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from transforms.arrow.nested import as_tensor
from transforms.outputs.layout import TableSpec

#: Relative change of a large score that a batch of another size may cause: four float32 roundings.
_BITS = 4 * float(np.finfo(np.float32).eps)
#: Columns whose numbers may differ within the tolerance; all others must be equal.
_MEASURED = frozenset(
    (
        *("prediction", "output", "base_value", "convergence_delta"),
        *("attribution", "standard_error", "fit", "top", "rest"),
    )
)


def same_bits(stored: pa.Table, mine: pa.Table) -> bool:
    """Whether tables are equal bit by bit: −0 differs from 0, and NaN equals NaN."""
    alike = _alike(stored, mine)
    return alike is not None and _written(alike) == _written(mine)


def _alike(stored: pa.Table, mine: pa.Table) -> pa.Table | None:
    """The table in the types of another; None if the columns differ."""
    # Parquet calls the values of a list "element", Arrow calls them "item".
    kinds = [
        [(field.name, str(field.type).replace("<element:", "<item:")) for field in table.schema]
        for table in (stored, mine)
    ]
    return stored.cast(mine.schema) if kinds[0] == kinds[1] else None


def _written(table: pa.Table) -> list[bytes]:
    """The bytes of the values alone, whatever buffers hold them."""
    tables = []
    for column in table.columns:
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([array.take(pa.array(np.arange(len(array))))], ["value"])
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        tables.append(sink.getvalue().to_pybytes())
    return tables


def difference(
    stored: pa.Table, mine: pa.Table, full: pa.Table, spread: np.ndarray, output: TableSpec
) -> tuple[float, float, str]:
    """The largest difference between an example's rows, in units of their scale.

    Returns:
      The largest difference; the largest difference beyond rounding of large scores; and its column.
    """
    alike = _alike(stored, mine)
    if alike is None:
        return np.inf, np.inf, "the table's schema"
    for name in alike.schema.names:
        if name not in _MEASURED and _written(alike.select([name])) != _written(mine.select([name])):
            return np.inf, np.inf, name
    worst, beyond, where = 0.0, 0.0, ""
    for row in range(len(stored)):
        theirs, ours, whole = (table.slice(row, 1) for table in (alike, mine, full))
        phi = _values(whole["attribution"])
        sizes = [abs(float(whole[c][0].as_py())) for c in ("prediction", "base_value", "output")]
        scale = max(float(np.abs(np.concatenate(list(phi.values()))).max(initial=0.0)), float(spread[row]))
        for column, then, now in _pairs(theirs, ours, phi, output):
            unit = 1.0 if column == "fit" else scale
            gap = np.abs(then - now)
            gap[np.isnan(then) & np.isnan(now)] = 0.0
            most = float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
            worst = max(worst, _share(most, unit))
            left = _share(max(0.0, most - _BITS * max(sizes)), unit)
            if left > beyond:
                beyond, where = left, column
    return worst, beyond, where


def _share(gap: float, unit: float) -> float:
    return gap / unit if unit > 0 else (np.inf if gap > 0 else 0.0)


def _pairs(
    stored: pa.Table, mine: pa.Table, phi: Mapping[str, np.ndarray], output: TableSpec
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each column with the table's numbers and the recomputed ones."""
    for name in ("prediction", "output", "base_value", "convergence_delta", "fit"):
        if name in stored.schema.names:
            yield name, _number(stored[name]), _number(mine[name])
    for name in ("attribution", "standard_error"):
        if name in stored.schema.names:
            then, now = _values(stored[name]), _values(mine[name])
            for feature, values in then.items():
                yield f"{name} of {feature}", values, now[feature]
    if not isinstance(output.attributions, int):
        return
    sums = {name: float(value.sum(dtype=np.float64)) for name, value in phi.items()}
    top = stored["top"][0].as_py()
    listed = {item["feature"]: item["attribution"] for item in top}
    for feature, value in listed.items():
        yield f"top {feature}", np.array([value]), np.array([sums.get(feature, np.inf)])
    others = [value for name, value in sums.items() if name not in listed]
    yield "rest", _number(stored["rest"]), np.array([sum(others)])
    # No omitted value may be larger than a listed one.
    smallest = min((abs(value) for value in listed.values()), default=np.inf)
    largest = max(map(abs, others), default=0.0)
    if largest > smallest:
        yield "top", np.array([smallest]), np.array([largest])


def _number(column: pa.ChunkedArray) -> np.ndarray:
    """A single number, NaN for null."""
    value = column[0].as_py()
    return np.array([np.nan if value is None else value], np.float64)


def _values(column: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """The values of a row's struct by feature, flattened; NaN for null."""
    struct = column.combine_chunks()
    if isinstance(struct, pa.ChunkedArray):
        struct = struct.chunk(0)
    arrays = {}
    for each in struct.type:
        values = as_tensor(struct.field(each.name))
        arrays[each.name] = np.full(1, np.nan) if struct.null_count else values.reshape(-1).astype(np.float64)
    return arrays
