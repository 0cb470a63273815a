"""Keras models: `.keras` archives and legacy `.h5` files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.base import InputSpec, OutputSpec, Signature
from transforms.models.trace import TracedModel

_UNSAFE = ("unsafe", "safe_mode", "arbitrary code", "lambda")


class KerasModel:
    """A Keras 3 model: functional, sequential or subclassed.

    Args:
      path: A local `.keras` or `.h5` file.
      allow_unsafe: Load Lambda layers and other Python code that the file holds.
    Raises:
      UserError: The file is no Keras model, holds code that is not allowed, or needs classes that are not known.
    """

    kind = "keras"

    def __init__(self, path: str, *, allow_unsafe: bool = False) -> None:
        self.model = _load(path, allow_unsafe)
        self._names, specs = _inputs(self.model, path)
        self._outputs: tuple[OutputSpec, ...] = ()
        probe = self.trace({spec.name: tuple(e or 1 for e in spec.shape) for spec in specs})
        self.signature = Signature(
            tuple(
                InputSpec(spec.name, spec.shape, probe.inputs[spec.name].dtype.name) for spec in specs
            ),
            self._outputs,
        )

    def trace(self, shapes: Mapping[str, tuple[int, ...]]) -> TracedModel:
        """Traces `model(inputs, training=False)` with these input shapes, the batch open."""
        dtypes = _dtypes(self.model, self._names)
        specs = {name: tf.TensorSpec((None, *shapes[name]), dtypes[name], name=_safe(name)) for name in self._names}
        placeholders: dict[str, Any] = {}
        results: list[Any] = []

        @tf.function(input_signature=[specs], autograph=False)
        def call(inputs: Mapping[str, Any]) -> Any:
            placeholders.update(inputs)
            output = self.model(_packed(self.model, self._names, inputs), training=False)
            results[:] = keras.tree.flatten(output)
            self._outputs = _output_specs(self.model, output)
            return list(results)

        function = call.get_concrete_function()
        return TracedModel.of(function, placeholders, results)


def _load(path: str, allow_unsafe: bool) -> Any:
    if path.endswith(".keras") and not zipfile.is_zipfile(path):
        raise UserError(
            "is not a Keras archive", path, "save the model with model.save('….keras') or name the right file"
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not allow_unsafe)
    # Keras raises whatever the file's classes raise; all of it means: this file does not load.
    except Exception as error:
        text = str(error)
        if not allow_unsafe and any(word in text.lower() for word in _UNSAFE):
            raise UserError(
                "the model holds Python code (a Lambda layer or the like) that loading would run",
                path,
                "set model.allow_unsafe: true if you trust the file",
            ) from error
        if isinstance(error, TypeError) and "Could not locate" in text or "Unknown layer" in text:
            line = next((row for row in text.splitlines() if "Could not locate" in row or "Unknown" in row), text)
            raise UserError(
                line.strip()[:300], path, "name the module that registers the class in model.modules"
            ) from error
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise UserError(f"Keras cannot load the model: {first[:300]}", path) from error


def _symbolic(model: Any) -> Any:
    """The structure of symbolic inputs, or None for a subclassed model."""
    try:
        return model.input
    except (AttributeError, ValueError):
        return None


def _inputs(model: Any, path: str) -> tuple[list[str], list[InputSpec]]:
    symbolic = _symbolic(model)
    if symbolic is not None:
        flat = keras.tree.flatten(symbolic)
        if isinstance(symbolic, dict) and all(not isinstance(v, (dict, list, tuple)) for v in symbolic.values()):
            by_tensor = {id(tensor): key for key, tensor in symbolic.items()}
            names = [by_tensor[id(tensor)] for tensor in flat]
        else:
            names = [tensor.name for tensor in flat]
        return names, [
            InputSpec(name, tuple(tensor.shape[1:]), str(tensor.dtype))
            for name, tensor in zip(names, flat, strict=True)
        ]
    config = model.get_build_config() or {}
    shapes = config.get("input_shape", config.get("shapes_dict"))
    if shapes is None:
        raise UserError(
            "the model does not say which inputs it takes", path, "call it once on data before saving it"
        )
    if isinstance(shapes, dict):
        named = {str(key): tuple(shape) for key, shape in shapes.items()}
    elif shapes and isinstance(shapes[0], (list, tuple)):
        named = {f"input_{index}": tuple(shape) for index, shape in enumerate(shapes)}
    else:
        named = {"input": tuple(shapes)}
    dtype = model.input_dtype
    return list(named), [InputSpec(name, shape[1:], dtype) for name, shape in named.items()]


def _dtypes(model: Any, names: Sequence[str]) -> dict[str, str]:
    symbolic = _symbolic(model)
    if symbolic is None:
        return dict.fromkeys(names, model.input_dtype)
    return {name: str(t.dtype) for name, t in zip(names, keras.tree.flatten(symbolic), strict=True)}


def _packed(model: Any, names: Sequence[str], inputs: Mapping[str, Any]) -> Any:
    """The inputs in the structure that the model takes."""
    values = [inputs[name] for name in names]
    symbolic = _symbolic(model)
    if symbolic is not None:
        return keras.tree.pack_sequence_as(symbolic, values)
    shapes = (model.get_build_config() or {}).get("input_shape")
    if isinstance(shapes, dict):
        return dict(inputs)
    return values if len(values) > 1 else values[0]


def _output_specs(model: Any, output: Any) -> tuple[OutputSpec, ...]:
    flat = keras.tree.flatten(output)
    if isinstance(output, dict):
        names = [str(path[-1]) for path, _ in keras.tree.flatten_with_path(output)]
    else:
        known = getattr(model, "output_names", None)
        names = list(known) if known and len(known) == len(flat) else [f"output_{i}" for i in range(len(flat))]
    specs = []
    for name, tensor in zip(names, flat, strict=True):
        specs.append(OutputSpec(name, tuple(tensor.shape[1:])))
    return tuple(specs)


def _safe(name: str) -> str:
    """A name that a graph accepts: letters, digits, `_`; feature names may hold anything."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in f"in_{name}")
