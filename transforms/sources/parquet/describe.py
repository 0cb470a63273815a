"""The columns of Parquet files: their types, and a check that every file has them, from footers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.types as pt

from transforms.arrow.types import common_type
from transforms.errors import UserError
from transforms.sources.parquet.columns import compatible, in_order, leaves, path_of, plain, type_at
from transforms.sources.parquet.opening import HOLDS, described, open_parquet, stored_index
from transforms.storage import files
from transforms.wording import did_you_mean

if TYPE_CHECKING:
    from transforms.sources.base import Column, InputFile


def describe(inputs: Sequence[InputFile]) -> dict[str, pa.DataType]:
    """The columns of a Parquet input and their types: `read.describe_columns` for Parquet."""
    sound = [file for file in inputs if file.damage is None]
    ordered = [file for file in sound if file.rows] or sound[:1]
    types = leaves(_schema(ordered[0]), ordered[0].name)
    for file in ordered[1:]:
        # pandas stores a column without values as type null; another file may have its real type.
        unknown = [name for name, kind in types.items() if pt.is_null(kind)]
        if not unknown:
            break
        others_types = leaves(_schema(file), file.name)
        types.update({name: others_types[name] for name in unknown if name in others_types})
    return types


def describe_further(
    inputs: Sequence[InputFile], known: Mapping[str, pa.DataType]
) -> tuple[dict[str, pa.DataType], set[str]]:
    """The columns that are in some file but not among the known ones; and those that index a pandas frame."""
    further: dict[str, pa.DataType] = {}
    index: set[str] = set()
    seen: set[int] = set()
    for file in inputs:
        if file.damage is not None or (file.schema is not None and id(file.schema) in seen):
            continue
        schema = _schema(file)
        seen.add(id(schema))
        if len(set(schema.names)) < len(schema.names):  # refused later, when a column is looked up in it
            continue
        if not known.keys() >= set(schema.names):
            for name, dtype in leaves(schema, file.name).items():
                if name not in known:
                    further.setdefault(name, dtype)
        index.update(stored_index(schema))
    return further, index


def check(inputs: Sequence[InputFile], columns: Sequence[Column]) -> dict[str, pa.DataType]:
    """Checks that every file has the wanted columns: `read.check_columns` for Parquet."""
    common = {column.name: column.type for column in columns}
    sound = [file for file in inputs if file.damage is None]
    schemas = [_schema(file) for file in sound]
    # Many files share few schemas, so each is checked once; with and without rows, because only files with
    # rows affect the common type.
    seen: set[tuple[int, bool]] = set()
    for file, schema in zip(sound, schemas, strict=True):
        key = (id(schema), bool(file.rows))
        if key not in seen:
            seen.add(key)
            _check_file(file, schema, columns, common)
    return common


def _check_file(
    file: InputFile, schema: pa.Schema, columns: Sequence[Column], common: dict[str, pa.DataType]
) -> None:
    folders = dict(file.partition)
    for column in columns:
        if column.from_path and column.name in folders:
            continue
        path = path_of(schema, column.name, file.name)
        if not path and column.optional:
            continue
        if not path:
            raise _lacking(column, file, schema)
        holds = (schema.field(path[0]).metadata or {}).get(HOLDS)
        if holds is not None:
            raise UserError(
                f"column {column.name} holds {holds.decode()}, which cannot be read here",
                where=file.name,
                remedy="cast it to a plain number, text or time where the file is written, or leave it out",
            )
        stored = type_at(schema, path)
        dtype = plain(in_order(stored, column.name, file.name))
        if not compatible(dtype, column.type):
            raise UserError(
                f"column {column.name} is {dtype}, but {column.type} in other files",
                where=file.name,
                remedy="write it in one type, or take the file out of input.files",
            )
        if file.rows:
            common[column.name] = common_type(common[column.name], dtype)


def _lacking(column: Column, file: InputFile, schema: pa.Schema) -> UserError:
    """The error for a file that lacks a column that other files have."""
    near = did_you_mean(column.name, leaves(schema, file.name), most=3)
    remedy = f"{near} Or write it" if near else "write it"
    what = f"there is no column {column.name}, although other files have it{column.asked}"
    return UserError(what, where=file.name, remedy=remedy + column.or_leave_out)


def _schema(file: InputFile) -> pa.Schema:
    if file.schema is not None:
        return file.schema
    with files.open_arrow(file.path) as source:
        return described(open_parquet(source))
