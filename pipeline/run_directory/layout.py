"""The layout of a run directory: its own names, and the hidden names beside it."""

from __future__ import annotations

from transforms.outputs.run_files import FOLDERS, IMPORTANCE, MANIFEST, REPORT, WORK
from transforms.storage import files

#: In it, the baseline that workers read.
REFERENCE = "reference.npz"
#: What may stand in a folder that a run takes over: anything else is somebody's.
OURS = frozenset({MANIFEST, WORK, *FOLDERS, IMPORTANCE, REPORT})


def beside(run: str) -> str:
    """Where the run is made that will replace this one."""
    return neighbour(run, "next")


def is_under_way(place: str, target: str) -> bool:
    """Whether a run is being made beside the one that it is to replace, or waits there to take its place."""
    return place != target and any(files.exists(files.join(place, name)) for name in (WORK, MANIFEST))


def neighbour(run: str, suffix: str) -> str:
    """A hidden name beside a run, for what belongs to it and is none of its parts."""
    folder, _, name = run.rstrip("/").rpartition("/")
    return f"{folder}/.{name}.{suffix}"
