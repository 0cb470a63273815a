"""Methods of attribution: one file each, and one line here."""

from __future__ import annotations

from transforms.methods.base import AttributionMethod
from transforms.methods.deep_shap import DeepShap
from transforms.methods.exact_shap import ExactShap
from transforms.methods.expected_gradients import ExpectedGradients
from transforms.methods.gradients import InputXGradient, Saliency
from transforms.methods.integrated_gradients import IntegratedGradients
from transforms.methods.kernel_shap import KernelShap
from transforms.methods.lime import Lime
from transforms.methods.occlusion import Occlusion
from transforms.methods.permutation_shap import PermutationShap
from transforms.methods.smoothgrad import SmoothGrad
from transforms.methods.tree_shap import TreeShap

METHODS: dict[str, type[AttributionMethod]] = {
    "saliency": Saliency,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "expected_gradients": ExpectedGradients,
    "deep_shap": DeepShap,
    "kernel_shap": KernelShap,
    "exact_shap": ExactShap,
    "permutation_shap": PermutationShap,
    "lime": Lime,
    "occlusion": Occlusion,
    "tree_shap": TreeShap,
}
