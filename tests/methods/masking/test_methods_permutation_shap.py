"""Permutation SHAP against full enumeration: exact where it can be, elsewhere unbiased with honest errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from tests.support import worlds
from tests.support.models.enumeration import shapley, worths
from tests.support.models.models_zoo import (
    CASES,
    Case,
    attribute,
    keras,
    layers,
    linear,
    make_reference,
    pick,
    quadratic,
    relu_network,
    reseeded,
    scored,
    size_of,
)
from transforms.errors import UserError
from transforms.methods.base import Attribution
from transforms.methods.masking.permutation_shap import PermutationShap, spread_permutations
from transforms.models.base import ScoredModel
from transforms.models.players import HELD, Players
from transforms.models.reference import Reference


def drawn(rows: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)


def flat(found: dict[str, np.ndarray]) -> np.ndarray:
    """Values by input as `[B, T, M]`."""
    return np.concatenate([v.reshape(*v.shape[:2], -1) for v in found.values()], axis=2)


def explain(
    method: PermutationShap, case: Case, reference: Reference, seed: int = 0, device_batch_size: int = 4096
) -> Attribution:
    """All rows of a case with all its targets."""
    rows = size_of(case.rows)
    targets = np.broadcast_to(np.arange(case.targets), (rows, case.targets))
    reference = reseeded(case.model, reference, seed)
    return attribute(method, case.model, case.rows, reference, targets, device_batch_size=device_batch_size)


@cache
def enumerated(case: str) -> tuple[Case, Reference, np.ndarray]:
    """A case, its reference, and its Shapley values `[B, T, M]`."""
    found = CASES[case]()
    truth = shapley(worths(found.model, found.rows, found.background))
    return found, make_reference(found.model, found.background), truth


# -- exact ---------------------------------------------------------------------------------------------


def test_linear_is_the_weight_times_the_distance_from_the_mean() -> None:
    background, rows = drawn(6, 3, 0), drawn(4, 3, 1)
    reference = make_reference(linear(), {"x": background})
    found = attribute(PermutationShap(), linear(), {"x": rows}, reference)
    expected = np.array([2, -3, 0.5]) * (rows - background.mean(axis=0))
    np.testing.assert_allclose(found.values["x"][:, 0], expected, rtol=1e-5, atol=2e-6)
    assert np.abs(found.convergence_delta).max() < 2e-6


@pytest.mark.parametrize("players", [4, 9])
def test_what_features_do_alone_and_in_twos_is_exact_with_any_permutations(players: int) -> None:
    """A pair of a permutation and its reverse has each of two features come first once."""
    inputs = keras.Input((players,), name="x")
    model = scored(keras.Model(inputs, layers.Dense(1)(inputs) ** 2))
    background, rows = {"x": drawn(2, players, 0)}, {"x": drawn(3, players, 1)}
    found = attribute(
        PermutationShap(n_permutations=2, standard_error=True), model, rows, make_reference(model, background)
    )
    truth = shapley(worths(model, rows, background))
    scale = np.abs(truth).max()
    np.testing.assert_allclose(found.values["x"], truth, atol=1e-5 * scale)
    assert found.standard_error["x"].max() < 1e-5 * scale


@pytest.mark.parametrize(
    ("case", "n_permutations"), [("relu_pair", 2), ("separable", 4), ("categorical", 4), ("classes", 4)]
)
def test_where_the_budget_reaches_all_coalitions_the_values_are_exact(case: str, n_permutations: int) -> None:
    """Strings and integers among them, and a model of three outputs."""
    kind, reference, truth = enumerated(case)
    method = PermutationShap(n_permutations=n_permutations, standard_error=True)
    found = explain(method, kind, reference)
    np.testing.assert_allclose(flat(found.values), truth, rtol=1e-5, atol=1e-5 * np.abs(truth).max())
    assert flat(found.standard_error).max() == 0
    players = truth.shape[2]
    assert (
        method.evaluations_per_row(3, players)
        == 3 * 2**players
        <= 3 * (n_permutations * 2 * (players - 1) + 2)
    )


def test_one_feature_is_given_everything() -> None:
    model = quadratic()
    players = Players(("both",), {"x": (2,)}, {"x": np.array([0, 0])})
    reference = replace(make_reference(model, {"x": drawn(5, 2, 0)}), players=players)
    found = attribute(PermutationShap(), model, {"x": drawn(3, 2, 1)}, reference)
    np.testing.assert_allclose(
        found.values["x"][:, 0], (found.prediction - found.base_value) * [[1, 0]], rtol=1e-6
    )
    assert PermutationShap().evaluations_per_row(7, 1) == 2 * 7


# -- sampled -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "n_permutations"), [("tabular", 10), ("categorical", 2), ("heads", 10)])
def test_values_are_unbiased_and_standard_errors_honest(case: str, n_permutations: int) -> None:
    """Many seeds against full enumeration; the spread of the permutations makes the error the smaller."""
    kind, reference, truth = enumerated(case)
    method = PermutationShap(n_permutations=n_permutations, standard_error=True)
    runs = [explain(method, kind, reference, seed) for seed in range(120)]
    errors = np.stack([flat(run.values) - truth for run in runs])
    claimed = np.stack([flat(run.standard_error) for run in runs])
    rounding = 2e-6 * np.abs(truth).max()
    assert np.sqrt((errors**2).mean()) > 20 * rounding  # not exact by chance
    if n_permutations == 10:
        assert (np.abs(errors) <= 3 * claimed + rounding).mean() >= 0.99
        assert 0.9 < np.sqrt((errors**2).mean() / (claimed**2).mean()) < 1.1
    bias = np.abs(errors.mean(axis=0))
    assert (bias <= 4.5 * errors.std(axis=0) / np.sqrt(len(runs)) + rounding).all()
    assert all(np.abs(run.convergence_delta).max() < 1e-5 * np.abs(truth).sum(axis=2).max() for run in runs)


def test_spread_permutations_beat_independent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are for: at eight players a quarter less squared error, and more."""

    def error() -> float:
        runs = [explain(PermutationShap(), kind, reference, seed) for seed in range(100)]
        return float(np.mean([(flat(run.values) - truth) ** 2 for run in runs]))

    def independent(seed: int, count: int, players: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, number))
        places = np.stack([rng.permutation(players) for _ in range(count)]).astype(np.int32)
        return places, np.tile(np.arange(count)[:, None], players)

    kind, reference, truth = enumerated("tabular")
    ours = error()
    monkeypatch.setattr("transforms.methods.masking.permutation_shap._spread", independent)
    assert ours < 0.85 * error()


@pytest.mark.parametrize("size", [1, 3, 17, 100, 4096])
def test_how_coalitions_are_cut_into_calls_changes_nothing(size: int) -> None:
    kind, reference, _ = enumerated("tabular")
    method = PermutationShap(n_permutations=4, standard_error=True)
    whole = explain(method, kind, reference)
    found = explain(method, kind, reference, device_batch_size=size)
    np.testing.assert_allclose(flat(found.values), flat(whole.values), rtol=1e-4, atol=2e-6)


def test_blocks_of_rows_permutations_and_coalitions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, reference, _ = enumerated("heads")
    method = PermutationShap(n_permutations=5, standard_error=True)
    whole = explain(method, kind, reference)
    for size in (1, 200, 2000):
        monkeypatch.setattr("transforms.methods.masking.chunks.BLOCK_BYTES", size)
        found = explain(method, kind, reference)
        np.testing.assert_allclose(flat(found.values), flat(whole.values), rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(
            flat(found.standard_error), flat(whole.standard_error), rtol=1e-3, atol=2e-6
        )


def test_the_seed_of_the_run_decides_what_is_drawn_and_the_rows_do_not() -> None:
    kind, reference, _ = enumerated("tabular")
    one, other = (explain(PermutationShap(), kind, reference, seed) for seed in (0, 1))
    assert np.abs(flat(one.values) - flat(other.values)).max() > 1e-3
    twice = pick(kind.rows, np.array([2, 2]))
    same = attribute(PermutationShap(), kind.model, twice, reference)
    np.testing.assert_allclose(same.values["x"][0], same.values["x"][1], atol=2e-6)


# -- budget --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_permutations", "players", "evaluations"),
    [
        (10, 50, 10 * 2 * 49 + 2),
        (10, 7, 122),
        (10, 6, 64),
        (10, 1, 2),
        (2, 4, 14),
        (2, 3, 8),
        (100, 11, 2002),
    ],
)
def test_the_cost_is_told(n_permutations: int, players: int, evaluations: int) -> None:
    method = PermutationShap(n_permutations=n_permutations)
    assert method.evaluations_per_row(1, players) == evaluations
    assert method.evaluations_per_row(100, players) == 100 * evaluations


@pytest.mark.parametrize(
    ("model", "features", "n_permutations"), [(relu_network, 14, 4), (linear, 3, 2)], ids=["sampled", "exact"]
)
def test_each_coalition_is_evaluated_once(
    model: Callable[[], ScoredModel], features: int, n_permutations: int
) -> None:
    """Counted: where permutations meet, one; nobody is the base value, everybody the prediction."""
    reference = make_reference(model(), {"x": drawn(4, features, 0)})
    method = PermutationShap(n_permutations=n_permutations)
    before = model().evaluations
    # In calls of one evaluation there is no padding.
    attribute(method, model(), {"x": drawn(2, features, 1)}, reference, device_batch_size=1)
    used = model().evaluations - before
    if method.evaluations_per_row(1, features) == 2**features:
        distinct = 2**features - 2
    else:
        places = spread_permutations(0, n_permutations, features, 0)
        both = [*places, *(features - 1 - places)]
        distinct = len({tuple(order < size) for order in both for size in range(1, features)})
    assert used == 2 * (4 * distinct + 1)
    assert used <= 2 * method.evaluations_per_row(4, features)


def test_permutations_that_no_memory_holds_are_refused() -> None:
    players = Players.each({"pixels": (224, 224, 3)})
    PermutationShap().check(players)
    with pytest.raises(UserError, match="1,000 permutations of 150,528 features") as refused:
        PermutationShap(n_permutations=1000).check(players)
    assert refused.value.where == "method.n_permutations"


# -- groups, and what is held fixed --------------------------------------------------------------------


def test_groups_and_fixed_features_against_enumeration() -> None:
    """Carrier and month as one, distance the row's own: base_value is then each row's."""
    kind = CASES["categorical"]()
    of = {"carrier": 1, "month": 1, "origin": 0, "destination": 2, "distance": HELD}
    players = Players(
        ("origin", "when and who", "destination"),
        {name: value.shape[1:] for name, value in kind.rows.items()},
        {name: np.array([player]) for name, player in of.items()},
    )
    reference = replace(make_reference(kind.model, kind.background), players=players)
    found = explain(PermutationShap(n_permutations=2), kind, reference)
    played = worths(kind.model, kind.rows, kind.background, players.of)
    truth = shapley(played)[:, 0]
    values = {name: value[:, 0, 0] for name, value in found.values.items()}
    assert (values["distance"] == 0).all()
    np.testing.assert_allclose(values["origin"], truth[:, 0], atol=1e-5)
    np.testing.assert_allclose(values["carrier"] + values["month"], truth[:, 1], atol=1e-5)
    np.testing.assert_allclose(values["destination"], truth[:, 2], atol=1e-5)
    np.testing.assert_allclose(found.base_value, played[0, 0, 0].mean(axis=1), rtol=1e-5)
    assert np.ptp(found.base_value) > 0.1
    assert np.abs(found.convergence_delta).max() < 1e-5


def test_groups_and_fixed_features_where_it_samples() -> None:
    model, rows, background = relu_network(), {"x": drawn(3, 14, 1)}, {"x": drawn(3, 14, 0)}
    of = np.array([0, 1, 2, 3, 4, 5, 6, 6, 6, 7, HELD, 8, HELD, 8])
    players = Players(tuple("abcdefghi"), {"x": (14,)}, {"x": of})
    reference = replace(make_reference(model, background), players=players)
    method = PermutationShap(n_permutations=12, standard_error=True)
    truth = shapley(worths(model, rows, background, {"x": of}))[:, 0]
    outside = []
    for seed in range(20):
        found = attribute(method, model, rows, replace(reference, seed=seed))
        assert np.abs(found.convergence_delta).max() < 1e-5
        first = [np.flatnonzero(of == player)[0] for player in range(9)]
        error = found.values["x"][:, 0, first] - truth
        outside.append(np.abs(error) > 3 * found.standard_error["x"][:, 0, first] + 1e-6)
        others = np.setdiff1d(np.arange(14), first)
        assert (found.values["x"][:, 0, others] == 0).all()
    assert np.mean(outside) <= 0.01


# -- tolerance -----------------------------------------------------------------------------------------


def test_a_tolerance_plays_on_only_for_the_rows_that_need_it() -> None:
    model = relu_network()
    near, far = drawn(4, 14, 6) * np.float32(0.02), drawn(3, 14, 7) * 2
    rows = {"x": np.concatenate([near, far])}
    reference = make_reference(model, {"x": np.zeros((1, 14), np.float32)})
    reference = replace(reference, spread=np.ones(1, np.float32))
    method = PermutationShap(n_permutations=4, standard_error=True)
    once = attribute(method, model, rows, reference)
    worst = once.standard_error["x"].max(axis=(1, 2))
    tolerance = float(worst[4:].min() * 0.7)
    assert (worst[:4] < tolerance).all()
    before = model.evaluations
    found = attribute(replace(method, tolerance=tolerance), model, rows, reference)
    used = model.evaluations - before
    per_round = method.evaluations_per_row(1, 14)
    assert 7 * per_round * 0.9 < used < 7 * per_round + 25 * 4 * per_round  # three rows, padded to four
    np.testing.assert_allclose(found.values["x"][:4], once.values["x"][:4], atol=1e-6)
    assert (np.abs(found.values["x"][4:] - once.values["x"][4:]).max(axis=(1, 2)) > 1e-4).all()
    assert np.abs(found.convergence_delta).max() < 1e-5
    above = found.standard_error["x"].max(axis=(1, 2)) > tolerance
    np.testing.assert_array_equal(found.limited, above)
    hard = attribute(replace(method, tolerance=1e-9), model, rows, reference)
    assert hard.limited[4:].all()
    ratio = hard.standard_error["x"][4:] / once.standard_error["x"][4:]
    assert 0.6 < np.median(ratio) * np.sqrt(104 / 4) < 1.5  # the cap is one of evaluations


def test_rounds_are_independent() -> None:
    """Their mean is closer to the truth by the root of their number: four pairs, then ten times ten."""
    kind, reference, truth = enumerated("tabular")

    def error(method: PermutationShap) -> float:
        runs = [explain(method, kind, reference, seed) for seed in range(25)]
        return float(np.sqrt(np.mean([(flat(run.values) - truth) ** 2 for run in runs])))

    once = error(PermutationShap(n_permutations=3))
    ten = error(PermutationShap(n_permutations=3, tolerance=1e-9))
    assert 4 < once / ten < 9


# -- permutations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "players"), [(2, 4), (10, 8), (7, 8), (20, 8), (3, 100)])
def test_permutations_are_permutations(count: int, players: int) -> None:
    places = spread_permutations(3, count, players, 0)
    assert places.shape == (count, players)
    np.testing.assert_array_equal(np.sort(places, axis=1), np.broadcast_to(np.arange(players), places.shape))
    np.testing.assert_array_equal(places, spread_permutations(3, count, players, 0))
    assert (places != spread_permutations(3, count, players, 1)).any()
    assert (places != spread_permutations(4, count, players, 0)).any()


@pytest.mark.parametrize("count", [2, 4])
def test_every_permutation_is_as_likely_as_any_other(count: int) -> None:
    """χ² over the 12 pairs of 4 players, for each of the places that a permutation has among `count`."""
    of = {order: min(order, order[::-1]) for order in permutations(range(4))}
    pairs = sorted(set(of.values()))
    found = np.zeros((count, 12))
    for seed in range(3000):
        for which, places in enumerate(spread_permutations(seed, count, 4, 0)):
            order = tuple(int(player) for player in np.argsort(places))
            found[which, pairs.index(of[order])] += 1
    chi = ((found - 250) ** 2 / 250).sum(axis=1)
    assert (chi < 36).all()  # 11 degrees of freedom: one in 6,000


# -- end to end ----------------------------------------------------------------------------------------

TRIPS = "method={name: permutation_shap, n_permutations: 2, standard_error: true}"


def test_through_the_pipeline_shards_and_batches_change_no_value(tmp_path: Path) -> None:
    """Four features, one of them a string, and two permutations: it samples."""
    run = worlds.explained(worlds.trips(), TRIPS, "baseline.rows=20")
    table = run.attributions()
    values = worlds.phi(table)
    gap = table["prediction"].to_numpy().astype(np.float64) - table["base_value"].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1, dtype=np.float64), gap, atol=2e-6)
    assert values.std(axis=0).min() > 0
    assert table.schema.field("standard_error").type == table.schema.field("attribution").type
    errors = table["standard_error"].combine_chunks()
    assert np.mean([errors.field(i).to_numpy().max() for i in range(4)]) > 1e-4
    settings = (TRIPS, "baseline.rows=20", "compute.shard_rows=17", "compute.batch_size=5")
    cut = worlds.explain(worlds.trips(), tmp_path / "cut", *settings)
    np.testing.assert_allclose(worlds.phi(cut.attributions()), values, rtol=1e-4, atol=2e-6)
    seeded = worlds.explain(worlds.trips(), tmp_path / "seeded", TRIPS, "baseline.rows=20", "seed=1")
    assert np.abs(worlds.phi(seeded.attributions()) - values).max() > 1e-4
