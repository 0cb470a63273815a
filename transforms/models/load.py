"""Kinds of models: one file each, and one line here."""

from __future__ import annotations

import hashlib
import importlib
import os
from dataclasses import dataclass
from typing import Any

from transforms.errors import UserError
from transforms.models.base import CompiledAdapter, CompileOptions, ModelAdapter, TakesMissing
from transforms.models.devices import ANYWHERE, Device
from transforms.models.kinds.detect import BOOSTERS, KERAS, PICKLES, model_kind
from transforms.models.kinds.function import is_function, module_file, split_name
from transforms.models.users_code import search, users_modules
from transforms.wording import did_you_mean

#: Kind of model, as `model_kind` tells it: by what the path starts with or what the file or folder holds.
MODELS = {
    "python:": ("transforms.models.kinds.function", "FunctionModel"),
    ".keras": ("transforms.models.kinds.keras", "KerasModel"),
    ".h5": ("transforms.models.kinds.keras", "KerasModel"),
    ".hdf5": ("transforms.models.kinds.keras", "KerasModel"),
    "saved_model.pb": ("transforms.models.kinds.savedmodel", "SavedModel"),
    "XGBoost": ("transforms.models.kinds.trees.xgboost", "XGBoostModel"),
    "LightGBM": ("transforms.models.kinds.trees.lightgbm", "LightGBMModel"),
    "pickle": ("transforms.models.kinds.trees.pickles", "load_pickle"),
}


@dataclass(frozen=True)
class ModelRequest:
    """The `model` block of a config, as far as loading goes.

    Args:
      path: Local, a Beam filesystem URL, or `python:package.module:function`.
      modules: To import first.
      module_paths: Folders where these and a function's module may be, after Python's own path.
      allow_unsafe: Whether code in model files may be run.
      precision: float32 | mixed_float16 | mixed_bfloat16: of the model's products.
      jit: Whether XLA compiles what is run of it.
      missing: The number that an XGBoost model takes as missing, which its file does not keep.
      signature: Of a SavedModel; None: serving_default.
    """

    path: str
    modules: tuple[str, ...] = ()
    module_paths: tuple[str, ...] = ()
    allow_unsafe: bool = False
    precision: str = "float32"
    jit: bool = False
    missing: float | None = None
    signature: str | None = None

    @property
    def needs_tensorflow(self) -> bool:
        """Whether TensorFlow has to be started before it is loaded."""
        if is_function(self.path) or self.path.lower().endswith((*BOOSTERS, *PICKLES)):
            return False
        # What else a single file may be under any name is a pickle or a booster; of a URL nobody has looked.
        return self.path.lower().endswith(KERAS) or not os.path.isfile(self.path)


def load_model(request: ModelRequest, device: Device = ANYWHERE) -> ModelAdapter:
    """Loads a model by its suffix, its folder or its file's content.

    Args:
      request: What to load.
      device: Where it will run.

    Raises:
      UserError: No such model, an unknown kind, one that does not load, or that may not be loaded.
    """
    path, kind = locate(request)
    module_name, class_name = MODELS[kind]
    own = {} if request.signature is None else {"signature": request.signature}
    if own and kind != "saved_model.pb":
        raise UserError("only a SavedModel has signatures", "model.signature", "leave it out")
    make = getattr(importlib.import_module(module_name), class_name)
    try:
        with users_modules(request.modules, request.module_paths), device.placed():
            adapter: Any = make(path, allow_unsafe=request.allow_unsafe, **own)
    except UserError as error:
        # Of a URL the user does not know the copy's name.
        raise UserError(
            error.what, request.path if error.where == path else error.where, error.remedy
        ) from error
    if isinstance(adapter, CompiledAdapter):
        adapter.precision = request.precision
        adapter.compile_options = CompileOptions(request.jit, device.scope, device.lanes)
    elif request.precision != "float32" or request.jit:
        key = "jit" if request.jit else "precision"
        what = "is for TensorFlow models, and TensorFlow does not run this one"
        raise UserError(what, f"compute.{key}", "leave it out")
    if request.missing is not None:
        if not isinstance(adapter, TakesMissing):
            what = "is for XGBoost, whose files do not keep the number that is missing"
            raise UserError(what, "model.missing", "leave it out")
        adapter.take_missing(request.missing)
    found: ModelAdapter = adapter
    return found


def locate(request: ModelRequest) -> tuple[str, str]:
    """Where a model is on this machine, and its key of MODELS; TensorFlow need not have been started.

    Raises:
      UserError: No such model, or an unknown kind.
    """
    from transforms.storage import files

    path = request.path
    if not is_function(path):
        if not files.exists(path):
            folder, _, name = path.rstrip("/").rpartition("/")
            remedy = did_you_mean(name, files.list_dir(folder), "check model.path")
            raise UserError("there is no such model", path, remedy)
        path = files.local_copy(path)
        _check_readable(path)
    return path, model_kind(path)


def _check_readable(path: str) -> None:
    """A local model that may not be read is neither missing nor damaged.

    Raises:
      UserError: Permission is denied.
    """
    from transforms.storage import files

    graph = os.path.join(path, "saved_model.pb")
    if os.path.isdir(path):
        files.list_dir(path)
    for name in (path, graph):
        if os.path.isfile(name):
            files.open_input(name).close()


def request_digest(request: ModelRequest) -> str:
    """SHA-256 of a model's files; of a function, of its name and its module's source alone."""
    from transforms.storage import files

    if is_function(request.path):
        search(request.module_paths)  # and not where another config's modules were
        source = model_digest(module_file(request.path, request.module_paths))
        # A module may hold several.
        whole = f"{split_name(request.path)[1]} {source}".encode()
        return f"sha256:{hashlib.sha256(whole).hexdigest()}"
    return model_digest(files.local_copy(request.path))


def request_bytes(request: ModelRequest) -> int:
    """Bytes of a model's files; what a function's module loads nobody knows."""
    from transforms.storage import files

    if is_function(request.path):
        return 0
    return sum(os.path.getsize(name) for name in _file_names(files.local_copy(request.path)))


def _file_names(path: str) -> list[str]:
    """The file of a local path, or those of its folder in order."""
    if not os.path.isdir(path):
        return [path]
    return sorted(os.path.join(root, name) for root, _, files in os.walk(path) for name in files)


def model_digest(path: str) -> str:
    """SHA-256 of a model file, or of a folder's files by name, of a local path."""
    found = hashlib.sha256()
    for name in _file_names(path):
        if os.path.isdir(path):
            found.update(os.path.relpath(name, path).encode() + b"\0")
        with open(name, "rb") as source:
            while block := source.read(1 << 20):
                found.update(block)
    return f"sha256:{found.hexdigest()}"
