"""Damaged Parquet: what can be read is, what cannot is rejected row by row, whatever the cut."""

import itertools
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import InputLost, UserError
from transforms.sources import changed_files as lost
from transforms.sources import inspection, read, shards
from transforms.sources.base import Column
from transforms.sources.parquet import damaged as damaged_parquet
from transforms.sources.parquet import read as read_parquet
from transforms.sources.parquet.columns import plain_array

ROWS, GROUP, PAGE = 6000, 2000, 500


def table():
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "x": rng.normal(size=ROWS),
            "s": [f"row {i}" for i in range(ROWS)],
            "l": pa.array([[i] * (i % 3) if i % 11 else None for i in range(ROWS)], pa.list_(pa.int32())),
            "f": pa.array([None if i % 7 == 3 else [i, i + 1] for i in range(ROWS)], pa.list_(pa.int16(), 2)),
            "w": pa.array([{"a": i, "b": {"c": i / 2}} if i % 5 else None for i in range(ROWS)]),
        }
    )


def write(path, sound=None, group=GROUP, **options):
    options = {"data_page_size": 1000, "use_dictionary": False, "write_page_checksum": True} | options
    sound = table() if sound is None else sound
    pq.write_table(sound, path, row_group_size=group, max_rows_per_page=PAGE, **options)
    return sound


def hurt(path, group, column, share, length=1):
    """Flips bits at a share of the way through a column's bytes in a row group."""
    metadata = pq.read_metadata(path)
    chunks = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema.startswith(column))
    content = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    at = int(begin + share * chunk.total_compressed_size)
    content[at : at + length] = bytes(byte ^ 0x55 for byte in content[at : at + length])
    path.write_bytes(bytes(content))


def inspect(*paths):
    return inspection.inspect_files([(str(path), path.name) for path in paths])


def columns_of(inputs, *names):
    types = read.describe_columns(inputs)
    return [Column(name, types[name]) for name in names or types]


def rows_of(inputs, columns, shard_rows=10**6, batch_size=700):
    """(values of each row that can be read, reason of each that cannot), every row once and in order."""
    good, bad = {}, {}
    for shard in shards.cut(inputs, shard_rows):
        for piece in shard.pieces:
            met = []
            for raw in read.read_piece(piece, columns, batch_size):
                assert len(raw.rows) + len(raw.rejected) <= batch_size
                assert raw.columns.num_rows == len(raw.rows)
                raw.columns.validate(full=True)
                met += sorted([*raw.rows.tolist(), *(one.row for one in raw.rejected)])
                values = zip(*(column.to_pylist() for column in raw.columns.columns), strict=True)
                good |= {(piece.name, row): v for row, v in zip(raw.rows.tolist(), values, strict=True)}
                assert {(one.file, one.stage) for one in raw.rejected} <= {(piece.name, "read")}
                bad |= {(piece.name, one.row): one.reason for one in raw.rejected}
            assert met == list(range(piece.start, piece.start + piece.rows))
    return good, bad


def expected(sound, names=("x", "s", "l", "f", "w.a", "w.b.c")):
    def value(row, name):
        for part in name.split("."):
            row = None if row is None else row[part]
        return row

    return [tuple(value(row, name) for name in names) for row in sound.to_pylist()]


@pytest.mark.parametrize(
    ("column", "share", "row"),
    [
        ("x", 0.3, 500),
        ("x", 0.01, 0),
        ("x", 0.99, 1500),
        ("s", 0.6, 1000),
        ("l", 0.6, 999),
        ("f", 0.9, 1499),
        ("w.a", 0.3, 500),
        ("w.b.c", 0.8, 1500),
    ],
)
def test_a_corrupt_page_costs_the_rest_of_its_row_group(tmp_path, column, share, row):
    """Of lists the row before a corrupt page is lost, too: only the next page says that its list is over."""
    sound = write(tmp_path / "a.parquet")
    hurt(tmp_path / "a.parquet", 1, column, share)
    inputs = inspect(tmp_path / "a.parquet")
    assert inputs[0].damage is None
    values = expected(sound)
    first = GROUP + row
    for shard_rows, batch_size in ((10**6, 700), (999, 64), (1500, 4096), (10**6, 6000), (2500, 33)):
        good, bad = rows_of(inputs, columns_of(inputs), shard_rows, batch_size)
        assert sorted(row for _, row in bad) == list(range(first, 2 * GROUP)), (shard_rows, batch_size)
        assert good == {("a.parquet", i): values[i] for i in range(ROWS) if not first <= i < 2 * GROUP}
        (reason,) = set(bad.values())
        assert reason.startswith(f"rows {first:,} to 3,999 cannot be read: corrupt page in column {column}")
        assert "checksum" in reason
    # Who does not want the column is not hurt by it.
    names = [name for name in ("x", "s") if name != column]
    assert not rows_of(inputs, columns_of(inputs, *names))[1]


@pytest.mark.parametrize(("columns", "row"), [(["x", "s"], 500), (["s", "x"], 1000), (["s", "w.a"], 1000)])
def test_of_several_corrupt_columns_the_first_counts(tmp_path, columns, row):
    """Hurt at 0.3 and 0.6 of their bytes, in either order of the columns."""
    write(tmp_path / "a.parquet")
    for column, share in zip(columns, (0.3, 0.6) if row == 500 else (0.6, 0.9), strict=True):
        hurt(tmp_path / "a.parquet", 0, column, share)
    inputs = inspect(tmp_path / "a.parquet")
    for names in (columns, columns[::-1]):
        good, bad = rows_of(inputs, columns_of(inputs, *names))
        assert min(row for _, row in bad) == row
        assert len(good) + len(bad) == ROWS


def test_pieces_in_any_order_and_alone(tmp_path):
    write(tmp_path / "a.parquet")
    hurt(tmp_path / "a.parquet", 1, "x", 0.3)
    inputs = inspect(tmp_path / "a.parquet")
    columns = columns_of(inputs, "x", "s")
    pieces = [piece for shard in shards.cut(inputs, 700) for piece in shard.pieces]

    def rejected(piece):
        return [one.row for raw in read.read_piece(piece, columns, 256) for one in raw.rejected]

    damaged_parquet.first_unreadable.cache_clear()
    backwards = [rejected(piece) for piece in reversed(pieces)][::-1]
    assert damaged_parquet.first_unreadable.cache_info().misses == 1  # once a group, not once a piece
    assert list(itertools.chain(*backwards)) == list(range(2500, 4000))
    assert backwards == [rejected(piece) for piece in pieces]


def test_without_checksums_what_does_not_decode_is_rejected(tmp_path):
    for compression in ("zstd", "snappy"):
        path = tmp_path / f"{compression}.parquet"
        sound = write(path, compression=compression, write_page_checksum=False)
        hurt(path, 0, "s", 0.4, length=200)
        inputs = inspect(path)
        good, bad = rows_of(inputs, columns_of(inputs, "s", "x"))
        assert good == {
            (path.name, i): v for i, v in enumerate(expected(sound, ("s", "x"))) if (path.name, i) not in bad
        }
        assert 500 <= len(bad) <= 1500
        assert max(row for _, row in bad) == GROUP - 1


def test_small_row_groups_are_read_on_one_by_one(tmp_path):
    """Groups of 100 rows that would be read ten at a time: damage in two of them costs those two."""
    sound = write(tmp_path / "a.parquet", table().select(["x", "s"]).slice(0, 3000), group=100)
    for group, column in ((3, "x"), (17, "s")):
        hurt(tmp_path / "a.parquet", group, column, 0.5)
    inputs = inspect(tmp_path / "a.parquet")
    values = expected(sound, ("x", "s"))
    lost = {*range(300, 400), *range(1700, 1800)}
    for shard_rows, batch_size in ((10**6, 1000), (10**6, 40), (333, 512), (350, 1000), (10**6, 10**6)):
        good, bad = rows_of(inputs, columns_of(inputs), shard_rows, batch_size)
        assert {row for _, row in bad} == lost
        assert good == {("a.parquet", i): v for i, v in enumerate(values) if i not in lost}
        assert len(set(bad.values())) == 2


def test_damage_within_a_batch_within_a_group_among_small_ones(tmp_path):
    """Batches of 250 rows of groups of 100: row 280 cannot be read, and 250 is where the reading fails."""
    sound = table().select(["x", "s"]).slice(0, 600)
    options = {"use_dictionary": False, "write_page_checksum": True, "data_page_size": 10}
    pq.write_table(sound, tmp_path / "a.parquet", row_group_size=100, max_rows_per_page=20, **options)
    hurt(tmp_path / "a.parquet", 2, "x", 0.95)
    inputs = inspect(tmp_path / "a.parquet")
    values = expected(sound, ("x", "s"))
    for shard_rows, batch_size in ((1000, 250), (1000, 600), (270, 250), (50, 33)):
        good, bad = rows_of(inputs, columns_of(inputs), shard_rows, batch_size)
        assert sorted(row for _, row in bad) == list(range(280, 300))
        assert good == {("a.parquet", i): v for i, v in enumerate(values) if not 280 <= i < 300}


def test_damage_far_into_a_group_that_is_read_with_a_small_one(tmp_path):
    """Batches of 60 rows begin in a group of 50 and go on in one of 2,000, which is bad from row 1,500 on."""
    sound = table().select(["x", "s"]).slice(0, 2050)
    options = {"use_dictionary": False, "write_page_checksum": True, "data_page_size": 1000}
    with pq.ParquetWriter(tmp_path / "a.parquet", sound.schema, max_rows_per_page=PAGE, **options) as writer:
        for part in (sound.slice(0, 50), sound.slice(50)):
            writer.write_table(part, row_group_size=GROUP)
    hurt(tmp_path / "a.parquet", 1, "x", 0.9)
    inputs = inspect(tmp_path / "a.parquet")
    assert inputs[0].row_groups == (50, 2000)
    values = expected(sound, ("x", "s"))
    for shard_rows in (10_000, 700):
        good, bad = rows_of(inputs, columns_of(inputs), shard_rows, 60)
        assert sorted(row for _, row in bad) == list(range(1550, 2050))
        assert good == {("a.parquet", i): v for i, v in enumerate(values[:1550])}


def test_columns_that_cannot_be_read_together_are_read_singly(tmp_path, monkeypatch):
    sound = write(tmp_path / "a.parquet")
    inputs = inspect(tmp_path / "a.parquet")
    real = read_parquet.open_parquet

    class Failing:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def iter_batches(self, *arguments, **options):
            yield next(self._file.iter_batches(*arguments, **options))
            raise OSError("not all of them at a time")

    monkeypatch.setattr(read_parquet, "open_parquet", lambda *a, **kw: Failing(real(*a, **kw)))
    whole = {("a.parquet", i): v for i, v in enumerate(expected(sound))}
    assert rows_of(inputs, columns_of(inputs), 1700, 90) == (whole, {})


def test_lists_of_another_size_than_the_schema_says_stay_as_they_are(tmp_path):
    """Four values in three lists: as lists of two they would be two rows, and each value another row's."""
    kind = pa.list_(pa.int16(), 2)
    lists = pa.array([[1, 2], [3], None, [4]], pa.list_(pa.int16()))
    assert plain_array(lists, kind).equals(lists)
    whole = plain_array(pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int16())), kind)
    assert (whole.type, whole.to_pylist()) == (kind, [[1, 2], None, [3, 4]])
    for nothing in ([], [None]):
        assert plain_array(pa.array(nothing, pa.list_(pa.int16())), kind).type == kind


def test_a_row_group_read_as_a_stream(tmp_path, monkeypatch):
    sound = write(tmp_path / "a.parquet")
    inputs = inspect(tmp_path / "a.parquet")
    columns = columns_of(inputs)
    whole = {("a.parquet", i): v for i, v in enumerate(expected(sound))}
    asked = []
    real = read_parquet.open_parquet
    monkeypatch.setattr(
        read_parquet, "open_parquet", lambda *a, **kw: asked.append(kw["buffer_bytes"]) or real(*a, **kw)
    )
    assert rows_of(inputs, columns, 1234) == (whole, {})
    assert set(asked) == {None}
    monkeypatch.setattr(read_parquet, "AT_ONCE_BYTES", 50_000)
    assert rows_of(inputs, columns, 1234) == (whole, {})
    assert set(asked) == {None, read_parquet._LEAST_STREAM_BYTES}
    hurt(tmp_path / "a.parquet", 1, "x", 0.3)
    inputs = inspect(tmp_path / "a.parquet")
    assert sorted(row for _, row in rows_of(inputs, columns, 1234)[1]) == list(range(2500, 4000))


def test_a_file_that_ends_within_its_columns(tmp_path):
    """Bytes lost in the middle: the footer is sound, and what it says of the columns is not."""
    write(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    at = pq.read_metadata(tmp_path / "a.parquet").row_group(2).column(0).data_page_offset
    (tmp_path / "a.parquet").write_bytes(content[: at - 100] + content[at + 6_000 :])
    inputs = inspect(tmp_path / "a.parquet")
    good, bad = rows_of(inputs, columns_of(inputs, "x"))
    assert len(good) + len(bad) == ROWS
    assert {row for _, row in bad} >= set(range(2 * GROUP, ROWS))
    assert set(range(GROUP)) <= {row for _, row in good}


@pytest.mark.parametrize("size", [0, 3, 4, 11, 2000, -1, -5, -100])
def test_a_truncated_file_is_one_rejected_row(tmp_path, size):
    sound = write(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(content[:size])
    write(tmp_path / "c.parquet", sound.slice(0, 50))
    inputs = inspect(*(tmp_path / f"{name}.parquet" for name in "bac"))
    assert [file.rows for file in inputs] == [1, ROWS, 50]
    assert inputs[0].damage
    columns = columns_of(inputs, "x", "l")
    assert read.check_columns(inputs, columns)["x"] == pa.float64()
    for shard_rows in (10**6, 1):
        some = inputs if shard_rows > 1 else [inputs[0], inputs[2]]
        good, bad = rows_of(some, columns, shard_rows)
        assert len(good) == (ROWS + 50 if shard_rows > 1 else 50)
        ((where, reason),) = bad.items()
        assert where == ("b.parquet", 0)
        assert "truncated" in reason
        assert "the number of its rows is unknown" in reason
    with pytest.raises(
        UserError, match=r"b\.parquet: cannot be read as Parquet: the file .*truncated"
    ) as error:
        inspect(tmp_path / "b.parquet", tmp_path / "b.parquet")
    assert not isinstance(error.value, InputLost)


def test_a_file_of_another_kind_is_a_mistake(tmp_path):
    write(tmp_path / "a.parquet", table().slice(0, 9))
    (tmp_path / "b.parquet").write_bytes(b"id,x\n1,2\n")
    with pytest.raises(UserError, match=r"b\.parquet: is a CSV file, not Parquet; convert it"):
        inspect(tmp_path / "a.parquet", tmp_path / "b.parquet")


def test_a_footer_that_contradicts_itself_is_damage(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"i": range(77)}), path)
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    zigzag = bytes([(77 << 1 & 0x7F) | 0x80, 77 << 1 >> 7])
    found = [at for at in range(len(footer)) if footer[at : at + 2] == zigzag]
    assert len(found) >= 3  # the file's rows, the group's and the column's values
    write(tmp_path / "b.parquet", table().slice(0, 9))
    for at in found:
        lie = bytearray(content)
        lie[len(content) - 8 - length + at + 1] ^= 2
        path.write_bytes(lie)
        inputs = inspect(path, tmp_path / "b.parquet")
        assert (inputs[0].rows, bool(inputs[0].damage)) in ((1, True), (77, False))


@pytest.mark.parametrize("suffix", ["parquet", "tfrecord", "tfrecord.gz"])
def test_an_input_that_is_lost_is_no_damage(tmp_path, suffix, monkeypatch):
    from tests.sources.test_read import example, write_records

    def make(path, rows):
        if suffix == "parquet":
            pq.write_table(pa.table({"i": range(rows)}), path, write_page_checksum=True)
        else:
            write_records(path, [example(i=i) for i in range(rows)])

    path = tmp_path / f"a.{suffix}"
    make(path, 600)
    inputs = inspect(path)
    columns = columns_of(inputs)
    content = path.read_bytes()
    pieces = [piece for shard in shards.cut(inputs, 250) for piece in shard.pieces]

    def fails(match):
        everything = itertools.chain.from_iterable(read.read_piece(piece, columns, 64) for piece in pieces)
        with pytest.raises(InputLost, match=rf"a\.{suffix}: {match}") as error:
            list(everything)
        assert "\n" not in str(error.value)

    path.unlink()
    fails("cannot be read: no such file or folder")
    path.write_bytes(content[:-40])
    fails("has .* bytes, but had .* when the run was planned; put the file back")
    make(path, 599)
    fails("has .* bytes")
    path.write_bytes(content)
    if os.getuid():
        path.chmod(0)
        fails("cannot be read: permission denied")
        path.chmod(0o600)
    # Damage, and then it turns out that somebody is writing the file: the shard fails, no row is rejected.
    damaged = bytearray(content)
    damaged[len(content) // 3 if suffix == "tfrecord.gz" else 40] ^= 0x55
    path.write_bytes(damaged)
    inputs = inspect(path)
    pieces = [piece for shard in shards.cut(inputs, 250) for piece in shard.pieces]
    found = [one for piece in pieces for raw in read.read_piece(piece, columns, 64) for one in raw.rejected]
    assert found
    stamps = itertools.count()
    monkeypatch.setattr(lost.files, "stamp", lambda _: (len(damaged), float(next(stamps))))
    damaged_parquet.first_unreadable.cache_clear()
    fails("changed while it was being read")


def test_a_filesystem_that_fails_loses_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write(path)
    inputs = inspect(path)
    columns = columns_of(inputs, "x")

    class File:
        closed = False

        def __init__(self):
            self._file, self.reads = open(path, "rb"), 0  # noqa: SIM115

        def __getattr__(self, name):
            return getattr(self._file, name)

        def read(self, size=-1):
            self.reads += 1
            if self.reads > 2:
                raise OSError(5, "Input/output error")
            return self._file.read(size)

    monkeypatch.setattr(read_parquet.files, "open_arrow", lambda _: pa.PythonFile(File(), mode="r"))
    with pytest.raises(InputLost, match=r"a\.parquet: cannot be read any more: Input/output error"):
        rows_of(inputs, columns)


def test_damage_on_an_object_store(tmp_path):
    write(tmp_path / "a.parquet")
    hurt(tmp_path / "a.parquet", 1, "x", 0.3)
    MemoryFileSystem.blobs["mem://damaged/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    inputs = inspection.inspect_files([("mem://damaged/a.parquet", "a.parquet")])
    columns = columns_of(inputs, "x", "l")
    assert sorted(row for _, row in rows_of(inputs, columns, 1300)[1]) == list(range(2500, 4000))
    MemoryFileSystem.blobs["mem://damaged/a.parquet"] += b"x"
    with pytest.raises(InputLost, match=r"a\.parquet: has .* bytes"):
        rows_of(inputs, columns)
    del MemoryFileSystem.blobs["mem://damaged/a.parquet"]
    with pytest.raises(InputLost, match=r"a\.parquet: cannot be read"):
        rows_of(inputs, columns)
