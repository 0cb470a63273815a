"""Mean |φ| and mean φ of each position in tensors, as a mergeable state."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from transforms.rows.schema import ExampleSchema

#: Most outputs × positions for which a feature's sums are kept: 64 MiB.
_MOST = 1 << 22
#: Most values that are added at a time.
_BLOCK = 1 << 16

TABLE = pa.schema(
    [
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("feature", pa.string()),
        ("index", pa.list_(pa.int32())),
        ("mean_abs", pa.float64()),
        ("mean", pa.float64()),
    ]
)


def positioned(schema: ExampleSchema, targets: int) -> dict[str, tuple[int, ...]]:
    """The shapes of features that are tensors, except those with too many positions.

    Args:
      schema: The examples' schema.
      targets: Number of the model's outputs that may be explained.
    """
    shapes = {name: schema.attributed_shape(name) for name in schema.attributed}
    return {
        name: shape
        for name, shape in shapes.items()
        if shape and targets * int(np.prod(shape, dtype=np.int64)) <= _MOST
    }


def positions_bytes(schema: ExampleSchema, targets: int) -> int:
    """The most memory that a state takes."""
    shapes = positioned(schema, targets).values()
    return 16 * targets * sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)


@dataclass
class Positions:
    """Sums of |φ| and φ by target, feature and position.

    Merging is associative and commutative up to float64 rounding. `update` and `merge` mutate only the state
    that they are called on.

    Args:
      shapes: Shapes of the features that are counted, from `positioned`.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    _weight: dict[int, float] = field(default_factory=dict)
    _sums: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)

    def update(
        self, values: Mapping[str, np.ndarray], targets: np.ndarray, weights: np.ndarray | None = None
    ) -> None:
        """Adds a batch.

        Args:
          values: φ by feature, `[B, T, *shape]`.
          targets: Output index, `[B, T]`.
          weights: Weight of each row, `[B]`; None: 1.
        """
        if not self.shapes:
            return
        flat = targets.reshape(-1)
        weight = np.ones(len(flat)) if weights is None else np.repeat(weights, targets.shape[1])
        order = np.argsort(flat, kind="stable")
        found_targets, starts = np.unique(flat[order], return_index=True)
        for target, chosen in zip(found_targets.tolist(), np.split(order, starts[1:]), strict=True):
            self._weight[target] = self._weight.get(target, 0.0) + float(weight[chosen].sum())
            for name, shape in self.shapes.items():
                every = values[name].reshape(len(flat), -1)
                sums = self._of(target, name, shape)
                # A few rows at a time stay in the processor's cache.
                step = max(1, _BLOCK // every.shape[1])
                for first in range(0, len(chosen), step):
                    rows = chosen[first : first + step]
                    block, part = every[rows].astype(np.float64), weight[rows]
                    sums[1] += part @ block
                    sums[0] += part @ np.abs(block, out=block)

    def merge(self, other: Positions) -> None:
        """Adds another state, without changing it; an empty state takes over its shapes."""
        self.shapes = self.shapes or other.shapes
        for target, weight in other._weight.items():
            self._weight[target] = self._weight.get(target, 0.0) + weight
        for (target, name), sums in other._sums.items():
            self._of(target, name, other.shapes[name])[:] += sums

    def _of(self, target: int, name: str, shape: Sequence[int]) -> np.ndarray:
        """Σw|φ| and Σwφ, `[2, positions]`."""
        if (target, name) not in self._sums:
            self._sums[target, name] = np.zeros((2, int(np.prod(shape, dtype=np.int64))))
        return self._sums[target, name]

    def to_table(self, target_names: Sequence[str]) -> pa.Table | None:
        """One row per target, feature and position, the last axis fastest; None if nothing was counted."""
        parts = []
        for (target, name), sums in sorted(self._sums.items()):
            if not self._weight[target]:
                continue  # without weight there is no mean
            shape = self.shapes[name]
            size = sums.shape[1]
            index = np.indices(shape, np.int32).reshape(len(shape), size).T.reshape(-1)
            means = sums / self._weight[target]
            columns = [
                pa.array(np.full(size, target, np.int32)),
                pa.array([target_names[target]] * size, pa.string()),
                pa.array([name] * size, pa.string()),
                pa.ListArray.from_arrays(np.arange(size + 1, dtype=np.int32) * len(shape), pa.array(index)),
                *(pa.array(mean) for mean in means),
            ]
            parts.append(pa.table(columns, schema=TABLE))
        return pa.concat_tables(parts) if parts else None

    def to_bytes(self) -> bytes:
        """Encodes the state, compressed, for any version of Python."""
        header = {
            "shapes": dict(self.shapes),
            "weight": list(self._weight.items()),
            "sums": list(self._sums),
        }
        every = np.concatenate([np.zeros((2, 0)), *self._sums.values()], axis=1).astype("<f8").tobytes()
        line = json.dumps({**header, "bytes": len(every)}).encode() + b"\n"
        return line + pa.compress(every, codec="zstd", asbytes=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Positions:
        """Undoes `to_bytes`."""
        line, _, rest = data.partition(b"\n")
        header = json.loads(line)
        held = pa.decompress(rest, header["bytes"], codec="zstd", asbytes=True)
        every = np.frombuffer(held, "<f8").reshape(2, -1)
        shapes = {name: tuple(shape) for name, shape in header["shapes"].items()}
        positions, first = cls(shapes, {int(target): weight for target, weight in header["weight"]}), 0
        for target, name in header["sums"]:
            sums = positions._of(target, name, shapes[name])
            sums[:] = every[:, first : first + sums.shape[1]]
            first += sums.shape[1]
        return positions
