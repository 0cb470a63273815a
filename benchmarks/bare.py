"""Integrated gradients as one would write it by hand for one network: what the pipeline is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import fastest, rate, tensorflow
from transforms.numerics.quadrature import gauss_legendre

STEPS = 50
#: Points a device call that are tried.
POINTS = (1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Bare:
    """A compiled function from rows `[n, width]` to their attributions, and how many rows suit it best."""

    name: str
    function: Any
    rows: int

    def __call__(self, inputs: np.ndarray, results: np.ndarray) -> Callable[[int], int]:
        """A call for `rate`: attributes the next rows into `results`."""

        def call(position: int) -> int:
            part = inputs[position : position + self.rows]
            results[position : position + len(part)] = self.function(part).numpy()
            return len(part)

        return call


def straightforward(model: Any, baseline: np.ndarray) -> dict[str, Any]:
    """The model, called on the interpolated points."""
    tf = tensorflow()
    width = baseline.shape[1]
    alphas, weights = (tf.constant(values) for values in gauss_legendre(STEPS))
    start = tf.constant(baseline)

    def whole_model(rows: Any) -> Any:
        points = tf.reshape(start + alphas[:, None, None] * (rows - start), [-1, width])
        gradients = tf.gradients(model(points, training=False), points)[0]
        return (rows - start) * tf.einsum("kbf,k->bf", tf.reshape(gradients, [STEPS, -1, width]), weights)

    return {"whole model": _compiled(whole_model, width)}


def by_hand(model: Any, baseline: np.ndarray) -> dict[str, Any]:
    """What knowing the network allows: its first layer at the two ends only, the fastest ops for the rest.

    Points come from a product with [1, α] and sums over the nodes from one with the weights: each is several
    times faster than broadcasting and einsum. Once with TensorFlow's gradient, once with the backward pass
    written out.
    """
    tf = tensorflow()
    width = baseline.shape[1]
    first, first_bias, second, second_bias, third, third_bias = (tf.constant(w) for w in model.get_weights())
    hidden = first.shape[1]
    alphas, weights = (tf.constant(values) for values in gauss_legendre(STEPS))
    mix = tf.stack([tf.ones_like(alphas), alphas], axis=1)
    start = tf.constant(baseline)
    start_hidden = start @ first + first_bias

    def points_of(rows: Any) -> Any:
        end = rows @ first + first_bias
        begin = tf.broadcast_to(start_hidden, tf.shape(end))
        ends = tf.stack([tf.reshape(begin, [-1]), tf.reshape(end - begin, [-1])])
        return tf.reshape(mix @ ends, [-1, hidden])

    def pulled_back(rows: Any, gradients: Any) -> Any:
        summed = tf.reshape(weights[None] @ tf.reshape(gradients, [STEPS, -1]), [-1, hidden])
        return (rows - start) * tf.matmul(summed, first, transpose_b=True)

    def prefix(rows: Any) -> Any:
        points = points_of(rows)
        inner = tf.nn.relu(tf.nn.bias_add(tf.nn.relu(points) @ second, second_bias))
        return pulled_back(rows, tf.gradients(inner @ third + third_bias, points)[0])

    def prefix_written_out(rows: Any) -> Any:
        points = points_of(rows)
        inner = tf.nn.relu(tf.nn.bias_add(tf.nn.relu(points) @ second, second_bias))
        above = tf.where(inner > 0, tf.reshape(third, [1, -1]), 0.0)
        below = tf.raw_ops.ReluGrad(gradients=tf.matmul(above, second, transpose_b=True), features=points)
        return pulled_back(rows, below)

    return {
        "prefix": _compiled(prefix, width),
        "prefix, backward pass written out": _compiled(prefix_written_out, width),
    }


def best(functions: dict[str, Any], inputs: np.ndarray, results: np.ndarray, trial: float) -> Bare:
    """The fastest of the functions at its fastest number of points a call; a trial takes `trial` seconds."""
    tried = {
        f"{name}, {points}": Bare(name, function, max(1, points // STEPS))
        for name, function in functions.items()
        for points in POINTS
    }

    def job(bare: Bare) -> Callable[[], float]:
        call = bare(inputs, results)
        return lambda: rate(call, min(len(inputs), 8 * bare.rows), trial)

    return tried[fastest({name: job(bare) for name, bare in tried.items()})]


def _compiled(function: Callable[[Any], Any], width: int) -> Any:
    tf = tensorflow()
    return tf.function(function, input_signature=[tf.TensorSpec([None, width])], autograph=False)
