"""Players: the values of a row that a masking method keeps or replaces together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

#: The player of a value that no one plays: it stays what it is in the row.
HELD = -1


@dataclass(frozen=True)
class Players:
    """Who plays: features, the values of a feature with a shape, or groups that move as one.

    Args:
      names: Of the players, `[M]`.
      shapes: Of a row of each model input, without the batch.
      of: By model input, the player of each value of a row, flattened, `[size]`; HELD for none.
      tensors: By feature that has a shape and is in no group, the player of each of its values, `[*shape]`.
    """

    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    of: Mapping[str, np.ndarray]
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def each(cls, shapes: Mapping[str, tuple[int, ...]]) -> Players:
        """Every value of every input plays for itself."""
        names: list[str] = []
        of = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape, dtype=np.int64))
            of[name] = np.arange(len(names), len(names) + size)
            names += value_names(name, shape)
        tensors = {name: of[name].reshape(shape) for name, shape in shapes.items() if shape}
        return cls(tuple(names), dict(shapes), of, tensors)

    @property
    def count(self) -> int:
        """Players M."""
        return len(self.names)

    @property
    def holds(self) -> bool:
        """Whether some values belong to no player."""
        return any((of == HELD).any() for of in self.of.values())

    @cached_property
    def _first(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By input, the players whose first value stands there, and where."""
        seen: set[int] = set()
        firsts = {}
        for name, of in self.of.items():
            players, places = np.unique(of, return_index=True)
            mine = [at for at, player in enumerate(players) if player != HELD and int(player) not in seen]
            seen.update(int(players[at]) for at in mine)
            firsts[name] = (players[mine], places[mine])
        return firsts

    def masks(self, coalitions: np.ndarray) -> dict[str, np.ndarray]:
        """Masks of the values that coalitions keep.

        Args:
          coalitions: Members, `[C, M]` bool.
        Returns:
          By model input, `[C, size]` bool over the flattened values of a row; held values are kept.
        """
        whole = np.concatenate([coalitions, np.ones((len(coalitions), 1), bool)], axis=1)
        return {name: whole[:, of] for name, of in self.of.items()}

    def to_inputs(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Attributions by player, `[B, T, M]`, in the shape of the model's inputs.

        Returns:
          By model input, `[B, T, *shape]` float32: a player's φ stands at its first value, so that the sum
          over its values is φ.
        """
        by_input = {}
        for name, (players, places) in self._first.items():
            spread = np.zeros((*values.shape[:2], len(self.of[name])), np.float32)
            spread[:, :, places] = values[:, :, players]
            by_input[name] = spread.reshape(*values.shape[:2], *self.shapes[name])
        return by_input


def value_names(name: str, shape: Sequence[int]) -> list[str]:
    """`name` of a scalar, `name[0, 1]` of each value of a tensor."""
    return [f"{name}{list(place)}" for place in np.ndindex(*shape)] if shape else [name]
