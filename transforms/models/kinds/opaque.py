"""Models that are no TensorFlow graph: they are evaluated, and have no gradients."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from transforms.errors import DeviceFull, RowsRefused, UserError
from transforms.models.base import Signature
from transforms.models.messages import out_of_memory

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel as _AnyModel
    from transforms.models.forest.arrays import Forest
else:
    # Methods name ScoredModel as what they take; what that has of a graph, an opaque model must not seem to
    # have.
    _AnyModel = object


class OpaqueModel(_AnyModel):
    """What methods may ask of any model: a signature, shapes, and evaluations in numpy.

    Args:
      adapter: The loaded model.
      signature: With full shapes.
      score_kinds: A head, what is explained.
      nouns: What it is, in words.
    """

    has_gradients = False
    has_trees = False

    def __init__(self, adapter: Any, signature: Signature, score_kinds: tuple[str, ...], nouns: str) -> None:
        self.adapter = adapter
        self.shapes = {spec.name: tuple(extent or 1 for extent in spec.shape) for spec in signature.inputs}
        self.signature = signature
        self.score_kinds = score_kinds
        self.evaluations = 0
        self._nouns = nouns
        self._lock = threading.Lock()

    @property
    def forward_bytes(self) -> int:
        """Memory that one evaluation holds at most, as far as anybody but the model knows: its inputs."""
        return sum(int(np.prod(shape)) * 8 for shape in self.shapes.values()) or 8

    def evaluate(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates the model; see `ScoredModel.evaluate`.

        Raises:
          RowsRefused: The model does not take some of the rows.
          DeviceFull: It had no memory for so many.
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

    def trees(self) -> tuple[Forest, np.ndarray]:
        """There are none, but in a tree model.

        Raises:
          UserError: Always.
        """
        raise UserError(f"{self._nouns} has none", "method.name", "choose another method")

    def differentiable(self, example: Mapping[str, np.ndarray]) -> NoReturn:
        """There is nothing to differentiate.

        Raises:
          UserError: Always.
        """
        raise UserError(f"{self._nouns} has none", "method.name", "choose a method that evaluates the model")
