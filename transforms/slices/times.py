"""Parsing of days, times and durations in conditions, written as in the tables or as in ISO 8601."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

_DAY = r"(?P<day>-?\d{4,7}-\d{2}-\d{2})"
_CLOCK = r"(?P<hours>{hours}):(?P<minutes>[0-5]\d)(:(?P<seconds>[0-5]\d)(\.(?P<fraction>\d{{1,9}}))?)?"
_ZONE = r"\s?(?P<zone>Z|[+-]\d{2}(:?\d{2})?)"
_TIME = re.compile(rf"{_DAY}([ T]{_CLOCK.format(hours=r'[01]?[0-9]|2[0-3]')}({_ZONE})?)?")
_OF_DAY = re.compile(_CLOCK.format(hours=r"[01]?\d|2[0-3]"))
_DURATION = re.compile(r"(?P<sign>-?)" + _CLOCK.format(hours=r"\d+"))
_UNITS_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def time_constant(text: str, dtype: pa.DataType) -> pa.Scalar:
    """Parses a text that a condition compares with a column of days, times or durations.

    A time without a zone is in the column's zone, if the column has a zone. A value outside the range of the
    type becomes the nearest end of the range.

    Args:
      text: The text in the condition.
      dtype: The column's type.
    Returns:
      The value, of type `dtype`.
    Raises:
      ValueError: The text is not a value of the column's kind, or has more digits than the column's unit.
    """
    if pt.is_date64(dtype):
        return time_constant(text, pa.date32()).cast(dtype)
    most = 2**31 - 1 if pt.is_date(dtype) or dtype.bit_width == 32 else 2**63 - 1
    storage = pa.int32() if most < 2**31 else pa.int64()
    if text in ("infinity", "-infinity") and not pt.is_time(dtype):
        return pa.scalar(most if text == "infinity" else -most, storage).cast(dtype)
    pattern = _DURATION if pt.is_duration(dtype) else _OF_DAY if pt.is_time(dtype) else _TIME
    match = pattern.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a {dtype}")
    parts = match.groupdict()
    if pt.is_date(dtype):
        if parts["hours"] is not None:
            raise ValueError(f"{text!r} is finer than a day")
        whole = _days(parts["day"])
    else:
        whole = _clock(parts, dtype.unit)
        if pt.is_timestamp(dtype):
            whole += _days(parts["day"]) * 86_400 * _UNITS_A_SECOND[dtype.unit]
            return _in_zone(whole, parts["zone"], dtype, most)
        if parts.get("sign"):
            whole = -whole
    return pa.scalar(max(-most, min(most, whole)), storage).cast(dtype)


def _days(text: str) -> int:
    # numpy accepts any year, and rejects 2013-02-30.
    return int(np.datetime64(text, "D").astype(np.int64))


def _clock(parts: dict[str, str | None], unit: str) -> int:
    seconds = int(parts["hours"] or 0) * 3600 + int(parts["minutes"] or 0) * 60 + int(parts["seconds"] or 0)
    fraction = int((parts["fraction"] or "0").ljust(9, "0"))
    finest = 10**9 // _UNITS_A_SECOND[unit]
    if fraction % finest:
        raise ValueError(f"finer than {unit}")
    return seconds * _UNITS_A_SECOND[unit] + fraction // finest


def _in_zone(whole: int, zone: str | None, dtype: pa.DataType, most: int) -> pa.Scalar:
    if zone is not None and dtype.tz is None:
        raise ValueError("a zone, but the column has none")
    if zone is not None and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        away = (int(digits[:2]) * 60 + int(digits[2:])) * 60 * _UNITS_A_SECOND[dtype.unit]
        whole += -away if zone[0] == "+" else away
    inside = -most < whole < most
    utc = pa.scalar(max(-most, min(most, whole)), pa.int64())
    if dtype.tz is None or zone is not None or not inside:
        return utc.cast(dtype)
    local = utc.cast(pa.timestamp(dtype.unit))
    return pc.assume_timezone(local, dtype.tz, ambiguous="earliest", nonexistent="earliest")
