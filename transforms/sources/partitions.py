"""Columns in paths: folders called `name=value`, as Hive, Spark, DuckDB and polars write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from transforms.sources.base import Partition

if TYPE_CHECKING:
    from transforms.sources.base import InputFile

#: The folder name that stands for null.
NULL = "__HIVE_DEFAULT_PARTITION__"

_WHOLE = re.compile(r"0|-?[1-9]\d{0,18}")
_PADDED = re.compile(r"-?\d{1,18}")
_OTHER_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(_DAY.pattern + r"([ T]\d{2}:\d{2}:\d{2}(\.\d{1,6})?)?")


def partition_of(name: str) -> Partition:
    """The columns and values in a file's folder names; of a repeated column the innermost counts."""
    values: dict[str, str | None] = {}
    for part in name.split("/")[:-1]:
        key, sign, value = part.partition("=")
        if sign and key:
            values[unquote(key)] = None if value == NULL else unquote(value)
    return tuple(values.items())


def partition_types(inputs: Sequence[InputFile], *, padded_are_text: bool = True) -> dict[str, pa.DataType]:
    """The columns in the files' paths, each with the type that fits all its values.

    The types are whole numbers, days, times, other numbers, booleans, or else text. A value that would read
    differently when written back from a number stays text: 01234 is a postal code, and version 1.10 differs
    from 1.1.

    Args:
      inputs: All files.
      padded_are_text: Whether `01` is text; otherwise it is the number 1.
    """
    values: dict[str, set[str]] = {}
    for partition in {file.partition for file in inputs}:
        for key, value in partition:
            values.setdefault(key, set()).update(() if value is None else (value,))
    return {key: _type_of(texts, padded_are_text) for key, texts in values.items()}


def _type_of(texts: set[str], padded_are_text: bool) -> pa.DataType:
    if not texts:
        return pa.null()
    if _all(_WHOLE if padded_are_text else _PADDED, texts):
        kind = pa.int64()
    elif texts <= {"true", "false"}:
        kind = pa.bool_()
    elif _all(_DAY, texts):
        kind = pa.date32()
    elif _all(_TIME, texts):
        kind = pa.timestamp("us")
    elif _all(_OTHER_NUMBER, texts) and _are_written_alike(texts):
        kind = pa.float64()
    else:
        return pa.string()
    try:
        distinct = len(_cast(sorted(texts), kind).unique()) == len(texts)
    except pa.ArrowInvalid:  # 2026-02-30, or a number beyond the type
        return pa.string()
    # Two differently named folders must stay two values.
    return kind if distinct or not padded_are_text else pa.string()


def _all(pattern: re.Pattern[str], texts: Iterable[str]) -> bool:
    return all(map(pattern.fullmatch, texts))


def _are_written_alike(texts: Iterable[str]) -> bool:
    """True for numbers in their shortest form, or all with equally many decimal places, as decimals have."""
    digits = {text: len(text.partition(".")[2]) for text in texts}
    return len(set(digits.values())) == 1 or all(
        count < 2 or "e" in text.lower() or Decimal(text).normalize().as_tuple().exponent == -count
        for text, count in digits.items()
    )


def column_of(text: str | None, kind: pa.DataType, rows: int) -> pa.Array:
    """A column of a file's path: one value repeated in `rows` rows."""
    value = pa.scalar(None, kind) if text is None else _cast([text], kind)[0]
    return pa.repeat(value, rows)


def _cast(texts: list[str], kind: pa.DataType) -> pa.Array:
    return pa.array(texts, pa.string()).cast(kind)
