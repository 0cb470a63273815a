"""Increments: a run over a grown input takes over the committed run in its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from transforms.errors import UserError
from transforms.outputs.parts import Part, is_there
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import AGGREGATES, STATE, WORK
from transforms.sources.base import InputFile, Shard
from transforms.sources.shards import cut
from transforms.storage import files
from transforms.storage.digests import digest_of
from transforms.worker.journal import ShardResult

#: Bytes of a piece of the stored aggregates.
_PIECE = 16 << 20


@dataclass(frozen=True)
class Increment:
    """The files that one run adds to those of earlier increments, in the order of increments.

    Args:
      run_id: The id of the run that explained the files.
      files: Number of files.
      rows: Rows read from the files.
      shard_rows: Rows per shard.
      shards: Number of shards.
    """

    run_id: str
    files: int
    rows: int
    shard_rows: int
    shards: int


@dataclass(frozen=True)
class Grown:
    """An input that holds all files of a committed run, and perhaps more.

    Args:
      committed: The manifest of the committed run.
      files: The committed run's files in its order, then the new ones.
      new: Number of new files.
    """

    committed: Mapping[str, Any]
    files: Sequence[InputFile]
    new: int

    @property
    def increments(self) -> tuple[Increment, ...]:
        """The increments of the committed run."""
        return increments_of(self.committed)

    @property
    def first(self) -> Sequence[InputFile]:
        """The files of its first increment, from which the baseline was drawn."""
        return self.files[: self.increments[0].files]

    @property
    def cuts(self) -> list[tuple[Sequence[InputFile], int, int]]:
        """The files, rows per shard and rows of each increment of the committed run."""
        cuts: list[tuple[Sequence[InputFile], int, int]] = []
        first = 0
        for part in self.increments:
            cuts.append((self.files[first : first + part.files], part.shard_rows, part.rows))
            first += part.files
        return cuts

    @property
    def known(self) -> Sequence[InputFile]:
        """The files that the committed run has explained."""
        return self.files[: len(self.files) - self.new]

    @property
    def added(self) -> Sequence[InputFile]:
        """The new files."""
        return self.files[len(self.files) - self.new :]


def increments_of(manifest: Mapping[str, Any]) -> tuple[Increment, ...]:
    """The increments of a committed run: one, unless it took over another run."""
    return tuple(Increment(**item) for item in manifest["increments"])


def grown(inputs: Sequence[InputFile], committed: Mapping[str, Any]) -> Grown | str:
    """The input in the order of a committed run, or the reason why it does not hold all files of that run."""
    by_name = {file.name: file for file in inputs}
    known = []
    for item in committed["inputs"]:
        file = by_name.pop(item["file"], None)
        if file is None:
            return f"{item['file']} is no longer in the input"
        if (file.rows, file.bytes) != (item["rows"], item["bytes"]):
            return f"{item['file']} has changed"
        known.append(file)
    added = [file for file in inputs if file.name in by_name]
    if added and not committed["config"].get("incremental"):
        return "it was made without incremental: true, and keeps no aggregates to add to"
    return Grown(committed, [*known, *added], len(added))


def is_limited(committed: Mapping[str, Any]) -> bool:
    """Whether a committed run read only some rows of its files, because of --limit."""
    return sum(part.rows for part in increments_of(committed)) < sum(f["rows"] for f in committed["inputs"])


def in_run_order(inputs: Sequence[InputFile], manifest: Mapping[str, Any]) -> list[InputFile] | None:
    """The input files of a committed run in its order; None if they have changed."""
    order = grown(inputs, manifest)
    return None if isinstance(order, str) or order.new else list(order.files)


def cut_increments(inputs: Sequence[InputFile], increments: Sequence[Increment]) -> list[Shard]:
    """The shards of all increments; shards and rows are numbered consecutively."""
    shards: list[Shard] = []
    first = ordinal = 0
    for part in increments:
        mine = inputs[first : first + part.files]
        shards += cut(mine, part.shard_rows, part.rows, first_shard=len(shards), first_ordinal=ordinal)
        first, ordinal = first + part.files, ordinal + part.rows
    return shards


def state_table(result: ShardResult) -> pa.Table:
    """The aggregates that an incremental run keeps, as a column of pieces of bytes.

    The bytes are a column, because Parquet readers accept only some 60 MB of metadata.
    """
    data = replace(result, parts=[], seconds=0.0).to_bytes()
    pieces = [data[first : first + _PIECE] for first in range(0, len(data), _PIECE)]
    return pa.table({"state": pa.array(pieces, pa.binary())})


def take_over(base: Grown, source: str, place: str) -> None:
    """Takes over a committed run: its parts into the new run's directory, its aggregates into the journal.

    Local parts become hard links; an object store copies them.
    """
    parts = [Part(**part) for part in base.committed["parts"] if part["file"] not in AGGREGATES]
    if _is_taken_over(place, parts):
        return
    for part in parts:
        if not is_there(source, part):
            problem = f"{part.file} is missing or has changed, so nothing can be added to the run"
            raise UserError(
                problem,
                source,
                "attribeam verify lists all differences; --overwrite explains everything again",
            )
    if files.is_url(place):
        files.copy([files.join(source, p.file) for p in parts], [files.join(place, p.file) for p in parts])
    else:
        for part in parts:
            _link(files.join(source, part.file), files.join(place, part.file))
        for folder in sorted({os.path.dirname(part.file) for part in parts}):
            files.sync(files.join(place, folder))
    table = read_whole(files.join(source, STATE))
    state = b"".join(table["state"].to_pylist())
    result = replace(ShardResult.from_bytes(state), parts=parts)
    data = result.to_bytes()
    files.write_atomic(_base_path(place), f"{digest_of(data)}\n".encode() + data)


def _is_taken_over(place: str, parts: Sequence[Part]) -> bool:
    """Whether an earlier attempt took over these parts, and all are still in place."""
    if not files.exists(_base_path(place)):
        return False
    head, _, data = files.read_bytes(_base_path(place)).partition(b"\n")
    return head == digest_of(data).encode() and all(is_there(place, part) for part in parts)


def read_base(place: str) -> ShardResult:
    """Reads the aggregates that were taken over."""
    return ShardResult.from_bytes(files.read_bytes(_base_path(place)).partition(b"\n")[2])


def _base_path(place: str) -> str:
    return files.join(place, WORK, "base")


def _link(source: str, target: str) -> None:
    files.makedirs(os.path.dirname(target))
    files.delete_tree(target)
    try:
        os.link(source, target)
    except OSError:  # a filesystem without links; any other error will recur when copying
        shutil.copyfile(source, target)
        files.sync(target)
