"""Methods of attribution: one file each, and one line here."""

from __future__ import annotations

from transforms.methods.base import AttributionMethod
from transforms.methods.expected_gradients import ExpectedGradients
from transforms.methods.gradients import InputXGradient, Saliency
from transforms.methods.integrated_gradients import IntegratedGradients
from transforms.methods.smoothgrad import SmoothGrad
from transforms.methods.tree_shap import TreeShap

METHODS: dict[str, type[AttributionMethod]] = {
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "expected_gradients": ExpectedGradients,
    "tree_shap": TreeShap,
}
