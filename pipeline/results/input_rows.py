"""Finds the input file and row from which each example of a run came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.tables import RunTables


def file_rows(run: RunTables, places: Sequence[tuple[int, int]]) -> list[str]:
    """Names examples as `file:row`, the format of default example ids.

    The parts contain only explained rows, in input order, so the rejected rows must be counted in again.

    Args:
      run: A committed run with attributions.
      places: For each example, the index of its part and its index within the part.
    Cost: reads the footers of the parts and the file and row of each rejected row.
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
    # refused is sorted, so refused[i] − i is the number of kept rows before rejected row i.
    kept_before = refused - np.arange(len(refused))
    names_of_rows = []
    for part, position in places:
        number = int(before[part]) + position
        ordinal = number + int(np.searchsorted(kept_before, number, side="right"))
        file = int(np.searchsorted(starts, ordinal, side="right")) - 1
        names_of_rows.append(f"{names[file]}:{ordinal - int(starts[file])}")
    return names_of_rows
