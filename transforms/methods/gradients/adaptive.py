"""Integrated gradients by adaptive quadrature, for rows that fixed nodes leave above the tolerance.

A path is cut into panels. The attributions of a panel must sum to the difference of the scores at its two
ends, so that its error is known exactly. A panel in which the score is smooth passes at once. A panel with a
kink is halved, which halves its error, so that nodes gather where the score bends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transforms.methods.base import column, concatenate, take, totals
from transforms.methods.calls import run_calls
from transforms.methods.gradients.background_ends import background_ends
from transforms.models.reference import Arrays, Reference
from transforms.numerics.quadrature import gauss_legendre

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel

#: Nodes per panel. Two are exact for a cubic; on piecewise linear scores more would be wasted.
NODES = 2
#: Most values of panels' attributions kept until their rows are done, before halving adds more.
BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class _Paths:
    """The straight paths from the background rows to some rows.

    Args:
      model: The model.
      inputs: Model inputs of the rows, `[B, *shape]`.
      reference: The background.
      targets: Output index, `[B, T]`.
      device_batch_size: Most model evaluations in one device call.
    """

    model: ScoredModel
    inputs: Arrays
    reference: Reference
    targets: np.ndarray
    device_batch_size: int

    def integrate(
        self, row: np.ndarray, base: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> dict[str, np.ndarray]:
        """φ of P panels, each of one row and background row, `[P, T, *shape]` by model input."""
        differentiable = self.model.differentiable(self.reference.inputs)
        background = background_ends(self.model, self.reference, self.device_batch_size)
        nodes, weights = gauss_legendre(NODES)
        width = end - start
        alphas = (start + nodes[:, None].astype(np.float64) * width).astype(np.float32)

        def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
            of = row[index]
            inputs, at = take(self.inputs, of), alphas[None, :, index]
            ends, places = background.of(base[None, index])
            sums, _ = differentiable.integrate(inputs, ends, places, at, weights, self.targets[of])
            return ({k: v * column(width[index], v) for k, v in sums.items()},)

        return run_calls(len(row), max(1, self.device_batch_size // NODES), call)[0]

    def scores(self, row: np.ndarray, base: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Scores at P points, each on the path of one row and background row, `[P, T]`."""
        differentiable = self.model.differentiable(self.reference.inputs)
        background = background_ends(self.model, self.reference, self.device_batch_size)
        alphas = at.astype(np.float32)

        def call(index: np.ndarray) -> tuple[dict[str, np.ndarray], ...]:
            of = row[index]
            inputs, at = take(self.inputs, of), alphas[None, None, index]
            ends, places = background.of(base[None, index])
            scores = differentiable.path_scores(inputs, ends, places, at, self.targets[of])
            return ({"score": scores[0, 0]},)

        return run_calls(len(row), self.device_batch_size, call)[0]["score"]


@dataclass
class _Panels:
    """P panels: row, background row and two ends of each, `[P]`; scores at the ends, `[P, T]`; and φ."""

    row: np.ndarray
    base: np.ndarray
    start: np.ndarray
    end: np.ndarray
    at_start: np.ndarray
    at_end: np.ndarray
    values: dict[str, np.ndarray]

    @classmethod
    def measured(
        cls,
        paths: _Paths,
        row: np.ndarray,
        base: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        at_start: np.ndarray,
        at_end: np.ndarray,
    ) -> _Panels:
        """Integrates the panels."""
        return cls(row, base, start, end, at_start, at_end, paths.integrate(row, base, start, end))

    def error(self) -> np.ndarray:
        """Σφ − (score at the end − score at the start), `[P, T]` float64."""
        error: np.ndarray = totals(self.values) - (self.at_end.astype(np.float64) - self.at_start)
        return error

    def where(self, chosen: np.ndarray) -> _Panels:
        """Selects panels by a mask."""
        return _Panels(
            self.row[chosen],
            self.base[chosen],
            self.start[chosen],
            self.end[chosen],
            self.at_start[chosen],
            self.at_end[chosen],
            {name: value[chosen] for name, value in self.values.items()},
        )

    def halved(self, paths: _Paths) -> _Panels:
        """Halves each panel at its middle."""
        middle = (self.start + self.end) / 2
        score = paths.scores(self.row, self.base, middle)
        return _Panels.measured(
            paths,
            np.concatenate([self.row, self.row]),
            np.concatenate([self.base, self.base]),
            np.concatenate([self.start, middle]),
            np.concatenate([middle, self.end]),
            np.concatenate([self.at_start, score]),
            np.concatenate([score, self.at_end]),
        )

    def joined(self, other: _Panels) -> _Panels:
        """Appends other panels."""
        return _Panels(
            np.concatenate([self.row, other.row]),
            np.concatenate([self.base, other.base]),
            np.concatenate([self.start, other.start]),
            np.concatenate([self.end, other.end]),
            np.concatenate([self.at_start, other.at_start]),
            np.concatenate([self.at_end, other.at_end]),
            concatenate([self.values, other.values]),
        )


def integrate_in_panels(
    model: ScoredModel,
    inputs: Arrays,
    reference: Reference,
    targets: np.ndarray,
    prediction: np.ndarray,
    limit: np.ndarray,
    steps: int,
    most_steps: int,
    device_batch_size: int,
) -> dict[str, np.ndarray]:
    """Integrates each row's gradients, adding nodes where they are needed until the row meets its limit.

    Args:
      model: The model.
      inputs: Model inputs, `[B, *shape]`.
      reference: The baseline, or R rows whose mean is taken.
      targets: Output index, `[B, T]`.
      prediction: Score of the rows, `[B, T]`.
      limit: Largest |convergence_delta|, `[B, T]`, above 0.
      steps: Nodes that a path starts with.
      most_steps: Most gradient evaluations a path may take, on average over the R paths of a row, in all
        rounds.
      device_batch_size: Most model evaluations in one device call.
    Returns:
      φ by model input, `[B, T, *shape]` float32: the best that `most_steps` allows.
    Cost: one forward evaluation for every `NODES` gradient evaluations.
    """
    rows, count = len(targets), max(1, min(steps, most_steps) // NODES)
    features = sum(int(np.prod(value.shape[1:], dtype=np.int64)) for value in inputs.values())
    block = max(1, BLOCK_VALUES // (reference.rows * count * targets.shape[1] * features))
    parts = []
    for first in range(0, rows, block):
        index = np.arange(first, min(first + block, rows))
        paths = _Paths(model, take(inputs, index), reference, targets[index], device_batch_size)
        budget = max(most_steps, NODES) * reference.rows
        parts.append(_refine(paths, prediction[index], limit[index], count, budget))
    return concatenate(parts)


def _refine(
    paths: _Paths, prediction: np.ndarray, limit: np.ndarray, count: int, budget: int
) -> dict[str, np.ndarray]:
    """φ of the rows of one block, with at most `budget` gradient evaluations per row."""
    rows, background = len(limit), paths.reference.rows
    panels = _even_panels(paths, prediction, count)
    spent = np.full(rows, NODES * count * background)
    values = {k: np.zeros((rows, *v.shape[1:]), np.float32) for k, v in panels.values.items()}
    while len(panels.row):
        error = panels.error() / background
        delta = np.zeros(limit.shape)
        np.add.at(delta, panels.row, error)
        severity = np.nan_to_num((np.abs(error) / limit[panels.row]).max(axis=1), nan=0, posinf=0)
        split = _marked(panels.row, severity, rows)
        cost = 2 * NODES * np.bincount(panels.row[split], minlength=rows)
        # A row is refined while its sum is off and the budget suffices for all of its bad panels.
        off = (np.abs(delta) > limit).any(axis=1) & np.isfinite(delta).all(axis=1)
        goes_on = off & (spent + cost <= budget)
        spent += np.where(goes_on, cost, 0)
        stays = goes_on[panels.row]
        _add_up(values, panels.where(~stays), background)
        if not stays.any():
            break
        panels = panels.where(stays & ~split).joined(panels.where(stays & split).halved(paths))
    return values


def _even_panels(paths: _Paths, prediction: np.ndarray, count: int) -> _Panels:
    """`count` panels of one width on every path."""
    rows, background = len(prediction), paths.reference.rows
    edges = np.linspace(0, 1, count + 1)
    row = np.repeat(np.arange(rows), background * (count - 1))
    base = np.tile(np.repeat(np.arange(background, dtype=np.int32), count - 1), rows)
    targets = paths.targets
    at = np.empty((rows, background, count + 1, targets.shape[1]), np.float32)
    if paths.reference.players.holds:  # each row has its own start of the path
        every = np.repeat(np.arange(rows), background)
        starts = np.tile(np.arange(background, dtype=np.int32), rows)
        at[:, :, 0] = paths.scores(every, starts, np.zeros(len(every))).reshape(rows, background, -1)
    else:
        at[:, :, 0] = paths.reference.scores.T[targets].swapaxes(1, 2)
    at[:, :, -1] = prediction[:, None]
    if count > 1:
        inner = np.tile(edges[1:-1], rows * background)
        at[:, :, 1:-1] = paths.scores(row, base, inner).reshape(rows, background, count - 1, -1)
    return _Panels.measured(
        paths,
        np.repeat(np.arange(rows), background * count),
        np.tile(np.repeat(np.arange(background, dtype=np.int32), count), rows),
        np.tile(edges[:-1], rows * background),
        np.tile(edges[1:], rows * background),
        at[:, :, :-1].reshape(-1, targets.shape[1]),
        at[:, :, 1:].reshape(-1, targets.shape[1]),
    )


def _marked(row: np.ndarray, severity: np.ndarray, rows: int) -> np.ndarray:
    """Marks the panels to halve, `[P]` bool: the worst of each row, until the rest is accurate enough.

    Errors have both signs, so that the unmarked panels together are off by about the root of the sum of
    their squared errors; this may be at most half of the row's limit. If all errors have one sign and no
    panel would be marked, the worst one is.
    """
    order = np.lexsort((severity, row))
    ends = np.cumsum(np.bincount(row, minlength=rows))
    sums = np.concatenate([[0.0], np.cumsum(severity[order] ** 2)])
    # The sum of the squared errors of this panel and of all better ones of its row.
    upto = sums[1:] - sums[np.concatenate([[0], ends])[row[order]]]
    marked = np.zeros(len(row), bool)
    marked[order] = upto > 0.25
    marked[order[ends[np.unique(row)] - 1]] = True
    return marked


def _add_up(values: dict[str, np.ndarray], panels: _Panels, background: int) -> None:
    """Adds the panels' φ to their rows, in float64."""
    if not len(panels.row):
        return
    order = np.argsort(panels.row, kind="stable")
    rows, first = np.unique(panels.row[order], return_index=True)
    for name, value in panels.values.items():
        values[name][rows] = np.add.reduceat(value[order].astype(np.float64), first, axis=0) / background
