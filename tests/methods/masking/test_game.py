"""Scores of coalitions: every way to them against masking by hand; memory, counts and non-finite values."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.support.models.games import Plain, World, mixed, smooth, worths
from tests.support.models.models_zoo import CASES, make_reference, pick, size_of
from transforms.methods.masking import game as games
from transforms.methods.masking.game import Game
from transforms.models.graphs import masked
from transforms.models.graphs.masked import MaskedModel
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.players import HELD, Players
from transforms.models.reference import Reference

#: A word and the vector's second value as one, the month held.
GROUPED = Players(
    ("word and a[1]", "a[0]", "b[0]", "b[1]"),
    {"carrier": (1,), "month": (1,), "a": (2,), "b": (2,)},
    {"carrier": np.array([0]), "month": np.array([HELD]), "a": np.array([1, 0]), "b": np.array([2, 3])},
)
WAYS = ("prefix", "raw", "plain")
BASE = (0, 4, 2, 2, 1, 3)


@cache
def raw_model(name: str) -> ScoredGraph:
    world = {"mixed": mixed, "smooth": lambda: smooth(4)}[name]()
    return ScoredGraph(world.model.adapter, world.model.shapes, affine_prefix=False)


def model_of(world: World, way: str) -> Any:
    if way == "plain":
        return Plain(world.predict)
    if way == "raw":
        return raw_model("mixed" if world is mixed() else "smooth")
    return world.model


def drawn(count: int, players: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, players)) < 0.5


@cache
def by_hand(grouped: bool) -> tuple[np.ndarray, np.ndarray]:
    """The scores of six coalitions: means over the background, and with a row of it for each, `[4, 6, 2]`."""
    world = mixed()
    players = GROUPED if grouped else world.reference().players
    means, ones = np.zeros((4, 6, 2)), np.zeros((4, 6, 2))
    for b in range(4):
        row = {name: value[b] for name, value in world.rows.items()}
        members = [np.flatnonzero(coalition).tolist() for coalition in drawn(6, players.count)]
        means[b] = worths(world.predict, row, world.background, players, members)
        for c in range(6):
            one = pick(world.background, slice(BASE[c], BASE[c] + 1))
            ones[b, c] = worths(world.predict, row, one, players, members[c : c + 1])[0]
    return means, ones


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device_batch_size", [1, 3, 7, 20, 64, 4096])
@pytest.mark.parametrize("players", [None, GROUPED], ids=["each", "grouped"])
def test_scores_are_those_of_rows_masked_by_hand(
    way: str, device_batch_size: int, players: Players | None
) -> None:
    """Strings, whole numbers and floats; groups and a held column; the background's mean, and by row."""
    world = mixed()
    reference = world.reference(players=players)
    coalitions = drawn(6, reference.players.count)
    base = np.array(BASE)
    game = Game(model_of(world, way), reference, device_batch_size)
    mean = game.scores(world.rows, world.targets, coalitions)
    chosen = game.scores(world.rows, world.targets[:, ::-1], coalitions, base)
    assert mean.shape == (4, 6, 2)
    assert mean.dtype == np.float64
    exact, one = by_hand(players is not None)
    np.testing.assert_allclose(mean, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(chosen[..., ::-1], one, rtol=1e-5, atol=1e-6)
    assert np.ptp(mean, axis=1).min() > 0.01  # coalitions matter


@pytest.mark.parametrize("way", ["prefix", "raw"])
def test_in_parts_it_is_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call's rows one after another, with what is the same for all of them made once."""
    monkeypatch.setattr(masked, "_BYTES_A_PART", 1)
    monkeypatch.setattr(masked, "_LEAST_POINTS", 5)
    world = mixed()
    reference, model = world.reference(), model_of(world, way)
    assert model.masked(reference).has_prefix == (way == "prefix")
    coalitions = drawn(6, reference.players.count)
    exact, one = by_hand(False)
    for size, parts in ((4096, 4), (40, 4), (10, 2), (5, 1)):
        game = Game(model, reference, size)
        mean = game.scores(world.rows, world.targets, coalitions)
        chosen = game.scores(world.rows, world.targets, coalitions, np.array(BASE))
        np.testing.assert_allclose(mean, exact, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(chosen, one, rtol=1e-5, atol=1e-6)
        assert parts in model.masked(reference)._compiled
    assert {made.traces for made in model.masked(reference)._compiled.values()} == {1}


@pytest.mark.parametrize("case", CASES)
def test_with_and_without_the_prefix_is_the_same(case: str) -> None:
    kind = CASES[case]()
    score = "probability" if case == "probability" else "auto"
    raw = ScoredGraph(kind.model.adapter, kind.model.shapes, score, affine_prefix=False)
    reference = make_reference(kind.model, kind.background)
    coalitions = drawn(9, reference.players.count)
    targets = np.broadcast_to(np.arange(kind.targets), (size_of(kind.rows), kind.targets))
    with_prefix, without, plain = (
        Game(model, reference, 100).scores(kind.rows, targets, coalitions)
        for model in (kind.model, raw, Plain(lambda inputs: raw.evaluate(inputs)[0]))
    )
    scale = np.abs(without).max()
    np.testing.assert_allclose(with_prefix, without, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(plain, without, rtol=1e-6, atol=1e-6 * scale)
    assert not raw.masked(reference).has_prefix
    expected = case in ("linear", "tabular", "categorical", "image", "probability")
    assert kind.model.masked(reference).has_prefix == expected


def test_many_outputs_of_which_rows_choose_some() -> None:
    """More outputs than are summed before the choice: each row's own."""
    import keras

    from tests.support.models.models_zoo import scored

    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,), name="x")
    model = scored(keras.Model(inputs, keras.layers.Dense(40)(keras.ops.sin(inputs))))
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    rows, background = {"x": x[:4]}, {"x": x[4:]}
    reference = make_reference(model, background)
    targets = np.array([[0, 39], [5, 5], [39, 1], [17, 16]])
    coalitions = drawn(5, 3)
    found = Game(model, reference, 16).scores(rows, targets, coalitions)
    everything = np.broadcast_to(np.arange(40), (4, 40))
    plain = Plain(lambda inputs: model.evaluate(inputs)[0])
    whole = Game(plain, reference, 16).scores(rows, everything, coalitions)
    np.testing.assert_allclose(found, np.take_along_axis(whole, targets[:, None], axis=2), rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device_batch_size", [1, 2, 16, 100, 5000])
def test_every_evaluation_is_asked_for_once_and_no_call_is_larger_than_allowed(
    way: str, device_batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = mixed()
    model, reference = model_of(world, way), world.reference(5)
    sizes: list[int] = []
    if way == "plain":
        evaluate = model.evaluate
        model.evaluate = lambda inputs: (sizes.append(size_of(inputs)), evaluate(inputs))[1]
    else:
        sums = MaskedModel.sums

        def spy(self: MaskedModel, inputs: Any, targets: Any, coalitions: Any, base: Any) -> Any:
            sizes.append(len(targets) * len(coalitions) * base.shape[1])
            return sums(self, inputs, targets, coalitions, base)

        monkeypatch.setattr(MaskedModel, "sums", spy)
    before = model.evaluations
    Game(model, reference, device_batch_size).scores(world.rows, world.targets, drawn(13, 6))
    assert sum(sizes) == model.evaluations - before == 4 * 13 * 5
    assert max(sizes) <= device_batch_size


@pytest.mark.parametrize("way", WAYS)
def test_a_value_that_is_replaced_is_not_felt_whatever_it_is(way: str) -> None:
    world = smooth(4) if way == "raw" else mixed()
    name = "x" if way == "raw" else "a"
    reference = world.reference(5)
    player = int(reference.players.of[name][0])
    clean = Game(model_of(world, way), reference, 64)
    coalitions = drawn(6, reference.players.count)
    for value in (np.nan, np.inf):
        rows = {k: v.copy() for k, v in world.rows.items()}
        rows[name][:, 0] = value
        without = coalitions & (np.arange(reference.players.count) != player)
        found = clean.scores(rows, world.targets, without)
        np.testing.assert_array_equal(found, clean.scores(world.rows, world.targets, without))
        spoilt = {k: v.copy() for k, v in reference.inputs.items()}
        spoilt[name][:, 0] = value
        bad = Reference(spoilt, reference.scores, reference.spread)
        kept = coalitions | (np.arange(reference.players.count) == player)
        found = Game(model_of(world, way), bad, 64).scores(world.rows, world.targets, kept)
        np.testing.assert_array_equal(found, clean.scores(world.rows, world.targets, kept))
        # Felt where it is kept; what of is the processor's affair: some make 0 of a ReLU of NaN.
        felt = clean.scores(rows, world.targets, kept)
        assert (felt != clean.scores(world.rows, world.targets, kept)).all()


def test_nan_is_a_value_where_the_model_takes_it_for_one() -> None:
    model = Plain(
        lambda inputs: np.where(np.isnan(inputs["x"]), 10.0, inputs["x"]).sum(axis=1, keepdims=True)
    )
    background = {"x": np.array([[1.0, np.nan], [3.0, 0.0]])}
    reference = Reference(background, model.evaluate(background)[0], np.ones(1))
    coalitions = np.array([[True, False], [False, True], [False, False]])
    found = Game(model, reference, 8).scores(
        {"x": np.array([[np.nan, 5.0]])}, np.zeros((1, 1), int), coalitions
    )
    np.testing.assert_allclose(found[0, :, 0], [10 + 5, 2 + 5, 2 + 5])


def test_few_graphs_are_traced_whatever_the_sizes() -> None:
    world = mixed()
    reference = world.reference(5)
    for size in (3, 50, 1000):
        for count in (1, 4, 9):
            Game(world.model, reference, size).scores(
                pick(world.rows, slice(0, 1 + count % 4)), world.targets[: 1 + count % 4], drawn(count, 6)
            )
    assert world.model.masked(reference) is world.model.masked(reference)
    compiled = world.model.masked(reference)._compiled
    assert [made.traces for made in compiled.values()] == [1]


def test_nobody_is_the_base_value_or_a_row_of_its_own_where_values_are_held() -> None:
    world = mixed()
    free, held = world.reference(), world.reference(players=GROUPED)
    before = world.model.evaluations
    base = Game(world.model, free, 64).empty_coalition(world.rows, world.targets)
    assert world.model.evaluations == before
    np.testing.assert_array_equal(base, np.broadcast_to(free.base_values, (4, 2)))
    own = Game(world.model, held, 64).empty_coalition(world.rows, world.targets)
    for b in range(4):
        row = {name: value[b] for name, value in world.rows.items()}
        exact = worths(world.predict, row, world.background, GROUPED, [()])
        np.testing.assert_allclose(own[b], exact[0], rtol=1e-5)
    assert np.ptp(own[:, 0]) > 1e-3


@pytest.mark.parametrize(
    ("rows", "width", "coalitions"), [(10, 3, 7), (1000, 1, 2000), (3, 500, 40000), (2, 9, 1)]
)
def test_blocks_cover_all_rows_and_targets_within_the_bound(
    rows: int, width: int, coalitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(games, "_HOST_BYTES", 1 << 20)
    world = mixed()
    seen = np.zeros((rows, width), int)
    game = Game(world.model, world.reference(), 64)
    for index, columns in game.blocks(np.zeros((rows, width), int), coalitions):
        seen[index, columns] += 1
        assert seen[index, columns].size * coalitions * 8 <= 1 << 20
    assert (seen == 1).all()
