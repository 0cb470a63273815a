"""Names of the files of a run: tables, manifest, report, and the folder of an unfinished run."""

from __future__ import annotations

import re

#: The folder of an unfinished run, which holds the journal, the baseline and the progress.
WORK = "_work"
MANIFEST = "manifest.json"
IMPORTANCE = "importance.parquet"
#: Other tables for the report: a sample of rows, mean |φ| by position in tensors, and interactions.
SAMPLE, POSITIONS, INTERACTIONS = (
    f"report/{name}.parquet" for name in ("sample", "positions", "interactions")
)
#: The aggregation state to which a later run may add, and the baseline, which another run may use.
STATE, BASELINE = "report/state.parquet", "report/baseline.parquet"
#: Tables about the whole run, written when it is committed.
AGGREGATES = (IMPORTANCE, SAMPLE, POSITIONS, INTERACTIONS, STATE, BASELINE)
REPORT = "report.html"
#: Folders that hold tables.
FOLDERS = ("attributions", "rejected", "report")
#: The path of a table in a run directory.
_NAME = re.compile(r"(attributions|rejected)/part-\d{5,}\.parquet|" + "|".join(map(re.escape, AGGREGATES)))


def is_table(file: str) -> bool:
    """True if a path in a run directory is the path of a table."""
    return _NAME.fullmatch(file) is not None


def part_name(shard: int) -> str:
    """The file name of a shard's parts, the same in attributions/ and in rejected/."""
    return f"part-{shard:05d}.parquet"
