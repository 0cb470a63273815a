"""What sampling methods share: rounds of samples, standard errors, and stopping row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from transforms.methods.base import column, limits
from transforms.models.reference import Arrays

#: Most rounds of `n_samples` for a row above the tolerance.
MOST_ROUNDS = 10

#: (rows, round) → mean of the round's samples and its squared standard error, each by model input.
Round = Callable[[np.ndarray, int], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]


class RunningMoments:
    """Mean and squared deviations of samples that arrive in several calls, merged without cancellation.

    Attributes:
      count: Samples so far.
      mean: Their mean by model input, float64.
      deviations: Σ (sample − mean)², float64.

    Reference: Chan, Golub, LeVeque 1983, doi:10.1080/00031305.1983.10483115, eq. 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: dict[str, np.ndarray] = {}
        self.deviations: dict[str, np.ndarray] = {}

    def add(self, count: int, sums: Arrays, deviations: Arrays) -> None:
        """Adds a call's sums of `count` samples and their squared deviations from the call's own mean."""
        total = self.count + count
        for name, value in sums.items():
            mean, square = value.astype(np.float64) / count, deviations[name].astype(np.float64)
            if not self.count:
                self.mean[name], self.deviations[name] = mean, square
                continue
            shift = mean - self.mean[name]
            self.mean[name] += shift * (count / total)
            self.deviations[name] += square + shift**2 * (self.count * count / total)
        self.count = total


def sample_rounds(
    run: Round,
    spread: np.ndarray,
    tolerance: float | None,
    sizes: Sequence[int] = (1,) * MOST_ROUNDS,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Samples all rows once, then, round by round, those whose standard error is above the tolerance.

    Args:
      run: Samples some rows: means `[B, T, *shape]` and the squares of their standard errors.
      spread: Spread of the score by row and target, `[B, T]`; where it is 0, there is no tolerance to meet.
      tolerance: Largest standard error relative to the spread; None stops after one round.
      sizes: Samples in each round, which weight the rounds; their number is the most rounds.
    Returns:
      Means, standard errors, and the rows that the last round left above the tolerance.
    """
    everyone = np.arange(len(spread))
    means, variances = run(everyone, 0)
    # Until the end, `variances` is the sum of the rounds' squared errors times the squares of their sizes.
    variances = {name: value * sizes[0] ** 2 for name, value in variances.items()}
    taken = np.full(len(spread), float(sizes[0]))
    limited = np.zeros(len(spread), bool)
    if tolerance is not None:
        late = _above(variances, taken, everyone, spread, tolerance)
        for number in range(1, len(sizes)):
            if not len(late):
                break
            more, variance = run(late, number)
            share = sizes[number] / (taken[late] + sizes[number])
            for name, value in more.items():
                means[name][late] += (value - means[name][late]) * column(share, value)
                variances[name][late] += variance[name] * sizes[number] ** 2
            taken[late] += sizes[number]
            late = _above(variances, taken, late, spread, tolerance)
        limited[late] = True
    errors = {k: (np.sqrt(v) / column(taken, v)).astype(np.float32) for k, v in variances.items()}
    return {k: v.astype(np.float32) for k, v in means.items()}, errors, limited


def _above(
    variances: Arrays, taken: np.ndarray, rows: np.ndarray, spread: np.ndarray, tolerance: float
) -> np.ndarray:
    """Selects those of `rows` that have a standard error above the tolerance."""
    above = np.zeros(len(rows), bool)
    limit = limits(spread[rows], tolerance)
    for value in variances.values():
        worst = np.sqrt(value[rows].reshape(len(rows), spread.shape[1], -1).max(axis=2)) / taken[rows, None]
        above |= (worst > limit).any(axis=1)
    return rows[above]
