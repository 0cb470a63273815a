"""Columns of folders' names among those that meet the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import pyarrow as pa

from transforms.errors import UserError
from transforms.models.base import Signature
from transforms.partitions import partition_types
from transforms.resolve import ColumnRequest, resolve
from transforms.schema import ExampleSchema
from transforms.shards import InputFile


def resolve_with_paths(
    request: ColumnRequest,
    signature: Signature | None,
    columns: Mapping[str, pa.DataType],
    paths: Set[str],
    inputs: Sequence[InputFile],
) -> ExampleSchema:
    """`resolve`, for columns some of which are not in the files but in the names of their folders.

    `month=01` is a text, and a number where the model takes numbers.

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
        numbers = partition_types(inputs, padded_are_text=False) if paths else {}
        others = {name: numbers[name] for name in paths if numbers[name] != columns[name]}
        found = _attempt(request, signature, {**columns, **others}) if others else None
        if found is None:
            raise error
        schema = found
    return replace(schema, from_path=tuple(sorted(paths & set(dict(schema.columns)))))


def _attempt(
    request: ColumnRequest, signature: Signature | None, columns: Mapping[str, pa.DataType]
) -> ExampleSchema | None:
    try:
        return resolve(request, signature, columns)
    except UserError:
        return None
