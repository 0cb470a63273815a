# ruff: noqa: E501 - tables
"""Columns that files hold in other types, or not at all, as pandas, polars, DuckDB and Spark write them."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.planning.input_notes import input_notes
from tests.support import file_worlds
from tests.support.file_worlds import decoded, numbers
from transforms.errors import UserError
from transforms.sources import globs
from transforms.sources.inspection import inspect_files
from transforms.sources.parquet.stored_schema import lost_types

SPARK = Path(__file__).parents[1] / "data" / "spark"
T, DAY = datetime.datetime(2026, 11, 30, 12), datetime.datetime(2026, 11, 30)


def write(folder: Path, *tables: dict[str, Any]) -> None:
    for number, columns in enumerate(tables):
        rows = max(len(column) for column in columns.values())
        base = {} if "a" in columns else {"a": [float(number)] * rows}
        pq.write_table(pa.table({**base, **columns}), folder / f"{number}.parquet")


#: One value in several files, and the slice and the id that all rows have.
ONE: list[tuple[list[pa.Array], str]] = [
    ([pa.array([Decimal("1.5")], pa.decimal128(4, 1)), pa.array([Decimal("1.50")], pa.decimal128(9, 2))], "1.5"),
    ([pa.array([1.5]), pa.array([Decimal("1.50")])], "1.5"),
    ([pa.array([7]), pa.array([7.0])], "7"),
    ([pa.array([0.1], pa.float32()), pa.array([0.1])], "0.1"),
    ([pa.array([T], pa.timestamp(unit)) for unit in ("us", "ns", "s", "ms")], "2026-11-30 12:00:00"),
    ([pa.array([T], pa.timestamp("ns", "UTC")), pa.array([T], pa.timestamp("us", "Asia/Tokyo"))], "2026-11-30 12:00:00Z"),
    ([pa.array([T.date()]), pa.array([T.date()], pa.date64()), pa.array([DAY], pa.timestamp("ns"))], "2026-11-30"),
    ([pa.array([T.time()], pa.time32("s")), pa.array([T.time()], pa.time64("ns"))], "12:00:00"),
    ([pa.array([datetime.timedelta(1)], pa.duration("ms")), pa.array([datetime.timedelta(1)])], "24:00:00"),
    ([pa.array([uuid.UUID(int=5).bytes], pa.uuid()), pa.array([str(uuid.UUID(int=5))])], str(uuid.UUID(int=5))),
    ([pa.array([1], pa.int8()).cast(pa.bool8()), pa.array([True])], "true"),
    ([pa.array(["x"], pa.large_string()), pa.array(["x"]).dictionary_encode(), pa.array([b"x"], pa.binary(1))], "x"),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "text"), ONE, ids=[f"{text} {arrays[0].type}" for arrays, text in ONE])
def test_a_value_is_one_slice_and_one_id_over_files(
    tmp_path: Path, arrays: list[pa.Array], text: str
) -> None:
    for order in (arrays, arrays[::-1]):
        write(tmp_path, *({"v": array} for array in order))
        _, rows, slices = decoded(tmp_path, id="v", slices=["v"])
        assert rows.ids.tolist() == [text] * len(arrays)
        assert slices["v"] == [f"v={text}"] * len(arrays)


def test_times_with_a_zone_and_without_are_not_taken_for_one_another(tmp_path: Path) -> None:
    write(tmp_path, {"t": pa.array([T], pa.timestamp("us"))}, {"t": pa.array([T], pa.timestamp("us", "UTC"))})
    with pytest.raises(
        UserError, match=r"1\.parquet: column t is timestamp\[us, tz=UTC\], but timestamp\[us\]"
    ):
        decoded(tmp_path, slices=["t"])


# -- Spark, DuckDB -------------------------------------------------------------------------------------------


def test_times_of_96_bits_are_what_spark_wrote(tmp_path: Path) -> None:
    """Their values are in write.py."""
    wanted = ["9999-12-31", "1600-01-01", "0001-01-01", "2026-11-30 10:20:30.5", "2026-11-30 10:20:30.5"]
    far = 'ts > "2100-01-01"'
    asked = ["ts", "day", "price", "local", "bytes", far, 'ts in ["0001-01-01", "1600-01-01"]']
    _, rows, slices = decoded(SPARK / "times", id="ts", slices=asked, batch_size=2)
    assert rows.ids.tolist() == wanted
    assert slices["ts"] == [f"ts={text}" for text in wanted]
    assert slices[far] == [far, None, None, None, None]
    assert [text is None for text in slices[asked[-1]]] == [True, False, False, True, True]
    assert slices["day"] == ["day=9999-12-31", "day=0001-01-01", *["day=2026-11-30"] * 3]
    assert slices["price"] == [f"price={number}.5" for number in range(5)]
    assert set(slices["local"]) == {"local=2026-11-30 10:20:30"}
    assert set(slices["bytes"]) == {r"bytes=\x00\xff"}
    with pytest.raises(UserError, match=r"column span holds Spark's interval day to second.*cast it"):
        decoded(SPARK / "times", slices=["span"])


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_times_of_96_bits_have_the_digits_that_they_were_written_with(tmp_path: Path, unit: str) -> None:
    """Of Arrow's files, that say it, nanoseconds; and microseconds of every year."""
    last = 1 if unit == "ns" else 253370764800 * 10**6
    times = pa.array([0, last], pa.int64()).cast(pa.timestamp(unit))
    pq.write_table(
        pa.table({"a": [1.0, 2.0], "t": times}), tmp_path / "x.parquet", use_deprecated_int96_timestamps=True
    )
    _, rows, _ = decoded(tmp_path, id="t")
    assert rows.ids[1] == {"ns": "1970-01-01 00:00:00.000000001", "us": "9999-01-01"}[unit]


def test_what_duckdb_writes_far_away_has_a_name(tmp_path: Path) -> None:
    times = "('infinity'), ('-infinity'), ('0044-03-15 (BC) 01:00:00'), ('290000-01-01'), (null)"
    duckdb.sql(
        f"copy (select uuid() u, 1.0::double a, t::timestamp t, t::date d, interval 3 month iv from (values {times}) v(t))"
        f" to '{tmp_path}/x.parquet'"
    )  # fmt: skip
    _, rows, slices = decoded(tmp_path, id="u", slices=["t", "d"])
    assert rows.ids.tolist() == [
        str(u) for (u,) in duckdb.sql(f"select u from '{tmp_path}/x.parquet'").fetchall()
    ]
    shown = ["infinity", "-infinity", "-0043-03-15", "290000-01-01", "null"]
    assert slices["d"] == [f"d={text}" for text in shown]
    assert slices["t"] == [f"t={text}" for text in (*shown[:2], "-0043-03-15 01:00:00", *shown[3:])]
    with pytest.raises(UserError, match="column iv holds intervals of months, days and milliseconds"):
        decoded(tmp_path, slices=["iv"])


def test_a_run_over_times_that_python_has_not_is_shown_and_told(tmp_path: Path) -> None:
    """From planning to the report: nothing on the way makes Python's days of them."""
    times = pa.array([2**63 - 1, 1 - 2**63, -(10**17)], pa.int64()).cast(pa.timestamp("us"))
    keys = [uuid.UUID(int=number) for number in range(3)]
    table = pa.table(
        {"a": [1.0, 2.0, 3.0], "t": times, "u": pa.array([key.bytes for key in keys], pa.uuid())}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    run = file_worlds.explained(
        tmp_path, "x.parquet", features=["a"], id="u", slices=["t", 't > "2100-01-01"']
    )
    assert set(run.importance()["slice"]) == {
        "",
        "t=infinity",
        "t=-infinity",
        "t=-1199-02-15 14:13:20",
        't > "2100-01-01"',
    }
    found = run.example(str(keys[1]))
    assert (found.rows[0]["t"], found.rows[0]["attribution"]) == ("-infinity", {"a": 2.0})


# -- what some files lack ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["the first lacks it", "the second lacks it"])
def test_what_a_file_lacks_is_filled_where_there_is_a_fill(tmp_path: Path, first: bool) -> None:
    with_it = {"a": [1.0, 2.0], "b": [5, 6], "s": ["x", "y"], "v": [[1.0, 2.0], [3.0, 4.0]], "g": ["p", "q"]}
    without = {"a": [3.0, 4.0]}
    write(tmp_path, *((without, with_it) if first else (with_it, without)))
    features = [
        "a",
        {"name": "b", "fill": -1},
        {"name": "s", "fill": "?"},
        {"name": "v", "fill": 0, "shape": (2,)},
    ]
    schema, rows, slices = decoded(tmp_path, features=features, slices=["g", "isnull(g)"])
    order = np.argsort(rows.features["a"])
    assert rows.features["b"][order].tolist() == [5, 6, -1, -1]
    assert rows.features["s"][order].tolist() == [b"x", b"y", b"?", b"?"]
    assert rows.features["v"][order].tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]
    assert [slices["g"][at] for at in order] == ["g=p", "g=q", "g=null", "g=null"]
    assert [slices["isnull(g)"][at] for at in order] == [None, None, "isnull(g)", "isnull(g)"]
    inputs = inspect_files(globs.expand(["."], str(tmp_path)))
    (_, _, note) = input_notes(inputs, schema, listed=True)
    assert note == (
        f"input.features: 1 of 2 files have no v (the first is {0 if first else 1}.parquet): it is filled with 0 there"
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"features": ["a", "b"]}, r"input\.features asks for it; write it.* fill: \{name: b, fill: 0\}"),
        ({"id": "b"}, r"input\.id asks for it; write it, or take the file out of input\.files$"),
    ],
)
def test_what_a_file_lacks_without_a_fill_is_told(tmp_path: Path, parts: dict[str, Any], said: str) -> None:
    write(tmp_path, {"a": [1.0], "b": [5]}, {"a": [3.0]})
    with pytest.raises(
        UserError, match=r"^1\.parquet: there is no column b, although other files have it; " + said
    ):
        decoded(tmp_path, **parts)


# -- types that are not what they seem -----------------------------------------------------------------------


def test_a_column_that_nobody_asks_for_may_be_of_any_type(tmp_path: Path) -> None:
    """Those of polars that Arrow has no type for; the others are read as polars reads them."""
    frame = pl.DataFrame({"a": [1.5, 2.5], "t": [T, T], "c": ["x", "y"], "l": [[1, 2], [3, 4]]}).with_columns(
        wide=pl.Series([2**100, 1], dtype=pl.Int128),
        wider=pl.Series([2**100, 1], dtype=pl.UInt128),
        span=pl.Series([datetime.timedelta(1)] * 2),
        half=pl.Series([0.5, 1.5], dtype=pl.Float16),
        kind=pl.Series(["p", "q"], dtype=pl.Enum(["p", "q"])),
        free=pl.Series(["p", "q"], dtype=pl.Categorical),
        pair=pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)),
        price=pl.Series([Decimal("1.50"), Decimal("2.25")], dtype=pl.Decimal(38, 2)),
        nested=pl.Series([{"x": 1}, {"x": 2}]),
    )
    frame.write_parquet(tmp_path / "x.parquet")
    features = ["a", "half", {"name": "pair", "shape": (2,)}, {"name": "l", "shape": (2,)}, "nested.x"]
    _, rows, slices = decoded(tmp_path, features=features, slices=["t", "c", "kind", "free", "price"])
    assert (numbers(rows, "a"), numbers(rows, "half"), numbers(rows, "nested.x")) == (
        [1.5, 2.5],
        [0.5, 1.5],
        [1, 2],
    )
    assert rows.features["pair"].tolist() == rows.features["l"].tolist() == [[1, 2], [3, 4]]
    assert [slices[name] for name in ("t", "c")] == [["t=2026-11-30 12:00:00"] * 2, ["c=x", "c=y"]]
    assert [slices[name] for name in ("kind", "free")] == [["kind=p", "kind=q"], ["free=p", "free=q"]]
    assert slices["price"] == ["price=1.5", "price=2.25"]
    for name, holds in (
        ("wide", "whole numbers of 128 bits"),
        ("wider", "whole numbers of 128 bits"),
        ("span", r"durations \(a file without wide with its whole numbers of 128 bits could be read\)"),
    ):
        with pytest.raises(UserError, match=rf"column {name} holds {holds}.*cast it"):
            decoded(tmp_path, slices=[name])
    frame.drop("wide", "wider").write_parquet(tmp_path / "x.parquet")
    assert decoded(tmp_path, slices=["span"])[2]["span"] == ["span=24:00:00"] * 2


@pytest.mark.parametrize("data", [b"", b"abcd", b"/////w==", b"/////wAAAAD/////////fwAAAAA=", b"////" * 40])
def test_a_stored_schema_that_is_none_is_no_more_than_that(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"stored schema|base64|padding|characters"):
        lost_types(data)


def test_periods_of_pandas_are_named_and_not_taken_for_their_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a": [1.0], "p": pd.period_range("2026-01", periods=1, freq="M"), "i": pd.interval_range(0, 1)}
    )
    frame.to_parquet(tmp_path / "x.parquet")
    assert numbers(decoded(tmp_path)[1], "a") == [1]
    for parts in ({"slices": ["p"]}, {"features": ["a", "p"]}, {"id": "p"}):
        with pytest.raises(
            UserError, match="column p holds pandas periods, which are stored as plain numbers"
        ):
            decoded(tmp_path, **parts)


# -- names ---------------------------------------------------------------------------------------------------


def test_the_index_of_a_frame_is_no_feature_unless_it_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    indices = {
        "__index_level_0__": frame.set_axis([7, 9]),
        "customer": frame.set_axis(pd.Index([7, 9], name="customer")),
        None: frame,
    }
    for name, indexed in indices.items():
        indexed.to_parquet(tmp_path / "x.parquet")
        schema, _rows, _ = decoded(tmp_path, features=None)
        assert [feature.name for feature in schema.features] == ["a", "b"]
        inputs = inspect_files(globs.expand(["."], str(tmp_path)))
        notes = input_notes(inputs, schema, listed=False)
        assert [name in note for note in notes] == ([] if name is None else [True])
        if name is not None:
            assert decoded(tmp_path, id=name)[1].ids.tolist() == ["7", "9"]
            assert numbers(decoded(tmp_path, features=["a", name])[1], name) == [7, 9]


def test_names_of_any_characters_and_of_either_case(tmp_path: Path) -> None:
    names = ["Temp (°C)", "temp (°c)", "a.b", "`q`", "x,y;{}=\t\n", "ünï"]
    write(tmp_path, {name: [float(at)] for at, name in enumerate(names)})
    _, rows, _ = decoded(tmp_path, features=names)
    assert [numbers(rows, name) for name in names] == [[at] for at in range(len(names))]
    pq.write_table(pa.Table.from_arrays([pa.array([1.0])] * 2, ["a", "a"]), tmp_path / "0.parquet")
    with pytest.raises(
        UserError, match=r"0\.parquet: has several columns called a; rename or drop all but one"
    ):
        decoded(tmp_path)


# -- files that hold a column otherwise than the first one ---------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_a_slice_of_which_one_file_has_no_value(tmp_path: Path, first: bool) -> None:
    """pandas writes the type null where all of a column's values are missing."""
    tables = [{"s": pa.nulls(2)}, {"s": pa.array([3, None])}]
    write(tmp_path, *(tables if first else tables[::-1]))
    _, _, slices = decoded(tmp_path, slices=["s", "s > 2"])
    assert sorted(map(str, slices["s"])) == ["s=3", "s=null", "s=null", "s=null"]
    assert [text for text in slices["s > 2"] if text is not None] == ["s > 2"]


def test_halves_are_compared_by_the_texts_of_their_slices(tmp_path: Path) -> None:
    halves = pa.array(np.array([0.1, 0.2, 1000.5, np.nan], np.float16), mask=np.array([0, 0, 0, 1], bool))
    write(tmp_path, {"h": halves})
    asked = ["h", "h == 0.1", "h < 0.1", "h in [0.2, 1000.5]"]
    _, _, slices = decoded(tmp_path, slices=asked)
    assert slices["h"] == ["h=0.1", "h=0.2", "h=1000.5", "h=null"]
    held = {name: [text is not None for text in slices[name]] for name in asked[1:]}
    assert held == {
        "h == 0.1": [True, False, False, False],
        "h < 0.1": [False] * 4,
        "h in [0.2, 1000.5]": [False, True, True, False],
    }


@pytest.mark.parametrize("first", [True, False])
def test_a_function_is_given_numbers_that_hold_those_of_all_files(tmp_path: Path, first: bool) -> None:
    tables = [{"b": pa.array([1, 2])}, {"b": pa.array([1.5, 2.5])}]
    write(tmp_path, *(tables if first else tables[::-1]))
    run = file_worlds.explained(tmp_path, "*.parquet", features=[{"name": "b"}])
    assert run.manifest["counts"]["rows_rejected"] == 0
    assert sorted(run.attributions()["prediction"].to_pylist()) == [1.0, 1.5, 2.0, 2.5]


def test_a_column_of_files_and_of_their_folders_is_told(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"m={number}"
        folder.mkdir()
        write(folder, {"m": pa.array([7, 8])})
    schema, rows, _ = decoded(tmp_path, features=["a", "m"])
    assert sorted(rows.features["m"].tolist()) == [7, 7, 8, 8]
    inputs = inspect_files(globs.expand(["."], str(tmp_path)), hive=True)
    (note,) = input_notes(inputs, schema, listed=True)
    assert note.startswith("input.files: m is a column of the files and also in their folders' names")
