"""Formulas written with TensorFlow's functions, wrapped as models that TensorFlow can trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from transforms.models.base import Signature
from transforms.models.graphs.scored import GraphAdapter
from transforms.models.graphs.trace import TracedModel


class FormulaGraph(GraphAdapter):
    """A formula as a loaded model.

    Args:
      signature: Float inputs, and one head with as many outputs as the formula has values.
      formula: Takes TensorFlow's module and the inputs by name, `[B, *shape]`; returns values, `[B]` each.
    """

    kind: str = "formula"

    def __init__(self, signature: Signature, formula: Callable[[Any, Mapping[str, Any]], list[Any]]) -> None:
        self.signature = signature
        self._formula = formula

    def trace(self, shapes: Mapping[str, tuple[int, ...]]) -> TracedModel:
        """Traces the formula once, with a batch of any size."""
        specs = {name: tf.TensorSpec((None, *shape), tf.float32, name=name) for name, shape in shapes.items()}
        placeholders: dict[str, Any] = {}
        results: list[Any] = []

        @tf.function(input_signature=[specs], autograph=False)
        def call(inputs: Mapping[str, Any]) -> Any:
            placeholders.update(inputs)
            results[:] = [tf.stack(self._formula(tf, inputs), axis=1)]
            return list(results)

        return TracedModel.of(call.get_concrete_function(), placeholders, results)
