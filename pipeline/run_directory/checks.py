"""Checks of a run directory: refuses a place that cannot be written or that holds what no run does."""

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
#: Names beside a run that are its own.
_BESIDE = re.compile(r"\..+\.(next|old|lock|owner)")
#: Temporary names and those beside it are longer, and systems end at 255 bytes.
_LONGEST_NAME = 200


def check_place(run: str) -> None:
    """Refuses, before anything else is done, a place that cannot be written or that is somebody else's.

    Args:
      run: The run directory, an absolute path or a URL.
    Raises:
      UserError: It cannot be a folder, cannot be written, or holds what no run does; so does what stands
        under the names beside it that a run uses.
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
        # Rights are not all: a filesystem may be read-only, or none that files are made in. A file without a
        # name leaves nothing behind.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UserError(f"cannot be written: {reason}", parent, _ELSEWHERE) from error


def _check_ours(run: str) -> None:
    """Refuses a folder that holds what no run does; hidden files are left where they are."""
    names = files.list_dir(run)
    strangers = [name for name in names if name not in OURS and name[0] != "."]
    # Without a manifest it may be one whose place another is just taking.
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
    """Refuses what stands under a name of ours and is no run."""
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
      UserError: It is a mount point, its folder cannot be written, or the command was given in it.
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
    """Refuses links in the places that a run writes below or takes away: they lead to what is somebody's.

    The run directory itself may be one, to another disk, say.
    """
    within = [os.path.join(run, inner) for inner in (WORK, *FOLDERS)]
    for path in (*within, beside(run), neighbour(run, "old")):
        if os.path.islink(path):
            raise UserError("is a symbolic link, and a run would write to its target", path, "remove it")


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
            target = _real(path)
            if target == inside or target.startswith(inside.rstrip("/") + "/"):
                place = f"{where}: {key}" if key else where
                raise UserError(f"{path} lies in the run directory {run}", place, _ELSEWHERE)


def check_outside(path: str, run: str) -> None:
    """Refuses a place in a run directory for what is no part of the run.

    Args:
      path: Of a file or a folder that is to be written.
      run: The run directory.
    Raises:
      UserError: It is there; symbolic links are followed.
    """
    inside = _real(run).rstrip("/")
    if f"{_real(path).rstrip('/')}/".startswith(f"{inside}/"):
        raise UserError("is in the run directory", path, "choose a place outside it")


def _real(path: str) -> str:
    return path.rstrip("/") if files.is_url(path) else os.path.realpath(path.removeprefix("file://"))
