"""Small Keras models whose attributions are known or can be reasoned about; helpers, not tests.

Each builder saves the model as a user would and loads it through the product's own adapter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from transforms.methods.base import Attribution, AttributionMethod, evaluate
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.kinds.keras import KerasModel
from transforms.models.reference import Reference
from transforms.numerics.random import row_keys

layers, ops = keras.layers, keras.ops
Place = tuple[str, tuple[int, ...]]


def scored(model: Any, score: str = "auto", *, affine_prefix: bool = True) -> ScoredGraph:
    """Saves a Keras model, loads it and gives it its score."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.keras")
        model.save(path)
        adapter = KerasModel(path)
    shapes = {spec.name: tuple(extent or 1 for extent in spec.shape) for spec in adapter.signature.inputs}
    return ScoredGraph(adapter, shapes, score, affine_prefix=affine_prefix)


def make_reference(
    model: ScoredGraph, inputs: Mapping[str, np.ndarray], noise: float | None = None
) -> Reference:
    """A reference as the plan makes it; `noise` replaces the spread of every entry."""
    scores, _ = evaluate(model, inputs, 4096)
    entries, _ = model.differentiable(inputs).ends(dict(inputs))
    by_row = [entry.numpy().reshape(len(scores), -1, *entry.shape[1:]) for entry in entries]
    spreads = [value.std(axis=0) if noise is None else np.full(value.shape[1:], noise) for value in by_row]
    return Reference(inputs, scores, scores.std(axis=0), tuple(s.astype(np.float32) for s in spreads))


def reseeded(model: ScoredGraph, reference: Reference, seed: int) -> Reference:
    """The reference of a run of another seed, with what no seed changes: the background and its traces."""
    masked = model.masked(reference)
    found = replace(reference, seed=seed)
    found.once(f"masked by {id(model)}", lambda: masked)
    return found


def seeds_of(rows: int, seed: int = 0) -> np.ndarray:
    return row_keys(seed, np.arange(rows))


def size_of(inputs: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(inputs.values())))


def pick(inputs: Mapping[str, np.ndarray], index: Any) -> dict[str, np.ndarray]:
    return {name: value[index] for name, value in inputs.items()}


def attribute(
    method: AttributionMethod,
    model: ScoredGraph,
    inputs: Mapping[str, np.ndarray],
    reference: Reference,
    targets: np.ndarray | None = None,
    seeds: np.ndarray | None = None,
    device_batch_size: int = 1024,
) -> Attribution:
    """`method.attribute` with target 0 and the seeds of rows 0, 1, … unless told otherwise."""
    rows = size_of(inputs)
    targets = np.zeros((rows, 1), np.int64) if targets is None else targets
    seeds = seeds_of(rows) if seeds is None else seeds
    return method.attribute(model, inputs, reference, targets, seeds, device_batch_size)


def column(inputs: Any, index: int) -> Any:
    return inputs[:, index : index + 1]


# -- models with a closed form ------------------------------------------------------------------------


@cache
def linear() -> ScoredGraph:
    """F = 2a − 3b + 0.5c + 7 of one input "x" `[3]`."""
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.layers[-1].set_weights([np.array([[2.0], [-3.0], [0.5]]), np.array([7.0])])
    return scored(model)


@cache
def separable() -> ScoredGraph:
    """F = 5x + y² + sin z of three named inputs `[1]` (the function of PAIR-code/saliency's tests)."""
    x, y, z = (keras.Input((1,), name=name) for name in "xyz")
    return scored(keras.Model([x, y, z], 5 * x + ops.square(y) + ops.sin(z)))


EMBEDDING = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [-2.0, 1.0, 1.0], [0.0, 3.0, -1.0]], np.float32)
EMBEDDING_WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)


@cache
def embedded() -> ScoredGraph:
    """F = w · e(carrier) + 3 d of a string and a number; "AA", "UA", "DL" are rows 1 to 3 of e."""
    carrier, d = keras.Input((1,), dtype="string", name="carrier"), keras.Input((1,), name="d")
    table = layers.Embedding(4, 3)
    code = layers.StringLookup(vocabulary=["AA", "UA", "DL"])(carrier)
    dense = layers.Dense(1, use_bias=False)
    model = keras.Model([carrier, d], dense(layers.Concatenate()([layers.Flatten()(table(code)), d])))
    table.set_weights([EMBEDDING])
    dense.set_weights([np.append(EMBEDDING_WEIGHTS, 3.0)[:, None]])
    return scored(model)


@cache
def quadratic() -> ScoredGraph:
    """F = a² + 3ab − 2b of one input "x" `[2]`; ∇F = (2a + 3b, 3a − 2)."""
    inputs = keras.Input((2,), name="x")
    a, b = column(inputs, 0), column(inputs, 1)
    return scored(keras.Model(inputs, ops.square(a) + 3 * a * b - 2 * b))


@cache
def relu_pair() -> ScoredGraph:
    """F = ReLU(ReLU(a) − 1 − ReLU(b)) of one input "x" `[2]` (Sundararajan et al. 2017, figure 3)."""
    inputs = keras.Input((2,), name="x")
    a, b = column(inputs, 0), column(inputs, 1)
    return scored(keras.Model(inputs, ops.relu(ops.relu(a) - 1.0 - ops.relu(b))))


@cache
def relu_network(features: int = 14, seed: int = 0, affine_prefix: bool = True) -> ScoredGraph:
    """A ReLU network features-64-32-1 of one input "x" with many kinks."""
    keras.utils.set_random_seed(seed)
    bias = keras.initializers.RandomNormal(stddev=0.3)
    start = {"kernel_initializer": "he_normal", "bias_initializer": bias}
    inputs = keras.Input((features,), name="x")
    hidden = layers.Dense(64, activation="relu", **start)(inputs)
    hidden = layers.Dense(32, activation="relu", **start)(hidden)
    return scored(keras.Model(inputs, layers.Dense(1, **start)(hidden)), affine_prefix=affine_prefix)


@cache
def smooth_network(affine_prefix: bool = True) -> tuple[Any, ScoredGraph]:
    """A tanh network 6-16-8-1 of one input "x": as Keras made it, and as the product loads it."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(16, activation="tanh")(inputs)
    hidden = layers.Dense(8, activation="tanh")(hidden)
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    return model, scored(model, affine_prefix=affine_prefix)


# -- models of the contract suite ---------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model with rows and a background to explain it by.

    Args:
      rows: Model inputs, `[B, *shape]`.
      background: Likewise, `[R, *shape]`.
      ignored: Places (input, position in its shape) that the score does not depend on.
      twins: Pairs of places that enter the score alike and hold equal values in every row here.
    """

    model: ScoredGraph
    rows: dict[str, np.ndarray]
    background: dict[str, np.ndarray]
    ignored: tuple[Place, ...] = ()
    twins: tuple[tuple[Place, Place], ...] = ()

    @property
    def targets(self) -> int:
        return len(self.model.signature.target_names)


ROWS, BACKGROUND = 7, 3


def _drawn(draw: Callable[[np.random.Generator, int], dict[str, np.ndarray]]) -> tuple[dict, dict]:
    rng = np.random.default_rng(3)
    return draw(rng, ROWS), draw(rng, BACKGROUND)


def _vector(size: int, twins: tuple[int, int] | None = None) -> tuple[dict, dict]:
    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        x = rng.normal(size=(rows, size)).astype(np.float32)
        if twins:
            x[:, twins[1]] = x[:, twins[0]]
        return {"x": x}

    return _drawn(draw)


def _first_kernel(layer: Any, ignored: int, twins: tuple[int, int]) -> None:
    """Makes a dense layer ignore one feature and treat two alike."""
    kernel, *rest = layer.get_weights()
    kernel[ignored] = 0
    kernel[twins[1]] = kernel[twins[0]]
    layer.set_weights([kernel, *rest])


def _linear_case() -> Case:
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.layers[-1].set_weights([np.array([[2.0], [0.0], [-3.0], [-3.0]]), np.array([7.0])])
    return Case(
        scored(model), *_vector(4, (2, 3)), ignored=(("x", (1,)),), twins=((("x", (2,)), ("x", (3,))),)
    )


def _separable_case() -> Case:
    x, y, z, w, unused = (keras.Input((1,), name=name) for name in ("x", "y", "z", "w", "unused"))
    model = scored(keras.Model([x, y, z, w, unused], 5 * x + ops.square(y) + ops.sin(z) + ops.square(w)))

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        drawn = {name: rng.normal(size=(rows, 1)).astype(np.float32) for name in ("x", "y", "z", "unused")}
        return {**drawn, "w": drawn["y"].copy()}

    return Case(model, *_drawn(draw), ignored=(("unused", (0,)),), twins=((("y", (0,)), ("w", (0,))),))


def _relu_pair_case() -> Case:
    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {"x": np.column_stack([rng.uniform(0, 6, rows), rng.normal(size=rows)]).astype(np.float32)}

    return Case(relu_pair(), *_drawn(draw))


def _tabular_case() -> Case:
    """Normalization, ReLU, batch normalisation, a sigmoid at the end: the score is the logit."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((8,), name="x")
    normal = layers.Normalization(mean=[0.1] * 8, variance=[2.0] * 8)(inputs)
    first = layers.Dense(24, activation="relu")
    hidden = layers.BatchNormalization()(first(normal))
    hidden = layers.Dense(12, activation="swish")(layers.Dropout(0.5)(hidden))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(hidden))
    _first_kernel(first, 6, (1, 4))
    return Case(
        scored(model), *_vector(8, (1, 4)), ignored=(("x", (6,)),), twins=((("x", (1,)), ("x", (4,))),)
    )


def _categorical_case() -> Case:
    """Strings, integers and floats; two airports share one embedding, so that they are twins."""
    keras.utils.set_random_seed(6)
    carrier = keras.Input((1,), dtype="string", name="carrier")
    month = keras.Input((1,), dtype="int64", name="month")
    origin, destination = (keras.Input((1,), dtype="int64", name=name) for name in ("origin", "destination"))
    distance = keras.Input((1,), name="distance")
    code = layers.StringLookup(vocabulary=["AA", "UA", "DL"])(carrier)
    airport = layers.Embedding(6, 3, embeddings_initializer="normal")
    parts = [
        layers.Flatten()(layers.Embedding(5, 2, embeddings_initializer="normal")(code)),
        layers.CategoryEncoding(13, output_mode="one_hot")(month),
        layers.Flatten()(layers.Add()([airport(origin), airport(destination)])),
        layers.Normalization(mean=[1.0], variance=[4.0])(distance),
    ]
    hidden = layers.Dense(16, activation="gelu")(layers.Concatenate()(parts))
    model = keras.Model(
        [carrier, month, origin, destination, distance], layers.Dense(1, activation="sigmoid")(hidden)
    )

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        airports = rng.integers(0, 6, (rows, 1))
        return {
            "carrier": rng.choice(np.array([b"AA", b"UA", b"DL", b"never seen"], object), (rows, 1)),
            "month": rng.integers(1, 13, (rows, 1)),
            "origin": airports,
            "destination": airports.copy(),
            "distance": rng.normal(1, 2, (rows, 1)).astype(np.float32),
        }

    return Case(scored(model), *_drawn(draw), twins=((("origin", (0,)), ("destination", (0,))),))


def _image_case() -> Case:
    """A CNN of 8 × 8 pixels with three classes that never sees the border."""
    keras.utils.set_random_seed(7)
    inputs = keras.Input((8, 8, 1), name="pixels")
    hidden = layers.Conv2D(4, 3, activation="relu")(layers.Cropping2D(1)(inputs))
    hidden = layers.Flatten()(layers.MaxPooling2D(2)(hidden))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {"pixels": rng.random((rows, 8, 8, 1)).astype(np.float32)}

    return Case(scored(model), *_drawn(draw), ignored=(("pixels", (0, 3, 0)), ("pixels", (7, 7, 0))))


def _classes_case() -> Case:
    """Three classes: softmax over swish layers; explained before the softmax."""
    keras.utils.set_random_seed(8)
    inputs = keras.Input((5,), name="x")
    first = layers.Dense(16, activation="swish")
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(first(inputs)))
    _first_kernel(first, 0, (2, 3))
    return Case(
        scored(model), *_vector(5, (2, 3)), ignored=(("x", (0,)),), twins=((("x", (2,)), ("x", (3,))),)
    )


def _probability_case() -> Case:
    """The same kind of model explained after the softmax."""
    keras.utils.set_random_seed(9)
    inputs = keras.Input((5,), name="x")
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(inputs))
    return Case(scored(model, "probability"), *_vector(5))


def _heads_case() -> Case:
    """Two inputs, one of them a matrix, and two heads: a probability and a pair of numbers."""
    keras.utils.set_random_seed(10)
    numbers, series = keras.Input((3,), name="numbers"), keras.Input((4, 2), name="series")
    pooled = layers.GlobalAveragePooling1D()(layers.Conv1D(6, 2, activation="tanh")(series))
    hidden = layers.Dense(8, activation="elu")(layers.Concatenate()([numbers, pooled]))
    heads = {
        "late": layers.Dense(1, activation="sigmoid", name="late")(hidden),
        "minutes": layers.Dense(2, name="minutes")(hidden),
    }
    model = keras.Model({"numbers": numbers, "series": series}, heads)

    def draw(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
        return {
            "numbers": rng.normal(size=(rows, 3)).astype(np.float32),
            "series": rng.normal(size=(rows, 4, 2)).astype(np.float32),
        }

    return Case(scored(model), *_drawn(draw))


CASES: dict[str, Callable[[], Case]] = {
    "linear": cache(_linear_case),
    "separable": cache(_separable_case),
    "relu_pair": cache(_relu_pair_case),
    "tabular": cache(_tabular_case),
    "categorical": cache(_categorical_case),
    "image": cache(_image_case),
    "classes": cache(_classes_case),
    "probability": cache(_probability_case),
    "heads": cache(_heads_case),
}
