"""Finds the file and row of examples in a run's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.tables import RunTables


def file_rows(run: RunTables, places: Sequence[tuple[int, int]]) -> list[str]:
    """Names examples of a run as `file:row`, like default ids.

    The parts hold the rows that were explained, in the order of the input's files.

    Args:
      run: A committed run with attributions.
      places: Numbers of the part and of the example in it.
    Cost: reads the footers of the parts and the places of the rejected rows.
    """
    per_example = run.rows_per_example
    rows = [pq.read_metadata(files.local_copy(part)).num_rows // per_example for part in run.parts()]
    before = np.concatenate([[0], np.cumsum(rows)])
    inputs = run.manifest["inputs"]
    names = [item["file"] for item in inputs]
    starts = np.concatenate([[0], np.cumsum([item["rows"] for item in inputs])])
    rejected = run.rejected().select(["file", "row"]).to_pydict()
    first = dict(zip(names, starts.tolist(), strict=False))
    refused = np.sort([first[name] + row for name, row in zip(*rejected.values(), strict=True)])
    # For sorted numbers r, r − place counts the kept rows before each.
    kept_before = refused - np.arange(len(refused))
    names_of_rows = []
    for part, position in places:
        number = int(before[part]) + position
        ordinal = number + int(np.searchsorted(kept_before, number, side="right"))
        file = int(np.searchsorted(starts, ordinal, side="right")) - 1
        names_of_rows.append(f"{names[file]}:{ordinal - int(starts[file])}")
    return names_of_rows
