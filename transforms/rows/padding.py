"""Lists of varying length: measuring a column's lists, and the model inputs for rows of equal lengths.

Rows are explained in groups of equal lengths, so that a value never depends on what else is in a batch. A
model that takes any length gets a list of up to 64 steps without padding; a longer list is padded to the next
of 8 lengths per octave, so that few shapes are traced. Padding is the same in a row and its baseline, so its
attribution is exactly zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from transforms.arrow.types import extents, is_list, storage
from transforms.arrow.values import plain
from transforms.errors import UserError
from transforms.models.base import InputSpec, Signature
from transforms.rows.resolve.feature import FEATURES, FeatureRequest
from transforms.rows.resolve.resolve import ColumnRequest, fed
from transforms.rows.schema import ExampleSchema
from transforms.sources.base import TFRECORD, Column, InputFile
from transforms.sources.read import read_piece
from transforms.sources.shards import cut

#: Up to this many steps, each length is a shape of its own.
_EXACT = 64
#: Number of shapes per octave for longer lists.
_PER_OCTAVE = 8
#: Rows read at a time to measure lists.
_ROWS = 16_384


def extent_for(steps: int) -> int:
    """The extent, at least `steps`, to which a list is padded for the model."""
    if steps <= _EXACT:
        return max(1, steps)
    unit = (1 << (steps - 1).bit_length()) // 2 // _PER_OCTAVE
    return -(-steps // unit) * unit


def with_lengths(
    request: ColumnRequest,
    signature: Signature | None,
    types: Mapping[str, pa.DataType],
    files: Sequence[InputFile],
) -> tuple[ColumnRequest, dict[str, pa.DataType]]:
    """The request and the types, with a shape for each padded feature that fits its longest list.

    Args:
      request: The columns that the config asks for.
      signature: The model's signature; None: the model takes any columns.
      types: Types of the columns.
      files: The input.
    Raises:
      UserError: Lists differ in length, the model takes any length, and the config has no `pad`.
    Cost: a pass over the columns whose length neither the config nor the model gives.
    """
    column_types, features = dict(types), list(request.features or ())
    tfrecord = bool(files) and files[0].format == TFRECORD
    inputs = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    for number, feature in enumerate(features):
        kind = column_types.get(feature.name)
        if kind is None:
            continue
        spec = _spec_of(feature, inputs)
        if feature.pad is not None:
            if tfrecord:
                column_types[feature.name] = kind = any_length(kind)
            if feature.shape is None and is_list(storage(kind)) and _is_open(spec, signature):
                longest = _lengths(feature.name, kind, files)[1]
                shape = (extent_for(longest), *_tail(spec, kind))
                features[number] = dataclasses.replace(feature, shape=shape)
        elif tfrecord and feature.shape is None and spec is not None:
            _refuse_ragged(feature.name, kind, spec, files)
    if request.features is None:
        for spec in inputs.values():
            if tfrecord and spec.name in column_types:
                _refuse_ragged(spec.name, column_types[spec.name], spec, files)
        return request, column_types
    return dataclasses.replace(request, features=tuple(features)), column_types


def _spec_of(feature: FeatureRequest, inputs: Mapping[str, InputSpec]) -> InputSpec | None:
    """The model input that the feature feeds."""
    if len(inputs) == 1:
        return next(iter(inputs.values()))
    return inputs.get(fed(feature, inputs.keys()))


def _is_open(spec: InputSpec | None, signature: Signature | None) -> bool:
    return signature is None or (spec is not None and bool(spec.shape) and spec.shape[0] is None)


def _refuse_ragged(name: str, kind: pa.DataType, spec: InputSpec, files: Sequence[InputFile]) -> None:
    """Checks that a TFRecord column's lists all have the length that most records have.

    Raises:
      UserError: Lists have other lengths, and the model takes any length.
    """
    if not (spec.shape and spec.shape[0] is None) or not pt.is_fixed_size_list(kind):
        return
    shortest, longest = _lengths(name, any_length(kind), files)
    if shortest != longest:
        what = f"its lists have {shortest} to {longest} values, and the model takes any number of them"
        raise UserError(what, f"{FEATURES} {name}", PAD)


#: The remedy for lists of varying length.
PAD = "give pad, the value that fills shorter lists at their end, such as pad: 0"


def any_length(kind: pa.DataType) -> pa.DataType:
    """A TFRecord column's type as lists of any length."""
    if pt.is_fixed_size_list(kind):
        return pa.list_(kind.value_type)
    return kind if is_list(kind) else pa.list_(kind)


def _tail(spec: InputSpec | None, kind: pa.DataType) -> tuple[int, ...]:
    """The shape of one step of a list."""
    if spec is not None and None not in spec.shape[1:]:
        return tuple(extent or 0 for extent in spec.shape[1:])
    inner = storage(kind).value_type
    return extents(inner)


def _lengths(name: str, kind: pa.DataType, files: Sequence[InputFile]) -> tuple[int, int]:
    """The numbers of steps in a column's shortest and longest lists."""
    shortest, longest = [], [0]
    for shard in cut(files, _ROWS):
        for piece in shard.pieces:
            for raw in read_piece(piece, [Column(name, kind, optional=True)], _ROWS):
                column = raw.columns.column(0)
                union = pt.is_union(column.type)
                fields = [column.field(at) for at in range(column.type.num_fields)] if union else [column]
                for array in map(plain, fields):
                    if is_list(array.type) and len(array) > array.null_count:
                        extremes = pc.min_max(pc.list_value_length(array)).as_py()
                        shortest.append(extremes["min"])
                        longest.append(extremes["max"])
    return min(shortest, default=0), max(longest)


def at_lengths(schema: ExampleSchema, steps: Sequence[int]) -> ExampleSchema:
    """The schema of rows with these numbers of steps, one for each padded feature, in the schema's order."""
    left, inputs, features = list(steps), dict(schema.inputs), []
    for feature in schema.features:
        if feature.pad is None:
            features.append(feature)
            continue
        count = left.pop(0)
        extent = min(extent_for(count), feature.shape[0]) if feature.open else feature.shape[0]
        features.append(dataclasses.replace(feature, shape=(extent, *feature.shape[1:]), steps=count))
        if feature.open:
            inputs[feature.input] = (extent, *inputs[feature.input][1:])
    return dataclasses.replace(schema, features=tuple(features), inputs=inputs)


def narrowed(features: Mapping[str, np.ndarray], schema: ExampleSchema) -> dict[str, np.ndarray]:
    """Rows cut to the shapes of a schema from `at_lengths`, with padding after its number of steps.

    Args:
      features: `[B, *shape]` in the shapes of the run's schema: the rows themselves, or background rows,
        which are padded in the same places.
      schema: From `at_lengths`.
    """
    narrow = dict(features)
    for feature in schema.features:
        if feature.pad is None or feature.steps is None:
            continue
        value = features[feature.name][:, : feature.shape[0]].copy()
        value[:, feature.steps :] = feature.pad_value
        narrow[feature.name] = value
    return narrow


def groups_of(
    schema: ExampleSchema, lengths: Mapping[str, np.ndarray]
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Each combination of lengths in the rows, with the rows that have it, shortest first."""
    table = np.stack(
        [lengths[feature.name] for feature in schema.features if feature.pad is not None], axis=1
    )
    distinct, group = np.unique(table, axis=0, return_inverse=True)
    return [
        (tuple(steps), np.flatnonzero(group.reshape(-1) == number))
        for number, steps in enumerate(distinct.tolist())
    ]
