"""95 % intervals of mean |φ| and of ranks, as if the rows were a sample of many more like them.

They are what a Poisson bootstrap over rows gives in the limit of many replicates: its variance is that of the
sums, which is added up as rows come in and needs no random number; for skewed |φ| its percentiles are too
narrow on the long side, which Hall's transformation mends. What ranks need besides are the covariances of all
pairs of features: rows are dealt out by a hash of their keys to some tens or hundreds of buckets, whose sums
tell them (the random groups of Wolter 2007, chapter 2). The hash puts a row into the same bucket in any
shard, so that any sharding gives the same.

Percentiles of bootstrapped ranks are no intervals of ranks: among features that are nearly tied the bootstrap
ranks the noise anew (Hall & Miller 2009, doi:10.1214/09-AOS734; Xie, Singh, Zhang 2009,
doi:10.1198/jasa.2009.0142), and of eight equal ones a 95 % interval holds the true rank of the first in 65 %
of samples. Instead, as Mogstad, Romano, Shaikh, Wilhelm 2024 (doi:10.1093/restud/rdad006), a feature's rank
interval leaves out the ranks of those that are surely above or surely below it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from transforms.aggregates.importance.groups import WHOLE, resolution
from transforms.aggregates.importance.moments import Moments

#: The interval of one normal value is the value ± 9.68 times itself (Abbott & Rosenblatt 1963): all that can
#: be said of one row.
_OF_ONE = 10.68
#: Fewer rows than that, of equal weight, say nothing of how rows differ.
_FEWEST = 1.5
_TWO_SIDED = 0.975
#: Of the mean; beyond, the transformation is more of a guess than what it mends.
_MOST_SKEW = 0.4
#: Chance to leave out a comparison that matters, and to get one wrong of those that are left: 5 % together. A
#: rank at the end of a tie can be wrong on one side only, and one within it hardly ever: so each side has it.
_LEFT_OUT = 0.005
_WRONG = 0.045
#: Below this part of the two standard errors, that of a difference is rounding.
_ROUNDING = 1e-7
#: Below this part of the mean's square, so is a variance.
_NO_SPREAD = 1e-13
#: And its third and fourth power are, below this.
_HARDLY = 1e-6
#: Comparisons at a time: of several groups, and of one of more features than that; then so few that they stay
#: in the cache.
_AT_ONCE = 1 << 18
_MOST_FEATURES = 512
_BLOCK, _FIRST = 1 << 15, 64
#: Of very many features each is compared with so many whose means are nearest on either side, and a block of
#: them: pairs of all would take time by the square of their number.
_NEIGHBOURS = 512
#: Arrays of float64 that a comparison takes, with a margin.
_ARRAYS = 10
#: And arrays of the size of the buckets' sums.
_OF_SUMS = 4
#: Nodes of the critical value's integrals: over what the differences share, and over the standard error.
_SHARED, _SPREAD = 32, 32
#: Numbers of differences that it is worked out at.
_WORKED_OUT = 12


def mean_abs_interval(
    moments: Moments, skewness: np.ndarray, kurtosis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of mean |φ|.

    Student's t with the standard error of a ratio of sums, Σw|φ| / Σw, and Hall's monotone correction for
    skewness: where rows have weights, that of w(|φ| − mean), which is what the ratio's error is a sum of. Of
    one row, from 0 to 10.68 times its value.

    Args:
      moments: Of G groups, of some weight.
      skewness: Of |φ|, `[G, features]`; with weights, what is taken where powers of w and |φ| leave float64.
      kurtosis: The same, in excess of a normal's.
    Returns:
      The ends, each `[G, features]`, with the mean between them and none below 0.
    Reference: Hall 1992, https://doi.org/10.1111/j.2517-6161.1992.tb01876.x, section 2.
    """
    from scipy.special import stdtrit

    rows = effective(moments.weight, moments.weight2)[:, None]
    mean = moments.absolute / moments.weight[:, None]
    error = standard_error(moments)
    # A variance of n rows has 2 / (2 / (n − 1) + kurtosis / n) degrees of freedom (Satterthwaite 1946).
    skew, peak = skewness / np.sqrt(rows), kurtosis / rows
    if moments.weighted:
        own_skew, own_peak, known = _linearised(moments, mean)
        skew, peak = np.where(known, own_skew, skew), np.where(known, own_peak, peak)
    freedom = 2 / (2 / np.maximum(rows - 1, 1.0) + np.maximum(peak, 0.0))
    t = stdtrit(np.maximum(freedom, 1.0), _TWO_SIDED)
    skew = np.clip(skew, -_MOST_SKEW, _MOST_SKEW)
    low, high = mean - error * _untransformed(t, skew), mean - error * _untransformed(-t, skew)
    low, high = np.where(rows < _FEWEST, 0.0, low), np.where(rows < _FEWEST, _OF_ONE * mean, high)
    return np.clip(low, 0.0, mean), np.maximum(high, mean)


def _linearised(moments: Moments, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skewness and excess kurtosis of the weighted mean, and where they are known.

    They are n^-½ and n^-1 of those of w(|φ| − mean). Where |φ| hardly varies they are 0: what is left of them
    is rounding.
    """
    three, four = moments.higher[..., :3], moments.higher[..., 3:]
    with np.errstate(all="ignore"):  # of weights such as 1e100 the powers are infinite, of others all 0
        constant = mean**2 * moments.weight2[:, None]
        squares = moments.power2 - 2 * mean * moments.absolute2 + constant
        cubes = three[..., 2] - 3 * mean * (three[..., 1] - mean * three[..., 0])
        cubes -= mean**3 * moments.weight3[:, None]
        fourths = four[..., 3] - 4 * mean * (four[..., 2] + mean**2 * four[..., 0])
        fourths += mean**2 * (6 * four[..., 1] + mean**2 * moments.weight4[:, None])
        spread = np.sqrt(squares)
        skew = cubes / spread / squares
        peak = fourths / squares / squares - 3 / moments.rows[:, None]
    varies = squares > _HARDLY * constant
    known = ~varies | (np.isfinite(skew) & np.isfinite(peak) & (moments.higher > 0).all(axis=-1))
    return np.where(varies, skew, 0.0), np.where(varies, peak, 0.0), known


def standard_error(moments: Moments) -> np.ndarray:
    """Of mean |φ|, `[G, features]`: of a ratio of two sums, to first order (Cochran 1977, section 2.11)."""
    rows = effective(moments.weight, moments.weight2)[:, None]
    mean = moments.absolute / moments.weight[:, None]
    constant = mean**2 * moments.weight2[:, None]
    squares = moments.power2 - 2 * mean * moments.absolute2 + constant
    squares[squares <= _NO_SPREAD * constant] = 0.0
    lost = rows / np.maximum(rows - 1, _FEWEST - 1)
    error: np.ndarray = np.sqrt(squares * lost) / moments.weight[:, None]
    return error


def effective(weight: np.ndarray, weight2: np.ndarray) -> np.ndarray:
    """How many rows of equal weight say as much (Kish 1965); one where squares of weights are 0."""
    return np.divide(weight**2, weight2, out=np.ones_like(weight), where=weight2 > 0)


def _untransformed(t: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """The inverse of Hall's t + skew t²/3 + skew² t³/27 + skew/6."""
    some = np.where(np.abs(skew) < 1e-6, 1e-6, skew)
    found: np.ndarray = 3 / some * (np.cbrt(1 + some * (t - some / 6)) - 1)
    return found


def rank_intervals(
    mean: np.ndarray, error: np.ndarray, weights: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % intervals of the ranks of mean |φ|, each feature's for itself.

    For each feature, all others that are not surely far away are compared with it jointly, by studentised
    differences and Dunnett's critical value on each side. Where nothing is known, of one row, from the first
    to the last rank.

    Args:
      mean: Mean |φ|, `[G, features]`.
      error: Its standard error, `[G, features]`.
      weights: Σw of each bucket of rows, `[G, buckets]`.
      sums: Σw|φ| of each, `[G, features, buckets]`.
    Returns:
      Lowest and highest, `[G, features]` int32; the rank of the mean lies between them.
    Cost: features · min(features, 1,024) · buckets a group at most, 5 to 10 ns a pair, in `ranking_bytes`. Of
      more than 512 features, those that are far apart by their standard errors alone are not compared;
      neither is one with others than the 512 on either side whose means are nearest: its interval is the
      wider for it.
    """
    groups, features = mean.shape
    low, high = np.ones((groups, features), np.int32), np.full((groups, features), features, np.int32)
    step = max(1, _AT_ONCE // (features * max(features, weights.shape[1])))
    for first in range(0, groups if features > 1 else 0, step):
        part = slice(first, first + step)
        above, below = _surely(mean[part], error[part], weights[part], sums[part])
        low[part] += above
        high[part] -= below
    return low, high


def ranking_bytes(features: int) -> int:
    """Memory that `rank_intervals` works in, at most, whatever the number of groups."""
    sums = max(_AT_ONCE, features * resolution(WHOLE, features).row_buckets)
    return 8 * (_ARRAYS * _AT_ONCE + _OF_SUMS * sums)


def _surely(
    mean: np.ndarray, error: np.ndarray, weights: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many features are surely above each, and below it."""
    total = weights.sum(axis=1)
    limits, critical = _limits(mean.shape[1], effective(total, np.square(weights).sum(axis=1)))
    residuals = sums - mean[..., None] * weights[:, None]
    scale = np.sqrt(np.square(residuals).sum(axis=-1))
    # The variances are known from the rows themselves: of the buckets only the correlations are taken.
    residuals *= (error / np.where(scale > 0, scale, 1.0))[..., None]
    if mean.shape[1] > _MOST_FEATURES:
        # Then it is one group.
        return _surely_by_blocks(mean, error, residuals, limits, critical)
    products = residuals @ residuals.swapaxes(1, 2)
    own = np.diagonal(products, axis1=1, axis2=2)
    return _beyond((mean, error, own), (mean, error, own), products, limits, critical)


def _surely_by_blocks(
    mean: np.ndarray, error: np.ndarray, residuals: np.ndarray, limits: np.ndarray, critical: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same of one group of many features, some at a time, each with those that may not be far away.

    The standard error of a difference is at most the sum of the two: whatever lies further away than that
    says, by the bound of those that are far away, is surely above or below, and correlations do not matter.
    """
    above, below = np.zeros((2, *mean.shape), np.int64)
    if not np.isfinite(limits[0]):
        return above, below
    order = np.argsort(mean[0])
    own = np.square(residuals).sum(axis=-1)
    mean, error, own, residuals = (array[:, order] for array in (mean, error, own, residuals))
    reach = limits[0] * (1 + _ROUNDING) * error[0]
    low, high = mean[0] - reach, mean[0] + reach
    # Whatever may be near a block lies from the first that reaches up to it to the last that reaches down.
    reaches_up, reaches_down = np.maximum.accumulate(high), np.minimum.accumulate(low[::-1])[::-1]
    first, step = 0, _FIRST
    while first < len(order):
        some = slice(first, min(first + step, len(order)))
        start = int(np.searchsorted(reaches_up, low[some].min(), "left"))
        stop = int(np.searchsorted(reaches_down, high[some].max(), "right"))
        # What lies between two of them is compared as well: so nothing has to be gathered.
        among = slice(max(start, some.start - _NEIGHBOURS), min(stop, some.stop + _NEIGHBOURS))
        width = among.stop - among.start
        if step > 1 and step * width > _BLOCK:
            step = max(1, min(step - 1, _BLOCK // width))
            continue
        products = residuals[:, some] @ residuals[:, among].swapaxes(1, 2)
        one, other = ((mean[:, at], error[:, at], own[:, at]) for at in (some, among))
        uncompared = stop - start - width
        more, less = _beyond(one, other, products, limits, critical, uncompared)
        above[:, order[some]], below[:, order[some]] = more + len(order) - stop, less + start
        first, step = some.stop, min(2 * step, _FIRST)
    return above, below


def _beyond(
    one: tuple[np.ndarray, ...],
    other: tuple[np.ndarray, ...],
    products: np.ndarray,
    limits: np.ndarray,
    critical: np.ndarray,
    uncompared: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """How many of some features are surely above each of others that are among them, and below it.

    Args:
      one: Mean, standard error and variance of these others, each `[G, one]`.
      other: The same of the former, `[G, other]`.
      products: Their covariances, `[G, one, other]`.
      limits: As `_limits` gives them.
      critical: The same.
      uncompared: Features that may be near and are not among these: they count for the bound.
    """
    (mean, error, own), (means, errors, owns) = one, other
    variance = own[:, :, None] + owns[:, None] - 2 * products
    least = _ROUNDING * (error[:, :, None] + errors[:, None])
    spread = np.maximum(np.sqrt(np.maximum(variance, 0.0)), least)
    ahead = means[:, None] - mean[:, :, None]
    certain = np.where(ahead == 0, 0.0, np.copysign(np.inf, ahead))
    t = np.divide(ahead, spread, out=certain, where=spread > 0)
    near = (np.abs(t) <= limits[:, None, None]).sum(axis=-1) - 1 + uncompared
    bound = np.minimum(np.take_along_axis(critical, near, axis=1), limits[:, None])[..., None]
    return (t > bound).sum(axis=-1), (t < -bound).sum(axis=-1)


def _limits(features: int, buckets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The |t| of features that are far away, `[G]`, and the bound by the number of others `[G, features]`."""
    from scipy.special import stdtrit

    # Rounded down a little, so that few have to be worked out.
    freedom = [int(f) if f < 32 else 8 * int(f / 8) for f in buckets - 1]
    bounds = {f: _critical(features, f) for f in set(freedom) if f > 0}
    nothing = np.full(features, np.inf)
    far = [stdtrit(f, 1 - _LEFT_OUT / (features - 1)) if f > 0 else np.inf for f in freedom]
    return np.array(far), np.stack([bounds.get(f, nothing) for f in freedom])


@cache
def _critical(features: int, freedom: int, wrong: float = _WRONG) -> np.ndarray:
    """Dunnett's one-sided critical value by the number of others, 0 … features − 1; infinite for none.

    Of k differences with one and the same feature, all of the same variance, which correlate by ½: the bound
    that the largest of k such t's stays below but for the chance `wrong` (Dunnett 1955,
    doi:10.1080/01621459.1955.10501294).
    """
    from scipy.special import chdtri, ndtr

    nodes, weights = np.polynomial.hermite_e.hermegauss(_SHARED)
    shared, chance = nodes, weights / weights.sum()
    spread = np.sqrt(chdtri(freedom, (np.arange(_SPREAD) + 0.5) / _SPREAD) / freedom)
    # Worked out at some numbers, and between them along their logarithm, in which it is nearly straight.
    others = np.unique(np.geomspace(1, max(2, features - 1), _WORKED_OUT).astype(int))
    low, high = np.zeros(len(others)), np.full(len(others), 400.0)
    for _ in range(40):
        middle = (low + high) / 2
        single = ndtr(np.sqrt(2) * middle[:, None, None] * spread[:, None] + shared)
        inside = (single ** others[:, None, None] @ chance).mean(axis=1) < 1 - wrong
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    found = np.full(features, np.inf)
    found[1:] = np.interp(np.log(np.arange(1, features)), np.log(others), high)
    return found
