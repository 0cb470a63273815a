"""Layers that draw random numbers or mix the rows of a batch, in small models; helpers, not tests."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

L, ops = keras.layers, keras.ops
register = keras.saving.register_keras_serializable("misbehaving")


@register
class Noise(L.Layer):
    """Noise of a thousandth of its input's spread, by Keras's own generator."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x: Any) -> Any:
        return x + 1e-3 * keras.random.normal(ops.shape(x), seed=self.seed)


@register
class StatefulNoise(L.Layer):
    """The same by TensorFlow's generator of the process."""

    def call(self, x: Any) -> Any:
        return x + 1e-3 * tf.random.normal(tf.shape(x))


@register
class LastingDropout(L.Layer):
    """Drops one value in a hundred, in training or not."""

    def call(self, x: Any) -> Any:
        return tf.nn.dropout(x, 0.01)


@register
class Seldom(L.Layer):
    """Adds 1 to one value in five hundred."""

    def call(self, x: Any) -> Any:
        return x + tf.cast(tf.random.uniform(tf.shape(x)) < 0.002, x.dtype)


@register
class RandomInLoop(L.Layer):
    """Draws in the body of a loop."""

    def call(self, x: Any) -> Any:
        return tf.while_loop(
            lambda step, _: step < 3,
            lambda step, value: (step + 1, value + 0.01 * tf.random.uniform(tf.shape(value))),
            (tf.constant(0), x),
        )[1]


@register
class Standardised(L.Layer):
    """Mean 0 and spread 1 over the rows of the batch."""

    def call(self, x: Any) -> Any:
        return (x - ops.mean(x, 0, keepdims=True)) / (ops.std(x, 0, keepdims=True) + 0.1)


@register
class Centred(L.Layer):
    """A thousandth of the batch's mean is taken away."""

    def call(self, x: Any) -> Any:
        return x - 1e-3 * ops.mean(x, 0, keepdims=True)


@register
class Training(L.Layer):
    """Batch normalisation that never stops training."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = L.BatchNormalization(name="inner")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x, training=True)


@register
class Ranked(L.Layer):
    """Ranks over the batch."""

    def call(self, x: Any) -> Any:
        return x + ops.cast(ops.argsort(ops.argsort(x, axis=0), axis=0), x.dtype)


@register
class Scaled(L.Layer):
    """Divided by the largest of the batch."""

    def call(self, x: Any) -> Any:
        return x / ops.max(ops.abs(x))


@register
class Running(L.Layer):
    """Sums over the rows so far."""

    def call(self, x: Any) -> Any:
        return ops.cumsum(x, axis=0)


@register
class Numbered(L.Layer):
    """A row's number in the batch is added."""

    def call(self, x: Any) -> Any:
        return x + ops.cast(ops.arange(ops.shape(x)[0]), x.dtype)[:, None]


@register
class Counted(L.Layer):
    """The number of rows is added."""

    def call(self, x: Any) -> Any:
        return x + ops.cast(ops.shape(x)[0], x.dtype)


def behind(layer: Any, features: int = 4) -> Any:
    """Dense → the layer → Dense."""
    given = keras.Input((features,), name="x")
    return keras.Model(given, L.Dense(1)(layer(L.Dense(6, activation="relu")(given))))


#: Layers, and what the plan says of a model that has one.
RANDOM = {
    "noise": (Noise, "Noise"),
    "stateful noise": (StatefulNoise, "StatefulNoise"),
    "dropout": (LastingDropout, "LastingDropout"),
    "seldom": (Seldom, "Seldom"),
    "in a loop": (RandomInLoop, "RandomInLoop"),
}
MIXING = {
    "standardised": (Standardised, r"its neighbours in the batch \(Standardised\)"),
    "centred": (Centred, r"its neighbours in the batch \(Centred\)"),
    "training": (Training, r"its neighbours in the batch \(BatchNormalization inner\)"),
    "ranked": (Ranked, r"its neighbours in the batch \(Ranked\)"),
    "scaled": (Scaled, r"its neighbours in the batch \(Scaled\)"),
    "unit of the batch": (
        lambda: L.UnitNormalization(axis=0),
        r"its neighbours in the batch \(UnitNormalization\)",
    ),
    "running": (Running, r"its neighbours in the batch \(Running\)"),
    "numbered": (Numbered, "its place in the batch"),
    "counted": (Counted, "the number of rows in its batch"),
}
