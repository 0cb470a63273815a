"""Warns of damaged input files, files with other columns, and columns that are easily overlooked."""

from __future__ import annotations

from collections.abc import Sequence

from transforms.rows.schema import ExampleSchema
from transforms.sources.base import InputFile
from transforms.sources.parquet.columns import path_of
from transforms.sources.parquet.opening import stored_index
from transforms.sources.partitions import partition_types
from transforms.wording import names_in_words


def input_notes(inputs: Sequence[InputFile], schema: ExampleSchema, *, listed: bool) -> list[str]:
    """Makes the warnings, each with the config key that it concerns.

    Args:
      inputs: The files.
      schema: The columns of the run.
      listed: Whether the config lists the features.
    """
    damaged = [
        f"input.files: {file.name}: {file.damage}; it counts as one row, which will be rejected"
        for file in inputs
        if file.damage is not None
    ]
    left_out = [] if listed else _left_out(inputs, schema)
    return [*damaged, *left_out, *_filled(inputs, schema), *_in_both(inputs, schema)]


def _in_both(inputs: Sequence[InputFile], schema: ExampleSchema) -> list[str]:
    """Columns that both the files and their folders' names have."""
    named = partition_types(inputs)
    both = [name for name, _ in schema.columns if name in named and name not in schema.from_path]
    return [
        f"input.files: {name} is a column of the files and also in their folders' names; the files' values "
        "are read: rename one if the two differ"
        for name in both
    ]


def _left_out(inputs: Sequence[InputFile], schema: ExampleSchema) -> list[str]:
    """Index columns of a pandas frame, which are features only if the config lists them."""
    used = set(dict(schema.columns))
    schemas = {id(file.schema): file.schema for file in inputs if file.schema is not None}
    names = dict.fromkeys(name for stored in schemas.values() for name in stored_index(stored))
    names = {name: None for name in names if name not in used}
    if not names:
        return []
    index = "the index that pandas stored" if len(names) == 1 else "the index columns that pandas stored"
    return [
        f"input.features: {names_in_words(list(names), 4)}, {index}, is not a feature; list the features if "
        "the model was trained on it"
    ]


def _filled(inputs: Sequence[InputFile], schema: ExampleSchema) -> list[str]:
    """Features that are missing in some files."""
    asked = [f for f in schema.features if f.fill is not None and f.name not in schema.keys]
    notes = []
    for feature in asked:
        lacking = [
            file.name
            for file in inputs
            if file.schema is not None
            and feature.name not in schema.from_path
            and not path_of(file.schema, feature.name, file.name)
        ]
        if lacking:
            notes.append(
                f"input.features: {len(lacking):,} of {len(inputs):,} files have no {feature.name} "
                f"(the first is {lacking[0]}): it is filled with {feature.fill!r} there"
            )
    return notes
