"""Modules with functions for models of other libraries, which `attribeam methods --function NAME` prints.

Each is a Python file next to this one, kept as text, so that its library need not be installed.
"""

from __future__ import annotations

from importlib import resources

from transforms.errors import UserError
from transforms.wording import did_you_mean

#: Libraries, with the models of each that its function scores.
FUNCTIONS = {
    "sklearn": "a Pipeline, a search, a calibrated or stacked model, any estimator of scikit-learn",
    "catboost": "a CatBoost model: .cbm or .json",
    "ydf": "a folder of Yggdrasil Decision Forests",
    "ebm": "an explainable boosting machine of interpret",
    "onnx": "an ONNX model, by onnxruntime",
    "keras": "a Keras model behind steps of your own",
}


def module_of(name: str) -> str:
    """The text of a library's module, whose head says where to save it and what the config needs.

    Raises:
      UserError: No library has this name.
    """
    if name not in FUNCTIONS:
        known = list(FUNCTIONS)
        raise UserError(
            f"no function is available for {name!r}",
            "--function",
            did_you_mean(name, known, ", ".join(known)),
        )
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
