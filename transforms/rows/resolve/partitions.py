"""Columns of folders' names among those that meet the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import pyarrow as pa

from transforms.errors import UserError
from transforms.models.base import Signature
from transforms.rows.resolve.resolve import ColumnRequest, resolve
from transforms.rows.schema import ExampleSchema
from transforms.slices.slicings import SliceRequest, Slicing, resolve_slicings
from transforms.sources.base import InputFile
from transforms.sources.partitions import partition_types


def resolve_with_paths(
    request: ColumnRequest,
    signature: Signature | None,
    columns: Mapping[str, pa.DataType],
    paths: Set[str],
    inputs: Sequence[InputFile],
) -> ExampleSchema:
    """`resolve`, for columns some of which are not in the files but in the names of their folders.

    `month=01` is a text, and a number where the model, a condition or bins take numbers. In ids and slices it
    is the text all the same: a value has one text, whatever else the config asks.

    Args:
      request: What the config says.
      signature: Of the model.
      columns: All, with their types.
      paths: Those of folders' names.
      inputs: The files.
    Raises:
      UserError: As `resolve`.
    """
    try:
        schema = resolve(request, signature, columns)
    except UserError as error:
        others = _as_numbers(columns, paths, inputs)
        found = _attempt(request, signature, {**columns, **others}) if others else None
        if found is None:
            raise error
        texts = {name: columns[name] for name in others}
        schema = replace(
            found,
            id=found.id and (found.id[0], texts.get(*found.id)),
            slices=tuple((name, texts.get(name, kind)) for name, kind in found.slices),
        )
    return replace(schema, from_path=tuple(sorted(paths & set(dict(schema.columns)))))


def slicings_with_paths(
    requests: Sequence[SliceRequest],
    types: Mapping[str, pa.DataType],
    paths: Set[str],
    inputs: Sequence[InputFile],
) -> tuple[Slicing, ...]:
    """`resolve_slicings` in the same manner.

    Args:
      requests: What the config says.
      types: Of the input's columns.
      paths: Those of folders' names.
      inputs: The files.
    Raises:
      UserError: As `resolve_slicings`.
    """
    try:
        return resolve_slicings(requests, types)
    except UserError:
        return resolve_slicings(requests, {**types, **_as_numbers(types, paths, inputs)})


def _as_numbers(
    columns: Mapping[str, pa.DataType], paths: Set[str], inputs: Sequence[InputFile]
) -> dict[str, pa.DataType]:
    """Of folders' names that are texts, and could be numbers, the types of these."""
    numbers = partition_types(inputs, padded_are_text=False) if paths else {}
    return {name: numbers[name] for name in paths if numbers[name] != columns[name]}


def _attempt(
    request: ColumnRequest, signature: Signature | None, columns: Mapping[str, pa.DataType]
) -> ExampleSchema | None:
    try:
        return resolve(request, signature, columns)
    except UserError:
        return None
