"""Mutated bytes of TFRecord and Parquet files, read as a run would read them; helpers, and a program.

    python -m tests.fuzz.fuzz_bytes --seconds 600

Every input is made from (format, seed, number) alone, so that a finding can be made again:
`--format parquet --seed 0 --first 1234 --count 1`. They are read in a process of its own, which is started
again after an input that ends it: a library in C++ can crash.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import InputLost, UserError
from transforms.rows.decode import decode
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources import base, inspection, read, shards
from transforms.sources.tfrecord import framing

FORMATS = ("tfrecord", "parquet")
#: A read that takes longer has hung, one that needs more memory has believed a damaged length.
SECONDS, BYTES = 30, 6 << 30
_ROWS = 300
_ROOT = Path(__file__).resolve().parents[2]


# -- sound bytes ---------------------------------------------------------------------------------------------


@cache
def sound(format: str) -> tuple[bytes, ...]:
    """Files of many makes: codecs, encodings, page versions and types; TFRecords in TFRecords."""
    rng = np.random.default_rng(0)
    if format == "tfrecord":
        rows = [_example(i, rng) for i in range(60)]
        inner = b"".join(map(framing.encode, rows[:5]))
        return b"".join(map(framing.encode, rows)), b"".join(map(framing.encode, [*rows[:9], inner, *rows]))
    x = pa.array(rng.normal(size=_ROWS), pa.float32())
    tables = [
        pa.table({"x": x, "n": pa.array(range(_ROWS)), "s": [f"word {i % 7}" for i in range(_ROWS)]}),
        pa.table(
            {
                "x": pa.array([None if i % 9 == 4 else i / 4 for i in range(_ROWS)], pa.float64()),
                "v": pa.array([[i, i + 1] for i in range(_ROWS)], pa.list_(pa.float32(), 2)),
                "l": pa.array([[i] * (i % 4) for i in range(_ROWS)], pa.list_(pa.int32())),
                "n": pa.array(range(_ROWS), pa.int16()),
                "s": pa.array([f"w{i % 5}" for i in range(_ROWS)]).dictionary_encode(),
            }
        ),
    ]
    makes: list[dict[str, Any]] = [
        {},
        {"compression": "none", "use_dictionary": False},
        {"compression": "zstd", "write_page_checksum": True, "data_page_version": "2.0"},
        {"compression": "gzip", "data_page_size": 200, "write_page_index": True},
        {"compression": "lz4", "use_dictionary": False, "use_byte_stream_split": ["x"]},
        {
            "use_dictionary": False,
            "column_encoding": {"n": "DELTA_BINARY_PACKED", "s": "DELTA_BYTE_ARRAY"},
            "data_page_version": "2.0",
            "compression": "none",
        },
    ]
    found = []
    for table in tables:
        for make in makes:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, row_group_size=130, **make)
            found.append(sink.getvalue().to_pybytes())
    return tuple(found)


def _example(number: int, rng: np.random.Generator) -> bytes:
    """A tf.train.Example of x and n, by the wire format: a map of features, floats packed, varints packed."""

    def part(tag: int, data: bytes) -> bytes:
        length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        return bytes([tag]) + length + data

    x = part(0x12, part(0x0A, rng.normal(size=1).astype("<f4").tobytes()))
    n = part(0x1A, part(0x0A, bytes([number & 127])))
    entries = [part(0x0A, part(0x0A, name) + part(0x12, value)) for name, value in ((b"x", x), (b"n", n))]
    return part(0x0A, b"".join(entries))


# -- mutations -----------------------------------------------------------------------------------------------


def mutated(format: str, seed: int, number: int) -> tuple[bytes, bytes]:
    """Sound bytes with one to a few changes, and without."""
    rng = np.random.default_rng([seed, number, FORMATS.index(format)])
    files = sound(format)
    original = files[int(rng.integers(len(files)))]
    data = bytearray(original)
    targeted = _tfrecord_lie if format == "tfrecord" else _parquet_lie
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 12]))):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.choice([1, 2, 4, 16, 100, 1000]))
        kind = int(rng.integers(9))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = rng.bytes(length)
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            other = files[int(rng.integers(len(files)))]
            data[at:] = other[int(rng.integers(len(other))) :]
        elif kind == 6:
            data[at : at + length] = bytes([int(rng.choice([0, 255, 128, 127]))]) * len(
                data[at : at + length]
            )
        else:
            targeted(data, rng)
    return bytes(data), original


def _tfrecord_lie(data: bytearray, rng: np.random.Generator) -> None:
    """A length that is wrong and whose checksum is right, or a wrong payload likewise."""
    frames = [(at, n) for at, n, damage in framing.frames(framing.Source(io.BytesIO(data))) if damage is None]
    if not frames:
        return
    at, length = frames[int(rng.integers(len(frames)))]
    if rng.integers(2):
        new = int(rng.choice([0, 1, length + 1, length + 16, len(data), 4 * len(data)]))
        header = new.to_bytes(8, "little")
        data[at : at + 12] = header + framing.masked_crc32c(header).to_bytes(4, "little")
    elif length:
        begin = at + framing.HEADER
        data[begin + int(rng.integers(length))] ^= 1 << int(rng.integers(8))
        data[begin + length : begin + length + 4] = framing.masked_crc32c(
            bytes(data[begin : begin + length])
        ).to_bytes(4, "little")


def _parquet_lie(data: bytearray, rng: np.random.Generator) -> None:
    """A number in the footer or in a page's header that is another."""
    length = int.from_bytes(data[-8:-4], "little")
    begin = len(data) - 8 - length
    if begin <= 4 or rng.integers(3) == 0:
        begin, length = 4, min(200, len(data) - 12)
    if length <= 0:
        return
    at = begin + int(rng.integers(length))
    value = rng.choice(["01", "7f", "80", "ff", "8001", "ff7f", "00", "15", "19"])
    new = bytes.fromhex(str(value))
    data[at : at + len(new)] = new[: len(data) - at]


# -- reading -------------------------------------------------------------------------------------------------


def outcome(format: str, data: bytes, original: bytes, folder: Path, rng: np.random.Generator) -> str:
    """What reading comes to: "refused", "rejected" or "read"; as a run does it, in random shards.

    The original is a second file of the input.

    Raises:
      AssertionError: A row is lost, or met twice.
    """
    path, good = folder / f"a.{format}", folder / f"b.{format}"
    path.write_bytes(data)
    good.write_bytes(original)
    try:
        inputs = inspection.inspect_files([(str(path), path.name), (str(good), good.name)])
        total = sum(file.rows for file in inputs)
        assert total < 10_000_000, f"{total} rows of {len(data)} bytes"
        types = read.describe_columns(inputs)
        names = [name for name in ("x", "n", "v", "l") if name in types]
        if not names:
            return "refused"
        types |= read.check_columns(inputs, [base.Column(name, types[name]) for name in names])
        features = tuple(
            FeatureSpec(name, "numeric", "float32", _shape(types[name]), types[name], None, name, 0)
            for name in names
        )
        text = ("s", types["s"]) if "s" in types else None
        schema = ExampleSchema(features, {name: _shape(types[name]) for name in names}, {}, id=text)
        columns = [base.Column(name, kind) for name, kind in schema.columns]
        met: Counter[tuple[str, int]] = Counter()
        rejected = 0
        for shard in shards.cut(inputs, int(rng.integers(40, 700))):
            for piece in shard.pieces:
                for raw in read.read_piece(piece, columns, int(rng.choice([20, 100, 1000]))):
                    rows, problems = decode(raw, schema, piece.name, 0, 1)
                    met.update((piece.name, int(row)) for row in rows.rows)
                    met.update((one.file, one.row) for one in problems)
                    rejected += len(problems)
    except UserError as error:
        if isinstance(error, InputLost) or "\n" in str(error):
            raise
        return "refused"
    assert set(met.values()) <= {1}, "a row is met twice"
    assert set(met) == {(file.name, row) for file in inputs for row in range(file.rows)}, "a row is lost"
    return "rejected" if rejected else "read"


def _shape(kind: pa.DataType) -> tuple[int, ...]:
    return (kind.list_size,) if pa.types.is_fixed_size_list(kind) else ()


def work(format: str, seed: int, first: int, count: int) -> None:
    """The reading process: a line before each input, with its number, and a line for what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        # Loading libraries may take longer than any read.
        outcome(format, sound(format)[0], sound(format)[0], Path(folder), np.random.default_rng(0))
        for number in range(first, first + count):
            print(number, flush=True)
            signal.alarm(SECONDS)
            data, original = mutated(format, seed, number)
            try:
                found = outcome(format, data, original, Path(folder), np.random.default_rng(number))
            except BaseException as error:  # noqa: BLE001 - that is what is looked for
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(
                    f"{number} {type(error).__name__}: {' '.join(str(error).split())[:200]} at {where.name}"
                )
                print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
            else:
                print(f"{number} {found}")
            signal.alarm(0)


def run(
    format: str, seed: int, count: int, seconds: float = 1e9, first: int = 0
) -> tuple[Counter[str], list[str]]:
    """Reads mutated files in processes of their own.

    Returns:
      How often each outcome was had, and the findings: whatever is no outcome, an end of the process among
      them.
    """
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    stop, end = first + count, time.monotonic() + seconds
    while first < stop and time.monotonic() < end:
        some = min(stop - first, 400) if seconds < 1e9 else stop - first
        arguments = [
            "--work",
            "--format",
            format,
            "--seed",
            str(seed),
            "--first",
            str(first),
            "--count",
            str(some),
        ]
        child = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.fuzz_bytes", *arguments],
            cwd=_ROOT,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS * (some + 10),
        )
        last = first
        for line in child.stdout.splitlines():
            number, _, found = line.partition(" ")
            last = int(number)
            if found in ("refused", "rejected", "read"):
                outcomes[found] += 1
            elif found:
                findings.append(f"{format} {seed} {line}")
        if child.returncode:
            kind = signal.Signals(-child.returncode).name if child.returncode < 0 else str(child.returncode)
            tail = " | ".join(child.stderr.strip().splitlines()[-2:])[-300:]
            findings.append(f"{format} {seed} {last} process ended: {kind} {tail}")
            first = last + 1
        else:
            first += some
    return outcomes, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--work", action="store_true")
    given = parser.parse_args()
    if given.work:
        work(given.format, given.seed, given.first, given.count)
        return
    formats = [given.format] if given.format else list(FORMATS)
    failed = False
    for format in formats:
        start = time.monotonic()
        outcomes, findings = run(format, given.seed, given.count, given.seconds / len(formats), given.first)
        took = time.monotonic() - start
        print(f"{format}: {outcomes.total() + len(findings)} inputs in {took:.0f} s: {dict(outcomes)}")
        for finding in findings:
            print("  ", finding)
        failed |= bool(findings)
    sys.exit(failed)


if __name__ == "__main__":
    main()
