"""Days, times and durations as conditions have them: as the tables show them, or as ISO 8601 does."""

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


def time_constant(text: str, kind: pa.DataType) -> pa.Scalar:
    """What a text means beside a column of days, times or durations.

    A time without a zone beside a column with one is in the column's. What lies beyond the type's range is
    its end.

    Args:
      text: As it is written.
      kind: The column's type.
    Raises:
      ValueError: The text is none of its kind, or finer than the column.
    """
    if pt.is_date64(kind):
        return time_constant(text, pa.date32()).cast(kind)
    most = 2**31 - 1 if pt.is_date(kind) or kind.bit_width == 32 else 2**63 - 1
    storage = pa.int32() if most < 2**31 else pa.int64()
    if text in ("infinity", "-infinity") and not pt.is_time(kind):
        return pa.scalar(most if text == "infinity" else -most, storage).cast(kind)
    pattern = _DURATION if pt.is_duration(kind) else _OF_DAY if pt.is_time(kind) else _TIME
    found = pattern.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no {kind}")
    parts = found.groupdict()
    if pt.is_date(kind):
        if parts["hours"] is not None:
            raise ValueError(f"{text!r} is finer than a day")
        whole = _days(parts["day"])
    else:
        whole = _clock(parts, kind.unit)
        if pt.is_timestamp(kind):
            whole += _days(parts["day"]) * 86_400 * _UNITS_A_SECOND[kind.unit]
            return _in_zone(whole, parts["zone"], kind, most)
        if parts.get("sign"):
            whole = -whole
    return pa.scalar(max(-most, min(most, whole)), storage).cast(kind)


def _days(text: str) -> int:
    # numpy knows any year, and says of 2013-02-30 that it is none.
    return int(np.datetime64(text, "D").astype(np.int64))


def _clock(parts: dict[str, str | None], unit: str) -> int:
    seconds = int(parts["hours"] or 0) * 3600 + int(parts["minutes"] or 0) * 60 + int(parts["seconds"] or 0)
    fraction = int((parts["fraction"] or "0").ljust(9, "0"))
    finest = 10**9 // _UNITS_A_SECOND[unit]
    if fraction % finest:
        raise ValueError(f"finer than {unit}")
    return seconds * _UNITS_A_SECOND[unit] + fraction // finest


def _in_zone(whole: int, zone: str | None, kind: pa.DataType, most: int) -> pa.Scalar:
    if zone is not None and kind.tz is None:
        raise ValueError("a zone, and the column has none")
    if zone is not None and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        away = (int(digits[:2]) * 60 + int(digits[2:])) * 60 * _UNITS_A_SECOND[kind.unit]
        whole += -away if zone[0] == "+" else away
    inside = -most < whole < most
    found = pa.scalar(max(-most, min(most, whole)), pa.int64())
    if kind.tz is None or zone is not None or not inside:
        return found.cast(kind)
    local = found.cast(pa.timestamp(kind.unit))
    return pc.assume_timezone(local, kind.tz, ambiguous="earliest", nonexistent="earliest")
