"""Checks a run directory: it must be writable and must not hold foreign files."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Sequence

from pipeline.run_directory.layout import OURS, beside, neighbour
from transforms.errors import UserError
from transforms.outputs.run_files import FOLDERS, MANIFEST, WORK, is_table
from transforms.storage import files

_ELSEWHERE = "give another output.path or --output"
#: Hidden names beside a run, for its temporary files.
_BESIDE = re.compile(r"\..+\.(next|old|lock|owner)")
#: Most bytes of a run's name: temporary and hidden names add to it, and file systems allow 255 bytes.
_LONGEST_NAME = 200


def check_place(run: str) -> None:
    """Refuses, before anything else is done, a directory that cannot be written or holds foreign files.

    Args:
      run: The run directory, an absolute path or a URL.
    Raises:
      UserError: The directory cannot be made or written, or holds foreign files; or a foreign file has one
        of the hidden names beside it.
    """
    name = run.rstrip("/").rpartition("/")[2]
    if _BESIDE.fullmatch(name):
        raise UserError("has a name that is reserved for the temporary files of a run", run, _ELSEWHERE)
    if files.is_url(run):
        _check_ours(run)
        return
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise UserError("has a name that is too long", run, _ELSEWHERE)
    parent = run
    while not files.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise UserError("is a file", parent, _ELSEWHERE)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError("cannot be written: permission denied", parent, _ELSEWHERE)
    _check_links(run)
    _check_ours(run)
    for path in (beside(run), neighbour(run, "old")):
        _check_neighbour(path)
    try:
        # Permissions are not enough: a filesystem may be read-only or full. An unnamed file leaves nothing
        # behind.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UserError(f"cannot be written: {reason}", parent, _ELSEWHERE) from error


def _check_ours(run: str) -> None:
    """Refuses a folder with files that do not belong to a run; hidden files are allowed."""
    names = files.list_dir(run)
    strangers = [name for name in names if name not in OURS and name[0] != "."]
    # A run without a manifest may be one that is just being replaced.
    begun = MANIFEST in names or WORK in names or files.exists(files.join(beside(run), MANIFEST))
    if strangers and begun:
        problem = f"holds a run and also {strangers[0]}, which does not belong to it"
        raise UserError(problem, run, f"move it away, or {_ELSEWHERE}")
    if strangers:
        raise UserError(f"is not a run directory: it holds {strangers[0]}", run, _ELSEWHERE)
    for folder in FOLDERS:
        names_inside = files.list_dir(files.join(run, folder))
        inside = [name for name in names_inside if name[0] != "." and not is_table(f"{folder}/{name}")]
        if inside:
            problem = f"holds {inside[0]}, which does not belong to a run"
            raise UserError(problem, files.join(run, folder), f"move it away, or {_ELSEWHERE}")
    ours = [name for name in names if name in OURS]
    if ours and not begun:
        problem = f"is not a run directory: it holds {ours[0]}, but neither a manifest nor a journal"
        raise UserError(problem, run, f"remove it, or {_ELSEWHERE}")


def _check_neighbour(path: str) -> None:
    """Refuses a file under one of the hidden names that is not a run."""
    if not os.path.lexists(path):
        return
    names = {name for name in files.list_dir(path) if name[0] != "."} if os.path.isdir(path) else {path}
    if names and (names - OURS or not names & {MANIFEST, WORK}):
        raise UserError("is in the place of a temporary run directory, and is not one", path, "move it away")


def check_replaceable(run: str) -> None:
    """Refuses, before any row is explained, to replace a run whose directory cannot be renamed.

    Args:
      run: The run directory, where a committed run stands.
    Raises:
      UserError: The directory is a mount point or the working directory, or its parent cannot be written.
    """
    if files.is_url(run):
        return
    parent = os.path.dirname(run)
    remedy = "give a folder inside it as --output, or another one"
    if os.stat(run).st_dev != os.stat(parent).st_dev:
        raise UserError("cannot be replaced by another run: it is a mount point", run, remedy)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot be replaced by another run: {parent} cannot be written", run, remedy)
    here = os.path.realpath(os.getcwd())
    if here == run or here.startswith(f"{run}/"):
        raise UserError(
            "cannot be replaced by a command that runs inside it", run, "run the command from another folder"
        )


def _check_links(run: str) -> None:
    """Refuses symbolic links in place of folders that a run writes to or deletes.

    A link may lead to foreign files. The run directory itself may be one, for example to another disk.
    """
    within = [os.path.join(run, inner) for inner in (WORK, *FOLDERS)]
    for path in (*within, beside(run), neighbour(run, "old")):
        if os.path.islink(path):
            raise UserError("is a symbolic link, and a run would write to its target", path, "remove it")


def check_apart(run: str, parts: Iterable[tuple[str, Sequence[str]]], where: str) -> None:
    """Refuses a run directory that holds the run's sources: a run that begins deletes old files.

    Args:
      run: The run directory.
      parts: Keys of the config with their paths; "" is the config itself.
      where: The name of the config in errors.
    Raises:
      UserError: A path is the run directory or lies in it; symbolic links are followed.
    """
    inside = _real(run)
    for key, paths in parts:
        for path in paths:
            target = _real(path)
            if target == inside or target.startswith(inside.rstrip("/") + "/"):
                place = f"{where}: {key}" if key else where
                raise UserError(f"{path} lies in the run directory {run}", place, _ELSEWHERE)


def check_outside(path: str, run: str) -> None:
    """Refuses an output inside a run directory that does not belong to the run.

    Args:
      path: The file or folder to be written.
      run: The run directory.
    Raises:
      UserError: The path lies inside the run directory; symbolic links are followed.
    """
    inside = _real(run).rstrip("/")
    if f"{_real(path).rstrip('/')}/".startswith(f"{inside}/"):
        raise UserError("is in the run directory", path, "choose a place outside it")


def _real(path: str) -> str:
    return path.rstrip("/") if files.is_url(path) else os.path.realpath(path.removeprefix("file://"))
