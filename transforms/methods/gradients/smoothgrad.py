"""SmoothGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from transforms.methods.base import Attribution, AttributionMethod, Needs, predict, take
from transforms.methods.calls import run_calls
from transforms.methods.masking.game import base_values
from transforms.methods.sampling import RunningMoments, sample_rounds
from transforms.models.reference import Arrays, Reference
from transforms.numerics.random import normals, stream

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel


@dataclass(frozen=True)
class SmoothGrad(AttributionMethod):
    """The gradient averaged over noisy copies of the row: saliency with less noise from row to row.

    φ_i = E[∂F(x + ε)/∂x_i], ε_i normal with standard deviation `noise` times the feature's spread.

    Args:
      n_samples: Noisy copies per row.
      noise: Standard deviation of the noise as a share of the feature's standard deviation (over the
        background, or over the run's first rows where the baseline is one row).
      tolerance: Largest standard error of a value, relative to the spread of the score; rows above it are
        sampled again, up to ten times `n_samples`.
      standard_error: Write a standard error beside every value.
    Cost: `n_samples` gradient evaluations per row; memory O(device_batch_size).
    Reference: Smilkov et al. 2017, https://arxiv.org/abs/1706.03825.
    """

    name: ClassVar[str] = "smoothgrad"
    cap: ClassVar[str] = "n_samples"
    summary: ClassVar[str] = "the gradient averaged over noisy copies of the row"
    when: ClassVar[str] = "pictures, where a plain gradient flickers from pixel to pixel; no sums"
    needs: ClassVar[Needs] = Needs(gradients=True, background=False, entry_spread=True)
    additive: ClassVar[bool] = False

    n_samples: Annotated[int, Field(ge=2, le=1_000_000)] = 50
    noise: Annotated[float, Field(ge=0, le=1e6)] = 0.15
    tolerance: Annotated[float, Field(gt=0, le=1e6)] | None = None
    standard_error: bool = False

    @property
    def holds_squares(self) -> bool:
        """True: the samples are averaged in double precision."""
        return True

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """`n_samples`; rows above the tolerance cost more."""
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

        def run(rows: np.ndarray, number: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            keys = stream(seeds[rows], number)
            return self._sample(model, take(inputs, rows), reference, targets[rows], keys, device_batch_size)

        values, errors, limited = sample_rounds(run, reference.spread[targets], self.tolerance)
        base_value = base_values(model, inputs, reference, targets, device_batch_size)
        error = errors if self.standard_error else None
        return Attribution(values, prediction, output, base_value, None, error, limited)

    def _sample(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        keys: np.ndarray,
        device_batch_size: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """One round: means and squared standard errors by model input, `[B, T, *shape]`."""
        differentiable = model.differentiable(reference.inputs)
        count = self.n_samples
        copies = min(count, device_batch_size)

        def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
            chosen = take(inputs, index)
            moments = RunningMoments()
            for first in range(0, count, copies):
                size = min(copies, count - first)
                noise = [
                    self._noise(scale, stream(keys[index], number), first, size)
                    for number, scale in enumerate(reference.noise)
                ]
                moments.add(size, *differentiable.gradient(chosen, noise, size, targets[index], "plain"))
            return moments.mean, {k: v / (count * (count - 1)) for k, v in moments.deviations.items()}

        means, variances = run_calls(len(targets), max(1, device_batch_size // copies), call)
        return means, variances

    def _noise(self, scale: np.ndarray, keys: np.ndarray, first: int, copies: int) -> np.ndarray:
        """Draws noise of the standard deviation `scale`, `[per_row, ...]`: `[copies · B · per_row, ...]`."""
        drawn = normals(keys, first, copies, scale.size).numpy()
        per_row = scale.shape[0]
        shaped = drawn.reshape(copies, len(keys), *scale.shape) * (self.noise * scale).astype(np.float32)
        noise: np.ndarray = shaped.reshape(copies * len(keys) * per_row, *scale.shape[1:])
        return noise
