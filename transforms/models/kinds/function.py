"""`python: package.module:function`: a callable on a dict of arrays as a model."""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transforms.errors import RowsRefused, UserError
from transforms.models.base import HeadSpec, InputSpec, Signature
from transforms.models.kinds.opaque import OpaqueModel
from transforms.wording import did_you_mean, names_in_words

PREFIX = "python:"
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_function(path: str) -> bool:
    """Whether a model's path names a function."""
    return path.startswith(PREFIX)


def split_name(path: str) -> tuple[str, str]:
    """Module and function of `python: package.module:function`.

    Raises:
      UserError: It has another form.
    """
    module, _, function = path.removeprefix(PREFIX).strip().partition(":")
    module, function = module.strip(), function.strip()
    if not (_NAME.fullmatch(module) and _NAME.fullmatch(function)):
        raise UserError(f"{path!r} names no function", "model.path", "write python: package.module:function")
    return module, function


def module_file(path: str, folders: Sequence[str] = ()) -> str:
    """The source file of a function's module, found without running it or its packages.

    Args:
      path: `python: package.module:function`.
      folders: Searched after Python's own path.
    Raises:
      UserError: There is no such module, or it is not a file of Python.
    """
    module, _ = split_name(path)
    spec, places = None, None
    for end in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:end])
        spec = _find(name, places) or (_find(name, folders) if end == 1 and folders else None)
        places = None if spec is None else spec.submodule_search_locations
        if spec is None or (places is None and name != module):
            raise UserError(
                f"there is no module {module}" + (f": {name} is none" if name != module else ""),
                f"model.path {path}",
                "put it on PYTHONPATH or beside the config",
            )
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        raise UserError(f"{module} is no file of Python", f"model.path {path}", "name the module in it")
    return os.path.abspath(spec.origin)


def _find(name: str, places: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Where a module is, whether or not one of its name is loaded; None searches Python's path."""
    for finder in sys.meta_path:
        found = finder.find_spec(name, places)
        if found is not None:
            return found
    return None


class FunctionModel:
    """A function as a model: a dict of arrays `[rows, …]` in, `[rows]` or `[rows, T]` out.

    Strings are `str`. Naming the function in a config is the permission to run it. It need not be safe to
    call from several threads: one at a time calls it. The arrays are its own, to do with as it likes.

    Args:
      path: `python: package.module:function`.
      allow_unsafe: Without effect.
    Raises:
      UserError: The module cannot be imported, or has no such function.
    """

    kind = "python"
    signature = None

    def __init__(self, path: str, *, allow_unsafe: bool = False) -> None:
        self.path = path
        module, name = split_name(path)
        where = f"model.path {path}"
        file = module_file(path)
        _forget_others(module, file)
        try:
            found: Any = importlib.import_module(module)
        except Exception as error:  # a module's own code raises what it likes
            line = next((row for row in str(error).splitlines() if row.strip()), "")
            raise UserError(
                f"{module} cannot be imported: {type(error).__name__}: {line.strip()[:200]}",
                where,
                f"mend {file}",
            ) from error
        for part in name.split("."):
            if not hasattr(found, part):
                functions = [n for n in vars(found) if callable(getattr(found, n))]
                remedy = did_you_mean(part, functions, f"define it in {file}")
                raise UserError(f"{module} has no {name}", where, remedy)
            found = getattr(found, part)
        if not callable(found) or inspect.isclass(found):
            raise UserError(f"{module}:{name} is no function", where, "name a function of a dict of arrays")
        self.function: Callable[[dict[str, np.ndarray]], Any] = found

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> ScoredFunction:
        """The function with its score, which is what it returns."""
        return ScoredFunction(self, shapes, score, example)


class ScoredFunction(OpaqueModel):
    """A function as a model with the score that is explained.

    Args:
      adapter: The function.
      shapes: Of each input, without the batch.
      score: auto or output: there is no other.
      example: Rows of each input; the outputs are counted on what it returns for them.
    Raises:
      UserError: It was asked for another score, or returns something else than numbers for rows.
    """

    def __init__(
        self,
        adapter: FunctionModel,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        example: Mapping[str, np.ndarray],
    ) -> None:
        if score not in ("auto", "output"):
            raise UserError(
                f"{score}: of a function only what it returns is known", "model.score", "leave it out"
            )
        self._function = adapter.function
        self._where = f"model.path {adapter.path}"
        self._calling = threading.Lock()
        self._outputs: int | None = None
        self._words = _some_words(example)
        inputs = tuple(
            InputSpec(name, shape, "string" if example[name].dtype == object else example[name].dtype.name)
            for name, shape in shapes.items()
        )
        super().__init__(adapter, Signature(inputs, ()), ("output",), "a Python function")
        self._outputs = self._count_outputs(example)
        shape = () if self._outputs == 1 else (self._outputs,)
        self.signature = Signature(inputs, (HeadSpec("output", shape),))

    def _count_outputs(self, example: Mapping[str, np.ndarray]) -> int:
        """Outputs T, by what the function returns for the example, or else for a row that it takes."""
        rows = len(next(iter(example.values())))
        reason: RowsRefused | None = None
        for part in (slice(None), *(slice(row, row + 1) for row in range(rows))):
            try:
                return self.evaluate({name: value[part] for name, value in example.items()})[0].shape[1]
            except RowsRefused as error:
                reason = reason or error
        what = f"the function takes none of {rows} background rows: {reason}"
        remedy = f"mend it or them; it is given {names_in_words(list(example), 12)}"
        raise UserError(what, self._where, remedy) from reason

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rows = len(next(iter(inputs.values())))
        given = {name: _own(value) for name, value in inputs.items()}
        more = self._with_words(given)
        with self._calling:
            result = self._function(more or given)
        found = np.asarray(result)
        if more is not None and found.ndim in (1, 2) and len(found) == rows + 1:
            found = found[:rows]
        wanted = "[rows] or [rows, outputs]" if self._outputs is None else f"[rows, {self._outputs}]"
        if found.dtype.kind not in "biuf":
            raise self._wrong(f"returns {type(result).__name__} of {found.dtype}, and numbers are needed")
        if self._outputs is not None and found.ndim in (1, 2) and len(found) != rows:
            # It did give a row for a row when the outputs were counted: it leaves out what it cannot score.
            raise RowsRefused(f"the function returns {len(found):,} rows for {rows:,}")
        if found.ndim not in (1, 2) or len(found) != rows or (found.ndim == 2 and not found.shape[1]):
            raise self._wrong(
                f"returns the shape {list(found.shape)} for {rows} rows, and {wanted} is needed"
            )
        found = found.reshape(rows, -1)
        if self._outputs not in (None, found.shape[1]):
            raise self._wrong(
                f"returns the shape {list(found.shape)} for {rows} rows, and {wanted} is needed"
            )
        return found, found

    def _with_words(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """The arrays with one row more where a column of words has none but missing ones; None elsewhere.

        pandas makes a column of strings of words and None, and one of objects of None alone, which
        scikit-learn does not impute: a row's score would depend on what other rows are in the call. The row
        more is the first one with a word that the function has taken; its score is dropped.
        """
        words = {
            name: self._words[name]
            for name, value in given.items()
            if name in self._words and len(value) and all(item is None for item in value.flat)
        }
        if not words:
            return None
        return {
            name: np.concatenate(
                [value, np.full_like(value[:1], words[name]) if name in words else value[:1]]
            )
            for name, value in given.items()
        }

    def _wrong(self, what: str) -> UserError:
        return UserError(f"the function {what}", self._where, "return one array of numbers, a row for a row")


def _some_words(example: Mapping[str, np.ndarray]) -> dict[str, str]:
    """A word of each column of strings, where it has one."""
    found: dict[str, str] = {}
    for name, value in example.items():
        if value.dtype == object and len(words := [item for item in _own(value).flat if item is not None]):
            found[name] = words[0]
    return found


def _own(value: np.ndarray) -> np.ndarray:
    """A copy for the function to keep, with strings as `str`, missing ones as None."""
    if value.dtype != object:
        return np.array(value)
    found = np.empty(value.shape, object)
    found.reshape(-1)[:] = [
        item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in value.flat
    ]
    return found


def _forget_others(module: str, file: str) -> None:
    """Drops a module of the same name from another place, or that has changed since it was loaded.

    One process may explain with two configs, each with a `model.py` beside it, or once more after an edit.
    """
    loaded = sys.modules.get(module)
    if loaded is None:
        return
    state = os.stat(file)
    stamp = (file, state.st_size, state.st_mtime_ns)
    old = os.path.abspath(str(getattr(loaded, "__file__", "")))
    if old != file or _stamps.get(module, stamp) != stamp:
        top = module.partition(".")[0]
        for name in [
            name for name in sys.modules if name == module or (old != file and name.partition(".")[0] == top)
        ]:
            del sys.modules[name]
        importlib.invalidate_caches()
    _stamps[module] = stamp


_stamps: dict[str, tuple[str, int, int]] = {}
