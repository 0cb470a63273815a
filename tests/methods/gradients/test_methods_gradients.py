"""Saliency, input times gradient, SmoothGrad: closed forms, TensorFlow's own tape, noise and its errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.models.models_zoo import (
    CASES,
    EMBEDDING,
    EMBEDDING_WEIGHTS,
    attribute,
    embedded,
    linear,
    make_reference,
    pick,
    quadratic,
    seeds_of,
    separable,
    smooth_network,
)
from transforms.methods.base import AttributionMethod
from transforms.methods.gradients.expected_gradients import ExpectedGradients
from transforms.methods.gradients.integrated_gradients import IntegratedGradients
from transforms.methods.gradients.saliency import InputXGradient, Saliency
from transforms.methods.gradients.smoothgrad import SmoothGrad
from transforms.methods.sampling import sample_rounds
from transforms.numerics.random import normals, stream


def floats(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


# -- at the row itself ---------------------------------------------------------------------------------


def test_gradients_of_5x_y2_sin_z_with_counted_evaluations() -> None:
    """∇F = (5, 2y, cos z). Five rows are padded to eight: eight gradients and eight predictions."""
    model = separable()
    drawn = np.random.default_rng(0).normal(size=(3, 5, 1)).astype(np.float32)
    rows = dict(zip("xyz", drawn, strict=True))
    reference = make_reference(model, pick(rows, [0]))
    gradient = {"x": np.full((5, 1), 5), "y": 2 * rows["y"], "z": np.cos(rows["z"])}
    expected = {
        Saliency(): gradient,
        Saliency(absolute=True): {k: np.abs(v) for k, v in gradient.items()},
        InputXGradient(): {k: rows[k] * v for k, v in gradient.items()},
    }
    for method, values in expected.items():
        differentiable = model.differentiable(reference.inputs)
        forward, backward = model.evaluations, differentiable.evaluations
        found = attribute(method, model, rows, reference)
        assert model.evaluations - forward == 8
        assert differentiable.evaluations - backward == 8
        for name, value in values.items():
            np.testing.assert_allclose(found.values[name][:, 0], value, rtol=1e-6, atol=1e-7)


def test_a_category_is_attributed_through_its_embedding() -> None:
    """The sum over the embedding's axis: of w, |w|, w ⊙ e, w ⊙ (e − e′), and its mean over a background."""
    model = embedded()
    rows = {"carrier": np.array([[b"AA"], [b"DL"]], object), "d": floats([2], [-1])}
    start = {"carrier": np.array([[b"UA"], [b"never seen"]], object), "d": floats([1], [0])}
    one, two = make_reference(model, pick(start, [0])), make_reference(model, start)
    scores = EMBEDDING @ EMBEDDING_WEIGHTS
    expected: list[tuple[AttributionMethod, Any, Any, Any]] = [
        (Saliency(), one, EMBEDDING_WEIGHTS.sum(), 3),
        (Saliency(absolute=True), one, np.abs(EMBEDDING_WEIGHTS).sum(), 3),
        (InputXGradient(), one, scores[[1, 3]], 3 * rows["d"][:, 0]),
        (IntegratedGradients(), one, scores[[1, 3]] - scores[2], 3 * (rows["d"][:, 0] - 1)),
        (IntegratedGradients(), two, scores[[1, 3]] - scores[[2, 0]].mean(), 3 * (rows["d"][:, 0] - 0.5)),
        (
            ExpectedGradients(n_samples=8),
            two,
            scores[[1, 3]] - scores[[2, 0]].mean(),
            3 * (rows["d"][:, 0] - 0.5),
        ),
    ]
    for method, reference, carrier, d in expected:
        found = attribute(method, model, rows, reference)
        np.testing.assert_allclose(found.values["carrier"][:, 0, 0], np.broadcast_to(carrier, 2), rtol=1e-5)
        np.testing.assert_allclose(found.values["d"][:, 0, 0], np.broadcast_to(d, 2), rtol=1e-5)


def tape_gradient(model: Any, inputs: dict[str, np.ndarray], score: Any) -> dict[str, np.ndarray]:
    """TensorFlow's own gradient of `score(model's outputs)`, `[B]`, for float inputs."""
    tensors = {name: tf.constant(value) for name, value in inputs.items()}

    @tf.function
    def gradient() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            packed = tensors if isinstance(model.input, dict) else next(iter(tensors.values()))
            total = tf.reduce_sum(score(model(packed, training=False)))
        return tape.gradient(total, tensors)

    return {name: value.numpy() for name, value in gradient().items()}


@pytest.mark.parametrize(
    ("case", "target", "score"),
    [
        ("linear", 0, lambda y: y[:, 0]),
        ("relu_pair", 0, lambda y: y[:, 0]),
        ("probability", 1, lambda y: y[:, 1]),
        # The score is before the sigmoid and the softmax: the tape undoes them.
        ("tabular", 0, lambda y: tf.math.log(y[:, 0]) - tf.math.log1p(-y[:, 0])),
        ("heads", 0, lambda y: tf.math.log(y["late"][:, 0]) - tf.math.log1p(-y["late"][:, 0])),
        ("heads", 2, lambda y: y["minutes"][:, 1]),
    ],
)
def test_gradients_are_those_of_tensorflows_tape(case: str, target: int, score: Any) -> None:
    kind = CASES[case]()
    expected = tape_gradient(kind.model.adapter.model, kind.rows, score)
    reference, targets = make_reference(kind.model, kind.background), np.full((7, 1), target)
    for method, change in (
        (Saliency(), lambda g, x: g),
        (Saliency(absolute=True), lambda g, x: np.abs(g)),
        (InputXGradient(), lambda g, x: g * x),
    ):
        found = attribute(method, kind.model, kind.rows, reference, targets)
        for name, gradient in expected.items():
            value = change(gradient, kind.rows[name])
            scale = np.abs(value).max()
            assert scale > 1e-3
            np.testing.assert_allclose(found.values[name][:, 0], value, rtol=1e-4, atol=1e-4 * scale)


def test_the_score_before_a_softmax_differs_by_what_all_classes_share() -> None:
    """log p_i − log p_j = logit_i − logit_j: differences of saliency between classes are the tape's."""
    kind = CASES["image"]()
    reference = make_reference(kind.model, kind.background)
    targets = np.broadcast_to(np.arange(3), (7, 3))
    found = attribute(Saliency(), kind.model, kind.rows, reference, targets).values["pixels"]
    expected = tape_gradient(
        kind.model.adapter.model, kind.rows, lambda y: tf.math.log(y[:, 2]) - tf.math.log(y[:, 0])
    )["pixels"]
    np.testing.assert_allclose(found[:, 2] - found[:, 0], expected, rtol=1e-3, atol=1e-5)


# -- SmoothGrad ----------------------------------------------------------------------------------------

X = floats([1, 2], [-0.5, 0.25], [3, -1])


def quadratic_gradient(rows: np.ndarray) -> np.ndarray:
    a, b = rows[..., 0], rows[..., 1]
    return np.stack([2 * a + 3 * b, 3 * a - 2], axis=-1)


def test_smoothgrad_averages_the_gradients_at_its_noisy_copies() -> None:
    """∇F of a quadratic is linear: the mean over the copies is the gradient at x + the noise's mean."""
    reference = make_reference(quadratic(), {"x": X})
    reference = replace(reference, noise=(floats([2.0, 0.5]),))
    found = attribute(
        SmoothGrad(n_samples=30, noise=0.4, standard_error=True), quadratic(), {"x": X}, reference
    )
    keys = stream(stream(seeds_of(3), 0), 0)
    noise = normals(keys, 0, 30, 2).numpy() * np.array([0.8, 0.2])
    gradients = quadratic_gradient(X + noise.astype(np.float64))
    np.testing.assert_allclose(found.values["x"][:, 0], gradients.mean(axis=0), rtol=1e-5, atol=1e-5)
    errors = gradients.std(axis=0, ddof=1) / np.sqrt(30)
    np.testing.assert_allclose(found.standard_error["x"][:, 0], errors, rtol=1e-4)
    assert found.convergence_delta is None


@pytest.mark.parametrize("device_batch_size", [1, 7, 30, 64, 4096])
def test_smoothgrad_counts_and_cuts_its_evaluations(device_batch_size: int) -> None:
    """Three rows of 30 copies: 90 evaluations, and padding to four rows only where all fit into one call."""
    reference = make_reference(quadratic(), {"x": X})
    differentiable = quadratic().differentiable(reference.inputs)
    before = differentiable.evaluations
    method = SmoothGrad(n_samples=30, standard_error=True)
    found = attribute(method, quadratic(), {"x": X}, reference, device_batch_size=device_batch_size)
    assert differentiable.evaluations - before == (120 if device_batch_size == 4096 else 90)
    whole = attribute(method, quadratic(), {"x": X}, reference)
    np.testing.assert_allclose(found.values["x"], whole.values["x"], rtol=1e-5)
    np.testing.assert_allclose(found.standard_error["x"], whole.standard_error["x"], rtol=1e-4)


def test_without_noise_it_is_saliency_and_has_no_error() -> None:
    for case in ("tabular", "categorical"):
        kind = CASES[case]()
        reference = make_reference(kind.model, kind.background)
        smooth = attribute(
            SmoothGrad(noise=0, tolerance=1e-6, standard_error=True), kind.model, kind.rows, reference
        )
        plain = attribute(Saliency(), kind.model, kind.rows, reference)
        for name, value in plain.values.items():
            np.testing.assert_allclose(smooth.values[name], value, rtol=1e-5, atol=1e-7)
            assert smooth.standard_error[name].max() < 1e-6 * np.abs(value).max()
        assert not smooth.limited.any()


def test_a_gradient_that_does_not_vary_has_no_error_however_large_it_is() -> None:
    """The variance is not a difference of large sums: a linear model passes any tolerance at once."""
    reference = replace(make_reference(linear(), {"x": floats([1, 2, 3])}), spread=floats([1e-4])[0])
    differentiable = linear().differentiable(reference.inputs)
    before = differentiable.evaluations
    found = attribute(
        SmoothGrad(tolerance=1e-3, standard_error=True), linear(), {"x": floats([1, 1, 1])}, reference
    )
    assert differentiable.evaluations - before == 50
    assert found.standard_error["x"].max() < 1e-7
    assert not found.limited.any()


def test_smoothgrads_standard_errors_are_calibrated_and_the_mean_is_right() -> None:
    """Over 400 seeds; the mean over all noise is the quadratic's own gradient, tanh's by 100,000 copies."""
    for model, row in ((quadratic(), X[:1]), (smooth_network()[1], np.full((1, 6), 0.3, np.float32))):
        reference = make_reference(model, {"x": row}, noise=1.0)
        rows = {"x": np.repeat(row, 400, axis=0)}
        method = SmoothGrad(n_samples=20, noise=0.5, standard_error=True)
        found = attribute(method, model, rows, reference, device_batch_size=8192)
        large = replace(method, n_samples=100_000)
        truth = attribute(large, model, {"x": row}, reference, device_batch_size=8192)
        error = found.values["x"][:, 0] - truth.values["x"][0, 0]
        allowed = 4 * np.hypot(error.std(axis=0) / 20, truth.standard_error["x"][0, 0])
        assert (np.abs(error.mean(axis=0)) < allowed).all()
        z = error / found.standard_error["x"][:, 0]
        assert (
            np.sqrt((error**2).mean(axis=0) / (found.standard_error["x"][:, 0] ** 2).mean(axis=0)) < 1.15
        ).all()
        assert 0.85 < np.sqrt((z**2).mean()) < 1.2
        assert (np.abs(z) < 4).mean() > 0.99
    np.testing.assert_allclose(
        attribute(
            large, quadratic(), {"x": X}, make_reference(quadratic(), {"x": X}), device_batch_size=8192
        ).values["x"][:, 0],
        quadratic_gradient(X),
        atol=0.02,
    )


def test_a_tolerance_samples_only_the_rows_that_need_it_again() -> None:
    """A row where the gradient is flat stops at once; one where it varies goes on, at most ten rounds."""
    model = smooth_network()[1]
    flat, steep = np.full(6, 200, np.float32), np.full(6, 0.2, np.float32)
    rows = {"x": np.stack([flat, steep, flat, steep])}
    reference = make_reference(model, {"x": np.zeros((1, 6), np.float32)}, noise=1.0)
    reference = replace(reference, spread=np.ones(1, np.float32))
    method = SmoothGrad(n_samples=16, noise=0.5, standard_error=True)
    once = attribute(method, model, rows, reference)
    worst = once.standard_error["x"].max(axis=(1, 2))
    assert (worst[[0, 2]] < 1e-3).all()
    differentiable = model.differentiable(reference.inputs)
    for tolerance, most in ((worst.max() / 2, 10), (1e-9, 10)):
        before = differentiable.evaluations
        found = attribute(replace(method, tolerance=float(tolerance)), model, rows, reference)
        extra = (differentiable.evaluations - before) / 16 - 4
        if tolerance > 1e-8:
            np.testing.assert_array_equal(found.values["x"][[0, 2]], once.values["x"][[0, 2]])
            assert (found.values["x"][[1, 3]] != once.values["x"][[1, 3]]).any()
            assert 2 <= extra <= 2 * (most - 1)
            assert (found.standard_error["x"] <= tolerance).all()
            assert not found.limited.any()
        else:
            assert found.limited[[1, 3]].all()
            assert (found.standard_error["x"][[1, 3]].max(axis=(1, 2)) > tolerance).all()
            ratio = found.standard_error["x"][[1, 3]] / once.standard_error["x"][[1, 3]]
            assert 0.7 < np.median(ratio) * np.sqrt(10) < 1.4


def test_more_rounds_are_more_exact() -> None:
    """The rounds are independent: their mean is closer to the truth by the root of their number."""
    rows = {"x": np.repeat(X[:1], 200, axis=0)}
    reference = make_reference(quadratic(), {"x": X}, noise=1.0)

    def error(method: SmoothGrad) -> float:
        found = attribute(method, quadratic(), rows, reference, device_batch_size=8192)
        return float(np.sqrt(((found.values["x"][:, 0] - quadratic_gradient(X[0])) ** 2).mean()))

    once, ten = error(SmoothGrad(n_samples=10)), error(SmoothGrad(n_samples=10, tolerance=1e-9))
    assert 2.5 < once / ten < 4


def test_rounds_are_averaged_and_rows_stop_when_they_may() -> None:
    """Two rows, two targets; a round's mean is its number, its variance 1 for row 0 and 16 for row 1."""
    calls: list[tuple[list[int], int]] = []

    def run(rows: np.ndarray, number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        calls.append((rows.tolist(), number))
        variance = np.array([1.0, 16.0])[rows, None, None] * np.ones((1, 2, 3))
        return {"x": np.full((len(rows), 2, 3), float(number))}, {"x": variance}

    # Row 0 is within 0.75 · 1 after two rounds, row 1 within 0.75 · 2 after eight: 4 / √8 = 1.41.
    spread = np.array([[1.0, 1.0], [2.0, 2.0]])
    means, errors, limited = sample_rounds(run, spread, 0.75)
    assert calls == [([0, 1], 0), ([0, 1], 1), *(([1], number) for number in range(2, 8))]
    np.testing.assert_allclose(means["x"][:, 0, 0], [0.5, 3.5])
    np.testing.assert_allclose(errors["x"][:, 1, 2], [np.sqrt(1 / 2), np.sqrt(16 / 8)])
    assert not limited.any()
    calls.clear()
    means, errors, limited = sample_rounds(run, spread, 0.65)
    assert calls[-1] == ([1], 9)
    np.testing.assert_allclose(errors["x"][1], 4 / np.sqrt(10))
    assert limited.tolist() == [False, False]
    assert sample_rounds(run, spread, 0.6)[2].tolist() == [False, True]
    calls.clear()
    sample_rounds(run, spread, None)
    assert calls == [([0, 1], 0)]


def test_a_spread_of_nothing_asks_for_nothing() -> None:
    reference = replace(make_reference(quadratic(), {"x": X}), spread=np.zeros(1, np.float32))
    found = attribute(
        SmoothGrad(n_samples=4, tolerance=1e-6, standard_error=True), quadratic(), {"x": X}, reference
    )
    assert (found.standard_error["x"] > 0).any()
    assert not found.limited.any()
