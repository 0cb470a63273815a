"""Players that change nothing, because all background rows have the same values as the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from transforms.methods.masking.chunks import blocks
from transforms.models.players import HELD

if TYPE_CHECKING:
    from transforms.models.reference import Arrays, Reference

#: Most players for which the fit is solved again for each row. With more, that would cost more than the
#: scores, and the noise in the values of players that change nothing is shared among the others instead.
_MOST_SOLVED = 256

#: By input: whether all background rows have the same value at each place, and that value.
_Common = dict[str, tuple[np.ndarray, np.ndarray]]


def still_players(inputs: Arrays, reference: Reference) -> np.ndarray | None:
    """Marks players whose values equal those of all background rows; NaN equals NaN, −0 differs from 0.

    Args:
      inputs: Model inputs, `[B, *shape]`.
      reference: The background and the players.
    Returns:
      `[B, M]` bool; None if no row has such a player.
    """
    players = reference.players
    common: _Common = reference.once("common", lambda: _common(reference.inputs))
    rows = len(next(iter(inputs.values())))
    moves = np.zeros((rows, players.count + 1), bool)
    for name, (same, _) in common.items():
        moves[:, _columns(players.of[name], players.count)[~same]] = True
    never = moves[0].copy()  # players that are still in no row: the background itself varies
    never[players.count] = True
    if never.all():
        return None  # the usual case with many background rows
    for name, (_, values) in common.items():
        owners = _columns(players.of[name], players.count)
        places = np.flatnonzero(~never[owners])
        if not len(places) or not rows:
            continue
        places = places[np.argsort(owners[places], kind="stable")]
        differs = ~_equal(inputs[name].reshape(rows, -1)[:, places], values[places])
        whose, first = np.unique(owners[places], return_index=True)
        moves[:, whose] |= np.logical_or.reduceat(differs, first, axis=1)
    still: np.ndarray = ~moves[:, : players.count]
    return still if still.any() else None


def _common(background: Arrays) -> _Common:
    common = {}
    for name, value in background.items():
        flat = value.reshape(len(value), -1)
        common[name] = (np.asarray(_equal(flat, flat[0]).all(axis=0)), flat[0])
    return common


def _columns(owners: np.ndarray, players: int) -> np.ndarray:
    """The column in `[B, M + 1]` of each value's player; held values have the last column."""
    return np.where(owners == HELD, players, owners)


def _equal(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Compares bit for bit, except that any two NaN are equal."""
    same = np.asarray(values == other, bool)
    if np.issubdtype(values.dtype, np.floating):
        same &= np.signbit(values) == np.signbit(other)
    if np.issubdtype(values.dtype, np.floating) or values.dtype == object:
        same |= np.asarray(values != values, bool) & np.asarray(other != other, bool)
    return same


def at_zero(values: np.ndarray, still: np.ndarray | None, inverse: np.ndarray) -> np.ndarray:
    """Corrects a least-squares fit to the condition that players that change nothing get 0.

    Args:
      values: Values of the fit, `[B, T, M]`.
      still: Marks players D that change nothing, `[B, M]`; None: there are none.
      inverse: Inverse H of the fit's Gram matrix on its free directions, `[M, M]`; if the sum is fixed, these
        are the directions that leave it unchanged.
    Returns:
      The fit under this condition, `[B, T, M]`: φ − H_D (H_DD)⁻¹ φ_D.
    """
    if still is None or not still.any():
        return values
    shared = values.copy()
    rows = np.flatnonzero(still.any(axis=1) & ~still.all(axis=1))
    if len(rows):
        shared[rows] = (_solved if still.shape[1] <= _MOST_SOLVED else _shared)(
            values[rows], still[rows], inverse
        )
    return np.where(still[:, None], 0.0, shared)


def _solved(values: np.ndarray, still: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    # Rows in which the same players are still share a solution.
    _, first, which = np.unique(np.packbits(still, axis=1), axis=0, return_index=True, return_inverse=True)
    patterns, which = still[first], which.reshape(-1)
    count = still.shape[1]
    solved = values.copy()
    apart = np.eye(count)
    ridge = 1e-13 * np.trace(inverse) / count * apart  # for players that the samples do not distinguish
    for block in blocks(len(patterns), 3 * 8 * count**2):
        some = patterns[block]
        both = some[:, :, None] & some[:, None, :]
        solution = np.linalg.solve(np.where(both, inverse, apart) + ridge, np.where(both, apart, 0.0))
        rows = np.flatnonzero((which >= block[0]) & (which <= block[-1]))
        mine = solution[which[rows] - block[0]]
        solved[rows] -= np.matmul(np.matmul(values[rows] * still[rows, None], mine), inverse)
    return solved


def _shared(values: np.ndarray, still: np.ndarray, _: np.ndarray) -> np.ndarray:
    lost = np.where(still[:, None], values, 0.0).sum(axis=2, keepdims=True)
    shared: np.ndarray = values + lost / (~still).sum(axis=1)[:, None, None]
    return shared
