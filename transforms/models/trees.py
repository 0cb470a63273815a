"""What tree models of every library have in common: one row of numbers in, margins or probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from transforms.categories import CategoryPlaces
from transforms.errors import UserError
from transforms.models.base import InputSpec, OutputSpec, Signature
from transforms.models.forest import Forest
from transforms.models.opaque import OpaqueModel

INPUT = "features"
#: Of the scores' magnitude: what trees that are read may differ by from their library's own float32.
_AGREES = 1e-5


@dataclass(frozen=True)
class TreeScores:
    """What a library computes of rows.

    Args:
      score: Of rows `[B, n]` in the adapter's dtype, `[B, T]`: what the trees add up to.
      output: What the model itself returns, `[B, T]`; None where it is the score.
      kind: What `score` is: "margin", "probability" or "output".
      width: Outputs T.
      labels: Names of the outputs, where the model has some.
      classes: Whether the outputs are classes, so that the margin is a logit.
    """

    score: Callable[[np.ndarray], np.ndarray]
    output: Callable[[np.ndarray], np.ndarray] | None
    kind: str
    width: int
    labels: tuple[str, ...] = ()
    classes: bool = False


class TreeAdapter(Protocol):
    """A loaded tree model."""

    kind: str
    signature: Signature
    scores: TreeScores
    path: str

    def forest(self) -> Forest:
        """The trees, up to a constant.

        Raises:
          UserError: They are of a kind that cannot be read.
        """

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> TreeModel:
        """The model with its score."""


def tree_signature(
    names: Sequence[str],
    width: int,
    dtype: str,
    scores: TreeScores,
    *,
    nan: bool,
    categories: CategoryPlaces | None = None,
) -> Signature:
    """One vector input of numbers, and one head.

    Args:
      names: Of the features; empty where the model does not know them.
      width: How many there are.
      dtype: What the library computes with.
      scores: Of the model.
      nan: Whether NaN is a value to the model.
      categories: Which of the numbers are codes of categories, where the model knows what they stand for.
    """
    name = "output" if scores.kind == "output" else "probability" if scores.classes else "output"
    shape = () if scores.width == 1 else (scores.width,)
    return Signature(
        (InputSpec(INPUT, (width,), dtype, tuple(names), nan, categories),),
        (OutputSpec(name, shape, scores.labels),),
    )


class TreeModel(OpaqueModel):
    """A tree model with the score that is explained.

    Args:
      adapter: The loaded model.
      score: auto | output | logit | probability.
      example: Rows that the trees, once read, are held against the library's own score with.
    """

    has_trees = True

    def __init__(self, adapter: TreeAdapter, score: str, example: Mapping[str, np.ndarray]) -> None:
        scores = adapter.scores
        self._raw = scores.kind == "probability" or scores.output is None or score in ("auto", "logit")
        if score == "logit" and not (scores.kind == "margin" and scores.classes):
            raise UserError(
                "the model has no logits: its trees add up to "
                + ("probabilities" if scores.kind == "probability" else "the output itself"),
                "model.score",
                "use auto",
            )
        if score == "probability" and not scores.classes:
            raise UserError("the model gives no probabilities", "model.score", "use auto or output")
        kind = scores.kind if self._raw else "probability" if scores.classes else "output"
        self._trees = adapter
        super().__init__(adapter, adapter.signature, (kind,), "a tree model")
        self._scores, self._example = scores, example[INPUT]
        self._forest: tuple[Forest, np.ndarray] | None = None

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rows = inputs[INPUT]
        if self._scores.output is None:
            score = self._columns(self._scores.score(rows))
            return score, score
        output = self._columns(self._scores.output(rows))
        return (self._columns(self._scores.score(rows)) if self._raw else output), output

    def _columns(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(-1, self._scores.width)

    def trees(self) -> tuple[Forest, np.ndarray]:
        """The trees, and the constant that makes their sum the score, `[T]`; read once.

        Raises:
          UserError: The score is not what the trees add up to, or they cannot be read.
        """
        if not self._raw:
            raise UserError(
                f"the trees add up to the {self._scores.kind}, and the {self.score_kinds[0]} is explained",
                "model.score",
                "use score: auto",
            )
        with self._lock:
            if self._forest is None:
                forest = self._trees.forest()
                score = self._columns(self._scores.score(self._example)).astype(np.float64)
                rest = score - forest.sums(self._example)
                constant = rest.mean(axis=0)
                off = np.abs(rest - constant).max()
                if not off <= _AGREES * (1 + np.abs(score).max()):
                    written = getattr(self._trees, "written", None)
                    raise UserError(
                        f"the trees add up to something else than the model's own score, by up to {off:.3g}"
                        + (f" ({written})" if written else ""),
                        self._trees.path,
                        "use permutation_shap or kernel_shap, which ask the model itself",
                    )
                self._forest = forest, constant
            return self._forest


def missing_package(package: str, what: str, path: str) -> UserError:
    """What to say where a library is not installed."""
    return UserError(
        f"{what} needs {package}, which is not installed", path, "pip install 'attribeam[trees]'"
    )
