"""Forecasts of nights: levels and seasons that are known, and rates of false alarms by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kstest

from transforms.statistics.forecast import forecast
from transforms.statistics.multiple_testing import benjamini_hochberg

Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def normal(rng: np.random.Generator, nights: int, series: int) -> np.ndarray:
    return rng.standard_normal((nights, series))


def heavy(rng: np.random.Generator, nights: int, series: int) -> np.ndarray:
    return rng.standard_t(5, (nights, series))


def persistent(rng: np.random.Generator, nights: int, series: int) -> np.ndarray:
    values = rng.standard_normal((nights, series))
    for night in range(1, nights):
        values[night] += 0.7 * values[night - 1]
    return values


@pytest.mark.parametrize("draw", [normal, heavy, persistent])
def test_a_night_without_a_change_raises_an_alarm_no_more_often_than_promised(draw: Draw) -> None:
    rng, alpha, nights = np.random.default_rng(1), 0.05, 500
    alarms = 0
    for _ in range(nights):
        values = draw(rng, 57, 40)
        q = benjamini_hochberg(forecast(values[:-1]).p_values(values[-1]))
        alarms += bool((q <= alpha).any())
    # Three standard errors above a rate of alpha.
    assert alarms / nights <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / nights)


def test_p_values_are_nearly_uniform_where_nothing_changes() -> None:
    rng = np.random.default_rng(2)
    p = []
    for _ in range(300):
        values = rng.standard_normal((57, 30))
        p.append(forecast(values[:-1]).p_values(values[-1])[:2])
    assert kstest(np.ravel(p), "uniform").statistic < 0.06


def test_the_level_of_a_constant_series_is_its_value_and_only_a_change_is_a_surprise() -> None:
    history = np.tile([3.0, -1.0], (30, 1))
    expected = forecast(history)
    np.testing.assert_array_equal(expected.level, [3.0, -1.0])
    np.testing.assert_array_equal(expected.p_values(np.array([3.0, -1.0])), [1.0, 1.0])
    np.testing.assert_array_equal(expected.p_values(np.array([3.1, -1.0])), [0.0, 1.0])


def test_a_weekly_season_is_expected() -> None:
    rng = np.random.default_rng(3)
    days = np.arange(57) % 7
    values = np.where(days == 6, 5.0, 0.0)[:, None] + 0.1 * rng.standard_normal((57, 1))
    # The night after the 56 known ones is a Monday.
    seasonal, plain = forecast(values[:-1], weekdays=days), forecast(values[:-1])
    assert abs(seasonal.level[0]) < 0.6
    assert abs(plain.level[0]) > 0.6
    assert seasonal.spread[0] < plain.spread[0] / 2


def test_missing_nights_are_left_out() -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((40, 2))
    with_gaps = np.insert(values, 10, np.nan, axis=0)
    np.testing.assert_allclose(forecast(with_gaps).level, forecast(values).level)
    assert np.isnan(forecast(np.full((5, 1), np.nan)).p_values(np.zeros(1))[0])


def test_a_calm_series_is_shrunk_towards_its_group() -> None:
    rng = np.random.default_rng(5)
    history = rng.standard_normal((40, 20))
    history[:, 0] *= 1e-3
    together = forecast(history).spread[0]
    apart = forecast(history, groups=np.arange(20)).spread[0]
    assert together > 100 * apart


def test_the_spread_is_at_least_the_floor() -> None:
    np.testing.assert_array_equal(forecast(np.zeros((20, 2)), floor=0.25).spread, [0.25, 0.25])
