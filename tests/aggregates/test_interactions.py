"""Interaction hints on functions whose attributions are known in closed form."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from transforms.aggregates.interactions import TABLE, find_interactions


def sample(
    values: Mapping[str, Any], phi: Mapping[str, Any], target: int = 0, kind: str | None = "sample"
) -> pa.Table:
    """Rows of one target as `report/sample.parquet` has them."""

    def struct(columns: Mapping[str, Any]) -> pa.StructArray:
        arrays = [column if isinstance(column, pa.Array) else pa.array(column) for column in columns.values()]
        return pa.StructArray.from_arrays(arrays, names=list(columns))

    attribution = {
        name: value if isinstance(value, pa.Array) else np.asarray(value, np.float32)
        for name, value in phi.items()
    }
    found = {
        "target": pa.array([target] * len(next(iter(values.values()))), pa.int32()),
        "target_name": pa.array([f"t{target}"] * len(next(iter(values.values())))),
        "attribution": struct(attribution),
        "feature": struct(values),
    }
    if kind is not None:
        found = {"kind": pa.array([kind] * len(found["target"])), **found}
    return pa.table(found)


def pairs(
    table: pa.Table, groups: Mapping[str, Sequence[str]] | None = None, **options: Any
) -> dict[Any, float]:
    names = [field.name for field in table.schema.field("attribution").type]
    found = find_interactions(table, names, groups or {}, **options)
    assert found.schema == TABLE
    assert all(0 < strength <= 1 for strength in found["strength"].to_pylist())
    return {(row["feature"], row["modulator"]): row["strength"] for row in found.to_pylist()}


def normal(seed: int, count: int = 1000, features: int = 3) -> tuple[np.ndarray, ...]:
    return tuple(np.random.default_rng(seed).normal(size=(features, count)))


# -- known answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_product_and_a_sum(seed: int) -> None:
    """Shapley values of x1·x2 + x3 against the zero row: the product is shared in halves."""
    a, b, c = normal(seed)
    found = pairs(sample({"a": a, "b": b, "c": c}, {"a": a * b / 2, "b": a * b / 2, "c": c}))
    assert set(found) == {("a", "b"), ("b", "a")}
    # Given a, all of the variance of a·b/2 is b's; in the tails a cell's rows differ in a, too.
    assert min(found.values()) > 0.85


def test_the_strength_is_a_share_of_the_variance() -> None:
    """φ = 3a + a·b: given a, b explains E[a²]/(9 + 1) = 0.1 of its variance."""
    a, b, c = normal(5, 2000)
    found = pairs(sample({"a": a, "b": b, "c": c}, {"a": 3 * a + a * b, "b": a * b, "c": c}))
    assert found["a", "b"] == pytest.approx(0.1, abs=0.02)
    assert set(found) == {("a", "b"), ("b", "a")}


def test_noise_lowers_the_share_and_nothing_else() -> None:
    """Half of the variance is of seven categories, which noise alone would fit a sixth of."""
    shares = []
    for seed in range(4):
        a, noise, _ = normal(60 + seed, 2000)
        kind = np.random.default_rng(seed).integers(0, 7, 2000)
        phi = (kind - 3) / 2 + noise
        found = pairs(sample({"a": a, "kind": kind.astype(str)}, {"a": phi, "kind": a}))
        shares.append(found["a", "kind"])
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)


def test_nothing_modulates_itself() -> None:
    """In 200 rows there are cells in which φ = sin 5a turns more than once."""
    a, b, c = normal(20, 200)
    assert pairs(sample({"a": a, "b": b, "c": c}, {"a": np.sin(5 * a), "b": b, "c": c})) == {}


@pytest.mark.parametrize("shape", [np.sin, np.square, np.sign, lambda x: 2 * x, np.exp])
@pytest.mark.parametrize("correlation", [0.5, 0.95, 0.999])
def test_correlated_inputs_of_an_additive_model_do_not_interact(shape: Any, correlation: float) -> None:
    a, b, c = normal(7)
    b = correlation * a + np.sqrt(1 - correlation**2) * b
    assert pairs(sample({"a": a, "b": b, "c": c}, {"a": shape(a), "b": shape(2 * b), "c": c})) == {}


def test_what_is_only_correlated_with_a_modulator_is_none() -> None:
    a, b, c = normal(8, 2000)
    c = 0.9 * b + np.sqrt(1 - 0.81) * c
    found = pairs(sample({"a": a, "b": b, "c": c}, {"a": a * b / 2, "b": a * b / 2, "c": c}))
    assert found["a", "b"] > 0.9
    assert found.get(("a", "c"), 0.0) < 0.02
    assert not [pair for pair in found if pair[0] == "c"]


def test_several_modulators_share_the_variance() -> None:
    """φ = a·(2b + c) + d: b explains 4/6, c 1/6 of it; d, which has a value of its own, 1/6."""
    a, b, c, d = normal(9, 2000, 4)
    found = pairs(
        sample({"a": a, "b": b, "c": c, "d": d}, {"a": a * (2 * b + c) + d, "b": b, "c": c, "d": d})
    )
    assert set(found) == {("a", "b"), ("a", "c"), ("a", "d")}
    assert list(found.values()) == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=0.05)
    assert sum(found.values()) <= 1


def test_categories_as_in_exclusive_or() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.choice(["no", "yes"], (3, 400))
    both = np.where(a == b, -0.25, 0.25)
    found = pairs(sample({"a": a, "b": b, "c": c}, {"a": both, "b": both, "c": np.zeros(400)}))
    assert found == {("a", "b"): pytest.approx(1, abs=0.02), ("b", "a"): pytest.approx(1, abs=0.02)}


def test_a_number_within_categories() -> None:
    """The slope of x depends on the carrier; the other categories, many and rare, say nothing."""
    rng = np.random.default_rng(2)
    carrier, plane = rng.choice(["UA", "AA", "DL"], 1500), rng.choice([f"N{i}" for i in range(300)], 1500)
    slope = np.select([carrier == "UA", carrier == "AA"], [1.0, -1.0], 0.0)
    x = rng.normal(size=1500)
    found = pairs(
        sample(
            {"x": x, "carrier": pa.array(carrier).dictionary_encode(), "plane": plane},
            {"x": slope * x, "carrier": slope * x, "plane": rng.normal(size=1500)},
        )
    )
    assert set(found) == {("x", "carrier"), ("carrier", "x")}
    assert found["x", "carrier"] > 0.9


def test_whole_numbers_of_few_values() -> None:
    rng = np.random.default_rng(3)
    hour, day = rng.integers(0, 24, 2000), rng.integers(0, 2, 2000).astype(bool)
    phi = np.where(day, 1, -1) * np.sin(hour / 24 * 2 * np.pi)
    found = pairs(sample({"hour": hour, "day": day}, {"hour": phi, "day": phi}))
    assert set(found) == {("hour", "day"), ("day", "hour")}
    assert found["hour", "day"] > 0.9


# -- groups, tensors, fixed features -------------------------------------------------------------------------


def test_groups_are_their_members() -> None:
    """φ of the group is (t·w)·c; t and w modulate nothing within it, and the group modulates c."""
    t, w, c = normal(10, 2000)
    d = np.random.default_rng(0).normal(size=2000)
    product = t * c + w
    table = sample({"t": t, "w": w, "c": c, "d": d}, {"weather": product, "c": t * c, "d": d})
    found = pairs(table, {"weather": ["t", "w"]})
    assert set(found) == {("weather", "c"), ("c", "weather")}
    assert found["weather", "c"] == pytest.approx(0.5, abs=0.1)
    assert found["c", "weather"] > 0.8
    # A group of an additive model: its members' own interaction is its own.
    table = sample({"t": t, "w": w, "c": c, "d": d}, {"weather": t * w, "c": c, "d": d})
    assert pairs(table, {"weather": ["t", "w"]}) == {}


def test_short_tensors_are_held_and_long_ones_only_modulate() -> None:
    rng = np.random.default_rng(4)
    short, long, x = rng.normal(size=(1000, 2)), rng.normal(size=(1000, 64)), rng.normal(size=1000)
    bright = long.mean(axis=1) * 8

    def tensor(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(
            pa.array(values.astype(np.float32).reshape(-1)), values.shape[1]
        )

    values = {"short": tensor(short), "long": tensor(long), "x": x}
    phi = {"short": tensor(short * x[:, None]), "long": tensor(long * x[:, None]), "x": x * bright}
    found = pairs(sample(values, phi))
    assert set(found) == {("short", "x"), ("x", "long")}
    # Pixels as lists of lists, which need not be of one length.
    values["long"] = pa.array(long.reshape(1000, 8, 8).tolist())
    assert set(pairs(sample(values, phi))) == {("short", "x"), ("x", "long")}
    values["long"] = pa.array([["a", "b"]] * 1000)
    assert set(pairs(sample(values, phi))) == {("short", "x")}


def test_a_feature_that_is_attributed_nothing_may_modulate() -> None:
    a, b, c = normal(11)
    assert set(pairs(sample({"a": a, "tariff": b, "c": c}, {"a": a * b, "c": c}))) == {("a", "tariff")}


# -- what must not matter ------------------------------------------------------------------------------------


def test_pure_noise_gives_nothing() -> None:
    rng = np.random.default_rng(12)
    for count in (150, 1000):
        values = {f"f{i}": rng.normal(size=count) for i in range(60)}
        for phi in (rng.standard_t(3, size=(60, count)), rng.lognormal(0, 1.5, size=(60, count))):
            assert pairs(sample(values, dict(zip(values, phi, strict=True)))) == {}


def test_missing_and_infinite_values_are_values() -> None:
    a, b, c = normal(13, 2000)
    phi = np.where(c > 0, a * b, 0.5) + 0.0
    gone = np.where(c > 0, b, np.nan)
    huge = np.where(a > 2.0, np.inf, a)
    found = pairs(sample({"a": huge, "b": pa.array(gone, from_pandas=True)}, {"a": phi, "b": np.zeros(2000)}))
    assert found["a", "b"] > 0.9
    names = pa.array([None if value > 0 else "x" for value in c])
    found = pairs(sample({"a": a, "s": names}, {"a": a * (c > 0), "s": np.zeros(2000)}))
    assert found == {("a", "s"): pytest.approx(0.5, abs=0.05)}


def test_constant_attributions_and_values() -> None:
    a, b, _ = normal(14)
    found = pairs(
        sample(
            {"a": a, "b": b, "one": np.ones(1000)}, {"a": np.zeros(1000), "b": np.full(1000, 0.1), "one": a}
        )
    )
    # Of a feature of one value, all that φ does is another's.
    assert found == {("one", "a"): pytest.approx(1.0, abs=0.05)}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_neither_scale_nor_the_order_of_rows(scale: float) -> None:
    a, b, c = normal(15)
    table = sample(
        {"a": scale * a, "b": 1e6 + b, "c": c}, {"a": scale * a * b, "b": scale * a * b, "c": c * 0}
    )
    found = pairs(table)
    assert set(found) == {("a", "b"), ("b", "a")}
    turned = pairs(table.take(np.random.default_rng(0).permutation(1000)))
    assert turned == {pair: pytest.approx(value, abs=0.02) for pair, value in found.items()}
    assert pairs(table) == found


def test_targets_are_apart_and_rows_that_were_not_drawn_do_not_count() -> None:
    a, b, c = normal(16)
    values = {"a": a, "b": b, "c": c}
    tables = [
        sample(values, {"a": a * b, "b": b, "c": c}, target=2),
        sample(values, {"a": a * c, "b": b, "c": c}, target=1),
        sample(values, {"a": a * b * c, "b": b * c, "c": c}, target=1, kind="largest"),
    ]
    found = find_interactions(pa.concat_tables(tables), ["a", "b", "c"], {})
    assert [(row["target"], row["target_name"], row["modulator"]) for row in found.to_pylist()] == [
        (1, "t1", "c"),
        (2, "t2", "b"),
    ]
    assert len(find_interactions(pa.concat_tables(tables), ["a", "b", "c"], {}, most_targets=1)) == 1


@pytest.mark.parametrize(
    "odd",
    [
        pa.nulls(400, pa.float32()),
        pa.array([["a"], []] * 200),
        pa.array([[1.0, None], []] * 200, pa.list_(pa.float32())),
        pa.array(np.random.default_rng(1).normal(size=400) * 1e300),
        pa.array(np.random.default_rng(1).normal(size=400).astype(np.float16)),
        pa.array([b"x", None] * 200),
        pa.array(2**63 - 1 - np.arange(400)),
        pa.array([np.inf, -np.inf, np.nan, 0.0] * 100),
    ],
    ids=lambda array: str(array.type),
)
def test_values_of_any_kind(odd: pa.Array) -> None:
    """Alone, and beside an interaction that stays."""
    a, b, _ = normal(22, 400)
    noise = np.random.default_rng(2).normal(size=400)
    assert pairs(sample({"odd": odd}, {"odd": noise})) == {}
    found = pairs(sample({"a": a, "odd": odd, "b": b}, {"a": a * b, "odd": noise * 1e-3, "b": b * 0}))
    assert set(found) == {("a", "b")}


def test_many_targets_are_asked_for_fewer_features_each() -> None:
    rng = np.random.default_rng(21)
    values = {f"f{i}": rng.normal(size=120) for i in range(12)}
    mixed = {f"f{i}": values[f"f{i}"] * values["f11"] * 0.5**i for i in range(11)}
    one = sample(values, mixed | {"f11": 0 * values["f11"]})
    found = find_interactions(one, list(values), {}, most_features=12)
    assert len(found) == 11
    many = [one.set_column(1, "target", pa.array([at] * 120, pa.int32())) for at in range(4)]
    found = find_interactions(pa.concat_tables(many), list(values), {}, most_features=12)
    assert found["feature"].to_pylist() == [f"f{i}" for i in range(6)] * 4


def test_few_rows_say_nothing() -> None:
    a, b, c = normal(17, 99)
    assert pairs(sample({"a": a, "b": b, "c": c}, {"a": a * b, "b": a * b, "c": c})) == {}
    assert pairs(sample({"a": a[:0]}, {"a": a[:0]})) == {}


def test_bounds_and_order() -> None:
    """Eight modulators: the five strongest, strongest first; only the most important features are asked."""
    rng = np.random.default_rng(18)
    values = {f"f{i}": rng.normal(size=2000) for i in range(9)}
    weights = np.arange(8, 0, -1)
    mixed = sum(weight * values[f"f{i + 1}"] for i, weight in enumerate(weights))
    phi = {name: 0.01 * value for name, value in values.items()} | {"f0": values["f0"] * mixed}
    found = pairs(sample(values, phi))
    assert list(found) == [("f0", f"f{i}") for i in (1, 2, 3, 4, 5)]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    phi["f0"] = phi["f0"] * 1e-6
    assert pairs(sample(values, phi), most_features=1) == {}
    phi["f1"] = values["f1"]
    assert set(pairs(sample(values, phi), most_modulators=1)) == {("f0", "f1")}


def test_five_hundred_features_take_seconds() -> None:
    rng = np.random.default_rng(19)
    values = {f"f{i}": rng.normal(size=1000) for i in range(500)}
    phi = {f"f{i}": values[f"f{i}"] * values[f"f{(i + 1) % 500}"] * 0.9**i for i in range(500)}
    table = sample(values, phi)
    start = time.process_time()
    found = pairs(table)
    assert time.process_time() - start < 6  # a second or so here
    assert set(found) == {(f"f{i}", f"f{i + 1}") for i in range(50)}
