"""What a row is: features with a kind, a type and a shape, and their places in the model's inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.models.categories import Categories
from transforms.models.players import HELD, Players, value_names
from transforms.sources.base import Column

if TYPE_CHECKING:
    from transforms.slices.slicings import Slicing

Fill = float | int | str | bool | None


def misfit(value: object, dtype: str) -> str | None:
    """What a feature of this type takes, in words, where the value is no such thing; None where it fits."""
    if dtype == "string":
        return None if isinstance(value, str) else "a string"
    kind = np.dtype(dtype).kind
    if kind == "b":
        return None if isinstance(value, (bool, int, float)) and value in (0, 1) else "true or false"
    number = None if isinstance(value, (bool, str)) or not isinstance(value, (int, float)) else value
    if kind in "iu":
        limits = np.iinfo(dtype)
        fits = number is not None and number % 1 == 0 and limits.min <= number <= limits.max
        return None if fits else f"a whole number from {limits.min} to {limits.max}"
    return None if number is not None and abs(number) <= float(np.finfo(dtype).max) else "a finite number"


#: Of a string, with the object about it.
_STRING_BYTES = 64


def _itemsize(dtype: str) -> int:
    return _STRING_BYTES if dtype == "string" else np.dtype(dtype).itemsize


@dataclass(frozen=True)
class FeatureSpec:
    """A column that is attributed to.

    Args:
      name: Of the column and of the attribution.
      kind: numeric | categorical | image.
      dtype: What the model takes: a numpy name such as "float32" or "int64", or "string".
      shape: Of its value in a row, `()` for a scalar.
      stored: Type of the column in the input.
      fill: What a null or non-finite value becomes; None: the row is rejected.
      input: The model input that it goes to.
      start: Its first value in that input, flattened.
      fixed: Held at the row's value by masking methods, and attributed nothing.
      nan: Whether a null or NaN is a value to the model: NaN, of strings None.
      encoding: Of a tensor in bytes: the dtype of raw values, or that each says itself what it is; None: the
        column holds the values, or pictures.
      pad: What stands behind the end of a list that is shorter than the shape; None: lists are of one length.
      open: Of what is padded: whether the model takes any length.
      steps: Of what is padded, in rows of one length: how many of the first axis are there, the others being
        padding.
      categories: What the column's values are looked up in, where the model takes their codes.
      missing: A number, or a code, that is missing to the model, and becomes NaN.
      kept: Whether the config itself says that missing values are kept: then a file may lack the column.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    stored: pa.DataType
    fill: Fill
    input: str
    start: int
    fixed: bool = False
    nan: bool = False
    categories: Categories | None = None
    encoding: str | None = None
    missing: float | None = None
    pad: Fill = None
    open: bool = False
    steps: int | None = None
    kept: bool = False

    @property
    def pad_value(self) -> Any:
        """The padding as the model takes it."""
        return str(self.pad).encode() if self.dtype == "string" else self.pad

    @cached_property
    def there(self) -> int:
        """Values of a row that are no padding, as far as `steps` says."""
        return self.size if self.steps is None else self.steps * (self.size // self.shape[0])

    def known(self, values: np.ndarray) -> np.ndarray:
        """The values in the model's dtype with NaN where they are missing to it; changed in place."""
        if self.missing is not None:
            values[values == np.dtype(self.dtype).type(self.missing)] = np.nan
        return values

    @cached_property
    def size(self) -> int:
        """Values in a row."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class ExampleSchema:
    """The columns of a run and the model inputs that they fill.

    Args:
      features: In the order of the report and, for a model of one vector input, of that vector.
      inputs: Shape of each model input, without the batch.
      groups: Attributed as one feature: members by group name.
      id: The column of ids with its type; None: "<file>:<row>".
      slices: Columns that the slicings need, with their types.
      target: The column that holds the index of the output to explain, with its type.
      weight: The column of what each row counts in the importance, with its type; None: all the same.
      slicings: What the importance is broken down by.
      classes: What the target column's values are looked up in; None: they are indices.
      from_path: Columns that are not in the files but in the names of their folders. Of these one may be read
        as text, for ids and slices, and be a number to the others.
    """

    features: tuple[FeatureSpec, ...]
    inputs: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, tuple[str, ...]]
    id: tuple[str, pa.DataType] | None = None
    slices: tuple[tuple[str, pa.DataType], ...] = ()
    target: tuple[str, pa.DataType] | None = None
    weight: tuple[str, pa.DataType] | None = None
    slicings: tuple[Slicing, ...] = ()
    classes: Categories | None = None
    from_path: tuple[str, ...] = ()

    @property
    def columns(self) -> list[tuple[str, pa.DataType]]:
        """Every column to read, once, with its stored type."""
        found = {feature.name: feature.stored for feature in self.features}
        for extra in (self.id, *self.slices, self.target, self.weight):
            if extra is not None:
                found.setdefault(*extra)
        # A text of a folder's name is a number where one is needed; the number is not its text.
        found.update(
            e for e in (self.id, *self.slices) if e and e[0] in self.from_path and pt.is_string(e[1])
        )
        return list(found.items())

    @property
    def keys(self) -> dict[str, str]:
        """The key of the config that makes a column needed in every file, by column.

        Features that have a `fill` or whose missing values are kept, and slices, are not among them: there a
        file may lack the column.
        """
        parts = {"input.id": self.id, "model.target": self.target, "input.weight": self.weight}
        found = {part[0]: key for key, part in parts.items() if part is not None}
        needed = [f.name for f in self.features if f.fill is None and not f.kept]
        return {**dict.fromkeys(needed, "input.features"), **found}

    @cached_property
    def row_bytes(self) -> int:
        """Memory that the features of a row take as the model takes them; a guess where they are strings."""
        size = sum(feature.size * _itemsize(feature.dtype) for feature in self.features)
        return max(1, size)

    @cached_property
    def attributed(self) -> tuple[str, ...]:
        """Names in the tables: features, a group in the place of its first member; none that is fixed."""
        grouped, free = self._grouped, [feature.name for feature in self.features if not feature.fixed]
        return tuple(dict.fromkeys(grouped.get(name, name) for name in free))

    def attributed_as(self, name: str) -> str:
        """The group of a feature, or itself."""
        return self._grouped.get(name, name)

    @property
    def held(self) -> frozenset[str]:
        """Model inputs all of whose values stay what they are in the row."""
        return frozenset(self.inputs) - {feature.input for feature in self.features if not feature.fixed}

    def holding(self, inputs: Collection[str]) -> ExampleSchema:
        """The schema with the features of some model inputs held at the row's value."""
        held = [replace(f, fixed=f.fixed or f.input in inputs) for f in self.features]
        return replace(self, features=tuple(held))

    @cached_property
    def _grouped(self) -> dict[str, str]:
        """The group of each member."""
        return {member: group for group, members in self.groups.items() for member in members}

    @cached_property
    def players(self) -> Players:
        """What masking methods keep or replace: features, the values of one with a shape, groups as one."""
        of = {name: np.full(int(np.prod(shape, dtype=np.int64)), HELD) for name, shape in self.inputs.items()}
        names: list[str] = []
        numbers: dict[str, int] = {}
        tensors: dict[str, np.ndarray] = {}
        for feature in self.features:
            group, values = self._grouped.get(feature.name), of[feature.input]
            # Padding plays no part.
            place = slice(feature.start, feature.start + feature.there)
            if feature.fixed or not feature.there:
                continue
            if group is None:
                values[place] = np.arange(len(names), len(names) + feature.there)
                shape = feature.shape
                if feature.steps is not None:
                    shape = (feature.steps, *shape[1:])
                names += value_names(feature.name, shape)
                if shape:
                    tensors[feature.name] = values[place].reshape(shape)
            else:
                if group not in numbers:
                    numbers[group] = len(names)
                    names.append(group)
                values[place] = numbers[group]
        return Players(tuple(names), dict(self.inputs), of, tensors)

    def attributed_shape(self, name: str) -> tuple[int, ...]:
        """Shape of an attribution in a row: the feature's; `()` for a group."""
        return () if name in self.groups else self._shapes[name]

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each feature by its name."""
        return {feature.name: feature.shape for feature in self.features}

    def assemble(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Feature values `[B, *shape]` to model inputs `[B, *input_shape]`."""
        rows = len(next(iter(features.values())))
        inputs: dict[str, np.ndarray] = {}
        for name, shape in self.inputs.items():
            values = [features[feature.name].reshape(rows, feature.size) for feature in self._members[name]]
            whole = values[0] if len(values) == 1 else np.concatenate(values, axis=1)
            inputs[name] = whole.reshape(rows, *shape)
        return inputs

    @cached_property
    def _members(self) -> dict[str, list[FeatureSpec]]:
        """Features of each model input, in their order."""
        found: dict[str, list[FeatureSpec]] = {name: [] for name in self.inputs}
        for feature in self.features:
            found[feature.input].append(feature)
        return found

    def split(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Attributions by model input `[B, T, *input_shape]` to those by feature or group `[B, T, *shape]`.

        A group's is the sum over its members, in float64, and in the type of the first of them.
        """
        columns: dict[str, np.ndarray] = {}
        for name, value in values.items():
            # Values of a feature side by side: a column of a wide input is then one block of memory.
            columns[name] = np.ascontiguousarray(value.reshape(value.shape[0] * value.shape[1], -1).T)
        lead = next(iter(values.values())).shape[:2]
        grouped = self._grouped
        found: dict[str, np.ndarray] = {}
        members: dict[str, list[np.ndarray]] = {}
        for feature in self.features:
            if feature.fixed:
                continue
            part = columns[feature.input][feature.start : feature.start + feature.size]
            if feature.name in grouped:
                members.setdefault(grouped[feature.name], []).append(part)
            elif feature.shape == ():
                found[feature.name] = part[0].reshape(lead)
            else:
                found[feature.name] = np.ascontiguousarray(part.T).reshape(*lead, *feature.shape)
        for group, parts in members.items():
            total = sum((part.sum(axis=0, dtype=np.float64) for part in parts), np.zeros(1))
            found[group] = total.astype(parts[0].dtype).reshape(lead)
        return {name: found[name] for name in self.attributed}


def columns_of(schema: ExampleSchema) -> list[Column]:
    """The columns that a run reads."""
    keys, paths = schema.keys, set(schema.from_path)
    return [
        Column(name, kind, keys.get(name, ""), name not in keys, name in paths)
        for name, kind in schema.columns
    ]
