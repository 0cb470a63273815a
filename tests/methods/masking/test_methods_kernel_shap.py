"""Kernel SHAP: exact with all coalitions, elsewhere close and honest about it; the design; budgets; runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from pipeline.planning.summary import summarize
from tests.methods.masking.test_game import GROUPED
from tests.support import worlds
from tests.support.models.games import Plain, World, by_player, mixed, shapley, smooth
from tests.support.models.models_zoo import attribute, linear, make_reference, pick
from transforms.errors import UserError
from transforms.methods.base import Attribution
from transforms.methods.masking.coalitions import allocation, design, pairs_of
from transforms.methods.masking.exact_shap import enumeration
from transforms.methods.masking.kernel_shap import KernelShap
from transforms.methods.sampling import MOST_ROUNDS
from transforms.models.players import Players
from transforms.models.reference import Reference

SAMPLINGS = ("leverage", "shapley")


def explain(
    world: World, method: KernelShap, reference: Reference, device_batch_size: int = 512
) -> Attribution:
    return attribute(
        method, world.model, world.rows, reference, world.targets, device_batch_size=device_batch_size
    )


# -- all coalitions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("players", [None, GROUPED], ids=["each", "grouped and held"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_budget_of_all_coalitions_equals_enumeration(
    sampling: str, players: Players | None, size: int
) -> None:
    world = mixed()
    reference = world.reference(size, players=players)
    found = explain(world, KernelShap(sampling=sampling, standard_error=True), reference)
    exact = shapley(world.predict, world.rows, reference.inputs, reference.players)
    np.testing.assert_allclose(by_player(found.values, reference.players), exact, atol=1e-5)
    assert all((error == 0).all() for error in found.standard_error.values())
    assert np.abs(found.convergence_delta).max() < 1e-6
    assert np.abs(exact).max() > 0.05


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_players(count: int) -> None:
    world = smooth(3, 2)
    of = {1: [0, 0, 0], 2: [0, 1, 1], 3: [2, 0, 1]}[count]
    reference = world.reference(
        players=Players(tuple("abc"[:count]), {"x": (3,)}, {"x": np.array(of, np.int64)})
    )
    found = explain(world, KernelShap(standard_error=True), reference)
    exact = shapley(world.predict, world.rows, reference.inputs, reference.players)
    np.testing.assert_allclose(by_player(found.values, reference.players), exact, atol=1e-6)


def test_linear_is_weight_times_difference_from_any_sample() -> None:
    """A sum of features is what the regression fits: nothing is left over, whatever is drawn."""
    rng = np.random.default_rng(0)
    rows, background = (rng.normal(size=(n, 3)).astype(np.float32) for n in (4, 6))
    reference = make_reference(linear(), {"x": background})
    found = attribute(KernelShap(standard_error=True), linear(), {"x": rows}, reference)
    expected = np.array([2, -3, 0.5]) * (rows - background.mean(axis=0))
    np.testing.assert_allclose(found.values["x"][:, 0], expected, atol=1e-5)
    weights = rng.normal(size=(12, 1)).astype(np.float32)
    model = Plain(lambda inputs: inputs["x"] @ weights)
    wide = rng.normal(size=(9, 12)).astype(np.float32)
    reference = Reference({"x": wide[:5]}, wide[:5] @ weights, np.ones(1))
    found = attribute(KernelShap(n_samples=40, standard_error=True), model, {"x": wide[5:]}, reference)
    expected = weights[:, 0] * (wide[5:] - wide[:5].mean(axis=0))
    np.testing.assert_allclose(found.values["x"][:, 0], expected, atol=1e-5)
    assert found.standard_error["x"].max() < 1e-5


# -- sampling ------------------------------------------------------------------------------------------------


@cache
def truth() -> np.ndarray:
    world = smooth()
    reference = world.reference(4)
    return shapley(world.predict, world.rows, reference.inputs, reference.players)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n_samples", [80, 200])
def test_sampled_values_are_within_three_standard_errors(sampling: str, n_samples: int) -> None:
    """Ten features; every seed draws its own coalitions."""
    world = smooth()
    errors, claimed = [], []
    for seed in range(6):
        reference = world.reference(4, seed=seed)
        found = explain(world, KernelShap(n_samples, sampling, standard_error=True), reference)
        errors.append(by_player(found.values, reference.players) - truth())
        claimed.append(found.standard_error["x"])
        assert np.abs(found.convergence_delta).max() < 1e-5
    error, claim = np.array(errors), np.array(claimed)
    assert (np.abs(error) <= 3 * claim).mean() >= 0.99
    assert np.abs(error).max() > 1e-4
    assert np.sqrt((error**2).mean()) < 0.2 * np.abs(truth()).mean()


def test_seeds_decide_the_coalitions_and_rows_share_them() -> None:
    world = smooth()
    twice = {"x": world.rows["x"][[0, 0]]}
    targets = world.targets[:2]
    method = KernelShap(n_samples=60)
    one = attribute(method, world.model, twice, world.reference(seed=1), targets)
    other = attribute(method, world.model, twice, world.reference(seed=2), targets)
    np.testing.assert_allclose(one.values["x"][0], one.values["x"][1], atol=1e-6)
    assert np.abs(one.values["x"] - other.values["x"]).max() > 1e-4


@pytest.mark.parametrize(
    ("n_samples", "players", "coalitions"), [("auto", 30, 2108), ("auto", 6, 64), (80, 10, 80), (81, 10, 80)]
)
def test_the_budget_counts_all_coalitions_and_is_capped_by_them(
    n_samples: int | str, players: int, coalitions: int
) -> None:
    method = KernelShap(n_samples)  # type: ignore[arg-type]
    assert method.coalitions(players) == coalitions
    assert method.evaluations_per_row(7, players) == coalitions * 7


@pytest.mark.parametrize("players", [None, GROUPED], ids=["free", "held"])
@pytest.mark.parametrize("n_samples", [12, 16, 40, "auto"])
@pytest.mark.parametrize("device_batch_size", [3, 64])
def test_no_more_is_evaluated_than_the_budget(
    players: Players | None, n_samples: int | str, device_batch_size: int
) -> None:
    world = mixed()
    method, reference = KernelShap(n_samples), world.reference(3, players=players)  # type: ignore[arg-type]
    if n_samples == 12 and players is None:
        n_samples = 14
        method = KernelShap(14)
    before = world.model.evaluations
    attribute(method, world.model, world.rows, reference, world.targets, device_batch_size=device_batch_size)
    count = reference.players.count
    asked = (method.coalitions(count) - 2) * 3 + 1 + (3 if players else 0)
    assert world.model.evaluations - before == 4 * asked
    assert asked <= method.evaluations_per_row(3, count)


@pytest.mark.parametrize("device_batch_size", [1, 5, 64, 4096])
def test_rows_and_device_calls_change_nothing(
    device_batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the memory that blocks of rows may take."""
    world = smooth()
    method, reference = KernelShap(60, standard_error=True), world.reference(3)
    whole = explain(world, method, reference)
    monkeypatch.setattr("transforms.methods.masking.game._HOST_BYTES", 1000)
    alone = attribute(
        method,
        world.model,
        pick(world.rows, [3, 1]),
        reference,
        world.targets[:2],
        device_batch_size=device_batch_size,
    )
    np.testing.assert_allclose(alone.values["x"], whole.values["x"][[3, 1]], atol=1e-6)
    np.testing.assert_allclose(alone.standard_error["x"], whole.standard_error["x"][[3, 1]], rtol=1e-3)


def test_rows_above_the_tolerance_go_on_until_within_it_or_all_is_spent() -> None:
    world = smooth()
    reference = world.reference(3)
    spread = float(reference.spread[0])
    plain = explain(world, KernelShap(60, standard_error=True), reference)
    worst = np.sort(plain.standard_error["x"].max(axis=(1, 2))) / spread
    tolerance = float(np.sqrt(worst[2] * worst[3]))  # half of the rows are within it at once
    method = KernelShap(60, tolerance=tolerance, standard_error=True)
    before = world.model.evaluations
    found = explain(world, method, reference)
    evaluations = world.model.evaluations - before
    early = plain.standard_error["x"].max(axis=(1, 2)) <= tolerance * spread
    assert 0 < early.sum() < len(early)
    np.testing.assert_array_equal(found.values["x"][early], plain.values["x"][early])
    error = found.standard_error["x"].max(axis=(1, 2))
    assert not found.limited.any()
    assert (error <= tolerance * spread).all()
    assert (np.abs(found.values["x"] - plain.values["x"])[~early].max(axis=(1, 2)) > 0).all()
    # The second round needs no more than what it adds to the first.
    most = 6 * (1 + 58 * 3) + (~early).sum() * (MOST_ROUNDS - 1) * 60 * 3
    assert 6 * (1 + 58 * 3) < evaluations <= most
    # Rows decide for themselves.
    for row in (int(np.flatnonzero(early)[0]), int(np.flatnonzero(~early)[0])):
        alone = attribute(method, world.model, pick(world.rows, [row]), reference, world.targets[:1])
        np.testing.assert_allclose(alone.values["x"][0], found.values["x"][row], atol=1e-6)


def test_a_tolerance_out_of_reach_is_told() -> None:
    world = smooth()
    method = KernelShap(40, tolerance=1e-9, standard_error=True)
    found = explain(world, method, world.reference(3))
    assert found.limited.all()
    best = explain(world, KernelShap(400, standard_error=True), world.reference(3))
    assert np.abs(found.values["x"] - best.values["x"]).max() < 0.02 * np.abs(best.values["x"]).max()
    # Where all coalitions are at hand the tolerance is met in the end.
    exact = explain(world, KernelShap(200, tolerance=1e-9, standard_error=True), world.reference(3))
    assert not exact.limited.any()
    assert exact.standard_error["x"].max() == 0


# -- the design ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("players", "pairs"), [(2, 1), (3, 3), (7, 20), (10, 39), (10, 300), (50, 1073)])
def test_pairs_are_drawn_without_replacement_size_by_size(sampling: str, players: int, pairs: int) -> None:
    found = design(players, pairs, sampling, 5)
    assert found.pairs == pairs
    both = np.concatenate([found.members, ~found.members])
    assert len(np.unique(both, axis=0)) == 2 * pairs
    assert found.taken.sum() == pairs
    assert (found.taken >= np.minimum(2, pairs_of(players))).all()
    np.testing.assert_array_equal(found.members.sum(axis=1), np.repeat(found.sizes, found.taken))
    shares = np.array([t / n for t, n in zip(found.taken.tolist(), pairs_of(players), strict=True)])
    np.testing.assert_array_equal(found.shares, shares)


def test_leverage_takes_of_all_sizes_alike_and_the_shapley_kernel_of_the_ends() -> None:
    leverage, kernel = (allocation(20, 300, sampling) for sampling in SAMPLINGS)
    assert leverage[0] == kernel[0] == 20  # all there are
    assert np.ptp(leverage[1:-1]) <= 1
    assert leverage[-1] == pytest.approx(leverage[-2] / 2, abs=1)
    due = 1 / (np.arange(2, 10) * (20 - np.arange(2, 10)))
    np.testing.assert_allclose(kernel[1:-1], due * kernel[1:-1].sum() / due.sum(), atol=1)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_more_coalitions_of_a_size_than_a_float_holds(sampling: str) -> None:
    """From 1,030 players on; a size in the middle of 1,100 has 10^329 pairs."""
    taken = allocation(1100, 5000, sampling)
    assert taken.sum() == 5000
    assert taken.min() >= 2
    assert taken[0] > 100 if sampling == "shapley" else taken.max() <= 10


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("players", [5, 12, 13, 40])
def test_a_larger_budget_never_takes_less(sampling: str, players: int) -> None:
    before = allocation(players, players, sampling)
    for pairs in range(players + 1, min(400, 2 ** (players - 1))):
        now = allocation(players, pairs, sampling)
        assert (now >= before).all()
        assert now.sum() == pairs
        before = now


@pytest.mark.parametrize("players", [9, 30])
def test_the_pairs_of_a_smaller_budget_are_among_those_of_a_larger_one(players: int) -> None:
    small = design(players, 60, "leverage", 3, 60)
    large = design(players, 150, "leverage", 3, 60)
    start = 0
    for stratum, (few, many) in enumerate(zip(small.taken, large.taken, strict=True)):
        first = small.members[small.taken[:stratum].sum() :][:few]
        np.testing.assert_array_equal(large.members[start:][:few], first)
        start += int(many)


# -- honest errors, over many games and seeds ----------------------------------------------------------------


def network_game(players: int, rng: np.random.Generator) -> np.ndarray:
    z = enumeration(players)[0] - 0.5
    hidden = np.maximum(z @ rng.normal(size=(players, 16)) + rng.normal(size=16), 0)
    return hidden @ rng.normal(size=16)


def noise_game(players: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=2**players)


def scatter(
    games: np.ndarray, players: int, n_samples: int, sampling: str, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the values and claimed variances, `[seeds, M, games]`, of games by coalition `[G, 2^M]`."""
    exact = (games @ enumeration(players)[1]).T
    whole = games[:, -1] - games[:, 0]
    errors, claims = [], []
    for seed in range(seeds):
        found = design(players, n_samples // 2 - 1, sampling, seed)
        index = found.members @ (1 << np.arange(players))
        gaps = (games[:, index] - games[:, 2**players - 1 - index]).T / 2
        values = found.solve(gaps, whole)
        np.testing.assert_allclose(values.sum(axis=0), whole, atol=1e-9 * np.abs(games).max())
        errors.append(values - exact)
        claims.append(found.variances(gaps, values))
    return np.array(errors), np.array(claims)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("game", [network_game, noise_game])
@pytest.mark.parametrize(("players", "n_samples"), [(8, 48), (8, 200), (11, 88), (11, 400), (12, 2000)])
def test_claimed_standard_errors_are_those_that_there_are(
    sampling: str, game: Callable[[int, np.random.Generator], np.ndarray], players: int, n_samples: int
) -> None:
    rng = np.random.default_rng(7)
    games = np.stack([game(players, rng) for _ in range(30)])
    errors, claims = scatter(games, players, n_samples, sampling, 30)
    assert 0.7 < (errors**2).mean() / claims.mean() < 1.4
    # The fewer the coalitions, the less is known of the error's own size.
    assert (np.abs(errors) <= 3 * np.sqrt(claims)).mean() > (0.985 if n_samples < 7 * players else 0.99)
    assert (np.abs(errors.mean(axis=0)) < 5 * errors.std(axis=0) / np.sqrt(30)).mean() > 0.99  # unbiased


def test_all_pairs_leave_no_error() -> None:
    rng = np.random.default_rng(1)
    errors, claims = scatter(noise_game(9, rng)[None], 9, 512, "leverage", 1)
    assert np.abs(errors).max() < 1e-12
    assert claims.max() == 0


def test_published_setting_of_leverage_sampling() -> None:
    """Musco and Witter's diabetes model, 8 coalitions a feature: their table has .0031, Kernel SHAP .0124."""
    import xgboost
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    model = xgboost.XGBRegressor(n_estimators=100, max_depth=4, random_state=0, n_jobs=1).fit(x, y)
    plain = Plain(lambda inputs: model.predict(inputs["x"])[:, None])
    background = {"x": x.mean(axis=0, keepdims=True)}
    rows = {"x": x[:40]}
    scores = plain.evaluate(background)[0]
    targets = np.zeros((40, 1), np.int64)

    def values(method: KernelShap, seed: int) -> np.ndarray:
        reference = Reference(background, scores, np.ones(1), seed=seed)
        found = attribute(method, plain, rows, reference, targets, device_batch_size=8192)
        return found.values["x"][:, 0].astype(np.float64)

    exact = values(KernelShap(1024), 0)
    before = plain.evaluations
    errors = []
    for seed in range(100):
        found = values(KernelShap(80), seed)
        errors.append(np.mean(((found - exact) ** 2).sum(axis=1) / (exact**2).sum(axis=1)))
    assert plain.evaluations - before <= 100 * 40 * 80 + 100 * 40
    assert np.mean(errors) <= 0.0036
    assert np.mean(errors) < 0.0124 / 2


# -- what cannot be done, and runs ---------------------------------------------------------------------------


def test_budgets_that_determine_nothing_are_refused_when_the_run_is_planned() -> None:
    loaded = load_config(str(worlds.pictures()), settings=["method={name: kernel_shap, n_samples: 60}"])
    with pytest.raises(UserError) as error:
        make_plan(loaded, in_process=True)
    assert "pictures.yaml: method.n_samples: 60 coalitions do not determine the values of 36" in str(
        error.value
    )
    assert "at least 74" in str(error.value)
    with pytest.raises(UserError, match="too many to keep in memory"):
        KernelShap().check(Players.each({"pixels": (200, 200, 3)}))


def test_a_plan_tells_memory_and_calls(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.terminal.run_and_plan import print_plan

    settings = ["method=kernel_shap", "compute.device_batch_size=64"]
    plan = make_plan(load_config(str(worlds.trips()), settings=settings), in_process=True)
    summary = summarize(plan)
    assert summary["evaluations_per_row"] == 16 * 100
    assert summary["affine_prefix"] is True
    assert summary["estimate"]["device_calls_per_row"] == 25
    per_evaluation = summary["estimate"]["device_bytes"] / 64
    assert per_evaluation == int(per_evaluation)
    assert 4 * (3 + 2 + 2 + 8 + 1) < per_evaluation < 2000
    print_plan({**summary, "flags": [], "committed": False})
    assert "a row takes 25 calls" in capsys.readouterr().out
    auto = summarize(make_plan(load_config(str(worlds.trips()), settings=settings[:1]), in_process=True))
    assert auto["estimate"]["device_bytes"] <= 16 << 20
    assert auto["device_batch_size"] > 1024


@pytest.mark.parametrize("n_samples", [12, "auto"])
def test_a_run_over_words_and_numbers_is_the_same_however_it_is_cut(
    n_samples: int | str, tmp_path: Path
) -> None:
    setting = f"method={{name: kernel_shap, n_samples: {n_samples}, standard_error: true}}"
    usual = worlds.explained(worlds.trips(), setting)
    counts = usual.manifest["counts"]
    assert counts["rows_read"] == 200 == counts["rows_attributed"] + counts["rows_rejected"]
    assert counts["rows_rejected"] == 1
    table = usual.attributions()
    assert table["attribution"].type.names == ["city", "distance", "hour", "wind"]
    values = worlds.phi(table)
    gap = table["prediction"].to_numpy() - table["base_value"].to_numpy().astype(float)
    np.testing.assert_allclose(values.sum(axis=1, dtype=np.float64), gap, atol=1e-5)
    assert np.abs(values).mean(axis=0).min() > 1e-4
    settings = ["compute.shard_rows=17", "compute.batch_size=5", "compute.device_batch_size=300"]
    cut = worlds.explain(worlds.trips(), tmp_path / "cut", setting, *settings)
    np.testing.assert_allclose(worlds.phi(cut.attributions()), values, atol=1e-6)
    if n_samples == 12:
        shared = worlds.explain(worlds.trips(), tmp_path / "shared", setting, "compute.workers=2")
        np.testing.assert_allclose(worlds.phi(shared.attributions()), values, atol=1e-6)


def test_a_run_with_a_group_and_a_fixed_column() -> None:
    features = "input.features=[city, hour, {name: distance, fixed: true}, wind]"
    groups = "input.groups={when and where: [city, hour]}"
    runs = [
        worlds.explained(worlds.trips(), f"method={name}", features, groups)
        for name in ("kernel_shap", "exact_shap")
    ]
    tables = [run.attributions() for run in runs]
    assert tables[0]["attribution"].type.names == ["when and where", "wind"]
    np.testing.assert_allclose(*(worlds.phi(table) for table in tables), atol=1e-6)
    base = tables[0]["base_value"].to_numpy()
    assert np.ptp(base) > 1e-3  # the distance is the row's own, also where nobody else is
    gap = tables[0]["prediction"].to_numpy() - base.astype(float)
    np.testing.assert_allclose(worlds.phi(tables[0]).sum(axis=1, dtype=np.float64), gap, atol=1e-5)
    assert math.isclose(runs[0].manifest["counts"]["rows_attributed"], 199)
