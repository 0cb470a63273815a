"""One contract that every method passes on every kind of model.

The models, with what each ignores and which of its features are twins, are in models_zoo.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

from tests.support.models.models_zoo import CASES, ROWS, Case, attribute, make_reference, pick, seeds_of
from transforms.methods import METHODS
from transforms.methods.base import Attribution, AttributionMethod, convergence_delta, take, totals
from transforms.methods.calls import device_calls
from transforms.methods.gradients.deep_shap import DeepShap
from transforms.methods.gradients.expected_gradients import ExpectedGradients
from transforms.methods.gradients.integrated_gradients import IntegratedGradients
from transforms.methods.gradients.saliency import InputXGradient, Saliency
from transforms.methods.gradients.smoothgrad import SmoothGrad
from transforms.methods.masking.exact_shap import ExactShap
from transforms.methods.masking.kernel_shap import KernelShap
from transforms.methods.masking.lime import Lime
from transforms.methods.masking.occlusion import Occlusion
from transforms.methods.masking.permutation_shap import PermutationShap
from transforms.models.reference import Reference

VARIANTS: dict[str, AttributionMethod] = {
    "saliency": Saliency(),
    "saliency, absolute": Saliency(absolute=True),
    "input_x_gradient": InputXGradient(),
    "integrated_gradients": IntegratedGradients(n_steps=20),
    "integrated_gradients, tolerance": IntegratedGradients(n_steps=6, tolerance=1e-3, max_steps=200),
    "smoothgrad": SmoothGrad(n_samples=10, standard_error=True),
    "smoothgrad, tolerance": SmoothGrad(n_samples=10, noise=0.5, tolerance=0.05, standard_error=True),
    "expected_gradients": ExpectedGradients(n_samples=26, standard_error=True),
    "deep_shap": DeepShap(),
    "expected_gradients, tolerance": ExpectedGradients(n_samples=8, tolerance=0.02, standard_error=True),
    "kernel_shap": KernelShap(n_samples=400, standard_error=True),
    "kernel_shap, tolerance": KernelShap(n_samples=24, tolerance=0.01, standard_error=True),
    "exact_shap": ExactShap(),
    "permutation_shap": PermutationShap(n_permutations=3, standard_error=True),
    "permutation_shap, tolerance": PermutationShap(n_permutations=2, tolerance=0.02, standard_error=True),
    "lime": Lime(n_samples=300, standard_error=True),
    "lime, tolerance": Lime(n_samples=40, tolerance=0.1, standard_error=True),
    "occlusion": Occlusion(),
}
#: Going on until a tolerance is met takes many calls: on the models where it has most to do.
HARD = ("relu_pair", "tabular", "categorical", "heads")
#: Too many pixels for all coalitions of them.
LARGE = ("image",)
GRID = [
    (case, name)
    for case in CASES
    for name in VARIANTS
    if ("tolerance" not in name or case in HARD) and (name != "exact_shap" or case not in LARGE)
]
everywhere = pytest.mark.parametrize(("case", "variant"), GRID)


@cache
def reference_of(case: str) -> Reference:
    found = CASES[case]()
    return make_reference(found.model, found.background)


@cache
def explained(case: str, variant: str) -> Attribution:
    """All rows of a case with all its targets in one call."""
    found = CASES[case]()
    targets = np.broadcast_to(np.arange(found.targets), (ROWS, found.targets))
    return attribute(VARIANTS[variant], found.model, found.rows, reference_of(case), targets)


def explain(case: str, variant: str, rows: np.ndarray, device_batch_size: int = 1024) -> Attribution:
    """Some rows of a case, with their own seeds and all targets."""
    found: Case = CASES[case]()
    targets = np.broadcast_to(np.arange(found.targets), (len(rows), found.targets))
    seeds = seeds_of(ROWS)[rows]
    return attribute(
        VARIANTS[variant],
        found.model,
        pick(found.rows, rows),
        reference_of(case),
        targets,
        seeds,
        device_batch_size,
    )


def assert_close(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], relative: float = 1e-5
) -> None:
    """Equal to `relative`, of the value or of the largest value of its input."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(
            found[name], value, rtol=relative, atol=relative * scale + 1e-12, err_msg=name
        )


def assert_same(found: Attribution, expected: Attribution, rows: np.ndarray | slice = slice(None)) -> None:
    assert_close(found.values, {k: v[rows] for k, v in expected.values.items()})
    np.testing.assert_allclose(found.prediction, expected.prediction[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.output, expected.output[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.base_value, expected.base_value[rows])
    np.testing.assert_array_equal(found.limited, expected.limited[rows])
    if expected.standard_error is not None:
        assert found.standard_error is not None
        # A difference of nearly equal gradients: as exact as they are, in units of the values.
        for name, error in expected.standard_error.items():
            scale = np.abs(expected.values[name]).max()
            np.testing.assert_allclose(
                found.standard_error[name], error[rows], rtol=1e-3, atol=1e-5 * scale + 1e-12
            )


def test_every_method_has_a_variant_here() -> None:
    # Methods of trees have a contract of their own, in test_methods_tree_shap.
    mine = {method for method in METHODS.values() if not method.needs.trees}
    assert {type(method) for method in VARIANTS.values()} == mine
    assert all(name == method.name for name, method in METHODS.items())


@everywhere
def test_values_have_a_rows_shape_and_what_a_method_promises_is_there(case: str, variant: str) -> None:
    found, method, kind = explained(case, variant), VARIANTS[variant], CASES[case]()
    assert {k: v.shape for k, v in found.values.items()} == {
        k: (ROWS, kind.targets, *v.shape[1:]) for k, v in kind.rows.items()
    }
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in found.values.values())
    assert (found.convergence_delta is not None) == method.additive
    assert found.limited.shape == (ROWS,)
    scores, outputs = kind.model.evaluate(kind.rows)
    np.testing.assert_allclose(found.prediction, scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.output, outputs, rtol=1e-5, atol=1e-6)
    base = kind.model.evaluate(kind.background)[0].mean(axis=0)
    np.testing.assert_allclose(found.base_value, np.broadcast_to(base, scores.shape), rtol=1e-5, atol=1e-6)
    # Not trivially: the model and the method say something.
    assert max(np.abs(value).max() for value in found.values.values()) > 1e-3


@pytest.mark.parametrize(
    ("case", "variant"), [(case, name) for case, name in GRID if VARIANTS[name].additive]
)
def test_values_sum_to_prediction_minus_base_value(case: str, variant: str) -> None:
    found, method = explained(case, variant), VARIANTS[variant]
    total = sum(v.reshape(*v.shape[:2], -1).sum(axis=2, dtype=np.float64) for v in found.values.values())
    delta = total - (found.prediction.astype(np.float64) - found.base_value)
    np.testing.assert_allclose(found.convergence_delta, delta, rtol=1e-5, atol=1e-6)
    spread = reference_of(case).spread
    if found.standard_error is not None:
        # In expectation: within the standard errors, which add up at most linearly.
        errors = totals(found.standard_error)
        assert (np.abs(delta) <= 4 * errors + 1e-5).all()
    elif isinstance(method, IntegratedGradients) and method.tolerance is not None:
        kept = np.abs(delta) <= method.tolerance * spread
        np.testing.assert_array_equal(found.limited, ~kept.all(axis=1))
    else:
        assert (np.abs(delta) <= 0.15 * spread).all()


@everywhere
@pytest.mark.parametrize(("size", "device_batch_size"), [(1, 1024), (2, 50), (3, 4096)])
def test_a_value_does_not_depend_on_the_batch(
    case: str, variant: str, size: int, device_batch_size: int
) -> None:
    """Rows alone, in twos, in threes (padded to four); device calls of less than a row's work or of all."""
    for start in range(0, ROWS, size):
        rows = np.arange(start, min(start + size, ROWS))
        assert_same(explain(case, variant, rows, device_batch_size), explained(case, variant), rows)


@everywhere
def test_a_value_does_not_depend_on_the_order(case: str, variant: str) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    assert (order != np.arange(ROWS)).any()
    assert_same(explain(case, variant, order), explained(case, variant), order)


@everywhere
def test_a_second_call_gives_the_same_bits(case: str, variant: str) -> None:
    again = explain(case, variant, np.arange(ROWS))
    for name, value in explained(case, variant).values.items():
        np.testing.assert_array_equal(again.values[name], value)


@everywhere
def test_a_feature_that_the_score_ignores_gets_exactly_nothing(case: str, variant: str) -> None:
    found = explained(case, variant)
    # A score that is evaluated twice in different company may differ in its last bit.
    rounding = 0 if VARIANTS[variant].needs.gradients else 1e-6 * np.abs(found.prediction).max()
    for name, place in CASES[case]().ignored:
        allowed = np.float64(rounding)
        if found.standard_error is not None:
            error = found.standard_error[name][(..., *place)]
            if isinstance(VARIANTS[variant], Lime | KernelShap):  # what is left of noise in a regression
                allowed = rounding + 4 * error
            else:
                assert (error <= rounding).all()
        assert (np.abs(found.values[name][(..., *place)]) <= allowed).all()


#: Methods that replace values by the background's; the others have gradients there.
MASKING = [name for name, method in VARIANTS.items() if not method.needs.gradients]


@pytest.mark.parametrize(
    ("case", "variant"), [(case, name) for case, name in GRID if name in MASKING and case not in LARGE]
)
def test_a_value_that_the_whole_background_shares_gets_exactly_nothing(case: str, variant: str) -> None:
    """The first value of the first input in every second row, the last of the last one in every third."""
    found = CASES[case]()
    rows, background = ({k: v.copy() for k, v in part.items()} for part in (found.rows, found.background))
    names = list(rows)
    shared = []
    for name, place, step in ((names[0], 0, 2), (names[-1], -1, 3)):
        for part in (rows, background):
            assert part[name].ndim > 1
        flat = background[name].reshape(len(background[name]), -1)
        flat[:, place] = flat[0, place]
        own = rows[name].reshape(ROWS, -1)
        if own.shape[1] == 1 and len(names) == 1:
            continue
        own[::step, place] = flat[0, place]
        same = np.flatnonzero(own[:, place] == flat[0, place])
        shared.append((name, place, same))
    reference = make_reference(found.model, background)
    targets = np.broadcast_to(np.arange(found.targets), (ROWS, found.targets))
    whole = attribute(VARIANTS[variant], found.model, rows, reference, targets)
    for name, place, same in shared:
        for values in (whole.values, whole.standard_error or {}):
            if name in values:
                assert (values[name].reshape(ROWS, found.targets, -1)[same, :, place] == 0).all()
    delta = whole.convergence_delta
    if delta is not None:
        assert np.abs(delta).max() <= 1e-5 * np.abs(whole.prediction).max()
    # Alone and in another order as well: who shares what is each row's own.
    order = np.arange(ROWS)[::-1]
    turned = attribute(
        VARIANTS[variant], found.model, pick(rows, order), reference, targets, seeds_of(ROWS)[order]
    )
    scale = max(np.abs(value).max() for value in whole.values.values())
    for name, value in whole.values.items():
        np.testing.assert_allclose(turned.values[name], value[order], rtol=1e-4, atol=1e-5 * scale)


@everywhere
def test_twins_get_the_same(case: str, variant: str) -> None:
    found = explained(case, variant)
    for (one, here), (other, there) in CASES[case]().twins:
        first, second = found.values[one][(..., *here)], found.values[other][(..., *there)]
        assert np.abs(first).max() > 1e-3
        allowed = 1e-5 * np.abs(first).max()
        # Each twin has noise, or a place in the permutations, coalitions and samples, of its own.
        if isinstance(VARIANTS[variant], SmoothGrad | PermutationShap | Lime | KernelShap):
            errors = found.standard_error
            assert errors is not None
            allowed = allowed + 4 * np.hypot(errors[one][(..., *here)], errors[other][(..., *there)])
        assert (np.abs(first - second) <= allowed).all()


# With a tolerance a row goes on until all of its targets are within it: there, targets depend on each other.
@pytest.mark.parametrize(
    ("case", "variant"), [(case, name) for case, name in GRID if "tolerance" not in name]
)
def test_targets_together_equal_one_at_a_time_and_one_of_each_row(case: str, variant: str) -> None:
    kind, method, whole = CASES[case](), VARIANTS[variant], explained(case, variant)
    reference = reference_of(case)
    for target in range(kind.targets):
        alone = attribute(method, kind.model, kind.rows, reference, np.full((ROWS, 1), target))
        assert_close(alone.values, {k: v[:, target : target + 1] for k, v in whole.values.items()})
        np.testing.assert_allclose(alone.base_value[:, 0], whole.base_value[:, target])
    chosen = np.arange(ROWS) % kind.targets
    mixed = attribute(method, kind.model, kind.rows, reference, chosen[:, None])
    rows = np.arange(ROWS)
    assert_close(mixed.values, {k: v[rows, chosen][:, None] for k, v in whole.values.items()})
    np.testing.assert_allclose(mixed.prediction[:, 0], whole.prediction[rows, chosen], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["smoothgrad", "expected_gradients"])
def test_seeds_decide_what_is_drawn(variant: str) -> None:
    """Another seed, other values; two rows that are equal but for their seeds differ."""
    kind = CASES["tabular"]()
    twice = pick(kind.rows, np.array([0, 0]))
    one = attribute(VARIANTS[variant], kind.model, twice, reference_of("tabular"), seeds=seeds_of(2, 1))
    other = attribute(VARIANTS[variant], kind.model, twice, reference_of("tabular"), seeds=seeds_of(2, 2))
    assert np.abs(one.values["x"][0] - one.values["x"][1]).max() > 1e-5
    assert np.abs(one.values["x"] - other.values["x"]).max() > 1e-5


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 17])
@pytest.mark.parametrize("per_call", [1, 4, 6, 100])
def test_device_calls_cover_the_rows_in_few_shapes(rows: int, per_call: int) -> None:
    calls = list(device_calls(rows, per_call))
    covered = [row for part, _ in calls for row in range(part.start, part.stop)]
    assert covered == list(range(rows))
    for part, index in calls:
        size = part.stop - part.start
        assert index[:size].tolist() == list(range(part.start, part.stop))
        assert (index[size:] == part.stop - 1).all()
        assert len(index) <= per_call
        assert len(index) in {per_call, *(1 << k for k in range(8))}


def test_take_gives_the_rows_asked_for_in_their_order() -> None:
    arrays = {"x": np.arange(6)}
    for index in ([0, 1, 2], [3, 4], [2, 2, 2], [1, 3, 2, 4], [0, 2, 1, 3], [4, 5, 5, 5]):
        np.testing.assert_array_equal(take(arrays, np.array(index))["x"], index)
    assert take(arrays, np.array([1, 2, 3]))["x"].base is arrays["x"]


def test_sums_are_taken_in_double_precision() -> None:
    """Values that cancel: in float32 nothing would be left of the small one."""
    values = {"a": np.array([[[1e8, 1.0, -1e8]]], np.float32)}
    assert totals(values) == 1.0
    assert convergence_delta(values, np.array([[3.0]], np.float32), np.array([[2.5]], np.float32)) == 0.5
