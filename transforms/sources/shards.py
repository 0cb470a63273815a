"""Input files, and how their rows are cut into shards: the unit of work, retry, resume and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transforms.sources.base import INDEX_STRIDE, TFRECORD, InputFile, Piece, Shard

_MAX_ROWS = 131_072
_MIN_ROWS = 1_024
_MAX_EVALUATIONS = 50_000_000  # model calls per shard: what a retry may cost
_MIN_COSTLY_ROWS = 64
_MOST_PIECES = 1_000  # of files that share a shard: their names are all that it carries


def cut(
    inputs: Sequence[InputFile],
    shard_rows: int,
    limit: int | None = None,
    *,
    first_shard: int = 0,
    first_ordinal: int = 0,
) -> list[Shard]:
    """Cuts the input's rows, in order, into shards of exactly `shard_rows` rows, the last one perhaps fewer.

    A shard of a thousand files is one whatever its rows, so that the list of their names stays small.

    The cut depends on nothing but the row counts, so that a resumed run finds the same shards. Small files
    share a shard; a large one is many. Row groups are not kept whole, so that every shard costs the same; a
    process that goes from shard to shard decodes each group once all the same (`cursors`).

    Args:
      inputs: As `inspect_files` gives them.
      shard_rows: Rows a shard, at least 1.
      limit: Only the first so many rows of the input.
      first_shard: The number of the first shard, where others come before.
      first_ordinal: Of the first row.
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
    """The shards in the order of handing out: largest first, so that none is waited for at the end."""
    return sorted(shards, key=lambda shard: (-shard.rows, shard.index))


def auto_shard_rows(total_rows: int, evaluations_per_row: int, workers: int) -> int:
    """Rows per shard: at least four shards a worker, and no shard so dear that its retry hurts.

    Between 1,024 and 131,072 rows; costly methods go down to 64 rows, for 50 million model calls a shard.
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
