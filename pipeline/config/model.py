"""The `model` block of a config."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.config.input import Strict
from pipeline.config.values import Path, Scalar
from transforms.errors import UserError
from transforms.models.kinds.function import PREFIX, is_function


class TargetColumn(Strict):
    """`target: {column: label}`: the column names the class to explain, or holds an output's index."""

    column: str


class Model(Strict):
    """The `model` block. `python: module:function` is the same as the path `python: module:function`.

    `signature`: which one of a SavedModel is explained; serving_default by default.
    """

    path: Path
    python: str | None = Field(default=None, exclude=True)
    modules: list[str] = Field(default=[])
    allow_unsafe: bool = False
    signature: str | None = None
    target: Scalar | TargetColumn | None = None
    missing: float | None = None
    score: Literal["auto", "output", "logit", "probability"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _function_as_path(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        path, function = value.get("path"), value.get("python")
        if function is None and isinstance(path, dict) and list(path) == ["python"]:
            # What `--set "model.path=python: module:function"` says, the quotes being the shell's.
            return {**value, "path": f"{PREFIX} {path['python']}"}
        if function is None:
            return value
        if path is not None:
            raise UserError(
                f"{function!r}, and model.path is {path!r}: a model is one of the two",
                "model.python",
                "leave one of them out",
            )
        own = isinstance(function, str) and is_function(function)
        return {**value, "path": function if own else f"{PREFIX} {function}"}
