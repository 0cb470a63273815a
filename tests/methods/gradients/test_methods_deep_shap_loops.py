"""deep_shap through loops: the walk back step by step is that of the loop written out, and it sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.models.models_zoo import attribute, scored
from transforms.methods.base import Attribution, evaluate, totals
from transforms.methods.gradients.deep_shap import DeepShap
from transforms.models.graphs.deeplift import unrolled
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.reference import Reference

L, ops = keras.layers, keras.ops
Inputs = dict[str, np.ndarray]
#: Of a sequence: what is written out takes as long to trace as it has steps.
STEPS = 3


@keras.saving.register_keras_serializable("deep_shap_loops")
class Loop(L.Layer):
    """A function of TensorFlow's with a loop in it."""

    def __init__(self, function: str, **options: Any) -> None:
        super().__init__(**options)
        self.function = function

    def call(self, x: Any) -> Any:
        return LOOPS[self.function](x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "function": self.function}


def counted(x: Any) -> Any:
    """Held values that vary, a state, and no list."""
    start = tf.reduce_sum(x, axis=1)
    held = tf.tanh(x[:, 0])
    return tf.while_loop(
        lambda at, _: at < 4, lambda at, y: (at + 1, tf.tanh(y) * held + 0.3 * y), (tf.constant(0), start)
    )[1]


def mapped(x: Any) -> Any:
    return tf.transpose(
        tf.map_fn(lambda item: tf.nn.relu(item) * item, tf.transpose(x, [1, 0, 2])), [1, 0, 2]
    )


def scanned(x: Any) -> Any:
    """All states of a scan, the first step's input is its start."""
    turned = tf.transpose(x, [1, 0, 2])
    return tf.transpose(tf.scan(lambda y, item: tf.sigmoid(y + item) * item, turned, turned[0]), [1, 0, 2])


def numbered(x: Any) -> Any:
    """The step's number has a part in its value."""
    start = tf.reduce_sum(x, axis=1)
    body = lambda at, y: (at + 1, 0.5 * y + tf.sin(y) * tf.cast(at, tf.float32) / 4)  # noqa: E731
    return tf.while_loop(lambda at, _: at < 4, body, (tf.constant(0), start))[1]


LOOPS: dict[str, Callable[[Any], Any]] = {
    "counted": counted,
    "mapped": mapped,
    "scanned": scanned,
    "numbered": numbered,
}
#: Recurrent layers and loops, with the calls that are left of them; 0: written out.
BODIES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "lstm": (lambda x: L.LSTM(4)(x), 1),
    "gru": (lambda x: L.GRU(4)(x), 1),
    "gru, reset before": (lambda x: L.GRU(4, reset_after=False)(x), 1),
    "simple": (lambda x: L.SimpleRNN(4, activation="relu")(x), 1),
    "all steps backwards": (lambda x: L.LSTM(3, return_sequences=True, go_backwards=True)(x), 1),
    "both ways": (lambda x: L.Bidirectional(L.GRU(3, return_sequences=True))(x), 2),
    "states": (lambda x: L.Concatenate()(L.LSTM(3, return_state=True)(x)), 1),
    "one after another": (lambda x: L.LSTM(3)(L.GRU(3, return_sequences=True)(x)), 2),
    "cells upon cells": (lambda x: L.RNN([L.LSTMCell(3), L.GRUCell(2)])(x), 1),
    "masked": (lambda x: L.LSTM(4)(L.Masking(0.0)(x)), 1),
    "from a state": (lambda x: L.GRU(3)(x, initial_state=L.Dense(3)(x[:, 0])), 1),
    "convolution": (lambda x: L.ConvLSTM1D(2, 2)(L.Reshape((-1, 4, 1))(x)), 1),
    **{
        name: (lambda x, name=name: Loop(name)(L.Dense(4)(x)), 1) for name in ("counted", "mapped", "scanned")
    },
    "numbered": (lambda x: Loop("numbered")(L.Dense(4)(x)), 0),
}


def made(name: str, steps: int = STEPS) -> ScoredGraph:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((steps, 4), name="x")
    found = BODIES[name][0](inputs)
    if len(found.shape) > 2:
        found = L.Flatten()(found)
    return scored(keras.Model(inputs, L.Dense(2)(found)))


def drawn(rows: int, seed: int, steps: int = STEPS) -> Inputs:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, steps, 4)).astype(np.float32)
    values[np.arange(steps) >= rng.integers(2, steps + 1, (rows, 1))] = 0.0  # what a mask takes away
    return {"x": values}


def explain(model: ScoredGraph, rows: Inputs, background: Inputs) -> tuple[Attribution, Reference]:
    scores, _ = evaluate(model, background, 64)
    reference = Reference(background, scores, scores.std(axis=0))
    targets = np.broadcast_to(np.arange(scores.shape[1]), (len(rows["x"]), scores.shape[1]))
    return attribute(DeepShap(), model, rows, reference, targets, device_batch_size=12), reference


@pytest.mark.parametrize("name", BODIES)
def test_steps_walked_back_are_the_loop_written_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, background = drawn(4, 0), drawn(3, 1)
    model = made(name)
    loops = [step for step in model.rescaled(background).plan.steps if step.rule == "loops"]
    assert len(loops) == BODIES[name][1]
    found, reference = explain(model, rows, background)
    base = reference.scores.mean(axis=0, dtype=np.float64)
    off = np.abs(totals(found.values) - (found.prediction - base)) / reference.spread
    assert off.max() < 1e-4
    assert np.abs(found.values["x"]).max() > 1e-2
    monkeypatch.setattr(unrolled, "scanned", lambda *_: None)
    again = made(name)
    assert not any(step.rule == "loops" for step in again.rescaled(background).plan.steps)
    written, _ = explain(again, rows, background)
    scale = np.abs(written.values["x"]).max()
    np.testing.assert_allclose(found.values["x"], written.values["x"], atol=2e-5 * scale)


def test_a_longer_sequence_takes_no_more_rules() -> None:
    short, long = (made("lstm", steps).rescaled(drawn(3, 1, steps)) for steps in (5, 150))
    assert len(long.plan.steps) == len(short.plan.steps) < 20
    # Of a pair only the multipliers of the items grow.
    assert long.pair_bytes < 10 * short.pair_bytes
