# ruff: noqa: E501 - a table
"""A value has one text, whatever type, unit or file it comes in; conditions take it for what they mean."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.arrow.types import common_type, floats_of_decimals
from transforms.arrow.value_text import as_text, widened
from transforms.errors import UserError
from transforms.slices.slicings import labels, resolve_slicings
from transforms.sources.parquet.columns import compatible, plain, plain_array

NOON = datetime.datetime(2026, 11, 30, 12, 0, 0, 500_000)
UNITS = ("s", "ms", "us", "ns")
DAY = 24 * 3600


def texts(array: pa.Array) -> list[str | None]:
    found: list[str | None] = as_text(array).to_pylist()
    return found


def counted(values: list[int | None], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)


#: A value, and the arrays that hold it.
SAME: list[tuple[str, list[pa.Array]]] = [
    ("7", [
        *(pa.array([7], pa.int8()).cast(kind) for kind in (pa.uint8(), pa.int64(), pa.uint64())),
        *(pa.array([7.0], pa.float32()).cast(kind) for kind in (pa.float16(), pa.float64())),
        *(pa.array([Decimal(7)], kind) for kind in (pa.decimal32(5, 2), pa.decimal128(38, 18), pa.decimal256(60, 1))),
    ]),
    ("1.5", [
        *(pa.array([1.5], pa.float32()).cast(kind) for kind in (pa.float16(), pa.float32(), pa.float64())),
        *(pa.array([Decimal("1.5")], pa.decimal128(9, scale)) for scale in (1, 2, 6)),
    ]),
    ("0.1", [
        pa.array([0.1], pa.float32()), pa.array([0.1], pa.float64()), pa.array(np.array([0.1], np.float16)),
        pa.array([Decimal("0.1")], pa.decimal64(9, 3)),
    ]),
    ("1e-7", [pa.array([1e-7]), pa.array([1e-7], pa.float32()), pa.array([Decimal("1E-7")], pa.decimal128(20, 9))]),
    ("1.25e-9", [pa.array([1.25e-9]), pa.array([Decimal("1.25E-9")], pa.decimal128(20, 15))]),
    ("-300", [pa.array([-300.0]), pa.array([Decimal(-300)], pa.decimal128(9, -2)), pa.array([-300])]),
    ("0", [pa.array([-0.0]), pa.array([0], pa.uint8()), pa.array([Decimal(0)], pa.decimal128(20, 12))]),
    (str(2**53 + 2), [pa.array([2.0**53 + 2]), pa.array([2**53 + 2]), pa.array([Decimal(2**53 + 2)], pa.decimal128(20, 3))]),
    ("123456792", [pa.array([123456792.0], pa.float32()), pa.array([123456792], pa.int32())]),
    (str(2**63), [pa.array([2.0**63]), pa.array([2**63], pa.uint64())]),
    ("100000000000000.5", [pa.array([1e14 + 0.5]), pa.array([Decimal("100000000000000.5")])]),
    ("nan", [pa.array([np.nan]), pa.array([np.nan], pa.float32())]),
    ("-inf", [pa.array([-np.inf]), pa.array([-np.inf], pa.float32())]),
    ("true", [pa.array([True]), pa.array([1], pa.int8()).cast(pa.bool8())]),
    ("größe", [
        pa.array(["größe"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())
    ] + [pa.array(["größe"]).dictionary_encode(), pa.array(["größe".encode()]), pa.array(["größe".encode()], pa.binary(7))]),
    (r"\x00\xff", [pa.array([b"\0\xff"]), pa.array([b"\0\xff"], pa.binary(2)), pa.array([b"\0\xff"], pa.binary_view())]),
    ("123e4567-e89b-12d3-a456-426614174000", [
        pa.array([uuid.UUID("123e4567-e89b-12d3-a456-426614174000").bytes], pa.uuid()),
        pa.array(["123e4567-e89b-12d3-a456-426614174000"]),
    ]),
    ("2026-11-30", [
        pa.array([NOON.date()]), pa.array([NOON.date()], pa.date64()),
        *(pa.array([datetime.datetime(2026, 11, 30)], pa.timestamp(unit)) for unit in UNITS),
    ]),
    ("2026-11-30 12:00:00.5", [pa.array([NOON], pa.timestamp(unit)) for unit in UNITS[1:]]),
    ("2026-11-30 12:00:00.5Z", [
        pa.array([NOON], pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
        for unit in UNITS[1:] for zone in ("UTC", "America/New_York", "+05:30")
    ]),
    ("9999-12-31", [counted([253402214400 * 10**step], pa.timestamp(unit)) for step, unit in zip((0, 3, 6), UNITS, strict=False)]),
    ("-0043-03-15", [
        counted([-735160], pa.date32()), *(counted([-735160 * DAY * 10**step], pa.timestamp(unit)) for step, unit in zip((0, 3, 6), UNITS, strict=False)),
    ]),
    ("200000-01-01 00:00:01", [
        counted([6249223180801 * 10**step], pa.timestamp(unit)) for step, unit in zip((0, 3, 6), UNITS, strict=False)
    ]),
    ("infinity", [counted([2**31 - 1], pa.date32()), *(counted([2**63 - 1], pa.timestamp(unit, zone)) for unit in UNITS for zone in (None, "UTC"))]),
    ("-infinity", [counted([1 - 2**31], pa.date32()), *(counted([1 - 2**63], pa.timestamp(unit)) for unit in UNITS)]),
    ("06:00:00.5", [counted([21600500 * 10**step], kind) for step, kind in ((0, pa.time32("ms")), (3, pa.time64("us")), (6, pa.time64("ns")))]),
    ("-36:00:01.5", [counted([-129601500 * 10**step], pa.duration(unit)) for step, unit in ((0, "ms"), (3, "us"), (6, "ns"))]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "arrays"), SAME, ids=[text for text, _ in SAME])
def test_a_value_has_one_text_in_every_type(text: str, arrays: list[pa.Array]) -> None:
    for array in arrays:
        with_null = pa.concat_arrays([array, pa.nulls(1, array.type), array])
        held = plain_array(with_null, plain(with_null.type))
        assert texts(held) == [text, None, text], array.type
        assert texts(held.slice(1)) == [None, text], array.type
        assert texts(held.slice(0, 0)) == []


#: Whatever numpy calls a time is what its text says, in years that Arrow's calendar has and beyond.
@settings(max_examples=200, deadline=None)
@given(st.integers(2 - 2**63, 2**63 - 2), st.sampled_from(UNITS))
def test_times_are_what_numpy_says(count: int, unit: str) -> None:
    day, _, clock = str(np.datetime64(count, unit)).partition("T")
    clock, _, fraction = clock.partition(".")
    sign, year, rest = ("-", *day[1:].split("-", 1)) if day[0] == "-" else ("", *day.split("-", 1))
    expected = f"{sign}{int(year):04d}-{rest}"
    if fraction.strip("0"):
        expected += f" {clock}.{fraction.rstrip('0')}"
    elif clock != "00:00:00":
        expected += f" {clock}"
    assert texts(counted([count], pa.timestamp(unit))) == [expected]


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_floating_number_is_read_back(value: float) -> None:
    (text,) = texts(pa.array([value]))
    assert float(str(text)) == value
    with np.errstate(over="ignore"):
        single = np.float32(value)
    (text,) = texts(pa.array([single], pa.float32()))
    assert np.float32(str(text)) == single
    # What is widened has its text still.
    assert texts(widened(pa.array([single], pa.float32()), pa.float64())) == [text]


@settings(max_examples=100, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=12))
def test_a_decimal_is_read_back_in_any_scale(value: Decimal) -> None:
    found = {texts(pa.array([value], pa.decimal128(38, scale)))[0] for scale in (12, 13, 17)}
    assert len(found) == 1
    assert Decimal(str(found.pop())) == value


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("ms")),
        (pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "UTC")),
        (pa.date32(), pa.timestamp("s"), pa.timestamp("s")),
        (pa.timestamp("ns"), pa.date32(), pa.timestamp("us")),
        (pa.time32("ms"), pa.time64("ns"), pa.time64("ns")),
        (pa.duration("ns"), pa.duration("s"), pa.duration("us")),
    ],
)
def test_times_of_several_units_have_a_type_together(one: Any, other: Any, common: Any) -> None:
    assert compatible(one, other)
    assert common_type(one, other) == common_type(other, one) == common
    assert not compatible(one, pa.int64())


def test_a_time_with_a_zone_is_none_without() -> None:
    assert not compatible(pa.timestamp("us"), pa.timestamp("us", "UTC"))
    assert not compatible(pa.date32(), pa.timestamp("us", "UTC"))


TIMES = counted(
    [2**63 - 1, 1 - 2**63, 253370764800 * 10**6, -735160 * DAY * 10**6, 0, None], pa.timestamp("us")
)
COLUMNS = {
    "t": TIMES,
    "z": TIMES.cast(pa.timestamp("us", "America/New_York")),
    "n": counted([0, 10**9, None, 2**63 - 1, 1, 5 * 3600 * 10**9], pa.timestamp("ns")),
    "d": counted([2**31 - 1, 1 - 2**31, 2932532, -735160, 0, None], pa.date32()),
    "clock": counted([0, 3600, 7200, None, 21600, 86399], pa.time32("s")),
    "span": counted([0, -1500, 129_600_000, None, 1, 2], pa.duration("ms")),
}


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("t > '2100-01-01'", [0, 2]),
        ("t >= 'infinity'", [0]),
        ("t < '-0040-01-01'", [1, 3]),
        ("t == '-0043-03-15'", [3]),
        ("t in ['-infinity', '1970-01-01 00:00']", [1, 4]),
        ("t > '20000-01-01'", [0]),
        ("z == '1970-01-01Z'", []),  # a day has no zone
        ("z == '1970-01-01 00:00Z'", [4]),
        ("z == '1970-01-01 02:00:00+02:00'", [4]),
        ("z < '1970-01-01'", [1, 3, 4]),  # in New York it is the day before
        ("z == '1969-12-31 19:00'", [4]),
        ("n > '9999-12-31'", []),
        ("n < '9999-12-31'", [0, 1, 4, 5]),
        ("n == '1970-01-01T00:00:00.000000001'", [4]),
        ("d > '9000-01-01'", [0, 2]),
        ("d not in ['infinity', '1970-01-01']", [1, 2, 3]),
        ("clock > '01:59:59'", [2, 4, 5]),
        ("span < '00:00:00' or span >= '36:00:00'", [1, 2]),
        ("span == '-00:00:01.5'", [1]),
    ],
)
def test_conditions_about_times_far_away(condition: str, rows: list[int]) -> None:
    types = {name: array.type for name, array in COLUMNS.items()}
    if condition == "z == '1970-01-01Z'":
        with pytest.raises(UserError, match="which is not one"):
            resolve_slicings([condition], types)
        return
    (found,) = labels(resolve_slicings([condition], types), COLUMNS).values()
    assert pc.indices_nonzero(found.is_valid()).to_pylist() == rows


@pytest.mark.parametrize(
    "condition",
    [
        "t > '2013-02-30'",
        "t > '2013-06-01Z'",
        "t > '2013-06-01 06:00Z'",
        "clock > '24:00:00'",
        "clock > '06:00:00.5'",
        "clock > 'infinity'",
        "span > '2013-06-01'",
        "d > '2013-06-01 06:00'",
        "t > '99999999999999999999999-01-01'",
    ],
)
def test_what_is_no_time_of_the_columns_kind_is_told(condition: str) -> None:
    with pytest.raises(UserError, match=r"which is not one; write days like"):
        resolve_slicings([condition], {name: array.type for name, array in COLUMNS.items()})


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-(10**30), 10**30) | st.integers(-(10**9), 10**9),
    st.integers(0, 37),
    st.sampled_from([pa.decimal128, pa.decimal256]),
)
def test_a_decimal_is_the_nearest_floating_number(whole: int, scale: int, kind: Any) -> None:
    """As Python, Java and DuckDB have it: Arrow's cast makes 481.40000000000003 of 481.4."""
    value = Decimal(whole).scaleb(-scale)
    held = pa.array([value, None, value], kind(38, scale))
    assert floats_of_decimals(held).to_pylist() == [float(value), None, float(value)]
    assert floats_of_decimals(held.slice(2)).to_pylist() == [float(value)]
