"""The layout of a run directory: its own names, and the hidden names beside it."""

from __future__ import annotations

from transforms.outputs.run_files import FOLDERS, IMPORTANCE, MANIFEST, REPORT, WORK
from transforms.storage import files

#: The file in `_work` that holds the baseline for workers.
REFERENCE = "reference.npz"
#: Names of a run's own files and folders; all other names are foreign.
OURS = frozenset({MANIFEST, WORK, *FOLDERS, IMPORTANCE, REPORT})


def beside(run: str) -> str:
    """The directory of the run that will replace this one, while it is made."""
    return neighbour(run, "next")


def is_under_way(place: str, target: str) -> bool:
    """Whether a replacing run lies beside its target, unfinished or ready to be moved."""
    return place != target and any(files.exists(files.join(place, name)) for name in (WORK, MANIFEST))


def neighbour(run: str, suffix: str) -> str:
    """A hidden name beside a run, for files that belong to the run but lie outside it."""
    folder, _, name = run.rstrip("/").rpartition("/")
    return f"{folder}/.{name}.{suffix}"
