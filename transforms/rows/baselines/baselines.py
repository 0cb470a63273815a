"""The baseline (one reference row) or background (many), from the input, a file, the config or a run."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.numerics.random import row_keys
from transforms.rows.baselines.artifact import Artifact as Artifact
from transforms.rows.baselines.values import constants, of_earlier, statistic, zeros
from transforms.rows.decode import Rows, decode, join
from transforms.rows.schema import ExampleSchema, Fill, columns_of
from transforms.sources.base import InputFile, Piece
from transforms.sources.read import read_piece
from transforms.sources.shards import cut
from transforms.storage.files import is_url

KINDS = ("zeros", "constant", "mean", "median", "mode", "sample", "file", "run")
#: Draws use all rows of an input up to these limits, and evenly spread windows of a larger one.
_POOL_ROWS = 1_000_000
_POOL_BYTES = 256 << 20
_WINDOWS = 64
#: Limits of the rows read at a time: their number, and the memory of their features.
_BLOCK_ROWS = 16_384
_BLOCK_BYTES = 64 << 20
_SLICE_POOL_ROWS = 100_000  # rows from which values for slices are drawn
_AHEAD = 16  # pieces requested ahead of time
#: Limits of the first rows: their memory, and the number kept in the file's own types.
_FIRST_BYTES = 64 << 20
_STORED = 256


@dataclass(frozen=True)
class BaselineRequest:
    """The `baseline` block of a config, with its paths resolved.

    For kind `run`, `features` holds the rows of the earlier run, and `categories` the meaning of their codes.
    """

    kind: str
    rows: int | None = None
    value: Fill | Mapping[str, Fill] = None
    features: Mapping[str, np.ndarray] | None = None
    categories: Mapping[str, Categories] = field(default_factory=dict)


def read_rows(
    pieces: Sequence[Piece], schema: ExampleSchema, batch_size: int, targets: int = 1 << 31, stored: int = 0
) -> Iterator[Rows]:
    """Reads the usable rows of some pieces, in order; small pieces of an object store are read ahead.

    Args:
      pieces: Pieces of the input.
      schema: The examples' schema.
      batch_size: Rows read at a time.
      targets: Number of the model's outputs.
      stored: The number of first rows in each batch whose columns are also kept as in the file.
    """
    columns = columns_of(schema)
    names = [feature.name for feature in schema.features]

    def read(piece: Piece) -> Iterator[Rows]:
        for raw in read_piece(piece, columns, batch_size):
            rows, _ = decode(raw, schema, piece.name, piece.ordinal - piece.start, targets)
            if len(rows) and stored:
                usable = np.flatnonzero(np.isin(raw.rows, rows.rows))[:stored]
                rows.stored = raw.columns.select(names).take(pa.array(usable))
            if len(rows):
                yield rows

    if len(pieces) < 2 or not is_url(pieces[0].path):
        for piece in pieces:
            yield from read(piece)
        return
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="attribeam-baseline") as pool:
        waiting: deque[Future[list[Rows]]] = deque()
        for piece in pieces:
            small = piece.rows <= batch_size
            if small:
                waiting.append(pool.submit(lambda one: list(read(one)), piece))
            while waiting and not (small and len(waiting) <= _AHEAD):
                yield from waiting.popleft().result()
            if not small:
                yield from read(piece)
        for future in waiting:
            yield from future.result()


def first_rows(files: Sequence[InputFile], schema: ExampleSchema, count: int) -> Rows | None:
    """The first `count` usable rows of the input, fewer if they are wide; None if no row is usable.

    The columns of the first few hundred are also kept as in the file, up to a file with other types.
    """
    parts: list[Rows] = []
    stored: list[pa.RecordBatch] = []
    held = 0
    count = max(1, min(count, _FIRST_BYTES // schema.row_bytes))
    for shard in cut(files, _block_rows(schema)):
        for rows in read_rows(shard.pieces, schema, min(count, _block_rows(schema)), stored=_STORED):
            part = rows.take(slice(0, count - held))
            parts.append(part)
            wanted = sum(one.num_rows for one in stored) == held < _STORED
            if (
                wanted
                and rows.stored is not None
                and rows.stored.schema == (stored or [rows.stored])[0].schema
            ):
                stored.append(rows.stored.slice(0, min(len(part), _STORED - held)))
            held += len(part)
            if held >= count:
                return _with_stored(join(parts), stored)
    return _with_stored(join(parts), stored) if parts else None


def _with_stored(rows: Rows, stored: Sequence[pa.RecordBatch]) -> Rows:
    # Each batch has its own dictionaries, which must be unified.
    table = pa.Table.from_batches(stored).unify_dictionaries().combine_chunks()
    return dataclasses.replace(rows, stored=table.to_batches()[0])


def make_background(
    request: BaselineRequest, schema: ExampleSchema, files: Sequence[InputFile], seed: int
) -> dict[str, np.ndarray]:
    """The background rows by feature, `[R, *shape]`.

    Args:
      request: The config's `baseline` block.
      schema: The examples' schema.
      files: The input, or, for kind `file`, the baseline's own files.
      seed: The run's seed.
    Raises:
      UserError: No row is usable, or a value does not fit its feature.
    Cost: reads the input once, at most a million rows of it.
    """
    if request.kind == "zeros":
        return zeros(schema)
    if request.kind == "constant":
        return constants(request.value, schema)
    if request.kind == "run":
        return of_earlier(request.features or {}, request.categories, schema)
    rows = request.rows if request.rows is not None else (100 if request.kind == "sample" else None)
    drawn = _draw(files, schema, rows, seed)
    if request.kind in ("sample", "file"):
        return drawn.features
    return {
        f.name: statistic(request.kind, f, drawn.features[f.name], drawn.lengths.get(f.name))
        for f in schema.features
    }


def drawing_bytes(files: Sequence[InputFile], schema: ExampleSchema, kind: str) -> int:
    """The most memory taken by reading first rows and background, for a plan's bound."""
    total = schema.row_bytes * sum(file.rows for file in files)
    read = 2 * min(_BLOCK_BYTES, total) + 2 * min(_FIRST_BYTES, total)
    # The pool in parts and joined, and a copy to sort.
    return read + (3 * min(_POOL_BYTES, total) if kind in ("mean", "median", "mode") else 0)


def _draw(files: Sequence[InputFile], schema: ExampleSchema, rows: int | None, seed: int) -> Rows:
    """Draws usable rows of the input: `rows` at random without replacement, or all of the pool.

    A row's random key depends only on (seed, row number), so Parquet and TFRecord files with the same rows
    give the same draw. Only features are read: a file of baselines need not have ids, slices and targets.
    """
    schema = dataclasses.replace(schema, id=None, slices=(), target=None, weight=None)
    total = sum(file.rows for file in files)
    # A random draw keeps only its own rows, so its pool may have 1,000 rows however wide they are; without a
    # draw all of the pool is kept.
    least = 1_000 if rows is not None else 1
    pool = _pool(total, max(least, min(_POOL_ROWS, _POOL_BYTES // schema.row_bytes)))
    if rows is None:
        wanted = pool
    else:
        order = pool[np.argsort(row_keys(seed, pool), kind="stable")]
        wanted = order[: rows + rows // 4 + 16]
    while True:
        usable_rows = _read_ordinals(files, schema, np.sort(wanted))
        if usable_rows is None and len(wanted) == len(pool):
            raise UserError(
                f"none of {len(pool)} rows is usable{_why(files, schema)}",
                "baseline",
                "mend the rows, or use kind: zeros",
            )
        usable = 0 if usable_rows is None else len(usable_rows)
        if rows is None or usable >= rows or len(wanted) == len(pool):
            break
        wanted = order[: 2 * len(wanted)]
    assert usable_rows is not None  # for the type checker: the loop ends only with rows
    if rows is None:
        return usable_rows
    first = np.argsort(row_keys(seed, usable_rows.ordinals), kind="stable")[:rows]
    return usable_rows.take(np.sort(first))


def drawn_slices(
    files: Sequence[InputFile], schema: ExampleSchema, rows: int, seed: int
) -> dict[str, pa.Array]:
    """The values of the columns that slicings need, in rows drawn at random without replacement.

    Args:
      files: The input.
      schema: The examples' schema, with the columns for slices.
      rows: The most rows to draw.
      seed: The run's seed.
    Returns:
      Values by column, in the input's order; empty if no row can be read.
    Cost: reads these columns of at most 100,000 rows, in evenly spread windows.
    """
    alone = ExampleSchema((), {}, {}, slices=schema.slices, from_path=schema.from_path)
    pool = _pool(sum(file.rows for file in files), _SLICE_POOL_ROWS)
    wanted = pool[np.argsort(row_keys(seed, pool), kind="stable")[:rows]]
    drawn = _read_ordinals(files, alone, np.sort(wanted))
    return {} if drawn is None else drawn.slices


def _why(files: Sequence[InputFile], schema: ExampleSchema) -> str:
    """The reason why the first row is not usable, as an ending for a message."""
    columns = columns_of(schema)
    for shard in cut(files, 1, 1):
        for raw in read_piece(shard.pieces[0], columns, 1):
            _, rejected = decode(raw, schema, shard.pieces[0].name, 0, 1)
            return f": {rejected[0].reason} in the first"
    return ""


def _pool(total: int, most: int) -> np.ndarray:
    """Numbers of the rows to draw from: all, or evenly spread windows with about `most` rows in total."""
    if total <= most:
        return np.arange(total)
    windows = min(_WINDOWS, most)
    width = most // windows
    starts = (np.arange(windows) * total) // windows
    return (starts[:, None] + np.arange(width)).reshape(-1)


def _read_ordinals(files: Sequence[InputFile], schema: ExampleSchema, wanted: np.ndarray) -> Rows | None:
    parts = []
    for rows in read_rows(_pieces_with(files, wanted, _block_rows(schema)), schema, _block_rows(schema)):
        at = np.minimum(np.searchsorted(wanted, rows.ordinals), len(wanted) - 1)
        chosen = wanted[at] == rows.ordinals
        if chosen.any():
            parts.append(rows.take(chosen))
    return join(parts) if parts else None


def _block_rows(schema: ExampleSchema) -> int:
    """The number of rows to read at a time."""
    return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // schema.row_bytes))


def _pieces_with(files: Sequence[InputFile], wanted: np.ndarray, block_rows: int) -> list[Piece]:
    """Pieces that hold some of the wanted rows; adjacent ones are joined, so that nothing is read twice."""
    pieces: list[Piece] = []
    for shard in cut(files, block_rows):
        for piece in shard.pieces:
            low, high = np.searchsorted(wanted, [piece.ordinal, piece.ordinal + piece.rows])
            if low == high:
                continue
            last = pieces[-1] if pieces else None
            if last is not None and last.path == piece.path and last.start + last.rows == piece.start:
                pieces[-1] = dataclasses.replace(last, rows=last.rows + piece.rows)
            else:
                pieces.append(piece)
    return pieces
