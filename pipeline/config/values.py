"""Checks of config values beyond their types."""

from __future__ import annotations

import datetime
import math
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from transforms.errors import UserError

Scalar = bool | int | float | str
#: Largest number of values of a feature in a row; more could not be indexed in a batch.
_MOST_VALUES = 2**31 - 1


def _without_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("holds a NUL, which no path can")
    return path


def _of_a_row(shape: list[int]) -> list[int]:
    if math.prod(shape) > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES:,} values a row")
    return shape


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text


#: The label of a feature.
Label = Annotated[str, Field(max_length=500), AfterValidator(_not_blank)]
#: A path; it must not be empty, which would mean the folder from which relative paths start.
Path = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
Shape = Annotated[list[Annotated[int, Field(ge=1, le=_MOST_VALUES)]], AfterValidator(_of_a_row)]


def day_of(date: str | None) -> str:
    """The date that replaces `{date}`, today by default.

    Raises:
      UserError: The text is not a date.
    """
    if date is None:
        return datetime.date.today().isoformat()
    try:
        # Python accepts other forms as well, but paths need this one.
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date, re.ASCII):
            raise ValueError
        datetime.date.fromisoformat(date)
    except ValueError as error:
        raise UserError(f"{date!r} is not a date", "--date", "write YYYY-MM-DD") from error
    return date
