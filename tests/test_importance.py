"""Importance against a pandas groupby, over any split into batches and any order of merging."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mergeable import check_merging

from transforms.importance import TABLE, ImportanceState
from transforms.slicing import ByColumn, labels

NAMES = ("distance", "Größe", "a=b")
TARGETS = ["late", "very late", "z"]
#: Text that a slice shows, by what the column holds; a string that reads null is not null.
CARRIERS = ["AA", "ÅØ", "a=b", "", "null", None]
SHOWN = {None: "null", "null": '"null"'}


def direct(values, targets, slices):
    """The table by pandas: every (slice, target, feature) grouped by itself."""
    found = []
    columns = {"": np.full(len(targets), "", object), **slices}
    for column, held in columns.items():
        shown = [f"{column}={SHOWN.get(value, value)}" if column else "" for value in held]
        frame = pd.DataFrame(values.T.astype(np.float64), columns=list(NAMES))
        frame = frame.assign(slice=shown, target=targets)
        long = frame.melt(["slice", "target"], var_name="feature", value_name="phi")
        long = long.assign(size=long.phi.abs(), above=long.phi > 0)
        grouped = long.groupby(["slice", "target", "feature"], sort=False)
        table = pd.DataFrame(
            {
                "rows": grouped.phi.size(),
                "mean_abs": grouped["size"].mean(),
                "mean": grouped.phi.mean(),
                "std": grouped.phi.std(ddof=0),
                "min": grouped.phi.min(),
                "max": grouped.phi.max(),
                "positive": grouped.above.mean(),
            }
        ).reset_index()
        total = table.groupby(["slice", "target"]).mean_abs.transform("sum")
        table["share"] = np.where(total > 0, table.mean_abs / total.where(total > 0, 1), 0.0)
        found.append(table)
    table = pd.concat(found, ignore_index=True)
    return table.assign(target_name=[TARGETS[target] for target in table.target])


def same_tables(found, expected):
    keys = ["slice", "target", "feature"]
    found, expected = (table.sort_values(keys).reset_index(drop=True) for table in (found, expected))
    for name in [*keys, "target_name", "rows", "min", "max"]:
        assert found[name].tolist() == expected[name].tolist(), name
    scale = max(1e-30, float(expected["max"].abs().max()), float(expected["min"].abs().max()))
    for name in ("mean_abs", "mean", "std"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9 * scale, err_msg=name)
    for name in ("positive", "share"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def summary(state):
    return state.to_table(TARGETS).to_pandas()


def adder(values, targets, slices):
    arrays = {column: pa.array(list(held), pa.string()) for column, held in slices.items()}
    found = labels([ByColumn(column) for column in arrays], arrays)
    return lambda state: state.update(values, targets, found)


@st.composite
def data(draw):
    rows, seed = draw(st.integers(1, 60)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scale = 10.0 ** draw(st.integers(-8, 8))
    offset = draw(st.sampled_from([0.0, 1.0, 1000.0]))
    values = ((rng.normal(size=(3, rows)) + offset) * scale).astype(np.float32)
    values[:, rng.random(rows) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0.0
    targets = rng.integers(0, draw(st.integers(1, 3)), rows)
    slices = {
        "carrier": np.array([CARRIERS[i] for i in rng.integers(0, draw(st.integers(1, 6)), rows)], object),
        "late": np.array([["true", "false", None][i] for i in rng.integers(0, 3, rows)], object),
    }
    cuts = np.sort(rng.integers(0, rows + 1, draw(st.integers(0, 6))))
    return values, targets, slices, [0, *cuts.tolist(), rows], seed


@settings(max_examples=20)
@given(data())
def test_any_split_and_any_order_equal_a_groupby(example):
    values, targets, slices, cuts, seed = example
    parts = [
        adder(values[:, a:b], targets[a:b], {name: held[a:b] for name, held in slices.items()})
        for a, b in itertools.pairwise(cuts)
    ]
    state = check_merging(
        lambda: ImportanceState(NAMES), parts, summary, same_tables, seed,
        round_trip=lambda state: ImportanceState.from_bytes(state.to_bytes()),
    )  # fmt: skip
    table = summary(state)
    same_tables(table, direct(values, targets, slices))
    for _, group in table.groupby(["slice", "target"]):
        assert group["rank"].tolist() == [1, 2, 3]
        assert (group.mean_abs.diff().dropna() <= 0).all()


def test_a_large_batch_in_blocks_equals_a_groupby():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 20_000)).astype(np.float32)  # more than a block a feature
    targets = np.tile([0, 1], 10_000)
    slices = {"carrier": np.array([CARRIERS[i] for i in rng.integers(0, 6, 20_000)], object)}
    state = ImportanceState(NAMES)
    adder(values, targets, slices)(state)
    same_tables(summary(state), direct(values, targets, slices))


def test_std_survives_a_mean_that_dwarfs_it():
    # A difference of sums of squares would give 0 or NaN here.
    values = np.tile(np.float32([1e6, 1e6 + 1]), 500)[None]
    state = ImportanceState(("x",))
    for part in np.split(values, 10, axis=1):
        state.update(part, np.zeros(100, np.int64), {})
    assert summary(state)["std"].tolist() == pytest.approx([0.5], rel=1e-9)


def test_the_table_is_in_order_with_ties_in_the_features_order():
    state = ImportanceState(NAMES)
    values = np.float32([[1, -1, 1, 1], [2, 2, -2, 2], [1, 1, 1, -1]])
    adder(values, np.array([0, 1, 0, 1]), {"s": ["b", None, "a", "b"], "a": ["x"] * 4})(state)
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
    state.update(np.zeros((2, 3), np.float32), np.zeros(3, np.int64), {})
    table = summary(state)
    assert table["share"].tolist() == [0, 0]
    assert table["positive"].tolist() == [0, 0]
    assert table["std"].tolist() == [0, 0]


def test_nothing_is_an_empty_table():
    state = ImportanceState(NAMES)
    state.update(np.zeros((3, 0), np.float32), np.zeros(0, np.int64), {"s": pa.array([], pa.string())})
    assert state.groups == ()
    table = ImportanceState.from_bytes(state.to_bytes()).to_table(TARGETS)
    assert table.schema == TABLE
    assert len(table) == 0


def test_states_of_other_features_do_not_merge():
    with pytest.raises(ValueError, match="different features"):
        ImportanceState(("a",)).merge(ImportanceState(("b",)))


def test_the_stored_form_is_small_and_the_same_bytes_every_time():
    state = ImportanceState(tuple(f"f{i}" for i in range(50)))
    rng = np.random.default_rng(0)
    state.update(rng.normal(size=(50, 100)).astype(np.float32), np.zeros(100, np.int64), {})
    assert state.to_bytes() == state.to_bytes()
    assert len(state.to_bytes()) < 5_000


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_a_state_keeps_nothing_of_the_batch_it_was_given(seed):
    values = np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32)
    state, targets = ImportanceState(NAMES), np.zeros(5, np.int64)
    state.update(values, targets, {})
    before = summary(state)
    values[:], targets[:] = 99, 2
    pd.testing.assert_frame_equal(summary(state), before)
