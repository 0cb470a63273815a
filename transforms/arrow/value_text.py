r"""The text of a value in ids, slices, conditions and reports, equal for all files, types and units.

| value | text |
|---|---|
| whole number, of any type | its digits: `7` for 7, 7.0 and 7.00; floats from 2⁶⁴ on are `1e+20` |
| other number | the shortest that its own type reads back, without zeros at the end: `0.1`, `1.5`, `1e-7` |
| −0; NaN; infinite | `0`; `nan`; `inf`, `-inf` |
| true, false (also arrow.bool8) | `true`, `false` |
| text, of any width, view or dictionary | itself |
| bytes | the text that they are in UTF-8; any other byte, and control characters, as `\xff` |
| UUID | `123e4567-e89b-12d3-a456-426614174000` |
| day | `2013-06-01`; `-0043-03-15` is 44 BC, `12000-01-01` is as written |
| time without a zone | `2013-06-01 06:00:00.5`, as many digits as it has; at midnight it is its day |
| time with a zone | the same instant in UTC: `2013-06-01 04:00:00Z` |
| largest day or time of its type, and its opposite | `infinity`, `-infinity`, which DuckDB writes so |
| time of day | `06:00:00.5` |
| duration | hours, minutes, seconds: `36:00:00`, `-00:00:01.5` |

Null stays null. Types without a text (lists, intervals of months) are refused when a run is planned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.types import without_zone
from transforms.arrow.values import plain

#: Whole numbers below this are written in digits, whatever their type.
_DIGITS = 2.0**64
#: The range of Arrow's calendar, up to the year 32767 on either side of year 0, in days.
_CALENDAR_DAYS = 11_000_000
_UNITS_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
#: Trailing zeros of a fraction, and the point if no digit is left after it.
_ZEROS = r"\.?0+$"
#: A context that keeps every digit of the longest decimal.
_EXACT = Context(prec=100)
_CONTROL = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f]"


def as_text(array: pa.Array) -> pa.Array:
    """Any column of scalars as strings, by the module's table; null stays null.

    Args:
      array: `[B]`.
    Cost: Arrow on whole columns; Python only for bytes that are not UTF-8 and decimals below 1e-6.
    """
    array = plain(array)
    dtype = array.type
    if pt.is_string(dtype) or pt.is_binary(dtype):
        return _text(array)
    if pt.is_floating(dtype):
        return _floating(array)
    if pt.is_decimal(dtype):
        return _decimal(array)
    if pt.is_timestamp(dtype):
        return _times(array)
    if pt.is_date(dtype):
        return _far(array.cast(pa.date32(), safe=False), lambda days: pc.cast(days, pa.string()))
    if pt.is_time(dtype):
        return (
            _without_zeros(pc.cast(array, pa.string())) if _has_fraction(dtype) else array.cast(pa.string())
        )
    if pt.is_duration(dtype):
        return _durations(array)
    return pc.cast(array, pa.string())


def widened(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Floats in a wider type with the same text: 0.1 stays 0.1, and does not become 0.10000000149011612."""
    return as_text(array).cast(wanted)


# -- text and numbers ----------------------------------------------------------------------------------------


def _text(array: pa.Array) -> pa.Array:
    try:
        decoded = array.cast(pa.string())
        # Arrow does not check that a file's strings are UTF-8.
        decoded.validate(full=True)
    except pa.ArrowInvalid:
        values = array.cast(pa.binary()).to_pylist()
        texts = [None if value is None else value.decode("utf-8", "backslashreplace") for value in values]
        decoded = pa.array(texts, pa.string())
    if pt.is_binary(array.type):
        return _mended(decoded, pc.match_substring_regex(decoded, _CONTROL), _escaped)
    return decoded


def _escaped(text: str) -> str:
    return re.sub(_CONTROL, lambda match: f"\\x{ord(match[0]):02x}", text)


def _floating(array: pa.Array) -> pa.Array:
    # From these sizes on Arrow rounds whole numbers, or writes them with a power of ten.
    first = {16: 2.0**11, 32: 2.0**24, 64: 1e10}[array.type.bit_width]
    exact = array.cast(pa.float64())
    if pt.is_float16(array.type):  # Arrow would write the exact value, not the shortest text
        shortest = array.to_numpy(zero_copy_only=False).astype(np.float16).astype(str).astype(np.float64)
        array = pa.array(shortest, mask=array.is_null().to_numpy(zero_copy_only=False))
    texts = pc.cast(pc.add(array, pa.scalar(0, array.type)), pa.string())  # −0 + 0 is 0
    size = pc.abs(exact)
    stray = pc.fill_null(pc.and_(pc.greater_equal(size, first), pc.less(size, _DIGITS)), False)
    if not pc.any(stray, min_count=0).as_py():
        return texts
    whole = pc.and_(stray, pc.and_(pc.less(size, 2.0**63), pc.equal(exact, pc.floor(exact))))
    digits = pc.cast(pc.cast(exact.filter(whole), pa.int64()), pa.string())
    return _mended(pc.replace_with_mask(texts, whole, digits), pc.and_not(stray, whole), _in_digits, exact)


def _in_digits(value: float) -> str:
    return str(int(value)) if value == int(value) else _plain_decimal(Decimal(repr(value)))


def _decimal(array: pa.Array) -> pa.Array:
    texts = pc.cast(array, pa.string())
    if array.type.scale > 0:
        plain_ones = pc.and_not(pc.match_substring(texts, "."), pc.match_substring(texts, "E"))
        texts = pc.if_else(plain_ones, _without_zeros(texts), texts)
    return _mended(texts, pc.match_substring(texts, "E"), lambda text: _plain_decimal(Decimal(text)))


def _plain_decimal(value: Decimal) -> str:
    """A decimal written like a float, but with all its digits."""
    value = value.normalize(_EXACT)
    if not value:
        return "0"
    if value.adjusted() >= -6:
        return f"{value:f}"
    sign, digits, _ = value.as_tuple()
    head, tail = str(digits[0]), "".join(map(str, digits[1:]))
    return f"{'-' * sign}{head}{'.' + tail if tail else ''}e{value.adjusted()}"


def _mended(
    texts: pa.Array, stray: pa.Array, mend: Callable[[Any], str], source: pa.Array | None = None
) -> pa.Array:
    """The texts, with those that the mask picks replaced, one by one, by `mend` of the source's values."""
    mask = pc.fill_null(stray, False)
    if not pc.any(mask, min_count=0).as_py():
        return texts
    picked = (texts if source is None else source).filter(mask)
    mended = pa.array([mend(value) for value in picked.to_pylist()], pa.string())
    return pc.replace_with_mask(texts, mask, mended)


# -- times ---------------------------------------------------------------------------------------------------


def _times(array: pa.Array) -> pa.Array:
    dtype = array.type
    plain_times = without_zone(array)

    def text_of(times: pa.Array) -> pa.Array:
        texts = pc.cast(times, pa.string())
        return _without_zeros(texts) if _has_fraction(dtype) else texts

    texts = _far(plain_times, text_of)
    if dtype.tz is None:
        return pc.replace_substring_regex(texts, " 00:00:00$", "")
    finite = pc.match_substring(texts, ":")
    return pc.if_else(finite, pc.binary_join_element_wise(texts, "Z", ""), texts)


def _has_fraction(dtype: pa.DataType) -> bool:
    return str(dtype.unit) != "s"


def _without_zeros(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, _ZEROS, "")


def _far(array: pa.Array, write: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Texts of days or times; numpy writes those beyond Arrow's calendar, and infinity has a name."""
    dtype = array.type
    unit = "D" if pt.is_date(dtype) else dtype.unit
    whole = array.view(pa.int32() if unit == "D" else pa.int64()).cast(pa.int64())
    infinity = 2**31 - 1 if unit == "D" else 2**63 - 1
    # Beyond its calendar Arrow writes only that a value is out of range.
    most = min(infinity - 1, _CALENDAR_DAYS * (1 if unit == "D" else 86_400 * _UNITS_A_SECOND[unit]))
    far = pc.fill_null(pc.or_(pc.greater(whole, most), pc.less(whole, -most)), False)
    texts = write(array)
    if not pc.any(far, min_count=0).as_py():
        return texts
    numbers = whole.filter(far).to_numpy()
    far_texts = np.char.replace(np.datetime_as_string(numbers.astype(f"M8[{unit}]")).astype(str), "T", " ")
    mended = pa.array(far_texts.tolist(), pa.string())
    if unit not in ("D", "s"):
        mended = _without_zeros(mended)
    mended = pc.if_else(pa.array(numbers == infinity), "infinity", mended)
    mended = pc.if_else(pa.array(numbers == -infinity), "-infinity", mended)
    return pc.replace_with_mask(texts, far, mended)


def _durations(array: pa.Array) -> pa.Array:
    per_second = _UNITS_A_SECOND[array.type.unit]
    missing = array.is_null().to_numpy(zero_copy_only=False)
    whole = array.view(pa.int64()).fill_null(0).to_numpy()
    # The smallest int64 has no positive counterpart, hence the unsigned numbers.
    size = np.where(whole < 0, (-(whole + 1)).astype(np.uint64) + np.uint64(1), whole.astype(np.uint64))
    seconds, fraction = np.divmod(size, np.uint64(per_second))
    minutes, seconds = np.divmod(seconds, np.uint64(60))
    hours, minutes = np.divmod(minutes, np.uint64(60))
    parts: Sequence[np.ndarray] = hours, minutes, seconds
    texts = [pc.utf8_lpad(pa.array(part).cast(pa.string()), 2, "0") for part in parts]
    joined = pc.binary_join_element_wise(*texts, ":")
    digits = len(str(per_second)) - 1
    if digits:
        after = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), digits, "0")
        joined = _without_zeros(pc.binary_join_element_wise(joined, after, "."))
    joined = pc.binary_join_element_wise(pc.if_else(pa.array(whole < 0), "-", ""), joined, "")
    return pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), joined)
