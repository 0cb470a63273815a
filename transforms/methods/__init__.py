"""Methods of attribution: one file each, and one line here."""

from __future__ import annotations

from transforms.methods.base import AttributionMethod
from transforms.methods.deep_shap import DeepShap
from transforms.methods.expected_gradients import ExpectedGradients
from transforms.methods.gradients import InputXGradient, Saliency
from transforms.methods.integrated_gradients import IntegratedGradients
from transforms.methods.smoothgrad import SmoothGrad

METHODS: dict[str, type[AttributionMethod]] = {
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "expected_gradients": ExpectedGradients,
    "deep_shap": DeepShap,
}
