"""Quantiles against numpy's, whatever the order of merging; what a run says of its deltas."""

import functools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.mergeable import check_merging
from transforms.aggregates.importance import ImportanceState
from transforms.aggregates.quality import Quality, Quantiles, distance_of, spread_of, yardsticks
from transforms.numerics.random import row_keys
from transforms.worker.shard import ShardResult

SHARES = (0.0, 0.01, 0.07, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


def through_json(quality):
    return Quality.from_json(json.loads(json.dumps(quality.to_json(), allow_nan=False)))


def check_quantiles(found, values):
    """Each within 1 % of the value that numpy picks, the last one exact."""
    expected = np.quantile(values, SHARES, method="inverted_cdf")
    quantiles = [found.quantile(share) for share in SHARES]
    np.testing.assert_allclose(quantiles, expected, rtol=0.01, atol=0)
    assert quantiles == sorted(quantiles)
    assert found.max == values.max() >= quantiles[-1]


@given(
    st.lists(
        st.one_of(
            st.just(0.0),
            st.floats(0, 1e300),
            st.floats(0.99, 1.02),
            st.integers(1, 1000).map(float),
            st.just(5e-324),
        ),
        min_size=1,
        max_size=200,
    ),
    st.integers(0, 2**32 - 1),
)
def test_quantiles_are_within_one_percent_of_numpys_in_any_order(numbers, seed):
    values = np.array(numbers)
    parts = np.array_split(values, seed % 5 + 1)
    state = check_merging(
        Quantiles,
        [lambda state, part=part: state.update(part) for part in parts],
        lambda state: (sorted(state.counts.items()), state.max, [state.quantile(s) for s in SHARES]),
        _equal,
        seed,
    )
    check_quantiles(state, values)


def _equal(found, expected):
    assert found == expected


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_quantiles_of_a_large_batch(scale):
    values = np.random.default_rng(0).lognormal(sigma=3, size=(5000, 4)) * scale
    state = Quantiles()
    state.update(values)
    check_quantiles(state, values)


def test_zeros_are_zeros_and_nothing_has_no_quantile():
    state = Quantiles()
    assert state.quantile(0.5) is None
    state.update(np.zeros(0))
    assert state.quantile(0.5) is None
    state.update(np.array([0.0, 0.0, 0.0, 2.0]))
    assert [state.quantile(share) for share in (0.5, 0.75, 0.76)] == [0, 0, pytest.approx(2, rel=0.005)]
    only = Quantiles()
    only.update(np.zeros(3))
    assert (only.quantile(0.99), only.max) == (0, 0)


def test_rounding_of_the_share_does_not_move_a_quantile():
    state = Quantiles()
    state.update(np.arange(1.0, 101.0))
    assert 0.07 * 100 > 7
    assert state.quantile(0.07) == pytest.approx(7, rel=0.01)


def test_what_is_not_finite_is_the_worst_there_is():
    state = Quantiles()
    state.update(np.array([1.0, np.nan, np.inf]))
    assert state.max == np.finfo(np.float64).max
    assert state.quantile(0.3) == pytest.approx(1, rel=0.005)
    assert state.quantile(1.0) > 1e300


def test_deltas_count_by_size_and_relative_to_the_spread_of_their_target():
    quality = Quality()
    delta = np.array([[-0.1, 3.0], [0.1, -4.0]], np.float32)
    spread = np.array([[2.0, 0.0], [2.0, 0.0]])
    quality.update(delta, spread, np.array([True, False]))
    found = quality.summary()
    assert found["max"] == 4.0
    assert found["p50"] == pytest.approx(0.1, rel=0.01)
    assert found["p99"] == pytest.approx(4, rel=0.01)
    # The second target's score never varies: it trips no limit.
    assert found["relative_p99"] == pytest.approx(0.05, rel=0.01)
    assert quality.limited == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [2.5, 3.0]),  # the larger of the two
        (2, [2.5, 0.5]),  # the distance only where there is no spread
    ],
)
def test_a_delta_is_measured_by_the_spread_or_by_how_far_the_scores_are_from_the_base_value(rows, expected):
    # Two targets: one score does not vary and is 2.5 from the base value, the other is all about 3 from it.
    spread, away = np.array([0.0, 0.5]), np.array([2.5, 3.0])
    np.testing.assert_array_equal(yardsticks(spread, away, rows), expected)


def test_distances_and_spreads_are_those_of_finite_scores():
    scores = np.array([[1.0, 5.0], [np.nan, 1.0], [3.0, 5.0]])
    np.testing.assert_allclose(spread_of(scores), [1.0, 0.0])
    base = np.array([[0.0, 4.0], [2.0, 4.0]])  # a base value of 1 and 4
    np.testing.assert_allclose(distance_of(scores, base), [np.sqrt(2.0), 1.0])
    np.testing.assert_array_equal(distance_of(scores[1:2], base), [0.0, 0.0])


def test_a_tiny_spread_or_a_delta_beyond_float32_does_not_break_the_figures():
    quality = Quality()
    quality.update(np.float32([[1.0, np.inf]]), np.array([[5e-324, 1.0]]), np.zeros(1, bool))
    assert quality.summary()["relative_p99"] > 1e300
    assert through_json(quality) == quality


def test_a_method_that_promises_no_sum_has_no_figures():
    quality = Quality()
    quality.update(None, np.ones((2, 1)), np.array([False, True]))
    assert quality.summary() is None
    assert quality.limited == 1


def add_deltas(quality, seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 6))
    delta = rng.normal(size=(rows, 2)).astype(np.float32)
    quality.update(delta, rng.uniform(size=(rows, 2)), rng.random(rows) < 0.5)


@given(st.integers(0, 2**32 - 1))
def test_quality_merges_in_any_order(seed):
    parts = [functools.partial(add_deltas, seed=seed + part) for part in range(4)]
    check_merging(Quality, parts, Quality.to_json, _equal, seed, through_json)


def add_ones(importance, rows):
    keys = row_keys(0, np.arange(rows))
    importance.update(np.ones((1, rows), np.float32), np.zeros(rows, np.int64), {}, keys)


@given(st.integers(0, 2**32 - 1))
def test_shard_results_merge_in_any_order(seed):
    rng = np.random.default_rng(seed)
    counts = [(int(rows), int(rng.integers(0, rows + 1))) for rows in rng.integers(1, 9, 4)]

    def add(result, rows, attributed):
        result.shards += 1
        result.read += rows
        result.attributed += attributed
        result.rejected += rows - attributed
        result.attributions += 2 * attributed
        result.seconds += rows / 8
        add_ones(result.importance, attributed)
        add_deltas(result.quality, rows)

    parts = [functools.partial(add, rows=rows, attributed=attributed) for rows, attributed in counts]

    def summary(result):
        figures = (result.shards, result.read, result.attributed, result.rejected, result.attributions)
        return (
            *figures,
            result.seconds,
            result.importance.to_table(["y"]).to_pylist(),
            result.quality.to_json(),
        )

    whole = check_merging(
        lambda: ShardResult.empty(("x",)), parts, summary, _equal, seed,
        lambda result: ShardResult.from_bytes(result.to_bytes()),
    )  # fmt: skip
    assert whole.read == sum(rows for rows, _ in counts)


def test_importance_and_quality_of_a_merged_result_are_its_own():
    one, other = ShardResult.empty(("x",)), ShardResult.empty(("x",))
    add_ones(other.importance, 2)
    other.quality.update(np.ones((2, 1), np.float32), np.ones((2, 1)), np.zeros(2, bool))
    one.merge(other)
    one.merge(other)
    assert ImportanceState.to_table(other.importance, ["y"])["rows"].to_pylist() == [2]
    assert other.quality.delta.counts == {0: 2}
    assert one.quality.delta.counts == {0: 4}
