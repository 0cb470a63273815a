"""Models stored as SavedModel folders; one signature of the SavedModel is explained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow.python.saved_model import load_v1_in_v2

from transforms.errors import UserError
from transforms.models.base import HeadSpec, InputSpec, Signature
from transforms.models.graphs.rewrites.inline import inlined
from transforms.models.graphs.scored import GraphAdapter
from transforms.models.graphs.trace import TracedModel, graph_name
from transforms.models.kinds.savedmodel_ops import check_ops
from transforms.models.tensorflow_errors import first_line
from transforms.wording import did_you_mean, names_in_words

SIGNATURE = "serving_default"
#: Ops that read serialised records.
_PARSES = re.compile(r"Parse(Single)?(Sequence)?Example(Dataset)?(V2)?")


class SavedModel(GraphAdapter):
    """A TensorFlow SavedModel; its inputs and heads have the names of the signature's arguments and outputs.

    String inputs never have gradients: only a Keras model states which layers turn strings into numbers.

    Args:
      path: A local folder with a saved_model.pb.
      allow_unsafe: Whether the graph may hold ops that read or write files or call Python.
      signature: Name of the signature that is explained; None means serving_default.
    Raises:
      UserError: The folder does not load, or holds ops that are not allowed; or the signature is missing or
        does not take batches of rows.
    """

    kind = "savedmodel"

    def __init__(self, path: str, *, allow_unsafe: bool = False, signature: str | None = None) -> None:
        if not allow_unsafe:
            check_ops(path)
        name = signature or SIGNATURE
        self._loaded = _load(path)  # owns the variables and tables
        self._function = _signature(self._loaded, name, path)
        given: Mapping[str, Any] = self._function.structured_input_signature[1]
        specs = {key: given[key] for key in _in_order(given)}
        _check_takes_features(self._function, name, self._loaded.signatures, path)
        for key, spec in specs.items():
            _check_batch(spec, f"{name}: input {key!r}", path)
        outputs: Mapping[str, Any] = self._function.structured_outputs
        self._heads = [name for name in _in_order(outputs) if outputs[name].dtype.is_floating]
        if not self._heads:
            raise UserError(
                f"{name} returns no floats: {names_in_words(list(outputs))}",
                path,
                f"export a model that returns its score{_or_another(self._loaded.signatures, name)}",
            )
        # Axes that the signature fixes keep their size; open axes take their size from the features.
        self.signature = Signature(
            tuple(InputSpec(name, _row_shape(spec), spec.dtype.name) for name, spec in specs.items()),
            tuple(HeadSpec(name, _row_shape(outputs[name])) for name in self._heads),
        )

    def trace(self, shapes: Mapping[str, tuple[int, ...]]) -> TracedModel:
        """Traces the signature for these input shapes and any batch size, and inlines the function calls."""
        specs = {
            spec.name: tf.TensorSpec(
                (None, *shapes[spec.name]), spec.dtype, name=graph_name(spec.name, number)
            )
            for number, spec in enumerate(self.signature.inputs)
        }
        placeholders: dict[str, Any] = {}
        results: list[Any] = []

        @tf.function(input_signature=[specs], autograph=False)
        def call(inputs: Mapping[str, Any]) -> Any:
            placeholders.update(inputs)
            outputs = self._function(**inputs)
            results[:] = [outputs[name] for name in self._heads]
            return list(results)

        function = call.get_concrete_function()
        strings = frozenset(spec.name for spec in self.signature.inputs if spec.dtype == "string")
        return inlined(TracedModel.of(function, placeholders, results, opaque=strings))

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The result for these rows, `[B, T]`, of the signature as TensorFlow loaded it, without inlining."""
        outputs = self._function(
            **{spec.name: tf.constant(inputs[spec.name], spec.dtype) for spec in self.signature.inputs}
        )
        heads = [tf.cast(outputs[name], tf.float64).numpy() for name in self._heads]
        return np.concatenate([head.reshape(rows.num_rows, -1) for head in heads], axis=1)


def _load(path: str) -> Any:
    # A damaged file can make TensorFlow raise any exception; each one means that the folder does not load.
    try:
        return tf.saved_model.load(path)
    except Exception as error:  # noqa: BLE001 - raised below, if the older loader fails too
        try:
            # Some folders that TensorFlow 1 wrote hold objects that only the TensorFlow 1 loader skips.
            return load_v1_in_v2.load(path, ["serve"])
        except Exception:  # noqa: BLE001 - the first error is the informative one
            raise UserError(
                f"TensorFlow cannot load the model: {first_line(error)}",
                path,
                "name a folder that tf.saved_model.load reads",
            ) from error


def _signature(loaded: Any, name: str, path: str) -> Any:
    signatures = getattr(loaded, "signatures", {})
    if name in signatures:
        return signatures[name]
    if not signatures:
        raise UserError(
            "the SavedModel has no signatures",
            path,
            "save it with model.export(…) or with signatures={'serving_default': …}",
        )
    there = names_in_words([repr(known) for known in signatures])
    remedy = f"name one of them in model.signature: {next(iter(signatures))}"
    if name != SIGNATURE:
        remedy = did_you_mean(name, list(signatures), remedy)
    raise UserError(f"the SavedModel has no signature {name!r}; its signatures: {there}", path, remedy)


def _or_another(signatures: Mapping[str, Any], name: str) -> str:
    others = [known for known in signatures if known != name]
    return f", or name another signature in model.signature: {names_in_words(others, 4)}" if others else ""


def _check_takes_features(function: Any, name: str, signatures: Mapping[str, Any], path: str) -> None:
    """Refuses a signature that takes serialised records instead of single features, as those of TFX do.

    Raises:
      UserError: The signature takes records; the message lists all signatures.
    """
    specs: Mapping[str, Any] = function.structured_input_signature[1]
    if len(specs) != 1:
        return
    ((given, spec),) = specs.items()
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(node for body in definition.library.function for node in body.node_def)]
    if spec.dtype == tf.string and any(_PARSES.fullmatch(node.op) for node in nodes):
        others = _or_another(signatures, name).removeprefix(", or ")
        raise UserError(
            f"{name} takes {given}: serialised tf.train.Examples, where single features are needed; "
            f"signatures: {names_in_words(list(signatures), 6)}",
            path,
            others or "export a signature that takes the features as tensors, and name it in model.signature",
        )


def _check_batch(spec: Any, tensor: str, path: str) -> None:
    shape = spec.shape
    if shape.rank is None or shape.rank == 0 or shape[0] is not None:
        raise UserError(
            f"{tensor} has the shape {shape}; its first axis must be None, for any number of rows",
            path,
            "save it with an input signature of [None, …]",
        )


def _row_shape(spec: Any) -> tuple[int | None, ...]:
    return () if spec.shape.rank is None else tuple(spec.shape.as_list()[1:])


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorts the names of a signature alphabetically, but numbered names by number: _2 before _10.

    TensorFlow loads the names in an order that differs from process to process.
    """
    names = list(names)
    numbered = [re.fullmatch(r"(.*?)_(\d+)", name) for name in names]
    if all(numbered) and len({match[1] for match in numbered if match}) == 1:
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))
    return sorted(names)
