"""The agreement of two orders of features by importance."""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau


def agreement(measure: str, usual: np.ndarray, tonight: np.ndarray, top: int) -> float:
    """The agreement of two orders of features.

    Args:
      measure: ndcg (0 to 1), kendall (τ-b, −1 to 1), or overlap: the share of the first `top` features that
        both orders have.
      usual: Usual mean |φ|, `[M]`.
      tonight: Tonight's mean |φ|, `[M]`.
      top: Number of first features of the overlap.
    """
    if measure == "ndcg":
        return ndcg(usual, tonight)
    if measure == "kendall":
        return float(kendalltau(usual, tonight).statistic) if len(usual) > 1 else 1.0
    first = min(top, len(usual))
    sets = [set(np.argsort(-values, kind="stable")[:first].tolist()) for values in (usual, tonight)]
    return len(sets[0] & sets[1]) / first


def ndcg(usual: np.ndarray, tonight: np.ndarray) -> float:
    """The normalised discounted cumulative gain of tonight's order of features, 0 to 1.

    The gains are the usual mean |φ|; the ideal order is the usual one.

    Args:
      usual: Usual mean |φ| by feature, `[M]`.
      tonight: Tonight's mean |φ| by feature, `[M]`.
    Reference: Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418.
    """
    discount = 1.0 / np.log2(np.arange(len(usual)) + 2.0)
    gained = float((usual[np.argsort(-tonight, kind="stable")] * discount).sum())
    ideal = float((np.sort(usual)[::-1] * discount).sum())
    return gained / ideal if ideal > 0 else 1.0
