"""Integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from transforms.errors import UserError
from transforms.methods.base import (
    Attribution,
    AttributionMethod,
    Needs,
    convergence_delta,
    limits,
    predict,
    take,
)
from transforms.methods.calls import run_calls
from transforms.methods.gradients.adaptive import BLOCK_VALUES, NODES, integrate_in_panels
from transforms.methods.gradients.background_ends import background_ends
from transforms.methods.gradients.path_starts import start_values
from transforms.models.reference import Arrays, Reference
from transforms.numerics.quadrature import gauss_legendre

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel

_MAX_STEPS = 2000


@dataclass(frozen=True)
class IntegratedGradients(AttributionMethod):
    """Attributes the score to features by integrating gradients along a straight path.

    φ_i = (x_i − x′_i) · ∫₀¹ ∂F(x′ + α(x − x′))/∂x_i dα, by Gauss–Legendre quadrature; Σφ = F(x) − F(x′) up to
    `convergence_delta`. With a background of many rows, the mean over all of them. The part of the model that
    is affine is evaluated at the two ends only.

    Args:
      n_steps: Quadrature nodes on a path.
      tolerance: Largest |convergence_delta| of a row, relative to the spread of the score. Rows above it are
        integrated again by adaptive quadrature, with up to `max_steps`. None: every row gets `n_steps`.
      max_steps: Most gradient evaluations per path, the first `n_steps` included; used with a tolerance.
    Raises:
      UserError: `max_steps` is below `n_steps`; without a tolerance the default sets no limit.
    Cost: `n_steps` · R gradient evaluations per row, more for rows above the tolerance; memory
      O(device_batch_size).
    Reference: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, eq. 1.
    """

    name: ClassVar[str] = "integrated_gradients"
    cap: ClassVar[str] = "max_steps"
    summary: ClassVar[str] = "gradients integrated on the straight line from the baseline to the row"
    when: ClassVar[str] = "the default for a differentiable model: exact sums, cheap, one baseline"
    needs: ClassVar[Needs] = Needs(gradients=True, background=False)
    additive: ClassVar[bool] = True

    n_steps: Annotated[int, Field(ge=1, le=10_000)] = 50
    tolerance: Annotated[float, Field(gt=0, le=1e6)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=1_000_000)] = _MAX_STEPS

    def __post_init__(self) -> None:
        limited = self.tolerance is not None or self.max_steps != _MAX_STEPS
        if limited and self.max_steps < self.n_steps:
            raise UserError(
                f"{self.max_steps} is below n_steps: {self.n_steps}, which max_steps includes",
                "method.max_steps",
                "raise max_steps or lower n_steps",
            )

    def held_bytes(self, players: int) -> int:
        """Bytes of the panels under a tolerance: the panels, their halves, and both joined."""
        return 0 if self.tolerance is None else 8 * 4 * BLOCK_VALUES

    def evaluations_per_row(self, background_rows: int, players: int) -> int:
        """Nodes times background rows; rows above the tolerance cost more."""
        return self.n_steps * background_rows

    def attribute(
        self,
        model: ScoredModel,
        inputs: Arrays,
        reference: Reference,
        targets: np.ndarray,
        seeds: np.ndarray,
        device_batch_size: int,
    ) -> Attribution:
        """Integrates; see `AttributionMethod.attribute`."""
        prediction, output = predict(model, inputs, targets, device_batch_size)
        base_value = start_values(model, inputs, reference, targets, device_batch_size)
        values = _integrate(model, inputs, reference, targets, self.n_steps, device_batch_size)
        delta = convergence_delta(values, prediction, base_value)
        limited = np.zeros(len(targets), bool)
        if self.tolerance is not None:
            limit = limits(reference.spread[targets], self.tolerance)
            # A row that is not finite is rejected later; more nodes would not help.
            late = np.flatnonzero((np.abs(delta) > limit).any(axis=1) & np.isfinite(delta).all(axis=1))
            left = self.max_steps - self.n_steps
            if len(late) and left >= NODES:
                some = take(inputs, late)
                again = integrate_in_panels(
                    model, some, reference, targets[late], prediction[late], limit[late], self.n_steps, left,
                    device_batch_size,
                )  # fmt: skip
                again_delta = convergence_delta(again, prediction[late], base_value[late])
                # A row stopped by max_steps keeps the better of the two results.
                off = (np.abs(again_delta) / limit[late]).max(axis=1)
                better = off < (np.abs(delta[late]) / limit[late]).max(axis=1)
                for name, value in again.items():
                    values[name][late[better]] = value[better]
                delta[late[better]] = again_delta[better]
            limited[late] = (np.abs(delta[late]) > limit[late]).any(axis=1)
        return Attribution(values, prediction, output, base_value, delta, None, limited)


def _integrate(
    model: ScoredModel,
    inputs: Arrays,
    reference: Reference,
    targets: np.ndarray,
    steps: int,
    device_batch_size: int,
) -> dict[str, np.ndarray]:
    """φ by model input, `[B, T, *shape]`, with `steps` nodes on each of the R paths of a row."""
    differentiable = model.differentiable(reference.inputs)
    background = background_ends(model, reference, device_batch_size)
    alphas, weights = gauss_legendre(steps)
    weights = weights / np.float32(reference.rows)
    # Everything is a sum over (background row, node): whatever exceeds a device call is added up from
    # several.
    nodes = min(steps, device_batch_size)
    paths = min(reference.rows, max(1, device_batch_size // nodes))
    rows = max(1, device_batch_size // (nodes * paths))

    parts = []
    for path in range(0, reference.rows, paths):
        base = np.arange(path, min(path + paths, reference.rows), dtype=np.int32)[:, None]
        for node in range(0, steps, nodes):
            some = slice(node, node + nodes)
            at = np.broadcast_to(alphas[None, some, None], (len(base), len(alphas[some]), 1))
            parts.append((base, differentiable.constants(base, at, weights[some])))

    def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
        chosen = take(inputs, index)
        sums: dict[str, np.ndarray] = {}
        for of, (base, at, weight) in parts:
            ends = background.kept
            if ends is None:
                ends, base = background.of(of)
            part, _ = differentiable.integrate(chosen, ends, base, at, weight, targets[index])
            sums = {k: sums[k] + v for k, v in part.items()} if sums else part
        return (sums,)

    return run_calls(len(targets), rows, call)[0]
