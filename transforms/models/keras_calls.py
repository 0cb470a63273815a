"""Keras models that cannot be called row by row on what their file says: found when they are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from transforms.errors import UserError
from transforms.models.base import names_in_words

#: Arguments of `call` that are no inputs.
_NO_INPUTS = frozenset({"training", "mask", "self"})


def check_loaded(model: Any, stored: Collection[int], path: str) -> None:
    """Makes sure that calling the model has made no weights: Keras draws at random what it did not load.

    Args:
      model: After its first call.
      stored: The ids of the weights that it had when it was loaded.
      path: Its file.
    Raises:
      UserError: Some layers were not built when the file was read.
    """
    made = [weight.path for weight in model.weights if id(weight) not in stored]
    if made:
        raise UserError(
            f"Keras loads the model without {names_in_words(made, 3)}: it could not build the layers before "
            "it read their weights, and draws others at random",
            path,
            "give the model a build(self, input_shape) that builds its layers, or save a functional model",
        )


def arguments(model: Any) -> tuple[str, ...]:
    """Names of the inputs that the model's `call` takes one by one."""
    taken = inspect.signature(model.call).parameters.values()
    named = [p.name for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return tuple(name for name in named if name not in _NO_INPUTS)


def refuse_arguments(names: tuple[str, ...], path: str) -> UserError:
    """The error of a subclassed model whose `call` takes several inputs."""
    shown = ", ".join(names)
    return UserError(
        f"the model's call takes {shown} one by one, and a .keras file of such a model keeps the shape of "
        f"{names[0]} alone",
        path,
        "let call take one dict of inputs, or store it as a SavedModel: an ExportArchive whose endpoint's "
        f"input_signature is a tf.TensorSpec for each of {shown}",
    )
