"""The walk from the scores back to the entries, for pairs of a row and a background row; used while tracing.

Pairs take the place of rows: a tensor with `rows · n` values in the model has `T · R · B · n` multipliers
here, for T targets, R background rows and B rows. The axes before the row axis in memory (such as a recurrent
layer's time axis) make up a tensor's `outer` extent, and the axes after it the `inner` extent. So a tensor's
multipliers are `[outer, T, R, B, inner]`, its values at the rows are `[outer, B, inner]`, and its values at
the background rows are `[outer, R, inner]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, types_pb2

from transforms.models.graphs.deeplift.ops import ORDERS, SELECTS
from transforms.models.graphs.deeplift.plan import Step, WalkPlan, refused

#: Types that become float32 in the walk: multipliers are float32 for tensors of every type.
_WIDENED = {types_pb2.DT_BOOL, types_pb2.DT_HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_DOUBLE}
#: Attributes that give the type of an op's numbers; the types of indices and axes have other names.
_NUMBERS = frozenset({"DstT", "SrcT", "T", "Ta", "Tb", "Tout", "Tparams", "dtype"})
#: Replacements for ops on booleans, which compute the same on 0 and 1, and for mixed-type matrix products.
_ON_NUMBERS = {"LogicalAnd": "Mul", "Any": "Max", "All": "Min", "BatchMatMulV3": "BatchMatMulV2"}


@dataclass(frozen=True)
class Extents:
    """A tensor's shape by the number of rows, base + slope · rows, with its outer and inner extents."""

    base: tuple[int, ...]
    slope: tuple[int, ...]
    outer: int = 1
    inner: int = 1

    @property
    def static(self) -> list[int | None]:
        """The shape known while tracing: None for axes that grow with the rows."""
        return [None if step else size for size, step in zip(self.base, self.slope, strict=True)]


@dataclass
class Walk:
    """The multipliers of a walk from the scores to the entries, and the values that its rules need.

    Args:
      plan: The plan of the walk.
      rules: The rules, by name (`Step.rule`).
      extents: Extents of the plan's `shaped` and `kept` tensors, by name.
      sized: Base and slope of the plan's `sized` tensors, by name.
      constants: Values of the plan's constants, by name; numbers are float32.
      rows: Two mappings by tensor name: values and slopes at the rows, `[outer, B, inner]` float32 each.
      background: The same two mappings for the background rows, `[outer, R, inner]` float32 each.
      counts: T, R and B: the numbers of targets, background rows and rows.
      guarded: Whether 0 times NaN or infinity must be 0: a branch that is not chosen may hold such values.
    """

    plan: WalkPlan
    rules: Mapping[str, Rule]
    extents: Mapping[str, Extents]
    sized: Mapping[str, tuple[np.ndarray, np.ndarray]]
    constants: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], Mapping[str, Any]]
    background: tuple[Mapping[str, Any], Mapping[str, Any]]
    counts: tuple[Any, Any, Any]
    guarded: bool = False

    def __post_init__(self) -> None:
        self._shapes: dict[Any, Any] = {}

    @property
    def pairs(self) -> Any:
        """The number of pairs times targets, T · R · B."""
        return self._once("pairs", lambda: self.counts[0] * self.counts[1] * self.counts[2])

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._shapes:
            self._shapes[key] = make()
        return self._shapes[key]

    def shape(self, tensor: Any) -> Any:
        """The shape of a tensor's multipliers."""
        known = self.extents[tensor.name]
        sizes = zip(known.base, known.slope, strict=True)
        return self._once(
            known, lambda: tf.stack([self.pairs * step if step else size for size, step in sizes])
        )

    def like(self, value: Any, tensor: Any) -> Any:
        """Reshapes multipliers to a tensor's own shape."""
        static = self.extents[tensor.name].static
        value = tf.reshape(value, [-1 if extent is None else extent for extent in static])
        value.set_shape(static)
        return value

    def flat(self, value: Any, tensor: Any) -> Any:
        """Reshapes a tensor's multipliers to `[outer, T, R, B, inner]`."""
        return tf.reshape(value, self._whole(tensor))

    def _whole(self, tensor: Any) -> Any:
        known = self.extents[tensor.name]
        sides = (known.outer, known.inner)
        return self._once(sides, lambda: tf.stack([known.outer, *self.counts, known.inner]))

    def pair(self, tensor: Any) -> tuple[Any, Any]:
        """A tensor's values at rows, `[outer, 1, B, inner]`, and background rows, `[outer, R, 1, inner]`."""
        return self._two(0, tensor)

    def slopes(self, tensor: Any) -> tuple[Any, Any]:
        """Derivatives of the curve that ends in a tensor, at rows and background rows, shaped like `pair`."""
        return self._two(1, tensor)

    def _two(self, which: int, tensor: Any) -> tuple[Any, Any]:
        name = tensor.name
        return self._once(
            (which, name),
            lambda: (
                tf.expand_dims(self.rows[which][name], 1),
                tf.expand_dims(self.background[which][name], 2),
            ),
        )

    def ends(self, tensor: Any) -> tuple[Any, Any]:
        """A tensor's values at rows and at background rows, broadcast to all pairs; constants stay as is."""
        if tensor.name in self.constants:
            return self.constants[tensor.name], self.constants[tensor.name]
        whole = self._whole(tensor)
        x, r = (tf.broadcast_to(tf.expand_dims(value, 1), whole) for value in self.pair(tensor))
        return self.like(x, tensor), self.like(r, tensor)

    def alike(self, *tensors: Any) -> bool:
        """True if tensors correspond element by element in memory, and all but the first have kept values."""
        known = [self.extents[tensor.name] for tensor in tensors]
        varying = all(tensor.name in self.rows[0] or tensor is tensors[0] for tensor in tensors)
        return varying and all(extents == known[-1] for extents in known)

    def zeros(self, tensor: Any) -> Any:
        """Zeros, shaped like a tensor's multipliers."""
        value = tf.zeros(self.shape(tensor))
        value.set_shape(self.extents[tensor.name].static)
        return value

    def per_pair(self, value: Any, tensor: Any) -> Any:
        """Sums a tensor's multipliers per target and pair, to `[T, R, B]`."""
        return tf.reduce_sum(self.flat(value, tensor), axis=[0, 4])

    def sum_to(self, value: Any, output: Any, operand: Any) -> Any:
        """Sums multipliers of an output over the axes along which the operand was broadcast."""
        wide, narrow = self.extents[output.name], self.extents[operand.name]
        added = len(wide.base) - len(narrow.base)
        axes = list(range(added))
        for axis, (size, step) in enumerate(zip(narrow.base, narrow.slope, strict=True)):
            if (size, step) == (1, 0) and (wide.base[axis + added], wide.slope[axis + added]) != (1, 0):
                axes.append(axis + added)
        if axes:
            value = tf.reduce_sum(value, axes)
        return self.like(value, operand)

    def apply(self, step: Step, operands: Mapping[int, Any]) -> Any:
        """Computes the first output of the step's op for these operands, by place."""
        return self._copy(step, operands).outputs[0]

    def gradients(self, step: Step, operands: Mapping[int, Any], given: Mapping[str, Any]) -> dict[int, Any]:
        """TensorFlow's gradient of the step's op at these operands, given the multipliers of its outputs."""
        own = {place: tf.identity(value) for place, value in operands.items()}
        made = self._copy(step, own)
        outputs = [new for new, old in zip(made.outputs, step.op.outputs, strict=False) if old.name in given]
        weights = [given[old.name] for old in step.op.outputs if old.name in given]
        try:
            gradients = tf.gradients(outputs, list(own.values()), grad_ys=weights)
        except LookupError as error:
            raise refused(step.op, "has no gradient") from error
        if any(gradient is None for gradient in gradients):
            raise refused(step.op, "has no gradient")
        return {place: tf.convert_to_tensor(g) for place, g in zip(own, gradients, strict=True)}

    def _copy(self, step: Step, operands: Mapping[int, Any]) -> Any:
        op = step.op
        kind = _ON_NUMBERS.get(op.type, op.type)
        numbers = _numbers(op)
        inputs = [
            operands[p] if p in operands else self.number(t) if p in numbers else self.fixed(t)
            for p, t in enumerate(op.inputs)
        ]
        if op.type in SELECTS:
            inputs[0] = tf.cast(inputs[0], tf.bool)
        taken = {} if kind == "Mul" else {k: v for k, v in op.node_def.attr.items() if k[0] != "_"}
        attributes = {k: _widened(v, k in _NUMBERS) for k, v in taken.items()}
        if kind != op.type:
            for name in ("Ta", "Tb", "Tout"):
                attributes.pop(name, None)
            attributes["T"] = attr_value_pb2.AttrValue(type=types_pb2.DT_FLOAT)
        first = op.type in ORDERS  # their second output holds indices, not numbers
        dtypes = [t.dtype if first and place else tf.float32 for place, t in enumerate(op.outputs)]
        made = tf.compat.v1.get_default_graph().create_op(kind, inputs, dtypes, attrs=attributes)
        for new, old in zip(made.outputs, op.outputs, strict=True):
            if old.name in self.extents:
                new.set_shape(self.extents[old.name].static)
        return made

    def number(self, tensor: Any) -> Any:
        """The value of a numeric operand that is the same for every row, as float32."""
        return tf.cast(self.fixed(tensor), tf.float32)

    def fixed(self, tensor: Any) -> Any:
        """The value of an operand that is the same for every row."""
        name = tensor.name
        if name in self.constants:
            return self.constants[name]
        if name in self.sized:
            base, slope = self.sized[name]
            return tf.constant(base, tensor.dtype) + tf.constant(slope, tensor.dtype) * tf.cast(
                self.pairs, tensor.dtype
            )
        return self.ends(tensor)[0]

    def run(self, seeds: Sequence[Any]) -> list[Any]:
        """Computes the multipliers of the entries from those of the scores.

        Args:
          seeds: The multipliers of each score, shaped like the score with pairs in place of rows.
        Returns:
          The multipliers of each entry, `[outer, T, R, B, inner]`.
        """
        multipliers: dict[str, Any] = {}
        for tensor, seed in zip(self.plan.scores, seeds, strict=True):
            multipliers[tensor.name] = multipliers[tensor.name] + seed if tensor.name in multipliers else seed
        # Each step consumes its outputs' multipliers and adds to those of its operands.
        for step in self.plan.steps:
            given = {t.name: multipliers.pop(t.name) for t in step.outputs}
            for place, value in self.rules[step.rule](self, step, given).items():
                operand = step.operands[place]
                value.set_shape(self.extents[operand.name].static)
                held = multipliers.get(operand.name)
                multipliers[operand.name] = value if held is None else held + value
        return [self.flat(multipliers[entry.tensor.name], entry.tensor) for entry in self.plan.entries]


#: A rule takes the walk, a step and the multipliers of the step's outputs, by tensor name. It returns the
#: multipliers of the step's operands, by place.
Rule = Callable[[Walk, Step, Mapping[str, Any]], dict[int, Any]]


def _widened(value: Any, number: bool) -> Any:
    """An op's attribute; replaced by float32 if it gives the type of numbers that have multipliers."""
    if value.WhichOneof("value") == "type" and (value.type in _WIDENED or number):
        return attr_value_pb2.AttrValue(type=types_pb2.DT_FLOAT)
    return value


def _numbers(op: Any) -> set[int]:
    """The places of an op's operands that are numbers, rather than indices, axes or shapes."""
    places: set[int] = set()
    place = 0
    for argument in op.op_def.input_arg:
        count = op.get_attr(argument.number_attr) if argument.number_attr else 1
        if argument.type_attr in _NUMBERS:
            places.update(range(place, place + count))
        place += count
    return places


def constants_of(traced: Any, plan: WalkPlan) -> dict[str, Any]:
    """Values of a plan's constants by name; numbers are float32. Called while tracing."""
    values = traced.replay({}, list(plan.constants.values()))
    return {
        name: as_numbers(value) if value.dtype.is_floating or value.dtype == tf.bool else value
        for name, value in zip(plan.constants, values, strict=True)
    }


#: A magnitude above `_ENDLESS` counts as infinite; `_MASKED` replaces infinity in arithmetic.
_ENDLESS, _MASKED = 1e30, 1e9


def as_numbers(value: Any) -> Any:
    """Converts values to float32; a number that a mask uses as infinity becomes `_MASKED`, with its sign."""
    known, value = value.dtype, tf.cast(value, tf.float32)
    return value if known == tf.bool else tf.where(tf.abs(value) > _ENDLESS, tf.sign(value) * _MASKED, value)
