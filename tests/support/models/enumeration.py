"""Coalitions played one by one, and what follows from all of them: Shapley values and LIME's limit; helpers.

Written from the definitions and the model's own predictions; shares nothing with the methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import factorial

import numpy as np

from transforms.models.base import ScoredModel


def each_value(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By input, the player of each value of a row: everyone for itself."""
    found, start = {}, 0
    for name, value in inputs.items():
        size = value[0].size
        found[name] = np.arange(start, start + size)
        start += size
    return found


def worths(
    model: ScoredModel,
    rows: Mapping[str, np.ndarray],
    background: Mapping[str, np.ndarray],
    of: Mapping[str, np.ndarray] | None = None,
) -> dict[tuple[int, ...], np.ndarray]:
    """The scores of every coalition, by its members as zeros and ones: `[B, R, T]` float64.

    Args:
      model: The model with its score.
      rows: Model inputs, `[B, *shape]`.
      background: Likewise, `[R, *shape]`.
      of: By input, the player of each value of a row; −1 stays the row's. None: everyone for itself.
    """
    of = each_value(rows) if of is None else of
    players = 1 + max(int(who.max()) for who in of.values())
    size = len(next(iter(background.values())))
    found = {}
    for members in product((0, 1), repeat=players):
        mixed: dict[str, list[np.ndarray]] = {name: [] for name in rows}
        for base in range(size):
            for name, value in rows.items():
                kept = np.array([who < 0 or members[who] == 1 for who in of[name]]).reshape(value.shape[1:])
                mixed[name].append(np.where(kept, value, background[name][base]))
        scores, _ = model.evaluate({name: np.concatenate(parts) for name, parts in mixed.items()})
        by_base = scores.astype(np.float64).reshape(size, -1, scores.shape[1])
        found[members] = by_base.swapaxes(0, 1)
    return found


def shapley(played: Mapping[tuple[int, ...], np.ndarray]) -> np.ndarray:
    """Shapley values of the mean score over the background, `[B, T, M]`."""
    players = len(next(iter(played)))
    values = []
    for player in range(players):
        total = 0.0
        for members, scores in played.items():
            if members[player]:
                continue
            size = sum(members)
            weight = factorial(size) * factorial(players - size - 1) / factorial(players)
            joined = (*members[:player], 1, *members[player + 1 :])
            total = total + weight * (played[joined] - scores).mean(axis=1)
        values.append(total)
    return np.stack(values, axis=2)


def lime_limit(played: Mapping[tuple[int, ...], np.ndarray], width: float) -> tuple[np.ndarray, np.ndarray]:
    """LIME with infinitely many samples: slopes `[B, T, M]` and the expected scores' weighted r² `[B, T]`.

    Every z once, with its mean score over the background and the weight exp(−zeros / width²), by solving the
    normal equations with an intercept.
    """
    design, weights, scores = [], [], []
    for members, found in played.items():
        design.append([1.0, *members])
        weights.append(np.exp(-members.count(0) / width**2))
        scores.append(found.mean(axis=1))
    x, w, y = np.array(design), np.array(weights), np.stack(scores)  # [N, M + 1], [N], [N, B, T]
    slopes = np.linalg.solve(
        x.T @ (w[:, None] * x), np.einsum("nm,n,nbt->mbt", x, w, y).reshape(x.shape[1], -1)
    )
    slopes = slopes.reshape(-1, *y.shape[1:])
    mean = np.einsum("n,nbt->bt", w, y) / w.sum()
    left = np.einsum("n,nbt->bt", w, (y - np.einsum("nm,mbt->nbt", x, slopes)) ** 2)
    return slopes[1:].transpose(1, 2, 0), 1 - left / np.einsum("n,nbt->bt", w, (y - mean) ** 2)
