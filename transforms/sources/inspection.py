"""Inspecting input files before a run: their format, rows, size and digest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from transforms.errors import UserError
from transforms.sources.base import FORMATS, PARQUET, TFRECORD, InputFile
from transforms.sources.partitions import partition_of
from transforms.sources.tfrecord import framing, split, tally
from transforms.sources.unsupported_formats import HEAD_BYTES, by_content, refusal
from transforms.storage import files

_SUFFIXES = (
    (re.compile(r"\.(parquet|pq|parq)(-\d+-of-\d+)?$", re.IGNORECASE), PARQUET),
    (re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE), TFRECORD),
)
#: Files inspected at a time: reading footers means waiting, not computing.
_READERS, _REMOTE_READERS = 8, 64
_SCANNERS = 8  # ranges of a remote TFRecord file that are scanned at a time


def inspect_files(
    paths_and_names: Iterable[tuple[str, str]], format: str | None = None, *, hive: bool = True
) -> list[InputFile]:
    """Counts the rows of each file, from Parquet's footers and TFRecord's headers.

    The same pass computes each file's digest. For Parquet it covers the footer and the file's size. The
    footer holds the position, size and statistics of every column in every row group, so a value changed in
    place is noticed if it changes one of these. For TFRecord see `tally.Tally`.

    Args:
      paths_and_names: From `globs.expand`.
      format: "parquet" or "tfrecord" for all files; by default each file's suffix decides.
      hive: Whether folders called `name=value` are columns.

    Returns:
      The files in the order given, including files without rows.

    Raises:
      UserError: A file cannot be opened, is not what its suffix says, or has an unknown suffix; or formats
        are mixed, or all files are damaged Parquet.
    Cost: one small read per Parquet file; ~0.25 µs per TFRecord, and a pass over the whole file if it is
      compressed or remote, with several ranges in parallel where possible.
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
        inspected = list(pool.map(_inspect, wanted))
    if hive:
        inspected = [
            replace(file, partition=partition_of(file.name)) if "=" in file.name else file
            for file in inspected
        ]
    if all(file.damage for file in inspected):
        first = inspected[0]
        others = f", nor can the other {len(inspected) - 1} be read" if len(inspected) > 1 else ""
        raise UserError(
            f"cannot be read as Parquet: {first.damage}{others}",
            where=first.name,
            remedy="mend the files, or name others in input.files",
        )
    return inspected


def format_of_suffix(name: str) -> str | None:
    """The format that a file's suffix names; None where it names neither Parquet nor TFRecord."""
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
    scanned = _scan(path, name, size)
    return InputFile(
        path, name, kind, scanned.rows, size, index=scanned.index, stamp=stamp, digest=scanned.digest
    )


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
        # Reading a local file's headers is faster than Python's work on them, so threads would not help.
        return tally.scan(source)
