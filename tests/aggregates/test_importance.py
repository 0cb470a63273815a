"""Importance against a pandas groupby, over any split into batches and any order of merging."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.mergeable import check_merging
from transforms.aggregates.importance import TABLE, ImportanceState, groups
from transforms.aggregates.importance.groups import SLICES, WHOLE
from transforms.aggregates.importance.quantiles import LEVELS, OCTAVES
from transforms.numerics.random import row_keys

NAMES = ("distance", "Größe", "a=b")
TARGETS = ["late", "very late", "z"]
#: Labels of slices, and None for a row that is in none.
CARRIERS = ["carrier=AA", "carrier=ÅØ", "carrier=a=b", "carrier=", "carrier=null", None]
QUANTILES = ["p05", "p25", "p50", "p75", "p95"]
ENDS = ["mean_abs_low", "mean_abs_high", "rank_low", "rank_high"]


def statistics(phi, weights):
    """Of the rows of one (slice, target, feature), by numpy; None where they have no weight."""
    some = weights > 0
    if not some.any():
        return None
    rows, phi, weights = len(phi), phi[some], weights[some]
    mean = np.average(phi, weights=weights)
    order = np.argsort(phi, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return {
        "rows": rows,
        "mean_abs": np.average(np.abs(phi), weights=weights),
        "mean": mean,
        "std": np.sqrt(np.average((phi - mean) ** 2, weights=weights)),
        "min": phi.min(),
        "max": phi.max(),
        "positive": np.average(phi > 0, weights=weights),
        **{
            name: phi[order][np.argmax(share >= level - 1e-9)]
            for name, level in zip(QUANTILES, LEVELS, strict=True)
        },
    }


def direct(values, targets, slices, weights):
    """The table by a loop over pandas' groups: every (slice, target, feature) by itself."""
    weights = np.ones(len(targets)) if weights is None else weights
    found = []
    for labels in ([""] * len(targets), *slices.values()):
        for (label, target), at in (
            pd.DataFrame({"l": labels, "t": targets}).groupby(["l", "t"]).groups.items()
        ):
            for name, phi in zip(NAMES, values[:, at].astype(np.float64), strict=True):
                told = statistics(phi, weights[at])
                if told is not None:
                    found.append({"slice": label, "target": target, "feature": name, **told})
    table = pd.DataFrame(found) if found else TABLE.empty_table().to_pandas()
    total = table.groupby(["slice", "target"]).mean_abs.transform("sum")
    table["share"] = np.where(total > 0, table.mean_abs / total.where(total > 0, 1), 0.0)
    return table.assign(target_name=[TARGETS[target] for target in table.target])


def in_order(*tables):
    keys = ["slice", "target", "feature"]
    return [table.sort_values(keys).reset_index(drop=True) for table in tables]


def agree(found, expected, names, scale):
    for name in ("slice", "target", "feature", "target_name", "rows", "min", "max"):
        assert found[name].tolist() == expected[name].tolist(), name
    for name in names:
        absolute = 1e-12 if name in ("positive", "share") else 1e-9 * scale
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=absolute, err_msg=name)


def scale_of(table):
    return max(1e-30, float(table["max"].abs().max()), float(table["min"].abs().max())) if len(table) else 1.0


def same_tables(found, expected):
    """Two ways to the same state: every column, the quantiles to the bit."""
    found, expected = in_order(found, expected)
    ends = ("mean_abs_low", "mean_abs_high")
    agree(found, expected, [name for name in TABLE.names[5:] if name not in ends], scale_of(expected))
    # Their skewness comes of sums of third powers, and of 1000 ± 1 these leave half of the digits.
    width = expected.mean_abs_high - expected.mean_abs_low + 1e-9 * scale_of(expected)
    for name in ends:
        assert ((found[name] - expected[name]).abs() <= 1e-2 * width).all(), name
    for name in (*QUANTILES, "rank_low", "rank_high"):
        assert found[name].tolist() == expected[name].tolist(), name


def check(found, expected):
    """A state's table against the direct one, with what no groupby tells."""
    for _, group in found.groupby(["slice", "target"]):
        assert group["rank"].tolist() == list(range(1, len(group) + 1))
        assert (group.mean_abs.diff().dropna() <= 0).all()
    assert np.isfinite(found[ENDS].astype(float)).all(axis=None)
    assert ((found.mean_abs_low <= found.mean_abs) & (found.mean_abs <= found.mean_abs_high)).all()
    assert ((found.rank_low <= found["rank"]) & (found["rank"] <= found.rank_high)).all()
    assert (found.mean_abs_low >= 0).all()
    found, expected = in_order(found, expected)
    agree(found, expected, ["mean_abs", "mean", "std", "positive", "share"], scale_of(expected))
    largest = found[["min", "max"]].abs().max(axis=1).groupby(found.feature).transform("max")
    whole, sliced = (steps[0][1].grid.bits for steps in (WHOLE, SLICES))
    relative = np.where(found["slice"] == "", 2.0 ** -(whole + 1), 2.0 ** -(sliced + 1))
    for name in QUANTILES:
        allowed = relative * expected[name].abs() + 2.0 ** (1 - OCTAVES) * largest
        assert ((found[name] - expected[name]).abs() <= allowed * (1 + 1e-9)).all(), name
        assert ((found["min"] <= found[name]) & (found[name] <= found["max"])).all(), name


def summary(state):
    return state.to_table(TARGETS).to_pandas()


def adder(values, targets, slices, keys=None, weights=None):
    arrays = {column: pa.array(list(labels), pa.string()) for column, labels in slices.items()}
    keys = row_keys(0, np.arange(len(targets))) if keys is None else keys
    return lambda state: state.update(values, targets, arrays, keys, weights)


@st.composite
def data(draw):
    rows, seed = draw(st.integers(1, 60)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scale = 10.0 ** draw(st.integers(-8, 8))
    offset = draw(st.sampled_from([0.0, 1.0, 1000.0]))
    values = ((rng.normal(size=(3, rows)) + offset) * scale).astype(np.float32)
    if draw(st.booleans()):  # the largest grows from batch to batch, over more octaves than are kept
        values *= (np.float32(10.0) ** np.linspace(-6, 0, rows)).astype(np.float32)
    values[:, rng.random(rows) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0.0
    targets = rng.integers(0, draw(st.integers(1, 3)), rows)
    slices = {
        "carrier": np.array([CARRIERS[i] for i in rng.integers(0, draw(st.integers(1, 6)), rows)], object),
        "late": np.array([["late", "in time", None][i] for i in rng.integers(0, 3, rows)], object),
    }
    weights = draw(
        st.sampled_from([None, rng.integers(0, 3, rows).astype(float), rng.exponential(size=rows)])
    )
    cuts = np.sort(rng.integers(0, rows + 1, draw(st.integers(0, 6))))
    return values, targets, slices, row_keys(seed, np.arange(rows)), weights, [0, *cuts.tolist(), rows], seed


@settings(max_examples=25)
@given(data())
def test_any_split_and_any_order_equal_a_groupby(example):
    values, targets, slices, keys, weights, cuts, seed = example
    parts = [
        adder(
            values[:, a:b],
            targets[a:b],
            {name: labels[a:b] for name, labels in slices.items()},
            keys[a:b],
            None if weights is None else weights[a:b],
        )
        for a, b in itertools.pairwise(cuts)
    ]
    state = check_merging(
        lambda: ImportanceState(NAMES), parts, summary, same_tables, seed,
        round_trip=lambda state: ImportanceState.from_bytes(state.to_bytes()),
    )  # fmt: skip
    check(summary(state), direct(values, targets, slices, weights))


def world(rows, weighted=False, seed=1):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, rows)).astype(np.float32)
    slices = {"carrier": np.array([CARRIERS[i] for i in rng.integers(0, 6, rows)], object)}
    return values, np.arange(rows) % 2, slices, rng.exponential(size=rows) if weighted else None


@pytest.mark.parametrize("weighted", [False, True])
def test_a_large_batch_in_blocks_equals_a_groupby(weighted):
    values, targets, slices, weights = world(20_000, weighted)  # more than a block a feature
    state = ImportanceState(NAMES)
    adder(values, targets, slices, weights=weights)(state)
    check(summary(state), direct(values, targets, slices, weights))


def test_weights_of_one_are_no_weights():
    values, targets, slices, _ = world(500)
    one, other = ImportanceState(NAMES), ImportanceState(NAMES)
    adder(values, targets, slices)(one)
    adder(values, targets, slices, weights=np.ones(500))(other)
    one, other = summary(one), summary(other)
    # The skewness is that of the buckets' middles where there are no weights, and else that of the rows.
    for name in ("mean_abs_low", "mean_abs_high"):
        np.testing.assert_allclose(other[name], one[name], rtol=5e-3)
        other[name] = one[name]
    same_tables(other, one)


def test_entries_with_and_without_weights_are_not_added_up():
    plain, weighted, unweighty = (ImportanceState(("x",)) for _ in range(3))
    adder(np.ones((1, 2)), np.zeros(2, int), {})(plain)
    adder(np.ones((1, 2)), np.zeros(2, int), {}, weights=np.ones(2))(weighted)
    adder(np.ones((1, 2)), np.zeros(2, int), {}, weights=np.zeros(2))(unweighty)
    with pytest.raises(ValueError, match="with weights and entries without"):
        plain.merge(weighted)
    for one, other in ((weighted, unweighty), (unweighty, weighted)):
        state = ImportanceState.from_bytes(one.to_bytes())
        state.merge(other)
        assert summary(state)["rows"].tolist() == [4]


def test_whole_weights_are_repeated_rows_but_for_the_rows_and_the_intervals():
    values, targets, slices, _ = world(200)
    weights = np.random.default_rng(0).integers(1, 4, 200)
    one, other = ImportanceState(NAMES), ImportanceState(NAMES)
    adder(values, targets, slices, weights=weights.astype(float))(one)
    again = np.repeat(np.arange(200), weights)
    adder(values[:, again], targets[again], {"carrier": slices["carrier"][again]})(other)
    names = ["mean_abs", "mean", "std", "min", *QUANTILES, "max", "positive", "share"]
    one, other = in_order(summary(one), summary(other))
    np.testing.assert_allclose(one[names], other[names], rtol=1e-9, atol=1e-12)
    assert one.rows.sum() == 2 * 3 * 200 - 3 * sum(label is None for label in slices["carrier"])


def test_a_slice_without_weight_is_not_written_until_it_has_some():
    state = ImportanceState(("x",))
    labels = {"s": ["s=a", "s=a", "s=b"]}
    adder(np.float32([[1, 2, 4]]), np.zeros(3, int), labels, weights=np.array([0.0, 0, 1]))(state)
    assert summary(state)["slice"].tolist() == ["", "s=b"]
    assert summary(state)["rows"].tolist() == [3, 1]
    other = ImportanceState.from_bytes(state.to_bytes())
    adder(np.float32([[8]]), np.zeros(1, int), {"s": ["s=a"]}, weights=np.array([0.5]))(other)
    state.merge(other)
    table = summary(state).set_index("slice")
    assert table["rows"].to_dict() == {"": 7, "s=a": 5, "s=b": 2}
    assert table["mean"].to_dict() == pytest.approx({"": (4 + 4 + 4) / 2.5, "s=a": 8, "s=b": 4})
    assert table["min"].to_dict() == {"": 4, "s=a": 8, "s=b": 4}


def test_more_rows_than_a_counter_holds_are_counted_in_floats(monkeypatch):
    values, targets, slices, _ = world(500)
    plain = ImportanceState(NAMES)
    adder(values, targets, slices)(plain)
    monkeypatch.setattr(groups, "_MOST_COUNTED", 100)
    many, merged = ImportanceState(NAMES), ImportanceState(NAMES)
    adder(values, targets, slices)(many)
    merged.merge(plain)
    for state in (many, merged):
        assert state._parts["whole"].counts.dtype == np.float64
        same_tables(summary(state), summary(plain))


def test_a_target_of_large_units_leaves_the_quantiles_of_a_small_one():
    rng = np.random.default_rng(0)
    phi = rng.normal([[0], [0.05]], [[3e5], [0.2]], (2, 20_000)).astype(np.float32)
    state = ImportanceState(("x",))
    targets = np.tile([0, 1], 20_000)
    adder(phi.T.reshape(1, -1), targets, {"s": ["s=a"] * 40_000})(state)
    table = summary(state)
    for name, level in zip(QUANTILES, LEVELS, strict=True):
        exact = np.quantile(phi, level, axis=1, method="inverted_cdf").tolist()
        assert table[name].tolist() == pytest.approx([*exact, *exact], rel=1 / 64), name
        assert table[name][:2].tolist() == pytest.approx(exact, rel=1 / 128), name


def test_a_long_tail_leaves_the_quantiles_of_what_is_small():
    phi = np.random.default_rng(0).lognormal(0, 2.5, (1, 1_000_000)).astype(np.float32)
    state = ImportanceState(("x",))
    adder(phi, np.zeros(phi.shape[1], int), {})(state)
    for name, level in zip(QUANTILES, LEVELS, strict=True):
        exact = np.quantile(phi, level, method="inverted_cdf")
        assert summary(state)[name].tolist() == pytest.approx([exact], rel=1 / 128), name


def test_what_has_no_weight_makes_nothing_coarser():
    state = ImportanceState(("x",))
    values, weights = np.float32([[1, 2, 3, 1e9]]), np.array([1.0, 1, 1, 0])
    adder(values, np.zeros(4, int), {"s": ["s=a"] * 4}, weights=weights)(state)
    assert summary(state)["p50"].tolist() == pytest.approx([2, 2], rel=0.02)
    assert summary(state)["max"].tolist() == [3, 3]


def test_dictionaries_that_repeat_themselves_and_hold_null_are_read_by_value():
    labels = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 3, None], pa.int8()), pa.array(["s=a", "s=b", "s=a", None])
    )
    state = ImportanceState(("x",))
    values, keys = np.float32([[1, 2, 3, 4, 5]]), row_keys(0, np.arange(5))
    state.update(values, np.zeros(5, np.int64), {"s": labels}, keys)
    assert summary(state).set_index("slice")["rows"].to_dict() == {"": 5, "s=a": 2, "s=b": 1}
    assert summary(state)["mean_abs"].tolist() == [3, 2, 2]


def test_small_slices_are_left_out_and_all_rows_are_not():
    state = ImportanceState(("x",))
    labels, weights = {"s": ["s=a", "s=a", "s=b"]}, np.array([0.1, 0.1, 9])
    adder(np.float32([[1, 2, 3]]), np.zeros(3, int), labels, weights=weights)(state)
    assert state.to_table(TARGETS, min_rows=2)["slice"].to_pylist() == ["", "s=a"]
    assert state.to_table(TARGETS, min_rows=4)["slice"].to_pylist() == [""]


def test_labels_are_in_the_order_that_people_give_them():
    labels = [
        "age=(-inf, -5)", "age=[-5, 0)", "age=[0, 5)", "age=[5, 10)", "age=[10, inf)", "age=null",
        "day=2013-01-02", "day=2013-01-10", "day=2013-02-01",
        "month=2", "month=10", "month=10 & origin=JFK", "month=10 & origin=LGA", "month=UA-2", "month=UA-10",
        "score=-1.5", "score=-0.25", "score=1e-3", "score=2",
    ]  # fmt: skip
    order = np.random.default_rng(0).permutation(len(labels))
    state = ImportanceState(("x",))
    slices = {
        name: [label if label.startswith(f"{name}=") else None for label in np.array(labels)[order]]
        for name in ("score", "month", "day", "age")
    }
    adder(np.ones((1, len(labels)), np.float32), np.zeros(len(labels), int), slices)(state)
    assert state.to_table(TARGETS)["slice"].to_pylist() == ["", *labels]


def test_std_survives_a_mean_that_dwarfs_it():
    # A difference of sums of squares would give 0 or NaN here.
    values = np.tile(np.float32([1e6, 1e6 + 1]), 500)[None]
    state = ImportanceState(("x",))
    for part in np.split(values, 10, axis=1):
        adder(part, np.zeros(100, np.int64), {})(state)
    assert summary(state)["std"].tolist() == pytest.approx([0.5], rel=1e-9)


def test_the_table_is_in_order_with_ties_in_the_features_order():
    state = ImportanceState(NAMES)
    values = np.float32([[1, -1, 1, 1], [2, 2, -2, 2], [1, 1, 1, -1]])
    adder(values, np.array([0, 1, 0, 1]), {"s": ["s=b", "s=null", "s=a", "s=b"], "a": ["a=x"] * 4})(state)
    table = state.to_table(TARGETS)
    assert table.schema == TABLE
    keys = list(dict.fromkeys(zip(table["slice"].to_pylist(), table["target"].to_pylist(), strict=True)))
    assert keys == [
        ("", 0),
        ("", 1),
        ("a=x", 0),
        ("a=x", 1),
        ("s=a", 0),
        ("s=b", 0),
        ("s=b", 1),
        ("s=null", 1),
    ]
    assert table["feature"].to_pylist()[:3] == ["Größe", "distance", "a=b"]
    assert table["rank"].to_pylist()[:3] == [1, 2, 3]
    assert table["share"].to_pylist()[:3] == pytest.approx([0.5, 0.25, 0.25])
    assert table["target_name"].to_pylist()[3] == "very late"


def test_zeros_have_no_share_and_are_not_positive():
    state = ImportanceState(("x", "y"))
    adder(np.zeros((2, 3), np.float32), np.zeros(3, np.int64), {})(state)
    table = summary(state)
    assert table["share"].tolist() == [0, 0]
    assert table["positive"].tolist() == [0, 0]
    assert table["std"].tolist() == [0, 0]


def test_nothing_is_an_empty_table():
    state = ImportanceState(NAMES)
    adder(np.zeros((3, 0), np.float32), np.zeros(0, np.int64), {"s": []})(state)
    assert state.groups == ()
    table = ImportanceState.from_bytes(state.to_bytes()).to_table(TARGETS)
    assert table.schema == TABLE
    assert len(table) == 0


def test_states_of_other_features_do_not_merge():
    with pytest.raises(ValueError, match="different features"):
        ImportanceState(("a",)).merge(ImportanceState(("b",)))


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_a_state_keeps_nothing_of_the_batch_it_was_given(seed):
    values = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
    state, targets = ImportanceState(NAMES), np.zeros(5, np.int64)
    keys, weights = row_keys(0, np.arange(5)), np.ones(5)
    state.update(values, targets, {}, keys, weights)
    before = summary(state)
    values[:], targets[:], keys[:], weights[:] = 99, 2, 0, 7
    pd.testing.assert_frame_equal(summary(state), before)


def test_weighted_tables_say_what_rows_weigh() -> None:
    values, keys = np.ones((3, 6), np.float32), row_keys(0, np.arange(6))
    weights = np.array([2.0, 0, 1, 0.5, 4, 0])
    state = ImportanceState(NAMES)
    state.update(values, np.zeros(6, np.int64), {"s": pa.array([*"aab", None, *"bb"])}, keys, weights)
    plain, table = state.to_table(TARGETS), state.to_table(TARGETS, weighted=True)
    assert plain.equals(table.select(plain.column_names))
    found = {row["slice"]: (row["rows"], row["weight"], row["effective_rows"]) for row in table.to_pylist()}
    assert found == {
        "": (6, 7.5, pytest.approx(7.5**2 / (4 + 1 + 0.25 + 16))),
        "a": (2, 2.0, pytest.approx(1.0)),
        "b": (3, 5.0, pytest.approx(25 / 17)),
    }
