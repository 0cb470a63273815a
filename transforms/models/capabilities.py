"""Protocols of what some models do beyond evaluating rows: gradients, DeepLIFT, masking on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from transforms.models.reference import Arrays


class MaskedScores(Protocol):
    """A model with its background on the device: scores of rows of which only some players are kept."""

    @property
    def has_prefix(self) -> bool:
        """Whether points are put together behind an affine prefix."""

    def sums(
        self, inputs: Mapping[str, Any], targets: np.ndarray, coalitions: np.ndarray, base: np.ndarray
    ) -> np.ndarray:
        """Sums the scores of masked rows over background rows, in one device call.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          targets: Output index, `[B, T]`.
          coalitions: Members, `[C, M]` bool.
          base: Background rows that take the others' place, `[C, R′]`, or `[1, R′]` for every coalition.
        Returns:
          `[B, C, T]` float64.
        Cost: C · R′ evaluations a row.
        """


#: Sums by model input, `[B, T, *shape]`, and what the method says of their squares.
Sums = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


class CutParts(Protocol):
    """A model in three parts: inputs → entries → frontier → scores.

    An entry is a float tensor at which gradients begin; up to the frontier the model is affine.
    """

    @property
    def entries(self) -> Sequence[Any]:
        """The tensors at which gradients begin."""

    @property
    def row_masks(self) -> tuple[str, ...]:
        """Inputs of which the model makes a mask that stays the row's along a path."""

    @property
    def has_prefix(self) -> bool:
        """Whether the frontier lies behind the entries."""


class Gradients(Protocol):
    """A model cut where gradients can begin."""

    #: Evaluations asked for so far, padding included: points, however many targets.
    evaluations: int

    @property
    def cut(self) -> CutParts:
        """The cut: where gradients begin, and how far the model is affine."""

    @property
    def counted(self) -> frozenset[str]:
        """Inputs of which an entry counts what stands anywhere: their positions have equal shares."""

    @property
    def end_bytes(self) -> int:
        """Memory of a background row's entries and frontier."""

    @property
    def activation_bytes(self) -> int:
        """Memory that one evaluation and its gradient hold at most."""

    def ends(self, inputs: Arrays) -> tuple[list[Any], list[Any]]:
        """Computes entries and frontier of some rows, as tensors."""

    def constants(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """Makes tensors, once, of what many calls share."""

    def integrate(
        self,
        inputs: Mapping[str, Any],
        background: tuple[Sequence[Any], Sequence[Any]],
        base_index: Any,
        alphas: Any,
        weights: Any,
        targets: np.ndarray,
        *,
        squares: bool = False,
    ) -> Sums:
        """Sums gradients along straight paths from background rows to the inputs.

        φ = Σ_g (e − e′_g) ⊙ Jᵀ Σ_k w_k ∇F(z′_g + α_gk (z − z′_g)), with e the entries, z the frontier and J
        the Jacobian of the affine prefix, the same everywhere.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          background: Entries and frontier of the background, as `ends` returns them.
          base_index: Background row of each group, `[G, B]` or `[G, 1]`.
          alphas: Positions on the path, `[G, K, B]` or `[G, K, 1]`.
          weights: Of the nodes, `[K]`.
          targets: Output index, `[B, T]`.
          squares: Also return the squared differences of terms, summed over pairs of groups (0,1), (2,3), ….
        Returns:
          Sums `[B, T, *shape]` by model input, in units of the score, and the squares (empty without).
        Cost: G · K gradient evaluations a row in one device call.
        """

    def path_scores(
        self,
        inputs: Mapping[str, Any],
        background: tuple[Sequence[Any], Sequence[Any]],
        base_index: np.ndarray,
        alphas: np.ndarray,
        targets: np.ndarray,
    ) -> np.ndarray:
        """Scores at points of straight paths, F(z′_g + α_gk (z − z′_g)); arguments as for `integrate`.

        Returns:
          `[G, K, B, T]` float32.
        Cost: G · K forward evaluations a row in one device call.
        """

    def gradient(
        self,
        inputs: Mapping[str, Any],
        noise: Sequence[np.ndarray],
        copies: int,
        targets: np.ndarray,
        mode: str,
    ) -> Sums:
        """Sums gradients at noisy copies of the inputs.

        What equals a constant in the row still does under noise: padding stays padding, behind its mask.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          noise: By entry, what is added to it, `[copies · B · per_row, ...]` copy-major, or a scalar 0;
            float32.
          copies: How many.
          targets: Output index, `[B, T]`.
          mode: "plain" (∂F/∂e), "absolute" (|∂F/∂e|) or "times_input" (e ⊙ ∂F/∂e), before summing over an
            embedding's axis.
        Returns:
          Sums over the copies and sums of squared deviations from the call's mean, `[B, T, *shape]` by model
          input.
        """


class Rescaled(Protocol):
    """A model with DeepLIFT's rules."""

    #: Pairs of a row and a background row asked for so far, padding included.
    evaluations: int

    @property
    def pair_bytes(self) -> int:
        """Memory that a pair of a row and a background row takes at most."""

    def background(self, inputs: Arrays, rows: int) -> Any:
        """Prepares the background in parts of `rows` rows."""

    def explain(
        self, inputs: Mapping[str, Any], background: Any, targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Attributes the differences to each background row, averaged: φ by model input, `[B, T, *shape]`."""
