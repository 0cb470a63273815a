"""Expected gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from transforms.methods.base import (
    Attribution,
    AttributionMethod,
    Needs,
    convergence_delta,
    limits,
    predict,
    take,
    totals,
)
from transforms.methods.calls import run_calls
from transforms.methods.gradients.background_ends import background_ends
from transforms.methods.gradients.path_starts import start_values
from transforms.methods.sampling import MOST_ROUNDS, Round, sample_rounds
from transforms.models.reference import Arrays, Reference
from transforms.numerics.random import mix, stream, uniforms

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


#: Fewest samples for which sums are corrected, and the largest error of a sum, just below the default
#: `limits.convergence`.
_SUMMING, _OFF = 200, 0.048
#: Number of the random stream of a row's lattices; the samples' own streams are 0 to n_samples.
_LATTICES = 1 << 20


@dataclass(frozen=True)
class ExpectedGradients(AttributionMethod):
    """Attributes the score by averaging gradients over a background and over the paths from it.

    φ_i = E[(x_i − x′_i) · ∂F(x′ + α(x − x′))/∂x_i], x′ uniform over the background, α uniform on [0, 1];
    Σφ = F(x) − mean F(x′) in expectation. α is stratified, one sample a stratum; the background rows follow
    shifted lattices keyed by the row, so that each is used equally often. `n_samples` a multiple of twice the
    background's rows is best.

    With 200 samples or more and no tolerance, rows and targets whose Σφ is off by nearly 5 % of the score's
    spread are sampled again, up to ten times, so that the default `limits.convergence` is met if possible.

    Args:
      n_samples: Samples per row.
      tolerance: Largest standard error of a value, relative to the spread of the score; rows above it are
        sampled again, up to ten times `n_samples`.
      standard_error: Write a standard error beside every value, from the differences between two samples of
        the same background row, or, where there are fewer than two of each, between neighbouring strata
        (Cochran 1977, §5A.12). Both count some of what the strata and the even use of the background take
        away, so that it is too large rather than too small: by a factor of 1 to 1.5 where the background has
        more than twice `n_samples` rows, of 1.5 to 3 where it has half of `n_samples` or fewer.
    Cost: `n_samples` gradient evaluations per row, more for the few that are sampled again; memory
      O(device_batch_size).
    Reference: Erion et al. 2021, https://arxiv.org/abs/1906.10670, eq. 3.
    """

    name: ClassVar[str] = "expected_gradients"
    cap: ClassVar[str] = "n_samples"
    summary: ClassVar[str] = "gradients averaged over paths from many background rows"
    when: ClassVar[str] = (
        "a differentiable model and no single baseline that means 'nothing'; SHAP-like values"
    )
    needs: ClassVar[Needs] = Needs(gradients=True, background=True)
    additive: ClassVar[bool] = True

    n_samples: Annotated[int, Field(ge=2, le=1_000_000)] = 200
    tolerance: Annotated[float, Field(gt=0, le=1e6)] | None = None
    standard_error: bool = False

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """`n_samples`, whatever the background; rows above the tolerance cost more."""
        return self.n_samples

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Samples; see `AttributionMethod.attribute`."""
        prediction, output = predict(model, inputs, targets, device_batch_size)
        base_value = start_values(model, inputs, reference, targets, device_batch_size)
        squares = self.standard_error or self.tolerance is not None

        def run(rows: np.ndarray, number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            keys = stream(seeds[rows], number)
            return self._sample(
                model, take(inputs, rows), reference, targets[rows], keys, device_batch_size, squares
            )

        values, errors, limited = sample_rounds(run, reference.spread[targets], self.tolerance)
        if self.tolerance is None and self.n_samples >= _SUMMING:
            wanted = prediction.astype(np.float64) - base_value
            _refine(values, errors, wanted, limits(reference.spread[targets], _OFF), run)
        delta = convergence_delta(values, prediction, base_value)
        error = errors if self.standard_error else None
        return Attribution(values, prediction, output, base_value, delta, error, limited)

    def _sample(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        keys: np.ndarray,
        device_batch_size: int,
        squares: bool,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """One round: means and squared standard errors by model input, `[B, T, *shape]`."""
        differentiable = model.differentiable(reference.inputs)
        background = background_ends(model, reference, device_batch_size)
        count = self.n_samples
        whole = count - count % (2 * reference.rows)
        paired = count - count % 2
        # Up to `whole`, samples come in pairs that share a background row: two nodes on one path.
        # The standard error comes from these pairs, so a pair must not be split between calls.
        at_once = min(count, max(2, device_batch_size - device_batch_size % 2))

        def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
            chosen = take(inputs, index)
            sums: dict[str, np.ndarray] = {}
            pairs: dict[str, np.ndarray] = {}
            for first, size, nodes in _calls(count, whole, at_once):
                alphas, base = strata(keys[index], first, size, count, reference.rows)
                ends, places = background.of(base[::nodes])
                summed, square = differentiable.integrate(
                    chosen,
                    ends,
                    places,
                    alphas.reshape(size // nodes, nodes, -1),
                    np.ones(nodes, np.float32),
                    targets[index],
                    squares=squares,
                )
                sums = {k: sums[k] + v for k, v in summed.items()} if sums else summed
                pairs = {k: pairs[k] + v for k, v in square.items()} if pairs else square
            means = {k: v / np.float32(count) for k, v in sums.items()}
            # A pair's squared difference has the two samples' variances in expectation, or more.
            return means, {k: v / np.float32(count * paired) for k, v in pairs.items()}

        means, variances = run_calls(len(targets), max(1, device_batch_size // at_once), call)
        return means, variances


def _refine(
    values: dict[str, np.ndarray],
    errors: dict[str, np.ndarray],
    wanted: np.ndarray,
    limit: np.ndarray,
    run: Round,
) -> None:
    """Samples again, in place, the rows and targets whose sum is off by more than a limit.

    Args:
      values: φ of a round, `[B, T, *shape]`.
      errors: Their standard errors, if requested.
      wanted: The required Σφ, `[B, T]`.
      limit: The largest error of Σφ, `[B, T]`.
      run: Samples some rows for another round.
    """
    taken = np.ones(wanted.shape)
    for number in range(1, MOST_ROUNDS):
        off = np.abs(totals(values) - wanted) > limit
        rows = np.flatnonzero(off.any(axis=1))
        if not len(rows):
            return
        more, variances = run(rows, number)
        before = taken[rows]
        for name, value in more.items():
            lead = (*before.shape, *[1] * (value.ndim - 2))
            chosen, had = off[rows].reshape(lead), before.reshape(lead)
            mean = values[name][rows]
            values[name][rows] = np.where(chosen, mean + (value - mean) / (had + 1), mean)
            if name in errors:
                error = errors[name][rows].astype(np.float64)
                together = np.sqrt(np.square(error * had) + variances[name]) / (had + 1)
                errors[name][rows] = np.where(chosen, together, error)
        taken[rows] += off[rows]


def _calls(count: int, whole: int, at_once: int) -> Iterator[tuple[int, int, int]]:
    """First sample, samples, and nodes on a path, of each device call: pairs up to `whole`, then singles."""
    for start, stop, nodes in ((0, whole, 2), (whole, count, 1)):
        for first in range(start, stop, at_once):
            yield first, min(at_once, stop - first), nodes


def strata(
    keys: np.ndarray, first: int, size: int, count: int, background_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the path and background rows of some of a row's samples.

    Strata are used in turns of 2R: in each turn, each background row is used twice, R strata apart, and these
    two samples follow one another, so that their difference shows how much a sample varies once its
    background row is given. The strata left after the last whole turn follow in order. Each turn
    draws its own lattice; with one lattice for all turns, a background row would always see the same part of
    the path.

    Args:
      keys: Keys of the rows' random numbers, `[B]` uint64.
      first: Number of the first sample, below `count`.
      size: Number of samples to return.
      count: Samples per row in all, one for each stratum of [0, 1].
      background_rows: The number of background rows R.
    Returns:
      α `[size, B]` float32, and the background row `[size, B]` int32: in stratum s the (a·s + c) mod R-th of
      a shuffled background, with a coprime to R and c drawn for each row and turn.
    """
    stratum = _order(count, background_rows)[first : first + size, None]
    alphas = ((stratum + uniforms(keys, first, size)) / count).astype(np.float32)
    if background_rows == 1:
        return alphas, np.zeros(alphas.shape, np.int32)
    turn = np.arange(first, first + size) // (2 * background_rows)
    first_turn, turns = int(turn[0]), int(turn[-1] - turn[0]) + 1
    drawn = uniforms(stream(keys, _LATTICES), 2 * first_turn, 2 * turns)
    shuffled, coprime = _shuffled(background_rows), _coprime(background_rows)
    steps = coprime[(drawn[0::2] * len(coprime)).astype(np.int64)]
    shifts = (drawn[1::2] * background_rows).astype(np.int64)
    row = (stratum * steps[turn - first_turn] + shifts[turn - first_turn]) % background_rows
    return alphas, shuffled[row]


@lru_cache(maxsize=8)
def _order(count: int, background_rows: int) -> np.ndarray:
    """The stratum of each sample, `[count]`; see `strata`."""
    turns = count // (2 * background_rows)
    whole = np.arange(turns * 2 * background_rows).reshape(turns, 2, background_rows)
    order = np.concatenate([whole.transpose(0, 2, 1).reshape(-1), np.arange(whole.size, count)])
    order.setflags(write=False)
    return order


@lru_cache(maxsize=8)
def _shuffled(background_rows: int) -> np.ndarray:
    """A random order of the background rows, which may be sorted themselves, `[R]` int32."""
    order = np.argsort(mix(np.arange(1, background_rows + 1, dtype=np.uint64))).astype(np.int32)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=8)
def _coprime(background_rows: int) -> np.ndarray:
    """The numbers up to R that share no factor with it."""
    numbers = np.arange(1, background_rows + 1)
    coprime: np.ndarray = numbers[np.gcd(numbers, background_rows) == 1]
    coprime.setflags(write=False)
    return coprime
