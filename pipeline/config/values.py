"""What the values of a config may be, where a type does not say it."""

from __future__ import annotations

import datetime
import math
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from transforms.errors import UserError

Scalar = bool | int | float | str
#: Values of a feature in a row: a batch of two rows of these has more bytes than there are addresses for.
_MOST_VALUES = 2**31 - 1


def _without_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("holds a NUL, which no path can")
    return path


def _of_a_row(shape: list[int]) -> list[int]:
    if math.prod(shape) > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES:,} values a row")
    return shape


def _in_words(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text


#: What a feature is called for readers.
Label = Annotated[str, Field(max_length=500), AfterValidator(_in_words)]
#: An empty path would be the folder that relative ones start from.
Path = Annotated[str, Field(min_length=1), AfterValidator(_without_nul)]
Shape = Annotated[list[Annotated[int, Field(ge=1, le=_MOST_VALUES)]], AfterValidator(_of_a_row)]


def day_of(date: str | None) -> str:
    """What `{date}` is filled with: a day, today by default.

    Raises:
      UserError: It is no day.
    """
    if date is None:
        return datetime.date.today().isoformat()
    try:
        # Python reads other forms too, and the path is to hold this one.
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date, re.ASCII):
            raise ValueError
        datetime.date.fromisoformat(date)
    except ValueError as error:
        raise UserError(f"{date!r} is not a date", "--date", "write YYYY-MM-DD") from error
    return date
