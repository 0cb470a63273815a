"""Python functions as models: a function takes a dict of arrays and returns scores.

A config names a function as `python: package.module:function`.
"""

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
    """True if a model's path names a function."""
    return path.startswith(PREFIX)


def split_name(path: str) -> tuple[str, str]:
    """Splits `python: package.module:function` into the names of the module and the function.

    Raises:
      UserError: The path does not have this form.
    """
    module, _, function = path.removeprefix(PREFIX).strip().partition(":")
    module, function = module.strip(), function.strip()
    if not (_NAME.fullmatch(module) and _NAME.fullmatch(function)):
        raise UserError(
            f"{path!r} does not name a function", "model.path", "write python: package.module:function"
        )
    return module, function


def module_file(path: str, folders: Sequence[str] = ()) -> str:
    """The source file of a function's module, found without running the module or its packages.

    Args:
      path: `python: package.module:function`.
      folders: Folders to search after Python's own path.
    Raises:
      UserError: There is no such module, or it is not a Python file.
    """
    module, _ = split_name(path)
    spec, places = None, None
    for parts in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:parts])
        spec = _find(name, places) or (_find(name, folders) if parts == 1 and folders else None)
        places = None if spec is None else spec.submodule_search_locations
        if spec is None or (places is None and name != module):
            raise UserError(
                f"there is no module {module}" + (f": {name} is not a package" if name != module else ""),
                f"model.path {path}",
                "put it on PYTHONPATH or beside the config",
            )
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        raise UserError(f"{module} is not a Python file", f"model.path {path}", "name the module in it")
    return os.path.abspath(spec.origin)


def _find(name: str, places: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """The spec of a module, even if a module of this name is loaded; None if there is no such module.

    Args:
      name: Full name of the module.
      places: Folders to search; None searches Python's path.
    """
    for finder in sys.meta_path:
        spec = finder.find_spec(name, places)
        if spec is not None:
            return spec
    return None


class FunctionModel:
    """A function as a model: it takes a dict of arrays `[rows, …]` and returns `[rows]` or `[rows, T]`.

    Strings are passed as `str`. Naming the function in a config is the permission to run it. The function
    need not be thread-safe: only one thread at a time calls it. It may change the arrays, which are copies.

    Args:
      path: `python: package.module:function`.
      allow_unsafe: Ignored, because the config already gives the permission.
    Raises:
      UserError: The module cannot be imported, or does not have the function.
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
            target: Any = importlib.import_module(module)
        except Exception as error:  # a module's own code may raise anything
            line = next((row for row in str(error).splitlines() if row.strip()), "")
            raise UserError(
                f"{module} cannot be imported: {type(error).__name__}: {line.strip()[:200]}",
                where,
                f"fix {file}",
            ) from error
        for part in name.split("."):
            if not hasattr(target, part):
                functions = [n for n in vars(target) if callable(getattr(target, n))]
                remedy = did_you_mean(part, functions, f"define it in {file}")
                raise UserError(f"{module} has no {name}", where, remedy)
            target = getattr(target, part)
        if not callable(target) or inspect.isclass(target):
            raise UserError(
                f"{module}:{name} is not a function", where, "name a function of a dict of arrays"
            )
        self.function: Callable[[dict[str, np.ndarray]], Any] = target

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> ScoredFunction:
        """Makes the scored model; its score is what the function returns."""
        return ScoredFunction(self, shapes, score, example)


class ScoredFunction(OpaqueModel):
    """A function as a model with the score that is explained.

    Args:
      adapter: The function.
      shapes: Shape of each input, without the batch axis.
      score: "auto" or "output"; a function has no other score.
      example: Rows of each input; the function is called on these rows to find the number of outputs.
    Raises:
      UserError: `score` is not supported, or the function does not return numbers for each row.
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
                f"{score}: a function has no score other than its output", "model.score", "leave it out"
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
        """The number of outputs T, from a call on the example or, if that fails, on single rows of it."""
        rows = len(next(iter(example.values())))
        reason: RowsRefused | None = None
        for part in (slice(None), *(slice(row, row + 1) for row in range(rows))):
            try:
                return self.evaluate({name: value[part] for name, value in example.items()})[0].shape[1]
            except RowsRefused as error:
                reason = reason or error
        what = f"the function accepts none of {rows} background rows: {reason}"
        remedy = f"fix the function or the rows; the function is given {names_in_words(list(example), 12)}"
        raise UserError(what, self._where, remedy) from reason

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rows = len(next(iter(inputs.values())))
        given = {name: _own(value) for name, value in inputs.items()}
        more = self._with_words(given)
        with self._calling:
            result = self._function(more or given)
        scores = np.asarray(result)
        if more is not None and scores.ndim in (1, 2) and len(scores) == rows + 1:
            scores = scores[:rows]
        wanted = "[rows] or [rows, outputs]" if self._outputs is None else f"[rows, {self._outputs}]"
        if scores.dtype.kind not in "biuf":
            raise self._wrong(f"returns {type(result).__name__} of {scores.dtype}, but numbers are needed")
        if self._outputs is not None and scores.ndim in (1, 2) and len(scores) != rows:
            # The function returned one result per row when the outputs were counted. Now results are missing,
            # so it leaves out rows that it cannot score.
            raise RowsRefused(f"the function returns {len(scores):,} rows for {rows:,}")
        if scores.ndim not in (1, 2) or len(scores) != rows or (scores.ndim == 2 and not scores.shape[1]):
            raise self._wrong(
                f"returns the shape {list(scores.shape)} for {rows} rows, but {wanted} is needed"
            )
        scores = scores.reshape(rows, -1)
        if self._outputs not in (None, scores.shape[1]):
            raise self._wrong(
                f"returns the shape {list(scores.shape)} for {rows} rows, but {wanted} is needed"
            )
        return scores, scores

    def _with_words(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """The arrays with one extra row, if a text column has only missing values in this call; else None.

        pandas makes a string column of words and None, but an object column of None alone, which
        scikit-learn does not impute: a row's score would depend on the other rows in the call. In the extra
        row, each such column holds a word from the example; other columns copy the first row. The score of
        the extra row is dropped.
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
        remedy = "return one array of numbers, with one result per row"
        return UserError(f"the function {what}", self._where, remedy)


def _some_words(example: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The first word of each text column, for columns that are not all missing."""
    first: dict[str, str] = {}
    for name, value in example.items():
        if value.dtype == object and len(words := [item for item in _own(value).flat if item is not None]):
            first[name] = words[0]
    return first


def _own(value: np.ndarray) -> np.ndarray:
    """A copy that the function may change, with strings as `str` and missing strings as None."""
    if value.dtype != object:
        return np.array(value)
    copy = np.empty(value.shape, object)
    copy.reshape(-1)[:] = [
        item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else item for item in value.flat
    ]
    return copy


def _forget_others(module: str, file: str) -> None:
    """Unloads a module that was loaded under this name from another file, or from `file` before it changed.

    One process may explain with two configs that each have a `model.py`, or explain again after an edit.
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
