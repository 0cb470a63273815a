"""Files and folders that are neither Parquet nor TFRecord: recognising them, and how to convert them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transforms.errors import UserError

#: First bytes of a file that are examined: a tar has its magic word at 257.
HEAD_BYTES = 1024
_DUCKDB = "duckdb -c \"COPY (FROM {scan}) TO 'rows.parquet'\""
_CSV = "convert it, say by " + _DUCKDB.format(scan="read_csv('{name}')")
_JSON = "convert it, say by " + _DUCKDB.format(scan="read_json('{name}')")
_ARROW = "convert it: pyarrow.parquet.write_table(pyarrow.feather.read_table('{name}'), 'rows.parquet')"
_STREAM = (
    "convert it: datasets.Dataset.from_file('{name}').to_parquet('rows.parquet'), or pyarrow.ipc.open_stream"
)
_ORC = "convert it: pyarrow.parquet.write_table(pyarrow.orc.read_table('{name}'), 'rows.parquet')"
_AVRO = "convert it: polars.read_avro('{name}').write_parquet('rows.parquet')"
_UNPACK = "unpack it, and name the Parquet or TFRecord files in it"
_TAR = "write its samples to Parquet, say by datasets.load_dataset('webdataset', data_files='{name}')"
_TABLE = "write the table to Parquet, say by duckdb {name} -c \"COPY a_table TO 'rows.parquet'\""
_SQLITE = "write the table to Parquet, say by pandas.read_sql and DataFrame.to_parquet"
_FRAME = "write the table to Parquet with what wrote it, say by DataFrame.to_parquet"
_LFS = "fetch the file itself: git lfs pull"

_CONTINUATION, _LONGEST_MESSAGE = b"\xff\xff\xff\xff", 1 << 26
#: Beginnings of files by their offset: what the file is, and the remedy.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PARE", "a Parquet file with an encrypted footer", "write it without encryption"),
    (0, b"ARROW1", "an Arrow IPC file (Feather)", _ARROW),
    (0, b"FEA1", "a Feather file of the first version", _ARROW),
    (0, _CONTINUATION, "an Arrow IPC stream, as Hugging Face datasets stores its tables", _STREAM),
    (0, b"ORC", "an ORC file", _ORC),
    (0, b"Obj\x01", "an Avro file", _AVRO),
    (8, b"DUCK", "a DuckDB database", _TABLE),
    (0, b"SQLite format 3\0", "an SQLite database", _SQLITE),
    (257, b"ustar", "a tar archive", _TAR),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"BZh", "compressed by bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed by xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (0, b"\x89HDF\r\n", "an HDF5 file", _FRAME),
    (0, b"\x93NUMPY", "a numpy array", "write it to Parquet, one column per feature"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file", _LFS),
)
#: Kept apart from the others because the TFRecord reader accepts gzip.
_GZIP = (0, b"\x1f\x8b", "compressed by gzip", f"set input.format: tfrecord, if it is one; else {_UNPACK}")

_SUFFIXES: tuple[tuple[str, str, str], ...] = (
    (r"csv|tsv", "a CSV file", _CSV),
    (r"jsonl?|ndjson", "a JSON file", _JSON),
    (r"arrow|feather|ipc", "an Arrow file", _ARROW),
    (r"orc", "an ORC file", _ORC),
    (r"avro", "an Avro file", _AVRO),
    (r"tar|tgz", "a tar archive", _TAR),
    (r"zip|7z", "an archive", _UNPACK),
    (r"duckdb|ddb", "a DuckDB database", _TABLE),
    (r"sqlite3?|db", "a database", _SQLITE),
    (r"xlsx?|ods", "a spreadsheet", "write its table to Parquet, say by pandas.read_excel and to_parquet"),
    (r"pkl|pickle", "a pickle", _FRAME),
    (r"h5|hdf5?", "an HDF5 file", _FRAME),
    (r"lance", "a Lance table", "write it to Parquet: pyarrow.parquet.write_table(dataset.to_table(), …)"),
)


def refusal(name: str, head: bytes, wanted: str, remedy: str) -> UserError:
    """The error for a file of another format, which is recognised by its content, else by its suffix.

    Args:
      name: The file's name in the error.
      head: Its first bytes, `HEAD_BYTES` or as many as there are.
      wanted: The format it was taken for; "" where the suffix named none.
      remedy: Used where the format cannot be recognised.
    """
    known = by_content(head) or _by_suffix(name)
    if known is None:
        what = f"is not a {wanted} file" if wanted else "the suffix does not name a format"
        return UserError(what, where=name, remedy=remedy)
    what, mend = known
    words = f"is {what}" + (f", not {wanted}" if wanted else ", and Parquet or TFRecord is needed")
    return UserError(words, where=name, remedy=mend.replace("{name}", name))


def by_content(head: bytes, *, gzip: bool = True) -> tuple[str, str] | None:
    """The format of a file by its first bytes, and how to convert it; None if the format is not recognised.

    Args:
      head: The first `HEAD_BYTES`, or as many as there are.
      gzip: Whether to report gzip; False where a gzipped TFRecord is acceptable.
    """
    for offset, magic, what, remedy in (*_MAGIC, *((_GZIP,) if gzip else ())):
        if head[offset : offset + len(magic)] == magic and (magic != _CONTINUATION or _is_stream(head)):
            return what, remedy
    return _text(head)


def _is_stream(head: bytes) -> bool:
    """Whether a plausible length follows the mark that begins an Arrow message."""
    length = int.from_bytes(head[4:8], "little")
    return 0 < length < _LONGEST_MESSAGE and length % 8 == 0


def _text(head: bytes) -> tuple[str, str] | None:
    """The kind of a plain text (JSON, HTML, lines of values) and how to convert it; None for binary data."""
    # The last character may be cut off.
    text = head.decode("utf-8", "ignore").lstrip("\ufeff")
    if len(head) < 2 or len(text.encode()) < len(head) - 6 or re.search(r"[\x00-\x08\x0e-\x1f]", text):
        return None
    begin = text.lstrip()[:1]
    if begin in ("{", "["):
        return "a JSON file", _JSON
    if begin == "<":
        return "a page of HTML or XML, perhaps what a server said in place of the file", "fetch it anew"
    line = text.splitlines()[0] if text.strip() else ""
    return ("a CSV file", _CSV) if re.search(r"[,;\t|]", line) else ("a text file", _CSV)


def _by_suffix(name: str) -> tuple[str, str] | None:
    for suffixes, what, remedy in _SUFFIXES:
        if re.search(rf"\.({suffixes})(\.(gz|bz2|xz|zst))?$", name, re.IGNORECASE):
            return what, remedy
    return None


# -- folders -------------------------------------------------------------------------------------------------


def folder_refusal(folder: str, names: Sequence[str]) -> UserError:
    """The error for a folder without any Parquet or TFRecord file.

    Args:
      folder: The folder's name in the error.
      names: The files below it.
    """
    last = [name.rsplit("/", 1)[-1] for name in names]
    if "dataset_dict.json" in last or {"dataset_info.json", "state.json"} <= set(last):
        return UserError(
            "is a folder that Hugging Face datasets saved, of Arrow streams",
            where=folder,
            remedy=f"convert it: datasets.load_from_disk('{folder}').to_parquet('rows.parquet')",
        )
    known = next((known for name in names if (known := _by_suffix(name))), None)
    some = f"it holds {', '.join(last[:3])}{', …' if len(last) > 3 else ''}" if last else "it is empty"
    what = "is a folder without a Parquet or TFRecord file"
    if known is None:
        return UserError(f"{what}: {some}", where=folder, remedy="name another, or set input.format")
    first = next(name for name in names if _by_suffix(name))
    return UserError(f"{what}: {some}", where=folder, remedy=known[1].replace("{name}", f"{folder}/{first}"))
