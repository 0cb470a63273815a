"""Expected gradients: exact where they can be, elsewhere unbiased with honest errors; strata; shap."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from tests.support.models.models_zoo import (
    CASES,
    attribute,
    keras,
    layers,
    linear,
    make_reference,
    pick,
    relu_network,
    scored,
    seeds_of,
    smooth_network,
)
from transforms.methods.base import Attribution
from transforms.methods.gradients import expected_gradients
from transforms.methods.gradients.background_ends import background_ends
from transforms.methods.gradients.expected_gradients import ExpectedGradients, strata
from transforms.methods.gradients.integrated_gradients import IntegratedGradients
from transforms.models.base import ScoredModel
from transforms.models.reference import Reference


def drawn(rows: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)


def test_linear_is_exact_when_every_background_row_is_used_equally_often() -> None:
    """φ = w (x − mean x′). Three rows are padded to four: 4 · 12 gradient evaluations and 4 predictions."""
    background, rows = drawn(6, 3, 0), drawn(3, 3, 1)
    reference = make_reference(linear(), {"x": background})
    differentiable = linear().differentiable(reference.inputs)
    forward, backward = linear().evaluations, differentiable.evaluations
    found = attribute(ExpectedGradients(n_samples=12, standard_error=True), linear(), {"x": rows}, reference)
    assert linear().evaluations - forward == 4
    assert differentiable.evaluations - backward == 4 * 12
    expected = np.array([2, -3, 0.5]) * (rows - background.mean(axis=0))
    np.testing.assert_allclose(found.values["x"][:, 0], expected, rtol=1e-5, atol=1e-5)
    assert found.standard_error["x"].max() < 1e-6  # nothing varies once the background row is given
    assert np.abs(found.convergence_delta).max() < 1e-5


@pytest.mark.parametrize("device_batch_size", [1, 2, 7, 16, 30, 100, 4096])
def test_how_samples_are_cut_into_calls_changes_nothing(device_batch_size: int) -> None:
    rows = {"x": drawn(3, 6, 2)}
    model = smooth_network()[1]
    reference = make_reference(model, {"x": drawn(4, 6, 3)})
    for method in (
        ExpectedGradients(n_samples=30, standard_error=True),
        ExpectedGradients(n_samples=31),
        ExpectedGradients(n_samples=31, standard_error=True),
    ):
        whole = attribute(method, model, rows, reference)
        found = attribute(method, model, rows, reference, device_batch_size=device_batch_size)
        np.testing.assert_allclose(found.values["x"], whole.values["x"], rtol=1e-4, atol=1e-6)
        if whole.standard_error is not None:
            np.testing.assert_allclose(found.standard_error["x"], whole.standard_error["x"], rtol=1e-4)


def test_asking_for_standard_errors_does_not_change_the_values() -> None:
    model, rows = smooth_network()[1], {"x": drawn(3, 6, 2)}
    reference = make_reference(model, {"x": drawn(4, 6, 3)})
    plain = attribute(ExpectedGradients(n_samples=20), model, rows, reference)
    both = attribute(ExpectedGradients(n_samples=20, standard_error=True), model, rows, reference)
    assert plain.standard_error is None
    np.testing.assert_allclose(plain.values["x"], both.values["x"], rtol=1e-6, atol=1e-7)


# -- unbiased, and honest about its errors -------------------------------------------------------------

#: Model, background rows, samples, and the least that the true error may be as a share of the standard error.
DESIGNS = [
    ("smooth", 1, 20, 0.25),
    ("smooth", 10, 40, 0.25),
    ("relu", 10, 80, 0.35),
    ("relu", 50, 100, 0.35),
    ("relu", 50, 51, 0.35),
    ("relu", 300, 60, 0.7),
]


def design(kind: str, background: int) -> tuple[ScoredModel, dict[str, np.ndarray], Reference]:
    model, features = (smooth_network()[1], 6) if kind == "smooth" else (relu_network(), 14)
    return model, {"x": drawn(1, features, 4)}, make_reference(model, {"x": drawn(background, features, 5)})


@pytest.mark.parametrize(("kind", "background", "n_samples", "least"), DESIGNS)
def test_values_are_unbiased_and_standard_errors_neither_small_nor_idle(
    kind: str, background: int, n_samples: int, least: float
) -> None:
    """400 seeds against the exact mean of integrated gradients over the background.

    The design is more even than the differences behind the standard error can tell, so that the error is the
    smaller of the two; where there are many more background rows than samples, they agree.
    """
    model, row, reference = design(kind, background)
    exact = attribute(IntegratedGradients(n_steps=300), model, row, reference, device_batch_size=8192)
    rows = pick(row, np.zeros(400, np.int64))
    method = ExpectedGradients(n_samples=n_samples, standard_error=True)
    found = attribute(method, model, rows, reference, device_batch_size=8192)
    error = (found.values["x"] - exact.values["x"])[:, 0]
    scale = np.abs(exact.values["x"]).max()
    assert (np.abs(error.mean(axis=0)) < 4 * error.std(axis=0) / 20 + 3e-4 * scale).all()
    squared = found.standard_error["x"][:, 0] ** 2
    ratio = np.sqrt((error**2).mean() / squared.mean())
    assert least < ratio < 1.1
    z = np.abs(error) / np.sqrt(squared)
    assert (z < 3).mean() > 0.98
    assert (z < 1.96).mean() > 0.93
    delta = found.convergence_delta[:, 0]
    assert abs(delta.mean()) < 4 * delta.std() / 20 + 3e-4 * scale


def test_an_odd_sample_counts_in_the_standard_error_though_it_has_no_pair() -> None:
    """Of three samples the one pair stands for all: the error would otherwise be 1.22 times too small."""
    model, row, reference = design("relu", 300)
    rows = pick(row, np.zeros(2000, np.int64))
    method = ExpectedGradients(n_samples=3, standard_error=True)
    found = attribute(method, model, rows, reference, device_batch_size=8192)
    squared = (found.standard_error["x"][:, 0] ** 2).mean(axis=0)
    ratio = np.sqrt(found.values["x"][:, 0].var(axis=0) / squared)
    assert 0.8 < ratio.mean() < 1.1


def test_values_agree_with_20000_samples() -> None:
    model, row, reference = design("relu", 50)
    large = attribute(
        ExpectedGradients(n_samples=20_000, standard_error=True),
        model,
        row,
        reference,
        device_batch_size=8192,
    )
    exact = attribute(IntegratedGradients(n_steps=600), model, row, reference, device_batch_size=8192)
    scale = np.abs(exact.values["x"]).max()
    np.testing.assert_allclose(large.values["x"], exact.values["x"], atol=3e-3 * scale)
    found = attribute(ExpectedGradients(n_samples=200, standard_error=True), model, row, reference)
    assert (np.abs(found.values["x"] - large.values["x"]) < 4 * found.standard_error["x"]).all()
    ratio = found.standard_error["x"] / large.standard_error["x"]
    assert np.median(ratio) > 8  # of a hundred times the samples: ten times at least


def test_strata_beat_independent_draws() -> None:
    """What strata and the even use of the background are for: less than half of the plain error."""
    model, row, reference = design("relu", 50)
    exact = attribute(IntegratedGradients(n_steps=300), model, row, reference, device_batch_size=8192)
    rng = np.random.default_rng(0)
    differentiable = model.differentiable(reference.inputs)
    background = background_ends(model, reference, 1024).kept
    plain = np.zeros(14)
    for _ in range(100):
        base, at = rng.integers(0, 50, (100, 1)), rng.random((100, 1, 1))
        values, _ = differentiable.integrate(
            row,
            background,
            base.astype(np.int32),
            at.astype(np.float32),
            np.ones(1, np.float32),
            np.zeros((1, 1), int),
        )
        plain += (values["x"][0, 0] / 100 - exact.values["x"][0, 0]) ** 2 / 100
    found = attribute(ExpectedGradients(n_samples=100), model, pick(row, np.zeros(100, int)), reference)
    ours = ((found.values["x"] - exact.values["x"])[:, 0] ** 2).mean(axis=0)
    assert np.sqrt(ours.sum() / plain.sum()) < 0.5


# -- strata --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "background"), [(20, 1), (20, 3), (24, 6), (200, 100), (150, 100), (50, 100), (7, 3), (2, 1)]
)
def test_each_stratum_is_hit_once_and_each_background_row_equally_often(count: int, background: int) -> None:
    alphas, rows = strata(seeds_of(300), 0, count, count, background)
    assert alphas.shape == rows.shape == (count, 300)
    assert alphas.min() >= 0
    assert alphas.max() <= 1
    # float32 may round a position up to the next stratum's edge.
    stratum = np.sort(
        np.floor(alphas.astype(np.float64) * count - 1e-5 * (alphas * count % 1 < 1e-5)), axis=0
    )
    assert (stratum == np.arange(count)[:, None]).mean() > 0.999
    used = np.stack([np.bincount(rows[:, i], minlength=background) for i in range(300)])
    # Even over every whole turn of 2R samples, and over what is left.
    turns, left = divmod(count, 2 * background)
    assert (used >= 2 * turns + left // background).all()
    assert (used <= 2 * turns + -(-left // background)).all()
    # Every row of the background has the same chance at every place of the path.
    chance = np.stack([(rows == base).mean(axis=1) for base in range(background)])
    assert np.abs(chance - 1 / background).max() < 6 * np.sqrt(1 / background / 300)
    jitter = (alphas.astype(np.float64) * count) % 1
    assert abs(jitter.mean() - 0.5) < 4 * np.sqrt(1 / 12 / jitter.size)


def test_neighbours_share_their_background_row_and_turns_do_not_share_their_lattice() -> None:
    _, rows = strata(seeds_of(50), 0, 80, 80, 10)
    np.testing.assert_array_equal(rows[0::2], rows[1::2])
    first, second = rows[:20], rows[20:40]
    assert (first != second).any(axis=0).mean() > 0.8
    assert len({tuple(lattice) for lattice in rows.T}) > 45


def test_a_sorted_background_is_not_taken_in_its_order() -> None:
    """Or else a lattice of step 1 would compare neighbours that resemble each other: too small an error."""
    _, rows = strata(seeds_of(2000), 0, 10, 10, 100)
    assert abs((np.abs(np.diff(rows.astype(int), axis=0)) == 1).mean() - 0.02) < 0.01
    spans = np.ptp(rows, axis=0)
    assert np.quantile(spans, 0.01) > 40


@pytest.mark.parametrize(("first", "size"), [(0, 2), (10, 30), (38, 12), (49, 1)])
def test_a_part_of_the_samples_is_that_part_of_all(first: int, size: int) -> None:
    for background in (1, 4, 7, 40):
        alphas, rows = strata(seeds_of(5), 0, 50, 50, background)
        some_alphas, some_rows = strata(seeds_of(5), first, size, 50, background)
        np.testing.assert_array_equal(some_alphas, alphas[first : first + size])
        np.testing.assert_array_equal(some_rows, rows[first : first + size])


# -- tolerance -----------------------------------------------------------------------------------------


def test_a_tolerance_samples_only_the_rows_that_need_it_again() -> None:
    """Rows go on in rounds of n_samples, at most ten; those that are still above are marked."""
    model = relu_network()
    near, far = drawn(6, 14, 6) * np.float32(0.02), drawn(6, 14, 7) * 2
    rows = {"x": np.concatenate([near, far])}
    reference = make_reference(model, {"x": np.zeros((1, 14), np.float32)})
    reference = replace(reference, spread=np.ones(1, np.float32))
    method = ExpectedGradients(n_samples=20, standard_error=True)
    once = attribute(method, model, rows, reference)
    worst = once.standard_error["x"].max(axis=(1, 2))
    tolerance = float(worst[6:].min() * 0.6)
    assert (worst[:6] < tolerance).all()
    differentiable = model.differentiable(reference.inputs)
    before = differentiable.evaluations
    found = attribute(replace(method, tolerance=tolerance), model, rows, reference)
    rounds = (differentiable.evaluations - before) / 20
    assert 16 + 6 <= rounds <= 16 + 9 * 8  # twelve rows padded to sixteen, then six padded to eight at most
    np.testing.assert_array_equal(found.values["x"][:6], once.values["x"][:6])
    assert (found.values["x"][6:] != once.values["x"][6:]).any(axis=(1, 2)).all()
    above = found.standard_error["x"].max(axis=(1, 2)) > tolerance
    np.testing.assert_array_equal(found.limited, above)
    hard = attribute(replace(method, tolerance=1e-9), model, rows, reference)
    assert hard.limited[6:].all()
    ratio = hard.standard_error["x"][6:] / once.standard_error["x"][6:]
    assert 0.6 < np.median(ratio) * np.sqrt(10) < 1.5


def test_more_rounds_are_more_exact() -> None:
    """The rounds are independent: their mean is closer to the truth by the root of their number."""
    model, row, reference = design("relu", 10)
    exact = attribute(IntegratedGradients(n_steps=300), model, row, reference, device_batch_size=8192)
    rows = pick(row, np.zeros(100, np.int64))

    def error(method: ExpectedGradients) -> float:
        found = attribute(method, model, rows, reference, device_batch_size=8192)
        return float(np.sqrt(((found.values["x"] - exact.values["x"]) ** 2).mean()))

    once = error(ExpectedGradients(n_samples=20))
    ten = error(ExpectedGradients(n_samples=20, tolerance=1e-9))
    assert 2.4 < once / ten < 4.2


def test_a_spread_of_nothing_asks_for_nothing() -> None:
    kind = CASES["tabular"]()
    reference = make_reference(kind.model, kind.background)
    reference = replace(reference, spread=np.zeros(1, np.float32))
    method = ExpectedGradients(n_samples=8, tolerance=1e-6)
    assert not attribute(method, kind.model, kind.rows, reference).limited.any()


# -- against shap --------------------------------------------------------------------------------------


# shap passes a list to a model of one input.
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
def test_values_agree_with_shaps_gradient_explainer() -> None:
    """Within the errors of both: shap's from eight runs with other seeds, ours as reported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shap's plotting libraries
        import shap

    keras_model, model = smooth_network()
    background, rows = drawn(25, 6, 8), drawn(3, 6, 9)
    explainer = shap.GradientExplainer(keras_model, background)
    runs = np.stack([explainer.shap_values(rows, nsamples=500, rseed=seed)[..., 0] for seed in range(8)])
    theirs, their_error = runs.mean(axis=0), runs.std(axis=0, ddof=1) / np.sqrt(8)
    found = attribute(
        ExpectedGradients(n_samples=500, standard_error=True),
        model,
        {"x": rows},
        make_reference(model, {"x": background}),
    )
    ours, our_error = found.values["x"][:, 0], found.standard_error["x"][:, 0]
    assert np.abs(ours).max() > 0.1
    assert (np.abs(ours - theirs) < 4.5 * np.hypot(our_error, their_error) + 1e-4).all()
    # Same samples, less error.
    assert np.median(our_error) < np.median(runs.std(axis=0, ddof=1))


def three_classes() -> tuple[ScoredModel, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A small model of a picture, a vector and ids; rows and a background of it."""
    keras.utils.set_random_seed(1)
    picture = keras.Input((8, 8, 1), name="picture")
    vector = keras.Input((4,), name="vector")
    ids = keras.Input((3,), dtype="int32", name="ids")
    parts = [
        layers.GlobalMaxPooling2D()(
            layers.Conv2D(6, 3, activation="relu", kernel_initializer="he_normal")(picture)
        ),
        layers.Dense(8, activation="relu", kernel_initializer="he_normal")(vector),
        layers.Flatten()(layers.Embedding(9, 3, embeddings_initializer="normal")(ids)),
    ]
    hidden = layers.Dense(12, activation="relu", kernel_initializer="he_normal")(layers.Concatenate()(parts))
    outputs = layers.Dense(3, activation="softmax", kernel_initializer="he_normal")(hidden)
    model = scored(keras.Model([picture, vector, ids], outputs))
    rng = np.random.default_rng(0)

    def draw(count: int) -> dict[str, np.ndarray]:
        return {
            "picture": rng.normal(size=(count, 8, 8, 1)).astype(np.float32),
            "vector": (2 * rng.normal(size=(count, 4))).astype(np.float32),
            "ids": rng.integers(0, 9, (count, 3)).astype(np.int32),
        }

    return model, draw(120), draw(100)


def test_the_default_meets_the_limit_of_its_own_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The few rows and targets that are further off are sampled again, the others keep their values."""
    model, rows, background = three_classes()
    reference = make_reference(model, background)
    targets = np.broadcast_to(np.arange(3), (120, 3))

    def explained() -> tuple[Attribution, np.ndarray]:
        found = attribute(ExpectedGradients(standard_error=True), model, rows, reference, targets)
        assert found.convergence_delta is not None
        return found, np.abs(found.convergence_delta) / reference.spread

    found, off = explained()
    monkeypatch.setattr(expected_gradients, "_OFF", 1e9)
    once, before = explained()
    assert np.quantile(before, 0.99) > 0.05 > np.quantile(off, 0.99)
    again = before > 0.048
    assert 0 < again.mean() < 0.7
    assert not found.limited.any()
    for name, value in once.values.items():
        np.testing.assert_array_equal(found.values[name][~again], value[~again])
        assert (found.values[name][again] != value[again]).any()
        assert once.standard_error is not None
        assert found.standard_error is not None
        size = np.abs(once.standard_error[name][again]).mean()
        assert np.abs(found.standard_error[name][again]).mean() < size
    # Targets are sampled again each for itself.
    monkeypatch.setattr(expected_gradients, "_OFF", 0.048)
    alone = attribute(ExpectedGradients(), model, rows, reference, targets[:, 1:2])
    for name, value in found.values.items():
        np.testing.assert_allclose(alone.values[name][:, 0], value[:, 1], atol=1e-5)
