"""Kinds of models: one file each, and one line here."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches

from transforms.errors import UserError
from transforms.models.base import ModelAdapter

#: Kind of model by what its path ends in; a folder is known by what is in it.
MODELS = {
    ".keras": ("transforms.models.keras", "KerasModel"),
    ".h5": ("transforms.models.keras", "KerasModel"),
    ".hdf5": ("transforms.models.keras", "KerasModel"),
    "saved_model.pb": ("transforms.models.savedmodel", "SavedModel"),
}


@dataclass(frozen=True)
class ModelRequest:
    """The `model` block of a config, as far as loading goes; `path` is local or a Beam filesystem URL."""

    path: str
    modules: tuple[str, ...] = ()
    module_paths: tuple[str, ...] = ()
    allow_unsafe: bool = False


def load_model(request: ModelRequest) -> ModelAdapter:
    """Loads a model by its suffix or folder.

    Raises:
      UserError: No such model, an unknown kind, one that does not load, or that may not be loaded.
    """
    from transforms import files

    if not files.exists(request.path):
        folder, _, name = request.path.rstrip("/").rpartition("/")
        near = get_close_matches(name, files.list_dir(folder), n=2)
        raise UserError(
            "there is no such model",
            request.path,
            f"did you mean {' or '.join(near)}?" if near else "check model.path",
        )
    path = files.local_copy(request.path)
    _check_readable(path)
    kind = model_kind(path)
    for folder in request.module_paths:
        if folder not in sys.path:
            sys.path.append(folder)
    for module in request.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"cannot be imported: {error}",
                f"model.modules {module}",
                "put it on PYTHONPATH or beside the config",
            ) from error
    module_name, class_name = MODELS[kind]
    try:
        adapter: ModelAdapter = getattr(importlib.import_module(module_name), class_name)(
            path, allow_unsafe=request.allow_unsafe
        )
    except UserError as error:
        # Of a URL the user does not know the copy's name.
        raise UserError(
            error.what, request.path if error.where == path else error.where, error.remedy
        ) from error
    return adapter


def _check_readable(path: str) -> None:
    """A local model that may not be read is neither missing nor damaged.

    Raises:
      UserError: Permission is denied.
    """
    from transforms import files

    graph = os.path.join(path, "saved_model.pb")
    if os.path.isdir(path):
        files.list_dir(path)
    for name in (path, graph):
        if os.path.isfile(name):
            files.open_input(name).close()


def model_kind(path: str) -> str:
    """The key of MODELS for a local path.

    Raises:
      UserError: It is no kind of model that is known.
    """
    if os.path.isdir(path):
        for kind in MODELS:
            if not kind.startswith(".") and os.path.exists(os.path.join(path, kind)):
                return kind
        raise UserError(
            "the folder holds no saved_model.pb", path, "name a SavedModel folder or a .keras file"
        )
    for kind in MODELS:
        if kind.startswith(".") and path.lower().endswith(kind):
            return kind
    suffix = os.path.splitext(path)[1] or "no suffix"
    known = ", ".join(kind for kind in MODELS if kind.startswith("."))
    raise UserError(
        f"{suffix} is no kind of model known", path, f"known are {known} files and SavedModel folders"
    )


def model_digest(path: str) -> str:
    """SHA-256 of a model file, or of a folder's files by name, of a local path."""
    found = hashlib.sha256()
    names = [path]
    if os.path.isdir(path):
        names = sorted(os.path.join(root, name) for root, _, files in os.walk(path) for name in files)
    for name in names:
        if os.path.isdir(path):
            found.update(os.path.relpath(name, path).encode() + b"\0")
        with open(name, "rb") as source:
            while block := source.read(1 << 20):
                found.update(block)
    return f"sha256:{found.hexdigest()}"
