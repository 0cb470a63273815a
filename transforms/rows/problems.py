"""Reasons for rejecting single rows, collected while a batch is decoded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Problems:
    """The first reason found for rejecting each row."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}

    def add(self, mask: np.ndarray, reason: Callable[[int], str]) -> None:
        """Gives each row of the mask a reason, unless it has one already."""
        for row in np.flatnonzero(mask).tolist():
            if row not in self.reasons:
                self.reasons[row] = reason(row)

    def good(self, rows: int) -> np.ndarray:
        """A mask of the rows without a reason, `[rows]` bool."""
        mask = np.ones(rows, bool)
        mask[list(self.reasons)] = False
        return mask
