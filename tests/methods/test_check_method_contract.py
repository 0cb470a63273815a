"""check_method_contract: every method of ours passes, and each promise that is broken is named."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from pipeline.config.config import _parse_method
from tests.support.models.by_enumeration import ByEnumeration
from transforms.errors import UserError
from transforms.methods import METHODS, MethodContractError, check_method_contract
from transforms.methods.base import Attribution, AttributionMethod, Needs, convergence_delta
from transforms.methods.contract.checks import CHECKS
from transforms.methods.gradients.saliency import Saliency
from transforms.methods.gradients.smoothgrad import SmoothGrad
from transforms.methods.masking.exact_shap import ExactShap
from transforms.methods.masking.kernel_shap import KernelShap
from transforms.methods.masking.permutation_shap import PermutationShap
from transforms.methods.trees.tree_shap import TreeShap


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_its_defaults_passes(name: str) -> None:
    check_method_contract(METHODS[name]())


@pytest.mark.parametrize(
    "method",
    [
        ByEnumeration(),
        KernelShap(n_samples=20, tolerance=0.5),
        PermutationShap(n_permutations=2, tolerance=0.02),
        SmoothGrad(n_samples=5),
        Saliency(absolute=True),
        TreeShap("path_dependent"),
    ],
    ids=repr,
)
def test_others_pass_too(method: AttributionMethod) -> None:
    check_method_contract(method)


def test_a_method_that_only_evaluates_needs_no_tensorflow() -> None:
    code = (
        "import sys; from transforms.methods import METHODS, check_method_contract\n"
        "check_method_contract(METHODS['occlusion']()); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- methods that break one promise each ---------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(ByEnumeration):
    """Exact Shapley values, to be spoilt."""

    def attribute(self, model: Any, inputs: Any, reference: Any, *rest: Any) -> Attribution:
        return self.spoil(super().attribute(model, inputs, reference, *rest), inputs, *rest)

    def spoil(self, right: Attribution, inputs: Any, targets: Any, seeds: Any, size: int) -> Attribution:
        return right


def changed(right: Attribution, change: Callable[[np.ndarray], np.ndarray], **others: Any) -> Attribution:
    """The attribution with other values, and the delta that goes with them."""
    values = {name: change(value).astype(np.float32) for name, value in right.values.items()}
    delta = convergence_delta(values, right.prediction, right.base_value)
    return replace(right, values=values, convergence_delta=delta, **others)


class Flipped(Broken):
    """φ with the wrong sign."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        return changed(right, np.negative)


class Halved(Broken):
    """Sums are promised, and half of them is missing."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        return changed(right, lambda value: value / 2)


class Boasting(Broken):
    """A delta of 0 whatever the sum."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        values = {name: value * np.float32(1.01) for name, value in right.values.items()}
        return replace(right, values=values)


class Standardised(Broken):
    """Values that are measured by their batch."""

    additive: ClassVar[bool] = False

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        found = changed(right, lambda value: value / (np.abs(value).max() + 1e-9))
        return replace(found, convergence_delta=None)


class Positional(Broken):
    """Noise that belongs to a place in the batch, not to a row."""

    additive: ClassVar[bool] = False

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        def noisy(value: np.ndarray) -> np.ndarray:
            noise = np.random.default_rng(0).normal(size=(len(value), *[1] * (value.ndim - 1)))
            return value * (1 + noise / 100)

        return replace(changed(right, noisy), convergence_delta=None)


class Unseeded(Broken):
    """Random numbers that no seed decides."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        return changed(right, lambda value: value + np.random.default_rng().normal(0, 1e-4, value.shape))


class Flat(Broken):
    """One number for all the values of an input."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        values = {name: value.sum(axis=-1) for name, value in right.values.items()}
        return replace(right, values=values)


class Double(Broken):
    """Values in double precision."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        return replace(right, values={k: v.astype(np.float64) for k, v in right.values.items()})


class Silent(Broken):
    """No delta, and a sum is promised."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        return replace(right, convergence_delta=None)


class Shared(Broken):
    """A share of the sum for every feature, those that the score ignores as well."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        return changed(right, lambda value: 0.9 * value + 0.1 * value.mean(axis=-1, keepdims=True))


class Uneven(Broken):
    """The first of two twins takes from the second."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        def taken(value: np.ndarray) -> np.ndarray:
            value = value.copy()
            if value.shape[-1] > 2:
                value[..., 1] += 0.1 * value[..., 2]
                value[..., 2] *= 0.9
            return value

        return changed(right, taken)


class Cheap(Broken):
    """Says that a row costs fewer evaluations than it does."""

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        return background_rows


class Crosstalk(Broken):
    """A target's values are centred over the targets that are asked for."""

    additive: ClassVar[bool] = False

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        found = changed(right, lambda value: value + 0.1 * value.sum(axis=1, keepdims=True))
        return replace(found, convergence_delta=None)


class Elsewhere(Broken):
    """The prediction of a neighbour."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        return replace(right, prediction=np.roll(right.prediction, 1, axis=0))


class Refusing(Broken):
    """Raises on a batch of one row."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        if len(right.prediction) == 1:
            raise ValueError("a batch of one")
        return right


class Forgetful(Broken):
    """Memory that falls with the players."""

    def held_bytes(self, players: int) -> int:
        return 1000 - players


class Hoarding(Broken):
    """Megabytes of its own that `held_bytes` does not state."""

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        hoard = np.ones(1 << 20)
        return changed(right, lambda value: value * hoard[0])


@dataclass(frozen=True)
class Certain(Broken):
    """Standard errors that are no numbers."""

    standard_error: bool = False

    def spoil(self, right: Attribution, *_: Any) -> Attribution:
        errors = {name: np.full_like(value, np.nan) for name, value in right.values.items()}
        return replace(right, standard_error=errors if self.standard_error else None)


@dataclass(frozen=True)
class Capless(Broken):
    """A tolerance, and no key that says how far it goes."""

    tolerance: float | None = None


@dataclass(frozen=True)
class Keyed(Broken):
    """A key without a default."""

    strength: float


@dataclass
class Thawed(AttributionMethod):
    """Not frozen."""

    name: ClassVar[str] = "thawed"
    summary: ClassVar[str] = "can be changed"
    when: ClassVar[str] = "never"
    needs: ClassVar[Needs] = Needs(gradients=False, background=True)
    additive: ClassVar[bool] = False

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        return 1

    def attribute(self, *arguments: Any) -> Attribution:
        raise NotImplementedError


@dataclass(frozen=True)
class Alone:
    """Derived from nothing, with the members that are required."""

    name: ClassVar[str] = "alone"
    summary: ClassVar[str] = "exact Shapley values"
    when: ClassVar[str] = "in this test"
    needs: ClassVar[Needs] = ExactShap.needs
    additive: ClassVar[bool] = True

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        return ExactShap().evaluations_per_row(background_rows, players)

    def attribute(self, *arguments: Any) -> Attribution:
        return ExactShap().attribute(*arguments)


BROKEN = [
    (Flipped(), "sums"),
    (Halved(), "sums"),
    (Boasting(), "sums"),
    (Standardised(), "batches"),
    (Positional(), "batches"),
    (Unseeded(), "retries"),
    (Flat(), "shapes"),
    (Double(), "shapes"),
    (Silent(), "shapes"),
    (Shared(), "ignored"),
    (Uneven(), "twins"),
    (Cheap(), "costs"),
    (Hoarding(), "memory"),
    (Crosstalk(), "targets"),
    (Elsewhere(), "predictions"),
    (Refusing(), "batches"),
    (Forgetful(), "players"),
    (Certain(), "standard_errors"),
    (Capless(), "declared"),
    (Keyed(1.0), "declared"),
    (Thawed(), "declared"),
]


@pytest.mark.parametrize(("method", "check"), BROKEN, ids=lambda value: type(value).__name__)
def test_a_broken_promise_is_named(method: Any, check: str) -> None:
    with pytest.raises(MethodContractError) as caught:
        check_method_contract(method)
    assert caught.value.check == check
    assert isinstance(caught.value, AssertionError)
    assert f"{method.name} breaks the check {check!r} on the model" in str(caught.value)


def test_an_error_names_the_figures_and_can_be_pickled() -> None:
    with pytest.raises(MethodContractError) as caught:
        check_method_contract(Uneven())
    assert "x[1] and x[2] are twins, and get " in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.check, str(again)) == (caught.value.check, str(caught.value))


def test_a_class_that_is_derived_from_nothing_is_given_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    check_method_contract(Alone())  # type: ignore[arg-type]
    monkeypatch.setitem(METHODS, "alone", Alone)  # type: ignore[arg-type]
    method = _parse_method("alone")
    assert isinstance(method, Alone)
    assert isinstance(method, AttributionMethod)
    assert (method.held_bytes(3), method.tolerance, method.cap) == (0, None, "")
    again = pickle.loads(pickle.dumps(method))
    assert again == method
    assert METHODS["alone"] is type(again)


def test_a_config_refuses_a_class_that_attributes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "idle", type("Idle", (), {"name": "idle"}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="'idle' is registered, and its class lacks attribute and eval"):
        _parse_method("idle")


def test_every_check_is_broken_by_something_here() -> None:
    missing = set(CHECKS) - {check for _, check in BROKEN}
    # Whatever depends on the order depends on the batch, and is found there first.
    assert missing == {"order"}
