"""The contract of models: signatures, adapters, and what a method may ask of a model with its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from transforms.errors import UserError
from transforms.models.capabilities import Gradients, MaskedScores, Rescaled
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    import pyarrow as pa

    from transforms.models.categories import Category, CategoryPlaces
    from transforms.models.forest.arrays import Forest


class NoGradients(UserError):
    """Gradients of the score cannot be taken of a model; methods that only evaluate it may work."""


class MaskInputs(NoGradients):
    """No gradient path leads from some inputs: they only switch values on and off.

    Args:
      inputs: Their names.
    """

    def __init__(self, what: str, where: str | None, remedy: str | None, inputs: tuple[str, ...]) -> None:
        super().__init__(what, where, remedy)
        self.inputs = inputs

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return (type(self), (self.what, self.where, self.remedy, self.inputs))


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
class HeadSpec:
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
    outputs: tuple[HeadSpec, ...]

    @property
    def classes(self) -> tuple[Category, ...]:
        """Classes that the targets stand for; empty for other targets, and with several heads."""
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
        ranges, start = {}, 0
        for head in self.outputs:
            width = len(head.labels) or head.width
            ranges[head.name] = range(start, start + width)
            start += width
        return ranges


@dataclass(frozen=True)
class CompileOptions:
    """Options for compiling the functions traced from a model.

    Args:
      jit: Whether XLA compiles them.
      device: Where they run; None leaves it to TensorFlow.
      lanes: Most calls in flight on the device; 0 sets no limit.
    """

    jit: bool = False
    device: str | None = None
    lanes: int = 0


DEFAULT = CompileOptions()


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
        """Chooses the score that is explained.

        Args:
          shapes: Full shape of each input, without the batch.
          score: auto | output | logit | probability.
          affine_prefix: False leaves the affine prefix off, of the path methods and of the masking ones.
          example: Rows of each input, for models whose outputs only a call shows.
        """


@runtime_checkable
class CompiledAdapter(Protocol):
    """An adapter of a model that TensorFlow compiles.

    Attributes:
      precision: Of its matrix products: float32 | mixed_float16 | mixed_bfloat16.
      compile_options: How its functions are compiled.
    """

    precision: str
    compile_options: CompileOptions


@runtime_checkable
class TakesMissing(Protocol):
    """An adapter of a model whose file does not keep the number that stands for a missing value."""

    def take_missing(self, missing: float) -> None:
        """Takes a number as missing."""


@runtime_checkable
class PublicPrediction(Protocol):
    """An adapter that can ask its library for the prediction that the model's users get."""

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Returns what the library's own public call gives for rows, `[B, T]` in the order of the targets.

        Args:
          rows: The features' columns as the file holds them, under the features' names.
          inputs: The same rows decoded, by model input, `[B, *shape]`.
        Returns:
          The prediction, which `output` of the tables must equal; None where there is no such call.
        """


class ScoredModel(Protocol):
    """A model with the score that is explained: what a method may ask of it."""

    #: Inputs that stay what they are in the row under methods that take gradients.
    held: frozenset[str]
    #: Forward evaluations asked for so far.
    evaluations: int

    @property
    def adapter(self) -> ModelAdapter:
        """The loaded model."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs, with full shapes."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Full shape of each input, without the batch."""

    @property
    def score_kinds(self) -> tuple[str, ...]:
        """Kind of score explained, by head: "output", "logit", "probability" or "margin"."""

    @property
    def has_gradients(self) -> bool:
        """Whether this kind of model has any; such a model runs in TensorFlow."""

    @property
    def has_trees(self) -> bool:
        """Whether it is a tree model."""

    @property
    def mirrored(self) -> bool:
        """Whether the trees are the second class's alone, and the first one's score is minus theirs."""

    @property
    def yes_or_no(self) -> bool:
        """Whether the one output is the probability of a yes."""

    @property
    def in_halves(self) -> bool:
        """Whether some of it is computed in numbers of 16 bits or fewer."""

    @property
    def repeatable(self) -> bool:
        """Whether its graph may stand in one function several times, for the parts of a call."""

    @property
    def forward_bytes(self) -> int:
        """Memory that one evaluation holds at most."""

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model.

        Args:
          inputs: By model input, `[B, *shape]`.
        Returns:
          The scores and the model's own outputs, each `[B, T]` float32 over all targets.
        Cost: one forward evaluation a row.
        """

    def masked(self, reference: Reference) -> MaskedScores | None:
        """Returns the model with a background on the device, made once for each reference.

        None where the model does not run in TensorFlow: the caller puts masked rows together.
        """

    def trees(self) -> tuple[Forest, np.ndarray]:
        """Returns the trees of a tree model, and the constant that makes their sum the score, `[T]`.

        Raises:
          UserError: The model has no trees.
        """

    def differentiable(self, example: Arrays) -> Gradients:
        """Returns the model cut where gradients can begin, made once.

        Args:
          example: A row of each input, `[1, *shape]`, that the model accepts.
        Raises:
          NoGradients: Gradients cannot reach an input, or cannot tell inputs apart.
          UserError: The model has no gradients at all.
        """

    def rescaled(self, example: Arrays) -> Rescaled:
        """Returns the model with DeepLIFT's rules, made once.

        Args:
          example: Some rows of each input, `[R, *shape]`, that the model accepts.
        Raises:
          UserError: An op has no rule; the error names it.
        """
