"""Importing the user's own modules that a model needs, and removing them before the next model is loaded.

A process may explain with several configs. Python keeps imported modules, and classes that they register with
Keras are global: one config would get another config's `layers.py` or registered classes. Therefore all
modules and classes that loading a model brings in are removed before the next model is loaded. Modules are
searched for in Python's path and next to the config.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transforms.errors import UserError

_OWN = __name__.partition(".")[0], "pipeline"
_INSTALLED = ("site-packages", "dist-packages")

_searched: list[str] = []
_brought: dict[str, Any] = {}
#: By registered name: the object that loading the last model registered, and the object that had the name
#: before, or None.
_registered: dict[str, tuple[Any, Any]] = {}
#: By source file of the user's modules: its size and modification time when it was first seen.
_seen: dict[str, tuple[int, int]] = {}
_generation = [0]


def search(folders: tuple[str, ...]) -> None:
    """Adds these folders to Python's path, and removes the folders of an earlier config."""
    for folder in _searched:
        if folder in sys.path:  # an embedding program may have removed it
            sys.path.remove(folder)
    _searched[:] = [folder for folder in folders if folder not in sys.path]
    sys.path.extend(_searched)


@contextmanager
def users_modules(modules: Sequence[str], folders: tuple[str, ...]) -> Iterator[None]:
    """Imports a config's modules, and records all user modules and Keras classes that the context adds.

    Args:
      modules: Names of the modules to import, as in the config.
      folders: Folders to search for modules after Python's own path.
    Raises:
      UserError: A module cannot be imported.
    """
    _forget()
    search(folders)
    before, objects = set(sys.modules), dict(_keras_objects())
    # No compiled files are written: Python would not notice a second edit within one second.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        for module in modules:
            _register(_imported(module))
        yield
    finally:
        sys.dont_write_bytecode = writes
        new = set(sys.modules) - before
        _brought.update((name, sys.modules[name]) for name in new if _is_users(name, folders))
        _registered.update(
            (name, (value, objects.get(name)))
            for name, value in _keras_objects().items()
            if objects.get(name) is not value
        )


def generation() -> int:
    """A number that changes whenever a source file of one of the user's loaded modules has changed."""
    files = {str(getattr(sys.modules[name], "__file__", "")) for name in _theirs()}
    for file in filter(os.path.isabs, files):
        try:
            state = os.stat(file)
            stamp = state.st_size, state.st_mtime_ns
        except OSError:  # the file was deleted
            stamp = -1, -1
        if _seen.setdefault(file, stamp) != stamp:
            _seen.clear()
            _generation[0] += 1
            break
    return _generation[0]


def _theirs() -> list[str]:
    """Names of the user's loaded modules, including those that a function imports when it is first called."""
    ours = [name for name, module in _brought.items() if sys.modules.get(name) is module]
    beside = [name for name in list(sys.modules) if _is_users(name, tuple(_searched))]
    return list(dict.fromkeys([*ours, *beside]))


def _forget() -> None:
    for name in _theirs():
        del sys.modules[name]
    _brought.clear()
    objects = _keras_objects()
    for name, (ours, before) in _registered.items():
        if objects.get(name) is ours:
            del objects[name]
            if before is not None:
                objects[name] = before
    _registered.clear()
    _seen.clear()
    importlib.invalidate_caches()


def _is_users(name: str, folders: Sequence[str]) -> bool:
    """True if a loaded module is one of the user's source files in one of the folders."""
    if name == "__main__" or name.partition(".")[0] in _OWN:
        return False
    place = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(place, str) or not place.endswith(".py"):
        return False
    place = os.path.abspath(place)
    if any(part in _INSTALLED for part in place.split(os.sep)):
        return False
    return any(place.startswith(os.path.join(os.path.abspath(folder), "")) for folder in folders)


def _imported(module: str) -> Any:
    """Imports a module that the config names; its code may raise any exception."""
    where, remedy = f"model.modules {module}", "put it on PYTHONPATH or beside the config"
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"cannot be imported: {error}", where, remedy) from error
    except Exception as error:
        line = next((row for row in str(error).splitlines() if row.strip()), "")
        what = f"cannot be imported: {type(error).__name__}: {line.strip()[:200]}"
        raise UserError(what, where, "fix the module, or leave it out") from error


def _keras_objects() -> Any:
    """Objects registered with Keras, by name; empty if Keras is not imported."""
    if "keras" not in sys.modules:
        return {}
    import keras

    return keras.saving.get_custom_objects()


def _register(module: Any) -> None:
    """Registers a module's Keras classes again, since classes of another module may have replaced them."""
    if "keras" not in sys.modules:
        return
    import keras

    objects = keras.saving.get_custom_objects()
    named: Mapping[str, Any] = {
        keras.saving.get_registered_name(value): value
        for value in vars(module).values()
        if callable(value) and hasattr(value, "__name__")
    }
    objects.update({name: value for name, value in named.items() if ">" in name})
