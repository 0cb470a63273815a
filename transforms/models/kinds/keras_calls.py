"""A check, after its first call, that a Keras model has all of its weights from its file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transforms.errors import UserError
from transforms.wording import names_in_words


def check_loaded(model: Any, stored: Collection[int], path: str) -> None:
    """Refuses a model whose first call made new weights: Keras draws at random what it did not load.

    Args:
      model: The model after its first call.
      stored: The ids of the weights that it had when it was loaded.
      path: The model's file.
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
