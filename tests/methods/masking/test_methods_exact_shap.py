"""Exact Shapley values: against enumeration by the definition, closed forms, and its limit of players."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.methods.masking.test_game import GROUPED
from tests.support import worlds
from tests.support.models.games import Plain, World, by_player, mixed, shapley, smooth
from tests.support.models.models_zoo import attribute, linear, make_reference, pick
from transforms.errors import UserError
from transforms.methods.masking.exact_shap import MOST_PLAYERS, ExactShap, enumeration
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.players import Players


def check(world: World, size: int | None, players: Players | None, device_batch_size: int = 256) -> None:
    reference = world.reference(size, players=players)
    found = attribute(
        ExactShap(), world.model, world.rows, reference, world.targets, device_batch_size=device_batch_size
    )
    exact = shapley(world.predict, world.rows, reference.inputs, reference.players)
    np.testing.assert_allclose(by_player(found.values, reference.players), exact, atol=1e-5)
    np.testing.assert_allclose(
        exact.sum(axis=2), found.prediction.astype(float) - found.base_value, atol=1e-5
    )
    assert np.abs(found.convergence_delta).max() < 1e-5
    assert np.abs(exact).max() > 0.05


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("players", [None, GROUPED], ids=["each", "grouped and held"])
def test_equals_enumeration_by_the_definition(size: int, players: Players | None) -> None:
    """Words, whole numbers and floats, two outputs, several backgrounds, with the prefix."""
    check(mixed(), size, players)


def test_equals_enumeration_without_a_prefix() -> None:
    model = ScoredGraph(mixed().model.adapter, mixed().model.shapes, affine_prefix=False)
    check(mixed().with_model(model), 3, None)
    check(smooth(7, 2), 4, None, 50)


def test_a_model_of_which_only_evaluate_is_known() -> None:
    world = mixed()
    reference = world.reference()
    found = attribute(ExactShap(), Plain(world.predict), world.rows, reference, world.targets)
    same = attribute(ExactShap(), world.model, world.rows, reference, world.targets)
    for name, value in same.values.items():
        np.testing.assert_allclose(found.values[name], value, atol=1e-6)


def test_linear_is_weight_times_difference_and_every_evaluation_is_counted() -> None:
    rng = np.random.default_rng(0)
    rows, background = (rng.normal(size=(count, 3)).astype(np.float32) for count in (4, 6))
    reference = make_reference(linear(), {"x": background})
    before = linear().evaluations
    found = attribute(ExactShap(), linear(), {"x": rows}, reference)
    # Nobody is the base value, and everybody the prediction.
    assert linear().evaluations - before == 4 * (1 + (2**3 - 2) * 6)
    assert linear().evaluations - before <= 4 * ExactShap().evaluations_per_row(6, 3)
    expected = np.array([2, -3, 0.5]) * (rows - background.mean(axis=0))
    np.testing.assert_allclose(found.values["x"][:, 0], expected, atol=1e-5)


def test_one_player_gets_all() -> None:
    world = mixed()
    everything = Players(("all",), GROUPED.shapes, {k: np.zeros_like(v) for k, v in GROUPED.of.items()})
    reference = world.reference(players=everything)
    found = attribute(ExactShap(), world.model, world.rows, reference, world.targets)
    total = found.prediction.astype(float) - found.base_value
    np.testing.assert_allclose(by_player(found.values, everything)[..., 0], total, atol=1e-6)


@pytest.mark.parametrize("device_batch_size", [1, 7, 64, 4096])
def test_rows_and_device_calls_change_nothing(device_batch_size: int) -> None:
    world = mixed()
    reference = world.reference()
    whole = attribute(ExactShap(), world.model, world.rows, reference, world.targets)
    for row in range(2):
        alone = attribute(
            ExactShap(),
            world.model,
            pick(world.rows, [row]),
            reference,
            world.targets[:1],
            device_batch_size=device_batch_size,
        )
        for name, value in alone.values.items():
            np.testing.assert_allclose(value[0], whole.values[name][row], atol=1e-6)


@pytest.mark.parametrize("players", [1, 2, 5, MOST_PLAYERS])
def test_weights_are_those_of_shapley(players: int) -> None:
    """Of the game that counts members all get 1, of a dictator's game the dictator all."""
    coalitions, weights = enumeration(players)
    assert len(np.unique(coalitions, axis=0)) == 2**players
    assert not coalitions[0].any()
    assert coalitions[-1].all()
    np.testing.assert_allclose(coalitions.sum(axis=1) @ weights, np.ones(players), atol=1e-12)
    np.testing.assert_allclose(coalitions[:, 0] @ weights, np.eye(players)[0], atol=1e-12)


def test_too_many_players_are_refused_when_the_run_is_planned(tmp_path: Path) -> None:
    loaded = load_config(str(worlds.pictures()), settings=["method=exact_shap"])
    with pytest.raises(UserError) as error:
        make_plan(loaded, in_process=True)
    assert "up to 15 features or groups, and there are 36" in str(error.value)
    assert "pictures.yaml: method" in str(error.value)
    assert "kernel_shap" in str(error.value)
    assert "\n" not in str(error.value)
    groups = "input.groups={series: [series]}"
    fits = load_config(str(worlds.heads()), settings=["method=exact_shap", groups])
    assert make_plan(fits, in_process=True).probe.evaluations_per_row == 2**2 * 100
