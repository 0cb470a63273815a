"""Reads a run's attributions a few thousand rows at a time, and writes files atomically."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.errors import UserError
from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.run import Run

#: The most rows in memory at a time.
_ROWS = 8192
#: The most numbers in memory at a time.
_VALUES = 1 << 21


def attribution_parts(run: Run, kind: str) -> list[str]:
    """Paths of the part files of the attributions table.

    Raises:
      UserError: The run wrote no attributions.
    """
    parts = run.parts()
    if not parts:
        what = "the run holds no attributions, which this export needs"
        raise UserError(what, f"--export {kind}", "explain again with output.attributions: all")
    return parts


def columns_of_run(run: Run) -> list[str]:
    """Column names of the attributions table; empty if the run wrote no attributions."""
    parts = run.parts()
    return list(pq.read_schema(files.local_copy(parts[0])).names) if parts else []


def whole_examples(part: str, per_example: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields a part's rows as tables; no example is split between two tables."""
    with pq.ParquetFile(files.local_copy(part)) as source:
        width = max(1, source.metadata.num_columns)
        rows = max(per_example, min(_ROWS, _VALUES // width) // per_example * per_example)
        rest: pa.Table | None = None
        for batch in source.iter_batches(batch_size=rows, columns=None if columns is None else list(columns)):
            table = pa.Table.from_batches([batch])
            table = table if rest is None else pa.concat_tables([rest, table])
            whole = len(table) // per_example * per_example
            if whole:
                yield table.slice(0, whole).combine_chunks()
            rest = table.slice(whole)


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
    """Yields a local path to write to, then moves or uploads the finished file to `path`, a path or URL.

    Raises:
      UserError: The path cannot be written.
    """
    if files.is_url(path):
        with tempfile.TemporaryDirectory(prefix="attribeam-") as folder:
            local = os.path.join(folder, "file")
            yield local
            files.upload(local, path)
        return
    target = files.local_path(path)
    files.makedirs(os.path.dirname(target) or ".")
    temporary = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.tmp")
    try:
        yield temporary
        files.sync(temporary)
        files.put_in_place(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def flat_names(name: str, shape: Sequence[int]) -> list[str]:
    """One name per number of a feature: `name` for a scalar, `name[0, 1]` and so on for a tensor."""
    return [f"{name}{list(at)}" for at in np.ndindex(*shape)] if shape else [name]


def short(array: pa.Array) -> pa.Array:
    """Converts each float32 to the float64 with the fewest digits that still rounds to the float32."""
    if pa.types.is_fixed_size_list(array.type):
        return pa.FixedSizeListArray.from_arrays(short(array.flatten()), array.type.list_size)
    if not pa.types.is_float32(array.type):
        return array
    return pc.cast(pc.cast(array, pa.string()), pa.float64())


def attribution_of(table: pa.Table) -> pa.StructArray:
    """The column `attribution` of a table as one struct array, with one field per feature."""
    return table["attribution"].combine_chunks()
