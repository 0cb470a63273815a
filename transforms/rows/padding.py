"""Lists of varying length: how long a column's are, and what a model is given of rows of one length.

Rows are explained in groups of equal lengths, so that a value never depends on what else is in a batch. A
model that takes any length sees a list of up to 64 steps as it is; a longer one is padded to the next of 8
lengths an octave, so that few shapes are traced. Padding is held on both sides: it is attributed exactly
nothing.
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

#: Lists of so many steps have a shape of their own, and so many shapes an octave longer ones.
_EXACT, _AN_OCTAVE = 64, 8
_ROWS = 16_384


def extent_for(steps: int) -> int:
    """The extent that a model is given for a list of so many steps."""
    if steps <= _EXACT:
        return max(1, steps)
    unit = (1 << (steps - 1).bit_length()) // 2 // _AN_OCTAVE
    return -(-steps // unit) * unit


def with_lengths(
    request: ColumnRequest,
    signature: Signature | None,
    types: Mapping[str, pa.DataType],
    files: Sequence[InputFile],
) -> tuple[ColumnRequest, dict[str, pa.DataType]]:
    """The request and the types, with a shape for each feature that is padded, going by its longest list.

    Args:
      request: What the config says.
      signature: Of the model; None: it takes what it is given.
      types: Of the columns.
      files: The input.
    Raises:
      UserError: Lists differ in length where the model takes any, and there is no `pad`.
    Cost: a pass over these columns where neither the config nor the model says how long they are.
    """
    found, features = dict(types), list(request.features or ())
    tfrecord = bool(files) and files[0].format == TFRECORD
    inputs = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    for at, feature in enumerate(features):
        kind = found.get(feature.name)
        if kind is None:
            continue
        spec = _spec_of(feature, inputs)
        if feature.pad is not None:
            if tfrecord:
                found[feature.name] = kind = any_length(kind)
            if feature.shape is None and is_list(storage(kind)) and _is_open(spec, signature):
                longest = _lengths(feature.name, kind, files)[1]
                shape = (extent_for(longest), *_tail(spec, kind))
                features[at] = dataclasses.replace(feature, shape=shape)
        elif tfrecord and feature.shape is None and spec is not None:
            _refuse_ragged(feature.name, kind, spec, files)
    if request.features is None:
        for spec in inputs.values():
            if tfrecord and spec.name in found:
                _refuse_ragged(spec.name, found[spec.name], spec, files)
        return request, found
    return dataclasses.replace(request, features=tuple(features)), found


def _spec_of(feature: FeatureRequest, inputs: Mapping[str, InputSpec]) -> InputSpec | None:
    """The model's input that the feature feeds."""
    if len(inputs) == 1:
        return next(iter(inputs.values()))
    return inputs.get(fed(feature, inputs.keys()))


def _is_open(spec: InputSpec | None, signature: Signature | None) -> bool:
    return signature is None or (spec is not None and bool(spec.shape) and spec.shape[0] is None)


def _refuse_ragged(name: str, kind: pa.DataType, spec: InputSpec, files: Sequence[InputFile]) -> None:
    """Makes sure that lists of one length, which most records have, are all that there are."""
    if not (spec.shape and spec.shape[0] is None) or not pt.is_fixed_size_list(kind):
        return
    shortest, longest = _lengths(name, any_length(kind), files)
    if shortest != longest:
        what = f"its lists have {shortest} to {longest} values, and the model takes any number"
        raise UserError(what, f"{FEATURES} {name}", PAD)


#: What to do about lists of varying length.
PAD = "give pad, the value that stands behind the end of shorter lists, such as pad: 0"


def any_length(kind: pa.DataType) -> pa.DataType:
    """A TFRecord column's type as lists of any length."""
    if pt.is_fixed_size_list(kind):
        return pa.list_(kind.value_type)
    return kind if is_list(kind) else pa.list_(kind)


def _tail(spec: InputSpec | None, kind: pa.DataType) -> tuple[int, ...]:
    """The shape of a step."""
    if spec is not None and None not in spec.shape[1:]:
        return tuple(extent or 0 for extent in spec.shape[1:])
    inner = storage(kind).value_type
    return extents(inner)


def _lengths(name: str, kind: pa.DataType, files: Sequence[InputFile]) -> tuple[int, int]:
    """Steps of the shortest and of the longest list of a column."""
    shortest, longest = [], [0]
    for shard in cut(files, _ROWS):
        for piece in shard.pieces:
            for raw in read_piece(piece, [Column(name, kind, optional=True)], _ROWS):
                column = raw.columns.column(0)
                union = pt.is_union(column.type)
                fields = [column.field(at) for at in range(column.type.num_fields)] if union else [column]
                for array in map(plain, fields):
                    if is_list(array.type) and len(array) > array.null_count:
                        found = pc.min_max(pc.list_value_length(array)).as_py()
                        shortest.append(found["min"])
                        longest.append(found["max"])
    return min(shortest, default=0), max(longest)


def at_lengths(schema: ExampleSchema, steps: Sequence[int]) -> ExampleSchema:
    """The schema of rows whose padded features have so many steps, in the schema's order of them."""
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
    """Rows in the shapes of a schema of theirs, with padding from where their lists end.

    Args:
      features: `[B, *shape]` in the shapes of the run's schema: of the rows themselves, or of the background,
        which is padded where they are.
      schema: As `at_lengths` makes it.
    """
    found = dict(features)
    for feature in schema.features:
        if feature.pad is None or feature.steps is None:
            continue
        value = features[feature.name][:, : feature.shape[0]].copy()
        value[:, feature.steps :] = feature.pad_value
        found[feature.name] = value
    return found


def groups_of(
    schema: ExampleSchema, lengths: Mapping[str, np.ndarray]
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """The lengths that rows have, and which rows have them, shortest first."""
    table = np.stack(
        [lengths[feature.name] for feature in schema.features if feature.pad is not None], axis=1
    )
    found, of = np.unique(table, axis=0, return_inverse=True)
    return [(tuple(steps), np.flatnonzero(of.reshape(-1) == at)) for at, steps in enumerate(found.tolist())]
