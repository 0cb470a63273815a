"""The files of a run by name: tables, manifest, report, and the folder of a run that is under way."""

from __future__ import annotations

import re

#: The folder of a run that is under way: its journal, its baseline, its progress.
WORK = "_work"
MANIFEST = "manifest.json"
IMPORTANCE = "importance.parquet"
#: What the report shows besides the importance: rows drawn at random, mean |φ| by position in features that
#: are tensors, and which feature modulates which.
SAMPLE, POSITIONS, INTERACTIONS = (
    f"report/{name}.parquet" for name in ("sample", "positions", "interactions")
)
#: What another run may add to, and the rows that it may be compared by.
STATE, BASELINE = "report/state.parquet", "report/baseline.parquet"
#: Tables of the run as a whole, written at its commit.
AGGREGATES = (IMPORTANCE, SAMPLE, POSITIONS, INTERACTIONS, STATE, BASELINE)
REPORT = "report.html"
#: Folders of tables.
FOLDERS = ("attributions", "rejected", "report")
#: What tables are called.
_NAME = re.compile(r"(attributions|rejected)/part-\d{5,}\.parquet|" + "|".join(map(re.escape, AGGREGATES)))


def is_table(file: str) -> bool:
    """Whether a path in a run directory is one that a run gives a table."""
    return _NAME.fullmatch(file) is not None


def part_name(shard: int) -> str:
    """The file name of a shard's parts."""
    return f"part-{shard:05d}.parquet"
