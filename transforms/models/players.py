"""Players: the groups of values of a row that a masking method keeps or replaces together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

#: Marks a value without a player, which masking never replaces.
HELD = -1


@dataclass(frozen=True)
class Players:
    """The players of a run: features, single values of tensor features, or groups of features.

    Args:
      names: Names of the players, `[M]`.
      shapes: Shape of each model input, without the batch axis.
      of: By model input, the player of each of its flattened values, `[size]`, or HELD if it has no player.
      tensors: For each tensor feature that is in no group, the player of each of its values, `[*shape]`.
    """

    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    of: Mapping[str, np.ndarray]
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def each(cls, shapes: Mapping[str, tuple[int, ...]]) -> Players:
        """Makes each value of each input a player."""
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
        """The number of players M."""
        return len(self.names)

    @property
    def holds(self) -> bool:
        """True if some values have no player."""
        return any((of == HELD).any() for of in self.of.values())

    @cached_property
    def _first(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each input, the players that have their first value in it, and the places of these values."""
        seen: set[int] = set()
        first = {}
        for name, owners in self.of.items():
            players, places = np.unique(owners, return_index=True)
            new = [i for i, player in enumerate(players) if player != HELD and int(player) not in seen]
            seen.update(int(players[i]) for i in new)
            first[name] = (players[new], places[new])
        return first

    def masks(self, coalitions: np.ndarray) -> dict[str, np.ndarray]:
        """Marks the values that each coalition keeps.

        Args:
          coalitions: Members of each coalition, `[C, M]` bool.
        Returns:
          By model input, which of a row's flattened values are kept, `[C, size]` bool; values without a
          player are always kept.
        """
        whole = np.concatenate([coalitions, np.ones((len(coalitions), 1), bool)], axis=1)
        return {name: whole[:, of] for name, of in self.of.items()}

    def to_inputs(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Spreads attributions by player, `[B, T, M]`, to the shapes of the model's inputs.

        Returns:
          φ by model input, `[B, T, *shape]` float32: a player's first value has the player's φ, and its other
          values have 0.
        """
        inputs = {}
        for name, (players, places) in self._first.items():
            spread = np.zeros((*values.shape[:2], len(self.of[name])), np.float32)
            spread[:, :, places] = values[:, :, players]
            inputs[name] = spread.reshape(*values.shape[:2], *self.shapes[name])
        return inputs


def value_names(name: str, shape: Sequence[int]) -> list[str]:
    """Names of an input's values: `name` for a scalar, `name[0, 1]` for each value of a tensor."""
    return [f"{name}{list(place)}" for place in np.ndindex(*shape)] if shape else [name]
