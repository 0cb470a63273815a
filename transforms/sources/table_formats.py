"""Tables whose log decides which rows of their files are current: Delta, Iceberg, Hudi and others."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from transforms.errors import UserError
from transforms.storage import files

_DUCKDB = "duckdb -c \"COPY (FROM {scan}('{folder}')) TO 'rows.parquet'\""
#: A pattern to look for in a folder, the kind of table it marks, and how to export its rows.
_TABLES: tuple[tuple[str, str, str], ...] = (
    (
        "_delta_log/*",
        "a Delta table",
        _DUCKDB.replace("{scan}", "delta_scan") + ", or deltalake's DeltaTable",
    ),
    (
        "metadata/*.metadata.json*",
        "an Iceberg table",
        _DUCKDB.replace("{scan}", "iceberg_scan") + ", or pyiceberg's table.scan().to_arrow()",
    ),
    (
        ".hoodie/*",
        "a Hudi table",
        "by Spark: spark.read.format('hudi').load('{folder}').write.parquet('rows')",
    ),
    ("snapshot/LATEST", "a Paimon table", "by Spark, Flink or pypaimon"),
)
_DUCKLAKE = re.compile(r"ducklake-[0-9a-f]{8}-[0-9a-f-]{27}(-delete)?\.parquet$")
#: Parallel look-ups, where each is a request to an object store.
_LOOKS = 32


def check_no_table(paths_and_names: Sequence[tuple[str, str]]) -> None:
    """Checks that no file belongs to such a table, whose files still hold deleted and replaced rows.

    Args:
      paths_and_names: Paths and names of the input's files.
    Raises:
      UserError: A file is in a table's folder, at any depth.
    Cost: one look-up for each kind of table in each folder above the files, except partition folders.
    """
    first: dict[str, str] = {}
    for path, name in paths_and_names:
        if _DUCKLAKE.search(path):
            raise _refused(
                name, os.path.dirname(path), "a DuckLake table", "by DuckDB: ATTACH 'ducklake:…', COPY"
            )
        real = path if files.is_url(path) else os.path.realpath(path)
        for place in dict.fromkeys((path, real)):
            for folder in _above(place):
                if folder in first:
                    break  # the folders above it are known too
                first[folder] = name
    folders = [folder for folder in first if "=" not in folder.rsplit("/", 1)[-1]]
    if not folders:
        return
    if files.is_url(folders[0]):
        with ThreadPoolExecutor(_LOOKS) as pool:
            kinds = list(pool.map(_table_in, folders))
    else:
        kinds = [_table_in(folder) for folder in folders]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind is not None:
            raise _refused(first[folder], folder, *kind)


def _refused(name: str, folder: str, what: str, remedy: str) -> UserError:
    return UserError(
        f"{name} is a file of {what} ({folder}), whose log lists the current rows: its files also hold "
        "deleted and replaced ones",
        remedy=f"write the table's current rows to plain Parquet ({remedy.replace('{folder}', folder)}), and "
        "name that",
    )


def _table_in(folder: str) -> tuple[str, str] | None:
    for inside, what, remedy in _TABLES:
        if _matches(folder, inside):
            return what, remedy
    return None


def _matches(folder: str, inside: str) -> bool:
    if files.is_url(folder):
        with files.remote_errors(folder, "cannot be listed"):
            return bool(files.filesystems().match([f"{folder}/{inside}"], limits=[1])[0].metadata_list)
    return next(glob.iglob(os.path.join(glob.escape(folder), inside)), None) is not None


def _above(path: str) -> Iterator[str]:
    """The folders above a file, the innermost first; a bucket or a disk's root is not one of them."""
    scheme = files.URL.match(path)
    root = path[: scheme.end()] if scheme else "/"
    parts = path[len(root) :].split("/")
    for count in range(len(parts) - 1, 0, -1):
        yield root + "/".join(parts[:count])
