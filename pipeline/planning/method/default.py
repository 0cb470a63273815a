"""The method that a config leaves open, and its baseline: by the kind of the model, and said."""

from __future__ import annotations

from collections.abc import Sequence

from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod

#: Up to so many features or groups, all coalitions are no more than kernel_shap would draw of them.
_EXACT = 11
_GRADIENTS, _FUNCTION = ("keras", "savedmodel"), "python"


def candidates(kind: str, players: int) -> Sequence[tuple[AttributionMethod, str]]:
    """Methods for a kind of model, the first one first, each with the reason why it is taken.

    A later one is for a model on which those before it cannot work.

    Args:
      kind: Of the model, as its adapter calls it.
      players: What masking methods would keep and replace.
    """
    if players <= _EXACT:
        masking, few = METHODS["exact_shap"](), f"every combination of {players} features is evaluated"
    else:
        masking, few = METHODS["permutation_shap"](), f"it suits any model, and {players:,} features"
    if kind == _FUNCTION:
        return [(masking, f"a function has no gradients; {few}")]
    if kind in _GRADIENTS:
        return [(METHODS["integrated_gradients"](), "a TensorFlow model has gradients"), (masking, few)]
    return [(METHODS["tree_shap"](), "the model is made of trees"), (masking, few)]


def baseline_kind(method: AttributionMethod) -> str:
    """The kind of baseline that a method takes where the config says none."""
    return "sample" if method.needs.background else "mean"
