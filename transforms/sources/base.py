"""The nouns of reading: input files, pieces of them, shards, columns, and batches of raw rows."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = "parquet"
TFRECORD = "tfrecord"
FORMATS = (PARQUET, TFRECORD)
INDEX_STRIDE = 256  # a shard passes over fewer headers than this to reach its first record

#: Names and values of a file's path, the outermost folder first; None is null.
Partition = tuple[tuple[str, str | None], ...]


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


@dataclass(frozen=True)
class Column:
    """A column that is wanted."""

    name: str  # "distance", or "weather.temp" for a field of a struct; a literal name with a dot wins
    type: pa.DataType  # as describe_columns gives it: TFRecord parsing needs it
    key: str = ""  # of the config, that asks for it
    optional: bool = False  # null where a file lacks it
    from_path: bool = False  # its value is in the name of a folder, where the file has such folders

    @property
    def asked(self) -> str:
        """Who asks for it, to be added to a line about a file that lacks it."""
        return f"; {self.key} asks for it" if self.key else ""

    @property
    def or_leave_out(self) -> str:
        """What else can be done about such a file than to mend it, to be added to a remedy."""
        fill = f", or give the feature a fill: {{name: {self.name}, fill: 0}}"
        return ", or take the file out of input.files" + (fill if self.key == "input.features" else "")


@dataclass(frozen=True)
class Rejection:
    """A row that could not be explained."""

    file: str  # InputFile.name
    row: int  # counted from 0 in the file
    stage: str  # "read" | "decode" | "predict" | "attribute"
    reason: str
    example_id: str | None = None  # None: not known; the writer falls back to "<file>:<row>"


@dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of one file, those that could be read and those that could not."""

    columns: pa.RecordBatch  # the wanted columns, in the wanted order, under the wanted names
    rows: np.ndarray  # int64 [n]: row number in the file of each row in `columns`
    rejected: tuple[Rejection, ...]
