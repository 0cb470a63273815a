"""Players that change nothing: whose values in a row are those of every background row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from transforms.methods.masking.chunks import blocks
from transforms.models.players import HELD

if TYPE_CHECKING:
    from transforms.models.reference import Arrays, Reference

#: With more players, what noise gave those that change nothing is shared out instead: a solution a row would
#: cost more than the scores that it is made of.
_MOST_SOLVED = 256

#: Whether all background rows have the same value at each place, and that value, by input.
_Common = dict[str, tuple[np.ndarray, np.ndarray]]


def still_players(inputs: Arrays, reference: Reference) -> np.ndarray | None:
    """Players of which nothing differs from any background row; NaN equals NaN, and −0 is not 0.

    Args:
      inputs: Model inputs, `[B, *shape]`.
      reference: The background and the players.
    Returns:
      `[B, M]` bool; None where no row has one.
    """
    players = reference.players
    common: _Common = reference.once("common", lambda: _common(reference.inputs))
    rows = len(next(iter(inputs.values())))
    moves = np.zeros((rows, players.count + 1), bool)
    for name, (same, _) in common.items():
        moves[:, _columns(players.of[name], players.count)[~same]] = True
    never = moves[0].copy()  # in any row
    never[players.count] = True
    if never.all():
        return None  # as with most backgrounds of many rows
    for name, (_, values) in common.items():
        of = _columns(players.of[name], players.count)
        places = np.flatnonzero(~never[of])
        if not len(places) or not rows:
            continue
        places = places[np.argsort(of[places], kind="stable")]
        differs = ~_equal(inputs[name].reshape(rows, -1)[:, places], values[places])
        whose, first = np.unique(of[places], return_index=True)
        moves[:, whose] |= np.logical_or.reduceat(differs, first, axis=1)
    still: np.ndarray = ~moves[:, : players.count]
    return still if still.any() else None


def _common(background: Arrays) -> _Common:
    common = {}
    for name, value in background.items():
        flat = value.reshape(len(value), -1)
        common[name] = (np.asarray(_equal(flat, flat[0]).all(axis=0)), flat[0])
    return common


def _columns(of: np.ndarray, players: int) -> np.ndarray:
    """Columns of `[B, M + 1]`: the last is that of what is held."""
    return np.where(of == HELD, players, of)


def _equal(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bit for bit, but that any two NaN are equal."""
    same = np.asarray(values == other, bool)
    if np.issubdtype(values.dtype, np.floating):
        same &= np.signbit(values) == np.signbit(other)
    if np.issubdtype(values.dtype, np.floating) or values.dtype == object:
        same |= np.asarray(values != values, bool) & np.asarray(other != other, bool)
    return same


def at_zero(values: np.ndarray, still: np.ndarray | None, inverse: np.ndarray) -> np.ndarray:
    """A least-squares fit with nothing for the players that change nothing.

    Args:
      values: Of the fit, `[B, T, M]`.
      still: Players that change nothing, `[B, M]`; None: there are none.
      inverse: Of the fit's Gram matrix among the directions that are free, `[M, M]`: of a fit whose sum is
        given, those that leave it as it is.
    Returns:
      The fit under that condition, `[B, T, M]`: φ − H_D (H_DD)⁻¹ φ_D.
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
    # Rows with the same players still share a solution.
    _, first, which = np.unique(np.packbits(still, axis=1), axis=0, return_index=True, return_inverse=True)
    patterns, which = still[first], which.reshape(-1)
    count = still.shape[1]
    solved = values.copy()
    apart = np.eye(count)
    ridge = 1e-13 * np.trace(inverse) / count * apart  # where samples cannot tell players apart
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
