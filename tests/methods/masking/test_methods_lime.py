"""LIME against scikit-learn on its own samples, and against the regression on all coalitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models.enumeration import lime_limit, worths
from tests.support.models.models_zoo import (
    CASES,
    Case,
    attribute,
    keras,
    layers,
    linear,
    make_reference,
    relu_network,
    reseeded,
    scored,
    size_of,
)
from transforms.errors import UserError
from transforms.methods.base import Attribution
from transforms.methods.masking.lime import Lime, Surrogate, kernel, samples
from transforms.models.players import HELD, Players
from transforms.models.reference import Reference


def drawn(rows: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)


def flat(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Values by input as `[B, T, M]`."""
    return np.concatenate([v.reshape(*v.shape[:2], -1) for v in found.values()], axis=2)


def explain(
    method: Lime, case: Case, reference: Reference, seed: int = 0, device_batch_size: int = 4096
) -> Attribution:
    """All rows of a case with all its targets."""
    rows = size_of(case.rows)
    targets = np.broadcast_to(np.arange(case.targets), (rows, case.targets))
    reference = reseeded(case.model, reference, seed)
    return attribute(method, case.model, case.rows, reference, targets, device_batch_size=device_batch_size)


@cache
def enumerated(case: str, share: float = 0.75) -> tuple[Case, Reference, np.ndarray, np.ndarray]:
    """A case, its reference, and LIME's limit: slopes `[B, T, M]` and fit `[B, T]`."""
    found = CASES[case]()
    played = worths(found.model, found.rows, found.background)
    players = len(next(iter(played)))
    truth, fit = lime_limit(played, share * np.sqrt(players))
    return found, make_reference(found.model, found.background), truth, fit


# -- linear models -------------------------------------------------------------------------------------


def test_linear_with_one_background_row_is_exact_and_fits_perfectly() -> None:
    background, rows = drawn(1, 3, 0), drawn(4, 3, 1)
    reference = make_reference(linear(), {"x": background})
    found = attribute(Lime(n_samples=40, standard_error=True), linear(), {"x": rows}, reference)
    expected = np.array([2, -3, 0.5]) * (rows - background)
    np.testing.assert_allclose(found.values["x"][:, 0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.fit, 1, rtol=1e-6)
    assert found.standard_error["x"].max() < 1e-5
    assert found.convergence_delta is None


def test_linear_with_many_background_rows_is_the_distance_from_their_mean() -> None:
    background, rows = drawn(8, 3, 0), drawn(5, 3, 1)
    reference = make_reference(linear(), {"x": background})
    found = attribute(Lime(standard_error=True), linear(), {"x": rows}, reference)
    expected = np.array([2, -3, 0.5]) * (rows - background.mean(axis=0))
    error = found.values["x"][:, 0] - expected
    assert (np.abs(error) < 4 * found.standard_error["x"][:, 0]).all()
    assert np.abs(error).max() < 0.2
    assert (found.fit > 0.99).all()  # what the draw of the background adds is no lack of linearity


@pytest.mark.parametrize("seed", range(3))
def test_fit_is_that_of_the_expected_score(seed: int) -> None:
    """A linear score fits, however near the row is to the background's mean; ab at (0, 0) does not."""
    rng = np.random.default_rng(seed)
    background = rng.normal(size=(100, 5)).astype(np.float32)
    inputs = keras.Input((5,), name="x")
    dense = layers.Dense(1)
    line = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.array([[3.0], [-2.0], [1.0], [0.5], [-0.25]]), np.zeros(1)])
    model = scored(line)
    rows = np.repeat(np.array([[0.5], [1.0], [1.5], [2.0]], np.float32), 5, axis=1)
    found = attribute(Lime(), model, {"x": rows}, make_reference(model, {"x": background}))
    assert (found.fit >= 0.99).all()
    product = scored(keras.Model(inputs, inputs[:, :1] * inputs[:, 1:2]))
    origin = attribute(
        Lime(), product, {"x": np.zeros((1, 5), np.float32)}, make_reference(product, {"x": background})
    )
    assert (origin.fit <= 0.2).all()


def test_a_constant_score_has_slopes_of_nothing_and_fits() -> None:
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.layers[-1].set_weights([np.zeros((3, 1)), np.array([7.3])])
    loaded = scored(model)
    found = attribute(Lime(), loaded, {"x": drawn(2, 3, 0)}, make_reference(loaded, {"x": drawn(3, 3, 1)}))
    assert np.abs(found.values["x"]).max() < 1e-6
    np.testing.assert_array_equal(found.fit, 1)


# -- the regression ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["auto", 1.0, 30.0])
@pytest.mark.parametrize("case", ["tabular", "categorical", "heads"])
def test_scikit_learn_finds_the_same_on_the_same_samples(case: str, width: float | str) -> None:
    """Samples put together and scored one by one; coefficients of LinearRegression."""
    kind, reference, _, _ = enumerated(case)
    found = explain(Lime(n_samples=300, kernel_width=width), kind, reference, seed=5)
    values, players = flat(found.values), flat(found.values).shape[2]
    kept, base = samples(5, 150, players, reference.rows, 0)
    distance = np.sqrt(players - kept.sum(axis=1))
    weights = np.exp(-(distance**2) / (0.75 * np.sqrt(players) if width == "auto" else width) ** 2)
    for row in range(size_of(kind.rows)):
        mixed, start = {}, 0
        for name, value in kind.rows.items():
            size = value[0].size
            mask = kept[:, start : start + size].reshape(-1, *value.shape[1:])
            mixed[name] = np.where(mask, value[row], kind.background[name][base])
            start += size
        scores, _ = kind.model.evaluate(mixed)
        for target in range(kind.targets):
            y = scores[:, target].astype(np.float64)
            theirs = LinearRegression().fit(kept, y, sample_weight=weights)
            scale = np.abs(theirs.coef_).max()
            np.testing.assert_allclose(values[row, target], theirs.coef_, atol=2e-6 * max(1, scale))


def test_scores_in_double_precision_agree_to_ten_digits() -> None:
    kept, _ = samples(0, 60, 7, 1, 0)
    weights = kernel(kept, 2.0)
    scores = np.random.default_rng(0).normal(size=(4, 3, 120)) + 1e4
    slopes, fit = Surrogate(kept, weights).fitted(scores)
    for place in np.ndindex(4, 3):
        theirs = LinearRegression().fit(kept, scores[place], sample_weight=weights)
        np.testing.assert_allclose(slopes[place], theirs.coef_, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(fit[place], theirs.score(kept, scores[place], weights), rtol=1e-8)


def test_players_that_samples_cannot_tell_apart_share() -> None:
    """Two columns that are always equal: the limit of scikit-learn's ridge as its penalty vanishes."""
    kept, _ = samples(0, 40, 3, 1, 0)
    kept[:, 2] = kept[:, 1]
    scores = np.random.default_rng(0).normal(size=80)
    slopes, _ = Surrogate(kept, np.ones(80)).fitted(scores)
    theirs = Ridge(alpha=1e-7).fit(kept, scores)
    np.testing.assert_allclose(slopes, theirs.coef_, rtol=1e-6)
    assert slopes[1] == pytest.approx(slopes[2])


# -- unbiased, and honest about its errors -------------------------------------------------------------


@pytest.mark.parametrize(("case", "n_samples"), [("tabular", 400), ("categorical", 400), ("heads", 400)])
def test_values_are_those_of_the_regression_on_everything_within_honest_errors(
    case: str, n_samples: int
) -> None:
    """Strings and integers among them; many seeds."""
    kind, reference, truth, fit = enumerated(case)
    method = Lime(n_samples=n_samples, standard_error=True)
    runs = [explain(method, kind, reference, seed) for seed in range(150)]
    errors = np.stack([flat(run.values) - truth for run in runs])
    claimed = np.stack([flat(run.standard_error) for run in runs])
    assert (np.abs(errors) <= 3 * claimed + 1e-6).mean() >= 0.99
    assert 0.85 < (errors**2).mean() / (claimed**2).mean() < 1.15
    bias = np.abs(errors.mean(axis=0))
    assert (bias <= 5 * errors.std(axis=0) / np.sqrt(len(runs)) + 0.2 / n_samples).all()
    # Never above, and below where few repeated pairs leave it open how much the background's draw adds.
    lifted = np.mean([run.fit for run in runs], axis=0) - fit
    assert lifted.max() < 0.05
    assert lifted.min() > -0.25


def test_values_come_closer_with_more_samples() -> None:
    kind, reference, truth, fit = enumerated("tabular")
    found = explain(Lime(n_samples=60_000), kind, reference)
    np.testing.assert_allclose(flat(found.values), truth, atol=0.03 * np.abs(truth).max())
    np.testing.assert_allclose(found.fit, fit, atol=0.1)  # what three do together is counted in part


def test_the_kernel_decides_what_is_local() -> None:
    """Against the limit with another width, which is another limit."""
    kind, reference, truth, _ = enumerated("tabular", 0.3)
    usual = enumerated("tabular")[2]
    method = Lime(n_samples=60_000, kernel_width=0.3 * float(np.sqrt(8)))
    found = flat(explain(method, kind, reference).values)
    scale = np.abs(truth).max()
    assert np.abs(truth - usual).max() > 0.1 * scale
    np.testing.assert_allclose(found, truth, atol=0.05 * scale)


def test_pairs_beat_single_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opposites are for: what features do in twos, and what the background does alone, drops out."""
    inputs = keras.Input((8,), name="x")
    model = scored(keras.Model(inputs, layers.Dense(1)(inputs) ** 2))
    rows, background = {"x": drawn(3, 8, 1)}, {"x": drawn(1, 8, 0)}
    reference = make_reference(model, background)
    truth, _ = lime_limit(worths(model, rows, background), 0.75 * np.sqrt(8))

    def error() -> float:
        method = Lime(n_samples=200)
        runs = [attribute(method, model, rows, replace(reference, seed=seed)) for seed in range(40)]
        return float(np.mean([(run.values["x"] - truth) ** 2 for run in runs]))

    def single(seed: int, pairs: int, players: int, background: int, number: int) -> tuple:
        rng = np.random.default_rng((seed, number))
        return rng.random((2 * pairs, players)) < 0.5, rng.integers(background, size=2 * pairs)

    ours = error()
    monkeypatch.setattr("transforms.methods.masking.lime.samples", single)
    assert ours < 0.3 * error()


# -- samples -------------------------------------------------------------------------------------------


def test_samples_are_the_row_and_its_opposite_and_pairs_drawn_evenly() -> None:
    kept, base = samples(0, 5000, 6, 7, 0)
    assert kept[0].all()
    assert not kept[1].any()
    np.testing.assert_array_equal(kept[0::2], ~kept[1::2])
    np.testing.assert_array_equal(base[0::2], base[1::2])
    assert np.abs(kept[2::2].mean(axis=0) - 0.5).max() < 4 * 0.5 / np.sqrt(5000)
    assert np.abs(np.corrcoef(kept[2::2].T) - np.eye(6)).max() < 4 / np.sqrt(5000)
    counts = np.bincount(base[0::2], minlength=7)
    assert ((counts - 5000 / 7) ** 2 / (5000 / 7)).sum() < 25  # χ² with 6 degrees of freedom
    np.testing.assert_array_equal(samples(0, 5000, 6, 7, 0)[0], kept)
    for other in (samples(1, 5000, 6, 7, 0), samples(0, 5000, 6, 7, 1)):
        assert (other[0] != kept).any()
        assert (other[1] != base).any()


@pytest.mark.parametrize("n_samples", [40, 41, 200])
def test_it_costs_its_samples(n_samples: int) -> None:
    reference = make_reference(relu_network(), {"x": drawn(9, 14, 0)})
    method = Lime(n_samples=n_samples)
    before = relu_network().evaluations
    attribute(method, relu_network(), {"x": drawn(2, 14, 1)}, reference, device_batch_size=1)
    used = relu_network().evaluations - before
    assert method.evaluations_per_row(9, 14) == n_samples // 2 * 2
    assert used == 2 * (method.evaluations_per_row(9, 14) + 1)  # and a prediction


@pytest.mark.parametrize("size", [1, 3, 17, 100, 4096])
def test_how_samples_are_cut_into_calls_changes_nothing(size: int) -> None:
    kind, reference, _, _ = enumerated("tabular")
    method = Lime(n_samples=100, standard_error=True)
    whole = explain(method, kind, reference)
    found = explain(method, kind, reference, device_batch_size=size)
    np.testing.assert_allclose(flat(found.values), flat(whole.values), rtol=1e-4, atol=2e-6)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, reference, _, _ = enumerated("heads")
    method = Lime(n_samples=100, standard_error=True)
    whole = explain(method, kind, reference)
    for size in (1, 5000):
        monkeypatch.setattr("transforms.methods.masking.chunks.BLOCK_BYTES", size)
        found = explain(method, kind, reference)
        np.testing.assert_allclose(flat(found.values), flat(whole.values), rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(found.fit, whole.fit, rtol=1e-5)


# -- groups, and what is held fixed --------------------------------------------------------------------


def test_groups_and_fixed_features_against_the_limit() -> None:
    """Carrier and month as one, distance the row's own."""
    kind = CASES["categorical"]()
    of = {"carrier": 1, "month": 1, "origin": 0, "destination": 2, "distance": HELD}
    players = Players(
        ("origin", "when and who", "destination"),
        {name: value.shape[1:] for name, value in kind.rows.items()},
        {name: np.array([player]) for name, player in of.items()},
    )
    reference = replace(make_reference(kind.model, kind.background), players=players)
    method = Lime(n_samples=4000, standard_error=True)
    found = explain(method, kind, reference)
    played = worths(kind.model, kind.rows, kind.background, players.of)
    truth, fit = lime_limit(played, 0.75 * np.sqrt(3))
    order = ("origin", "carrier", "destination")
    values = np.column_stack([found.values[name][:, 0, 0] for name in order])
    errors = np.column_stack([found.standard_error[name][:, 0, 0] for name in order])
    assert (np.abs(values - truth[:, 0]) < 4 * errors).all()
    assert np.abs(values - truth[:, 0]).max() < 0.1 * np.abs(truth).max()
    assert (found.values["distance"] == 0).all()
    assert (found.values["month"] == 0).all()
    np.testing.assert_allclose(found.fit, fit, atol=0.05)


# -- tolerance, and what is refused --------------------------------------------------------------------


def test_a_tolerance_samples_only_the_rows_that_need_it_again() -> None:
    model = relu_network()
    near, far = drawn(4, 14, 6) * np.float32(0.02), drawn(3, 14, 7) * 2
    rows = {"x": np.concatenate([near, far])}
    reference = make_reference(model, {"x": np.zeros((1, 14), np.float32)})
    reference = replace(reference, spread=np.ones(1, np.float32))
    method = Lime(n_samples=100, standard_error=True)
    once = attribute(method, model, rows, reference)
    worst = once.standard_error["x"].max(axis=(1, 2))
    tolerance = float(worst[4:].min() * 0.7)
    assert (worst[:4] < tolerance).all()
    found = attribute(replace(method, tolerance=tolerance), model, rows, reference)
    np.testing.assert_allclose(found.values["x"][:4], once.values["x"][:4], atol=1e-6)
    np.testing.assert_allclose(found.fit[:4], once.fit[:4], atol=1e-6)
    assert (np.abs(found.values["x"][4:] - once.values["x"][4:]).max(axis=(1, 2)) > 1e-4).all()
    assert (found.fit[4:] != once.fit[4:]).all()
    assert (found.fit > 0).all()
    assert (found.fit <= 1).all()
    above = found.standard_error["x"].max(axis=(1, 2)) > tolerance
    np.testing.assert_array_equal(found.limited, above)
    hard = attribute(replace(method, tolerance=1e-9), model, rows, reference)
    assert hard.limited[4:].all()
    ratio = hard.standard_error["x"][4:] / once.standard_error["x"][4:]
    assert 0.6 < np.median(ratio) * np.sqrt(10) < 1.5


@pytest.mark.parametrize(
    ("method", "features", "says"),
    [
        (Lime(n_samples=100), 30, "100 samples under a kernel of width 4.11 count as 97"),
        (Lime(kernel_width=0.2), 50, "5000 samples under a kernel of width 0.2 count as 0"),
        (Lime(n_samples=1_000_000), 100_000, "does not fit into memory"),
    ],
)
def test_too_few_samples_are_refused_when_it_is_planned(method: Lime, features: int, says: str) -> None:
    players = Players(tuple(f"f{i}" for i in range(features)), {}, {})
    with pytest.raises(UserError, match="groups") as refused:
        method.check(players)
    assert says in str(refused.value)
    assert refused.value.where == "method.n_samples"
    Lime(n_samples=5000).check(Players(("a", "b"), {}, {}))


# -- end to end ----------------------------------------------------------------------------------------

TRIPS = "method={name: lime, n_samples: 200, standard_error: true}"


def test_through_the_pipeline_with_its_fit_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four features, one of them a string; shards and batches change no value; `show` prints the fit."""
    run = worlds.explained(worlds.trips(), TRIPS)
    table = run.attributions()
    values, fit = worlds.phi(table), table["fit"].to_numpy()
    assert table["convergence_delta"].null_count == len(table) == 199
    assert values.std(axis=0).min() > 0
    assert table.schema.field("standard_error").type == table.schema.field("attribution").type
    assert table.schema.field("fit").type == "float"
    assert ((fit >= 0) & (fit <= 1)).all()
    assert fit.std() > 0.01
    cut = worlds.explain(
        worlds.trips(), tmp_path / "cut", TRIPS, "compute.shard_rows=17", "compute.batch_size=5"
    )
    np.testing.assert_allclose(worlds.phi(cut.attributions()), values, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(cut.attributions()["fit"].to_numpy(), fit, rtol=1e-4, atol=1e-4)
    assert cli.run(["show", str(run.path), "trip 5"]) == 0
    shown = capsys.readouterr().out
    row = table.column("example_id").to_pylist().index("trip 5")
    assert f"{fit[row]:.3f}" in next(line for line in shown.splitlines() if line.strip().startswith("fit"))


def test_too_few_samples_end_the_plan_with_one_line() -> None:
    loaded = load_config(str(worlds.pictures()), settings=["method={name: lime, n_samples: 100}"])
    with pytest.raises(UserError) as refused:
        make_plan(loaded, in_process=True)
    assert "pictures.yaml: method.n_samples: 100 samples" in str(refused.value)
    assert "36 features need 148" in str(refused.value)
