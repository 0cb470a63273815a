"""Code that the tree models of all libraries share: their scores, signatures, and errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from transforms.errors import UserError
from transforms.models.base import HeadSpec, InputSpec, Signature
from transforms.models.categories import Category, CategoryPlaces
from transforms.models.forest.arrays import Forest
from transforms.models.kinds.opaque import OpaqueModel

INPUT = "features"
#: Maximum difference between the sum of the trees and the library's own float32 score, relative to the score.
_AGREES = 1e-5
#: The dynamic linker's message about a missing shared library; it starts with the library's name.
_NOT_THERE = re.compile(r"^(\S+): cannot open shared object file")
#: Debian's and Ubuntu's packages of shared libraries that wheels need but do not contain.
_DEBIAN = {"libgomp.so.1": "libgomp1"}


@dataclass(frozen=True)
class TreeScores:
    """Functions with which a library scores rows, and the meaning of their results.

    For two classes, the trees of many libraries sum to a single margin, the second class's (`mirrored`). The
    first class's margin is the negative of this margin, and the first output is one minus the second.

    Args:
      score: Computes the sum of the trees, `[B, T]`, of rows `[B, n]` in the adapter's dtype; `[B, 1]` if
        `mirrored`.
      output: Computes the model's own output, in the shape of the score; None if the output is the score.
      kind: The kind of `score`: "margin", "probability" or "output".
      width: Number of outputs, T.
      classes: The class of each output, in the model's order; empty if the outputs are not classes.
      probabilities: Whether the outputs are probabilities; if `kind` is "margin", the logit is the margin
        times `factor`.
      factor: The ratio of the logit to the margin.
      mirrored: Whether a single margin is computed for two classes.
    """

    score: Callable[[np.ndarray], np.ndarray]
    output: Callable[[np.ndarray], np.ndarray] | None
    kind: str
    width: int
    classes: tuple[Category, ...] = ()
    probabilities: bool = False
    factor: float = 1.0
    mirrored: bool = False

    @property
    def columns(self) -> int:
        """The number of columns that the functions return."""
        return 1 if self.mirrored else self.width


@dataclass(frozen=True)
class Written:
    """Two different versions of scikit-learn: one wrote an estimator, the other is installed.

    Args:
      there: The version that wrote the estimator.
      here: The installed version.
    """

    there: str
    here: str

    def __str__(self) -> str:
        return f"written by scikit-learn {self.there}, read by {self.here}"


class TreeAdapter(Protocol):
    """A loaded tree model."""

    kind: str
    signature: Signature
    scores: TreeScores
    path: str

    def forest(self) -> Forest:
        """Returns the trees; the sum of their leaves differs from the score by a constant only.

        Raises:
          UserError: The trees are of a kind that is not supported.
        """

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> TreeModel:
        """Makes the scored model."""


def tree_signature(
    names: Sequence[str],
    width: int,
    dtype: str,
    scores: TreeScores,
    *,
    nan: bool,
    categories: CategoryPlaces | None = None,
    missing: float | None = None,
) -> Signature:
    """The signature of a tree model: one vector input of numbers, and one head.

    Args:
      names: Names of the features; empty if the model does not store names.
      width: Number of features.
      dtype: The numpy dtype of the rows that the library takes.
      scores: The model's scores.
      nan: Whether the model accepts NaN as a missing value.
      categories: Categories of the features that the model takes as codes; None if the model stores none.
      missing: A number that the model treats as missing, as it treats NaN; None if there is no such number.
    """
    name = "probability" if scores.probabilities and scores.kind != "output" else "output"
    shape = () if scores.width == 1 else (scores.width,)
    # Classes 0, 1, … need no labels, because the index of a target says the same.
    numbered = scores.classes == tuple(range(scores.width)) and not isinstance(scores.classes[0], bool)
    labels = () if numbered else tuple(map(str, scores.classes))
    return Signature(
        (InputSpec(INPUT, (width,), dtype, tuple(names), nan, categories, missing),),
        (HeadSpec(name, shape, labels, scores.classes),),
    )


class TreeModel(OpaqueModel):
    """A tree model with the score that is explained.

    Args:
      adapter: The loaded model.
      score: auto | output | logit | probability.
      example: Rows on which the sum of the trees is compared with the library's own score.
    """

    has_trees = True

    def __init__(self, adapter: TreeAdapter, score: str, example: Mapping[str, np.ndarray]) -> None:
        scores = adapter.scores
        if score == "logit" and not (scores.kind == "margin" and scores.probabilities):
            raise UserError(
                "the model has no logits: its trees add up to "
                + {"probability": "probabilities", "output": "the output itself"}.get(
                    scores.kind, "a margin that is not a logit"
                ),
                "model.score",
                "use auto",
            )
        if score == "probability" and not scores.probabilities:
            raise UserError("the model has no probabilities", "model.score", "use auto or output")
        self._raw = scores.kind == "probability" or scores.output is None or score in ("auto", "logit")
        self._factor = scores.factor if score == "logit" else 1.0
        kind = scores.kind if self._raw else "probability" if scores.probabilities else "output"
        self._trees = adapter
        super().__init__(
            adapter, adapter.signature, ("logit" if self._factor != 1 else kind,), "a tree model"
        )
        self._scores, self._example = scores, example[INPUT]
        self._forest: tuple[Forest, np.ndarray] | None = None

    @property
    def mirrored(self) -> bool:
        """True if the trees sum to the second class's score, and the first class's score is its negative."""
        return self._scores.mirrored

    @property
    def yes_or_no(self) -> bool:
        """True if the only output is the probability of a yes."""
        return self._scores.probabilities and self._scores.width == 1

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = inputs[INPUT], self._scores
        output = None if scores.output is None else self._columns(scores.output(rows))
        raw = self._columns(scores.score(rows)) * self._factor if self._raw or output is None else None
        if scores.mirrored:
            raw = None if raw is None else np.concatenate([-raw, raw], axis=1)
            output = None if output is None else np.concatenate([1 - output, output], axis=1)
        score = output if raw is None else raw
        assert score is not None  # for the type checker: one of the two is set
        return score, score if output is None else output

    def _columns(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(-1, self._scores.columns)

    def trees(self) -> tuple[Forest, np.ndarray]:
        """Returns the trees and the constants `[T]` that, added to the sums of the leaves, give the scores.

        If `mirrored`, the trees and the constant `[1]` are the second class's. The trees are read once.

        Raises:
          UserError: The trees do not add up to the score, or are of a kind that is not supported.
        """
        if not self._raw:
            raise UserError(
                f"the trees add up to the {self._scores.kind}, but the {self.score_kinds[0]} is explained",
                "model.score",
                "use score: auto",
            )
        with self._lock:
            if self._forest is None:
                forest = self._trees.forest()
                if self._factor != 1:
                    forest = replace(forest, value=forest.value * self._factor)
                score = self._columns(self._scores.score(self._example)).astype(np.float64) * self._factor
                rest = score - forest.sums(self._example)
                constant = rest.mean(axis=0)
                off = np.abs(rest - constant).max()
                if not off <= _AGREES * (1 + np.abs(score).max()):
                    # Adapters of pickles know if another version of the library wrote the model.
                    written = getattr(self._trees, "written", None)
                    raise UserError(
                        f"the sum of the trees differs from the model's own score by up to {off:.3g}"
                        + (f" ({written})" if written else ""),
                        self._trees.path,
                        "use permutation_shap or kernel_shap, which call the model itself",
                    )
                self._forest = forest, constant
            return self._forest


def as_classes(classes: Any) -> tuple[Category, ...]:
    """An estimator's `classes_` as plain Python values; classes that are not numbers become strings."""
    values = np.asarray(classes).tolist()
    return tuple(value if isinstance(value, bool | int | float) else str(value) for value in values)


def missing_package(package: str, needed_by: str, path: str) -> UserError:
    """The error to raise when a Python package is not installed."""
    return UserError(
        f"{needed_by} needs {package}, which is not installed", path, "pip install 'attribeam[trees]'"
    )


def missing_library(error: Exception, needed_by: str, path: str) -> UserError | None:
    """The error to raise if an import failed because a shared library is missing; None for other failures."""
    message = _NOT_THERE.match(str(error))
    if message is None:
        return None
    library = message[1]
    package = _DEBIAN.get(library)
    remedy = "install it" if package is None else f"on Debian and Ubuntu: apt install {package}"
    return UserError(f"{needed_by} needs the library {library}, which this machine lacks", path, remedy)
