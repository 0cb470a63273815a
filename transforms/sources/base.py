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

    path: str  # to open: an absolute local path or a Beam filesystem URL
    name: str  # shown to the user: relative to the config file's folder where the pattern was relative
    format: str  # "parquet" | "tfrecord"
    rows: int
    bytes: int
    row_groups: tuple[int, ...] = ()  # Parquet: rows per row group
    index: tuple[int, ...] = ()  # plain TFRecord: byte offset of every INDEX_STRIDE-th row
    stamp: tuple[int, float] | None = None  # from files.stamp, taken before anything else was read
    digest: str = ""  # see inspect_files
    damage: str | None = None  # why the file is unreadable: it then counts as one row, which is rejected
    group_bytes: int = 0  # Parquet: uncompressed bytes of the largest row group
    most_row_bytes: int = 0  # Parquet: uncompressed bytes per row, in the group where rows are largest
    schema: pa.Schema | None = field(default=None, compare=False, repr=False)  # Parquet
    partition: Partition = ()  # columns and values from the names of its folders


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one file."""

    path: str
    name: str
    format: str
    start: int  # first row, counted from 0 in the file
    rows: int
    ordinal: int  # number of its first row in the whole input (files sorted): keys random numbers
    offset: int = 0  # plain TFRecord: byte offset to begin at
    skip: int = 0  # TFRecord: rows to skip from `offset`
    bytes: int | None = None  # size of the file when the run was planned
    damage: str | None = None  # see InputFile.damage
    partition: Partition = ()  # see InputFile.partition


@dataclass(frozen=True)
class Shard:
    """Rows that one worker reads, explains and writes in one step; the shard names them but holds no data.

    It is compressed on its way to the worker, because names of many files are much alike.
    """

    index: int  # names its part file: part-00012.parquet
    pieces: tuple[Piece, ...]

    def __reduce__(self) -> tuple[Callable[[bytes], Shard], tuple[bytes]]:
        return _unpacked, (zlib.compress(pickle.dumps((self.index, [astuple(p) for p in self.pieces]))),)

    @property
    def rows(self) -> int:
        """Number of rows in all pieces."""
        return sum(piece.rows for piece in self.pieces)


def _unpacked(packed: bytes) -> Shard:
    index, pieces = pickle.loads(zlib.decompress(packed))
    return Shard(index, tuple(Piece(*piece) for piece in pieces))


@dataclass(frozen=True)
class Column:
    """A column to read."""

    name: str  # "distance", or "weather.temp" for a field of a struct; a literal name with a dot wins
    type: pa.DataType  # from describe_columns; needed to parse TFRecord
    key: str = ""  # the config key that asks for the column
    optional: bool = False  # null where a file lacks it
    from_path: bool = False  # its value is in the name of a folder, where the file has such folders

    @property
    def asked(self) -> str:
        """The config key that asks for the column, as the end of a message about a file that lacks it."""
        return f"; {self.key} asks for it" if self.key else ""

    @property
    def or_leave_out(self) -> str:
        """Alternatives to mending a file that lacks the column, as the end of a remedy."""
        fill = f", or give the feature a fill: {{name: {self.name}, fill: 0}}"
        return ", or take the file out of input.files" + (fill if self.key == "input.features" else "")


@dataclass(frozen=True)
class Rejection:
    """A row that could not be explained."""

    file: str  # InputFile.name
    row: int  # counted from 0 in the file
    stage: str  # "read" | "decode" | "predict" | "attribute"
    reason: str
    example_id: str | None = None  # None: unknown; the writer then uses "<file>:<row>"


@dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of one file: the readable ones, and rejections for the others."""

    columns: pa.RecordBatch  # the wanted columns, in the wanted order, under the wanted names
    rows: np.ndarray  # int64 [n]: row number in the file of each row in `columns`
    rejected: tuple[Rejection, ...]
