"""Categories that a model was trained on, and the conversion of input values to their codes and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.types import floats_of_decimals, is_number, storage

#: A category as stored in a model's file.
Category = str | int | float | bool
#: Maximum number of categories listed in an error.
_SHOWN = 8
#: The largest magnitude up to which float64 represents every whole number exactly.
_EXACT = 1 << 53
#: The largest int64.
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Categories:
    """The categories of a feature in the model's order: the category at position k has the code k.

    Args:
      values: The categories, without duplicates: all strings, or all numbers or booleans.
      reject: Whether a row with an unknown value is rejected; otherwise the value counts as missing.
    """

    values: tuple[Category, ...]
    reject: bool

    @property
    def strings(self) -> bool:
        """True if the categories are strings."""
        return bool(self.values) and isinstance(self.values[0], str)

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of a column that holds these categories."""
        return self._known.type

    @cached_property
    def _known(self) -> pa.Array:
        if any(isinstance(value, float) for value in self.values):
            return pa.array(self.values, pa.float64())
        beyond = any(not isinstance(value, str) and value > _LARGEST for value in self.values)
        return pa.array(self.values, pa.uint64()) if beyond else pa.array(self.values)

    @cached_property
    def _sought(self) -> pa.Array:
        """The categories in the type used for lookups: strings as bytes, booleans as int64."""
        dtype = self._known.type
        if self.strings:
            return self._known.cast(pa.binary())
        return self._known if pt.is_floating(dtype) or pt.is_integer(dtype) else self._known.cast(pa.int64())

    @cached_property
    def _floats(self) -> pa.Array:
        """The categories as float64; null, which no value equals, for numbers beyond the exact range."""
        exact = [float(value) if abs(value) <= _EXACT else None for value in self._sought.to_pylist()]
        return self._sought if pt.is_floating(self._sought.type) else pa.array(exact, pa.float64())

    def misfit(self, dtype: pa.DataType) -> str | None:
        """The kind of values needed, "strings" or "numbers"; None if a column of this type can hold them."""
        held = storage(dtype)
        text = bool(pt.is_string(held) or pt.is_binary(held))
        if pt.is_null(held) or (text if self.strings else is_number(held)):
            if pt.is_boolean(held) and not set(self.values) <= {0, 1}:
                return "numbers"
            return None
        return "strings" if self.strings else "numbers"

    def code(self, value: object) -> int | None:
        """The code of a value; None if the value is not a category."""
        if isinstance(value, str) != self.strings:
            return None
        return next((code for code, known in enumerate(self.values) if known == value), None)

    def codes(self, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The codes of a column's values.

        Args:
          array: The column, `[B]`, plain or dictionary-encoded, of a type for which `misfit` returns None.
        Returns:
          Codes, `[B]` float64, with NaN for missing and unknown values; and a mask of the unknown values,
          `[B]` bool.
        """
        if pt.is_dictionary(array.type):
            word_codes, unknown_words = self.codes(array.dictionary)
            places = array.indices
            filled = pc.fill_null(places, 0).to_numpy(zero_copy_only=False).astype(np.int64)
            null = places.is_null().to_numpy(zero_copy_only=False)
            if not len(word_codes):
                return np.full(len(array), np.nan), np.zeros(len(array), bool)
            return np.where(null, np.nan, word_codes[filled]), unknown_words[filled] & ~null
        positions = self._places(array)
        codes = pc.cast(positions, pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
        missing = array.is_null().to_numpy(zero_copy_only=False)
        if pt.is_floating(array.type):
            missing = missing | np.isnan(array.to_numpy(zero_copy_only=False).astype(np.float64))
        return codes, np.isnan(codes) & ~missing

    def _places(self, array: pa.Array) -> pa.Array:
        """The position of each value among the categories, `[B]` int32; null for unknown values."""
        dtype, sought = array.type, self._sought
        if pt.is_null(dtype) or not len(sought):
            return pa.nulls(len(array), pa.int32())
        if self.strings:
            return pc.index_in(array.cast(pa.binary()), sought)
        if pt.is_boolean(dtype) or pt.is_decimal(dtype):
            array = array.cast(pa.int64()) if pt.is_boolean(dtype) else floats_of_decimals(array)
            dtype = array.type
        if pt.is_floating(dtype):
            return pc.index_in(array.cast(pa.float64()), self._floats, skip_nulls=True)
        if pt.is_floating(sought.type):
            return pc.index_in(array.cast(pa.float64(), safe=False), sought)
        # int64 and uint64 have no common integer type, so both are compared as decimals.
        if pt.is_uint64(dtype) != pt.is_uint64(sought.type):
            return pc.index_in(array.cast(pa.decimal128(20)), sought.cast(pa.decimal128(20)))
        return pc.index_in(array.cast(sought.type if pt.is_uint64(dtype) else pa.int64()), sought)

    def of_codes(self, codes: np.ndarray) -> pa.Array:
        """The category of each code, `[B]`; null where the code is NaN."""
        known = ~np.isnan(codes)
        return self._known.take(pa.array(np.where(known, codes, 0).astype(np.int64), mask=~known))

    def words(self) -> str:
        """The first few categories as text, for errors."""
        shown = ", ".join(map(str, self.values[:_SHOWN]))
        more = len(self.values) - _SHOWN
        return shown if more <= 0 else f"{shown} and {more:,} more"

    def to_json(self) -> dict[str, Any]:
        """The categories as a JSON object, for a manifest."""
        return {"values": list(self.values), "reject": self.reject}

    @classmethod
    def from_json(cls, stored: dict[str, Any] | None) -> Categories | None:
        """Restores the categories from the result of `to_json`; returns None for None."""
        return None if stored is None else cls(tuple(stored["values"]), bool(stored["reject"]))


class CategoryPlaces(Protocol):
    """The places in a model's input vector that hold categories."""

    def at(self, texts: Sequence[bool]) -> Mapping[int, Categories]:
        """The categories by place in the vector.

        Args:
          texts: For each place, whether the input's column holds strings; needed for models that do not state
            where their categories are.
        Raises:
          UserError: The places cannot be determined.
        """


@dataclass(frozen=True)
class Placed:
    """Categories at places that the model's file states.

    Args:
      places: Places in the input vector, ascending, each with its categories.
    """

    places: tuple[tuple[int, Categories], ...]

    def at(self, texts: Sequence[bool]) -> Mapping[int, Categories]:
        """See `CategoryPlaces.at`."""
        return dict(self.places)


def known_as_one_kind(values: Sequence[object]) -> tuple[Category, ...] | None:
    """The values, if all are strings, all are booleans or all are numbers other than booleans; else None."""
    if all(isinstance(value, str) for value in values):
        return tuple(str(value) for value in values)
    if len({isinstance(value, bool) for value in values}) == 1:
        numbers = tuple(value for value in values if isinstance(value, bool | int | float))
        return numbers if len(numbers) == len(values) else None
    return None


#: The categories of a column that holds a yes-or-no outcome.
NO_OR_YES = Categories((0, 1), reject=True)
