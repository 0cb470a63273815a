"""Reading pieces: each row once with its number, values as written, damaged ones rejected on their own."""

import gzip
import itertools
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.sources import base, inspection, read, shards
from transforms.sources.base import Column
from transforms.sources.tfrecord import framing


def inspect(*paths, kind=None):
    return inspection.inspect_files([(str(path), path.name) for path in paths], kind)


def columns_of(inputs, *names):
    types = read.describe_columns(inputs)
    return [Column(name, types[name]) for name in names or types]


def rows_of(inputs, columns, batch_size=7, shard_rows=1000, limit=None):
    """{(file, row): values or (stage, reason)} of all shards, in reading order; every row is met once."""
    found = {}
    for shard in shards.cut(inputs, shard_rows, limit):
        for piece in shard.pieces:
            expected = range(piece.start, piece.start + piece.rows)
            met = []
            for batch in read.read_piece(piece, columns, batch_size):
                assert batch.columns.schema.names == [column.name for column in columns]
                assert batch.rows.dtype == np.int64
                assert batch.columns.num_rows == len(batch.rows)
                assert len(batch.rows) + len(batch.rejected) <= batch_size
                values = zip(*(column.to_pylist() for column in batch.columns.columns), strict=True)
                good = dict(zip(batch.rows.tolist(), values, strict=True))
                bad = {one.row: (one.stage, one.reason) for one in batch.rejected}
                assert all(one.file == piece.name for one in batch.rejected)
                assert list(good) == sorted(good)
                assert not set(good) & set(bad)
                here = good | bad
                met += sorted(here)
                found.update({(piece.name, row): here[row] for row in sorted(here)})
            assert met == list(expected)
    return found


def example(**features):
    """A serialized tf.train.Example, by TensorFlow itself."""
    import tensorflow as tf

    made = tf.train.Example()
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        feature = made.features.feature[name]
        if not values:
            continue
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return made.SerializeToString()


def write_records(path, payloads):
    data = b"".join(map(framing.encode, payloads))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same 1,000 rows as Parquet with uneven row groups, plain TFRecord and gzip, over two files each."""
    folder = tmp_path_factory.mktemp("both")
    payloads = [example(i=i, x=i / 4, s=[b"%d" % i] * (i % 3)) for i in range(1000)]
    table = pa.table({"i": pa.array(range(1000)), "x": pa.array(np.arange(1000) / 4, pa.float32())})
    table = table.append_column("s", pa.array([[b"%d" % i] * (i % 3) or None for i in range(1000)]))
    inputs = {}
    for kind, suffix in (("parquet", ".parquet"), ("plain", ".tfrecord"), ("gzip", ".tfrecord.gz")):
        paths = []
        for name, start, stop in (("a", 0, 700), ("b", 700, 1000)):
            path = folder / f"{name}{suffix}"
            if kind == "parquet":
                with pq.ParquetWriter(path, table.schema) as writer:
                    for size in (130, 5, 5, 0, 400, 160) if name == "a" else (300,):
                        writer.write_table(table.slice(start, size), row_group_size=1000)
                        start += size
            else:
                write_records(path, payloads[start:stop])
            paths.append(path)
        inputs[kind] = inspect(*paths)
    return inputs


@pytest.mark.parametrize("kind", ["parquet", "plain", "gzip"])
@given(st.integers(40, 1100), st.integers(1, 500), st.none() | st.integers(0, 1100))
@settings(max_examples=12, deadline=None, phases=[Phase.generate])
def test_any_cut_and_batch_size_reads_every_row_once(both, kind, shard_rows, batch_size, limit):
    found = rows_of(both[kind], columns_of(both[kind], "i", "x", "s"), batch_size, shard_rows, limit)
    expected = [(i, i / 4, [b"%d" % i] * (i % 3) or None) for i in range(1000)][:limit]
    assert list(found.values()) == expected
    suffix = both[kind][0].name.removeprefix("a")
    assert list(found) == [
        ("a" + suffix, i) if i < 700 else ("b" + suffix, i - 700) for i in range(len(expected))
    ]


@pytest.mark.parametrize("kind", ["parquet", "plain", "gzip"])
def test_pieces_in_any_order_and_after_an_interruption(both, kind):
    columns = columns_of(both[kind], "i")

    def batches(piece):
        return [batch.columns.column(0).to_pylist() for batch in read.read_piece(piece, columns, 16)]

    pieces = [piece for shard in shards.cut(both[kind], 90) for piece in shard.pieces]
    in_order = [batches(piece) for piece in pieces]
    assert list(itertools.chain(*in_order[0], *in_order[-1])) == [*range(90), *range(990, 1000)]
    next(interrupted := read.read_piece(pieces[2], columns, 16))
    interrupted.close()
    # Backwards nothing is left open that could be gone on with; the batches must be the same.
    assert [batches(piece) for piece in reversed(pieces)][::-1] == in_order
    assert [batches(pieces[i]) for i in (2, 2, 4, 3, 0)] == [in_order[i] for i in (2, 2, 4, 3, 0)]


@pytest.mark.parametrize("kind", ["parquet", "gzip"])
def test_shards_in_order_decode_a_file_once(both, kind, monkeypatch):
    columns = columns_of(both[kind], "i")
    opened = []
    for name in ("open_input", "open_arrow"):
        real = getattr(read.read_parquet.files, name)
        monkeypatch.setattr(
            read.read_parquet.files, name, lambda path, real=real: opened.append(path) or real(path)
        )
    rows_of(both[kind][1:], columns, 16, 64)
    assert len(opened) == 1


def test_a_parked_file_that_was_rewritten_is_opened_anew(tmp_path):
    for name, write in (
        ("a.parquet", lambda path, values: pq.write_table(pa.table({"i": values}), path)),
        ("a.tfrecord.gz", lambda path, values: write_records(path, [example(i=i) for i in values])),
    ):
        path = tmp_path / name
        write(path, list(range(100)))
        columns = columns_of(inspect(path))
        first, _ = (shard.pieces[0] for shard in shards.cut(inspect(path), 50))
        assert sum(len(batch.rows) for batch in read.read_piece(first, columns, 8)) == 50
        path.unlink()
        write(path, list(range(1000, 1100)))
        _, second = (shard.pieces[0] for shard in shards.cut(inspect(path), 50))
        values = [
            v for batch in read.read_piece(second, columns, 8) for v in batch.columns.column(0).to_pylist()
        ]
        assert values == list(range(1050, 1100))


# Parquet


@pytest.mark.parametrize(
    ("array", "described", "values"),
    [
        *[
            (pa.array([1, None, 100], kind), kind, [1, None, 100])
            for kind in (
                pa.int8(),
                pa.uint8(),
                pa.int16(),
                pa.uint32(),
                pa.int64(),
                pa.uint64(),
                pa.float16(),
                pa.float32(),
                pa.float64(),
            )
        ],
        (pa.array([True, None, False]), pa.bool_(), [True, None, False]),
        (pa.array(["ä", None, ""], pa.large_string()), pa.string(), ["ä", None, ""]),
        (pa.array(["ä", None, ""], pa.string_view()), pa.string(), ["ä", None, ""]),
        (pa.array(["ä", None, "ä"]).dictionary_encode(), pa.string(), ["ä", None, "ä"]),
        (pa.array([5, None, 5]).dictionary_encode(), pa.int64(), [5, None, 5]),
        (pa.array([b"\0", None, b""], pa.large_binary()), pa.binary(), [b"\0", None, b""]),
        (
            pa.array([Decimal("1.5"), None, Decimal("2.5")]),
            pa.decimal128(2, 1),
            [Decimal("1.5"), None, Decimal("2.5")],
        ),
        (pa.array([[1], None, []], pa.large_list(pa.int8())), pa.list_(pa.int8()), [[1], None, []]),
        (
            pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
            pa.list_(pa.int8(), 2),
            [[1, 2], None, [3, 4]],
        ),
        (
            pa.array([["a"], None, []], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            pa.list_(pa.string()),
            [["a"], None, []],
        ),
        *[
            (pa.array([[1], None, [2, 3]], kind), pa.list_(pa.int16()), [[1], None, [2, 3]])
            for kind in (pa.list_view(pa.int16()), pa.large_list_view(pa.int16()))
        ],
        (
            pa.array([[[1]], None, [[2, 3], [], None]], pa.list_(pa.list_view(pa.int16()))),
            pa.list_(pa.list_(pa.int16())),
            [[[1]], None, [[2, 3], [], None]],
        ),
        (pa.nulls(3), pa.null(), [None, None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_stored_types(tmp_path, array, described, values):
    pq.write_table(pa.table({"Größe ☂": array}), tmp_path / "données.parquet")
    inputs = inspect(tmp_path / "données.parquet")
    assert read.describe_columns(inputs) == {"Größe ☂": described}
    (piece,) = shards.cut(inputs, 5)[0].pieces
    (batch,) = read.read_piece(piece, columns_of(inputs), 5)
    assert batch.columns.schema.types == [described]
    assert batch.columns.column(0).to_pylist() == values


def test_tensors_keep_their_shape(tmp_path):
    images = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    pq.write_table(
        pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(images)}), tmp_path / "a.parquet"
    )
    inputs = inspect(tmp_path / "a.parquet")
    described = read.describe_columns(inputs)["image"]
    assert tuple(described.shape) == (2, 3)
    assert described.value_type == pa.float32()
    found = [values for (values,) in rows_of(inputs, columns_of(inputs)).values()]
    np.testing.assert_array_equal(np.reshape(found, (4, 2, 3)), images)


def test_tensors_in_another_order_are_refused_by_file_and_column(tmp_path):
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(24.0).reshape(4, 2, 3))
    permuted = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float64(), (2, 3), permutation=[1, 0]), images.storage
    )
    tables = [pa.table({"image": one, "x": [1.0] * 4}) for one in (images, permuted)]
    for name, table in zip("ab", tables, strict=True):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    inputs = inspect(tmp_path / "a.parquet", tmp_path / "b.parquet")
    message = r"column image holds tensors of shape \[2, 3\] permuted by \[1, 0\]; store them in row-major"
    with pytest.raises(UserError, match=rf"b\.parquet: {message}"):
        read.check_columns(inputs, columns_of(inputs))
    with pytest.raises(UserError, match=rf"the batch: {message}"):
        read.read_parquet.select(tables[1].to_batches()[0], ["image"], "the batch")
    # Nobody minds one that is not wanted.
    read.check_columns(inputs, columns_of(inputs, "x"))


def test_a_null_tensor_or_list_of_fixed_size_is_a_null(tmp_path):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(24.0).reshape(4, 2, 3))
    storage = tensors.storage.take(pa.array([0, None, 2, 3]))
    lists = pa.array([None, ["a", None], None, ["b", "c"]], pa.list_(pa.large_string(), 2))
    table = pa.table(
        {
            "id": pa.array(["a", "b", "a", "b"]).dictionary_encode(),
            "image": pa.ExtensionArray.from_storage(tensors.type, storage),
            "pair": lists,
            "none": pa.nulls(4),
            "struct": pa.StructArray.from_arrays([lists], ["pair"]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    inputs = inspect(tmp_path / "a.parquet")
    images = storage.to_pylist()
    pairs = lists.to_pylist()
    expected = list(zip("abab", images, pairs, [None] * 4, pairs, strict=True))
    for batch_size in (10, 3, 1):
        assert list(rows_of(inputs, columns_of(inputs), batch_size).values()) == expected
    (piece,) = shards.cut(inputs, 5)[0].pieces
    (batch,) = read.read_piece(piece, columns_of(inputs), 5)
    assert batch.columns.schema.types[:3] == [
        pa.string(),
        pa.list_(pa.float64(), 6),
        pa.list_(pa.string(), 2),
    ]


def test_fields_of_structs(tmp_path):
    structs = pa.array(
        [{"temp": 1.0, "wind": {"dir": "N"}}, None, {"temp": None, "wind": None}, {"temp": 2.0}]
    )
    table = pa.table(
        {"id": range(4), "weather": structs, "weather.wind.dir": ["literal"] * 4, "weather.rain": [7] * 4}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    inputs = inspect(tmp_path / "a.parquet")
    assert read.describe_columns(inputs) == {
        "id": pa.int64(),
        "weather.temp": pa.float64(),
        "weather.wind.dir": pa.string(),
        "weather.rain": pa.int64(),
    }
    found = rows_of(inputs, columns_of(inputs, "weather.wind.dir", "weather.rain", "weather.temp"))
    assert list(found.values()) == [("literal", 7, t) for t in (1.0, None, None, 2.0)]
    pq.write_table(table.select(["weather"]), tmp_path / "b.parquet")
    inputs = inspect(tmp_path / "b.parquet")
    found = rows_of(inputs, columns_of(inputs, "weather.wind.dir", "weather.temp"))
    assert list(found.values()) == [("N", 1.0), (None, None), (None, None), (None, 2.0)]


def test_only_the_row_groups_and_columns_that_are_wanted_are_read(tmp_path):
    """Cells of others are made unreadable: touching them would fail."""
    rng = np.random.default_rng(0)
    table = pa.table({name: rng.random(300) for name in "abc"})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=100, use_dictionary=False, compression="zstd")
    metadata = pq.read_metadata(path)
    content = bytearray(path.read_bytes())
    for group in range(3):
        for column in range(3):
            chunk = metadata.row_group(group).column(column)
            if group != 1 or column != 1:
                begin = chunk.data_page_offset
                content[begin : begin + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(content))
    (file,) = inspect(path)
    columns = [Column("b", pa.float64())]
    piece = base.Piece(file.path, file.name, file.format, start=120, rows=80, ordinal=120)
    found = [
        v for batch in read.read_piece(piece, columns, 32) for v in batch.columns.column("b").to_pylist()
    ]
    assert found == table["b"].to_pylist()[120:200]
    found = rows_of([file], columns)
    assert [found["a.parquet", row] for row in range(100, 200)] == [
        (v,) for v in table["b"].to_pylist()[100:200]
    ]
    assert all(found["a.parquet", row][0] == "read" for row in (*range(100), *range(200, 300)))


def test_columns_by_name_over_files_that_differ(tmp_path):
    pq.write_table(pa.table({"x": pa.array([], pa.string())}), tmp_path / "a-empty.parquet")
    pq.write_table(
        pa.table({"x": pa.array([1, 2], pa.int8()), "s": ["a", "b"], "n": pa.nulls(2)}),
        tmp_path / "b.parquet",
    )
    second = {"n": [1.5], "extra": [0], "s": pa.array(["c"]).dictionary_encode(), "x": pa.array([2.5])}
    pq.write_table(pa.table(second), tmp_path / "c.parquet")
    inputs = inspect(*(tmp_path / f"{name}.parquet" for name in ("a-empty", "b", "c")))
    # In the order of the first file with rows; a column of nulls takes its type from a file that has values.
    assert list(read.describe_columns(inputs).items()) == [
        ("x", pa.int8()),
        ("s", pa.string()),
        ("n", pa.float64()),
    ]
    columns = columns_of(inputs)
    read.check_columns(inputs[1:], columns)
    assert list(rows_of(inputs, columns).values()) == [(1, "a", None), (2, "b", None), (2.5, "c", 1.5)]


@pytest.mark.parametrize(
    ("kinds", "common"),
    [
        (["int8", "int64", "int16"], "int64"),
        (["uint8", "int8"], "int16"),
        (["int16", "float32"], "float"),
        (["int32", "float32"], "double"),
        (["float32", "float64", "float16"], "double"),
        (["bool", "int8"], "int8"),
        (["int8", "bool"], "int8"),
        (["bool", "bool"], "bool"),
        (["uint64", "int64"], "decimal128(20, 0)"),
        (["int64", "decimal128"], "decimal128(3, 1)"),
        (["null", "int8", "null", "float16"], "halffloat"),
        (["string", "binary"], "string"),
    ],
    ids=str,
)
def test_the_type_of_a_column_over_all_files(tmp_path, kinds, common):
    for number, name in enumerate(kinds):
        kind = pa.decimal128(3, 1) if name == "decimal128" else pa.type_for_alias(name)
        pq.write_table(pa.table({"x": pa.nulls(1).cast(kind)}), tmp_path / f"{number}.parquet")
    # A file without rows has no say.
    pq.write_table(pa.table({"x": pa.nulls(0).cast(kind)}), tmp_path / "z.parquet")
    inputs = inspect(*sorted(tmp_path.iterdir()))
    assert str(read.check_columns(inputs, columns_of(inputs))["x"]) == common


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"distance": [1], "wnd": [1]}, r"b\.parquet: there is no column wind.*did you mean wnd\?"),
        (
            {"distance": ["far"], "wind": [1]},
            r"b\.parquet: column distance is string, but int64 in other files",
        ),
        ({"distance": [[1]], "wind": [1]}, r"b\.parquet: column distance is list<item: int64>, but int64"),
    ],
)
def test_columns_that_a_file_lacks_or_has_otherwise(tmp_path, other, message):
    pq.write_table(pa.table({"distance": [1], "wind": [2.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(other), tmp_path / "b.parquet")
    inputs = inspect(tmp_path / "a.parquet", tmp_path / "b.parquet")
    columns = columns_of(inputs)
    with pytest.raises(UserError, match=message):
        read.check_columns(inputs, columns)
    if "no column" in message:
        with pytest.raises(UserError, match=message):
            rows_of(inputs, columns)


def test_a_name_that_two_columns_have(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: has several columns called x"):
        read.describe_columns(inspect(tmp_path / "a.parquet"))


def test_one_row_and_no_rows(tmp_path):
    pq.write_table(pa.table({"i": [5]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"i": pa.array([], pa.int64())}), tmp_path / "b.parquet")
    inputs = inspect(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert rows_of(inputs, columns_of(inputs)) == {("a.parquet", 0): (5,)}
    assert rows_of(inputs[1:], columns_of(inputs[1:])) == {}
    write_records(tmp_path / "a.tfrecord", [example(i=5)])
    write_records(tmp_path / "b.tfrecord", [])
    inputs = inspect(tmp_path / "b.tfrecord", tmp_path / "a.tfrecord")
    assert rows_of(inputs, columns_of(inputs)) == {("a.tfrecord", 0): (5,)}
    assert read.describe_columns(inputs[:1]) == {}


# TFRecord


def test_features_of_examples(tmp_path):
    rows = [
        {"i": 2**40, "f": 0.1, "b": b"a\0\0", "k": [1.0, 2.0], "r": [1, 2, 3], "größe": 1, "late": []},
        {"i": -1, "f": float("nan"), "b": b"", "k": [3.0, 4.0], "r": [], "größe": [], "late": []},
        {"i": 0, "f": 2.0, "b": b"\xff\xfe", "r": [4], "late": b"x"},
    ]
    path = write_records(tmp_path / "a.tfrecord", [example(**row) for row in rows])
    inputs = inspect(path)
    types = read.describe_columns(inputs)
    assert list(types.items()) == [
        ("b", pa.binary()),
        ("f", pa.float32()),
        ("größe", pa.int64()),
        ("i", pa.int64()),
        ("k", pa.list_(pa.float32(), 2)),
        ("late", pa.binary()),
        ("r", pa.list_(pa.int64())),
    ]
    (piece,) = shards.cut(inputs, 5)[0].pieces
    (batch,) = read.read_piece(piece, columns_of(inputs), 5)
    assert dict(zip(batch.columns.schema.names, batch.columns.schema.types, strict=True)) == types
    assert batch.columns.column("i").to_pylist() == [2**40, -1, 0]
    np.testing.assert_array_equal(batch.columns.column("f").to_numpy(), np.float32([0.1, np.nan, 2.0]))
    assert batch.columns.column("f").null_count == 0
    assert batch.columns.column("b").to_pylist() == [b"a\0\0", b"", b"\xff\xfe"]
    assert batch.columns.column("k").to_pylist() == [[1.0, 2.0], [3.0, 4.0], None]
    assert batch.columns.column("r").to_pylist() == [[1, 2, 3], None, [4]]
    assert batch.columns.column("größe").to_pylist() == [1, None, None]
    assert batch.columns.column("late").to_pylist() == [None, None, b"x"]
    # A batch in which a feature is missing throughout has its type all the same.
    batches = list(read.read_piece(piece, columns_of(inputs), 1))
    assert [one.columns.schema.types for one in batches] == [batch.columns.schema.types] * 3


def test_same_values_as_tensorflow_reads(tmp_path):
    import tensorflow as tf

    rng = np.random.default_rng(1)
    payloads = [
        example(x=float(rng.normal()), v=rng.normal(size=3).tolist(), i=int(rng.integers(-(2**62), 2**62)))
        for _ in range(100)
    ]
    path = str(tmp_path / "a.tfrecord.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for payload in payloads:
            writer.write(payload)
    spec = {
        "i": tf.io.FixedLenFeature([], tf.int64),
        "v": tf.io.FixedLenFeature([3], tf.float32),
        "x": tf.io.FixedLenFeature([], tf.float32),
    }
    (batch,) = (
        tf.data.TFRecordDataset(path, "GZIP").batch(100).map(lambda raw: tf.io.parse_example(raw, spec))
    )
    inputs = inspect(tmp_path / "a.tfrecord.gz")
    found = list(rows_of(inputs, columns_of(inputs)).values())
    expected = zip(*(batch[name].numpy().tolist() for name in ("i", "v", "x")), strict=True)
    assert found == [tuple(row) for row in expected]


def test_damaged_records_cost_themselves_alone(tmp_path):
    payloads = [example(i=i, s=b"x" * i) for i in range(40)]
    ends = np.cumsum([0, *(len(framing.encode(payload)) for payload in payloads)])
    data = bytearray(b"".join(map(framing.encode, payloads)))
    data[ends[5] + 15] ^= 8  # a payload
    data[ends[9] + 1] ^= 1  # a length
    data[ends[20] : ends[20]] = b"garbage" * 30
    data = data[:-7]  # the last record
    path = tmp_path / "a.tfrecord"
    path.write_bytes(bytes(data))
    expected = {("a.tfrecord", i + (i >= 20)): (i,) for i in range(40)}
    expected[("a.tfrecord", 5)] = ("read", "payload checksum does not match")
    expected[("a.tfrecord", 9)] = ("read", "record length is corrupt")
    expected[("a.tfrecord", 20)] = ("read", "record length is corrupt")
    size = len(payloads[39])
    expected[("a.tfrecord", 40)] = ("read", f"record is truncated: {size - 3} of {size} bytes")
    for content in (bytes(data), gzip.compress(bytes(data))):
        path.write_bytes(content)
        inputs = inspect(path)
        assert inputs[0].rows == 41
        columns = columns_of(inputs, "i")
        for shard_rows, batch_size in ((1000, 1000), (1000, 7), (6, 4), (1, 1), (20, 3)):
            assert rows_of(inputs, columns, batch_size, shard_rows) == expected


def test_payloads_that_do_not_parse_cost_themselves_alone(tmp_path):
    payloads = [example(i=i, f=float(i), k=[i, i]) for i in range(300)]
    payloads[3] = b"\xff\xff\xff not an Example"
    payloads[100] = example(i=b"text", f=1.0, k=[1, 2])
    payloads[101] = example(i=1, f=1.0, k=[b"1", b"2"])
    payloads[200] = example(i=[1, 2], f=1.0, k=[1, 2])
    payloads[299] = example(i=1, f=1.0, k=[1, 2, 3])
    payloads[250] = b""  # an Example without features
    path = write_records(tmp_path / "a.tfrecord", payloads)
    inputs = inspect(path)
    columns = [Column("k", pa.list_(pa.int64(), 2)), Column("i", pa.int64())]
    reasons = {
        3: "payload is not a tf.train.Example",
        100: "feature i is binary, int64 expected",
        101: "feature k is binary, int64 expected",
        200: "feature i has 2 values, 1 expected",
        299: "feature k has 3 values, 2 expected",
    }
    expected = {("a.tfrecord", i): ([i, i], i) for i in range(300)} | {("a.tfrecord", 250): (None, None)}
    expected |= {("a.tfrecord", i): ("decode", reason) for i, reason in reasons.items()}
    for batch_size in (1000, 10, 1):
        assert rows_of(inputs, columns, batch_size) == expected
    for path in (tmp_path / "b.tfrecord", tmp_path / "b.tfrecord.gz"):
        inputs = inspect(write_records(path, [b"\xff\xff\xff"] * 9))
        assert set(rows_of(inputs, columns).values()) == {("decode", reasons[3])}


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_both_kinds_of_number_in_a_column_and_each_is_read_as_itself(tmp_path, share):
    rng = np.random.default_rng(2)

    def either(usual, other):
        return usual if rng.random() > share else other

    rows = [
        {
            "s": b"%d" % i,
            "i": either(2**53 + i, i / 4),
            "f": either(i / 8, i),
            "k": either([i, -i], [i / 2, 0.5]),
            "r": either([i] * (i % 3), [0.5] * (i % 3)),
        }
        for i in range(500)
    ]
    rows[9] = {"s": b"9", "i": 9.5}
    expected = {("a.tfrecord", i): tuple(row.get(n) or None for n in "sifkr") for i, row in enumerate(rows)}
    # What is 0 is there all the same.
    expected[("a.tfrecord", 0)] = (b"0", rows[0]["i"], rows[0]["f"], rows[0]["k"], None)
    payloads = [example(**row) for row in rows]
    for at, payload, reason in (
        (7, example(**rows[7] | {"i": 0.5, "k": [1.0, 2.0, 3.0]}), "feature k has 3 values, 2 expected"),
        (8, example(**rows[8] | {"i": 0.5, "s": 8}), "feature s is int64, binary expected"),
        (11, b"\xff\xff", "payload is not a tf.train.Example"),
    ):
        payloads[at] = payload
        expected[("a.tfrecord", at)] = ("decode", reason)
    inputs = inspect(write_records(tmp_path / "a.tfrecord", payloads))
    columns = [
        Column("s", pa.binary()),
        Column("i", pa.int64()),
        Column("f", pa.float32()),
        Column("k", pa.list_(pa.int64(), 2)),
        Column("r", pa.list_(pa.int64())),
    ]
    for batch_size in (1000, 64, 1):
        # As text, for 1 == 1.0.
        assert repr(rows_of(inputs, columns, batch_size)) == repr(expected)


def test_most_records_decide_kind_and_length(tmp_path):
    rows = [{"a": 1.0, "b": 1.0, "c": b"x", "d": [1.0, 2.0], "e": 5, "f": [1], "g": 2}] * 4
    odd = {"a": 7, "b": b"x", "c": [b"x", b"y"], "d": [1], "e": 0.5, "f": [1, 2], "g": 2.0}
    rows = [odd, *rows, {"f": [1, 2, 3]}, {"f": [1, 2]}, {"f": [1, 2]}, {"g": 2.0}, {"g": 2.0}, {"g": 2.0}]
    inputs = inspect(write_records(tmp_path / "a.tfrecord", [example(**row) for row in rows]))
    assert read.describe_columns(inputs) == {
        "a": pa.float32(),
        "b": pa.float32(),
        "c": pa.binary(),
        "d": pa.list_(pa.float32(), 2),
        "e": pa.int64(),
        "f": pa.list_(pa.int64()),  # one value in 4 records of 8: no majority
        "g": pa.float32(),  # as many of the one kind as of the other
    }


@pytest.mark.parametrize("suffix", [".tfrecord", ".tfrecord.gz"])
def test_a_named_feature_that_the_first_records_lack_is_looked_for_all_over_the_input(tmp_path, suffix):
    def write(name, rows):
        return write_records(tmp_path / f"{name}{suffix}", [example(**row) for row in rows])

    small = inspect(
        write("a", [{"a": 1.0}] * 700), write("b", [{"a": 1.0}] * 99 + [{"a": 1.0, "late": [1, 2]}])
    )
    assert read.describe_columns(small) == {"a": pa.float32()}
    assert read.describe_columns(small, ["a", "late", "never"]) == {
        "a": pa.float32(),
        "late": pa.list_(pa.int64(), 2),
    }
    # A feature that every tenth record has from somewhere on, in an input that is not read as a whole.
    rows = [{"a": 1.0} if i < 20_000 or i % 10 else {"a": 1.0, "late": b"x"} for i in range(24_000)]
    large = inspect(write("c", rows))
    peeked = []
    real = read.describe_tfrecord.read_tfrecord.peek
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            read.describe_tfrecord.read_tfrecord,
            "peek",
            lambda piece, most: peeked.append(real(piece, most)) or peeked[-1],
        )
        assert read.describe_columns(large, ["late"]) == {"a": pa.float32(), "late": pa.binary()}
        assert sum(map(len, peeked)) == 64 * 256
        peeked.clear()
        patch.setattr(read.describe_tfrecord, "_STRETCH_BYTES", 1000)
        read.describe_columns(large, ["late"])
        assert max(sum(map(len, one)) for one in peeked) < 1100


def test_files_without_a_readable_record_are_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"\1\2 no record \0\3")
    inputs = inspect(path)
    assert inputs[0].rows == 1
    with pytest.raises(UserError, match=r"a\.tfrecord: no tf\.train\.Example can be read"):
        read.describe_columns(inputs)


def test_large_records_make_small_batches(tmp_path, monkeypatch):
    path = write_records(tmp_path / "a.tfrecord", [example(b=b"x" * 1000) for _ in range(10)])
    inputs = inspect(path)
    (piece,) = shards.cut(inputs, 10)[0].pieces
    monkeypatch.setattr(read.read_tfrecord, "BATCH_BYTES", 2500)
    assert [len(batch.rows) for batch in read.read_piece(piece, columns_of(inputs), 8)] == [3, 3, 3, 1]


def test_urls_read_like_files(both, tmp_path):
    for kind, inputs in both.items():
        copies = []
        for file in inputs:
            with open(file.path, "rb") as opened:
                MemoryFileSystem.blobs[f"mem://rows/{file.name}"] = opened.read()
            copies.append((f"mem://rows/{file.name}", file.name))
        remote = inspection.inspect_files(copies)
        assert [file.rows for file in remote] == [700, 300], kind
        assert [file.index for file in remote] == [file.index for file in inputs]
        columns = columns_of(remote)
        assert columns == columns_of(inputs)
        assert rows_of(remote, columns, 100, 300) == rows_of(inputs, columns, 100, 300)


def test_wrong_arguments(both):
    piece = shards.cut(both["plain"], 10)[0].pieces[0]
    column = Column("i", pa.int64())
    for columns, batch_size in (([], 5), ([column, column], 5), ([column], 0), ([Column("i", pa.int8())], 5)):
        with pytest.raises(ValueError, match=r"columns must|batch_size is 0|column i is int8"):
            list(read.read_piece(piece, columns, batch_size))


def test_tensorflow_may_be_imported_after_the_records_were_described(tmp_path):
    path = write_records(tmp_path / "a.tfrecord", [example(i=5)])
    program = (
        "from transforms.sources import read, shards, inspection, base\n"
        f"found = inspection.inspect_files([({str(path)!r}, 'a.tfrecord')])\n"
        "types = read.describe_columns(found)\n"
        "import tensorflow as tf\n"
        "assert tf.train.Example().SerializeToString() == b''\n"
        "columns = [base.Column(name, kind) for name, kind in types.items()]\n"
        "(batch,) = read.read_piece(shards.cut(found, 9)[0].pieces[0], columns, 9)\n"
        "assert batch.columns.to_pydict() == {'i': [5]}"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
