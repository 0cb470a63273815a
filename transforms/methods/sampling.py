"""What the methods that sample share: rounds of samples, standard errors, and stopping row by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transforms.methods.base import Arrays, column, limits

#: A row that a tolerance keeps going is given at most this many rounds of `n_samples`.
MOST_ROUNDS = 10

#: (rows, round) → mean of the round's samples and its squared standard error, each by model input.
Round = Callable[[np.ndarray, int], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]


class Moments:
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
    run: Round, spread: np.ndarray, tolerance: float | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Samples all rows once, then, round by round, those whose standard error is above the tolerance.

    Args:
      run: Samples some rows: means `[B, T, *shape]` and the squares of their standard errors.
      spread: Of the score, a row and target, `[B, T]`; one of 0 asks for nothing.
      tolerance: Largest standard error relative to the spread; None stops after one round.
    Returns:
      Means, standard errors, and the rows that the cap of `MOST_ROUNDS` stopped above the tolerance.
    """
    everyone = np.arange(len(spread))
    means, variances = run(everyone, 0)
    rounds = np.ones(len(spread))
    limited = np.zeros(len(spread), bool)
    if tolerance is not None:
        late = _above(variances, rounds, everyone, spread, tolerance)
        for number in range(1, MOST_ROUNDS):
            if not len(late):
                break
            more, variance = run(late, number)
            for name, value in more.items():
                # Running mean of the rounds; `variances` stays the sum of theirs until the end.
                weight = column(rounds[late] + 1, value)
                means[name][late] += (value - means[name][late]) / weight
                variances[name][late] += variance[name]
            rounds[late] += 1
            late = _above(variances, rounds, late, spread, tolerance)
        limited[late] = True
    errors = {k: (np.sqrt(v) / column(rounds, v)).astype(np.float32) for k, v in variances.items()}
    return {k: v.astype(np.float32) for k, v in means.items()}, errors, limited


def _above(
    variances: Arrays, rounds: np.ndarray, rows: np.ndarray, spread: np.ndarray, tolerance: float
) -> np.ndarray:
    """Of `rows`, those with a standard error above the tolerance."""
    above = np.zeros(len(rows), bool)
    limit = limits(spread[rows], tolerance)
    for value in variances.values():
        worst = np.sqrt(value[rows].reshape(len(rows), spread.shape[1], -1).max(axis=2)) / rounds[rows, None]
        above |= (worst > limit).any(axis=1)
    return rows[above]
