"""Cutting files into shards: every row once, in order, whatever the files and sizes."""

import gzip
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.sources import base, inspection, shards
from transforms.sources.base import InputFile, Piece, Shard
from transforms.sources.tfrecord import framing


def inputs_of(sizes, kind="parquet"):
    return [
        InputFile(
            path=f"/{i}",
            name=f"{i}",
            format=kind,
            rows=rows,
            bytes=0,
            index=tuple(range(0, rows * 10, 2560)) if kind == "tfrecord" else (),
        )
        for i, rows in enumerate(sizes)
    ]


def rows_of(cut):
    return [
        (piece.name, piece.start + i) for shard in cut for piece in shard.pieces for i in range(piece.rows)
    ]


@given(
    st.lists(st.one_of(st.integers(0, 9), st.integers(0, 900)), max_size=12),
    st.integers(1, 300),
    st.none() | st.integers(0, 2000),
    st.sampled_from(["parquet", "tfrecord"]),
)
def test_every_row_is_in_one_shard_in_order(sizes, shard_rows, limit, kind):
    cut = shards.cut(inputs_of(sizes, kind), shard_rows, limit)
    everything = [(str(i), row) for i, rows in enumerate(sizes) for row in range(rows)]
    assert rows_of(cut) == everything[:limit]
    assert [shard.index for shard in cut] == list(range(len(cut)))
    assert all(shard.rows == shard_rows for shard in cut[:-1])
    assert all(0 < shard.rows <= shard_rows for shard in cut)
    pieces = [piece for shard in cut for piece in shard.pieces]
    assert all(piece.rows > 0 for piece in pieces)
    starts = itertools.accumulate((piece.rows for piece in pieces), initial=0)
    assert [piece.ordinal for piece in pieces] == list(starts)[:-1]
    if kind == "tfrecord":
        assert all(
            piece.offset == piece.start // 256 * 2560 and piece.skip == piece.start % 256 for piece in pieces
        )


def test_small_files_share_a_shard_and_large_ones_are_many():
    cut = shards.cut(inputs_of([2, 0, 3, 12]), 6)
    assert [[(piece.name, piece.start, piece.rows) for piece in shard.pieces] for shard in cut] == [
        [("0", 0, 2), ("2", 0, 3), ("3", 0, 1)],
        [("3", 1, 6)],
        [("3", 7, 5)],
    ]
    with pytest.raises(ValueError, match="shard_rows is 0"):
        shards.cut(inputs_of([1]), 0)


def test_a_shard_of_many_files_crosses_to_a_worker_in_few_bytes():
    """Names of 140 letters, of which 32 are random; as many as share a shard at most."""
    drawn = np.random.default_rng(0).bytes(16 * 2500).hex()
    names = [
        f"gs://bucket/{'folder-of-a-day/' * 6}{drawn[32 * i : 32 * i + 32]}.parquet" for i in range(2500)
    ]
    inputs = [InputFile(name, name, base.PARQUET, 3, 100, row_groups=(3,)) for name in names]
    found = shards.cut(inputs, 100_000)
    assert [len(shard.pieces) for shard in found] == [1000, 1000, 500]
    assert max(len(pickle.dumps(shard)) for shard in found) < 48 << 10
    assert [pickle.loads(pickle.dumps(shard)) for shard in found] == found
    (alone,) = shards.cut(inputs[:1], 100_000)
    assert len(pickle.dumps(alone)) < 400


def test_a_compressed_file_is_entered_at_its_beginning():
    file = InputFile("/a", "a", "tfrecord", rows=700, bytes=1)
    last = shards.cut([file], 300)[2].pieces[0]
    assert (last.start, last.offset, last.skip) == (600, 0, 600)


def test_largest_first_then_in_order():
    def shard(index, rows):
        return Shard(index, (Piece("", "", "parquet", 0, rows, 0),))

    scheduled = shards.schedule([shard(0, 5), shard(1, 9), shard(2, 5), shard(3, 1), shard(4, 9)])
    assert [one.index for one in scheduled] == [1, 4, 0, 2, 3]


@pytest.mark.parametrize(
    ("total", "evaluations", "workers", "rows"),
    [
        (336_776, 50, 1, 84_194),  # a quarter
        (336_776, 50, 2, 42_097),
        (10_000_000, 50, 1, 131_072),  # the largest
        (500, 1, 1, 1_024),  # the smallest: one shard
        (0, 0, 0, 1_024),
        (1_000_000, 2_048 * 100, 1, 244),  # 50 million evaluations
        (1_000_000, 10**9, 1, 64),
    ],
)
def test_auto_shard_rows(total, evaluations, workers, rows):
    assert shards.auto_shard_rows(total, evaluations, workers) == rows


def test_inspecting_files(tmp_path):
    def path(name):
        return str(tmp_path / name)

    table = pa.table({"x": range(10)})
    pq.write_table(table, path("a.parquet"), row_group_size=4)
    pq.write_table(table.slice(0, 0), path("empty.parq"))
    with pq.ParquetWriter(path("holes.pq"), table.schema) as writer:
        for part in (table.slice(0, 0), table.slice(0, 3), table.slice(0, 0), table.slice(3, 1)):
            writer.write_table(part, row_group_size=5)
    names = ["empty.parq", "a.parquet", "holes.pq"]
    found = inspection.inspect_files([(path(name), name) for name in names])
    assert [(file.name, file.format, file.rows) for file in found] == [
        ("empty.parq", "parquet", 0),
        ("a.parquet", "parquet", 10),
        ("holes.pq", "parquet", 4),
    ]
    assert found[1].row_groups == (4, 4, 2)
    assert sum(found[2].row_groups) == 4
    assert 0 in found[2].row_groups
    assert found[1].bytes == (tmp_path / "a.parquet").stat().st_size
    assert found[1].path == path("a.parquet")

    data = b"".join(framing.encode(b"%d" % i) for i in range(600))
    contents = {
        "plain.tfrecord": data,
        "cut.tfrecords": data[:-1],
        "zipped.tfrec.gz": gzip.compress(data),
        "zipped.tfrecord-00000-of-00010": gzip.compress(data),
        "null.TFRecord": b"",
        "train.tfrecord-00001-of-00010.gz": data,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = inspection.inspect_files([(path(name), name) for name in contents])
    assert [file.rows for file in found] == [600, 600, 600, 600, 0, 600]
    assert {file.format for file in found} == {"tfrecord"}
    assert [len(file.index) for file in found] == [3, 3, 0, 0, 0, 3]
    assert found[0].row_groups == ()
    assert inspection.inspect_files([]) == []


def test_the_format_is_by_suffix_unless_it_is_said(tmp_path):
    (tmp_path / "data.bin").write_bytes(framing.encode(b"1"))
    pair = (str(tmp_path / "data.bin"), "data.bin")
    assert inspection.inspect_files([pair], "tfrecord")[0].rows == 1
    with pytest.raises(UserError, match=r"data\.bin: the suffix does not name a format; set input\.format"):
        inspection.inspect_files([pair])
    with pytest.raises(UserError, match=r"data\.bin: cannot be read as Parquet"):
        inspection.inspect_files([pair], "parquet")
    with pytest.raises(UserError, match="csv is not a format"):
        inspection.inspect_files([pair], "csv")


def test_files_that_are_not_what_they_are_called(tmp_path):
    table = pa.table({"x": range(10)})
    pq.write_table(table, tmp_path / "table")
    content = (tmp_path / "table").read_bytes()
    broken = {
        "text.parquet": b"id,x\n1,2\n",
        "cut.parquet": content[:-20],
        "no bytes.parquet": b"",
        "really parquet.tfrecord": content,
        "gone.parquet": None,
        "gone.tfrecord": None,
    }
    for name, data in broken.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError) as error:
            inspection.inspect_files([(str(tmp_path / name), name)])
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_one_run_reads_one_format(tmp_path):
    with pytest.raises(UserError, match=r"a\.parquet is Parquet and b\.tfrecord is TFRecord"):
        inspection.inspect_files([("/a.parquet", "a.parquet"), ("/b.tfrecord", "b.tfrecord")])


def test_urls_are_inspected_like_files():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": range(10)}), sink, row_group_size=4)
    data = b"".join(framing.encode(b"%d" % i) for i in range(600))
    MemoryFileSystem.blobs.update(
        {
            "mem://b/a.parquet": sink.getvalue().to_pybytes(),
            "mem://b/a.tfrecord": data,
            "mem://b/z.tfrecord.gz": gzip.compress(data),
        }
    )
    (parquet,) = inspection.inspect_files([("mem://b/a.parquet", "a.parquet")])
    assert parquet.row_groups == (4, 4, 2)
    plain, zipped = inspection.inspect_files(
        [(f"mem://b/{name}", name) for name in ("a.tfrecord", "z.tfrecord.gz")]
    )
    assert (plain.rows, len(plain.index)) == (600, 3)
    assert (zipped.rows, zipped.index) == (600, ())


def test_planning_needs_no_tensorflow(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(framing.encode(b"\n\0"))
    program = (
        "import sys; from transforms.sources import shards, read, inspection, base\n"
        f"found = inspection.inspect_files([({str(tmp_path / 'a.tfrecord')!r}, 'a.tfrecord')])\n"
        "read.describe_columns(found); shards.cut(found, 1)\n"
        "sys.exit('tensorflow' in sys.modules or 'apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
