"""Shares of rows on a scale on which all have the same sampling error."""

from __future__ import annotations

import numpy as np


def angle(shares: np.ndarray) -> np.ndarray:
    """The arcsine of the root of shares, in radians, 0 to π/2; NaN stays NaN.

    Reference: Anscombe 1948, doi:10.1093/biomet/35.3-4.246.
    """
    made: np.ndarray = np.arcsin(np.sqrt(np.clip(shares, 0.0, 1.0)))
    return made


def angle_error(rows: np.ndarray) -> np.ndarray:
    """The sampling error of the angle of a share of `rows` rows, 1 / (2 √rows), for any share."""
    made: np.ndarray = 0.5 / np.sqrt(np.maximum(rows, 1.0))
    return made


def share_of(angles: np.ndarray) -> np.ndarray:
    """Undoes `angle`; angles beyond its range are clipped."""
    made: np.ndarray = np.sin(np.clip(angles, 0.0, np.pi / 2)) ** 2
    return made
