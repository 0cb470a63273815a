"""The run directory as a place: whether a run may go there, and how one takes another's place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence

from transforms import files
from transforms.errors import UserError

MANIFEST = "manifest.json"
WORK = "_work"
#: What may stand in a folder that a run takes over: anything else is somebody's.
OURS = frozenset({MANIFEST, WORK, "attributions", "rejected", "importance.parquet", "report.html"})
_ELSEWHERE = "give another output.path or --output"


def check_place(run: str) -> None:
    """Refuses, before anything else is done, a place that cannot be written or that is somebody else's.

    Args:
      run: The run directory, an absolute path or a URL.
    Raises:
      UserError: It cannot be a folder, cannot be written, or holds what no run does.
    """
    if files.is_url(run):
        return
    parent = run
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise UserError("is a file", parent, _ELSEWHERE)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError("cannot be written: permission denied", parent, _ELSEWHERE)
    _check_links(run)
    strangers = sorted(name for name in files.list_dir(run) if name not in OURS and name[0] != ".")
    if strangers and any(os.path.exists(os.path.join(run, name)) for name in (MANIFEST, WORK)):
        what = f"{strangers[0]} stands in the way: it is no part of the run that is there"
        raise UserError(what, run, f"move it away, or {_ELSEWHERE}")
    if strangers:
        raise UserError(f"is no run directory: it holds {strangers[0]}", run, _ELSEWHERE)
    try:
        # Rights are not all: a filesystem may be read-only, or none that files are made in. A file without a
        # name leaves nothing behind.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UserError(f"cannot be written: {reason}", parent, _ELSEWHERE) from error


def _check_links(run: str) -> None:
    """Refuses links in the places that a run writes below or takes away: they lead to what is somebody's.

    The run directory itself may be one, to another disk, say.
    """
    folder, name = os.path.split(run.rstrip("/"))
    within = [os.path.join(run, inner) for inner in (WORK, "attributions", "rejected")]
    for path in (*within, beside(run), os.path.join(folder, f".{name}.old")):
        if os.path.islink(path):
            raise UserError("is a symbolic link, and a run would write where it leads", path, "remove it")


def check_apart(run: str, parts: Iterable[tuple[str, Sequence[str]]], where: str) -> None:
    """Refuses a run directory that holds what the run is made from: a run that begins takes old files away.

    Args:
      run: The run directory.
      parts: Keys of the config with the paths that they name; "" is the config itself.
      where: What to call the config.
    Raises:
      UserError: A path lies in the run directory, or is it; symbolic links are followed.
    """
    inside = _real(run)
    for key, paths in parts:
        for path in paths:
            found = _real(path)
            if found == inside or found.startswith(inside.rstrip("/") + "/"):
                place = f"{where}: {key}" if key else where
                raise UserError(f"{path} lies in the run directory {run}", place, _ELSEWHERE)


def _real(path: str) -> str:
    return path.rstrip("/") if files.is_url(path) else os.path.realpath(path.removeprefix("file://"))


def beside(run: str) -> str:
    """Where the run is made that will replace this one."""
    folder, name = os.path.split(run)
    return os.path.join(folder, f".{name}.next")


def swap(place: str, target: str) -> None:
    """Puts a committed run in the place of another, by two renames."""
    folder, name = os.path.split(target)
    old = os.path.join(folder, f".{name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    os.rename(place, target)
    shutil.rmtree(old)


def clear(run: str, parts: Iterable[str]) -> None:
    """Takes an earlier run's manifest away, and its parts but for those of these names."""
    files.delete_tree(files.join(run, MANIFEST))
    wanted = set(parts)
    for folder in ("attributions", "rejected"):
        for name in files.list_dir(files.join(run, folder)):
            if name not in wanted:
                files.delete_tree(files.join(run, folder, name))


def sweep(run: str) -> None:
    """Takes away what killed workers left half-written under temporary names."""
    if files.is_url(run):
        return
    for folder in (run, files.join(run, "attributions"), files.join(run, "rejected")):
        for name in files.list_dir(folder):
            if name.startswith(("_", ".")) and name.endswith(".tmp"):
                files.delete_tree(files.join(folder, name))
