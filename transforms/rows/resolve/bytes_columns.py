"""Columns of bytes that a model takes as numbers: what the first values are, before a row is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.arrow.types import storage
from transforms.arrow.values import plain
from transforms.errors import UserError
from transforms.rows.encodings import (
    DTYPES,
    SELF_DESCRIBING,
    decode_tensors,
    describe_bytes,
    itemsize,
    unpacked,
)
from transforms.rows.images import is_picture_data
from transforms.rows.resolve.feature import FEATURES
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources.base import Column, InputFile
from transforms.sources.read import read_piece
from transforms.sources.shards import cut

#: Rows that are looked at, and shards of as many in which a value is looked for.
_ROWS, _SHARDS = 64, 16


def with_encodings(schema: ExampleSchema, files: Sequence[InputFile]) -> ExampleSchema:
    """The schema, with how the tensors in columns of bytes are to be read.

    A column in which no value of the first rows can be read is refused: every row would be rejected. Without
    a single value in the first rows, the column is left to the rows.

    Args:
      schema: As `resolve` makes it.
      files: The input.
    Raises:
      UserError: The values are no pictures and no tensors, or none of the type and shape that is asked for.
    Cost: reads these columns in the first rows; nothing where there is none.
    """
    asked = {
        f.name: f
        for f in schema.features
        if f.dtype != "string" and f.categories is None and pt.is_binary(storage(f.stored))
    }
    if not asked:
        return schema
    values = _first_values(list(asked.values()), files)
    found = {name: _with_encoding(feature, values[name]) for name, feature in asked.items()}
    return dataclasses.replace(schema, features=tuple(found.get(f.name, f) for f in schema.features))


def _first_values(features: Sequence[FeatureSpec], files: Sequence[InputFile]) -> dict[str, list[bytes]]:
    """By feature some values from the first rows that have any."""
    columns = [Column(feature.name, feature.stored, optional=True) for feature in features]
    found: dict[str, list[bytes]] = {feature.name: [] for feature in features}
    for shard in cut(files, _ROWS, _ROWS * _SHARDS):
        for piece in shard.pieces:
            for raw in read_piece(piece, columns, _ROWS):
                for feature in features:
                    values = plain(raw.columns.column(feature.name)).cast(pa.binary())
                    found[feature.name] += values.drop_null().to_pylist()
        if all(found.values()):
            break
    return found


def _with_encoding(feature: FeatureSpec, values: Sequence[bytes]) -> FeatureSpec:
    if not values:
        return feature
    where = f"{FEATURES} {feature.name}"
    pictures = sum(map(is_picture_data, values))
    if feature.kind == "image" and feature.encoding is None:
        # Raw pixels are a byte each.
        if pictures or any(len(value) == feature.size for value in values):
            return feature
        if any(describe_bytes(value) for value in values):
            return dataclasses.replace(feature, encoding=SELF_DESCRIBING)
        what = f"the first {len(values)} values are no pictures, nor {feature.size} raw pixels of a byte each"
        raise UserError(what, where, _raw_remedy(feature, values))
    decoded = decode_tensors(pa.array(values, pa.binary()), feature.encoding or "", feature.shape)
    if len(decoded.reasons) < len(values):
        return feature
    if pictures:
        remedy = "give it kind: image and its shape" + (
            "" if feature.encoding == SELF_DESCRIBING else ", no dtype"
        )
        raise UserError("the column holds encoded pictures (PNG, JPEG, GIF)", where, remedy)
    reason = decoded.reasons[0].removeprefix("has ")
    raise UserError(f"the column's first value has {reason}", where, _raw_remedy(feature, values))


def _raw_remedy(feature: FeatureSpec, values: Sequence[bytes]) -> str:
    """How to have the values, going by their size."""
    told = describe_bytes(values[0])
    if told is not None:
        return f"it is {told}: give that shape, or store what the model takes"
    sizes = np.unique([len(unpacked(value)) for value in values])
    fitting = [dtype for dtype in DTYPES if len(sizes) == 1 and sizes[0] == feature.size * itemsize(dtype)]
    if not fitting:
        return (
            "if they are the raw bytes of numbers (np.tobytes()), give their dtype (such as float32) "
            "and shape, "
            "with kind: image left out"
            if feature.kind == "image"
            else "if they are the raw bytes of numbers (np.tobytes()), give their dtype (such as "
            "float32) and "
            "shape; pictures are kind: image"
        )
    of = " or ".join(fitting[:3])
    return f"if they are raw numbers of the shape {list(feature.shape)}, give their dtype: {of}"
