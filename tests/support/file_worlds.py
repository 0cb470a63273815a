"""Runs over files of every kind by a model that is a function, F = Σ (i + 1)·xᵢ; helpers, not tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.results.run import Run
from tests.support import worlds
from transforms.rows.decode import Rows, decode, join
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.folder_columns import resolve_with_paths
from transforms.rows.resolve.resolve import ColumnRequest
from transforms.rows.schema import ExampleSchema, columns_of
from transforms.slices.slicings import labels
from transforms.sources import globs, read
from transforms.sources.inspection import inspect_files
from transforms.sources.shards import cut

_MODEL = """
import numpy as np

def total(rows):
    return sum((at + 1.0) * np.asarray(v, np.float64).reshape(len(v), -1).sum(1) for at, v in enumerate(rows.values()))
"""  # noqa: E501


def explained(folder: Path, files: Any, **parts: Any) -> Run:
    """A run over some files; φᵢ = (i + 1)·xᵢ, in the order of `features`."""
    (folder / "by_hand.py").write_text(_MODEL)
    config = worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: by_hand:total"},
        input={"files": files, **parts},
        method="exact_shap",
        baseline={"kind": "zeros"},
        output={"path": "run", "report": False},
    )
    return worlds.explain(config, folder / "run")


def decoded(
    folder: Path,
    files: Any = ".",
    *,
    features: Sequence[str | dict[str, Any]] | None = ("a",),
    id: str | None = None,
    slices: Sequence[Any] = (),
    hive: bool = True,
    batch_size: int = 3,
) -> tuple[ExampleSchema, Rows, dict[str, list[str | None]]]:
    """What a run would make of the rows of some files: the schema, the rows, and the slices of each.

    Raises:
      UserError: As a run would.
    """
    patterns = [files] if isinstance(files, str) else files
    inputs = inspect_files(globs.expand(patterns, str(folder)), hive=hive)
    found = read.describe_input(inputs)
    asked = None
    if features is not None:
        asked = tuple(FeatureRequest(**({"name": f} if isinstance(f, str) else f)) for f in features)
    request = ColumnRequest(asked, {}, id, tuple(slices), None, asides=found.asides)
    schema = resolve_with_paths(request, None, found.types, found.paths, inputs)
    common = read.check_columns(inputs, columns_of(schema))
    schema = replace(schema, slices=tuple((name, common[name]) for name, _ in schema.slices))
    parts: list[Rows] = []
    for shard in cut(inputs, 5):
        for piece in shard.pieces:
            for raw in read.read_piece(piece, columns_of(schema), batch_size):
                rows, rejected = decode(raw, schema, piece.name, 0, 1)
                assert not rejected, rejected[0]
                parts.append(rows)
    rows = join(parts)
    return (
        schema,
        rows,
        {name: found.to_pylist() for name, found in labels(schema.slicings, rows.slices).items()},
    )


def ids_of(rows: Rows) -> list[str]:
    """The ids as they come."""
    found: list[str] = rows.ids.tolist()
    return found


def numbers(rows: Rows, name: str) -> list[float]:
    """A feature's values."""
    found: list[float] = np.asarray(rows.features[name], np.float64).tolist()
    return found
