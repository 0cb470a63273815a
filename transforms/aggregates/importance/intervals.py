"""95 % intervals of mean |φ| and of ranks, as if the rows were a sample of many more like them.

The intervals are the limit of a Poisson bootstrap over rows with many replicates. Its variance is that of
sums, which are added up as rows come in, without random numbers. For skewed |φ| bootstrap percentiles are too
narrow on the long side; Hall's transformation corrects this. Ranks also need the covariances of all pairs of
features. These are estimated from the sums of some tens or hundreds of buckets, to which rows are dealt by a
hash of their keys (the random groups of Wolter 2007, chapter 2). The hash puts a row into the same bucket
whatever its shard, so any sharding gives the same result.

Percentiles of bootstrapped ranks are not valid intervals: among features that are nearly tied, the bootstrap
ranks the noise again (Hall & Miller 2009, doi:10.1214/09-AOS734; Xie, Singh, Zhang 2009,
doi:10.1198/jasa.2009.0142). With eight equal features, such a 95 % interval holds the true rank of the first
in 65 % of samples. Instead, as in Mogstad, Romano, Shaikh, Wilhelm 2024 (doi:10.1093/restud/rdad006), a
feature's interval excludes the ranks of features that are surely above or surely below it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from transforms.aggregates.importance.groups import WHOLE, resolution
from transforms.aggregates.importance.moments import Moments

#: The 95 % interval from one normal value is the value ± 9.68 times itself (Abbott & Rosenblatt 1963), used
#: for groups of a single row.
_OF_ONE = 10.68
#: Fewest effective rows from which the spread of rows can be estimated.
_FEWEST = 1.5
_TWO_SIDED = 0.975
#: Largest skewness of a mean that is corrected; beyond it the transformation is not reliable.
_MOST_SKEW = 0.4
#: The error probability of a rank interval: that a comparison that matters is left out, and that one of the
#: others is wrong, 5 % together. Each side gets all of it, because a rank at the end of a tie can be wrong on
#: one side only, and a rank within a tie hardly at all.
_LEFT_OUT = 0.005
_WRONG = 0.045
#: The standard error of a difference is rounding if it is below this fraction of the two features' errors.
_ROUNDING = 1e-7
#: A variance is rounding if it is below this fraction of the squared mean.
_NO_SPREAD = 1e-13
#: Third and fourth moments are rounding if the variance is below this fraction of the squared mean.
_HARDLY = 1e-6
#: Comparisons at a time, over several groups.
_AT_ONCE = 1 << 18
#: A group with more features is compared by itself, in blocks.
_MOST_FEATURES = 512
#: Comparisons in a block, so that it stays in the cache; and the features of the first block.
_BLOCK, _FIRST = 1 << 15, 64
#: Each feature of such a group is compared with a block and this number of features whose means are nearest,
#: on either side: all pairs would take quadratic time.
_NEIGHBOURS = 512
#: Number of float64 arrays that a comparison takes, with a margin.
_ARRAYS = 10
#: Number of arrays of the size of the buckets' sums.
_OF_SUMS = 4
#: Nodes of the critical value's two integrals: over the part that the differences share, and over the
#: standard error.
_SHARED, _SPREAD = 32, 32
#: Numbers of differences for which the critical value is computed; others are interpolated.
_WORKED_OUT = 12


def mean_abs_interval(
    moments: Moments, skewness: np.ndarray, kurtosis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of mean |φ|.

    This is Student's t interval with the standard error of a ratio of sums, Σw|φ| / Σw, and Hall's monotone
    correction for skewness. With weights, the skewness is that of w(|φ| − mean), whose sum is the ratio's
    error. For one row, the interval is from 0 to 10.68 times its value.

    Args:
      moments: Moments of G groups with positive weight.
      skewness: Skewness of |φ|, `[G, features]`; with weights, used only where powers of w and |φ| overflow
        or vanish in float64.
      kurtosis: Excess kurtosis of |φ|; with weights, used only in the same case as `skewness`.
    Returns:
      The ends, each `[G, features]`, at least 0, with the mean between them.
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
    """Skewness and excess kurtosis of the weighted mean, and where they are known, each `[G, features]`.

    They are n^-½ and n^-1 times those of the residual w(|φ| − mean). Where |φ| hardly varies they are set to
    0, because only rounding is left of them.
    """
    # `three` and `four` are Σw³|φ|^k and Σw⁴|φ|^k for k = 1, 2, 3 and 1, 2, 3, 4, [G, features, k]. The sums
    # of powers of the residual, `squares`, `cubes` and `fourths`, follow by expanding w^p (|φ| − mean)^p.
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
    """The standard error of mean |φ|, a ratio of two sums, to first order (Cochran 1977, section 2.11).

    Returns:
      `[G, features]`.
    """
    rows = effective(moments.weight, moments.weight2)[:, None]
    mean = moments.absolute / moments.weight[:, None]
    constant = mean**2 * moments.weight2[:, None]
    squares = moments.power2 - 2 * mean * moments.absolute2 + constant
    squares[squares <= _NO_SPREAD * constant] = 0.0
    lost = rows / np.maximum(rows - 1, _FEWEST - 1)
    error: np.ndarray = np.sqrt(squares * lost) / moments.weight[:, None]
    return error


def effective(weight: np.ndarray, weight2: np.ndarray) -> np.ndarray:
    """The effective number of rows (Kish 1965): (Σw)² / Σw²; 1 where Σw² is 0."""
    return np.divide(weight**2, weight2, out=np.ones_like(weight), where=weight2 > 0)


def _untransformed(t: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """The inverse of Hall's t + skew t²/3 + skew² t³/27 + skew/6."""
    some = np.where(np.abs(skew) < 1e-6, 1e-6, skew)
    deviate: np.ndarray = 3 / some * (np.cbrt(1 + some * (t - some / 6)) - 1)
    return deviate


def rank_intervals(
    mean: np.ndarray, error: np.ndarray, weights: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % intervals of the ranks of mean |φ|, for each feature on its own.

    Each feature is compared jointly with all others that are not surely far away, by studentised differences
    and Dunnett's critical value on each side. For a group of a single row the interval is all ranks.

    Args:
      mean: Mean |φ|, `[G, features]`.
      error: Its standard error, `[G, features]`.
      weights: Σw of each bucket of rows, `[G, buckets]`.
      sums: Σw|φ| of each bucket, `[G, features, buckets]`.
    Returns:
      Lowest and highest rank, `[G, features]` int32; the rank of the mean lies between them.
    Cost: at most features · min(features, 1,024) · buckets per group, 5 to 10 ns per pair, within the memory
      of `ranking_bytes`. With more than 512 features, pairs that are far apart by their standard errors alone
      are not compared, and each feature is compared only with the 512 nearest on either side, which makes its
      interval wider.
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
    """The most working memory of `rank_intervals`, whatever the number of groups."""
    sums = max(_AT_ONCE, features * resolution(WHOLE, features).row_buckets)
    return 8 * (_ARRAYS * _AT_ONCE + _OF_SUMS * sums)


def _surely(
    mean: np.ndarray, error: np.ndarray, weights: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of features that are surely above each feature, and surely below it, `[G, features]`."""
    # The residual of a bucket is its Σw(|φ| − mean), [G, features, buckets]. Scaled so that the squares of a
    # feature's residuals sum to its squared standard error, their products are the covariances of the means,
    # [G, features, features].
    total = weights.sum(axis=1)
    limits, critical = _limits(mean.shape[1], effective(total, np.square(weights).sum(axis=1)))
    residuals = sums - mean[..., None] * weights[:, None]
    scale = np.sqrt(np.square(residuals).sum(axis=-1))
    # The rows themselves give the variances, so only the correlations are taken from the buckets.
    residuals *= (error / np.where(scale > 0, scale, 1.0))[..., None]
    if mean.shape[1] > _MOST_FEATURES:
        # With this many features, `rank_intervals` passes a single group.
        return _surely_by_blocks(mean, error, residuals, limits, critical)
    products = residuals @ residuals.swapaxes(1, 2)
    own = np.diagonal(products, axis1=1, axis2=2)
    return _beyond((mean, error, own), (mean, error, own), products, limits, critical)


def _surely_by_blocks(
    mean: np.ndarray, error: np.ndarray, residuals: np.ndarray, limits: np.ndarray, critical: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`_surely` for one group of many features: in blocks, each compared only with features that may be near.

    The standard error of a difference is at most the sum of the two features' errors. A feature that is
    further away than the limit times this sum is surely above or below, whatever the correlation.
    """
    above, below = np.zeros((2, *mean.shape), np.int64)
    if not np.isfinite(limits[0]):
        return above, below
    order = np.argsort(mean[0])
    own = np.square(residuals).sum(axis=-1)
    mean, error, own, residuals = (array[:, order] for array in (mean, error, own, residuals))
    reach = limits[0] * (1 + _ROUNDING) * error[0]
    low, high = mean[0] - reach, mean[0] + reach
    # Features that may be near a block lie between the first that reaches up to it and the last that reaches
    # down to it.
    reaches_up, reaches_down = np.maximum.accumulate(high), np.minimum.accumulate(low[::-1])[::-1]
    first, step = 0, _FIRST
    while first < len(order):
        some = slice(first, min(first + step, len(order)))
        start = int(np.searchsorted(reaches_up, low[some].min(), "left"))
        stop = int(np.searchsorted(reaches_down, high[some].max(), "right"))
        # All features between these two are compared, so that they are one slice.
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
    """The numbers of `other` features that are surely above each of the `one` features, and surely below it.

    Args:
      one: Mean, standard error and variance of features that are among the others, each `[G, one]`.
      other: Mean, standard error and variance of the others, each `[G, other]`.
      products: Covariances of the means, `[G, one, other]`.
      limits: From `_limits`.
      critical: From `_limits`.
      uncompared: Number of further features that may be near, which count for the bound.
    Returns:
      Two arrays `[G, one]`.
    """
    # t [G, one, other] is the studentised difference of two means. A feature is compared jointly with those
    # whose |t| is within the limit, `near` [G, one] without itself, which decides the critical value.
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
    """The |t| beyond which features are far away, `[G]`, and the bound on |t| by the number of near features.

    Returns:
      `[G]` and `[G, features]`.
    """
    from scipy.special import stdtrit

    # Rounded down a little, so that few distinct values have to be computed.
    freedom = [int(f) if f < 32 else 8 * int(f / 8) for f in buckets - 1]
    bounds = {f: _critical(features, f) for f in set(freedom) if f > 0}
    nothing = np.full(features, np.inf)
    far = [stdtrit(f, 1 - _LEFT_OUT / (features - 1)) if f > 0 else np.inf for f in freedom]
    return np.array(far), np.stack([bounds.get(f, nothing) for f in freedom])


@cache
def _critical(features: int, freedom: int, wrong: float = _WRONG) -> np.ndarray:
    """Dunnett's one-sided critical value by the number of others, 0 … features − 1; infinite for none.

    For k differences with the same feature, of equal variance and correlation ½, it is the bound that the
    largest of the k values of t exceeds with probability `wrong` (Dunnett 1955,
    doi:10.1080/01621459.1955.10501294).
    """
    from scipy.special import chdtri, ndtr

    nodes, weights = np.polynomial.hermite_e.hermegauss(_SHARED)
    shared, chance = nodes, weights / weights.sum()
    spread = np.sqrt(chdtri(freedom, (np.arange(_SPREAD) + 0.5) / _SPREAD) / freedom)
    # Computed by bisection at some numbers of others, [K], and interpolated between them in their logarithm,
    # in which it is nearly linear. `single` [K, spread, shared] is the probability that one t stays below.
    others = np.unique(np.geomspace(1, max(2, features - 1), _WORKED_OUT).astype(int))
    low, high = np.zeros(len(others)), np.full(len(others), 400.0)
    for _ in range(40):
        middle = (low + high) / 2
        single = ndtr(np.sqrt(2) * middle[:, None, None] * spread[:, None] + shared)
        inside = (single ** others[:, None, None] @ chance).mean(axis=1) < 1 - wrong
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    bound = np.full(features, np.inf)
    bound[1:] = np.interp(np.log(np.arange(1, features)), np.log(others), high)
    return bound
