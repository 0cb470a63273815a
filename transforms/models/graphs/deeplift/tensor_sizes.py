"""How the tensors of a DeepLIFT walk grow with the number of rows, measured by running a few rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.graphs.deeplift.plan import WalkPlan, refused
from transforms.models.graphs.deeplift.walk import Extents, as_numbers
from transforms.models.graphs.trace import TracedModel, static_shape


@dataclass(frozen=True)
class WalkGrowth:
    """Growth of tensors with the number of rows, measured with one, two and three rows.

    Args:
      extents: Extents of the plan's shaped and kept tensors, by name.
      sized: Base and slope of the plan's sized tensors, by name: their values are base + slope · rows.
    """

    extents: Mapping[str, Extents]
    sized: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def measured(cls, traced: TracedModel, plan: WalkPlan, example: Mapping[str, np.ndarray]) -> WalkGrowth:
        """Measures the growth with some rows of each model input, `[R, *shape]`.

        Raises:
          UserError: A tensor does not keep the rows apart.
        """
        shaped = {k: t for k, t in plan.shaped.items() if k not in plan.constants}
        kept = list(plan.kept.values())

        specs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in traced.inputs.items()}

        @tf.function(input_signature=[specs], autograph=False)
        def look(inputs: Any) -> Any:
            feeds = {traced.inputs[name].name: value for name, value in inputs.items()}
            built = traced.replay(feeds, [*shaped.values(), *kept, *plan.sized.values()])
            values = built[len(shaped) :]
            return (
                [tf.shape(value) for value in built[: len(shaped)]],
                values[: len(kept)],
                values[len(kept) :],
            )

        two = _two_rows(example)

        def run(*index: int) -> Any:
            rows = {name: value[list(index)] for name, value in two.items()}
            measured = look({k: tf.constant(rows[k], t.dtype) for k, t in traced.inputs.items()})
            return [[value.numpy() for value in part] for part in measured]

        first, second, both, three = run(0), run(1), run(0, 1), run(0, 1, 0)
        extents: dict[str, Extents] = {}
        for (name, tensor), size2, size3 in zip(shaped.items(), both[0], three[0], strict=True):
            extents[name] = _line(tensor, size2, size3)
        for tensor, *values in zip(kept, first[1], second[1], both[1], strict=True):
            line = extents[tensor.name]
            outer = _outer(line, *(np.asarray(value) for value in values))
            if outer is None:
                raise refused(tensor.op, "does not keep the rows of a batch apart")
            extents[tensor.name] = Extents(line.base, line.slope, outer, values[0].size // outer)
        for score in plan.scores:
            line = extents[score.name]
            extents[score.name] = Extents(line.base, line.slope, 1, int(np.prod(_at(line, 1))))
        for name, tensor in plan.constants.items():
            shape = static_shape(tensor) or ()
            extents[name] = Extents(tuple(extent or 1 for extent in shape), (0,) * len(shape))
        sized = {}
        for name, value2, value3 in zip(plan.sized, both[2], three[2], strict=True):
            sized[name] = (value2 - 2 * (value3 - value2), value3 - value2)
        return cls(extents, sized)

    def flat(self, value: Any, tensor: Any) -> Any:
        """Reshapes a tensor's values to `[outer, rows, inner]`, float32."""
        known = self.extents[tensor.name]
        return tf.reshape(as_numbers(value), [known.outer, -1, known.inner])

    def pair_bytes(self, plan: WalkPlan) -> int:
        """Upper bound of the bytes per pair: the multipliers of every tensor, and the rules' own arrays."""
        total = sum(self._values(entry.tensor) * 2 for entry in plan.entries)
        total += sum(self._values(score) for score in plan.scores)
        for step in plan.steps:
            own = sum(map(self._values, step.outputs))
            if step.rule == "orders":  # crossings of each value with every other value
                own += 8 * self._values(step.operands[0]) * self.extents[step.operands[0].name].base[-1]
            if step.scan is not None:
                total += step.scan.pair_values + sum(map(self._values, step.operands.values()))
            if step.rule in _ARRAYS:
                own += sum(map(self._values, step.operands.values()))
            total += own * _ARRAYS.get(step.rule, 2 if step.rule == "curves" else 1)
        return max(4, 4 * total)

    def _values(self, tensor: Any) -> int:
        return int(np.prod(_at(self.extents[tensor.name], 1), dtype=np.int64))


#: Number of arrays, each as large as its outputs and operands together, that a rule holds at a time.
_ARRAYS = {
    "largest": 6,
    "selects": 6,
    "comparisons": 6,
    "products": 4,
    "integrals": 8,
    "quotients": 6,
    "either": 4,
}


def _two_rows(example: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two rows of each input; the rows differ in every float value."""
    rng = np.random.default_rng(0)
    rows = {}
    for name, value in example.items():
        pair = value[[0, len(value) - 1]]
        if np.issubdtype(pair.dtype, np.floating):
            pair = pair + rng.normal(0, 0.1, pair.shape) * (np.abs(pair) + 1)
        rows[name] = pair
    return rows


def _line(tensor: Any, two: np.ndarray, three: np.ndarray) -> Extents:
    if len(two) != len(three):
        raise refused(tensor.op, "changes its rank with the rows")
    slope = three - two
    base = two - 2 * slope
    if (slope != 0).sum() > 1 or (base[slope != 0] != 0).any():
        raise refused(tensor.op, "does not keep the rows of a batch apart")
    return Extents(tuple(map(int, base)), tuple(map(int, slope)))


def _at(line: Extents, rows: int) -> list[int]:
    return [size + step * rows for size, step in zip(line.base, line.slope, strict=True)]


def _outer(line: Extents, first: np.ndarray, second: np.ndarray, both: np.ndarray) -> int | None:
    """The extent of the axes before the rows in memory; None if the tensor does not keep the rows apart."""
    axis = next((place for place, step in enumerate(line.slope) if step), None)
    if axis is None or first.size * 2 != both.size:
        return None
    before = int(np.prod(line.base[:axis], dtype=np.int64))
    for outer in (before, before * line.slope[axis]):
        whole = both.reshape(outer, 2, -1)
        if _alike(whole[:, 0], first) and _alike(whole[:, 1], second):
            return outer
    return None


def _alike(measured: np.ndarray, expected: np.ndarray) -> bool:
    if measured.dtype == bool:
        return np.array_equal(measured.ravel(), expected.ravel())
    wanted = expected.astype(np.float64).ravel()
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
    return bool(
        np.allclose(measured.astype(np.float64).ravel(), wanted, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
    )
