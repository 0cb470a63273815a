"""The run directory as a place: whether a run may go there, and how one takes another's place."""

from __future__ import annotations

import json
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
    return neighbour(run, "next")


def neighbour(run: str, what: str) -> str:
    """A hidden name beside a run, for what belongs to it and is none of its parts."""
    folder, _, name = run.rstrip("/").rpartition("/")
    return f"{folder}/.{name}.{what}"


def swap(place: str, target: str) -> None:
    """Puts a committed run in the place of another.

    Here by two renames, between which `recover` helps. An object store has no renames of folders: the old
    manifest goes first and the new one comes last, so that no reader takes parts of both for one run, and
    what is left to move when it is cut short is moved when it is done again.
    """
    if files.is_url(target):
        _move_remote(place, target)
        return
    old = neighbour(target, "old")
    if os.path.exists(old):
        shutil.rmtree(old)
    os.rename(target, old)
    os.rename(place, target)
    shutil.rmtree(old)


def recover(target: str) -> None:
    """Finishes, or takes back, what a kill in the middle of `swap` has left of two runs."""
    old, following = neighbour(target, "old"), beside(target)
    if files.is_url(target):
        if files.exists(files.join(following, MANIFEST)) and not files.exists(files.join(target, MANIFEST)):
            _move_remote(following, target)
        return
    if not os.path.isdir(old):
        return
    if not os.path.exists(target):
        whole = os.path.exists(os.path.join(following, MANIFEST))
        os.rename(following if whole else old, target)
    if os.path.exists(old):
        shutil.rmtree(old)


def _move_remote(place: str, target: str) -> None:
    files.delete_tree(files.join(target, MANIFEST))
    found = json.loads(files.read_bytes(files.join(place, MANIFEST)))
    whole = {part["file"] for part in found["parts"]}
    left = [name for name in files.tree(place) if name in whole]
    for name in files.tree(target):
        # Not every store replaces what stands at a target.
        if name not in whole or name in left:
            files.delete_tree(files.join(target, name))
    files.rename([files.join(place, name) for name in left], [files.join(target, name) for name in left])
    files.rename([files.join(place, MANIFEST)], [files.join(target, MANIFEST)])
    files.delete_tree(place)


def sweep(run: str, parts: Iterable[str]) -> None:
    """Takes away what is none of a run's parts: left by an earlier run, an earlier attempt, or half-written.

    Args:
      run: The run directory.
      parts: Paths in it, of all that stays.
    """
    wanted = set(parts)
    for folder in ("attributions", "rejected"):
        for name in files.list_dir(files.join(run, folder)):
            if f"{folder}/{name}" not in wanted:
                files.delete_tree(files.join(run, folder, name))
    for name in files.list_dir(run):
        if name.startswith(".") and name.endswith(".tmp"):
            files.delete_tree(files.join(run, name))
