"""TFRecord framing: every row once, whatever is wrong with the file, and planning and reading agree."""

import gzip
import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.sources.tfrecord import framing, tally

PAYLOADS = [bytes([65 + i]) * (20 + 7 * i) for i in range(8)]


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives a few bytes at a time, as networks do."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def readable(self):
        return True

    def read(self, size=-1):
        return self._file.read(min(size, 5) if size > 12 else size)


def write(payloads):
    return b"".join(map(framing.encode, payloads))


def offsets(payloads):
    found = [0]
    for payload in payloads:
        found.append(found[-1] + framing.HEADER + len(payload) + framing.FOOTER)
    return found


def read(data, batch=3, offset=0, make=io.BytesIO):
    """(payload or reason) of every row, in order, read `batch` rows at a time."""
    source = framing.Source(make(data))
    following = framing.frames(source, offset)
    rows = []
    while True:
        records = framing.take(source, following, batch, 1 << 30)
        found = dict(zip(records.positions, records.payloads, strict=True)) | dict(records.damaged)
        assert sorted(found) == list(range(records.rows))
        rows += [found[i] for i in range(records.rows)]
        if not records.rows:
            return rows


def check(data, expected):
    """Reads give `expected` for any batch, as stream or file, plain or compressed; the scan counts them."""
    for content in (data, gzip.compress(data, 1), zlib.compress(data, 9)):
        for make in (io.BytesIO, Pipe):
            assert tally.scan(framing.Source(make(content))).rows == len(expected)
            assert read(content, 3, make=make) == expected
            assert read(content, 1000, make=make) == expected


def test_checksum_is_that_of_tensorflow(tmp_path):
    import tensorflow as tf

    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for payload in [*PAYLOADS, b"", b"\0" * 5]:
            writer.write(payload)
    data = (tmp_path / "a.tfrecord").read_bytes()
    assert data == write([*PAYLOADS, b"", b"\0" * 5])
    # RFC 3720, B.4: CRC32C of 32 zero bytes is 8a9136aa.
    crc = 0x8A9136AA
    assert framing.masked_crc32c(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


@given(st.lists(st.binary(max_size=300), max_size=40))
@settings(max_examples=60, deadline=None)
def test_whole_files(payloads):
    check(write(payloads), payloads)


def test_a_file_without_bytes_has_no_rows():
    check(b"", [])


def test_every_truncation_costs_one_row_and_no_more():
    data, ends = write(PAYLOADS), offsets(PAYLOADS)
    for size in range(1, len(data)):
        whole = sum(end <= size for end in ends[1:])
        rows = read(data[:size])
        assert rows[:whole] == PAYLOADS[:whole]
        cut = size not in ends
        assert len(rows) == whole + cut
        assert tally.scan(framing.Source(io.BytesIO(data[:size]))).rows == len(rows)
        if cut:
            assert "truncated" in rows[-1]
    assert read(data[: ends[1] + 12 + 5])[-1] == f"record is truncated: 5 of {len(PAYLOADS[1])} bytes"


def test_every_flipped_bit_costs_one_row_and_no_more():
    data, ends = write(PAYLOADS[:4]), offsets(PAYLOADS[:4])
    for at in range(len(data)):
        hurt = sum(end <= at for end in ends) - 1
        damaged = bytearray(data)
        damaged[at] ^= 1 << (at % 8)
        rows = read(bytes(damaged))
        in_header = at - ends[hurt] < framing.HEADER
        assert rows[hurt] == ("record length is corrupt" if in_header else "payload checksum does not match")
        assert rows[:hurt] + rows[hurt + 1 :] == PAYLOADS[:hurt] + PAYLOADS[hurt + 1 : 4]
        assert tally.scan(framing.Source(io.BytesIO(bytes(damaged)))).rows == 4


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 5000,
        b"x",
        b"garbage, and more of it" * 99,
        struct.pack("<QI", 12, 99),
        b"\0\0\0\0\1" * 50,
        b"~" + framing.encode(b"abc")[: framing.HEADER] + b"without its record",
    ],
    ids=["zeros", "a byte", "text", "a wrong checksum", "nearly headers", "a sound header alone"],
)
def test_garbage_between_records_is_one_row(garbage):
    data = write(PAYLOADS[:3]) + garbage + write(PAYLOADS[3:])
    check(data, [*PAYLOADS[:3], "record length is corrupt", *PAYLOADS[3:]])


@pytest.mark.parametrize("make", [io.BytesIO, Pipe])
def test_records_are_found_again_wherever_the_window_ends(monkeypatch, make):
    damaged = bytearray(write(PAYLOADS[:4]))
    damaged[offsets(PAYLOADS)[1]] ^= 1
    for chunk in range(1, 60):
        monkeypatch.setattr(framing, "_CHUNK", chunk)
        assert read(bytes(damaged), make=make) == [PAYLOADS[0], "record length is corrupt", *PAYLOADS[2:4]]
        assert tally.scan(framing.Source(make(bytes(damaged)))).rows == 4


def test_garbage_at_the_end_and_alone():
    check(write(PAYLOADS) + b"\0" * 40, [*PAYLOADS, "record length is corrupt"])
    check(b"id,name\n1,one\n2,two\n", ["record length is corrupt"])


def test_two_damaged_neighbours_are_two_rows():
    ends = offsets(PAYLOADS)
    damaged = bytearray(write(PAYLOADS))
    damaged[ends[2] + 14] ^= 1  # the payload of one …
    damaged[ends[3] + 2] ^= 1  # … and the length of the next
    reasons = ["payload checksum does not match", "record length is corrupt"]
    check(bytes(damaged), [*PAYLOADS[:2], *reasons, *PAYLOADS[4:]])


def test_a_damaged_length_before_a_truncated_end():
    damaged = bytearray(write(PAYLOADS[:3]))
    damaged[offsets(PAYLOADS)[1]] ^= 1
    check(
        bytes(damaged[:-10]),
        [PAYLOADS[0], "record length is corrupt", f"record is truncated: 28 of {len(PAYLOADS[2])} bytes"],
    )


@pytest.mark.parametrize("following", [8, 1], ids=["many records follow", "the file ends within the length"])
def test_a_record_cut_short_in_mid_file_takes_none_with_it(following):
    long = b"L" * 150
    data = write([b"first"]) + framing.encode(long)[:40] + write(PAYLOADS[:following])
    reason = "payload checksum does not match" if following == 8 else "record is truncated: 64 of 150 bytes"
    check(data, [b"first", reason, *PAYLOADS[:following]])


def test_reading_from_any_frame_on_is_reading_the_rest():
    damaged = bytearray(write(PAYLOADS * 2))
    ends = offsets(PAYLOADS * 2)
    for at in (ends[3] + 1, ends[6] + 20, ends[7] + 3, ends[12] + 9):
        damaged[at] ^= 4
    data = bytes(damaged[: ends[14] + 40])
    rows = read(data)
    starts = [offset for offset, _, _ in framing.frames(framing.Source(io.BytesIO(data)))]
    assert len(starts) == len(rows) == 15
    for row, offset in enumerate(starts):
        assert read(data, offset=offset) == rows[row:]


@given(st.integers(0, 2**32), st.integers(1, 30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_scan_and_read_agree_on_any_damage(seed, edits, cut):
    import random

    rng = random.Random(seed)
    data = bytearray(write([rng.randbytes(rng.choice([0, 3, 30, 300])) for _ in range(30)]))
    for _ in range(edits):
        at = rng.randrange(len(data))
        edit = rng.choice(["flip", "drop", "insert", "zero"])
        if edit == "flip":
            data[at] ^= 1 << rng.randrange(8)
        elif edit == "drop":
            del data[at : at + rng.randrange(40)]
        elif edit == "insert":
            data[at:at] = rng.randbytes(rng.randrange(40))
        else:
            data[at : at + 20] = bytes(len(data[at : at + 20]))
    content = gzip.compress(bytes(data)) if cut else bytes(data)
    content = content[: rng.randrange(len(content))] if cut else content
    rows = read(content, 7)
    assert tally.scan(framing.Source(Pipe(content))).rows == len(rows)
    assert rows == read(content, 1000, make=Pipe)
    assert sum(isinstance(row, str) for row in rows) <= 2 * edits + cut


def test_index_names_every_256th_row():
    payloads = [b"%d" % i for i in range(1000)]
    damaged = bytearray(write(payloads))
    damaged[offsets(payloads)[512]] ^= 1  # an index entry may lie on damage
    scan = tally.scan(framing.Source(io.BytesIO(bytes(damaged))))
    assert scan.index == tuple(offsets(payloads)[:1000:256])
    assert read(bytes(damaged), offset=scan.index[3])[0] == b"768"
    assert tally.scan(framing.Source(io.BytesIO(gzip.compress(bytes(damaged))))).index == ()


def test_only_headers_of_large_records_are_read():
    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    file = Counting(write([bytes(3 << 20)] * 8))
    assert tally.scan(framing.Source(file)).rows == 8
    assert file.read_bytes < 2 << 20


def test_a_batch_ends_where_its_bytes_say():
    source = framing.Source(io.BytesIO(write([b"x" * 100] * 10)))
    following = framing.frames(source)
    sizes = [framing.take(source, following, 5, 250).rows for _ in range(5)]
    assert sizes == [3, 3, 3, 1, 0]


def test_gzip_is_told_by_content_even_where_a_length_begins_like_it():
    payload = b"z" * 0x8B1F  # its length begins with gzip's two bytes
    assert framing.encode(payload).startswith(b"\x1f\x8b")
    check(write([payload, b"b"]), [payload, b"b"])


def test_gzip_of_several_members_and_padding():
    data = (
        gzip.compress(write(PAYLOADS[:3]))
        + gzip.compress(b"")
        + gzip.compress(write(PAYLOADS[3:]))
        + b"\0" * 9
    )
    assert read(data) == PAYLOADS
    assert read(data, make=Pipe) == PAYLOADS


def test_zlib_is_told_by_content_at_every_level_and_a_plain_length_that_begins_like_it_is_not():
    for level in range(10):
        assert read(zlib.compress(write(PAYLOADS), level)) == PAYLOADS
    assert read(zlib.compress(b"")) == []
    for size in (0x9C78, 0x0178, 0xDA78):
        assert framing.encode(b"z" * size)[:1] == b"x"
        check(write([b"z" * size, b"b"]), [b"z" * size, b"b"])
        damaged = bytearray(write([b"z" * size, b"b"]))
        damaged[8] ^= 1  # the checksum of the length: it is no compressed stream for that
        assert read(bytes(damaged)) == ["record length is corrupt", b"b"]


@pytest.mark.parametrize("kind", ["ZLIB", "GZIP"])
def test_what_tensorflow_compresses_is_read(tmp_path, kind):
    import tensorflow as tf

    path = str(tmp_path / "rows.tfrecord")
    with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type=kind)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    content = (tmp_path / "rows.tfrecord").read_bytes()
    assert read(content) == PAYLOADS
    source = framing.Source(Pipe(content))
    assert source.compressed
    assert tally.scan(source).index == ()


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
def test_truncated_streams_give_what_they_have_and_one_row(compress):
    payloads = [(b"%08d" % (i * 7919 % 10007)) * 20 for i in range(400)]
    content = compress(write(payloads))
    for size in range(15, len(content), len(content) // 37):
        rows = read(content[:size], 50)
        assert rows[:-1] == payloads[: len(rows) - 1]
        assert "compressed stream ends early" in rows[-1]
        assert tally.scan(framing.Source(Pipe(content[:size]))).rows == len(rows)
    assert len(read(content[: len(content) // 2])) > 100


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
def test_corrupt_streams_give_what_comes_before(compress):
    payloads = [(b"%08d" % (i * 7919 % 10007)) * 20 for i in range(400)]
    content = bytearray(compress(write(payloads), 9))
    half = len(content) // 2
    content[half:] = b"\xff" * half
    rows = read(bytes(content))
    sound = [row for row in rows if isinstance(row, bytes)]
    assert sound == payloads[: len(sound)]
    assert len(sound) > 100
    assert "compressed stream is corrupt" in rows[-1]
    assert tally.scan(framing.Source(io.BytesIO(bytes(content)))).rows == len(rows)
    assert read(compress(write(PAYLOADS)) + b"not gzip") == [*PAYLOADS, "compressed stream is corrupt"]
