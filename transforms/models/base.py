"""Protocols that models implement (adapters and scored models), and the signature of a model."""

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
    """Some inputs have no gradient path to the score: they only switch other values on and off.

    Args:
      inputs: Names of the inputs without a gradient path.
    """

    def __init__(self, what: str, where: str | None, remedy: str | None, inputs: tuple[str, ...]) -> None:
        super().__init__(what, where, remedy)
        self.inputs = inputs

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return (type(self), (self.what, self.where, self.remedy, self.inputs))


#: Maximum number of targets for which one forward pass computes gradients; more targets need more passes.
TARGETS_AT_ONCE = 8
#: Limit in bytes for results computed from a background and kept between device calls.
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class InputSpec:
    """A model input.

    Args:
      name: Name of the input.
      shape: Shape of one row, without the batch axis; None for an axis that may have any size.
      dtype: Name of a numpy dtype, or "string".
      values: Names of the vector's values; empty if the model does not name them.
      nan: Whether the model accepts missing values: NaN in an input of numbers, None in an input of strings.
      categories: Which places in the vector hold codes of categories; None if no place does.
      missing: A number that the model treats as missing, as it treats NaN; None if there is no such number.
      respelled: Whether the names in `values` have underscores where the original names had spaces.
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
    """A head: one of the model's outputs. Each of its values becomes a target.

    Args:
      name: Name of the head.
      shape: Shape of one row, without the batch axis.
      labels: Names of the head's values; empty if the model does not name them.
      classes: Class of each of the head's values; empty if the model does not state classes.
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
        """The class of each target; empty if the targets are not classes or the model has several heads."""
        return self.outputs[0].classes if len(self.outputs) == 1 else ()

    @property
    def target_names(self) -> tuple[str, ...]:
        """One name per target: its label, else its head's name; heads of several targets add `[index]`."""
        return tuple(
            name
            for head in self.outputs
            for name in head.labels
            or ([head.name] if head.width == 1 else [f"{head.name}[{i}]" for i in range(head.width)])
        )

    @property
    def heads(self) -> dict[str, range]:
        """The target indices of each head, by the head's name."""
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
        """Inputs and outputs; None for a Python function, which accepts any columns."""

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
          shapes: Full shape of each input, without the batch axis.
          score: auto | output | logit | probability.
          affine_prefix: Whether path methods and masking methods may combine rows after the model's affine
            first layers (the affine prefix) instead of at its inputs.
          example: Rows of each input, for models that must be called once to learn their outputs.
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
    """An adapter that can call the public prediction function of the model's library."""

    def public_prediction(self, rows: pa.RecordBatch, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Predicts rows by the library's public function, `[B, T]` in the order of the targets.

        Args:
          rows: The columns of the features as the input file holds them, under the names of the features.
          inputs: The same rows decoded, by model input, `[B, *shape]`.
        Returns:
          The prediction, which must equal the column `output` of the tables; None if the library has no such
          function.
        """


class ScoredModel(Protocol):
    """A model with the score that is explained: everything that methods use of a model."""

    #: Inputs that methods with gradients do not vary: they keep the row's own values.
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
        """Full shape of each input, without the batch axis."""

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
        """True if the trees sum to the second class's score, and the first class's score is its negative."""

    @property
    def yes_or_no(self) -> bool:
        """True if the only output is the probability of a yes."""

    @property
    def in_halves(self) -> bool:
        """True if some of the model's ops compute with numbers of 16 bits or fewer."""

    @property
    def repeatable(self) -> bool:
        """True if a call may be split into parts, with a copy of the model's graph for each part."""

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
        """Returns the trees and constants `[T]`; the scores are the sums of the leaves plus the constants.

        Raises:
          UserError: The model has no trees.
        """

    def differentiable(self, example: Arrays) -> Gradients:
        """Returns the model cut at the tensors where gradients can begin; the cut is made once.

        Args:
          example: A row of each input, `[1, *shape]`, that the model accepts.
        Raises:
          NoGradients: Gradients cannot reach an input, or cannot distinguish two inputs.
          UserError: The model has no gradients at all.
        """

    def rescaled(self, example: Arrays) -> Rescaled:
        """Returns the model with DeepLIFT's rules in place of gradients; it is built once.

        Args:
          example: Some rows of each input, `[R, *shape]`, that the model accepts.
        Raises:
          UserError: DeepLIFT has no rule for an op, which the message names.
        """
