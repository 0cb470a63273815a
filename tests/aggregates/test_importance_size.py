"""What a state takes, stored and in memory; states of thousands of groups grow coarser in any order."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from transforms.aggregates.importance import ImportanceState, state_bytes
from transforms.aggregates.importance.groups import SLICES, WHOLE, Resolutions, resolution
from transforms.aggregates.importance.quantiles import LEVELS, Coded, Grid, coarser, raised, tops_of
from transforms.numerics.random import row_keys


def state_of(features: int, rows: int, slices: int, seed: int = 0, weighted: bool = False) -> ImportanceState:
    rng = np.random.default_rng(seed)
    state = ImportanceState(tuple(f"f{at}" for at in range(features)))
    step = 4096
    for first in range(0, rows, step):
        count = min(step, rows - first)
        values = rng.normal(size=(features, count)).astype(np.float32)
        labels = pa.array([f"s={at}" for at in rng.integers(0, slices, count)]).dictionary_encode()
        keys = row_keys(seed, np.arange(first, first + count))
        weights = rng.exponential(size=count) if weighted else None
        state.update(values, np.zeros(count, np.int64), {"s": labels}, keys, weights)
    return state


def test_the_stored_form_is_small_and_the_same_bytes_every_time() -> None:
    state = state_of(20, 20_000, 20)
    data = state.to_bytes()
    assert data == state.to_bytes() == ImportanceState.from_bytes(data).to_bytes()
    assert 50_000 < len(data) < 500_000


def test_states_of_a_hundred_shards_merge() -> None:
    data = state_of(20, 4_000, 20).to_bytes()
    total = ImportanceState.from_bytes(data)
    for _ in range(99):
        total.merge(ImportanceState.from_bytes(data))
    assert total.to_table(["y"])["rows"][0].as_py() == 400_000


def held(state: ImportanceState) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for part in state._parts.values() for array in part.to_arrays().values())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("features", "slices"), [(2, 3), (50, 20), (100, 90), (64, 300), (500, 120)])
def test_the_bound_of_memory_holds(features: int, slices: int, weighted: bool) -> None:
    state = state_of(features, 500, slices, weighted=weighted)
    found = len({label for _, label, _ in state.groups if label})
    bound = state_bytes(features, 1, found, weighted=weighted)
    assert 0.3 * bound < held(state) <= bound < 200e6


@pytest.mark.parametrize("steps", [WHOLE, SLICES])
def test_every_step_is_a_coarser_one_of_that_before(steps: Resolutions) -> None:
    for (_, one), (_, other) in itertools.pairwise(steps):
        assert other.grid.bits < one.grid.bits
        assert other.grid.octaves <= one.grid.octaves
        assert one.row_buckets % other.row_buckets == 0
    assert resolution(steps, steps[0][0]) == steps[0][1]
    assert resolution(steps, steps[0][0] + 1) == steps[1][1]


def test_states_that_grow_past_a_step_merge_in_any_order() -> None:
    features, slices = 48, 1000  # past four steps
    rng = np.random.default_rng(2)
    parts = []
    for _ in range(6):
        some = rng.choice(slices, 250, replace=False)
        rows = 2000
        values = (rng.normal(size=(features, rows)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
        labels = pa.array([f"s={at}" for at in rng.choice(some, rows)])
        parts.append((values, labels, row_keys(0, rng.integers(0, 1 << 60, rows))))

    def filled(order: list[int], alone: bool) -> ImportanceState:
        states = [ImportanceState(tuple(f"f{at}" for at in range(features)))]
        for at in order:
            values, labels, keys = parts[at]
            if alone:
                states.append(ImportanceState(states[0].features))
            states[-1].update(values, np.zeros(values.shape[1], np.int64), {"s": labels}, keys)
        for state in states[1:]:
            states[0].merge(state)
        return states[0]

    one, other, third = (
        filled([0, 1, 2, 3, 4, 5], False),
        filled([5, 3, 1, 0, 2, 4], True),
        filled([4, 2, 0, 5, 1, 3], True),
    )
    assert one._parts["slices"].resolution.grid.bits < 3
    assert one.to_table(["y"])["p50"].to_pylist() == other.to_table(["y"])["p50"].to_pylist()
    for column in ("mean_abs_low", "rank_low", "rank_high", "p05", "p95"):
        first, *rest = (state.to_table(["y"])[column].to_numpy() for state in (one, other, third))
        for found in rest:
            np.testing.assert_allclose(found, first, rtol=1e-9)
    table = one.to_table(["y"]).to_pandas().set_index(["slice", "feature"])
    label = parts[0][1][0].as_py()
    mine = [values[3][[text == label for text in labels.to_pylist()]] for values, labels, _ in parts]
    phi = np.sort(np.concatenate(mine).astype(np.float64))
    largest = max(float(np.abs(values[3]).max()) for values, _, _ in parts)
    for level in LEVELS:
        exact = phi[int(np.ceil(level * len(phi) - 1e-9)) - 1]
        found = table.loc[(label, "f3"), f"p{round(100 * level):02d}"]
        assert abs(found - exact) <= 2.0**-2 * abs(exact) + 2.0**-31 * largest


def counted(values: np.ndarray, tops: np.ndarray, grid: Grid) -> np.ndarray:
    """Counts by bucket, `[1, features, buckets]`."""
    numbers = Coded(values, tops).buckets(grid)
    return np.bincount(numbers.ravel(), minlength=len(values) * grid.buckets).reshape(1, len(values), -1)


def test_on_a_coarser_grid_values_are_counted_as_if_they_always_had_been() -> None:
    rng = np.random.default_rng(0)
    values = (rng.lognormal(0, 6, (2, 20_000)) * rng.choice([-1, 0, 1], (2, 20_000))).astype(np.float32)
    grids = [resolution.grid for steps in (WHOLE, SLICES) for _, resolution in steps]
    tops = tops_of(values)
    for old in grids:
        for new in grids:
            if new.bits > old.bits or new.octaves > old.octaves:
                continue
            wanted = counted(values, tops + 5, new)
            first = counted(values, tops, old)
            for feature in range(2):
                raised(first[:, feature], 5, old)
            assert (coarser(first, old, new) == wanted).all()
            last = coarser(counted(values, tops, old), old, new)
            for feature in range(2):
                raised(last[:, feature], 5, new)
            assert (last == wanted).all()
