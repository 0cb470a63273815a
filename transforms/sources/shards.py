"""Cutting the rows of input files into shards: the unit of work, retry, resume and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transforms.sources.base import INDEX_STRIDE, TFRECORD, InputFile, Piece, Shard

_MAX_ROWS = 131_072
_MIN_ROWS = 1_024
_MAX_EVALUATIONS = 50_000_000  # model calls per shard: what a retry may cost
_MIN_COSTLY_ROWS = 64
_MOST_PIECES = 1_000  # files in a shard: their names are the only data it carries


def cut(
    inputs: Sequence[InputFile],
    shard_rows: int,
    limit: int | None = None,
    *,
    first_shard: int = 0,
    first_ordinal: int = 0,
) -> list[Shard]:
    """Cuts the input's rows, in order, into shards of exactly `shard_rows` rows; the last may have fewer.

    A shard also ends at its thousandth file, so that the list of file names stays small.

    The cut depends only on the row counts, so a resumed run finds the same shards. Small files share a shard,
    and a large file is cut into several. Row groups may be split, so that every shard costs the same; a
    process that reads consecutive shards still decodes each group once (`storage.open_files`).

    Args:
      inputs: From `inspect_files`.
      shard_rows: Rows in a shard, at least 1.
      limit: Number of rows to use, from the input's start; None: all.
      first_shard: Number of the first shard, where earlier shards exist.
      first_ordinal: Number of the first row.
    """
    if shard_rows < 1:
        raise ValueError(f"shard_rows is {shard_rows}; at least 1 is needed")
    shards: list[Shard] = []
    pieces: list[Piece] = []
    ordinal, held = first_ordinal, 0
    left = sum(file.rows for file in inputs) if limit is None else max(0, limit)
    for file in inputs:
        start = 0
        while start < file.rows and left > 0:
            rows = min(file.rows - start, shard_rows - held, left)
            pieces.append(_piece(file, start, rows, ordinal))
            start, ordinal, held, left = start + rows, ordinal + rows, held + rows, left - rows
            if held == shard_rows or len(pieces) == _MOST_PIECES:
                shards.append(Shard(first_shard + len(shards), tuple(pieces)))
                pieces, held = [], 0
    if pieces:
        shards.append(Shard(first_shard + len(shards), tuple(pieces)))
    return shards


def schedule(shards: Sequence[Shard]) -> list[Shard]:
    """The shards in the order of processing: largest first, so that no large one is left for the end."""
    return sorted(shards, key=lambda shard: (-shard.rows, shard.index))


def auto_shard_rows(total_rows: int, evaluations_per_row: int, workers: int) -> int:
    """Rows per shard: at least four shards per worker, and none so costly that a retry hurts.

    The result is between 1,024 and 131,072 rows. For costly methods it goes down to 64 rows, to keep a shard
    within 50 million model calls.
    """
    even = math.ceil(total_rows / (4 * max(1, workers)))
    affordable = max(_MIN_COSTLY_ROWS, _MAX_EVALUATIONS // max(1, evaluations_per_row))
    return min(affordable, max(_MIN_ROWS, min(_MAX_ROWS, even)))


def _piece(file: InputFile, start: int, rows: int, ordinal: int) -> Piece:
    if file.format != TFRECORD:
        return Piece(
            file.path, file.name, file.format, start, rows, ordinal, bytes=file.bytes, damage=file.damage,
            partition=file.partition,
        )  # fmt: skip
    offset, skip = (file.index[start // INDEX_STRIDE], start % INDEX_STRIDE) if file.index else (0, start)
    return Piece(
        file.path, file.name, file.format, start, rows, ordinal, offset, skip, file.bytes,
        partition=file.partition,
    )  # fmt: skip
