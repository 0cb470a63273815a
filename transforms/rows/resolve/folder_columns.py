"""Resolving columns when some of them come from the names of folders."""

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
    """Resolves columns if some are not in the files but in the names of folders; see `resolve`.

    `month=01` is text, but becomes a number if the model, a condition or bins take numbers. Ids and slices
    use the text even then, so that a value looks the same whatever else the config asks for.

    Args:
      request: The columns that the config names.
      signature: The model's signature.
      columns: All columns, with their types.
      paths: The columns from folders' names.
      inputs: The files.
    Raises:
      UserError: As `resolve`.
    """
    try:
        schema = resolve(request, signature, columns)
    except UserError as error:
        others = _as_numbers(columns, paths, inputs)
        as_numbers = _attempt(request, signature, {**columns, **others}) if others else None
        if as_numbers is None:
            raise error
        texts = {name: columns[name] for name in others}
        schema = replace(
            as_numbers,
            id=as_numbers.id and (as_numbers.id[0], texts.get(*as_numbers.id)),
            slices=tuple((name, texts.get(name, kind)) for name, kind in as_numbers.slices),
        )
    return replace(schema, from_path=tuple(sorted(paths & set(dict(schema.columns)))))


def slicings_with_paths(
    requests: Sequence[SliceRequest],
    types: Mapping[str, pa.DataType],
    paths: Set[str],
    inputs: Sequence[InputFile],
) -> tuple[Slicing, ...]:
    """Resolves slicings whose columns may be in the names of folders; see `resolve_slicings`.

    Args:
      requests: The slices that the config asks for.
      types: Types of the input's columns.
      paths: The columns from folders' names.
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
    """Numeric types for those columns from folders' names whose texts can be read as numbers."""
    numbers = partition_types(inputs, padded_are_text=False) if paths else {}
    return {name: numbers[name] for name in paths if numbers[name] != columns[name]}


def _attempt(
    request: ColumnRequest, signature: Signature | None, columns: Mapping[str, pa.DataType]
) -> ExampleSchema | None:
    try:
        return resolve(request, signature, columns)
    except UserError:
        return None
