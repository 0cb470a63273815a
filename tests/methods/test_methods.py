"""One contract that every method passes on every kind of model.

The models, with what each ignores and which of its features are twins, are in models_zoo.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.support.models.models_zoo import CASES, ROWS, attribute, make_reference, pick, seeds_of
from transforms.methods import METHODS
from transforms.methods.base import Attribution, AttributionMethod, convergence_delta, take, totals
from transforms.methods.calls import device_calls
from transforms.methods.contract.checks import CHECKS
from transforms.methods.contract.small_models import World
from transforms.methods.contract.subject import Subject
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
def subject_of(case: str, variant: str) -> Subject:
    found = CASES[case]()
    world = World(case, found.model, reference_of(case), found.rows, found.ignored, found.twins)
    return Subject(VARIANTS[variant], world)


def explained(case: str, variant: str) -> Attribution:
    """All rows of a case with all its targets in one call."""
    return subject_of(case, variant).whole


def test_every_method_has_a_variant_here() -> None:
    # Methods of trees have a contract of their own, in test_methods_tree_shap.
    mine = {method for method in METHODS.values() if not method.needs.trees}
    assert {type(method) for method in VARIANTS.values()} == mine
    assert all(name == method.name for name, method in METHODS.items())


@everywhere
@pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("costs", "memory", "players")])
def test_every_method_keeps_the_contract_on_every_model(case: str, variant: str, check: str) -> None:
    """The checks that are public for people's own methods; costs and the like are for small models."""
    CHECKS[check](subject_of(case, variant))


@pytest.mark.parametrize(
    ("case", "variant"), [(case, name) for case, name in GRID if VARIANTS[name].standard_error]
)
def test_sums_of_sampled_values_lie_within_their_standard_errors(case: str, variant: str) -> None:
    found = explained(case, variant)
    if found.convergence_delta is not None:
        assert found.standard_error is not None
        # They add up at most linearly.
        assert (np.abs(found.convergence_delta) <= 4 * totals(found.standard_error) + 1e-5).all()


@pytest.mark.parametrize(
    ("case", "variant"), [(case, name) for case, name in GRID if VARIANTS[name].standard_error]
)
def test_sampling_is_exact_where_no_regression_shares_out_the_noise(case: str, variant: str) -> None:
    """Nothing at all for an ignored feature; of expected gradients twins share every sample."""
    found = explained(case, variant)
    assert found.standard_error is not None
    method, kind = VARIANTS[variant], CASES[case]()
    rounding = 0 if method.needs.gradients else 1e-6 * np.abs(found.prediction).max()
    if not isinstance(method, Lime | KernelShap):
        for name, place in kind.ignored:
            for values in (found.values, found.standard_error):
                assert (np.abs(values[name][(..., *place)]) <= rounding).all()
    if isinstance(method, ExpectedGradients):
        for (one, here), (other, there) in kind.twins:
            first, second = found.values[one][(..., *here)], found.values[other][(..., *there)]
            assert (np.abs(first - second) <= 1e-5 * np.abs(first).max()).all()


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
