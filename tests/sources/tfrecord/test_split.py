"""Splitting: random files, random cuts; each record once and in order, as readers that do not cut find."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.memory_filesystem import MemoryFileSystem
from transforms.sources import inspection, read, shards
from transforms.sources.base import INDEX_STRIDE, Column
from transforms.sources.parquet import read as read_parquet
from transforms.sources.tfrecord import framing, split, tally
from transforms.sources.tfrecord import read as read_tfrecord


def records_of(data: bytes) -> list[bytes]:
    """The payloads of a sound file, by its format's definition."""
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        found.append(data[at + 12 : at + 12 + length])
        at += 12 + length + 4
    return found


def payloads(rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Empty ones, long ones, zeros, and such as are TFRecords themselves, two deep."""
    for kind in rng.integers(7, size=count).tolist():
        if kind == 0:
            yield b""
        elif kind == 1:
            yield bytes(int(rng.integers(200)))
        elif kind == 2:
            inner = [framing.encode(rng.bytes(int(rng.integers(30)))) for _ in range(rng.integers(1, 12))]
            yield b"".join([*inner, framing.encode(b"".join(inner))])
        else:
            yield rng.bytes(int(rng.choice([1, 10, 100, 900])))


def edited(rng: np.random.Generator, data: bytes) -> bytes:
    """The bytes with a few flips, cuts, insertions and zeros; perhaps truncated."""
    found = bytearray(data)
    for edit in rng.integers(5, size=rng.integers(1, 9)).tolist():
        at, length = int(rng.integers(len(found) + 1)), int(rng.integers(1, 80))
        if edit == 0:
            del found[at : at + length]
        elif edit == 1:
            found[at:at] = rng.bytes(length)
        elif edit == 2:
            found[at : at + length] = bytes(len(found[at : at + length]))
        elif edit == 3 and at < len(found):
            found[at] ^= 1 << int(rng.integers(8))
        elif rng.integers(4) == 0:
            del found[at:]
    return bytes(found)


@pytest.mark.parametrize("seed", range(5))
def test_ranges_of_a_file_make_its_scan(seed: int) -> None:
    """40 files a seed, each scanned by ranges of five sizes; three in four are damaged."""
    rng = np.random.default_rng(seed)
    joined = 0
    for case in range(40):
        data = b"".join(map(framing.encode, payloads(rng, int(rng.integers(1, 60)))))
        data = edited(rng, data) if case % 4 else data
        whole = tally.scan(framing.Source(io.BytesIO(data)))
        frames = [offset for offset, _, _ in framing.frames(framing.Source(io.BytesIO(data)))]
        assert (whole.rows, list(whole.index)) == (len(frames), frames[::INDEX_STRIDE])
        if case % 4 == 0:
            assert whole.rows == len(records_of(data))
        for size in (17, 64, int(rng.integers(1, 600)), int(rng.integers(600, 5000)), 10**6):
            assert split.scan(lambda data=data: io.BytesIO(data), len(data), 2, size) == whole, (case, size)
            joined += len(data) > size
    assert joined > 100


def test_a_long_damaged_stretch_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every range of it gives up at its end; else each would search to the file's end."""

    class Counting(io.BytesIO):
        total = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Counting.total += len(data)
            return data

    monkeypatch.setattr(framing, "_CHUNK", 1 << 14)
    rng = np.random.default_rng(0)
    rows = [framing.encode(rng.bytes(100)) for _ in range(20)]
    data = b"".join([*rows[:10], bytes(4 << 20), *rows[10:]])
    found = split.scan(lambda: Counting(data), len(data), 2, 1 << 18)
    assert found == tally.scan(framing.Source(io.BytesIO(data)))
    assert found.rows == 21
    assert Counting.total < 4 * len(data)


def test_a_digest_tells_of_any_change_and_of_no_cut() -> None:
    rng = np.random.default_rng(1)
    rows = [*payloads(rng, 30), rng.bytes(100)]
    data = b"".join(map(framing.encode, rows))

    def digest(content: bytes) -> str:
        return tally.scan(framing.Source(io.BytesIO(content))).digest

    assert digest(data) == digest(gzip.compress(data))
    changed = rng.bytes(100)
    for other in (
        rows[:-1],
        [*rows, b""],
        [*rows[:-2], rows[-1], rows[-2]],
        [rows[0] + b"x", *rows[1:]],
        [changed, *rows[1:]],
        [*rows[:-1], changed],
    ):
        assert digest(b"".join(map(framing.encode, other))) != digest(data)
    hurt = bytearray(data)
    hurt[len(framing.encode(rows[0])) + 2] ^= 1
    assert digest(bytes(hurt)) != digest(data)


def test_a_large_remote_file_is_scanned_in_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    data = b"".join(map(framing.encode, payloads(rng, 3000)))
    MemoryFileSystem.blobs["mem://split/a.tfrecord"] = data
    wanted = [("mem://split/a.tfrecord", "a.tfrecord")]
    (alone,) = inspection.inspect_files(wanted)
    monkeypatch.setattr(split, "RANGE_BYTES", 1 << 16)
    asked = []
    monkeypatch.setattr(
        split,
        "_scan_range",
        lambda *found, real=split._scan_range: asked.append(found[2:]) or real(*found),
    )
    assert inspection.inspect_files(wanted) == [alone]
    assert len(asked) == -(-len(data) // (1 << 16)) > 3
    assert alone.rows == 3000


@pytest.mark.parametrize("seed", range(4))
def test_tfrecords_cut_anywhere(seed: int, tmp_path: Path) -> None:
    """25 files a seed in random shards: the payloads of sound records, each once; a flip costs its record."""
    rng = np.random.default_rng(100 + seed)
    for case in range(25):
        rows = list(payloads(rng, int(rng.integers(1, 900))))
        data = bytearray(b"".join(map(framing.encode, rows)))
        assert records_of(bytes(data)) == rows
        ends = np.cumsum([0, *(16 + len(row) for row in rows)])
        hurt = set()
        for row in rng.integers(len(rows), size=rng.integers(4)).tolist():
            # In its header only where its payload holds no record that would be found in its place.
            first = framing.HEADER if b"\0\0\0\0" in rows[row] else 0
            data[ends[row] + int(rng.integers(first, 16 + len(rows[row])))] ^= 1 << int(rng.integers(8))
            hurt ^= {row}
        name = "a.tfrecord.gz" if case % 5 == 4 else "a.tfrecord"
        path = tmp_path / f"{case}-{name}"
        path.write_bytes(gzip.compress(bytes(data), 1) if name.endswith("gz") else bytes(data))
        (file,) = inspection.inspect_files([(str(path), name)])
        assert file.rows == len(rows)
        limit = None if rng.integers(2) else int(rng.integers(1, len(rows) + 50))
        cut = shards.cut([file], int(rng.integers(1, len(rows) + 50)), limit)
        pieces = [piece for shard in cut for piece in shard.pieces]
        assert sum(piece.rows for piece in pieces) == min(len(rows), limit or len(rows))
        stop = pieces[-1].start + pieces[-1].rows
        order = rng.permutation(len(pieces)) if case % 2 else range(len(pieces))
        found = {int(at): read_tfrecord.peek(pieces[at], 1 << 40) for at in order}
        expected = [row for number, row in enumerate(rows[:stop]) if number not in hurt]
        assert [row for at in range(len(pieces)) for row in found[at]] == expected, case


KINDS = [pa.int64(), pa.float32(), pa.string(), pa.bool_(), pa.list_(pa.int16()), pa.list_(pa.int8(), 2)]


def column(rng: np.random.Generator, kind: pa.DataType, rows: int) -> pa.Array:
    """Random values, in one of four patterns of nulls: none, some, runs, all."""
    pattern = int(rng.integers(4))
    runs = np.repeat(rng.integers(2, size=rows // 7 + 1), 7)[:rows]
    nulls = [np.zeros(rows), rng.random(rows) < 0.2, runs, np.ones(rows)][pattern]
    values: list[object] = rng.integers(100, size=rows).tolist()
    if pa.types.is_string(kind):
        values = [f"text {value}" * (value % 3) for value in values]
    elif pa.types.is_boolean(kind):
        values = [value % 2 == 0 for value in values]
    elif pa.types.is_fixed_size_list(kind):
        values = [[value, 1] for value in values]
    elif pa.types.is_list(kind):
        values = [[value] * (value % 4) for value in values]
    return pa.array([None if null else value for value, null in zip(values, nulls, strict=True)], kind)


@pytest.mark.parametrize("seed", range(4))
def test_parquet_cut_anywhere(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """25 inputs of one to three files a seed, as they were written; every fifth is read as streams."""
    rng = np.random.default_rng(200 + seed)
    for case in range(25):
        kinds = {f"c{i}": KINDS[k] for i, k in enumerate(rng.integers(len(KINDS), size=rng.integers(1, 5)))}
        paths, tables = [], []
        for number in range(int(rng.integers(1, 4))):
            path = tmp_path / f"{case}-{number}.parquet"
            paths.append(path)
            options = {
                "use_dictionary": bool(rng.integers(2)),
                "data_page_size": int(rng.choice([64, 1000, 1 << 20])),
                "data_page_version": str(rng.choice(["1.0", "2.0"])),
                "write_page_checksum": bool(rng.integers(2)),
                "compression": str(rng.choice(["none", "zstd"])),
            }
            schema = pa.schema(list(kinds.items()))
            groups = [schema.empty_table()]
            with pq.ParquetWriter(path, schema, **options) as writer:
                for size in rng.choice([0, 1, 3, 40, 300, 1100], size=rng.integers(0, 6)).tolist():
                    group = pa.table({name: column(rng, kind, size) for name, kind in kinds.items()})
                    groups.append(group)
                    writer.write_table(group, row_group_size=2000)
            tables.append(pa.concat_tables(groups))
            if not any(
                pa.types.is_fixed_size_list(kind) for kind in kinds.values()
            ):  # with nulls Arrow cannot
                assert pq.read_table(path).equals(tables[-1])
        inputs = inspection.inspect_files([(str(path), path.name) for path in paths])
        rows = [
            ((path.name, row), values)
            for path, table in zip(paths, tables, strict=True)
            for row, values in enumerate(zip(*(c.to_pylist() for c in table.columns), strict=True))
        ]
        assert sum(file.rows for file in inputs) == len(rows)
        limit = None if rng.integers(2) else int(rng.integers(0, len(rows) + 50))
        cut = shards.cut(inputs, int(rng.integers(1, len(rows) + 50)), limit)
        pieces = [piece for shard in cut for piece in shard.pieces]
        columns = [Column(name, kind) for name, kind in kinds.items()]
        batch_size = int(rng.choice([1, 7, 100, 1000, 10_000]))
        monkeypatch.setattr(read_parquet, "AT_ONCE_BYTES", 1 if case % 5 == 4 else 64 << 20)
        found = {}
        for at in rng.permutation(len(pieces)) if case % 2 else range(len(pieces)):
            met = []
            for raw in read.read_piece(pieces[at], columns, batch_size):
                assert not raw.rejected
                values = zip(*(c.to_pylist() for c in raw.columns.columns), strict=True)
                met += [
                    ((pieces[at].name, row), value)
                    for row, value in zip(raw.rows.tolist(), values, strict=True)
                ]
            found[int(at)] = met
        assert [one for at in range(len(pieces)) for one in found[at]] == rows[:limit], case
