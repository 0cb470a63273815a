"""Occlusion against a loop over features, windows and background rows; it is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models.models_zoo import (
    CASES,
    Case,
    attribute,
    keras,
    linear,
    make_reference,
    ops,
    relu_network,
    size_of,
)
from transforms.errors import UserError
from transforms.methods.base import Attribution
from transforms.methods.masking.occlusion import Occlusion
from transforms.models.players import HELD, Players
from transforms.models.reference import Reference
from transforms.rows.schema import ExampleSchema, FeatureSpec

Place = tuple[str, tuple[int, ...]]
#: One of the files has its cities in a dictionary of its own.
_PLAIN = pa.schema(
    [
        ("city", pa.string()),
        ("hour", pa.int8()),
        ("distance", pa.float32()),
        ("wind", pa.float64()),
        ("trip", pa.string()),
    ]
)


def drawn(rows: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)


@cache
def case_of(name: str) -> tuple[Case, Reference]:
    found = CASES[name]()
    return found, make_reference(found.model, found.background)


def explain(
    method: Occlusion, case: Case, reference: Reference, device_batch_size: int = 4096
) -> Attribution:
    """All rows of a case with all its targets."""
    rows = size_of(case.rows)
    targets = np.broadcast_to(np.arange(case.targets), (rows, case.targets))
    return attribute(method, case.model, case.rows, reference, targets, device_batch_size=device_batch_size)


def loss(case: Case, hidden: list[Place]) -> np.ndarray:
    """Score − mean score with these places taken from each background row, `[B, T]`."""
    whole = case.model.evaluate(case.rows)[0].astype(np.float64)
    total = np.zeros_like(whole)
    size = size_of(case.background)
    for base in range(size):
        mixed = {name: value.copy() for name, value in case.rows.items()}
        for name, place in hidden:
            mixed[name][(slice(None), *place)] = case.background[name][(base, *place)]
        total += case.model.evaluate(mixed)[0]
    return whole - total / size


def places(case: Case) -> Iterator[Place]:
    for name, value in case.rows.items():
        for place in np.ndindex(*value.shape[1:]):
            yield name, place


def check(found: Attribution, case: Case, windows: list[list[Place]]) -> None:
    """Every value is the mean loss over the windows that cover it."""
    losses = [loss(case, window) for window in windows]
    assert np.ptp(losses) > 1e-2
    for name, place in places(case):
        mine = [lost for lost, window in zip(losses, windows, strict=True) if (name, place) in window]
        np.testing.assert_allclose(
            found.values[name][(..., *place)], np.mean(mine, axis=0), atol=3e-6, err_msg=f"{name}{place}"
        )


# -- one feature at a time -----------------------------------------------------------------------------


def test_linear_is_the_weight_times_the_distance_from_the_mean() -> None:
    background, rows = drawn(6, 3, 0), drawn(4, 3, 1)
    found = attribute(Occlusion(), linear(), {"x": rows}, make_reference(linear(), {"x": background}))
    expected = np.array([2, -3, 0.5]) * (rows - background.mean(axis=0))
    np.testing.assert_allclose(found.values["x"][:, 0], expected, rtol=1e-5, atol=3e-6)
    assert found.convergence_delta is None
    assert not found.limited.any()


@pytest.mark.parametrize("case", ["tabular", "categorical", "heads", "probability"])
def test_each_feature_alone_against_a_loop(case: str) -> None:
    """Strings and integers, matrices and several outputs among them."""
    kind, reference = case_of(case)
    check(explain(Occlusion(), kind, reference), kind, [[place] for place in places(kind)])


@pytest.mark.parametrize("size", [1, 5, 64, 4096])
def test_how_evaluations_are_cut_into_calls_changes_nothing(size: int) -> None:
    kind, reference = case_of("image")
    for method in (Occlusion(), Occlusion([3, 2, 1])):
        whole, found = (explain(method, kind, reference, batch) for batch in (1000, size))
        np.testing.assert_allclose(found.values["pixels"], whole.values["pixels"], atol=2e-6)


def test_blocks_of_rows_and_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, reference = case_of("image")
    for method in (Occlusion(), Occlusion([3, 2, 1])):
        whole = explain(method, kind, reference)
        for size in (1, 640):
            with monkeypatch.context() as patch:
                patch.setattr("transforms.methods.masking.chunks.BLOCK_BYTES", size)
                found = explain(method, kind, reference)
            np.testing.assert_allclose(found.values["pixels"], whole.values["pixels"], atol=2e-6)


def test_it_costs_an_evaluation_a_feature_and_background_row_and_one_more() -> None:
    model = relu_network()
    reference = make_reference(model, {"x": drawn(5, 14, 0)})
    before = model.evaluations
    attribute(Occlusion(), model, {"x": drawn(2, 14, 1)}, reference, device_batch_size=1)
    assert model.evaluations - before == 2 * (14 * 5 + 1) == 2 * Occlusion().evaluations_per_row(5, 14)


def test_windows_cost_an_evaluation_a_place() -> None:
    kind, reference = case_of("image")
    method, rows = Occlusion([3, 3, 1]), size_of(kind.rows)
    before = kind.model.evaluations
    explain(method, kind, reference, device_batch_size=1)
    used = kind.model.evaluations - before
    assert used == rows * (6 * 6 * reference.rows + 1) < rows * method.evaluations_per_row(reference.rows, 64)


# -- windows -------------------------------------------------------------------------------------------


def slid(name: str, shape: tuple[int, ...], window: list[int]) -> list[list[Place]]:
    """All places of a window, each as the values that it covers."""
    corners = product(*(range(size - extent + 1) for size, extent in zip(shape, window, strict=True)))
    return [[(name, tuple(np.add(corner, offset))) for offset in np.ndindex(*window)] for corner in corners]


@pytest.mark.parametrize("window", [[3, 3, 1], [2, 5, 1], [8, 8, 1], [1, 1, 1]])
def test_windows_on_an_image_against_a_loop(window: list[int]) -> None:
    kind, reference = case_of("image")
    check(explain(Occlusion(window), kind, reference), kind, slid("pixels", (8, 8, 1), window))


def test_features_of_other_rank_are_replaced_alone() -> None:
    kind, reference = case_of("heads")
    alone = [[("numbers", (place,))] for place in range(3)]
    windows = slid("series", (4, 2), [3, 2])
    check(explain(Occlusion([3, 2]), kind, reference), kind, windows + alone)


def test_a_window_of_one_value_is_no_window() -> None:
    kind, reference = case_of("image")
    one, none = (explain(Occlusion(window), kind, reference) for window in ([1, 1, 1], None))
    np.testing.assert_allclose(one.values["pixels"], none.values["pixels"], atol=1e-6)


def test_windows_slide_over_features_and_not_over_their_neighbours_in_a_vector() -> None:
    """A model of one vector: two numbers, and two features of three values; one of these in a group."""
    features = [
        FeatureSpec(name, "numeric", "float32", shape, pa.float32(), None, "x", start)
        for name, shape, start in (("a", (), 0), ("b", (3,), 1), ("c", (3,), 4), ("d", (), 7))
    ]
    schema = ExampleSchema(tuple(features), {"x": (8,)}, {})
    assert {k: v.tolist() for k, v in schema.players.tensors.items()} == {"b": [1, 2, 3], "c": [4, 5, 6]}
    kind = CASES["tabular"]()
    reference = replace(make_reference(kind.model, kind.background), players=schema.players)
    found = explain(Occlusion([2]), kind, reference)
    windows = [[("x", (i,)) for i in window] for window in ([0], [1, 2], [2, 3], [4, 5], [5, 6], [7])]
    check(found, kind, windows)
    grouped = replace(schema, groups={"g": ("a", "c")})
    assert list(grouped.players.tensors) == ["b"]
    reference = replace(make_reference(kind.model, kind.background), players=grouped.players)
    found = explain(Occlusion([2]), kind, reference)
    expected = loss(kind, [("x", (i,)) for i in (0, 4, 5, 6)])
    np.testing.assert_allclose(found.values["x"][..., 0], expected, atol=3e-6)
    expected = loss(kind, [("x", (1,)), ("x", (2,))])
    np.testing.assert_allclose(found.values["x"][..., 1], expected, atol=3e-6)


@pytest.mark.parametrize("window", [[3, 3], [3, 9, 1], [2, 2, 2], [4]])
def test_a_window_that_fits_nothing_is_refused(window: list[int]) -> None:
    players = Players.each({"pixels": (8, 8, 1), "age": ()})
    with pytest.raises(UserError, match=r"pixels has the shape \[8, 8, 1\]") as refused:
        Occlusion(window).check(players)
    assert refused.value.where == "method.window"
    Occlusion([3, 3, 1]).check(players)
    Occlusion().check(players)


# -- groups, and what is held fixed --------------------------------------------------------------------


def test_groups_go_together_and_fixed_features_stay() -> None:
    kind = CASES["categorical"]()
    of = {"carrier": 1, "month": 1, "origin": 0, "destination": 2, "distance": HELD}
    players = Players(
        ("origin", "when and who", "destination"),
        {name: value.shape[1:] for name, value in kind.rows.items()},
        {name: np.array([player]) for name, player in of.items()},
    )
    reference = replace(make_reference(kind.model, kind.background), players=players)
    found = explain(Occlusion(), kind, reference)
    expected = {
        "carrier": loss(kind, [("carrier", (0,)), ("month", (0,))]),
        "origin": loss(kind, [("origin", (0,))]),
        "destination": loss(kind, [("destination", (0,))]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found.values[name][..., 0], value, atol=3e-6)
    assert (found.values["month"] == 0).all()
    assert (found.values["distance"] == 0).all()


# -- end to end ----------------------------------------------------------------------------------------


def test_strings_and_numbers_through_the_pipeline(tmp_path: Path) -> None:
    """Against a loop over the model as Keras loads it; the hour is fixed, distance and wind are a group."""
    names = ("city", "hour", "distance", "wind")
    folder = worlds.trips().parent
    trips = pa.concat_tables(
        [
            pq.read_table(folder / f"trips-{part}.parquet", columns=[*names, "trip"]).cast(_PLAIN)
            for part in (1, 2)
        ]
    ).filter(pc.is_valid(pc.field("distance")))
    background = trips.slice(20, 4)
    pq.write_table(background, tmp_path / "background.parquet")
    run = worlds.explain(
        worlds.trips(),
        tmp_path / "run",
        "method=occlusion",
        "model.score=output",
        f"baseline={{kind: file, path: {tmp_path / 'background.parquet'}}}",
        "input.features=[city, {name: hour, fixed: true}, distance, wind]",
        "input.groups={road: [distance, wind]}",
        "compute.batch_size=17",
    )
    table = run.attributions()
    assert [field.name for field in table.schema.field("attribution").type] == ["city", "road"]
    assert table["convergence_delta"].null_count == len(table) == 199
    assert table["example_id"].to_pylist() == trips["trip"].to_pylist()
    model = keras.models.load_model(folder / "model.keras")

    def score(values: dict[str, np.ndarray]) -> np.ndarray:
        inputs = {name: ops.convert_to_tensor(values[name][:, None]) for name in names}
        return np.asarray(model(inputs), np.float64)[:, 0]

    rows, others = ({n: t[n].to_numpy(zero_copy_only=False) for n in names} for t in (trips, background))
    for column, hidden in enumerate([("city",), ("distance", "wind")]):
        replaced = [
            score({n: np.full_like(v, others[n][base]) if n in hidden else v for n, v in rows.items()})
            for base in range(4)
        ]
        expected = score(rows) - np.mean(replaced, axis=0)
        assert expected.std() > 1e-3
        np.testing.assert_allclose(worlds.phi(table)[:, column], expected, atol=2e-6)


def test_windows_through_the_pipeline() -> None:
    run = worlds.explained(worlds.pictures(), "method={name: occlusion, window: [3, 3, 1]}")
    images = np.load(worlds.pictures().parent / "images.npy")
    table = run.attributions()
    found = np.array(table["attribution"].combine_chunks().field("image").to_pylist())
    assert found.shape == (89, 6, 6, 1)
    # A corner is covered by one window alone: what is lost with the nine pixels around it.
    first = images[:1].astype(np.float32)
    without = first.copy()
    without[:, :3, :3] = 0
    model = keras.models.load_model(worlds.pictures().parent / "model.keras")
    below, (kernel, _) = keras.Model(model.inputs, model.layers[-1].input), model.layers[-1].get_weights()
    target = table["target"][0].as_py()
    logits = [np.asarray(below({"image": x}), np.float64)[0] @ kernel[:, target] for x in (first, without)]
    assert abs(logits[0] - logits[1]) > 1e-3
    np.testing.assert_allclose(found[0, 0, 0, 0], logits[0] - logits[1], atol=1e-5)


def test_a_window_that_fits_nothing_ends_the_plan_with_one_line() -> None:
    settings = ["method={name: occlusion, window: [3, 3]}"]
    with pytest.raises(UserError) as refused:
        make_plan(load_config(str(worlds.pictures()), settings=settings), in_process=True)
    text = str(refused.value)
    assert "pictures.yaml: method.window: a window of [3, 3] fits into no feature" in text
    assert "image has the shape [6, 6, 1]" in text
