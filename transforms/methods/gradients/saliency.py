"""Gradients at the row itself: saliency and input times gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from transforms.methods.base import Attribution, AttributionMethod, Needs, predict, take
from transforms.methods.calls import run_calls
from transforms.methods.masking.game import base_values
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class Saliency(AttributionMethod):
    """The gradient of the score at the row: how fast the score moves with each feature.

    φ_i = ∂F(x)/∂x_i; for an embedded category, the sum of the gradient over the embedding's axis.

    Args:
      absolute: Use |∂F/∂x_i|, summed over an embedding's axis.
    Cost: one gradient evaluation per row; memory O(device_batch_size).
    Reference: Simonyan et al. 2013, https://arxiv.org/abs/1312.6034.
    """

    name: ClassVar[str] = "saliency"
    summary: ClassVar[str] = "the gradient of the score at the row"
    when: ClassVar[str] = "a first look at what the score is sensitive to, at the lowest cost; no sums"
    needs: ClassVar[Needs] = Needs(gradients=True, background=False)
    additive: ClassVar[bool] = False

    absolute: bool = False

    @property
    def signed(self) -> bool:
        """False with `absolute`, whose values are never negative."""
        return not self.absolute

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """One."""
        return 1

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Differentiates; see `AttributionMethod.attribute`."""
        mode = "absolute" if self.absolute else "plain"
        return _at_the_row(model, inputs, reference, targets, device_batch_size, mode)


@dataclass(frozen=True)
class InputXGradient(AttributionMethod):
    """The input times the gradient at the row: the attribution of the model's tangent at the row.

    φ_i = x_i · ∂F(x)/∂x_i; for an embedded category, the sum over the embedding's axis.

    Cost: one gradient evaluation per row; memory O(device_batch_size).
    Reference: Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713.
    """

    name: ClassVar[str] = "input_x_gradient"
    summary: ClassVar[str] = "the row's values times the gradient there"
    when: ClassVar[str] = (
        "as cheap as saliency, in units of the score; exact for a linear model without intercept"
    )
    needs: ClassVar[Needs] = Needs(gradients=True, background=False)
    additive: ClassVar[bool] = False

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """One."""
        return 1

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Differentiates; see `AttributionMethod.attribute`."""
        return _at_the_row(model, inputs, reference, targets, device_batch_size, "times_input")


def _at_the_row(
    model: ScoredModel,
    inputs: Arrays,
    reference: Reference,
    targets: np.ndarray,
    device_batch_size: int,
    mode: str,
) -> Attribution:
    prediction, output = predict(model, inputs, targets, device_batch_size)
    differentiable = model.differentiable(reference.inputs)
    still = [np.zeros((), np.float32)] * len(differentiable.cut.entries)

    def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        return (differentiable.gradient(take(inputs, index), still, 1, targets[index], mode)[0],)

    (values,) = run_calls(len(targets), device_batch_size, call)
    base_value = base_values(model, inputs, reference, targets, device_batch_size)
    unlimited = np.zeros(len(targets), bool)
    return Attribution(values, prediction, output, base_value, None, None, unlimited)
