"""Models that TensorFlow does not run: they are evaluated, and have no gradients."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from transforms.errors import DeviceFull, RowsRefused, UserError
from transforms.models.base import ModelAdapter, Signature
from transforms.models.forest.arrays import Forest
from transforms.models.messages import out_of_memory
from transforms.models.reference import Reference


class OpaqueModel:
    """A model with its score of which only evaluations are known, in numpy; meets `ScoredModel`.

    Args:
      adapter: The loaded model.
      signature: With full shapes.
      score_kinds: A head, what is explained.
      nouns: What it is, in words.
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
        """Memory of the inputs of one evaluation; only the model knows what it holds beside them."""
        return sum(int(np.prod(shape)) * 8 for shape in self.shapes.values()) or 8

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model; see `ScoredModel.evaluate`.

        Raises:
          RowsRefused: The model does not take some of the rows.
          DeviceFull: Its memory did not suffice for these rows.
        """
        with self._lock:
            self.evaluations += len(next(iter(inputs.values())))
        try:
            scores, outputs = self._scores_and_outputs(inputs)
        except UserError:
            raise
        # Whatever else somebody's code raises on a row means: it does not take the row, and the row's reason
        # names it. Memory that runs out is no row's fault.
        except Exception as error:
            line = next((row for row in str(error).splitlines() if row.strip()), "")
            said = f"{type(error).__name__}: {line.strip()}".rstrip(": ")
            if isinstance(error, MemoryError) or out_of_memory(error):
                raise DeviceFull(said) from error
            raise RowsRefused(said) from error
        return scores.astype(np.float32), outputs.astype(np.float32)

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    @property
    def mirrored(self) -> bool:
        """Whether one margin stands for two classes; only in a tree model."""
        return False

    @property
    def yes_or_no(self) -> bool:
        """Whether the one output is known to be the probability of a yes."""
        return False

    def masked(self, reference: Reference) -> None:
        """Nothing is kept on a device: whoever asks puts masked rows together."""

    def trees(self) -> tuple[Forest, np.ndarray]:
        """Refuses: only a tree model has trees.

        Raises:
          UserError: Always.
        """
        raise UserError(f"{self._nouns} has no trees", "method.name", "choose another method")

    def differentiable(self, example: Mapping[str, np.ndarray]) -> NoReturn:
        """Refuses: there is nothing to differentiate.

        Raises:
          UserError: Always.
        """
        raise self._no_gradients()

    def rescaled(self, example: Mapping[str, np.ndarray]) -> NoReturn:
        """Refuses: DeepLIFT's rules are for the ops of a graph.

        Raises:
          UserError: Always.
        """
        raise self._no_gradients()

    def _no_gradients(self) -> UserError:
        remedy = "choose a method that evaluates the model"
        return UserError(f"{self._nouns} has no gradients", "method.name", remedy)
