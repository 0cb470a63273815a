"""Input files, and how their rows are cut into shards: the unit of work, retry, resume and memory."""

from __future__ import annotations

import math
import pickle
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING

from transforms.errors import UserError
from transforms.sources.other_formats import HEAD_BYTES, by_content, refusal
from transforms.sources.partitions import Partition, partition_of
from transforms.sources.tfrecord import framing, split, tally
from transforms.sources.tfrecord.framing import INDEX_STRIDE
from transforms.storage import files

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = "parquet"
TFRECORD = "tfrecord"
FORMATS = (PARQUET, TFRECORD)

_SUFFIXES = (
    (re.compile(r"\.(parquet|pq|parq)(-\d+-of-\d+)?$", re.IGNORECASE), PARQUET),
    (re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE), TFRECORD),
)
#: Files that are inspected at a time: footers are waited for rather than worked on.
_READERS, _REMOTE_READERS = 8, 64
_SCANNERS = 8  # ranges of a remote TFRecord file that are scanned at a time
_MAX_ROWS = 131_072
_MIN_ROWS = 1_024
_MAX_EVALUATIONS = 50_000_000  # model calls per shard: what a retry may cost
_MIN_COSTLY_ROWS = 64
_MOST_PIECES = 1_000  # of files that share a shard: their names are all that it carries


@dataclass(frozen=True)
class InputFile:
    """One matched file, after its footer or framing was read."""

    path: str  # what to open: an absolute local path or a Beam filesystem URL
    name: str  # how the user knows it: relative to the config file's folder where the pattern was relative
    format: str  # "parquet" | "tfrecord"
    rows: int
    bytes: int
    row_groups: tuple[int, ...] = ()  # Parquet: rows per row group
    index: tuple[int, ...] = ()  # plain TFRecord: byte offset of every INDEX_STRIDE-th row
    stamp: tuple[int, float] | None = None  # as files.stamp gave it, before anything else was read
    digest: str = ""  # as inspect_files says
    damage: str | None = None  # why nothing of it can be read: it counts as one row, which is rejected
    group_bytes: int = 0  # Parquet: bytes of its largest row group, before compression
    most_row_bytes: int = 0  # Parquet: bytes a row, likewise, of the group that has most
    schema: pa.Schema | None = field(default=None, compare=False, repr=False)  # Parquet
    partition: Partition = ()  # what its folders say: columns and values


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one file."""

    path: str
    name: str
    format: str
    start: int  # first row, counted from 0 in the file
    rows: int
    ordinal: int  # of its first row in the whole input (files in sorted order): keys random numbers
    offset: int = 0  # plain TFRecord: byte offset to begin at
    skip: int = 0  # TFRecord: rows to pass over from `offset`
    bytes: int | None = None  # of the file when it was planned
    damage: str | None = None  # as InputFile's
    partition: Partition = ()  # likewise


@dataclass(frozen=True)
class Shard:
    """Rows that one worker reads, explains and writes in one step; it names rows and never holds them.

    It crosses to the worker compressed: the names of many files are much alike.
    """

    index: int  # names its part file: part-00012.parquet
    pieces: tuple[Piece, ...]

    def __reduce__(self) -> tuple[Callable[[bytes], Shard], tuple[bytes]]:
        return _unpacked, (zlib.compress(pickle.dumps((self.index, [astuple(p) for p in self.pieces]))),)

    @property
    def rows(self) -> int:
        """Rows of all its pieces."""
        return sum(piece.rows for piece in self.pieces)


def _unpacked(packed: bytes) -> Shard:
    index, pieces = pickle.loads(zlib.decompress(packed))
    return Shard(index, tuple(Piece(*piece) for piece in pieces))


def inspect_files(
    paths_and_names: Iterable[tuple[str, str]], format: str | None = None, *, hive: bool = True
) -> list[InputFile]:
    """Counts the rows of each file, from Parquet's footers and TFRecord's headers.

    The same reading gives each file's digest. Parquet's is of its footer and its size: the footer has the
    place, the size and the statistics of every column of every row group, so that values changed in place
    are caught where they change one of these; TFRecord's is as `tally.Tally` says.

    Args:
      paths_and_names: As `files.expand` gives them.
      format: "parquet" or "tfrecord" for all files; by default each file's suffix says.
      hive: Whether folders called `name=value` are columns.

    Returns:
      The files in the order given; a file without rows is one of them.

    Raises:
      UserError: A file cannot be opened, is not what its suffix says, or has an unknown suffix; or formats
        are mixed, or all files are damaged Parquet.
    Cost: one small read a Parquet file; ~0.25 µs a TFRecord, and a pass over the file where it is compressed
      or remote, in several places at once where it can be.
    """
    wanted = [(path, name, format or _format_of(path, name)) for path, name in paths_and_names]
    formats = {kind: name for _, name, kind in reversed(wanted)}
    if unknown := set(formats) - set(FORMATS):
        raise UserError(
            f"{unknown.pop()} is not a format", where="input.format", remedy="use parquet or tfrecord"
        )
    if len(formats) > 1:
        raise UserError(
            f"{formats[PARQUET]} is Parquet and {formats[TFRECORD]} is TFRecord",
            where="input.files",
            remedy="read one format in a run, or say which it is with input.format",
        )
    if not wanted:
        return []
    readers = _REMOTE_READERS if files.is_url(wanted[0][0]) else _READERS
    with ThreadPoolExecutor(min(readers, len(wanted))) as pool:
        found = list(pool.map(_inspect, wanted))
    if hive:
        found = [
            replace(file, partition=partition_of(file.name)) if "=" in file.name else file for file in found
        ]
    if all(file.damage for file in found):
        first = found[0]
        others = f", nor can the other {len(found) - 1} be read" if len(found) > 1 else ""
        raise UserError(
            f"cannot be read as Parquet: {first.damage}{others}",
            where=first.name,
            remedy="mend the files, or name others in input.files",
        )
    return found


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


def format_of_suffix(name: str) -> str | None:
    """What a file's suffix says that it is; None where it says neither Parquet nor TFRecord."""
    return next((kind for pattern, kind in _SUFFIXES if pattern.search(name)), None)


def _format_of(path: str, name: str) -> str:
    kind = format_of_suffix(name)
    if kind is not None:
        return kind
    head = _head(path)
    if head[:4] == b"PAR1":
        raise UserError("is Parquet without its suffix", where=name, remedy="set input.format: parquet")
    raise refusal(name, head, "", "set input.format to parquet or tfrecord")


def _head(path: str) -> bytes:
    with files.open_input(path) as source:
        return source.read(HEAD_BYTES)


def _inspect(wanted: tuple[str, str, str]) -> InputFile:
    path, name, kind = wanted
    stamp = files.stamp(path)
    size = stamp[0]
    if kind == PARQUET:
        from transforms.sources.parquet.footer import read_footer

        footer = read_footer(path, name, size)
        return InputFile(
            path,
            name,
            kind,
            sum(footer.row_groups),
            size,
            footer.row_groups,
            stamp=stamp,
            digest=footer.digest,
            damage=footer.damage,
            group_bytes=footer.group_bytes,
            most_row_bytes=footer.most_row_bytes,
            schema=footer.schema,
        )
    found = _scan(path, name, size)
    return InputFile(path, name, kind, found.rows, size, index=found.index, stamp=stamp, digest=found.digest)


def _scan(path: str, name: str, size: int) -> tally.Scan:
    with files.open_input(path) as opened:
        head = opened.read(HEAD_BYTES)
        if head[:4] == b"PAR1":
            raise UserError(
                "is a Parquet file, not TFRecord", where=name, remedy="set input.format to parquet"
            )
        if by_content(head, gzip=False) is not None and framing.header_length(head[: framing.HEADER]) < 0:
            raise refusal(name, head, "TFRecord", "")
        opened.seek(0)
        source = framing.Source(opened)
        if files.is_url(path) and source.splittable and size >= 2 * split.RANGE_BYTES:
            return split.scan(lambda: files.open_input(path), size, _SCANNERS)
        # A local file's headers are read faster than Python looks at them, by whatever many threads.
        return tally.scan(source)


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
