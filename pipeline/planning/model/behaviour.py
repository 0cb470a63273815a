"""Checks that a model has one score per row: the same each time, in any batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transforms.errors import UserError
from transforms.models.base import ScoredModel
from transforms.models.tensorflow_errors import refusal
from transforms.wording import names_in_words

#: Number of rows per call.
_ROWS = 128
#: Evaluations that detect a model which draws random numbers.
DRAWS = 16
#: Number of rows that are also evaluated alone.
_ALONE = 8
_ANEW = "save it in inference mode (training=False), without layers that draw random numbers"
_APART = "save it in inference mode, without anything computed across the rows of a batch"


@dataclass(frozen=True)
class Rounding:
    """Differences that rounding may cause, as shares of a score's magnitude and of its spread over the rows.

    Args:
      again: Between two identical calls, which differ only by a GPU's atomic additions.
      neighbours: Between calls of one shape with the row in one place; only ragged texts differ.
      elsewhere: Between calls of different shapes, or with the row in different places.
    """

    again: tuple[float, float] = (5e-7, 1e-5)
    neighbours: tuple[float, float] = (2e-6, 2e-4)
    elsewhere: tuple[float, float] = (1e-4, 1e-3)


_HALVES = Rounding((1e-4, 1e-4), (1e-3, 1e-3), (5e-2, 5e-2))


def check_behaviour(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], size: int, where: str = "model.path"
) -> None:
    """Evaluates rows several times, alone and among others, in two orders.

    Args:
      model: The model with its score.
      inputs: Rows of model inputs, `[B, *shape]`.
      size: Evaluations in a device call.
      where: The key of the model in the config.
    Raises:
      UserError: A row has more than one score; the line names the cause within the model.
    Cost: six evaluations of at most 128 rows, and of eight rows alone.
    """
    rows = len(next(iter(inputs.values())))
    count = max(1, min(_ROWS, size))
    index = np.arange(count) % rows  # few rows are repeated, so that a rare random effect is found
    batch = _take(inputs, index)
    scores = model.evaluate(batch)[0]
    may, magnitude, spread = _rounding(model), _magnitude(scores), scores.std(axis=0, dtype=np.float64)

    def unlike(scores_again: np.ndarray, known: np.ndarray, share: tuple[float, float]) -> np.ndarray:
        a, b = scores_again.astype(np.float64), known.astype(np.float64)
        with np.errstate(invalid="ignore"):
            away = np.abs(a - b) > share[0] * np.maximum(magnitude, np.abs(b)) + share[1] * spread
        rows_unlike: np.ndarray = (away | ~np.isfinite(a)).any(axis=1)
        return rows_unlike

    draws = random_places(model)
    for _ in range(DRAWS if draws else 2):
        if unlike(model.evaluate(batch)[0], scores, may.again).any():
            raise random_error(draws, where)

    def wavers() -> bool:
        return any(unlike(model.evaluate(batch)[0], scores, may.again).any() for _ in range(DRAWS))

    for kept, neighbour in ((np.arange(count) % 2 == 0, 0), (np.arange(count) % 2 == 1, rows // 2)):
        # The same row throughout: a mean or maximum over the batch would change.
        other = _take(inputs, np.where(kept, index, neighbour))
        if unlike(model.evaluate(other)[0], scores, may.neighbours)[kept].any():
            if wavers():  # an effect so rare that three calls agreed by chance
                raise random_error(draws, where)
            raise _mixing_error(_mixing(model, batch, other, kept), where)
    order = np.arange(count)[::-1]
    if unlike(model.evaluate(_take(batch, order))[0][order], scores, may.elsewhere).any():
        raise random_error(draws, where) if draws else _mixing_error([], where, "its place in the batch")
    for row in np.unique(np.linspace(0, count - 1, min(_ALONE, count)).astype(np.int64)):
        alone = _take(batch, slice(row, row + 1))
        try:
            scores_alone = model.evaluate(alone)[0]
        except Exception as error:
            line = refusal(error, planning=True)
            if line is None:
                raise
            raise _mixing_error([f"alone, {line}"], where) from error
        if unlike(scores_alone, scores[row : row + 1], may.elsewhere).any():
            if draws or wavers():
                raise random_error(draws, where)
            itself = _take(batch, np.full(count, row))
            if not unlike(model.evaluate(itself)[0][row : row + 1], scores_alone, may.elsewhere).any():
                raise _mixing_error(_mixing(model, batch, itself, np.arange(count) == row), where)
            raise _mixing_error([], where, "the number of rows in its batch")


def random_places(model: ScoredModel) -> list[str]:
    """The ops that draw random numbers, as far as the model's graph shows them."""
    if not model.has_gradients:
        return []
    from transforms.models.graphs.culprits import random_places
    from transforms.models.graphs.scored import ScoredGraph

    assert isinstance(model, ScoredGraph), "only TensorFlow models have gradients"
    return random_places(model)


def random_error(draws: list[str], where: str = "model.path") -> UserError:
    """The error for a model whose score varies between calls, with the ops that draw random numbers."""
    named = f" ({names_in_words(draws, 4)})" if draws else ""
    return UserError(f"the model returns a different score each time{named}", where, _ANEW)


def _mixing(
    model: ScoredModel, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], same: np.ndarray
) -> list[str]:
    if not model.has_gradients:
        return []
    from transforms.models.graphs.culprits import mixing_places
    from transforms.models.graphs.scored import ScoredGraph

    assert isinstance(model, ScoredGraph), "only TensorFlow models have gradients"
    return mixing_places(model, one, other, same)


def _mixing_error(places: list[str], where: str, on: str = "its neighbours in the batch") -> UserError:
    named = f" ({names_in_words(places, 4)[:120]})" if places else ""
    return UserError(f"a row's score depends on {on}{named}", where, _APART)


def _rounding(model: ScoredModel) -> Rounding:
    return _HALVES if model.has_gradients and model.in_halves else Rounding()


def _magnitude(scores: np.ndarray) -> np.ndarray:
    magnitude: np.ndarray = np.sqrt(np.mean(np.square(scores, dtype=np.float64), axis=0))
    return magnitude


def _take(inputs: Mapping[str, np.ndarray], index: np.ndarray | slice) -> dict[str, np.ndarray]:
    return {name: value[index] for name, value in inputs.items()}
