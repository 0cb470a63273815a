"""Models that are no TensorFlow graph: they are evaluated, and have no gradients."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from transforms.errors import RowsRefused, UserError
from transforms.models.base import ScoredModel, Signature


class OpaqueModel(ScoredModel):
    """What methods may ask of any model: a signature, shapes, and evaluations in numpy.

    Args:
      adapter: The loaded model.
      signature: With full shapes.
      score_kinds: A head, what is explained.
      nouns: What it is, in words.
    """

    has_gradients = False

    def __init__(self, adapter: Any, signature: Signature, score_kinds: tuple[str, ...], nouns: str) -> None:
        # The graph that a ScoredModel is made of is not there, and neither is what it builds from it.
        self.adapter = adapter
        self.shapes = {spec.name: tuple(extent or 1 for extent in spec.shape) for spec in signature.inputs}
        self.signature = signature
        self.score_kinds = score_kinds
        self.evaluations = 0
        self._nouns = nouns
        self._lock = threading.Lock()

    @cached_property
    def forward_bytes(self) -> int:
        """Memory of one row's inputs: what the model needs for itself is not known."""
        return sum(8 * int(np.prod(shape, dtype=np.int64)) for shape in self.shapes.values()) or 8

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model; see `ScoredModel.evaluate`.

        Raises:
          RowsRefused: The model does not take some of the rows.
        """
        with self._lock:
            self.evaluations += len(next(iter(inputs.values())))
        try:
            scores, outputs = self._scores_and_outputs(inputs)
        except (UserError, MemoryError):
            raise
        # Whatever somebody's code raises on a row means: it does not take the row. The row's reason names it.
        except Exception as error:
            line = next((row for row in str(error).splitlines() if row.strip()), "")
            raise RowsRefused(f"{type(error).__name__}: {line.strip()}".rstrip(": ")) from error
        return scores.astype(np.float32), outputs.astype(np.float32)

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def differentiable(self, example: Mapping[str, np.ndarray]) -> NoReturn:
        """There is nothing to differentiate.

        Raises:
          UserError: Always.
        """
        raise UserError(f"{self._nouns} has none", "method.name", "choose a method that evaluates the model")
