"""Summaries of a committed run: each target's kind of score, and how many rows were rejected and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.tables import RunTables


def score_kinds(manifest: Mapping[str, Any]) -> dict[int, str]:
    """The kind of score that is explained, by target: logit, probability or output."""
    kinds: list[str] = []
    for head in manifest["model"]["outputs"]:
        kinds += [str(head["score"])] * math.prod(extent or 1 for extent in head["shape"])
    return dict(enumerate(kinds))


def rejected_by_reason(run: RunTables) -> dict[str, int]:
    """Number of rejected rows by reason, most frequent reason first.

    Cost: reads one column of the rejected rows.
    """
    counts: dict[str, int] = {}
    for part in run.parts("rejected"):
        reasons = pq.read_table(files.local_copy(part), columns=["reason"])["reason"]
        for item in reasons.value_counts().to_pylist():
            counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
