"""Who moves together, and where the attribution of a player stands."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from transforms.models.players import HELD, Players, value_names
from transforms.rows.schema import ExampleSchema, FeatureSpec


def feature(name: str, shape: tuple[int, ...], start: int, *, fixed: bool = False) -> FeatureSpec:
    return FeatureSpec(name, "numeric", "float32", shape, pa.float32(), None, "x", start, fixed)


SCHEMA = ExampleSchema(
    (
        feature("temp", (), 0),
        feature("fixed", (2,), 1, fixed=True),
        feature("grid", (2, 2), 3),
        feature("wind", (), 7),
        feature("rain", (2,), 8),
    ),
    {"x": (10,)},
    {"weather": ("rain", "temp")},
)


def test_every_value_plays_for_itself_unless_told_otherwise() -> None:
    players = Players.each({"x": (2,), "y": (), "z": (1, 2)})
    assert players.names == ("x[0]", "x[1]", "y", "z[0, 0]", "z[0, 1]")
    assert {name: of.tolist() for name, of in players.of.items()} == {"x": [0, 1], "y": [2], "z": [3, 4]}
    assert not players.holds
    assert players.count == 5


def test_a_group_is_one_player_and_what_is_fixed_is_none() -> None:
    players = SCHEMA.players
    assert players.names == ("weather", *value_names("grid", (2, 2)), "wind")
    assert players.of["x"].tolist() == [0, HELD, HELD, 1, 2, 3, 4, 5, 0, 0]
    assert players.holds


def test_a_mask_keeps_a_players_values_and_all_that_is_held() -> None:
    coalitions = np.zeros((3, 6), bool)
    coalitions[1, [0, 4]] = True
    coalitions[2] = True
    masks = SCHEMA.players.masks(coalitions)["x"].astype(int)
    assert masks.tolist() == [
        [0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 0, 1, 1],
        [1] * 10,
    ]


def test_attributions_come_back_by_feature_and_group() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 6))
    found = SCHEMA.split(SCHEMA.players.to_inputs(values))
    assert list(found) == ["weather", "grid", "wind"]
    np.testing.assert_array_equal(found["weather"], values[..., 0].astype(np.float32))
    np.testing.assert_array_equal(found["grid"].reshape(4, 3, 4), values[..., 1:5].astype(np.float32))
    np.testing.assert_array_equal(found["wind"], values[..., 5].astype(np.float32))


def test_a_player_of_two_inputs_is_attributed_to_once() -> None:
    players = Players(("both",), {"a": (2,), "b": ()}, {"a": np.array([HELD, 0]), "b": np.array([0])})
    found = players.to_inputs(np.full((1, 1, 1), 2.5))
    assert found["a"].tolist() == [[[0, 2.5]]]
    assert found["b"].tolist() == [[0]]
