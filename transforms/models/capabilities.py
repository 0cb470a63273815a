"""What some models do for methods beyond evaluating rows: gradients, DeepLIFT, masking on a device."""

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
        """Where gradients begin, and how far the model is affine."""

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
        """Sums gradients along straight paths from background rows to the inputs."""

    def path_scores(
        self,
        inputs: Mapping[str, Any],
        background: tuple[Sequence[Any], Sequence[Any]],
        base_index: np.ndarray,
        alphas: np.ndarray,
        targets: np.ndarray,
    ) -> np.ndarray:
        """Evaluates the score at points of straight paths, `[G, K, B, T]`."""

    def gradient(
        self,
        inputs: Mapping[str, Any],
        noise: Sequence[np.ndarray],
        copies: int,
        targets: np.ndarray,
        mode: str,
    ) -> Sums:
        """Sums gradients at noisy copies of the inputs; `mode` is plain | absolute | times_input."""


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
