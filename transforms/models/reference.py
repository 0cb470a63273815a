"""The baseline or background of a run, as models in their own inputs have it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transforms.models.players import Players

Arrays = Mapping[str, np.ndarray]


@dataclass(init=False)
class Reference:
    """The baseline or background, and a cache of what is computed of it once for the whole run.

    Args:
      inputs: Model inputs of the R background rows, `[R, *shape]`.
      scores: Their scores, `[R, T]` over all targets.
      spread: Population standard deviation of the score, `[T]`: over the background, or, with one baseline
        row, over the run's first rows.
      noise: Standard deviation of each entry of the model over the same rows, `[per_row, *shape]` where a row
        holds `per_row` of the entry's leading rows; for methods whose `needs.entry_spread` says so.
      players: What masking methods keep and replace; without it, every value of the inputs plays for itself.
      seed: The run's; what all rows share, such as coalitions, is drawn with it.
      yardstick: What a convergence delta is measured by, `[T]`; without it, the spread.
    """

    inputs: Arrays
    scores: np.ndarray
    spread: np.ndarray
    noise: tuple[np.ndarray, ...]
    players: Players
    seed: int
    yardstick: np.ndarray
    # Not taken over by dataclasses.replace: another background has other things to keep.
    _kept: dict[str, Any] = field(repr=False, init=False)
    _lock: Any = field(repr=False, init=False)

    def __init__(
        self,
        inputs: Arrays,
        scores: np.ndarray,
        spread: np.ndarray,
        noise: tuple[np.ndarray, ...] = (),
        players: Players | None = None,
        seed: int = 0,
        yardstick: np.ndarray | None = None,
    ) -> None:
        self.inputs, self.scores, self.spread, self.noise, self.seed = inputs, scores, spread, noise, seed
        self.players = players or Players.each({name: value.shape[1:] for name, value in inputs.items()})
        self.yardstick = spread if yardstick is None else yardstick
        self._kept = {}
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Background rows R."""
        return len(self.scores)

    @property
    def base_values(self) -> np.ndarray:
        """Mean score over the background, `[T]` float32."""
        mean: np.ndarray = self.scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns what `make` computes of the background, once a process, whichever thread asks first."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]

    def latest(self, name: str, size: int, make: Callable[[], Any]) -> Any:
        """Like `once`, keyed by a size; only the most recent size is kept.

        A size changes when the memory has run out: what is of no more use must not stay there.
        """
        with self._lock:
            known, value = self._kept.get(name, (None, None))
            if known != size:
                del value
                self._kept.pop(name, None)
                value = make()
                self._kept[name] = (size, value)
            return value
