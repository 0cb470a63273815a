"""Forecasts of tonight's statistics from earlier nights, and how surprising tonight is.

The null hypothesis is how nights usually differ. It is never that rows are independent: the spread between
nights is up to 98 times the standard error within a night.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

#: Weight of the newest night in the level (exponential smoothing).
SMOOTHING = 0.2
#: Weight, in nights, of the mean variance of a group towards which a series' own variance is shrunk.
PRIOR_DF = 10
#: Degrees of freedom of the p-values where there are too few errors to fit them.
TAIL_DF = 20.0
#: Degrees of freedom that are tried, from very heavy tails to nearly normal ones.
_TAILS = (2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 40.0)
#: Difference of log-likelihoods up to which tails fit about as well.
_AS_GOOD = 2.0
#: Fewest forecast errors, over all series, to fit the tail.
_FEWEST_ERRORS = 200
#: Nights of a weekday that count as the prior of no season.
_SEASON_PRIOR = 4.0


@dataclass(frozen=True)
class Forecast:
    """A forecast of `K` series for one night.

    Args:
      level: The expected value of each series, `[K]`; NaN where a series has no history.
      spread: The expected size of a forecast error, `[K]`.
      tail: Degrees of freedom of the errors' distribution, Student's t, and its scale in spreads.
    """

    level: np.ndarray
    spread: np.ndarray
    tail: tuple[float, float] = (TAIL_DF, 1.0)

    def p_values(self, tonight: np.ndarray) -> np.ndarray:
        """Two-sided p-values of tonight's values `[K]`; NaN where there is no forecast.

        The distribution is Student's t with the degrees of freedom and the scale of `tail`.
        """
        freedom, scale = self.tail
        with np.errstate(invalid="ignore", divide="ignore"):
            surprise = np.abs(tonight - self.level) / (self.spread * scale)
        # Equal values without any spread are no surprise.
        surprise = np.where((tonight == self.level) & (self.spread == 0), 0.0, surprise)
        p: np.ndarray = 2.0 * student.sf(surprise, freedom)
        return p


def forecast(
    history: np.ndarray,
    *,
    window: int = 28,
    weekdays: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    floor: np.ndarray | float = 0.0,
    fit_tail: bool = True,
) -> Forecast:
    """Forecasts tonight's values from earlier nights.

    The level follows the series by exponential smoothing. The spread is the root mean square of the
    one-night-ahead errors over the window, in which each series' variance is shrunk towards the mean variance
    of its group, as in limma's moderated t-statistics: a series that happened to be calm would otherwise
    raise an alarm at its first ordinary move.

    Args:
      history: The values of `K` series on `N` earlier nights, oldest first, `[N, K]`; NaN where a night has
        none. Up to twice the window is used.
      window: Nights whose errors make up the spread.
      weekdays: The day of the week of each night and of tonight, `[N + 1]`; None assumes no weekly season.
      groups: The group of each series, `[K]` integers; None takes them as one group.
      floor: Smallest spread, `[K]` or one number: the sampling error of tonight's value.
      fit_tail: Fit the tail of the errors' distribution to the errors of all series; otherwise it is fixed.
    Returns:
      The forecast. A series with fewer than two earlier values has no spread, which is NaN.
    Reference: Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1), for the shrunken variances; Hyndman and
    Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., ch. 8, for the smoothing.
    Cost: O(N · K).
    """
    recent = history[-2 * window :]
    season = None if weekdays is None else _season(recent, weekdays[-len(recent) - 1 :])
    values = recent if season is None else recent - season[:-1]
    level, errors = _smooth(values)
    errors = errors[-window:]
    spread = _spread(errors, groups)
    tail = _tail(errors, spread) if fit_tail else (TAIL_DF, 1.0)
    if season is not None:
        level = level + season[-1]
    return Forecast(level, np.fmax(spread, floor), tail)


def _smooth(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooths series `[N, K]` exponentially; returns the last level `[K]` and the errors ahead `[N, K]`.

    In the first nights the weight of a new value is that of a mean, so that the first night is not favoured.
    """
    level = np.full(values.shape[1], np.nan)
    errors = np.full(values.shape, np.nan)
    seen = np.zeros(values.shape[1])
    for night, value in enumerate(values):
        errors[night] = value - level
        known = np.isfinite(value)
        seen += known
        weight = np.maximum(SMOOTHING, 1.0 / np.maximum(seen, 1.0))
        moved = np.where(np.isnan(level), value, level + weight * (value - level))
        level = np.where(known, moved, level)
    return level, errors


def _spread(errors: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Root mean square of errors `[N, K]`, each variance shrunk towards the mean variance of its group."""
    count = np.isfinite(errors).sum(axis=0)
    squares = np.nansum(errors**2, axis=0)
    own = np.divide(squares, count, out=np.full(len(count), np.nan), where=count > 0)
    groups = np.zeros(len(count), int) if groups is None else groups
    known = np.isfinite(own)
    members = np.bincount(groups[known], minlength=groups.max(initial=0) + 1)
    sums = np.bincount(groups[known], own[known], minlength=len(members))
    prior = np.divide(sums, members, out=np.full(len(members), np.nan), where=members > 0)[groups]
    shrunk = (PRIOR_DF * prior + squares) / (PRIOR_DF + count)
    spread: np.ndarray = np.sqrt(np.where(count > 0, shrunk, np.nan))
    return spread


def _tail(errors: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Fits Student's t to the standardised errors of all series `[N, K]`.

    Nights of rare weather or holidays give forecast errors heavier tails than a normal distribution has.
    Without them in the p-values, alarms would come several times as often as promised.

    Returns:
      The degrees of freedom, by maximum likelihood over a grid, and the scale that matches the median error.
    """
    count = np.isfinite(errors).sum(axis=0)
    # An error is compared with the spread of the others, or else it could never look large.
    others = (spread**2 * (PRIOR_DF + count) - np.nan_to_num(errors) ** 2) / (PRIOR_DF + count - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        standard = np.abs(errors) / np.sqrt(others)
    standard = standard[np.isfinite(standard) & (standard > 0)]
    if len(standard) < _FEWEST_ERRORS:
        return TAIL_DF, 1.0
    middle = float(np.median(standard))
    scales = [middle / student.ppf(0.75, freedom) for freedom in _TAILS]
    fits = [
        float(student.logpdf(standard, freedom, scale=scale).sum())
        for freedom, scale in zip(_TAILS, scales, strict=True)
    ]
    # The heaviest of the tails that fit about as well: an alarm too few is better than one too many.
    best = int(np.flatnonzero(np.array(fits) >= max(fits) - _AS_GOOD)[0])
    return _TAILS[best], scales[best]


def _season(values: np.ndarray, weekdays: np.ndarray) -> np.ndarray | None:
    """The weekly season of series `[N, K]` on each night and tonight, `[N + 1, K]`.

    It is the median difference from a centred week's median, by weekday, shrunk towards 0 where few nights
    show it. None where the nights cover less than four weeks.
    """
    if len(values) < 4 * 7:
        return None
    around = np.full(values.shape, np.nan)
    for night in range(len(values)):
        first = min(max(night - 3, 0), len(values) - 7)
        around[night] = _nan_median(values[first : first + 7])
    season = np.zeros((len(values) + 1, values.shape[1]))
    for day in range(7):
        at = weekdays[:-1] == day
        if not at.any():
            continue
        apart = values[at] - around[at]
        nights = np.isfinite(apart).sum(axis=0)
        usual = np.nan_to_num(_nan_median(apart))
        season[weekdays == day] = usual * nights / (nights + _SEASON_PRIOR)
    return season


def _nan_median(values: np.ndarray) -> np.ndarray:
    """The median of `[N, K]` over the first axis without NaN; NaN where a series has no value."""
    ordered = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(values).sum(axis=0)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(values) - 1)
    columns = np.arange(values.shape[1])
    middle: np.ndarray = (ordered[low, columns] + ordered[high, columns]) / 2
    return middle
