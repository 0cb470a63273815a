"""Categories that a model was trained on: from what a file holds to their codes, and back."""

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

#: A category as a model's file has it.
Category = str | int | float | bool
#: Categories that an error shows.
_SHOWN = 8
#: From here on a float64 may stand for several whole numbers.
_EXACT = 1 << 53
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Categories:
    """The categories of a feature in the model's order: the one at k has the code k.

    Args:
      values: All strings, or all numbers (true and false among them), no two equal.
      reject: Whether a value that is none of them rejects its row; else it is missing.
    """

    values: tuple[Category, ...]
    reject: bool

    @property
    def strings(self) -> bool:
        """Whether they are strings."""
        return bool(self.values) and isinstance(self.values[0], str)

    @property
    def type(self) -> pa.DataType:
        """The Arrow type of a column that holds them."""
        return self._known.type

    @cached_property
    def _known(self) -> pa.Array:
        if any(isinstance(value, float) for value in self.values):
            return pa.array(self.values, pa.float64())
        beyond = any(not isinstance(value, str) and value > _LARGEST for value in self.values)
        return pa.array(self.values, pa.uint64()) if beyond else pa.array(self.values)

    @cached_property
    def _sought(self) -> pa.Array:
        """The categories as they are looked for: strings as bytes, numbers as the widest of their kind."""
        kind = self._known.type
        if self.strings:
            return self._known.cast(pa.binary())
        return self._known if pt.is_floating(kind) or pt.is_integer(kind) else self._known.cast(pa.int64())

    @cached_property
    def _floats(self) -> pa.Array:
        """The numbers as floats; null where these are not exact, so that nothing equals them."""
        exact = [float(value) if abs(value) <= _EXACT else None for value in self._sought.to_pylist()]
        return self._sought if pt.is_floating(self._sought.type) else pa.array(exact, pa.float64())

    def misfit(self, kind: pa.DataType) -> str | None:
        """Says in words why a column of the type holds none of them; None where it may."""
        held = storage(kind)
        text = bool(pt.is_string(held) or pt.is_binary(held))
        if pt.is_null(held) or (text if self.strings else is_number(held)):
            if pt.is_boolean(held) and not set(self.values) <= {0, 1}:
                return "numbers"
            return None
        return "strings" if self.strings else "numbers"

    def code(self, value: object) -> int | None:
        """The code of a value; None where it is not a category."""
        if isinstance(value, str) != self.strings:
            return None
        return next((code for code, known in enumerate(self.values) if known == value), None)

    def codes(self, array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The codes of a column's values.

        Args:
          array: `[B]`, of a type that fits, dictionaries included.
        Returns:
          Codes `[B]` float64, NaN for null, NaN and unknown values; and which values are unknown, `[B]` bool.
        """
        if pt.is_dictionary(array.type):
            of_words, strange_words = self.codes(array.dictionary)
            places = array.indices
            at = pc.fill_null(places, 0).to_numpy(zero_copy_only=False).astype(np.int64)
            null = places.is_null().to_numpy(zero_copy_only=False)
            if not len(of_words):
                return np.full(len(array), np.nan), np.zeros(len(array), bool)
            return np.where(null, np.nan, of_words[at]), strange_words[at] & ~null
        place_of = self._places(array)
        codes = pc.cast(place_of, pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
        missing = array.is_null().to_numpy(zero_copy_only=False)
        if pt.is_floating(array.type):
            missing = missing | np.isnan(array.to_numpy(zero_copy_only=False).astype(np.float64))
        return codes, np.isnan(codes) & ~missing

    def _places(self, array: pa.Array) -> pa.Array:
        """Finds the place of each value among the categories, `[B]` int32; null for other values."""
        kind, sought = array.type, self._sought
        if pt.is_null(kind) or not len(sought):
            return pa.nulls(len(array), pa.int32())
        if self.strings:
            return pc.index_in(array.cast(pa.binary()), sought)
        if pt.is_boolean(kind) or pt.is_decimal(kind):
            array = array.cast(pa.int64()) if pt.is_boolean(kind) else floats_of_decimals(array)
            kind = array.type
        if pt.is_floating(kind):
            return pc.index_in(array.cast(pa.float64()), self._floats, skip_nulls=True)
        if pt.is_floating(sought.type):
            return pc.index_in(array.cast(pa.float64(), safe=False), sought)
        # Of two widths the values that both hold can be equal.
        if pt.is_uint64(kind) != pt.is_uint64(sought.type):
            return pc.index_in(array.cast(pa.decimal128(20)), sought.cast(pa.decimal128(20)))
        return pc.index_in(array.cast(sought.type if pt.is_uint64(kind) else pa.int64()), sought)

    def of_codes(self, codes: np.ndarray) -> pa.Array:
        """Returns the categories that codes stand for, `[B]`; null for NaN."""
        known = ~np.isnan(codes)
        return self._known.take(pa.array(np.where(known, codes, 0).astype(np.int64), mask=~known))

    def words(self) -> str:
        """The first of them, for errors."""
        shown = ", ".join(map(str, self.values[:_SHOWN]))
        more = len(self.values) - _SHOWN
        return shown if more <= 0 else f"{shown} and {more:,} more"

    def to_json(self) -> dict[str, Any]:
        """For a manifest."""
        return {"values": list(self.values), "reject": self.reject}

    @classmethod
    def from_json(cls, found: dict[str, Any] | None) -> Categories | None:
        """Undoes `to_json`; None of None."""
        return None if found is None else cls(tuple(found["values"]), bool(found["reject"]))


class CategoryPlaces(Protocol):
    """Categories among the values of a model's vector."""

    def at(self, texts: Sequence[bool]) -> Mapping[int, Categories]:
        """The categories by place in the vector.

        Args:
          texts: Of each place, whether the input's column holds strings: some models' files do not say it.
        Raises:
          UserError: It is not known.
        """


@dataclass(frozen=True)
class Placed:
    """Categories of a model whose file says where they are.

    Args:
      places: Ascending places in the vector, with their categories.
    """

    places: tuple[tuple[int, Categories], ...]

    def at(self, texts: Sequence[bool]) -> Mapping[int, Categories]:
        """See `CategoryPlaces.at`."""
        return dict(self.places)


def known_as_one_kind(values: Sequence[object]) -> tuple[Category, ...] | None:
    """The values, where all are strings or all are numbers; None where they are not."""
    if all(isinstance(value, str) for value in values):
        return tuple(str(value) for value in values)
    if len({isinstance(value, bool) for value in values}) == 1:
        numbers = tuple(value for value in values if isinstance(value, bool | int | float))
        return numbers if len(numbers) == len(values) else None
    return None


#: What a column holds that names the outcome of a yes or no.
NO_OR_YES = Categories((0, 1), reject=True)
