# ruff: noqa: E501 - tables
"""Random tables written by the tools that people have, read back equal to each tool's own reading.

`python -m tests.fuzz.files_by_tools --seconds 180 [--tool duckdb]` runs for longer than the suite has time for, and prints how
many columns it compared. Spark and Hugging Face datasets take part where their packages are installed.
"""

from __future__ import annotations

import argparse
import datetime
import random
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.file_worlds import decoded
from transforms.errors import UserError

ROWS = 7
#: A feature that every table has.
A = [float(row) for row in range(ROWS)]


#: What columns were refused for, in this process.
REFUSED: Counter[str] = Counter()


@dataclass
class Written:
    """A table as its tool has it: values by column, and which of them are features."""

    values: dict[str, list[Any]]
    features: set[str] = field(default_factory=set)


# -- the text of a value, made of Python's own types, by the table in transforms/arrow/value_text.py ----------------------


def text_of(value: Any) -> str:
    """What a value's text is to be."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.datetime):
        shown = value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
        text = f"{shown.year:04d}-{shown:%m-%d %H:%M:%S}"
        if shown.microsecond:
            text += f".{shown.microsecond:06d}".rstrip("0")
        return f"{text}Z" if value.tzinfo else text.removesuffix(" 00:00:00")
    if isinstance(value, datetime.date):
        return f"{value.year:04d}-{value:%m-%d}"
    if isinstance(value, datetime.time):
        return f"{value:%H:%M:%S}" + (f".{value.microsecond:06d}".rstrip("0") if value.microsecond else "")
    if isinstance(value, datetime.timedelta):
        whole = value // datetime.timedelta(microseconds=1)
        seconds, fraction = divmod(abs(whole), 10**6)
        text = f"{'-' * (whole < 0)}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return text + (f".{fraction:06d}".rstrip("0") if fraction else "")
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0"
    if isinstance(value, float | np.floating):
        return str(int(value)) if value == int(value) and abs(value) < 2**64 else repr(float(str(value)))
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


# -- random values ---------------------------------------------------------------------------------------------------


def _numbers(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda rng: rng.choice([low, high, 0, rng.randint(low, high)])


def _double(rng: random.Random) -> float:
    return rng.choice([0.0, 1.0, -2.5, 0.1, 123456789012.0, round(rng.uniform(-1e6, 1e6), rng.randint(0, 9))])


def _single(rng: random.Random) -> np.float32:
    return np.float32(rng.choice([0.0, 1.0, 0.1, 16777217.0, rng.uniform(-100, 100)]))


def _text(rng: random.Random) -> str:
    return rng.choice(["", "null", "UA", "Zürich", 'say "x"', "a & b", "1.50", "x" * 300])


def _day(rng: random.Random) -> datetime.date:
    first, last = datetime.date(1, 1, 1), datetime.date(9999, 12, 31)
    return rng.choice([first, last, datetime.date.fromordinal(rng.randint(1, last.toordinal()))])


def _moment(rng: random.Random) -> datetime.datetime:
    clock = rng.choice(
        [datetime.time(), datetime.time(6), datetime.time(23, 59, 59, rng.randint(0, 999_999))]
    )
    return datetime.datetime.combine(_day(rng), clock)


def _recent(rng: random.Random) -> datetime.datetime:
    return _moment(rng).replace(year=rng.randint(1700, 2200), day=1)


def _instant(rng: random.Random) -> datetime.datetime:
    return _recent(rng).replace(tzinfo=datetime.UTC)


def _clock(rng: random.Random) -> datetime.time:
    return _moment(rng).time()


def _span(rng: random.Random) -> datetime.timedelta:
    return datetime.timedelta(
        rng.randint(-400, 400), rng.randint(0, 86399), rng.choice([0, 0, rng.randint(0, 999_999)])
    )


def _decimal(digits: int, scale: int) -> Callable[[random.Random], Decimal]:
    return lambda rng: Decimal(rng.randint(-(10**digits) + 1, 10**digits - 1)).scaleb(-scale)


def _uuid(rng: random.Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128))


def _pair(rng: random.Random) -> list[float]:
    return [_double(rng), _double(rng)]


def column(rng: random.Random, make: Callable[[random.Random], Any], *, nulls: bool = True) -> list[Any]:
    """Values of a column, some of them missing."""
    return [None if nulls and rng.random() < 0.2 else make(rng) for _ in range(ROWS)]


# -- the tools -------------------------------------------------------------------------------------------------------

Make = Callable[[random.Random], Any]
_ARROW: list[tuple[pa.DataType, Make]] = [
    *((getattr(pa, f"int{bits}")(), _numbers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)) for bits in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{bits}")(), _numbers(0, 2**bits - 1)) for bits in (8, 16, 32, 64)),
    (pa.float32(), _single), (pa.float64(), _double), (pa.bool_(), lambda rng: rng.random() < 0.5),
    *((kind, _text) for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))),
    *((kind, lambda rng: _text(rng).encode()) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.date32(), _day), (pa.date64(), _day), (pa.timestamp("us"), _moment), (pa.timestamp("ns"), _recent),
    (pa.timestamp("s"), lambda rng: _moment(rng).replace(microsecond=0)), (pa.timestamp("us", "UTC"), _instant),
    (pa.timestamp("ns", "Asia/Tokyo"), _instant), (pa.time64("us"), _clock), (pa.time64("ns"), _clock),
    (pa.duration("us"), _span), (pa.duration("ns"), _span), (pa.decimal128(38, 9), _decimal(30, 9)),
    (pa.decimal128(9, 2), _decimal(9, 2)), (pa.decimal256(60, 20), _decimal(27, 20)), (pa.list_(pa.float64(), 2), _pair),
    (pa.list_(pa.float64()), _pair), (pa.large_list(pa.float64()), _pair),
]  # fmt: skip


def by_arrow(rng: random.Random, path: Path) -> Written:
    """pyarrow: any of its types, versions, encodings, row groups."""
    found, arrays = {}, {"a": pa.array(A)}
    for number, (kind, make) in enumerate(rng.sample(_ARROW, 8)):
        found[f"c{number}"] = column(rng, make, nulls=make is not _pair)
        arrays[f"c{number}"] = pa.array(found[f"c{number}"], kind)
    if rng.random() < 0.3:
        keys = column(rng, _uuid)
        found["u"], arrays["u"] = (
            keys,
            pa.array([None if key is None else key.bytes for key in keys], pa.uuid()),
        )
    options: dict[str, Any] = {
        "version": rng.choice(["1.0", "2.4", "2.6"]), "data_page_version": rng.choice(["1.0", "2.0"]),
        "row_group_size": rng.choice([2, 100]), "use_dictionary": rng.random() < 0.5, "store_schema": rng.random() < 0.8,
    }  # fmt: skip
    table = pa.table(arrays)
    if options["version"] != "2.6":  # which cut nanoseconds, and say so
        kept = [name for name in table.column_names if "[ns" not in str(table[name].type)]
        table, found = table.select(kept), {name: found[name] for name in kept if name in found}
    if not options["store_schema"]:  # then nothing says that they are durations
        kept = [name for name in table.column_names if not pa.types.is_duration(table[name].type)]
        table, found = table.select(kept), {name: found[name] for name in kept if name in found}
    pq.write_table(table, path, **options)
    return Written(found)


def by_pandas(rng: random.Random, path: Path) -> Written:
    """pandas: numpy's and its own types, an index."""
    kinds: list[tuple[str, Make]] = [
        ("float64", _double), ("float32", _single), ("Int64", _numbers(-(2**63), 2**63 - 1)), ("UInt8", _numbers(0, 255)),
        ("boolean", lambda rng: rng.random() < 0.5), ("string", _text), ("category", _text), ("object", _day),
        ("object", _decimal(12, 3)), ("datetime64[ns]", _recent), ("datetime64[us]", _moment), ("datetime64[us, UTC]", _instant),
        ("timedelta64[us]", _span), ("object", _clock),
    ]  # fmt: skip
    found, series = {}, {"a": pd.Series(A)}
    for number, (kind, make) in enumerate(rng.sample(kinds, 7)):
        values = column(rng, make)
        found[f"c{number}"], series[f"c{number}"] = values, pd.Series(values, dtype=kind)
    frame = pd.DataFrame(series)
    if rng.random() < 0.5:
        found["key"] = rng.sample(range(1000), ROWS)
        frame.index = pd.Index(found["key"], name="key")
    frame.to_parquet(path)
    return Written(found)


def by_polars(rng: random.Random, path: Path) -> Written:
    """polars: its types, now and then one that Arrow has none for."""
    kinds: list[tuple[Any, Make]] = [
        (pl.Int8, _numbers(-128, 127)), (pl.Int64, _numbers(-(2**63), 2**63 - 1)), (pl.UInt64, _numbers(0, 2**64 - 1)),
        (pl.Float32, lambda rng: float(_single(rng))), (pl.Float64, _double), (pl.Boolean, lambda rng: rng.random() < 0.5),
        (pl.String, _text), (pl.Categorical, _text), (pl.Binary, lambda rng: _text(rng).encode()), (pl.Date, _day),
        (pl.Datetime("us"), _moment), (pl.Datetime("ns"), _recent), (pl.Datetime("us", "UTC"), _instant), (pl.Time, _clock),
        (pl.Duration("us"), _span), (pl.Decimal(38, 6), _decimal(30, 6)), (pl.Array(pl.Float64, 2), _pair),
        (pl.List(pl.Float64), _pair),
    ]  # fmt: skip
    found, series = {}, [pl.Series("a", A)]
    for number, (kind, make) in enumerate(rng.sample(kinds, 8)):
        name = f"c{number}"
        found[name] = column(rng, make, nulls=make is not _pair)
        series.append(pl.Series(name, found[name], dtype=kind))
        if kind == pl.Float32:
            found[name] = [None if value is None else np.float32(value) for value in found[name]]
    if rng.random() < 0.3:
        series.append(pl.Series("wide", [2**100] * ROWS, dtype=pl.Int128))
    pl.DataFrame(series).write_parquet(path, row_group_size=rng.choice([None, 3]), use_pyarrow=False)
    return Written(found)


_DUCKDB: list[tuple[str, Make]] = [
    ("tinyint", _numbers(-128, 127)), ("bigint", _numbers(-(2**63), 2**63 - 1)), ("ubigint", _numbers(0, 2**64 - 1)),
    ("double", _double), ("boolean", lambda rng: rng.random() < 0.5), ("varchar", _text), ("date", _day),
    ("blob", lambda rng: _text(rng).encode()), ("timestamp", _moment), ("timestamp_ns", _recent), ("timestamp_s",
    lambda rng: _moment(rng).replace(microsecond=0)), ("timestamptz", _instant), ("time", _clock),
    ("decimal(38, 6)", _decimal(30, 6)), ("decimal(4, 1)", _decimal(4, 1)), ("uuid", _uuid), ("double[]", _pair),
    ("double[2]", _pair),
]  # fmt: skip


def by_duckdb(rng: random.Random, path: Path) -> Written:
    """DuckDB: COPY, in either version of the format."""
    chosen = rng.sample(_DUCKDB, 8)
    found = {
        f"c{number}": column(rng, make, nulls=make is not _pair) for number, (_, make) in enumerate(chosen)
    }
    with duckdb.connect() as database:
        database.execute("set timezone='UTC'")
        database.execute(
            f"create table t (a double, {', '.join(f'c{n} {kind}' for n, (kind, _) in enumerate(chosen))})"
        )
        rows = list(zip(A, *found.values(), strict=True))
        database.executemany(f"insert into t values ({', '.join('?' * (len(chosen) + 1))})", rows)
        database.execute(f"copy t to '{path}' (format parquet, parquet_version {rng.choice(['v1', 'v2'])})")
        # As it reads them itself: it may round what it is given.
        read = database.execute(f"select * exclude a from '{path}'").fetchall()
    return Written({name: list(values) for name, values in zip(found, zip(*read, strict=True), strict=True)})


TOOLS: dict[str, Callable[[random.Random, Path], Written]] = {
    "pyarrow": by_arrow, "pandas": by_pandas, "polars": by_polars, "duckdb": by_duckdb,
}  # fmt: skip


# -- the comparison --------------------------------------------------------------------------------------------------


def differences(written: Written, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Of each column its name, and how it was read in another way; None: as its tool has it, or refused."""
    for name, values in written.values.items():
        sample = next((value for value in values if value is not None), None)
        try:
            if isinstance(sample, list | tuple):
                _, rows, _ = decoded(folder, features=[{"name": name, "shape": (2,)}])
                same = np.array_equal(rows.features[name], np.array(values))
                yield name, None if same else f"{rows.features[name].tolist()} for {values}"
                continue
            yield name, _scalars(name, values, folder)
        except UserError as error:
            REFUSED[str(error).partition(": ")[2].replace(name, "…")] += 1
            yield name, None


def _scalars(name: str, values: list[Any], folder: Path) -> str | None:
    _, rows, slices = decoded(folder, slices=[name])
    wanted = [None if value is None else text_of(value) for value in values]
    shown = [f"{name}=null" if text is None else f"{name}={text}" for text in wanted]
    quoted = [
        f'{name}="{text}"' if text == "null" else line for text, line in zip(wanted, shown, strict=True)
    ]
    if slices[name] != quoted:
        return f"slices {slices[name]} for {quoted}"
    sample = next((value for value in values if value is not None), None)
    if not isinstance(sample, bool | int | float | np.floating | Decimal) or None in values:
        return None
    _, rows, _ = decoded(folder, features=[name], id=name)
    found = rows.features[name]
    exact = [int(v) if isinstance(v, bool | int) else float(v) for v in values]
    if [found[at].item() for at in range(len(values))] != exact:
        return f"features {found.tolist()} for {exact}"
    return None if rows.ids.tolist() == wanted else f"ids {rows.ids.tolist()} for {wanted}"


def run(seed: int, tool: str) -> tuple[int, list[str]]:
    """Writes and reads a table: columns compared, and what differs."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        written = TOOLS[tool](rng, Path(place) / "x.parquet")
        found = list(differences(written, Path(place)))
    return len(found), [f"{tool} {seed} {name}: {what}" for name, what in found if what is not None]


def main() -> None:
    """Tables by the tools in turn until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tool", choices=TOOLS)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    tools, end = [asked.tool] if asked.tool else list(TOOLS), time.monotonic() + asked.seconds
    columns, tables, seed, wrong = 0, 0, asked.seed, 0
    while time.monotonic() < end:
        for tool in tools:
            count, told = run(seed, tool)
            columns, tables, wrong = columns + count, tables + 1, wrong + len(told)
            for line in told:
                print(line[:600])
        seed += 1
    print(f"{tables} tables, {columns} columns, {wrong} read in another way")
    for line, count in REFUSED.most_common():
        print(f"refused {count:,} x: {line[:200]}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
