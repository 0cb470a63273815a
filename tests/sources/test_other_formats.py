"""Tables with a log, and files and folders of other formats: refused in a line that says the way out."""

from __future__ import annotations

import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import load_config
from pipeline.planning.inputs import input_files
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.sources import globs
from transforms.sources import table_formats as table_logs
from transforms.sources.inspection import inspect_files

TABLE = pa.table({"a": [1.0, 2.0], "b": ["x", "y"]})


def stream(path: Path) -> None:
    with pa.ipc.new_stream(path, TABLE.schema) as sink:
        sink.write_table(TABLE)


def tar(path: Path) -> None:
    (path.parent / "in").write_text("x")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "in", "in")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in", "x")


def avro(path: Path) -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "double"}]}
    with path.open("wb") as sink:
        fastavro.writer(sink, schema, [{"a": 1.0}])


def duck(path: Path) -> None:
    with duckdb.connect(str(path)) as database:
        database.execute("create table t as select 1 a")


def numpy_array(path: Path) -> None:
    with path.open("wb") as sink:
        np.save(sink, np.ones(3))


def sqlite(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("create table t (a)")
    database.commit()
    database.close()


#: How each is written, what it is called, its suffix, and what the way out names.
FILES: list[tuple[Callable[[Path], object], str, str, str]] = [
    (lambda path: pa.feather.write_feather(TABLE, str(path)), "an Arrow IPC file", ".feather", "read_table"),
    (lambda path: pa.feather.write_feather(TABLE, str(path)), "an Arrow IPC file", ".arrow", "read_table"),
    (stream, "an Arrow IPC stream", ".arrow", "Dataset.from_file"),
    (lambda path: pa.orc.write_table(TABLE, str(path)), "an ORC file", ".orc", "pyarrow.orc"),
    (avro, "an Avro file", ".avro", "polars.read_avro"),
    (duck, "a DuckDB database", ".duckdb", "COPY"),
    (sqlite, "an SQLite database", ".db", "read_sql"),
    (tar, "a tar archive", ".tar", "webdataset"),
    (zipped, "a zip archive", ".zip", "unpack it"),
    (lambda path: path.write_text("a,b\n1,2\n"), "a CSV file", ".csv", "read_csv("),
    (lambda path: path.write_text('{"a": 1}\n{"a": 2}\n'), "a JSON file", ".jsonl", "read_json("),
    (lambda path: path.write_text('[{"a": 1}]'), "a JSON file", ".json", "read_json("),
    (lambda path: path.write_text("<html><body>403</body>"), "a page of HTML", ".html", "fetch it anew"),
    (numpy_array, "a numpy array", ".npy", "Parquet"),
    (lambda path: path.write_text("version https://git-lfs.github.com/"), "Git LFS", ".lfs", "pull"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "what", "suffix", "way"), FILES, ids=[f"{f[1]} {f[2]}" for f in FILES])
def test_a_file_of_another_format_is_told_by_its_content(
    tmp_path: Path, write: Callable[[Path], object], what: str, suffix: str, way: str
) -> None:
    for name in (f"rows{suffix}", "rows.parquet", "rows.tfrecord", "rows"):
        path = tmp_path / name
        write(path)
        with pytest.raises(UserError) as error:
            inspect_files([(str(path), name)])
        assert error.value.where == name
        assert what in str(error.value)
        assert way in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a.csv", "a CSV file"),
        ("a.jsonl.gz", "compressed by gzip"),
        ("a.xlsx", "a spreadsheet"),
        ("a.h5", "HDF5"),
    ],
)
def test_what_has_no_telling_content_is_told_by_its_suffix(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08" if name.endswith("gz") else b"\0\1\2\3")
    with pytest.raises(UserError, match=what):
        inspect_files([(str(tmp_path / name), name)])


def test_parquet_without_its_suffix_and_what_is_no_parquet_at_all(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "000000_0")
    with pytest.raises(UserError, match=r"is Parquet without its suffix; set input\.format: parquet"):
        inspect_files([(str(tmp_path / "000000_0"), "000000_0")])
    assert inspect_files([(str(tmp_path / "000000_0"), "000000_0")], "parquet")[0].rows == 2
    (tmp_path / "x.parquet").write_bytes(b"\0\1\2\3" * 9)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        inspect_files([(str(tmp_path / "x.parquet"), "x.parquet")])


# -- tables with a log ---------------------------------------------------------------------------------------

#: Files of a table by their paths from its folder: what Spark, Flink and their like leave there.
TABLES = {
    "a Delta table": ("_delta_log/00000000000000000000.json", ["p.parquet", "day=1/p.parquet"], "delta_scan"),
    "an Iceberg table": ("metadata/00000-1.metadata.json", ["data/p.parquet", "data/d=1/p.parquet"], "iceb"),
    "a Hudi table": (".hoodie/hoodie.properties", ["p.parquet", "2026/01/p.parquet"], "hudi"),
    "a Paimon table": ("snapshot/LATEST", ["bucket-0/p.parquet"], "Paimon"),
}  # fmt: skip


def lay_out(folder: Path, log: str, parts: list[str]) -> None:
    for name in (log, *parts):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(TABLE, folder / name)


def config(folder: Path, files: object) -> Path:
    path = folder / "config.yaml"
    blocks = {
        "model": {"path": "python: m:f"},
        "input": {"files": files},
        "method": "exact_shap",
        "output": {"path": "r"},
    }
    path.write_text(json.dumps(blocks))
    return path


@pytest.mark.parametrize("what", TABLES)
def test_files_of_a_table_with_a_log_are_refused(tmp_path: Path, what: str) -> None:
    log, parts, way = TABLES[what]
    lay_out(tmp_path / "lake" / "t", log, parts)
    (tmp_path / "link").symlink_to(tmp_path / "lake" / "t" / Path(parts[0]).parent)
    last = parts[-1]
    for files in (
        "lake/t",
        "lake/t/**/*.parquet",
        "lake",
        "lake/**",
        f"lake/t/{last}",
        ["lake/t/" + parts[0]],
        "link",
    ):
        with pytest.raises(UserError) as error:
            input_files(load_config(str(config(tmp_path, files))))
        line = str(error.value)
        assert line.startswith(f"{tmp_path}/config.yaml: input.files: ")
        assert f"is a file of {what} ({tmp_path}/" in line
        assert way in line
    # Beside it, what is no part of it is read.
    lay_out(tmp_path / "plain", "metadata/readme.json", ["p.parquet"])
    assert len(input_files(load_config(str(config(tmp_path, "plain/*.parquet"))))) == 1


@pytest.mark.parametrize("what", TABLES)
def test_the_same_on_an_object_store(what: str) -> None:
    log, parts, way = TABLES[what]
    MemoryFileSystem.blobs.clear()
    for name in (log, *parts, "../plain/p.parquet"):
        MemoryFileSystem.blobs[f"mem://lake/{name[3:] if name.startswith('..') else f't/{name}'}"] = b""
    for files in ("mem://lake/t", f"mem://lake/t/{parts[-1]}", "mem://lake/**/*.parquet"):
        with pytest.raises(UserError, match=way):
            table_logs.check_no_table(globs.expand([files], "/"))
    table_logs.check_no_table(globs.expand(["mem://lake/plain"], "/"))


def test_a_file_of_ducklake_is_told_by_its_name(tmp_path: Path) -> None:
    name = "ducklake-01997b5e-9b4c-7c3a-8000-0123456789ab.parquet"
    lay_out(tmp_path, "x.parquet", [name])
    with pytest.raises(UserError, match="a DuckLake table"):
        table_logs.check_no_table(globs.expand(["*.parquet"], str(tmp_path)))
