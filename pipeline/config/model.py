"""The `model` block of a config."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.config.input import Strict
from pipeline.config.values import Path, Scalar
from transforms.errors import UserError
from transforms.models.kinds.function import PREFIX, is_function


class TargetColumn(Strict):
    """The value `{column: label}` of `model.target`."""

    column: str
    """The column that names the class to explain in each row, or holds an output's index."""


class Model(Strict):
    """The `model` block."""

    path: Path
    """A `.keras` or `.h5` file, a SavedModel folder, a file of a tree model, or `python: module:function`."""
    python: str | None = Field(default=None, exclude=True)
    """A Python function, `package.module:function`, in place of `path`."""
    modules: list[str] = Field(default=[])
    """Modules to import first, to register custom Keras layers; importing runs their code."""
    allow_unsafe: bool = False
    """Load Lambda layers, pickles, and SavedModels with ops that touch files or call Python; loading them may
    run their code."""
    signature: str | None = None
    """The signature of a SavedModel to explain; `serving_default` by default."""
    target: Scalar | TargetColumn | None = None
    """What to explain: an output's index, the name of an output, a head or a class, `predicted`, `all`, or
    `{column: label}`. Without it the second of two classes is explained, else the first output."""
    missing: float | None = None
    """The number that an XGBoost model treats as missing besides NaN; pickled wrappers store it."""
    score: Literal["auto", "output", "logit", "probability"] = "auto"
    """The scalar that is explained. `auto`: the value before a last softmax or sigmoid, the margin of boosted
    trees, the probability of forests."""

    @model_validator(mode="before")
    @classmethod
    def _function_as_path(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        path, function = value.get("path"), value.get("python")
        if function is None and isinstance(path, dict) and list(path) == ["python"]:
            # `--set "model.path=python: module:function"` parses to this, as the shell removes the quotes.
            return {**value, "path": f"{PREFIX} {path['python']}"}
        if function is None:
            return value
        if path is not None:
            raise UserError(
                f"{function!r}, and model.path is {path!r}: a model has one of the two",
                "model.python",
                "leave one of them out",
            )
        own = isinstance(function, str) and is_function(function)
        return {**value, "path": function if own else f"{PREFIX} {function}"}
