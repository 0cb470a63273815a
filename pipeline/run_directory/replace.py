"""Replacing a committed run by another, and finishing a replacement that was cut short."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable

from pipeline.run_directory.layout import OURS, beside, neighbour
from transforms.outputs.run_files import FOLDERS, MANIFEST, is_table
from transforms.storage import files

#: A table that is half written.
_HALF = re.compile(r"\..*\.tmp")


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
    _remove(old)
    for name in os.listdir(target):
        if name not in OURS and not os.path.lexists(os.path.join(place, name)):
            os.rename(os.path.join(target, name), os.path.join(place, name))  # somebody's, and hidden
    os.rename(target, old)
    os.rename(place, target)
    _remove(old)


def _remove(run: str) -> None:
    """Takes a run away, its manifest last: what is left of it is known for one until then."""
    for name in sorted(OURS - {MANIFEST}) if os.path.isdir(run) else ():
        files.delete_tree(os.path.join(run, name))
    files.delete_tree(run)


def recover(target: str) -> None:
    """Finishes, or takes back, what a kill in the middle of `swap` has left of two runs."""
    old, following = neighbour(target, "old"), beside(target)
    if files.is_url(target):
        if files.exists(files.join(following, MANIFEST)) and not files.exists(files.join(target, MANIFEST)):
            _move_remote(following, target)
        return
    if not files.exists(old):
        return
    if not files.exists(target):
        whole = files.exists(os.path.join(following, MANIFEST))
        os.rename(following if whole else old, target)
    _remove(old)


def _move_remote(place: str, target: str) -> None:
    files.delete_tree(files.join(target, MANIFEST))
    manifest = json.loads(files.read_bytes(files.join(place, MANIFEST)))
    whole = {part["file"] for part in manifest["parts"]}
    left = [name for name in files.tree(place) if name in whole]
    for name in files.tree(target):
        # Not every store replaces what stands at a target. What no run has is somebody's.
        if name.partition("/")[0] in OURS and (name not in whole or name in left):
            files.delete_tree(files.join(target, name))
    files.rename([files.join(place, name) for name in left], [files.join(target, name) for name in left])
    files.rename([files.join(place, MANIFEST)], [files.join(target, MANIFEST)])
    for name in OURS:
        files.delete_tree(files.join(place, name))


def sweep(run: str, parts: Iterable[str]) -> None:
    """Takes away what is none of a run's parts: left by an earlier run, an earlier attempt, or half-written.

    Args:
      run: The run directory.
      parts: Paths in it, of all that stays.
    """
    wanted = set(parts)
    for folder in FOLDERS:
        for name in files.list_dir(files.join(run, folder)):
            file = f"{folder}/{name}"
            if file not in wanted and (is_table(file) or _HALF.fullmatch(name)):
                files.delete_tree(files.join(run, file))
    for name in files.list_dir(run):
        if name.startswith(".") and name.endswith(".tmp"):
            files.delete_tree(files.join(run, name))
