"""TreeSHAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from transforms.methods.base import Attribution, AttributionMethod, Needs, convergence_delta, predict
from transforms.methods.calls import run_calls
from transforms.models.reference import Arrays, Reference

if TYPE_CHECKING:
    from transforms.methods.trees.interventional import Interventional
    from transforms.methods.trees.path_dependent import PathDependent
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class TreeShap(AttributionMethod):
    """Attributes a tree model's margin (a forest's probability or value) by exact Shapley values.

    With `perturbation: interventional` a missing feature takes the values of the background rows, and Σφ is
    the score minus its mean over the background. With `path_dependent` a split on a missing feature sends a
    row both ways, in the proportions of the training rows; base_value is the trees' own expected score, and
    the background is not used.

    Args:
      perturbation: The replacement of a missing feature.
    Cost: one model evaluation per row and a walk through the trees; terms of the background are tabulated
    once, in at most 256 MiB.
    Reference: Lundberg et al. 2020, https://doi.org/10.1038/s42256-019-0138-9.
    """

    name: ClassVar[str] = "tree_shap"
    summary: ClassVar[str] = "exact Shapley values of tree models, from the trees themselves"
    when: ClassVar[str] = "XGBoost, LightGBM, forests: exact sums in the time of a few predictions"
    needs: ClassVar[Needs] = Needs(gradients=False, background=True, trees=True)
    additive: ClassVar[bool] = True

    perturbation: Literal["interventional", "path_dependent"] = "interventional"

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """One, for the prediction: the values come from the trees."""
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
        """Computes φ from the trees; see `AttributionMethod.attribute`."""
        prediction, output = predict(model, inputs, targets, device_batch_size)
        forest, constant = model.trees()
        mirrored = model.mirrored
        ((name, rows),) = inputs.items()
        engine: Interventional | PathDependent
        if self.perturbation == "interventional":
            engine = reference.once("interventional", lambda: _interventional(model, reference))
            base_value = reference.base_values[targets]
        else:
            from transforms.methods.trees.path_dependent import PathDependent

            path_dependent = PathDependent(forest)
            expected = reference.once("path_dependent", lambda: constant + path_dependent.expected)
            expected = np.r_[-expected, expected] if mirrored else expected
            engine, base_value = path_dependent, expected.astype(np.float32)[targets]
        # If the trees score the second of two classes, the first class's φ are the negatives.
        sign = np.where(targets == 0, -1.0, 1.0) if mirrored else None
        grown = np.zeros_like(targets) if mirrored else targets
        wanted = np.unique(grown)
        place = np.full(forest.outputs, -1, np.int64)
        place[wanted] = np.arange(len(wanted))
        chosen = place[grown]

        def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
            chosen_values = engine.values(rows[index], place, len(wanted))
            chosen_values = np.take_along_axis(chosen_values, chosen[index][:, :, None], axis=1)
            if sign is not None:
                chosen_values *= sign[index][:, :, None]
            return ({name: chosen_values.astype(np.float32)},)

        (values,) = run_calls(len(rows), device_batch_size, call)
        delta = convergence_delta(values, prediction, base_value)
        return Attribution(values, prediction, output, base_value, delta, None, np.zeros(len(rows), bool))


def _interventional(model: ScoredModel, reference: Reference) -> Interventional:
    from transforms.methods.trees.interventional import Interventional

    ((_, background),) = reference.inputs.items()
    return Interventional(model.trees()[0], background)
