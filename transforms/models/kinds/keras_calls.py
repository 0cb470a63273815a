"""A check that all weights of a Keras model came from its file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transforms.errors import UserError
from transforms.wording import names_in_words


def check_loaded(model: Any, stored: Collection[int], path: str) -> None:
    """Refuses a model if its first call made new weights: they are random, not those of the file.

    Args:
      model: The model after its first call.
      stored: Python ids of the weights that the model had right after loading.
      path: The model's file.
    Raises:
      UserError: Some layers were not built when their weights were read from the file.
    """
    made = [weight.path for weight in model.weights if id(weight) not in stored]
    if made:
        raise UserError(
            f"Keras does not load the weights {names_in_words(made, 3)}: it could not build their layers "
            "before it read the file, and makes random ones instead",
            path,
            "give the model a build(self, input_shape) that builds its layers, or save a functional model",
        )
