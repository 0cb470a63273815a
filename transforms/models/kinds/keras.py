"""Keras models, loaded from `.keras` archives or legacy `.h5` files."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.base import HeadSpec, InputSpec, Signature
from transforms.models.graphs.rewrites.inline import inlined
from transforms.models.graphs.scored import GraphAdapter
from transforms.models.graphs.trace import TracedModel, graph_name
from transforms.models.kinds.keras_calls import check_loaded
from transforms.models.tensorflow_errors import first_line
from transforms.wording import names_in_words

_HDF5 = b"\x89HDF\r\n\x1a\n"
#: Maximum size of a model's config in bytes; the config of a thousand layers has about a million.
_MOST_CONFIG = 256 << 20
_SAVED_ANEW = "save the model again, with model.save('….keras')"
_UNSAFE = ("unsafe_deserialization", "safe_mode", "arbitrary code")
#: Keras's message about a class that is not registered.
_UNKNOWN = re.compile(
    r"(?:Could not locate (?:class|function):?|Unknown (?:layer|object|class):?"
    # For an initializer, a regularizer or a constraint, the message quotes the whole config.
    r"|Could not interpret \w+ identifier: \{.*?'registered_name':) '?\"?([\w>.]+)"
)


class KerasModel(GraphAdapter):
    """A Keras 3 model: functional, sequential or subclassed. Heads that do not return floats are ignored.

    Args:
      path: A local `.keras` or `.h5` file.
      allow_unsafe: Whether Lambda layers and other Python code in the file may be loaded.
    Raises:
      UserError: The file is not a Keras model, holds code that may not be loaded, or needs classes that are
        not registered; or the model returns no floats.
    """

    kind = "keras"

    def __init__(self, path: str, *, allow_unsafe: bool = False) -> None:
        self.model = _load(path, allow_unsafe)
        self.layers = {layer.name: type(layer).__name__ for layer in self.model._flatten_layers()}
        _check_stateless(self.model, path)
        self._symbolic = _symbolic(self.model)
        specs = _inputs(self.model, self._symbolic, path)
        self._dtypes = {spec.name: spec.dtype for spec in specs}
        self._heads: tuple[HeadSpec, ...] = ()
        self._left_out: list[str] = []
        stored = {id(weight) for weight in self.model.weights}
        self._probe({spec.name: spec.shape for spec in specs}, path)
        check_loaded(self.model, stored, path)
        if not self._heads:
            raise UserError(
                f"the model returns no floats: {names_in_words(self._left_out)}",
                path,
                "save a model that returns its score",
            )
        self.signature = Signature(
            tuple(InputSpec(spec.name, spec.shape, self._dtypes[spec.name]) for spec in specs), self._heads
        )

    def _probe(self, shapes: Mapping[str, tuple[int | None, ...]], path: str) -> None:
        """Calls the model once on symbolic inputs, to check that it can be called and to learn its outputs.

        A subclassed model does not state the types of its inputs, so numbers, strings and int64 are tried in
        turn.
        """
        tried = [self._dtypes]
        if self._symbolic is None:
            tried.extend(dict.fromkeys(shapes, dtype) for dtype in ("string", "int64"))
        errors: list[Exception] = []
        for dtypes in tried:
            self._dtypes = dtypes
            try:
                traced = self._call(shapes)
            # Calling the model runs the code of its layers, which may raise any exception.
            except Exception as error:  # noqa: BLE001 - raised below, if no type of input works
                errors.append(error)
            else:
                if self._symbolic is not None or not _turns_numbers_to_strings(traced):
                    return
                errors.append(
                    TypeError(f"a layer looks up strings, but its inputs are {', '.join(dtypes.values())}")
                )
        remedy = "check that the model predicts after keras.saving.load_model"
        if re.search(r"(positional|required) argument", str(errors[0])):
            remedy = "have call take its inputs as one argument, a dict or a list of tensors"
        raise UserError(
            f"the model cannot be called on its inputs: {first_line(errors[0])}", path, remedy
        ) from errors[0]

    def trace(self, shapes: Mapping[str, tuple[int, ...]]) -> TracedModel:
        """Traces `model(inputs, training=False)` for these input shapes, and inlines the function calls."""
        return inlined(self._call(shapes))

    def _call(self, shapes: Mapping[str, tuple[int | None, ...]]) -> TracedModel:
        specs = {
            name: tf.TensorSpec((None, *shapes[name]), dtype, name=graph_name(name, number))
            for number, (name, dtype) in enumerate(self._dtypes.items())
        }
        placeholders: dict[str, Any] = {}
        results: list[Any] = []

        @tf.function(input_signature=[specs], autograph=False)
        def call(inputs: Mapping[str, Any]) -> Any:
            placeholders.update((name, inputs[name]) for name in specs)
            output = self.model(self._packed(inputs), training=False)
            flat = [tf.convert_to_tensor(value) for value in keras.tree.flatten(output)]
            heads = list(zip(_heads(self.model, output, flat), flat, strict=True))
            # Only floats are scores: integers (such as labels) and strings have no gradients.
            results[:] = [value for _, value in heads if value.dtype.is_floating]
            self._heads = tuple(head for head, value in heads if value.dtype.is_floating)
            self._left_out = [
                f"{head.name} is {value.dtype.name}" for head, value in heads if not value.dtype.is_floating
            ]
            return list(results)

        function = call.get_concrete_function()
        return TracedModel.of(function, placeholders, results)

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The prediction of Keras's own `predict_step` for these rows, `[B, T]`, run without our graph."""
        given = {name: tf.constant(inputs[name], dtype) for name, dtype in self._dtypes.items()}
        output = self.model.predict_step((self._packed(given),))
        flat = [tf.convert_to_tensor(value) for value in keras.tree.flatten(output)]
        heads = [tf.cast(value, tf.float64) for value in flat if value.dtype.is_floating]
        return np.concatenate([head.numpy().reshape(rows.num_rows, -1) for head in heads], axis=1)

    def _packed(self, inputs: Mapping[str, Any]) -> Any:
        """The inputs in the structure that the model's call takes: a tensor, a list or a dict."""
        values = [inputs[name] for name in self._dtypes]
        if self._symbolic is not None:
            return keras.tree.pack_sequence_as(self._symbolic, values)
        if isinstance(_build_shapes(self.model), dict):
            return dict(inputs)
        return values if len(values) > 1 else values[0]


def _check_file(path: str) -> None:
    """Checks that the file's content is what its suffix says.

    Raises:
      UserError: The content does not fit the suffix.
    """
    archive = zipfile.is_zipfile(path)
    with open(path, "rb") as start:
        hdf5 = start.read(len(_HDF5)) == _HDF5
    right = "save the model with model.save('…{}'), or name the right file"
    if path.lower().endswith(".keras"):
        if hdf5:
            raise UserError("is an HDF5 file and not a Keras archive", path, "give it the suffix .h5")
        if not archive:
            raise UserError("is not a Keras archive", path, right.format(".keras"))
        with zipfile.ZipFile(path) as held:
            if "config.json" not in held.namelist():
                what = "is an archive, but not of a Keras model: it does not hold a config.json"
                raise UserError(what, path, right.format(".keras"))
            check_members(held, path)
        return
    if archive:
        raise UserError("is a Keras archive and not HDF5", path, "give it the suffix .keras")
    if not hdf5:
        raise UserError("is not an HDF5 file", path, right.format(".h5"))


def check_members(archive: zipfile.ZipFile, path: str, most: int = _MOST_CONFIG) -> None:
    """Refuses an archive with a file that is too large, or that has a path outside the archive.

    Args:
      archive: The model's file, opened.
      path: The path of the file, for errors.
      most: Maximum size in bytes of a file in the archive, unless it holds weights.
    Raises:
      UserError: A file in the archive is too large, or has a path outside the archive.
    """
    for member in archive.infolist():
        name = member.filename
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            raise UserError(f"holds {name!r}, which leads out of the archive", path, _SAVED_ANEW)
        # Weights may have any size, but compression cannot shrink real weights to 1/200 of their size.
        allowed = most if name.endswith(".json") else max(most, 200 * member.compress_size)
        if member.file_size > allowed:
            what = (
                f"holds {name!r}, which unpacks to {member.file_size:,} bytes from {member.compress_size:,}"
            )
            raise UserError(what, path, _SAVED_ANEW)


def _load(path: str, allow_unsafe: bool) -> Any:
    try:
        _check_file(path)
        return keras.saving.load_model(path, compile=False, safe_mode=not allow_unsafe)
    except UserError:
        raise
    # The classes in the file may raise any exception; each of them means that the file does not load.
    except Exception as error:
        text = str(error)
        unknown = _UNKNOWN.search(text)
        weights = "No model config found" in text
        code = not allow_unsafe and not unknown and any(word in text.lower() for word in _UNSAFE)
        version = keras_version(path)
        archive = path.lower().endswith(".keras")  # Keras 3 cannot read a .keras archive of Keras 2
        if version.startswith(("1.", "2.")) and (archive or not (code or weights)):
            raise UserError(
                f"was written by Keras {version}, and Keras {keras.__version__} cannot load it: "
                + (f"it does not know {unknown[1]}" if unknown else first_line(error, 100)),
                path,
                "save it as a SavedModel with tf_keras: tf_keras.models.load_model(…).export('folder')",
            ) from error
        if unknown:
            raise UserError(
                f"the model needs {unknown[1]}, which is not registered with Keras",
                path,
                "name the module that registers the class in model.modules",
            ) from error
        if code:
            raise UserError(
                "the model holds Python code (a Lambda layer or the like) that loading would run",
                path,
                "set model.allow_unsafe: true if you trust the file",
            ) from error
        if "build_from_config" in text:
            raise UserError(
                "Keras cannot rebuild the model: its call takes more than one argument, or it was never "
                "called on data",
                path,
                "have call take its inputs as one argument, a dict or a list, or use model.export('folder')",
            ) from error
        if weights:
            raise UserError(
                "holds only weights, if anything, and no model",
                path,
                "save the whole model, with model.save('….keras')",
            ) from error
        raise UserError(
            f"Keras cannot load the model: {first_line(error)}",
            path,
            "name a file that keras.saving.load_model reads here",
        ) from error


def keras_version(path: str) -> str:
    """The version of Keras that wrote a file, as stated in the file; empty if the file states none."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
        import h5py  # type: ignore[import-untyped]

        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version", b"")
            return version.decode() if isinstance(version, bytes) else str(version)
    except (KeyError, ValueError, OSError, AttributeError):  # the file is damaged
        return ""


def _check_stateless(model: Any, path: str) -> None:
    """Refuses layers that keep a state between batches, because scores would depend on earlier rows.

    Raises:
      UserError: A layer is stateful.
    """
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False) is True:
            raise UserError(
                f"the layer {layer.name} keeps its state from one batch to the next (stateful=True): a row's "
                "score depends on the rows before it",
                path,
                "build the model with stateful=False and a batch size of None, and copy its weights",
            )


def _turns_numbers_to_strings(traced: TracedModel) -> bool:
    """True if the graph converts numbers to strings; such a graph can be traced but not run."""
    return any(
        op.type in ("Cast", "AsString") and op.outputs[0].dtype == tf.string
        for op in traced.graph.get_operations()
    )


def _symbolic(model: Any) -> Any:
    """The model's symbolic inputs (a tensor, a list or a dict); None for a subclassed model."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if model.inputs else None  # `.input` exists only after a first call
    return model.input if isinstance(model, keras.Model) and hasattr(model, "inputs") else None


def _inputs(model: Any, symbolic: Any, path: str) -> list[InputSpec]:
    """The model's inputs; numbers are assumed for a subclassed model, which does not state the types."""
    if symbolic is not None:
        flat = keras.tree.flatten(symbolic)
        if isinstance(symbolic, dict) and all(
            not isinstance(v, (dict, list, tuple)) for v in symbolic.values()
        ):
            by_tensor = {id(tensor): str(key) for key, tensor in symbolic.items()}
            names = [by_tensor[id(tensor)] for tensor in flat]
        else:
            names = [tensor.name for tensor in flat]
        return [
            InputSpec(name, tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))
            for name, tensor in zip(names, flat, strict=True)
        ]
    shapes = _build_shapes(model)
    if not shapes:
        raise UserError(
            "the model does not say which inputs it takes", path, "call it once on data before saving it"
        )
    if isinstance(shapes, dict):
        named = {str(key): tuple(shape) for key, shape in shapes.items()}
    elif isinstance(shapes[0], (list, tuple)):
        named = {f"input_{index}": tuple(shape) for index, shape in enumerate(shapes)}
    else:
        named = {"input": tuple(shapes)}
    # In mixed precision, layers compute in half precision, but the model's inputs need not be rounded to it.
    dtype = model.input_dtype if model.input_dtype == "float64" else "float32"
    return [InputSpec(name, shape[1:], dtype) for name, shape in named.items()]


def _build_shapes(model: Any) -> Any:
    """The input shapes that a subclassed model was built with: one shape, a list, or a dict by input name."""
    config = model.get_build_config() or {}
    return config.get("input_shape", config.get("shapes_dict"))


def _heads(model: Any, output: Any, flat: Sequence[Any]) -> tuple[HeadSpec, ...]:
    """The heads, each with a unique name, in the model's order."""
    sequential = isinstance(model, keras.Sequential)
    known = [model.layers[-1].name] if sequential else getattr(model, "output_names", None)
    if isinstance(output, dict):
        names = ["/".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(output)]
    elif known and len(known) == len(flat):
        names = list(known)
    else:
        names = [f"output_{index}" for index in range(len(flat))]
    used: set[str] = set()
    specs = []
    for name, tensor in zip(names, flat, strict=True):
        own, number = name, 1
        while own in used:  # two heads have the same name if one layer is called twice
            own, number = f"{name}_{number}", number + 1
        used.add(own)
        specs.append(HeadSpec(own, () if tensor.shape.rank is None else tuple(tensor.shape.as_list()[1:])))
    return tuple(specs)
