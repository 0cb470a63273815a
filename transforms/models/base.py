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
    """The model's score has no gradients; methods that only evaluate the model may still work."""


class MaskInputs(NoGradients):
    """No gradient path leads from some inputs: they only switch values on and off.

    Args:
      inputs: Names of these inputs.
    """

    def __init__(self, what: str, where: str | None, remedy: str | None, inputs: tuple[str, ...]) -> None:
        super().__init__(what, where, remedy)
        self.inputs = inputs

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return (type(self), (self.what, self.where, self.remedy, self.inputs))


#: Most targets whose gradients share one forward pass; further targets take further passes.
TARGETS_AT_ONCE = 8
#: Limit in bytes for results computed from a background and kept between device calls.
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class InputSpec:
    """A model input.

    Args:
      name: Name of the input.
      shape: Shape of one row, without the batch; None for an axis on which the model takes any extent.
      dtype: A numpy name, or "string".
      values: Names of a vector's values; empty if the model does not know them.
      nan: Whether the model accepts NaN (None among strings) as a value.
      categories: Places in the vector that hold categories, which the model takes as codes; None if none do.
      missing: A number that the model treats as a missing value, as it treats NaN; None if there is none.
      respelled: Whether the model's names of the values have underscores instead of spaces.
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
    """A head of the model: one of its outputs, whose values become targets side by side.

    Args:
      name: Name of the head.
      shape: Shape of one row, without the batch.
      labels: Names of the head's values; empty if the model has none.
      classes: Classes that the head's values stand for; empty if the model does not say.
    """

    name: str
    shape: tuple[int | None, ...]
    labels: tuple[str, ...] = ()
    classes: tuple[Category, ...] = ()

    @property
    def width(self) -> int:
        """Number of targets that the head adds."""
        return int(np.prod([extent or 1 for extent in self.shape], dtype=np.int64))


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model, in the model's own order."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[HeadSpec, ...]

    @property
    def classes(self) -> tuple[Category, ...]:
        """Classes that the targets stand for; empty if they are not classes or there are several heads."""
        return self.outputs[0].classes if len(self.outputs) == 1 else ()

    @property
    def target_names(self) -> tuple[str, ...]:
        """One name per target: its label, else its head's name, with an index in brackets for wide heads."""
        return tuple(
            name
            for head in self.outputs
            for name in head.labels
            or ([head.name] if head.width == 1 else [f"{head.name}[{i}]" for i in range(head.width)])
        )

    @property
    def heads(self) -> dict[str, range]:
        """Indices of each head's targets, by the head's name."""
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
      jit: Whether XLA compiles the functions.
      device: Device on which the functions run; None lets TensorFlow choose.
      lanes: Maximum number of calls in flight on the device; 0 sets no limit.
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
        """Inputs and outputs; None for a function, which takes whatever columns it is given."""

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
          affine_prefix: False turns off the affine prefix, for path methods and for masking methods.
          example: Rows of each input, used to call models whose outputs are unknown without a call.
        """


@runtime_checkable
class CompiledAdapter(Protocol):
    """An adapter for a model that TensorFlow compiles.

    Attributes:
      precision: Precision of the model's matrix products: float32 | mixed_float16 | mixed_bfloat16.
      compile_options: Options for compiling the model's functions.
    """

    precision: str
    compile_options: CompileOptions


@runtime_checkable
class TakesMissing(Protocol):
    """An adapter for a model whose file does not record the number that stands for a missing value."""

    def take_missing(self, missing: float) -> None:
        """Makes the model treat the number `missing` as a missing value."""


@runtime_checkable
class PublicPrediction(Protocol):
    """An adapter that can ask its library for the prediction that the model's users get."""

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Predicts rows by the library's own public call, `[B, T]` in the order of the targets.

        Args:
          rows: The features' columns as the file holds them, under the features' names.
          inputs: The same rows decoded, by model input, `[B, *shape]`.
        Returns:
          The prediction, which the tables' `output` must equal; None if the library has no such call.
        """


class ScoredModel(Protocol):
    """A model with the score that is explained: what a method may ask of it."""

    #: Inputs that methods with gradients leave at the row's own values.
    held: frozenset[str]
    #: Number of forward evaluations requested so far.
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
        """Kind of the explained score, one per head: "output", "logit", "probability" or "margin"."""

    @property
    def has_gradients(self) -> bool:
        """True if this kind of model has gradients; such a model runs in TensorFlow."""

    @property
    def has_trees(self) -> bool:
        """True for a tree model."""

    @property
    def mirrored(self) -> bool:
        """True if all trees score the second class, and the first class's score is minus their sum."""

    @property
    def yes_or_no(self) -> bool:
        """True if the only output is the probability of a yes."""

    @property
    def in_halves(self) -> bool:
        """True if part of the model computes in numbers of 16 bits or fewer."""

    @property
    def repeatable(self) -> bool:
        """True if one function may contain the model's graph several times, once for each part of a call."""

    @property
    def forward_bytes(self) -> int:
        """Peak memory of one evaluation, in bytes."""

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model.

        Args:
          inputs: Values by model input, each `[B, *shape]`.
        Returns:
          The scores and the model's own outputs, each `[B, T]` float32 over all targets.
        Cost: one forward evaluation per row.
        """

    def masked(self, reference: Reference) -> MaskedScores | None:
        """Returns the model with its background on the device, built once per reference.

        Returns None if the model does not run in TensorFlow; the caller then builds the masked rows itself.
        """

    def trees(self) -> tuple[Forest, np.ndarray]:
        """Returns a tree model's trees, and the constants `[T]` to add to their sums to get the scores.

        Raises:
          UserError: The model has no trees.
        """

    def differentiable(self, example: Arrays) -> Gradients:
        """Returns the model, cut where gradients can begin; the cut is made once.

        Args:
          example: A row of each input, `[1, *shape]`, that the model accepts.
        Raises:
          NoGradients: Gradients cannot reach an input, or cannot tell inputs apart.
          UserError: The model has no gradients at all.
        """

    def rescaled(self, example: Arrays) -> Rescaled:
        """Returns the model with DeepLIFT's rules, which are applied once.

        Args:
          example: Some rows of each input, `[R, *shape]`, that the model accepts.
        Raises:
          UserError: DeepLIFT has no rule for an op; the error names the op.
        """
