"""The schema of a row: features with a kind, a type and a shape, and their places in the model's inputs."""

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
    """A description of what a feature of this type takes, if the value does not fit; None if it fits."""
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


#: Assumed memory of a string, including its Python object.
_STRING_BYTES = 64


def _itemsize(dtype: str) -> int:
    return _STRING_BYTES if dtype == "string" else np.dtype(dtype).itemsize


@dataclass(frozen=True)
class FeatureSpec:
    """A feature: a column, and how its values become part of a model input.

    Args:
      name: Name of the column and of the attribution.
      kind: numeric | categorical | image.
      dtype: Type that the model takes: a numpy name such as "float32" or "int64", or "string".
      shape: Shape of its value in a row, `()` for a scalar.
      stored: Type of the column in the input.
      fill: Replaces null and non-finite values; None: the row is rejected.
      input: The model input that it feeds.
      start: Position of its first value in that input, flattened.
      fixed: True if masking methods hold it at the row's value; it gets no attribution.
      nan: Whether the model takes null and NaN as a value: NaN, or None for strings.
      encoding: For tensors in bytes, the dtype of raw values, or SELF_DESCRIBING; None: the column holds
        plain values or pictures.
      pad: Fills a list that is shorter than the shape, at its end; None: lists have one length.
      open: For padded lists, whether the model takes any length.
      steps: For padded lists in rows of one length, the number of real steps on the first axis; those after
        them are padding.
      categories: The categories in which values are looked up, if the model takes their codes.
      missing: A number, or a code, that the model takes for missing, and that becomes NaN.
      kept: Whether the config itself keeps missing values: then a file may lack the column.
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
        """The number of values in a row without padding, if `steps` is known."""
        return self.size if self.steps is None else self.steps * (self.size // self.shape[0])

    def known(self, values: np.ndarray) -> np.ndarray:
        """The values with NaN where the model takes them for missing; changed in place."""
        if self.missing is not None:
            values[values == np.dtype(self.dtype).type(self.missing)] = np.nan
        return values

    @cached_property
    def size(self) -> int:
        """The number of values in a row."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class ExampleSchema:
    """The columns of a run and the model inputs that they fill.

    Args:
      features: The features, in the order of the report and of a single vector input.
      inputs: Shape of each model input, without the batch.
      groups: Members by group name; a group is attributed as one feature.
      id: The column of ids, with its type; None: ids are "<file>:<row>".
      slices: Columns that the slicings need, with their types.
      target: The column with the index of the output to explain, with its type.
      weight: The column with the weight of each row in the importance, with its type; None: equal weights.
      slicings: The breakdowns of the importance.
      classes: The classes in which the target column's values are looked up; None: they are indices.
      from_path: Columns that are not in the files but in the names of their folders. Ids and slices read such
        a column as text, and others as a number where one is needed.
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
        types = {feature.name: feature.stored for feature in self.features}
        for extra in (self.id, *self.slices, self.target, self.weight):
            if extra is not None:
                types.setdefault(*extra)
        # Text wins for a column from folders' names: it can be converted to a number, but not back.
        types.update(
            e for e in (self.id, *self.slices) if e and e[0] in self.from_path and pt.is_string(e[1])
        )
        return list(types.items())

    @property
    def keys(self) -> dict[str, str]:
        """By column that every file must have, the config key that needs it.

        Slices, and features that have a `fill` or keep missing values, are left out: a file may lack them.
        """
        parts = {"input.id": self.id, "model.target": self.target, "input.weight": self.weight}
        by_part = {part[0]: key for key, part in parts.items() if part is not None}
        needed = [f.name for f in self.features if f.fill is None and not f.kept]
        return {**dict.fromkeys(needed, "input.features"), **by_part}

    @cached_property
    def row_bytes(self) -> int:
        """Memory of a row's features in the model's types; strings are estimated."""
        size = sum(feature.size * _itemsize(feature.dtype) for feature in self.features)
        return max(1, size)

    @cached_property
    def attributed(self) -> tuple[str, ...]:
        """Names in the tables: features that are not fixed, and groups in the place of their first member."""
        grouped, free = self._grouped, [feature.name for feature in self.features if not feature.fixed]
        return tuple(dict.fromkeys(grouped.get(name, name) for name in free))

    def attributed_as(self, name: str) -> str:
        """The name under which a feature is attributed: its group's, or its own."""
        return self._grouped.get(name, name)

    @property
    def held(self) -> frozenset[str]:
        """The model inputs that are fixed as a whole."""
        return frozenset(self.inputs) - {feature.input for feature in self.features if not feature.fixed}

    def holding(self, inputs: Collection[str]) -> ExampleSchema:
        """The schema with the features of some model inputs fixed."""
        held = [replace(f, fixed=f.fixed or f.input in inputs) for f in self.features]
        return replace(self, features=tuple(held))

    @cached_property
    def _grouped(self) -> dict[str, str]:
        """The group of each member."""
        return {member: group for group, members in self.groups.items() for member in members}

    @cached_property
    def players(self) -> Players:
        """The players of masking methods: a group, or each single value of a feature outside of groups."""
        # By model input, the number of the player that each value belongs to, `[values of the input]`.
        player_of = {
            name: np.full(int(np.prod(shape, dtype=np.int64)), HELD) for name, shape in self.inputs.items()
        }
        names: list[str] = []
        numbers: dict[str, int] = {}
        tensors: dict[str, np.ndarray] = {}
        for feature in self.features:
            group, values = self._grouped.get(feature.name), player_of[feature.input]
            # Padding belongs to no player.
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
        return Players(tuple(names), dict(self.inputs), player_of, tensors)

    def attributed_shape(self, name: str) -> tuple[int, ...]:
        """Shape of an attribution in a row: that of the feature, or `()` for a group."""
        return () if name in self.groups else self._shapes[name]

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each feature by its name."""
        return {feature.name: feature.shape for feature in self.features}

    def assemble(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Joins feature values `[B, *shape]` to model inputs `[B, *input_shape]`."""
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
        members: dict[str, list[FeatureSpec]] = {name: [] for name in self.inputs}
        for feature in self.features:
            members[feature.input].append(feature)
        return members

    def split(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Splits attributions by model input `[B, T, *input_shape]` into those by feature `[B, T, *shape]`.

        A group's attribution is the sum over its members, computed in float64, in the first member's type.
        """
        columns: dict[str, np.ndarray] = {}
        for name, value in values.items():
            # Transposed, so that the values of one feature, of all rows, are one block of memory.
            columns[name] = np.ascontiguousarray(value.reshape(value.shape[0] * value.shape[1], -1).T)
        lead = next(iter(values.values())).shape[:2]
        grouped = self._grouped
        parts_by_name: dict[str, np.ndarray] = {}
        members: dict[str, list[np.ndarray]] = {}
        for feature in self.features:
            if feature.fixed:
                continue
            part = columns[feature.input][feature.start : feature.start + feature.size]
            if feature.name in grouped:
                members.setdefault(grouped[feature.name], []).append(part)
            elif feature.shape == ():
                parts_by_name[feature.name] = part[0].reshape(lead)
            else:
                parts_by_name[feature.name] = np.ascontiguousarray(part.T).reshape(*lead, *feature.shape)
        for group, parts in members.items():
            total = sum((part.sum(axis=0, dtype=np.float64) for part in parts), np.zeros(1))
            parts_by_name[group] = total.astype(parts[0].dtype).reshape(lead)
        return {name: parts_by_name[name] for name in self.attributed}


def columns_of(schema: ExampleSchema) -> list[Column]:
    """The columns that a run reads."""
    keys, paths = schema.keys, set(schema.from_path)
    return [
        Column(name, kind, keys.get(name, ""), name not in keys, name in paths)
        for name, kind in schema.columns
    ]
