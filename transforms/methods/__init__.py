"""Methods of attribution: one file each, and one line here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from transforms.methods.base import AttributionMethod, Methods
from transforms.methods.gradients.deep_shap import DeepShap
from transforms.methods.gradients.expected_gradients import ExpectedGradients
from transforms.methods.gradients.integrated_gradients import IntegratedGradients
from transforms.methods.gradients.saliency import InputXGradient, Saliency
from transforms.methods.gradients.smoothgrad import SmoothGrad
from transforms.methods.masking.exact_shap import ExactShap
from transforms.methods.masking.kernel_shap import KernelShap
from transforms.methods.masking.lime import Lime
from transforms.methods.masking.occlusion import Occlusion
from transforms.methods.masking.permutation_shap import PermutationShap
from transforms.methods.trees.tree_shap import TreeShap

if TYPE_CHECKING:
    from transforms.methods.contract.check import check_method_contract
    from transforms.methods.contract.subject import MethodContractError

__all__ = ["METHODS", "AttributionMethod", "MethodContractError", "check_method_contract"]

METHODS = Methods(
    {
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
)

#: The module that defines each name. It is imported on first use, because runs do not need the checks.
_HOMES = {
    "MethodContractError": "transforms.methods.contract.subject",
    "check_method_contract": "transforms.methods.contract.check",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
