"""Loading of models by their kind; each kind of model has a module in kinds/ and a line in MODELS."""

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

#: Module and class (or function) that load a model, by its kind as `model_kind` determines it.
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
    """The part of a config's `model` block that loading needs.

    Args:
      path: A local path, a Beam filesystem URL, or `python:package.module:function`.
      modules: Modules to import before the model is loaded.
      module_paths: Folders in which `modules` and a function's module are searched for, after Python's path.
      allow_unsafe: Whether code in model files may be run.
      precision: Precision of the model's matrix products: float32 | mixed_float16 | mixed_bfloat16.
      jit: Whether XLA compiles the model's functions.
      missing: The number that an XGBoost model treats as missing, which its file does not store.
      signature: Name of the signature of a SavedModel; None means serving_default.
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
        """True if TensorFlow must be started before the model is loaded."""
        if is_function(self.path) or self.path.lower().endswith((*BOOSTERS, *PICKLES)):
            return False
        # Any other single local file is a pickle or a booster. The content of a URL is not known yet.
        return self.path.lower().endswith(KERAS) or not os.path.isfile(self.path)


def load_model(request: ModelRequest, device: Device = ANYWHERE) -> ModelAdapter:
    """Loads a model; `model_kind` finds its kind.

    Args:
      request: The model to load.
      device: The device on which the model will run.
    Raises:
      UserError: The model does not exist, is of an unknown kind, does not load, or may not be loaded; or the
        request has an option that this kind of model does not support.
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
        # The error should name the URL that the user gave, not its local copy.
        raise UserError(
            error.what, request.path if error.where == path else error.where, error.remedy
        ) from error
    if isinstance(adapter, CompiledAdapter):
        adapter.precision = request.precision
        adapter.compile_options = CompileOptions(request.jit, device.scope, device.lanes)
    elif request.precision != "float32" or request.jit:
        key = "jit" if request.jit else "precision"
        what = "is only for TensorFlow models, and TensorFlow does not run this one"
        raise UserError(what, f"compute.{key}", "leave it out")
    if request.missing is not None:
        if not isinstance(adapter, TakesMissing):
            what = "is only for XGBoost, whose files do not store the number that means missing"
            raise UserError(what, "model.missing", "leave it out")
        adapter.take_missing(request.missing)
    loaded: ModelAdapter = adapter
    return loaded


def locate(request: ModelRequest) -> tuple[str, str]:
    """Returns the model's local path and its key in MODELS; does not import TensorFlow.

    Raises:
      UserError: The model does not exist or is of an unknown kind.
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
    """Refuses a local model that may not be read; without the check it would seem missing or damaged.

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
    """SHA-256 of a model's files; for a function, of its name and the source file of its module only."""
    from transforms.storage import files

    if is_function(request.path):
        search(request.module_paths)  # replaces the folders of an earlier config
        source = model_digest(module_file(request.path, request.module_paths))
        # The name is hashed too, because a module may hold several functions.
        whole = f"{split_name(request.path)[1]} {source}".encode()
        return f"sha256:{hashlib.sha256(whole).hexdigest()}"
    return model_digest(files.local_copy(request.path))


def request_bytes(request: ModelRequest) -> int:
    """Total size of a model's files in bytes; 0 for a function, as its module may load any files."""
    from transforms.storage import files

    if is_function(request.path):
        return 0
    return sum(os.path.getsize(name) for name in _file_names(files.local_copy(request.path)))


def _file_names(path: str) -> list[str]:
    """The path itself if it is a file; the sorted paths of all files in it if it is a folder."""
    if not os.path.isdir(path):
        return [path]
    return sorted(os.path.join(root, name) for root, _, files in os.walk(path) for name in files)


def model_digest(path: str) -> str:
    """SHA-256 of a local file; for a folder, of the names and contents of all its files."""
    digest = hashlib.sha256()
    for name in _file_names(path):
        if os.path.isdir(path):
            digest.update(os.path.relpath(name, path).encode() + b"\0")
        with open(name, "rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"
