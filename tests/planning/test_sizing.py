"""How large a device call is, by static shapes; how long a row takes, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.planning import device_batches as sizing
from tests.support.models.models_zoo import make_reference, scored
from transforms.methods.gradients.integrated_gradients import IntegratedGradients
from transforms.methods.masking.kernel_shap import KernelShap
from transforms.methods.masking.permutation_shap import PermutationShap
from transforms.worker.spec import TargetSpec

L = keras.layers


def test_a_call_in_parts_holds_more_points() -> None:
    """A loop cannot be repeated for the parts of a call, which is then as large as the cache is."""
    inputs = keras.Input((5, 20), name="x")
    plain = scored(keras.Model(inputs, L.Dense(1)(L.Dense(30, "relu")(L.Flatten()(inputs)))))
    looped = scored(keras.Model(inputs, L.Dense(1)(L.LSTM(30)(inputs))))
    for model, method, least, most in (
        (plain, KernelShap(), 128 << 20, 256 << 20),
        (looped, KernelShap(), 8 << 20, 16 << 20),
        (plain, IntegratedGradients(), 32 << 20, 64 << 20),
    ):
        assert model.repeatable == (model is plain)
        rows = {"x": np.ones((2, 5, 20), np.float32)}
        held = sizing.device_batch_size(model, rows, method) * sizing.evaluation_bytes(model, rows, method)
        assert held <= most
        assert held > least or held // sizing.evaluation_bytes(model, rows, method) == sizing.MOST_EVALUATIONS


@pytest.mark.parametrize(
    ("shared", "each", "expected"),
    [
        (1.0, 0.1, 0.1 + 1.0 / 32),  # 1.1 s for one: what it would share is not counted for each
        (0.0, 0.2, 0.2),
        (0.4, 0.001, 0.001 + 0.4 / 32),  # quick enough to measure many
        (3.0, 0.5, 3.5),  # too long to measure twice
    ],
)
def test_what_rows_of_a_call_share_is_not_counted_for_each(
    shared: float, each: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = keras.Input((3,), name="x")
    model = scored(keras.Model(inputs, L.Dense(1)(inputs)))
    rows = {"x": np.zeros((4096, 3), np.float32)}
    clock, seen = [0.0], set()

    def attribute(self: Any, model: Any, part: Any, *_: Any) -> None:
        count = len(part["x"])
        clock[0] += shared * -(-count // 32) + each * count
        clock[0] += 0 if count in seen else 5.0  # a function is traced for each new size
        seen.add(count)

    monkeypatch.setattr(PermutationShap, "attribute", attribute)
    monkeypatch.setattr(sizing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    reference = make_reference(model, {"x": np.ones((100, 3), np.float32)})
    method = PermutationShap(n_permutations=10_000)
    found = sizing.seconds_per_row(method, model, reference, rows, TargetSpec((0,)), 1)
    assert found == pytest.approx(expected, rel=0.3)
