"""The runs of nights: which committed runs an audit reads, by date, and which of them can be compared."""

from __future__ import annotations

import datetime
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.audit.input_sample import InputSample, read_input_sample
from pipeline.results.run import Run, load_run
from pipeline.results.summaries import score_kinds
from pipeline.run_directory.committed import read_manifest
from transforms.errors import UserError
from transforms.storage import files

if TYPE_CHECKING:
    import pandas as pd

#: Columns of the importance that audits need.
_COLUMNS = (
    *("slice", "target", "target_name", "feature", "rows", "mean_abs", "mean_abs_low", "mean_abs_high"),
    *("mean", "std", "share", "positive", "rank"),
)
_DATE = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?!\d)")


@dataclass(frozen=True)
class Night:
    """A committed run and its date.

    Tables are read when they are first needed, and kept.

    Args:
      run: The run.
      date: The day that it explains.
    """

    run: Run
    date: datetime.date

    @cached_property
    def importance(self) -> pd.DataFrame:
        """The importance, indexed by (slice, target_name, feature).

        Raises:
          UserError: The table is missing or damaged, or lacks a column that audits need.
        """
        frame = self.run.importance()
        lacking = [name for name in _COLUMNS if name not in frame]
        if lacking:
            remedy = "explain again with this version"
            raise UserError(f"the importance has no column {lacking[0]}", self.run.path, remedy)
        return frame.set_index(["slice", "target_name", "feature"])

    @cached_property
    def inputs(self) -> InputSample | None:
        """The values of the features in the run's sample of rows; None where it keeps no sample."""
        return read_input_sample(self.run)

    @property
    def model(self) -> str:
        """The digest of the model."""
        return str(self.run.manifest["model"]["digest"])

    @property
    def baseline(self) -> str:
        """The digest of the baseline."""
        return str(self.run.manifest["baseline"]["digest"])


def open_night(path: str) -> Night:
    """Opens a committed run as a night.

    Raises:
      UserError: There is no committed run.
    """
    run = load_run(path)
    return Night(run, date_of(run.path, run.manifest))


def date_of(path: str, manifest: Any) -> datetime.date:
    """The day that a run explains: the last date in its path, else the day of its commit."""
    texts = [*reversed(_DATE.findall(path)), str(manifest["created"])[:10]]
    for text in texts:
        try:
            return datetime.date.fromisoformat(text)
        except ValueError:
            continue
    raise UserError("has no date", path, "name the folder of each night after its day, YYYY-MM-DD")


def earlier_nights(
    night: Night, against: Sequence[str] = (), *, most: int | None = None
) -> tuple[list[Night], dict[str, str]]:
    """Finds the earlier nights that a night is compared with.

    Args:
      night: The night that is audited.
      against: Runs with any date, or globs of runs, from which the earlier ones are taken. By default, the
        committed runs beside the night with its config's name.
      most: Only this number of the latest nights.
    Returns:
      The nights, oldest first, one for each date; and the reasons why runs were left out, by directory.
    Raises:
      UserError: A path of `against` names no committed run.
    Cost: reads the manifest of each run.
    """
    left: dict[str, str] = {}
    by_date: dict[datetime.date, Night] = {}
    named = {item.rstrip("/") for item in against}
    for path in _candidates(night, against):
        if path.rstrip("/") == night.run.path.rstrip("/"):
            continue
        other = _open(path, left)
        if other is None:
            continue
        if not against and other.run.manifest["name"] != night.run.manifest["name"]:
            continue
        if other.date >= night.date and path.rstrip("/") not in named:
            continue
        twin = by_date.get(other.date)
        if twin is None or str(twin.run.manifest["created"]) < str(other.run.manifest["created"]):
            by_date[other.date] = other
    nights = [by_date[date] for date in sorted(by_date)]
    return nights[-most:] if most else nights, left


def _candidates(night: Night, against: Sequence[str]) -> list[str]:
    if not against:
        parent, _, _ = night.run.path.rstrip("/").rpartition("/")
        return _folders(parent or ".", "*")
    paths: list[str] = []
    for item in against:
        folder, _, pattern = item.rstrip("/").rpartition("/")
        if not any(sign in pattern for sign in "*?["):
            load_run(item)  # a run that is named must exist
            paths.append(item)
            continue
        matches = _folders(folder or ".", pattern)
        if not matches:
            raise UserError("no run matches", f"--against {item}", "check the path")
        paths += matches
    return list(dict.fromkeys(paths))


def _folders(parent: str, pattern: str) -> list[str]:
    names = sorted(name for name in files.list_dir(parent) if not name.startswith("."))
    return [files.join(parent, name) for name in names if fnmatch.fnmatchcase(name, pattern)]


def _open(path: str, left: dict[str, str]) -> Night | None:
    try:
        manifest = read_manifest(path)
        return None if manifest is None else Night(Run(path, manifest), date_of(path, manifest))
    except UserError as error:
        left[path] = error.what
        return None


def incomparable(night: Night, other: Night) -> str | None:
    """Why φ of another night cannot be compared with a night's; None where it can.

    The model may differ: what that changes is the verdict's subject.
    """
    mine, theirs = night.run.manifest, other.run.manifest
    if mine["config"]["method"] != theirs["config"]["method"]:
        names = [manifest["config"]["method"]["name"] for manifest in (theirs, mine)]
        return f"its method is {names[0]}" if names[0] != names[1] else f"{names[0]} has other keys"
    if night.baseline != other.baseline:
        return "its baseline differs"
    if score_kinds(mine) != score_kinds(theirs):
        return "its score differs"
    if mine["config"]["input"].get("weight") != theirs["config"]["input"].get("weight"):
        return "its weights differ"
    return None
