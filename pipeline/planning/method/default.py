"""Chooses the method and baseline that a config leaves open, by the kind of the model, with reasons."""

from __future__ import annotations

from collections.abc import Sequence

from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod

#: Largest number of features or groups for which exact_shap evaluates no more coalitions than kernel_shap.
_EXACT = 11
_GRADIENTS, _FUNCTION = ("keras", "savedmodel"), "python"


def candidate_methods(kind: str, players: int) -> Sequence[tuple[AttributionMethod, str]]:
    """Methods for a kind of model, the preferred one first, each with the reason for choosing it.

    Fallback order: each method is tried only if the ones before it do not support the model.

    Args:
      kind: The kind of the model, as its adapter names it.
      players: Number of features or groups that masking methods keep or replace.
    """
    if players <= _EXACT:
        masking, few = METHODS["exact_shap"](), f"every combination of {players} features is evaluated"
    else:
        masking, few = (
            METHODS["permutation_shap"](),
            f"it works with any model and scales to {players:,} features",
        )
    if kind == _FUNCTION:
        return [(masking, f"a function has no gradients; {few}")]
    if kind in _GRADIENTS:
        return [(METHODS["integrated_gradients"](), "a TensorFlow model has gradients"), (masking, few)]
    return [(METHODS["tree_shap"](), "the model is made of trees"), (masking, few)]


def baseline_kind(method: AttributionMethod) -> str:
    """The kind of baseline that a method takes if the config names none."""
    return "sample" if method.needs.background else "mean"
