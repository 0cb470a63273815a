"""The rule `freshness`: how old the latest row of the input is."""

from __future__ import annotations

import datetime

import pyarrow as pa

from pipeline.audit.checks.base import bounded, finding_of
from pipeline.audit.checks.context import Context, Test
from pipeline.audit.findings import Finding
from pipeline.audit.rules import Freshness
from pipeline.wording import count
from transforms.arrow.value_text import as_text
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import SAMPLE
from transforms.storage import files


def freshness_checks(rule: Freshness, context: Context) -> tuple[list[Test], list[Finding]]:
    """Checks the age of the latest value of a column of days, in days before the night's date."""
    path = files.join(context.tonight.run.path, SAMPLE)
    if not files.exists(path):
        return [], [finding_of(rule, "skipped", "tonight's run keeps no sample of rows", slice=None)]
    table = read_whole(path)
    if rule.column not in table.column_names:
        message = f"the sample has no column {rule.column!r}; columns of slices are in it"
        return [], [finding_of(rule, "error", message, slice=None)]
    latest = _latest(table[rule.column])
    if latest is None:
        message = f"the column {rule.column!r} holds no days in ISO format"
        return [], [finding_of(rule, "error", message, slice=None)]
    age = (context.tonight.date - latest).days
    message = f"the latest {rule.column} is {latest}, {count(age, 'day')} before the night's date"
    return [], [bounded(rule, float(age), message, slice=None, statistic="age_days")]


def _latest(column: pa.ChunkedArray) -> datetime.date | None:
    """The latest day among the values; None if a value is no day."""
    texts = [text for text in as_text(column.combine_chunks()).to_pylist() if text is not None]
    try:
        days = [datetime.date.fromisoformat(text[:10]) for text in texts]
    except ValueError:
        return None
    return max(days, default=None)
