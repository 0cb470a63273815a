"""Random numbers keyed by row: known vectors, moments, independence."""

from __future__ import annotations

import numpy as np
import pytest

from transforms.numerics.random import mix, normals, row_keys, stream, uniforms

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def test_mix_gives_splitmix64s_known_outputs() -> None:
    """The first outputs for the seeds 0 (Vigna's splitmix64.c) and 1234567 (Rosetta Code)."""
    with np.errstate(over="ignore"):
        states = np.arange(1, 6, dtype=np.uint64) * GOLDEN
        assert [hex(v) for v in mix(states)[:4]] == [
            "0xe220a8397b1dcdaf",
            "0x6e789e6aa1b965f4",
            "0x6c45d188009454f",
            "0xf88bb8a8724c81ec",
        ]
        assert mix(states + np.uint64(1234567)).tolist() == [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
            4593380528125082431,
            16408922859458223821,
        ]


def test_uniforms_are_splitmix64_streams_of_their_keys() -> None:
    keys = np.array([0, 1234567], np.uint64)
    drawn = uniforms(keys, 0, 2)
    assert drawn.shape == (2, 2)
    assert drawn[0, 0] == (0xE220A8397B1DCDAF >> 11) * 2.0**-53
    assert drawn[1, 1] == (3203168211198807973 >> 11) * 2.0**-53


def test_uniforms_have_a_uniforms_moments_and_no_correlations() -> None:
    keys = row_keys(3, np.arange(2000))
    drawn = uniforms(keys, 0, 500)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    number = drawn.size
    assert abs(drawn.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / number)
    assert abs(drawn.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / number)
    counts, _ = np.histogram(drawn, bins=100, range=(0, 1))
    assert ((counts - number / 100) ** 2 / (number / 100)).sum() < 99 + 4 * np.sqrt(2 * 99)
    centred = drawn - drawn.mean()
    for shifted in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):  # next counter, next row
        assert abs(shifted.mean() * 12) < 4 / np.sqrt(shifted.size)


def test_counters_continue_and_rows_do_not_see_each_other() -> None:
    keys = row_keys(0, np.arange(50))
    whole = uniforms(keys, 0, 40)
    np.testing.assert_array_equal(uniforms(keys, 25, 15), whole[25:])
    np.testing.assert_array_equal(uniforms(keys[[7, 3]], 0, 40), whole[:, [7, 3]])


def test_keys_and_streams_are_all_different() -> None:
    rows = np.arange(100_000)
    keys = [row_keys(seed, rows) for seed in (0, 1, 2**63, -1)]
    keys += [stream(keys[0], name) for name in (0, 1, 1 << 20)]
    assert len(np.unique(np.concatenate(keys))) == len(keys) * len(rows)
    np.testing.assert_array_equal(row_keys(5, np.array([70, 2])), row_keys(5, rows)[[70, 2]])
    drawn = np.stack([uniforms(some, 0, 1)[0] for some in keys])
    correlations = np.corrcoef(drawn)[np.triu_indices(len(keys), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(len(rows))


def test_normals_have_a_normals_moments_and_tails() -> None:
    drawn = normals(row_keys(1, np.arange(200)), 0, 50, 100).numpy()
    assert drawn.shape == (50, 200, 100)
    assert drawn.dtype == np.float32
    number, values = drawn.size, drawn.astype(np.float64)
    assert abs(values.mean()) < 4 / np.sqrt(number)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / number)
    assert abs((values**3).mean()) < 4 * np.sqrt(15 / number)
    assert abs((values**4).mean() - 3) < 4 * np.sqrt(96 / number)
    for bound, share in ((1, 0.3173105), (2, 0.0455003), (3, 0.0026998), (4, 6.334e-5)):
        beyond = (np.abs(values) > bound).mean()
        assert abs(beyond - share) < 5 * np.sqrt(share / number)
    assert 4.5 < np.abs(values).max() < 6


def test_normals_are_independent_of_each_other_and_of_the_call() -> None:
    keys = row_keys(1, np.arange(60))
    whole = normals(keys, 0, 30, 40).numpy()
    np.testing.assert_array_equal(normals(keys, 12, 18, 40).numpy(), whole[12:])
    np.testing.assert_array_equal(normals(keys[[9, 4]], 0, 30, 40).numpy(), whole[:, [9, 4]])
    for axis in range(3):  # copies, rows, elements
        moved = np.moveaxis(whole.astype(np.float64), axis, 0)
        neighbours = moved[1:] * moved[:-1]
        squares = (moved[1:] ** 2 - 1) * (moved[:-1] ** 2 - 1) / 2
        assert abs(neighbours.mean()) < 4 / np.sqrt(neighbours.size)
        assert abs(squares.mean()) < 4 / np.sqrt(squares.size)
    assert len(np.unique(whole)) > 0.99 * whole.size


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_key_gives_the_same_bits(seed: int) -> None:
    keys = row_keys(seed, np.arange(5))
    np.testing.assert_array_equal(uniforms(keys, 3, 4), uniforms(keys, 3, 4))
    np.testing.assert_array_equal(normals(keys, 3, 4, 5).numpy(), normals(keys, 3, 4, 5).numpy())
