"""Expected gradients."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from transforms.methods.base import (
    Arrays,
    Attribution,
    Needs,
    Reference,
    concatenate,
    convergence_delta,
    device_calls,
    predict,
    take,
)
from transforms.methods.random import stream, uniforms
from transforms.methods.sampling import sample_rounds

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class ExpectedGradients:
    """Attributes the score by averaging gradients over a background and over the paths from it.

    φ_i = E[(x_i − x′_i) · ∂F(x′ + α(x − x′))/∂x_i], x′ uniform over the background, α uniform on [0, 1];
    Σφ = F(x) − mean F(x′) in expectation. α is stratified, one sample a stratum; the background rows follow a
    shifted lattice keyed by the row, so that each is used equally often.

    Args:
      n_samples: Samples a row.
      tolerance: Largest standard error of a value, relative to the spread of the score; rows above it are sampled
        again, up to ten times `n_samples`.
      standard_error: Write a standard error beside every value, from the differences of neighbouring strata
        (slightly conservative, Cochran 1977, §5A.12).
    Cost: `n_samples` gradient evaluations a row; memory O(device_batch_size).
    Reference: Erion et al. 2021, https://arxiv.org/abs/1906.10670, eq. 3.
    """

    name: ClassVar[str] = "expected_gradients"
    summary: ClassVar[str] = "gradients averaged over paths from many background rows"
    when: ClassVar[str] = "a differentiable model and no single baseline that means 'nothing'; SHAP-like values"
    needs: ClassVar[Needs] = Needs(gradients=True, background=True)
    additive: ClassVar[bool] = True

    n_samples: Annotated[int, Field(ge=2, le=1_000_000)] = 200
    tolerance: Annotated[float, Field(gt=0)] | None = None
    standard_error: bool = False

    def evaluations_per_row(self, background_rows: int) -> int:
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
        base_value = reference.base_values[targets]
        squares = self.standard_error or self.tolerance is not None

        def run(rows: np.ndarray, number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            keys = stream(seeds[rows], number)
            return self._sample(
                model, take(inputs, rows), reference, targets[rows], keys, device_batch_size, squares
            )

        values, errors, limited = sample_rounds(run, reference.spread[targets], self.tolerance)
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
        background = reference.ends(model)
        count = self.n_samples
        # Pairs of strata give the standard error, so that a call takes an even number of samples.
        at_once = min(count, max(2, device_batch_size - device_batch_size % 2))
        rows = max(1, device_batch_size // at_once)
        weight = np.ones(1, np.float32)
        means, variances = [], []
        for part, index in device_calls(len(targets), rows):
            chosen = take(inputs, index)
            sums: dict[str, np.ndarray] = {}
            pairs: dict[str, np.ndarray] = {}
            for first in range(0, count, at_once):
                size = min(at_once, count - first)
                alphas, base = strata(keys[index], first, size, count, reference.rows)
                found, square = differentiable.integrate(
                    chosen, background, base, alphas[:, None], weight, targets[index], squares=squares
                )
                sums = {k: sums[k] + v for k, v in found.items()} if sums else found
                pairs = {k: pairs[k] + v for k, v in square.items()} if pairs else square
            size = part.stop - part.start
            means.append({k: v[:size] / np.float32(count) for k, v in sums.items()})
            variances.append({k: v[:size] / np.float32(count) ** 2 for k, v in pairs.items()})
        return concatenate(means), concatenate(variances)


def strata(keys: np.ndarray, first: int, size: int, count: int, background_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions on the path and background rows of some of a row's samples.

    Args:
      keys: Of the rows, `[B]` uint64.
      first: Number of the first sample, of `count`.
      size: Samples wanted.
      count: Samples a row has in all, one a stratum of [0, 1].
      background_rows: R.
    Returns:
      α `[size, B]` float32, and the background row `[size, B]` int32: (a·s + c) mod R, with a coprime to R and c
      drawn for each row.
    """
    samples = np.arange(first, first + size)
    jitter = uniforms(keys, first, size)
    alphas = ((samples[:, None] + jitter) / count).astype(np.float32)
    coprime = np.array([a for a in range(1, background_rows + 1) if gcd(a, background_rows) == 1])
    drawn = uniforms(stream(keys, 1 << 20), 0, 2)
    step = coprime[(drawn[0] * len(coprime)).astype(np.int64)]
    shift = (drawn[1] * background_rows).astype(np.int64)
    return alphas, ((samples[:, None] * step + shift) % background_rows).astype(np.int32)
