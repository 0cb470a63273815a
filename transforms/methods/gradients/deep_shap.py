"""DeepSHAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from transforms.methods.base import Attribution, AttributionMethod, Needs, convergence_delta, predict, take
from transforms.methods.calls import run_calls
from transforms.models.base import TARGETS_AT_ONCE
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class DeepShap(AttributionMethod):
    """Attributes the score by DeepLIFT's rescale rule against every background row, averaged.

    From the score back to the inputs, each op divides its own difference between the row and the background
    row among its operands: an element-wise function by Δout/Δin, a product by the Shapley value of its two
    factors, a maximum by way of the larger of the two, a softmax by integrating along the straight line; what
    is linear passes on. φ sums to F(x) − mean F(x′) whatever the model; it is the Shapley value where the
    model is a sum of functions of one feature each and of products of two.

    Cost: one forward evaluation per row, and a backward walk per row and background row; memory
      O(device_batch_size).
    Reference: Shrikumar et al. 2017, https://arxiv.org/abs/1704.02685; Lundberg and Lee 2017,
      https://arxiv.org/abs/1705.07874, §4.2.
    """

    name: ClassVar[str] = "deep_shap"
    summary: ClassVar[str] = "DeepLIFT's rules against every background row, averaged"
    when: ClassVar[str] = (
        "a neural network and a background that stands for the data: exact sums at the cost of gradients"
    )
    needs: ClassVar[Needs] = Needs(gradients=True, background=True, rescale=True)
    additive: ClassVar[bool] = True

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """One per background row."""
        return background_rows

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Walks back through the graph; see `AttributionMethod.attribute`."""
        prediction, output = predict(model, inputs, targets, device_batch_size)
        base_value = reference.base_values[targets]
        rescaled = model.rescaled(reference.inputs)
        pairs = max(1, device_batch_size // min(targets.shape[1], TARGETS_AT_ONCE))
        calls = -(-reference.rows // pairs)
        at_once = -(-reference.rows // calls)
        # The background's tensors that the rules need, computed once per process.
        parts = reference.latest("rescaled", at_once, lambda: rescaled.background(reference.inputs, at_once))

        def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
            return (rescaled.explain(take(inputs, index), parts, targets[index]),)

        (values,) = run_calls(len(targets), max(1, pairs // at_once), call)
        delta = convergence_delta(values, prediction, base_value)
        limited = np.zeros(len(targets), bool)
        return Attribution(values, prediction, output, base_value, delta, None, limited)
