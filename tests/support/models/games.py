"""Models, and the Shapley values of their rows straight from the definition; helpers, not tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import keras
import numpy as np

from tests.support.models.models_zoo import pick, scored, size_of
from transforms.models.base import ScoredModel
from transforms.models.players import HELD, Players
from transforms.models.reference import Reference

Predict = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def worths(
    predict: Predict,
    row: Mapping[str, np.ndarray],
    background: Mapping[str, np.ndarray],
    players: Players,
    coalitions: Sequence[Sequence[int]],
) -> np.ndarray:
    """Mean predictions `[C, T]` over the background, of a row only a coalition's and nobody's values kept."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in background}
    for coalition in coalitions:
        for name, values in background.items():
            replaced = values.copy().reshape(len(values), -1)
            for place, player in enumerate(players.of[name]):
                if player == HELD or player in coalition:
                    replaced[:, place] = row[name].reshape(-1)[place]
            rows[name].append(replaced.reshape(values.shape))
    scores = predict({name: np.concatenate(parts) for name, parts in rows.items()})
    return scores.reshape(len(coalitions), -1, scores.shape[1]).mean(axis=1, dtype=np.float64)


def shapley(
    predict: Predict,
    rows: Mapping[str, np.ndarray],
    background: Mapping[str, np.ndarray],
    players: Players,
) -> np.ndarray:
    """Shapley values `[B, T, M]`: Σ_S |S|! (M − |S| − 1)! / M! (v(S + i) − v(S))."""
    count, found = players.count, []
    subsets = [s for size in range(count + 1) for s in itertools.combinations(range(count), size)]
    for number in range(size_of(rows)):
        row = {name: value[number] for name, value in rows.items()}
        v = dict(zip(subsets, worths(predict, row, background, players, subsets), strict=True))
        values = []
        for player in range(count):
            total = np.zeros_like(v[()])
            for subset in subsets:
                if player not in subset:
                    weight = math.factorial(len(subset)) * math.factorial(count - len(subset) - 1)
                    gain = v[tuple(sorted((*subset, player)))] - v[subset]
                    total = total + weight / math.factorial(count) * gain
            values.append(total)
        found.append(np.stack(values, axis=-1))
    return np.stack(found)


def by_player(values: Mapping[str, np.ndarray], players: Players) -> np.ndarray:
    """Attributions by model input, `[B, T, *shape]`, summed by player, `[B, T, M]`; nobody gets anything."""
    lead = next(iter(values.values())).shape[:2]
    total = np.zeros((*lead, players.count))
    for name, value in values.items():
        flat = value.reshape(*lead, -1)
        for place, player in enumerate(players.of[name]):
            if player == HELD:
                assert (flat[..., place] == 0).all()
            else:
                total[..., player] += flat[..., place]
    return total


@dataclass(frozen=True)
class World:
    """A model, rows of it and a background, and the model's own predictions.

    Args:
      predict: Inputs to outputs `[B, T]`, by Keras itself.
    """

    model: ScoredModel
    predict: Predict
    rows: dict[str, np.ndarray]
    background: dict[str, np.ndarray]

    @property
    def targets(self) -> np.ndarray:
        """All outputs of every row."""
        count = len(self.model.signature.target_names)
        return np.broadcast_to(np.arange(count), (size_of(self.rows), count))

    def reference(self, size: int | None = None, **options: Any) -> Reference:
        """The first rows of the background, or all."""
        chosen = pick(self.background, slice(size))
        scores = self.predict(chosen)
        return Reference(chosen, scores, scores.std(axis=0), **options)

    def with_model(self, model: ScoredModel) -> World:
        return replace(self, model=model)


@cache
def mixed() -> World:
    """A word, a whole number and two vectors of two floats; two outputs, affine at first."""
    keras.utils.set_random_seed(11)
    layers = keras.layers
    inputs = {
        "carrier": keras.Input((1,), name="carrier", dtype="string"),
        "month": keras.Input((1,), name="month", dtype="int32"),
        "a": keras.Input((2,), name="a"),
        "b": keras.Input((2,), name="b"),
    }
    parts = [
        layers.Flatten()(
            layers.Embedding(4, 3, embeddings_initializer="normal")(
                layers.StringLookup(vocabulary=["AA", "UA", "DL"])(inputs["carrier"])
            )
        ),
        layers.Flatten()(layers.Embedding(13, 2, embeddings_initializer="normal")(inputs["month"])),
        inputs["a"],
        inputs["b"],
    ]
    hidden = layers.Dense(16, activation="relu", bias_initializer="normal")(layers.Concatenate()(parts))
    model = keras.Model(inputs, layers.Dense(2)(hidden))

    def draw(seed: int, rows: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            "carrier": rng.choice(np.array([b"AA", b"UA", b"DL", b"else"], object), (rows, 1)),
            "month": rng.integers(1, 13, (rows, 1)).astype(np.int32),
            "a": rng.normal(size=(rows, 2)).astype(np.float32),
            "b": rng.normal(size=(rows, 2)).astype(np.float32),
        }

    return World(scored(model), _keras(model), draw(1, 4), draw(2, 5))


@cache
def smooth(features: int = 10, rows: int = 6) -> World:
    """A vector, sines of it, and one output; nothing is affine at first."""
    keras.utils.set_random_seed(12)
    inputs = keras.Input((features,), name="x")
    hidden = keras.layers.Dense(24, activation="tanh", kernel_initializer="glorot_normal")(
        keras.ops.sin(2.0 * inputs)
    )
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows + 20, features)).astype(np.float32)
    return World(scored(model), _keras(model), {"x": x[:rows]}, {"x": x[rows:]})


def _keras(model: Any) -> Predict:
    import tensorflow as tf

    compiled = tf.function(lambda tensors: model(tensors), reduce_retracing=True)

    def predict(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        return np.asarray(compiled(tensors if len(tensors) > 1 else next(iter(tensors.values()))))

    return predict


class Plain:
    """A model of which only `evaluate` is known, as those that are not TensorFlow's."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.evaluations = 0

    def evaluate(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        self.evaluations += size_of(inputs)
        scores = self._predict(inputs)
        return scores, scores

    def masked(self, reference: Reference) -> None:
        """Nothing is kept on a device."""
