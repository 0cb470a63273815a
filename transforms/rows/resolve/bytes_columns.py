"""Columns of bytes that a model takes as numbers: finding their encoding from the first values."""

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

#: Rows per shard, and the number of shards, that are searched for values.
_ROWS, _SHARDS = 64, 16


def with_encodings(schema: ExampleSchema, files: Sequence[InputFile]) -> ExampleSchema:
    """The schema, with the encoding of the tensors in columns of bytes.

    A column is refused if none of its values in the first rows can be read: every row would be rejected. If
    the first rows have no values at all, the column is accepted, and decoding judges each row.

    Args:
      schema: From `resolve`.
      files: The input.
    Raises:
      UserError: The values are neither pictures nor tensors, or not of the requested type and shape.
    Cost: reads these columns in the first rows; nothing if there are none.
    """
    candidates = {
        f.name: f
        for f in schema.features
        if f.dtype != "string" and f.categories is None and pt.is_binary(storage(f.stored))
    }
    if not candidates:
        return schema
    values = _first_values(list(candidates.values()), files)
    encoded = {name: _with_encoding(feature, values[name]) for name, feature in candidates.items()}
    return dataclasses.replace(schema, features=tuple(encoded.get(f.name, f) for f in schema.features))


def _first_values(features: Sequence[FeatureSpec], files: Sequence[InputFile]) -> dict[str, list[bytes]]:
    """By feature, some values from the first rows that have any."""
    columns = [Column(feature.name, feature.stored, optional=True) for feature in features]
    values_of: dict[str, list[bytes]] = {feature.name: [] for feature in features}
    for shard in cut(files, _ROWS, _ROWS * _SHARDS):
        for piece in shard.pieces:
            for raw in read_piece(piece, columns, _ROWS):
                for feature in features:
                    values = plain(raw.columns.column(feature.name)).cast(pa.binary())
                    values_of[feature.name] += values.drop_null().to_pylist()
        if all(values_of.values()):
            break
    return values_of


def _with_encoding(feature: FeatureSpec, values: Sequence[bytes]) -> FeatureSpec:
    if not values:
        return feature
    where = f"{FEATURES} {feature.name}"
    pictures = sum(map(is_picture_data, values))
    if feature.kind == "image" and feature.encoding is None:
        # Raw pixels take one byte each.
        if pictures or any(len(value) == feature.size for value in values):
            return feature
        if any(describe_bytes(value) for value in values):
            return dataclasses.replace(feature, encoding=SELF_DESCRIBING)
        what = (
            f"the first {len(values)} values are neither pictures nor {feature.size} raw pixels of one byte"
        )
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
    """The remedy for bytes that do not fit, judged by their content or their size."""
    description = describe_bytes(values[0])
    if description is not None:
        return f"it is {description}: give that shape, or store what the model takes"
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
    dtypes = " or ".join(fitting[:3])
    return f"if they are raw numbers of the shape {list(feature.shape)}, give their dtype: {dtypes}"
