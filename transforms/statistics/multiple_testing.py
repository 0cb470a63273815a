"""Corrections for several tests at once."""

from __future__ import annotations

import numpy as np


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusts p-values: each becomes the smallest false discovery rate at which its test is significant.

    Args:
      p: The p-values, `[K]`, without NaN.
    Returns:
      The q-values, `[K]`, in the same order.
    Reference: Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57(1).
    """
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted
