"""What every kind of model offers: a signature and evaluations; and the score of it that is explained."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from transforms.errors import RowsRefused, UserError
from transforms.models.messages import first_line, out_of_memory

if TYPE_CHECKING:
    import pyarrow as pa

    from transforms.models.categories import Category, CategoryPlaces
    from transforms.models.forest.arrays import Forest
    from transforms.models.graphs.deeplift.model import RescaleModel
    from transforms.models.graphs.gradients import DifferentiableModel
    from transforms.models.graphs.masked import MaskedModel
    from transforms.models.graphs.trace import TracedModel
    from transforms.models.reference import Reference

#: Gradients of this many targets share one forward pass; more targets are taken in turns.
TARGETS_AT_ONCE = 8
#: Memory that what is computed of a background may take from one device call to the next.
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class InputSpec:
    """A model input. `shape` is without the batch, None where the model takes any extent.

    Args:
      name: Of the input.
      shape: Of a row.
      dtype: A numpy name, or "string".
      values: Names of a vector's values, where the model knows them.
      nan: Whether NaN, or None among strings, is a value to the model.
      categories: Which of a vector's values are categories, where some are: the model takes their codes.
      missing: A number that is missing to the model, as NaN is.
      respelled: Whether the model has underscores for the spaces in the values' names.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    values: tuple[str, ...] = ()
    nan: bool = False
    categories: CategoryPlaces | None = None
    missing: float | None = None
    respelled: bool = False


@dataclass(frozen=True)
class OutputSpec:
    """A head. `shape` is without the batch; its values are taken side by side.

    Args:
      name: Of the head.
      shape: Of a row.
      labels: Names of its values, where the model has some.
      classes: What its values are classes of, where the model says so.
    """

    name: str
    shape: tuple[int | None, ...]
    labels: tuple[str, ...] = ()
    classes: tuple[Category, ...] = ()

    @property
    def width(self) -> int:
        """Outputs that the head adds to the targets."""
        return int(np.prod([extent or 1 for extent in self.shape], dtype=np.int64))


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model, in its own order."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]

    @property
    def classes(self) -> tuple[Category, ...]:
        """What the targets are classes of; none where they are not, or where there are several heads."""
        return self.outputs[0].classes if len(self.outputs) == 1 else ()

    @property
    def target_names(self) -> tuple[str, ...]:
        """A name a target: its label, or the head's with the index in brackets where the head is wide."""
        return tuple(
            name
            for head in self.outputs
            for name in head.labels
            or ([head.name] if head.width == 1 else [f"{head.name}[{i}]" for i in range(head.width)])
        )

    @property
    def heads(self) -> dict[str, range]:
        """The targets of each head, by its name."""
        found, start = {}, 0
        for head in self.outputs:
            width = len(head.labels) or head.width
            found[head.name] = range(start, start + width)
            start += width
        return found


@dataclass(frozen=True)
class Build:
    """How functions that are cut from a model are made.

    Args:
      jit: Whether XLA compiles them.
      device: Where they run; None leaves it to TensorFlow.
      lanes: Calls in flight on the device; 0: as many as are made.
    """

    jit: bool = False
    device: str | None = None
    lanes: int = 0


AS_IT_IS = Build()


class ModelAdapter(Protocol):
    """A loaded model, shared by the threads of a process."""

    kind: str

    @property
    def signature(self) -> Signature | None:
        """Inputs and outputs; None where the columns decide: a function takes what it is given."""

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> ScoredModel:
        """The model with its score; arguments as for `ScoredModel`, and rows of each input."""


@runtime_checkable
class PublicPrediction(Protocol):
    """An adapter that can ask its library for the prediction that the model's users get."""

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """What the library's own public call gives for rows, `[B, T]` in the order of the targets.

        Args:
          rows: The features' columns as the file holds them, under the features' names.
          inputs: The same rows decoded, by model input, `[B, *shape]`.
        Returns:
          The prediction, which `output` of the tables must equal; None where there is no such call.
        """


class GraphAdapter:
    """A model that TensorFlow can trace."""

    kind: str
    signature: Signature
    #: Of its products, and how functions are made of it; `load_model` sets them.
    precision: str = "float32"
    build: Build = AS_IT_IS
    #: Class by name of its layers, where it is known to have some.
    layers: Mapping[str, str] = MappingProxyType({})

    def trace(self, shapes: Mapping[str, tuple[int, ...]]) -> TracedModel:
        """Traces the model once with inputs of these shapes, the batch open."""
        raise NotImplementedError

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> ScoredModel:
        """The model with its score; the example is for models whose outputs only a call shows."""
        return ScoredModel(self, shapes, score, affine_prefix=affine_prefix)


class ScoredModel:
    """A model with the score that is explained.

    Args:
      adapter: The loaded model.
      shapes: Full shape of each input, without the batch.
      score: auto | output | logit | probability.
      affine_prefix: False leaves the affine prefix off, of the path methods and of the masking ones.

    Attributes:
      score_kinds: A head, what is explained: "output", "logit", "probability" or "margin".
      evaluations: Forward evaluations asked for so far.
      held: Inputs that stay what they are in the row under methods that take gradients.
      has_gradients: Whether its kind of model has any.
      has_trees: Whether it is a tree model.
    """

    has_gradients: bool = True
    has_trees: bool = False
    held: frozenset[str] = frozenset()

    def __init__(
        self,
        adapter: GraphAdapter,
        shapes: Mapping[str, tuple[int, ...]],
        score: str = "auto",
        *,
        affine_prefix: bool = True,
    ) -> None:
        import tensorflow as tf

        from transforms.models.graphs.compiled import Compiled
        from transforms.models.graphs.cut.cut import head_scores
        from transforms.models.graphs.rewrites.grouped_convolutions import ungrouped
        from transforms.models.graphs.xla import for_xla

        self.adapter = adapter
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        traced = ungrouped(adapter.trace(self.shapes))
        if adapter.precision != "float32":
            from transforms.models.graphs.rewrites.precision import lowered

            traced = lowered(traced, adapter.precision)
        self.traced = replace(traced, build=adapter.build)
        if adapter.build.jit:
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
        self._evaluate = Compiled(self._values, [specs], self.traced.build)

    def _values(self, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        import tensorflow as tf

        from transforms.models.graphs.tensors import flatten_heads

        feeds = {self.traced.inputs[name].name: value for name, value in inputs.items()}
        rows = tf.shape(next(iter(inputs.values())))[0]
        found = self.traced.replay(feeds, [*self.scores, *self.traced.outputs])
        heads = len(self.scores)
        return flatten_heads(found[:heads], rows), flatten_heads(found[heads:], rows)

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model.

        Args:
          inputs: By model input, `[B, *shape]`.
        Returns:
          The scores and the model's own outputs, each `[B, T]` float32 over all targets.
        Cost: one forward evaluation a row.
        """
        self.count(len(next(iter(inputs.values()))))
        scores, outputs = self._evaluate(dict(inputs))
        return scores.numpy(), outputs.numpy()

    def count(self, evaluations: int) -> None:
        """Adds to the forward evaluations asked for."""
        with self._lock:
            self.evaluations += evaluations

    @cached_property
    def in_halves(self) -> bool:
        """Whether some of it is computed in numbers of 16 bits or fewer."""
        return any(
            tensor.dtype.is_floating and tensor.dtype.size < 4
            for op in self.traced.graph.get_operations()
            for tensor in op.outputs
        )

    @cached_property
    def forward_bytes(self) -> int:
        """Memory that one evaluation holds at most."""
        from transforms.models.graphs.growth import forward_bytes

        return forward_bytes(self.traced, self.scores)

    @property
    def repeatable(self) -> bool:
        """Whether its graph may stand in one function several times, for the parts of a call."""
        return self.traced.repeatable(self.scores, frozenset(t.name for t in self.traced.inputs.values()))

    def masked(self, reference: Reference) -> MaskedModel:
        """The model with a background, for masking methods; made once for each reference."""
        from transforms.models.graphs.masked import MaskedModel

        def make() -> MaskedModel:
            return MaskedModel(self, reference.inputs, reference.players, affine_prefix=self._affine_prefix)

        # The id stays this model's: what is kept holds it.
        found: MaskedModel = reference.once(f"masked by {id(self)}", make)
        return found

    def trees(self) -> tuple[Forest, np.ndarray]:
        """The trees of a tree model, and the constant that makes their sum the score, `[T]`.

        Raises:
          UserError: It has none.
        """
        raise UserError("the model has none", "method.name", "choose another method")

    def differentiable(self, example: Mapping[str, np.ndarray]) -> DifferentiableModel:
        """The model cut where gradients can begin, made once.

        Args:
          example: A row of each input, `[1, *shape]`, that the model accepts.
        Raises:
          UserError: Gradients cannot reach an input, or cannot tell inputs apart.
        """
        with self._lock:
            if self._differentiable is None:
                from transforms.models.graphs.gradients import DifferentiableModel

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
          example: Some rows of each input, `[R, *shape]`, that the model accepts.
        Raises:
          UserError: An op has no rule; the error names it.
        """
        with self._lock:
            if self._rescaled is None:
                from transforms.models.graphs.deeplift.model import RescaleModel

                self._rescaled = RescaleModel(self.traced, self.scores, self.shapes, example)
            return self._rescaled


def _full_signature(
    signature: Signature, shapes: Mapping[str, tuple[int, ...]], outputs: Sequence[Any]
) -> Signature:
    """The signature with what it left open as the trace with full input shapes has it.

    Raises:
      UserError: An output does not lead with the batch, or the inputs do not fix its shape.
    """
    heads = []
    for head, tensor in zip(signature.outputs, outputs, strict=True):
        shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
        if not shape or shape[0] is not None or None in shape[1:]:
            what = f"output {head.name!r} has the shape {tensor.shape}: not rows of a known shape"
            raise UserError(
                what, "model", "save it with an open batch, None as the first length of its inputs"
            )
        heads.append(OutputSpec(head.name, shape[1:]))
    inputs = tuple(InputSpec(spec.name, shapes[spec.name], spec.dtype) for spec in signature.inputs)
    return Signature(inputs, tuple(heads))


def refusal(error: Exception, *, planning: bool = False) -> str | None:
    """Why a model does not take rows, if that is what an exception of its evaluation says; else None.

    Args:
      error: What was raised.
      planning: Whether a plan is made, where whatever TensorFlow stumbles over is the model's or the rows'.
    """
    if isinstance(error, RowsRefused):
        return str(error)[:200]
    if "tensorflow" not in sys.modules or out_of_memory(error):
        return None
    import tensorflow as tf

    # What depends on the values of a row: an index outside an embedding, a word outside a closed vocabulary.
    errors = tf.errors
    refusals = errors.OpError if planning else (errors.InvalidArgumentError, errors.OutOfRangeError)
    if not isinstance(error, refusals):
        return None
    return first_line(error)
