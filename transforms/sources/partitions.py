"""Columns of the path: folders called `name=value`, as Hive, Spark, DuckDB and polars write them."""

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

#: What the folder of a null is called.
NULL = "__HIVE_DEFAULT_PARTITION__"

_WHOLE = re.compile(r"0|-?[1-9]\d{0,18}")
_PADDED = re.compile(r"-?\d{1,18}")
_OTHER_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(_DAY.pattern + r"([ T]\d{2}:\d{2}:\d{2}(\.\d{1,6})?)?")


def partition_of(name: str) -> Partition:
    """The values that the folders of a file's name say, by column; the innermost where one is there twice."""
    found: dict[str, str | None] = {}
    for part in name.split("/")[:-1]:
        key, sign, value = part.partition("=")
        if sign and key:
            found[unquote(key)] = None if value == NULL else unquote(value)
    return tuple(found.items())


def partition_types(inputs: Sequence[InputFile], *, padded_are_text: bool = True) -> dict[str, pa.DataType]:
    """The columns of the files' paths, each with the type in which its writer meant all its values.

    Whole numbers, days, times, other numbers, truths, or else text. What would be another text as a number is
    text: 01234 is a postal code, and 1.10 another version than 1.1.

    Args:
      inputs: All files.
      padded_are_text: Whether `01` is; else it is 1.
    """
    values: dict[str, set[str]] = {}
    for partition in {file.partition for file in inputs}:
        for key, value in partition:
            values.setdefault(key, set()).update(() if value is None else (value,))
    return {key: _type_of(found, padded_are_text) for key, found in values.items()}


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
    # Two folders of one writer are two values.
    return kind if distinct or not padded_are_text else pa.string()


def _all(pattern: re.Pattern[str], texts: Iterable[str]) -> bool:
    return all(map(pattern.fullmatch, texts))


def _are_written_alike(texts: Iterable[str]) -> bool:
    """Whether numbers have as few digits as they can, or all as many behind the point, as decimals have."""
    digits = {text: len(text.partition(".")[2]) for text in texts}
    return len(set(digits.values())) == 1 or all(
        count < 2 or "e" in text.lower() or Decimal(text).normalize().as_tuple().exponent == -count
        for text, count in digits.items()
    )


def column_of(text: str | None, kind: pa.DataType, rows: int) -> pa.Array:
    """A column of a file's path: the same value in so many rows."""
    value = pa.scalar(None, kind) if text is None else _cast([text], kind)[0]
    return pa.repeat(value, rows)


def _cast(texts: list[str], kind: pa.DataType) -> pa.Array:
    return pa.array(texts, pa.string()).cast(kind)
