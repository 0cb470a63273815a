"""What tree models of every library have in common: one row of numbers in, margins or probabilities out."""

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
#: Of the scores' magnitude: what trees that are read may differ by from their library's own float32.
_AGREES = 1e-5
#: What the dynamic linker says of a shared library that is not there, which starts with its name.
_NOT_THERE = re.compile(r"^(\S+): cannot open shared object file")
#: Debian's and Ubuntu's packages of shared libraries that wheels expect of the machine.
_DEBIAN = {"libgomp.so.1": "libgomp1"}


@dataclass(frozen=True)
class TreeScores:
    """What a library computes of rows.

    Of two classes many libraries add up one margin, that of the second: `mirrored`. The first one's is minus
    that, and its output one minus the other's.

    Args:
      score: Of rows `[B, n]` in the adapter's dtype, `[B, T]`, one column where mirrored: the trees' sum.
      output: What the model itself returns, likewise; None where it is the score.
      kind: What `score` is: "margin", "probability" or "output".
      width: Outputs T.
      classes: What the outputs are classes of, in the model's order; none where they are no classes.
      probabilities: Whether the outputs are probabilities, so that the margin is a logit but for `factor`.
      factor: The logit over the margin.
      mirrored: Whether there is one margin for two classes.
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
        """Columns of what the functions return."""
        return 1 if self.mirrored else self.width


@dataclass(frozen=True)
class Written:
    """What a scikit-learn estimator was written with, where that is another version than the one here.

    Args:
      there: The version that wrote it.
      here: The version that reads it.
    """

    there: str
    here: str

    def __str__(self) -> str:
        return f"written by scikit-learn {self.there}, here is {self.here}"


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
    missing: float | None = None,
) -> Signature:
    """One vector input of numbers, and one head.

    Args:
      names: Of the features; empty where the model does not know them.
      width: How many there are.
      dtype: What the library computes with.
      scores: Of the model.
      nan: Whether NaN is a value to the model.
      categories: Which of the numbers are codes of categories, where the model knows what they stand for.
      missing: A number that is missing to the model, as NaN is.
    """
    name = "probability" if scores.probabilities and scores.kind != "output" else "output"
    shape = () if scores.width == 1 else (scores.width,)
    # A class that is called by its number has no other name.
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
      example: Rows that the trees, once read, are held against the library's own score with.
    """

    has_trees = True

    def __init__(self, adapter: TreeAdapter, score: str, example: Mapping[str, np.ndarray]) -> None:
        scores = adapter.scores
        if score == "logit" and not (scores.kind == "margin" and scores.probabilities):
            raise UserError(
                "the model has no logits: its trees add up to "
                + {"probability": "probabilities", "output": "the output itself"}.get(
                    scores.kind, "a margin that is none"
                ),
                "model.score",
                "use auto",
            )
        if score == "probability" and not scores.probabilities:
            raise UserError("the model gives no probabilities", "model.score", "use auto or output")
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
        """Whether the trees are the second class's alone, and the first one's score is minus theirs."""
        return self._scores.mirrored

    @property
    def yes_or_no(self) -> bool:
        """Whether the one output is the probability of a yes."""
        return self._scores.probabilities and self._scores.width == 1

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = inputs[INPUT], self._scores
        output = None if scores.output is None else self._columns(scores.output(rows))
        raw = self._columns(scores.score(rows)) * self._factor if self._raw or output is None else None
        if scores.mirrored:
            raw = None if raw is None else np.concatenate([-raw, raw], axis=1)
            output = None if output is None else np.concatenate([1 - output, output], axis=1)
        score = output if raw is None else raw
        assert score is not None  # for the type checker: one of the two is there
        return score, score if output is None else output

    def _columns(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(-1, self._scores.columns)

    def trees(self) -> tuple[Forest, np.ndarray]:
        """The trees, and the constant that makes their sum the score, `[T]`; read once.

        Where `mirrored`, of the second class alone.

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
                if self._factor != 1:
                    forest = replace(forest, value=forest.value * self._factor)
                score = self._columns(self._scores.score(self._example)).astype(np.float64) * self._factor
                rest = score - forest.sums(self._example)
                constant = rest.mean(axis=0)
                off = np.abs(rest - constant).max()
                if not off <= _AGREES * (1 + np.abs(score).max()):
                    # A pickle may say that another version of its library wrote it.
                    written = getattr(self._trees, "written", None)
                    raise UserError(
                        f"the trees add up to something else than the model's own score, by up to {off:.3g}"
                        + (f" ({written})" if written else ""),
                        self._trees.path,
                        "use permutation_shap or kernel_shap, which ask the model itself",
                    )
                self._forest = forest, constant
            return self._forest


def as_classes(found: Any) -> tuple[Category, ...]:
    """An estimator's `classes_` as Python's own values; whatever is no number, as a string."""
    values = np.asarray(found).tolist()
    return tuple(value if isinstance(value, bool | int | float) else str(value) for value in values)


def missing_package(package: str, what: str, path: str) -> UserError:
    """What to say where a library is not installed."""
    return UserError(
        f"{what} needs {package}, which is not installed", path, "pip install 'attribeam[trees]'"
    )


def missing_library(error: Exception, what: str, path: str) -> UserError | None:
    """The error to raise where an import failed for want of a shared library; None: it failed otherwise."""
    found = _NOT_THERE.match(str(error))
    if found is None:
        return None
    package = _DEBIAN.get(found[1])
    remedy = "install it" if package is None else f"on Debian and Ubuntu: apt install {package}"
    return UserError(f"{what} needs the library {found[1]}, which this machine lacks", path, remedy)
