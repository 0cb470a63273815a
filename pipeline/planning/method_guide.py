"""A guide to the methods by model, data and required guarantees, and their costs in words."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.planning.method.allowed_values import allowed_values


@dataclass(frozen=True)
class Advice:
    """A line of the guide.

    Args:
      question: The beginning of a statement about the reader's case.
      case: One completion of that statement.
      methods: Methods that suit the case, the best first.
      because: The reason.
    """

    question: str
    case: str
    methods: tuple[str, ...]
    because: str


_MODEL, _DATA, _OWED = "Your model is", "Your data are", "You need"

GUIDE: Sequence[Advice] = (
    Advice(
        _MODEL,
        "a Keras or TensorFlow network",
        ("integrated_gradients", "deep_shap", "expected_gradients"),
        "they use its gradients: 50 to 200 model calls per row, for any number of features",
    ),
    Advice(
        _MODEL,
        "XGBoost, LightGBM or a scikit-learn forest",
        ("tree_shap",),
        "exact Shapley values from the trees themselves",
    ),
    Advice(
        _MODEL,
        "anything else: a Python function, a SavedModel that reads strings",
        ("exact_shap", "kernel_shap", "permutation_shap", "lime", "occlusion"),
        "they only evaluate it, on rows with some features replaced by values of the background",
    ),
    Advice(
        _DATA,
        "a table",
        ("integrated_gradients", "deep_shap", "kernel_shap"),
        "one number per column; input.groups turns columns that belong together into one feature",
    ),
    Advice(
        _DATA,
        "pictures",
        ("integrated_gradients", "smoothgrad", "occlusion"),
        "gradients cost the same for any number of pixels; occlusion slides a window; input_x_gradient and "
        "saliency are the cheapest first look",
    ),
    Advice(
        _DATA,
        "text as token ids",
        ("integrated_gradients", "deep_shap", "occlusion"),
        "one number per token: gradients are taken at the embedding's output",
    ),
    Advice(
        _OWED,
        "exact sums",
        ("deep_shap", "exact_shap", "tree_shap", "kernel_shap", "permutation_shap"),
        "Σφ = prediction − base_value to rounding; integrated_gradients to a tolerance that you set",
    ),
    Advice(
        _OWED,
        "every row of a large data set by tomorrow morning",
        ("saliency", "input_x_gradient", "integrated_gradients", "tree_shap"),
        "the fewest model calls per row; `attribeam plan` estimates the time on your model and data",
    ),
    Advice(
        _OWED,
        "a reason code to a customer or a regulator",
        ("exact_shap", "tree_shap", "integrated_gradients"),
        "no random numbers and exact sums: the same row always gives the same reasons. exact_shap "
        "takes up to 15 features or groups; output.attributions: {top_k: 4} keeps the strongest four",
    ),
    Advice(
        _OWED,
        "a statement of the error",
        ("kernel_shap", "permutation_shap", "expected_gradients", "lime"),
        "standard_error: true writes each value's error; tolerance draws more samples where errors are large",
    ),
)

#: Requirements of methods in words.
_NEEDS = {"trees": "a tree model", "gradients": "gradients", "evaluations": "evaluations"}


def requirement_of(method: Any) -> str:
    """The requirement of a method: "trees", "gradients" or "evaluations"."""
    if method.needs.trees:
        return "trees"
    return "gradients" if method.needs.gradients else "evaluations"


def describe_method(method: Any) -> dict[str, Any]:
    """Describes a method for `attribeam methods`, with its cost for ten features."""
    keys = {field.name: field.default for field in dataclasses.fields(method)}
    rows = "a background" if method.needs.background else "one baseline row"
    return {
        "name": method.name,
        "summary": method.summary,
        "when": method.when,
        "needs": f"{_NEEDS[requirement_of(method)]} and {rows}",
        "cost": _cost(method),
        "sums": "Σφ = prediction − base_value" if method.additive else "Σφ has no fixed value",
        "keys": keys,
        "allowed": allowed_values(method),
        "documentation": inspect.cleandoc(method.__doc__ or ""),
    }


def _cost(method: Any) -> str:
    """Model evaluations per row in words, by the quantities that they depend on."""
    default = method()
    one = default.evaluations_per_row(1, 10)
    if one == 0:
        return "no model call"
    calls = f"{one:,} model call{'' if one == 1 else 's'} a row"
    grows = " and baseline row" if default.evaluations_per_row(100, 10) != one else ""
    few = " of 10 features" if default.evaluations_per_row(1, 12) != one else ""
    return calls + grows + few
