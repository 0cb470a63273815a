"""Functions for models of other libraries, as `attribeam methods --function NAME` prints them: whole modules.

Each is a file of Python beside this one, kept as text: none of these libraries need be installed here.
"""

from __future__ import annotations

from importlib import resources

from transforms.errors import UserError
from transforms.wording import did_you_mean

#: Libraries, with what of theirs a function is for.
FUNCTIONS = {
    "sklearn": "a Pipeline, a search, a calibrated or stacked model, any estimator of scikit-learn",
    "catboost": "a CatBoost model: .cbm or .json",
    "ydf": "a folder of Yggdrasil Decision Forests",
    "ebm": "an explainable boosting machine of interpret",
    "onnx": "an ONNX model, by onnxruntime",
    "keras": "a Keras model behind steps of your own",
}


def module_of(name: str) -> str:
    """The text of a library's module: its head says where to save it and what to write into the config.

    Raises:
      UserError: There is none of the name.
    """
    if name not in FUNCTIONS:
        known = list(FUNCTIONS)
        raise UserError(
            f"no function is available for {name!r}",
            "--function",
            did_you_mean(name, known, ", ".join(known)),
        )
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
