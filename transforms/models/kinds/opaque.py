"""Models that TensorFlow does not run: they can only be evaluated and have no gradients."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from transforms.errors import DeviceFull, RowsRefused, UserError
from transforms.models.base import ModelAdapter, Signature
from transforms.models.forest.arrays import Forest
from transforms.models.reference import Reference
from transforms.models.tensorflow_errors import out_of_memory


class OpaqueModel:
    """A model with its score that can only be evaluated, on numpy arrays; implements `ScoredModel`.

    Args:
      adapter: The loaded model.
      signature: The model's signature, with full shapes.
      score_kinds: The kind of the explained score, one per head.
      nouns: How to call the model in errors, such as "a tree model".
    """

    has_gradients: bool = False
    has_trees: bool = False
    in_halves: bool = False
    repeatable: bool = False
    held: frozenset[str] = frozenset()

    def __init__(
        self, adapter: ModelAdapter, signature: Signature, score_kinds: tuple[str, ...], nouns: str
    ) -> None:
        self.adapter = adapter
        self.shapes = {spec.name: tuple(extent or 1 for extent in spec.shape) for spec in signature.inputs}
        self.signature = signature
        self.score_kinds = score_kinds
        self.evaluations = 0
        self._nouns = nouns
        self._lock = threading.Lock()

    @property
    def forward_bytes(self) -> int:
        """Memory of the inputs of one evaluation, in bytes; the memory that the model needs is unknown."""
        return sum(int(np.prod(shape)) * 8 for shape in self.shapes.values()) or 8

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model; see `ScoredModel.evaluate`.

        Raises:
          RowsRefused: The model cannot score some of the rows.
          DeviceFull: The model ran out of memory on these rows.
        """
        with self._lock:
            self.evaluations += len(next(iter(inputs.values())))
        try:
            scores, outputs = self._scores_and_outputs(inputs)
        except UserError:
            raise
        # Running out of memory is not the fault of a row. Any other error means that the user's code cannot
        # score the row; its message is the reason for rejecting the row.
        except Exception as error:
            line = next((row for row in str(error).splitlines() if row.strip()), "")
            message = f"{type(error).__name__}: {line.strip()}".rstrip(": ")
            if isinstance(error, MemoryError) or out_of_memory(error):
                raise DeviceFull(message) from error
            raise RowsRefused(message) from error
        return scores.astype(np.float32), outputs.astype(np.float32)

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    @property
    def mirrored(self) -> bool:
        """False, except for tree models with a single margin for two classes."""
        return False

    @property
    def yes_or_no(self) -> bool:
        """False here; a subclass may know that the only output is the probability of a yes."""
        return False

    def masked(self, reference: Reference) -> None:
        """Returns None: the model does not run in TensorFlow, so the caller builds the masked rows itself."""

    def trees(self) -> tuple[Forest, np.ndarray]:
        """Raises an error: only a tree model has trees.

        Raises:
          UserError: Always.
        """
        raise UserError(f"{self._nouns} has no trees", "method.name", "choose another method")

    def differentiable(self, example: Mapping[str, np.ndarray]) -> NoReturn:
        """Raises an error: the model has no graph to differentiate.

        Raises:
          UserError: Always.
        """
        raise self._no_gradients()

    def rescaled(self, example: Mapping[str, np.ndarray]) -> NoReturn:
        """Raises an error: DeepLIFT's rules apply to the ops of a graph, and the model has no graph.

        Raises:
          UserError: Always.
        """
        raise self._no_gradients()

    def _no_gradients(self) -> UserError:
        remedy = "choose a method that evaluates the model"
        return UserError(f"{self._nouns} has no gradients", "method.name", remedy)
