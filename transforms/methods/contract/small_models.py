"""Small models with a closed form, and rows for which the right attributions are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.methods.base import Needs
from transforms.models.base import HeadSpec, InputSpec, ModelAdapter, ScoredModel, Signature
from transforms.models.forest.arrays import Forest, Tree, plant
from transforms.models.kinds.opaque import OpaqueModel
from transforms.models.kinds.trees.base import INPUT, TreeModel, TreeScores, Written, tree_signature
from transforms.models.reference import Arrays, Reference

#: One value of a row: the name of the model's input and the index in its shape.
Place = tuple[str, tuple[int, ...]]

#: Rows of a world: a power of two, so that a device call with all rows has no padding.
ROWS = 8
_BACKGROUND = 4


@dataclass(frozen=True)
class World:
    """A model with rows and a background to explain them by.

    Args:
      name: In errors.
      model: With its score.
      reference: The background.
      rows: Model inputs, `[B, *shape]`.
      ignored: Values that the score does not depend on.
      twins: Pairs of values that enter the score alike and are equal in every row here.
    """

    name: str
    model: ScoredModel
    reference: Reference
    rows: Arrays
    ignored: tuple[Place, ...] = ()
    twins: tuple[tuple[Place, Place], ...] = ()

    @property
    def count(self) -> int:
        """The number of rows B."""
        return len(next(iter(self.rows.values())))

    @property
    def targets(self) -> int:
        """The number of outputs T."""
        return len(self.model.signature.target_names)


#: Computes the outputs from named inputs with the functions of a module, numpy or TensorFlow.
Formula = Callable[[Any, Mapping[str, Any]], list[Any]]


@dataclass(frozen=True)
class Drawn:
    """A formula with the shapes of its inputs; `World` describes `ignored` and `twins`."""

    name: str
    formula: Formula
    shapes: Mapping[str, tuple[int, ...]]
    ignored: tuple[Place, ...]
    twins: tuple[tuple[Place, Place], ...]

    @property
    def signature(self) -> Signature:
        """Float inputs, and one head as wide as the formula has outputs."""
        none = {name: np.zeros((1, *shape), np.float32) for name, shape in self.shapes.items()}
        width = len(self.formula(np, none))
        return Signature(
            tuple(InputSpec(name, shape, "float32") for name, shape in self.shapes.items()),
            (HeadSpec("score", (width,)),),
        )

    def rows(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """Draws rows in which twins hold equal values."""
        rng = np.random.default_rng(seed)
        drawn = {name: rng.normal(size=(count, *shape)) for name, shape in self.shapes.items()}
        for (one, here), (other, there) in self.twins:
            first: Any = (..., *here)
            second: Any = (..., *there)
            drawn[other][second] = drawn[one][first]
        return {name: value.astype(np.float32) for name, value in drawn.items()}


def _linear(_: Any, inputs: Mapping[str, Any]) -> list[Any]:
    """F = 2a − 3b − 3c + 7, without d."""
    x = inputs["x"]
    return [2.0 * x[:, 0] - 3.0 * x[:, 1] - 3.0 * x[:, 2] + 7.0]


def _curved(functions: Any, inputs: Mapping[str, Any]) -> list[Any]:
    """F₁ = a + b² + c² + bc/2 + z sin a and F₂ = tanh z − a + max(b + c, 0), without d."""
    x, z = inputs["x"], inputs["z"][:, 0]
    a, b, c = x[:, 0], x[:, 1], x[:, 2]
    return [
        a + b * b + c * c + 0.5 * b * c + z * functions.sin(a),
        functions.tanh(z) - a + functions.maximum(b + c, 0.0),
    ]


FORMULAS = (
    Drawn("linear", _linear, {"x": (4,)}, (("x", (3,)),), ((("x", (1,)), ("x", (2,))),)),
    Drawn("curved", _curved, {"x": (4,), "z": (1,)}, (("x", (3,)),), ((("x", (1,)), ("x", (2,))),)),
)


class FormulaAdapter:
    """A formula in numpy as a loaded model."""

    kind: str = "formula"

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn

    @property
    def signature(self) -> Signature:
        """The formula's inputs and outputs."""
        return self.drawn.signature

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> FormulaModel:
        """Returns the formula; its score is its value."""
        return FormulaModel(self)


class FormulaModel(OpaqueModel):
    """A formula in numpy as an opaque model, which can only be evaluated."""

    def __init__(self, adapter: FormulaAdapter) -> None:
        super().__init__(adapter, adapter.signature, ("output",), "a formula")
        self._formula = adapter.drawn.formula

    def _scores_and_outputs(self, inputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        exact = {name: np.asarray(value, np.float64) for name, value in inputs.items()}
        values = np.stack(self._formula(np, exact), axis=1)
        return values, values


class ForestAdapter:
    """A few small trees as a loaded model: [0] and [1] interact, [2] and [3] are twins, [4] is ignored."""

    kind: str = "forest"
    path: str = "a forest"
    written: Written | None = None

    def __init__(self) -> None:
        self._forest = plant([_pair(0), _stump(2, 0), _stump(3, 0), _stump(1, 1)], 5, 2)
        self.scores = TreeScores(self._forest.sums, None, "output", 2)
        self.signature = tree_signature([], 5, "float32", self.scores, nan=False)

    def forest(self) -> Forest:
        """The trees."""
        return self._forest

    def scored(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        score: str,
        *,
        affine_prefix: bool,
        example: Mapping[str, np.ndarray],
    ) -> TreeModel:
        """Returns the forest; its score is the sum of its leaves."""
        return TreeModel(self, score, example)


def _stump(feature: int, output: int) -> Tree:
    """−1 where a feature is at most 0.1, else 2."""
    return Tree(
        output,
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        feature=np.array([feature, -1, -1]),
        threshold=np.array([0.1, 0.0, 0.0]),
        missing_left=np.zeros(3, bool),
        value=np.array([[0.0], [-1.0], [2.0]]),
        cover=np.array([10.0, 6.0, 4.0]),
    )


def _pair(output: int) -> Tree:
    """0.5 where [0] is at most 0, else −2 or 3 as [1] is at most 0.3 or above."""
    return Tree(
        output,
        left=np.array([1, -1, 3, -1, -1]),
        right=np.array([2, -1, 4, -1, -1]),
        feature=np.array([0, -1, 1, -1, -1]),
        threshold=np.array([0.0, 0.0, 0.3, 0.0, 0.0]),
        missing_left=np.zeros(5, bool),
        value=np.array([[0.0], [0.5], [0.0], [-2.0], [3.0]]),
        cover=np.array([10.0, 5.0, 5.0, 2.0, 3.0]),
    )


def worlds_for(needs: Needs) -> list[World]:
    """Makes the small models on which a method with given needs is checked.

    Methods for trees get a forest, methods that need gradients TensorFlow graphs, others formulas in numpy.
    """
    background = _BACKGROUND if needs.background else 1
    if needs.trees:
        twins = ((INPUT, (2,)), (INPUT, (3,)))
        drawn = Drawn("forest", _linear, {INPUT: (5,)}, ((INPUT, (4,)),), (twins,))
        return [_world(drawn, ForestAdapter(), needs, background)]
    if not needs.gradients:
        return [_world(drawn, FormulaAdapter(drawn), needs, background) for drawn in FORMULAS]
    from transforms.models.graphs.formulas import FormulaGraph

    return [
        _world(drawn, FormulaGraph(drawn.signature, drawn.formula), needs, background) for drawn in FORMULAS
    ]


def _world(drawn: Drawn, adapter: ModelAdapter, needs: Needs, background: int) -> World:
    rows, base = drawn.rows(ROWS, 1), drawn.rows(background, 2)
    model = adapter.scored(drawn.shapes, "auto", affine_prefix=True, example=base)
    scores = model.evaluate(base)[0]
    measured = base if background > 1 else rows
    spread = model.evaluate(measured)[0].std(axis=0)
    noise = entry_spread(model, measured) if needs.entry_spread else ()
    reference = Reference(base, scores, spread, noise)
    return World(drawn.name, model, reference, rows, drawn.ignored, drawn.twins)


def entry_spread(model: ScoredModel, inputs: Arrays) -> tuple[np.ndarray, ...]:
    """Standard deviation, over some rows, of each value where gradients begin, `[per_row, *shape]`."""
    rows = len(next(iter(inputs.values())))
    spreads = []
    for entry in model.differentiable(inputs).ends(inputs)[0]:
        values = entry.numpy()
        spreads.append(values.reshape(rows, -1, *values.shape[1:]).std(axis=0).astype(np.float32))
    return tuple(spreads)
