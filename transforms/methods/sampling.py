"""What the methods that sample share: rounds of samples, standard errors, and stopping row by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transforms.methods.base import Arrays

#: A row that a tolerance keeps going is given at most this many rounds of `n_samples`.
MOST_ROUNDS = 10

#: (rows, round) → sum of the samples and squared standard error of the round's mean, each by model input.
Round = Callable[[np.ndarray, int], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]


def sample_rounds(
    run: Round, spread: np.ndarray, tolerance: float | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Samples all rows once, then, round by round, those whose standard error is above the tolerance.

    Args:
      run: Samples some rows: means `[B, T, *shape]` and the squares of their standard errors.
      spread: Of the score, a row and target, `[B, T]`.
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
                weight = _column(rounds[late] + 1, value.ndim)
                means[name][late] += (value - means[name][late]) / weight
                variances[name][late] += variance[name]
            rounds[late] += 1
            late = _above(variances, rounds, late, spread, tolerance)
        limited[late] = True
    errors = {k: (np.sqrt(v) / _column(rounds, v.ndim)).astype(np.float32) for k, v in variances.items()}
    return {k: v.astype(np.float32) for k, v in means.items()}, errors, limited


def _above(
    variances: Arrays, rounds: np.ndarray, rows: np.ndarray, spread: np.ndarray, tolerance: float
) -> np.ndarray:
    """Of `rows`, those with a standard error above the tolerance."""
    above = np.zeros(len(rows), bool)
    for value in variances.values():
        worst = np.sqrt(value[rows].reshape(len(rows), spread.shape[1], -1).max(axis=2)) / rounds[rows, None]
        above |= (worst > tolerance * spread[rows]).any(axis=1)
    return rows[above]


def _column(values: np.ndarray, ndim: int) -> np.ndarray:
    return values.reshape(-1, *([1] * (ndim - 1)))
