"""Protocols for abilities that only some models have: gradients, DeepLIFT, masking on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from transforms.models.reference import Arrays


class MaskedScores(Protocol):
    """A model with its background on the device, for scoring rows in which some players are replaced."""

    @property
    def has_prefix(self) -> bool:
        """True if masked rows are assembled behind the model's affine first layers (the affine prefix)."""

    def sums(
        self, inputs: Mapping[str, Any], targets: np.ndarray, coalitions: np.ndarray, base: np.ndarray
    ) -> np.ndarray:
        """Sums the scores of masked rows over the background rows, in one device call.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          targets: Output indices, `[B, T]`.
          coalitions: Players that each coalition keeps, `[C, M]` bool.
          base: Indices of the background rows from which the other players take their values, `[C, R′]`;
            `[1, R′]` uses the same rows for every coalition.
        Returns:
          Sums of scores, `[B, C, T]` float64.
        Cost: C · R′ evaluations per row.
        """


#: Sums by model input, each `[B, T, *shape]`, and sums of squares, as defined by each method of `Gradients`.
Sums = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


class CutParts(Protocol):
    """A model in three parts: inputs → entries → frontier → scores.

    An entry is a float tensor at which gradients begin. Between the entries and the frontier the model is
    affine.
    """

    @property
    def entries(self) -> Sequence[Any]:
        """The tensors at which gradients begin."""

    @property
    def row_masks(self) -> tuple[str, ...]:
        """Inputs from which the model computes a mask; all points of a path use the mask of the row."""

    @property
    def has_prefix(self) -> bool:
        """True if the model has an affine part between the entries and the frontier."""


class Gradients(Protocol):
    """A model cut at the tensors where gradients can begin."""

    #: Number of points evaluated so far, padding included; a point counts once for all its targets.
    evaluations: int

    @property
    def cut(self) -> CutParts:
        """The parts into which the model is cut."""

    @property
    def counted(self) -> frozenset[str]:
        """Inputs of which an entry only counts the values, as in a bag of words.

        The positions of such an input share φ equally.
        """

    @property
    def end_bytes(self) -> int:
        """Memory of the entries and the frontier of one background row, in bytes."""

    @property
    def activation_bytes(self) -> int:
        """Peak memory of one evaluation and its gradient, in bytes."""

    def ends(self, inputs: Arrays) -> tuple[list[Any], list[Any]]:
        """Computes the entries and the frontier of rows, as tensors."""

    def constants(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """Converts arrays to tensors once, so that many calls can share them."""

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
        the Jacobian of the affine part between them, which is constant. A group g is one path for each row.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          background: Entries and frontier of the background, as `ends` returns them.
          base_index: Background row of each group, `[G, B]` or `[G, 1]`.
          alphas: Positions on the path, `[G, K, B]` or `[G, K, 1]`.
          weights: Quadrature weights of the K positions, `[K]`.
          targets: Output index, `[B, T]`.
          squares: Whether to also return the squared differences between the terms of groups 0 and 1, 2 and
            3, …, summed over these pairs.
        Returns:
          Sums `[B, T, *shape]` by model input, in units of the score; and the squared differences, which are
          empty unless `squares` is true.
        Cost: G · K gradient evaluations per row, in one device call.
        """

    def path_scores(
        self,
        inputs: Mapping[str, Any],
        background: tuple[Sequence[Any], Sequence[Any]],
        base_index: np.ndarray,
        alphas: np.ndarray,
        targets: np.ndarray,
    ) -> np.ndarray:
        """Scores points on straight paths, F(z′_g + α_gk (z − z′_g)); the arguments are those of `integrate`.

        Returns:
          Scores, `[G, K, B, T]` float32.
        Cost: G · K forward evaluations per row, in one device call.
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

        Where the model compares an input with a constant, as it does to mask padding, noisy copies use the
        result for the row without noise: padding stays masked.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          noise: Noise to add to each entry, `[copies · B · per_row, ...]` float32, copy by copy, or a scalar
            0; the entry has `per_row` leading rows per input row.
          copies: Number of noisy copies per row.
          targets: Output index, `[B, T]`.
          mode: "plain" (∂F/∂e), "absolute" (|∂F/∂e|) or "times_input" (e ⊙ ∂F/∂e), before summing over an
            embedding's axis.
        Returns:
          Sums over the copies, and sums of squared deviations from the mean over the copies of this call,
          both `[B, T, *shape]` by model input.
        """


class Rescaled(Protocol):
    """A model with DeepLIFT's rules in place of gradients."""

    #: Number of pairs (row, background row) explained so far, padding included.
    evaluations: int

    @property
    def pair_bytes(self) -> int:
        """Peak memory of one pair (row, background row), in bytes."""

    def background(self, inputs: Arrays, rows: int) -> Any:
        """Prepares the background, split into parts of `rows` rows."""

    def explain(
        self, inputs: Mapping[str, Any], background: Any, targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Attributes the difference in score from each background row, and averages over the background rows.

        Returns:
          φ by model input, each `[B, T, *shape]`.
        """
