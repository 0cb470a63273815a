"""Integrated gradients: closed forms, counted evaluations, and what a tolerance spends where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.models.models_zoo import (
    CASES,
    attribute,
    linear,
    make_reference,
    pick,
    relu_network,
    relu_pair,
    separable,
    smooth_network,
)
from transforms.errors import UserError
from transforms.methods.base import Attribution
from transforms.methods.gradients import adaptive as panels
from transforms.methods.gradients.integrated_gradients import IntegratedGradients
from transforms.models.reference import Reference
from transforms.numerics.quadrature import gauss_legendre


def floats(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_linear_by_hand() -> None:
    """φ = w (x − x′), whatever the number of nodes."""
    reference = make_reference(linear(), {"x": floats([1, 1, 2])})
    found = attribute(
        IntegratedGradients(n_steps=1), linear(), {"x": floats([3, 0, -2], [1, 1, 2])}, reference
    )
    np.testing.assert_allclose(found.values["x"][:, 0], [[4, 3, -2], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.prediction[:, 0], [12, 7], rtol=1e-6)
    np.testing.assert_allclose(found.base_value[:, 0], [7, 7], rtol=1e-6)


def test_5x_y2_sin_z_exactly_and_with_counted_evaluations() -> None:
    """The function of PAIR-code/saliency's integrated_gradients_test.py.

    Three rows are padded to four, the next power of two: 4 · 10 gradient evaluations and 4 predictions.
    """
    model = separable()
    rows = {"x": floats([1], [-2], [0.5]), "y": floats([2], [0.25], [-3]), "z": floats([1], [3], [-0.5])}
    start = {"x": floats([0.5]), "y": floats([-1]), "z": floats([0.25])}
    reference = make_reference(model, start)
    differentiable = model.differentiable(start)
    forward, backward = model.evaluations, differentiable.evaluations
    found = attribute(IntegratedGradients(n_steps=10), model, rows, reference)
    assert model.evaluations - forward == 4
    assert differentiable.evaluations - backward == 4 * 10
    expected = {
        "x": 5 * (rows["x"] - start["x"]),
        "y": rows["y"] ** 2 - start["y"] ** 2,
        "z": np.sin(rows["z"]) - np.sin(start["z"]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found.values[name][:, 0], value, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("n_steps", [2, 50, 200])
def test_relu_pair_of_the_paper(n_steps: int) -> None:
    """F = ReLU(ReLU(a) − 1 − ReLU(b)) at (3, 1) from zeros: (1.5, −0.5).

    Source: Sundararajan et al. 2017, figure 3.

    The kink lies in the middle of the path, where an even rule has no node, so that it is exact.
    """
    reference = make_reference(relu_pair(), {"x": floats([0, 0])})
    found = attribute(IntegratedGradients(n_steps=n_steps), relu_pair(), {"x": floats([3, 1])}, reference)
    np.testing.assert_allclose(found.values["x"][0, 0], [1.5, -0.5], rtol=1e-6)
    np.testing.assert_allclose(found.prediction[0, 0], 1)


@pytest.mark.parametrize("case", ["tabular", "categorical", "heads"])
def test_a_background_of_many_rows_is_the_mean_over_single_baselines(case: str) -> None:
    kind = CASES[case]()
    method = IntegratedGradients(n_steps=12)
    together = attribute(method, kind.model, kind.rows, make_reference(kind.model, kind.background))
    alone = [
        attribute(method, kind.model, kind.rows, make_reference(kind.model, pick(kind.background, [row])))
        for row in range(3)
    ]
    assert np.ptp([a.base_value[0, 0] for a in alone]) > 1e-3
    for name, value in together.values.items():
        mean = np.mean([a.values[name] for a in alone], axis=0, dtype=np.float64)
        np.testing.assert_allclose(value, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(together.base_value, np.mean([a.base_value for a in alone], axis=0), rtol=1e-5)


@pytest.mark.parametrize("device_batch_size", [1, 7, 10, 25, 1000])
def test_work_is_cut_to_the_device_batch(device_batch_size: int) -> None:
    """Two baselines of ten nodes: a device call never holds more, and all that is asked for is done."""
    model = smooth_network()[1]
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(4, 6)).astype(np.float32)}
    reference = make_reference(model, {"x": rng.normal(size=(2, 6)).astype(np.float32)})
    differentiable = model.differentiable(reference.inputs)
    largest: list[int] = []
    integrate = differentiable.integrate

    def watched(inputs, background, base, alphas, weights, targets, **options):
        largest.append(len(targets) * alphas.shape[0] * alphas.shape[1])
        return integrate(inputs, background, base, alphas, weights, targets, **options)

    differentiable.integrate = watched
    try:
        found = attribute(
            IntegratedGradients(n_steps=10), model, rows, reference, device_batch_size=device_batch_size
        )
    finally:
        del differentiable.integrate
    whole = attribute(IntegratedGradients(n_steps=10), model, rows, reference)
    assert max(largest) <= device_batch_size
    assert sum(largest) == 4 * 2 * 10
    np.testing.assert_allclose(found.values["x"], whole.values["x"], rtol=1e-5, atol=1e-6)


def test_more_nodes_are_closer_and_the_affine_prefix_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    rows = {"x": rng.normal(size=(20, 14)).astype(np.float32)}
    with_prefix, without = relu_network(), relu_network(affine_prefix=False)
    reference = make_reference(with_prefix, {"x": np.zeros((1, 14), np.float32)})
    deltas = []
    for n_steps in (5, 50, 500):
        found = attribute(IntegratedGradients(n_steps=n_steps), with_prefix, rows, reference)
        plain = attribute(
            IntegratedGradients(n_steps=n_steps), without, rows, make_reference(without, reference.inputs)
        )
        # A node within rounding of a kink may fall on either side of it.
        close = np.isclose(found.values["x"], plain.values["x"], rtol=1e-4, atol=1e-5)
        assert close.all(axis=(1, 2)).mean() >= 0.9
        deltas.append(np.abs(found.convergence_delta).mean())
    assert deltas[0] > 5 * deltas[1] > 25 * deltas[2] > 0
    smooth = smooth_network()[1]
    smooth_rows = {"x": rows["x"][:, :6]}
    found = attribute(
        IntegratedGradients(n_steps=10), smooth, smooth_rows, make_reference(smooth, pick(smooth_rows, [0]))
    )
    assert np.abs(found.convergence_delta).max() < 2e-4


# -- tolerance ----------------------------------------------------------------------------------------


def kinky(rows: int, background: int = 1) -> tuple[dict[str, np.ndarray], Reference]:
    """Rows for the ReLU network and a reference with the spread of the score over them."""
    rng = np.random.default_rng(2)
    inputs = {"x": rng.normal(size=(rows, 14)).astype(np.float32)}
    base = 0.3 * rng.normal(size=(background, 14)).astype(np.float32)
    spread = relu_network().evaluate(inputs)[0].std(axis=0)
    return inputs, replace(make_reference(relu_network(), {"x": base}), spread=spread)


def run(
    method: IntegratedGradients, rows: dict[str, np.ndarray], reference: Reference, size: int = 4096
) -> tuple[Attribution, int]:
    """The attribution and the gradient and path evaluations it took."""
    differentiable = relu_network().differentiable(reference.inputs)
    before = differentiable.evaluations
    found = attribute(method, relu_network(), rows, reference, device_batch_size=size)
    return found, differentiable.evaluations - before


@pytest.mark.parametrize("background", [1, 4])
def test_a_tolerance_is_met_and_rows_above_it_are_marked(background: int) -> None:
    """With no more than a third of the 2,000 nodes that a single rule needs for the worst row at 1e-3."""
    count = 120 // background
    rows, reference = kinky(count, background)
    plain, _ = run(IntegratedGradients(), rows, reference)
    spread = reference.spread[0]
    for tolerance in (1e-2, 1e-3, 1e-4):
        found, cost = run(IntegratedGradients(tolerance=tolerance), rows, reference)
        assert (np.abs(plain.convergence_delta) > tolerance * spread).mean() > 0.02
        assert (np.abs(found.convergence_delta) <= tolerance * spread).all()
        assert not found.limited.any()
        assert cost / (count * background) < {1e-2: 200, 1e-3: 600, 1e-4: 1500}[tolerance]
    fine, _ = run(IntegratedGradients(n_steps=4000), rows, reference)
    error = np.abs(found.values["x"] - fine.values["x"]).max(axis=(1, 2)) / spread
    assert np.median(error) < 1e-3


def test_only_rows_above_the_tolerance_are_done_again() -> None:
    """Rows that have converged keep the bits of the plain rule; only the late ones cost more."""
    rows, reference = kinky(64)
    tolerance = 1e-2
    plain, cost = run(IntegratedGradients(n_steps=40), rows, reference)
    assert cost == 64 * 40
    late = np.abs(plain.convergence_delta[:, 0]) > tolerance * reference.spread[0]
    assert 5 < late.sum() < 50
    method = IntegratedGradients(n_steps=40, tolerance=tolerance)
    found, cost = run(method, rows, reference)
    np.testing.assert_array_equal(found.values["x"][~late], plain.values["x"][~late])
    assert (found.values["x"][late] != plain.values["x"][late]).any(axis=(1, 2)).all()
    _, alone = run(method, pick(rows, late), reference)
    # Padding is all that may be shared between the two.
    assert abs((cost - 64 * 40) - (alone - late.sum() * 40)) < 0.2 * cost
    _, nothing = run(method, pick(rows, ~late), reference)
    padded = 1 << int((~late).sum() - 1).bit_length()
    assert nothing == padded * 40


@pytest.mark.parametrize(("n_steps", "max_steps"), [(20, 20), (20, 21), (20, 30), (20, 60), (20, 100)])
def test_max_steps_is_a_cap_and_what_it_stops_is_marked(n_steps: int, max_steps: int) -> None:
    """A path takes no more gradient evaluations, but for the first n_steps; stopped rows say how far off."""
    rows, reference = kinky(16)
    method = IntegratedGradients(n_steps=n_steps, tolerance=1e-5, max_steps=max_steps)
    spent = np.zeros(16, np.int64)
    integrate = panels._Paths.integrate

    def counted(self, row, base, start, end):
        np.add.at(spent, row, panels.NODES)
        return integrate(self, row, base, start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels._Paths, "integrate", counted)
        found, _ = run(method, rows, reference)
    assert (spent <= max(0, max_steps - n_steps)).all()
    assert spent.any() == (max_steps > n_steps + 1)
    delta = found.values["x"].sum(axis=2, dtype=np.float64) - (found.prediction - found.base_value)
    np.testing.assert_allclose(found.convergence_delta, delta, atol=1e-6)
    np.testing.assert_array_equal(found.limited, np.abs(delta[:, 0]) > 1e-5 * reference.spread[0])
    assert found.limited.all()
    plain, _ = run(IntegratedGradients(n_steps=n_steps), rows, reference)
    assert (np.abs(found.convergence_delta) <= np.abs(plain.convergence_delta)).all()


def test_max_steps_below_n_steps_is_refused() -> None:
    for tolerance in (None, 0.1):
        with pytest.raises(UserError, match=r"method\.max_steps: 20 is below n_steps: 50"):
            IntegratedGradients(n_steps=50, tolerance=tolerance, max_steps=20)
    # Nobody set the default, and without a tolerance it limits nothing.
    assert IntegratedGradients(n_steps=3000).n_steps == 3000
    with pytest.raises(UserError, match="2000 is below n_steps: 3000"):
        IntegratedGradients(n_steps=3000, tolerance=0.1)


def test_panels_agree_with_a_fine_rule_for_every_target_and_background_row() -> None:
    """Without a tolerance to stop at, the panels' own sums are those of a rule of 600 nodes."""
    kind = CASES["heads"]()
    reference = make_reference(kind.model, kind.background)
    targets = np.tile(np.array([2, 0]), (7, 1))
    fine = attribute(IntegratedGradients(n_steps=600), kind.model, kind.rows, reference, targets)
    limit = np.full((7, 2), 1e-6)
    found = panels.integrate_in_panels(
        kind.model, kind.rows, reference, targets, fine.prediction, limit, 8, 100, device_batch_size=64
    )
    for name, value in fine.values.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are refined in blocks that fit in memory."""
    rows, reference = kinky(10, 2)
    method = IntegratedGradients(tolerance=1e-3)
    whole, _ = run(method, rows, reference)
    monkeypatch.setattr(panels, "BLOCK_VALUES", 1)
    found, _ = run(method, rows, reference)
    np.testing.assert_allclose(found.values["x"], whole.values["x"], rtol=1e-5, atol=1e-6)


def test_the_worst_panels_are_halved_until_the_others_would_do() -> None:
    row = np.array([2, 0, 2, 0, 0, 2, 3])
    severity = np.array([0.1, 3.0, 0.1, 0.4, 0.45, 0.1, 0.0])
    # Row 0: 0.4² + 0.45² > 0.5² ≥ 0.4². Row 2: all would do, so the worst. Row 1 has none, row 3 has one.
    marked = panels._marked(row, severity, 5)
    assert marked[[1, 3, 4]].tolist() == [True, False, True]
    assert marked[[0, 2, 5]].sum() == 1
    assert marked[6]


def test_a_spread_of_nothing_asks_for_nothing() -> None:
    rows, reference = kinky(8)
    reference = replace(reference, spread=np.zeros(1, np.float32))
    found, cost = run(IntegratedGradients(n_steps=8, tolerance=1e-6), rows, reference)
    assert cost == 8 * 8
    assert not found.limited.any()
    assert (found.convergence_delta != 0).any()


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 51, 200])
def test_gauss_legendre_is_numpys(steps: int) -> None:
    nodes, weights = gauss_legendre(steps)
    expected, expected_weights = np.polynomial.legendre.leggauss(steps)
    np.testing.assert_allclose(nodes, (expected + 1) / 2, atol=1e-7)
    np.testing.assert_allclose(weights, expected_weights / 2, rtol=1e-6)
    powers = np.arange(min(2 * steps, 12))
    np.testing.assert_allclose((weights * nodes ** powers[:, None]).sum(axis=1), 1 / (powers + 1), rtol=2e-6)


def test_gauss_legendre_of_many_nodes_is_quick_and_sums_to_one() -> None:
    nodes, weights = gauss_legendre(5000)
    assert (np.diff(nodes) > 0).all()
    assert 0 < nodes[0] < nodes[-1] < 1
    assert weights.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
