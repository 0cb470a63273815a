"""Names of the files of a run: tables, manifest, report, and the folder of an unfinished run."""

from __future__ import annotations

import re

#: The folder of an unfinished run: its journal, its baseline, its progress.
WORK = "_work"
MANIFEST = "manifest.json"
IMPORTANCE = "importance.parquet"
#: Further data of the report: a sample of rows, mean |φ| by position in tensors, and interactions.
SAMPLE, POSITIONS, INTERACTIONS = (
    f"report/{name}.parquet" for name in ("sample", "positions", "interactions")
)
#: The state that a later run may add to, and the baseline that another run may use.
STATE, BASELINE = "report/state.parquet", "report/baseline.parquet"
#: Tables of the run as a whole, written at its commit.
AGGREGATES = (IMPORTANCE, SAMPLE, POSITIONS, INTERACTIONS, STATE, BASELINE)
REPORT = "report.html"
#: Folders of tables.
FOLDERS = ("attributions", "rejected", "report")
#: Paths of tables.
_NAME = re.compile(r"(attributions|rejected)/part-\d{5,}\.parquet|" + "|".join(map(re.escape, AGGREGATES)))


def is_table(file: str) -> bool:
    """True for a path in a run directory that is the path of one of a run's tables."""
    return _NAME.fullmatch(file) is not None


def part_name(shard: int) -> str:
    """The file name of a shard's parts."""
    return f"part-{shard:05d}.parquet"
