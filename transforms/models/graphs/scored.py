"""Models that TensorFlow can trace, with the score that is explained."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.base import DEFAULT, CompileOptions, HeadSpec, InputSpec, Signature
from transforms.models.forest.arrays import Forest
from transforms.models.graphs.compiled import Compiled
from transforms.models.graphs.cut.cut import head_scores
from transforms.models.graphs.deeplift.model import RescaleModel
from transforms.models.graphs.gradients import DifferentiableModel
from transforms.models.graphs.masked import MaskedModel
from transforms.models.graphs.rewrites.grouped_convolutions import ungrouped
from transforms.models.graphs.rewrites.precision import lowered
from transforms.models.graphs.tensor_sizes import forward_bytes
from transforms.models.graphs.tensors import flatten_heads
from transforms.models.graphs.trace import TracedModel
from transforms.models.graphs.xla import for_xla
from transforms.models.reference import Reference


class GraphAdapter:
    """A model that TensorFlow can trace."""

    kind: str
    signature: Signature
    #: Precision of the matrix products; `load_model` sets it and `compile_options`.
    precision: str = "float32"
    compile_options: CompileOptions = DEFAULT
    #: Class of each layer, by the layer's name; empty if no layers are known.
    layers: Mapping[str, str] = MappingProxyType({})

    def trace(self, shapes: Mapping[str, tuple[int, ...]]) -> TracedModel:
        """Traces the model once with inputs of these shapes and a batch of any size."""
        raise NotImplementedError

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> ScoredGraph:
        """Returns the model with its score; `example` is unused, because the graph shows the outputs."""
        return ScoredGraph(self, shapes, score, affine_prefix=affine_prefix)


class ScoredGraph:
    """A graph with the score that is explained; implements `ScoredModel`.

    Args:
      adapter: The loaded model.
      shapes: Full shape of each input, without the batch.
      score: auto | output | logit | probability.
      affine_prefix: False turns off the affine prefix, for path methods and for masking methods.

    Attributes:
      score_kinds: Kind of the explained score, one per head: "output", "logit", "probability" or "margin".
      evaluations: Number of forward evaluations requested so far.
      held: Names of inputs that gradient methods leave at the row's own values.
      has_gradients: True if this kind of model has gradients.
      has_trees: True for a tree model.
    """

    has_gradients: bool = True
    has_trees: bool = False
    mirrored: bool = False
    yes_or_no: bool = False
    held: frozenset[str] = frozenset()

    def __init__(
        self,
        adapter: GraphAdapter,
        shapes: Mapping[str, tuple[int, ...]],
        score: str = "auto",
        *,
        affine_prefix: bool = True,
    ) -> None:
        self.adapter = adapter
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        traced = ungrouped(adapter.trace(self.shapes))
        if adapter.precision != "float32":
            traced = lowered(traced, adapter.precision)
        self.traced = replace(traced, compile_options=adapter.compile_options)
        if adapter.compile_options.jit:
            self.traced = for_xla(self.traced)
        self.signature = _full_signature(adapter.signature, self.shapes, self.traced.outputs)
        names = [head.name for head in self.signature.outputs]
        self.scores, self.score_kinds = head_scores(self.traced.outputs, names, score)
        self.evaluations = 0
        self._lock = threading.Lock()
        self._affine_prefix = affine_prefix
        self._differentiable: DifferentiableModel | None = None
        self._rescaled: RescaleModel | None = None
        specs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in self.traced.inputs.items()}
        self._evaluate = Compiled(self._values, [specs], self.traced.compile_options)

    def _values(self, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        feeds = {self.traced.inputs[name].name: value for name, value in inputs.items()}
        rows = tf.shape(next(iter(inputs.values())))[0]
        values = self.traced.replay(feeds, [*self.scores, *self.traced.outputs])
        heads = len(self.scores)
        return flatten_heads(values[:heads], rows), flatten_heads(values[heads:], rows)

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model.

        Args:
          inputs: Values by model input, each `[B, *shape]`.
        Returns:
          The scores and the model's own outputs, each `[B, T]` float32 over all targets.
        Cost: One forward evaluation per row.
        """
        self.count(len(next(iter(inputs.values()))))
        scores, outputs = self._evaluate(dict(inputs))
        return scores.numpy(), outputs.numpy()

    def count(self, evaluations: int) -> None:
        """Adds forward evaluations to the number requested so far."""
        with self._lock:
            self.evaluations += evaluations

    @cached_property
    def in_halves(self) -> bool:
        """Whether any tensor of the model has a float type of 16 bits or fewer."""
        return any(
            tensor.dtype.is_floating and tensor.dtype.size < 4
            for op in self.traced.graph.get_operations()
            for tensor in op.outputs
        )

    @cached_property
    def forward_bytes(self) -> int:
        """Peak memory of one evaluation in bytes, from static shapes."""
        return forward_bytes(self.traced, self.scores)

    @property
    def repeatable(self) -> bool:
        """Whether one function may hold several copies of the graph, one per part of a call."""
        return self.traced.repeatable(self.scores)

    def masked(self, reference: Reference) -> MaskedModel:
        """The model with a background, for masking methods; made once per reference."""

        def make() -> MaskedModel:
            return MaskedModel(
                self.traced,
                self.scores,
                reference.inputs,
                reference.players,
                count=self.count,
                affine_prefix=self._affine_prefix,
            )

        # The key is unique: the cached value refers to this model, so that no other model can get its id.
        masked: MaskedModel = reference.once(f"masked by {id(self)}", make)
        return masked

    def trees(self) -> tuple[Forest, np.ndarray]:
        """The trees of a tree model, and the constants, `[T]`, that make the trees' sum the score.

        Raises:
          UserError: The model has no trees.
        """
        raise UserError("the model has no trees", "method.name", "choose another method")

    def differentiable(self, example: Mapping[str, np.ndarray]) -> DifferentiableModel:
        """The model cut where gradients can begin, made once.

        Args:
          example: One row of each input, `[1, *shape]`, with values that the model accepts.
        Raises:
          UserError: Gradients cannot reach an input, or cannot tell inputs apart.
        """
        with self._lock:
            if self._differentiable is None:
                self._differentiable = DifferentiableModel(
                    self.traced,
                    self.scores,
                    self.shapes,
                    example,
                    affine_prefix=self._affine_prefix,
                    held=self.held,
                )
            return self._differentiable

    def rescaled(self, example: Mapping[str, np.ndarray]) -> RescaleModel:
        """The model with DeepLIFT's rules, made once.

        Args:
          example: Some rows of each input, `[R, *shape]`, with values that the model accepts.
        Raises:
          UserError: An op has no rule; the error names it.
        """
        with self._lock:
            if self._rescaled is None:
                self._rescaled = RescaleModel(self.traced, self.scores, self.shapes, example)
            return self._rescaled


def _full_signature(
    signature: Signature, shapes: Mapping[str, tuple[int, ...]], outputs: Sequence[Any]
) -> Signature:
    """Completes the signature with the shapes known from the trace.

    Raises:
      UserError: An output's leading axis is not the batch, or the input shapes do not determine its shape.
    """
    heads = []
    for head, tensor in zip(signature.outputs, outputs, strict=True):
        shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
        if not shape or shape[0] is not None or None in shape[1:]:
            what = f"output {head.name!r} has the shape {tensor.shape}: not rows of a known shape"
            raise UserError(
                what, "model", "save it with an open batch, None as the first length of its inputs"
            )
        heads.append(HeadSpec(head.name, shape[1:]))
    inputs = tuple(InputSpec(spec.name, shapes[spec.name], spec.dtype) for spec in signature.inputs)
    return Signature(inputs, tuple(heads))
