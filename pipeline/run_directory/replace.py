"""Replacing a committed run by another, and finishing a replacement that was cut short."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable

from pipeline.run_directory.layout import OURS, beside, neighbour
from transforms.outputs.run_files import FOLDERS, MANIFEST, is_table
from transforms.storage import files

#: The temporary name of a table that is being written.
_HALF = re.compile(r"\..*\.tmp")


def swap(place: str, target: str) -> None:
    """Moves a committed run to the place of another.

    Locally by two renames; `recover` repairs a kill between them. An object store cannot rename folders: the
    old manifest is removed first and the new one moved last, so that no reader takes parts of both for one
    run, and an interrupted move is completed when it is repeated.
    """
    if files.is_url(target):
        _move_remote(place, target)
        return
    old = neighbour(target, "old")
    _remove(old)
    for name in os.listdir(target):
        if name not in OURS and not os.path.lexists(os.path.join(place, name)):
            os.rename(os.path.join(target, name), os.path.join(place, name))  # a hidden foreign file stays
    os.rename(target, old)
    os.rename(place, target)
    _remove(old)


def _remove(run: str) -> None:
    """Deletes a run, its manifest last: until then the remains can be recognised as a run."""
    for name in sorted(OURS - {MANIFEST}) if os.path.isdir(run) else ():
        files.delete_tree(os.path.join(run, name))
    files.delete_tree(run)


def recover(target: str) -> None:
    """Completes or reverts a `swap` that was killed halfway."""
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
        # Some stores cannot overwrite a target, so it is deleted first. Foreign names stay.
        if name.partition("/")[0] in OURS and (name not in whole or name in left):
            files.delete_tree(files.join(target, name))
    files.rename([files.join(place, name) for name in left], [files.join(target, name) for name in left])
    files.rename([files.join(place, MANIFEST)], [files.join(target, MANIFEST)])
    for name in OURS:
        files.delete_tree(files.join(place, name))


def sweep(run: str, parts: Iterable[str]) -> None:
    """Deletes tables that are not parts of a run: left by an earlier run or attempt, or half-written.

    Args:
      run: The run directory.
      parts: Paths of the files that stay, relative to it.
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
