"""The baseline or background of a run, as model inputs, with the results that are computed from it."""

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
    """The baseline or background, and a cache of results that are computed from it once per run.

    A baseline is a background of one row.

    Args:
      inputs: Model inputs of the R background rows, `[R, *shape]`.
      scores: Scores of the background rows, `[R, T]` over all targets.
      spread: Population standard deviation of the score, `[T]`, over the background or, with a baseline, over
        the run's first rows.
      noise: For each entry of the model (a tensor at which gradients begin), the standard deviation over the
        same rows as for `spread`, `[per_row, *shape]`; the entry has `per_row` leading rows per input row.
        Only for methods with `needs.entry_spread`.
      players: Players that masking methods keep or replace; None makes every value of the inputs a player.
      seed: Seed of the run, for random draws that all rows share, such as coalitions.
      yardstick: Scale to which a convergence delta is compared, `[T]`; None uses the spread.
    """

    inputs: Arrays
    scores: np.ndarray
    spread: np.ndarray
    noise: tuple[np.ndarray, ...]
    players: Players
    seed: int
    yardstick: np.ndarray
    # dataclasses.replace does not copy the cache, because it is valid for one background only.
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
        """Number of background rows, R."""
        return len(self.scores)

    @property
    def base_values(self) -> np.ndarray:
        """Mean score over the background, `[T]` float32."""
        mean: np.ndarray = self.scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Returns the result of `make`, which is called once and cached under `name`; safe for threads."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]

    def latest(self, name: str, size: int, make: Callable[[], Any]) -> Any:
        """Like `once`, but for a result that depends on `size`; only the result for the latest size is kept.

        The size changes after memory has run out, so the old result is freed before the new one is made.
        """
        with self._lock:
            known, value = self._kept.get(name, (None, None))
            if known != size:
                del value
                self._kept.pop(name, None)
                value = make()
                self._kept[name] = (size, value)
            return value
