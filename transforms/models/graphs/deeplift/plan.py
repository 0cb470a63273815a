"""The plan of DeepLIFT's walk through a traced graph: the rule at each op, and the values that it needs.

Planning only reads the graph and runs nothing; `model.py` measures and compiles a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf

from transforms.errors import UserError
from transforms.models.graphs.cut.cut import input_sources
from transforms.models.graphs.cut.entries import Entry
from transforms.models.graphs.cut.provenance import Mixed, entry_positions, position_map
from transforms.models.graphs.deeplift.ops import (
    ELEMENTWISE,
    KINKED,
    ORDERS,
    RANDOM,
    bends,
    is_float,
    rule_name,
)
from transforms.models.graphs.trace import TracedModel, static_shape


@dataclass(frozen=True)
class Step:
    """One application of a rule: the multipliers of an op's outputs become multipliers of its operands.

    Args:
      rule: The rule's name in RULES.
      op: The op; for a curve, the op that computes the curve's end.
      outputs: Tensors from which the step takes multipliers.
      operands: Tensors to which the step passes multipliers, by place in `op.inputs`; a curve's start has
        place 0.
      inner: For a curve, the ops from its start to its end, in the graph's order.
      scan: For a loop, the `Scan` that walks its body.
    """

    rule: str
    op: Any
    outputs: tuple[Any, ...]
    operands: Mapping[int, Any]
    inner: tuple[Any, ...] = ()
    scan: Any = None


@dataclass(frozen=True)
class WalkPlan:
    """The walk from the scores to the entries.

    Args:
      scores: One tensor for each head.
      steps: The steps, in the order in which they are taken.
      entries: Tensors at which the walk ends: float or boolean. Each tensor comes from one model input, and
        each value from one position of that input or, for counts, from EVERYWHERE.
      kept: Tensors whose values at the rows and at the background the rules need, by name.
      slopes: Curves for which the rules need derivatives at the rows and at the background, by the name of
        the curve's end.
      beside: Operands of curves other than the curves' starts, by name.
      shaped: Tensors whose extents the rules need, by name.
      constants: Tensors that are the same for every row and any number of rows, by name.
      sized: Integer tensors that depend only on the number of rows, by name.
    """

    scores: tuple[Any, ...]
    steps: tuple[Step, ...]
    entries: tuple[Entry, ...]
    kept: Mapping[str, Any]
    slopes: Mapping[str, Step]
    beside: Mapping[str, Any]
    shaped: Mapping[str, Any]
    constants: Mapping[str, Any]
    sized: Mapping[str, Any]


def refused(op: Any, why: str = "has no rule") -> UserError:
    """Makes the error about an op that DeepLIFT cannot handle, without suggesting another method.

    Which methods can handle the op depends on the model.
    """
    return UserError(f"deep_shap cannot explain this model: {op.type} ({op.name}) {why}", "model")


#: Rules that need the values of operands and outputs at both ends.
_WHOLE_RULES = frozenset({"largest", "selects", "comparisons", "integrals"})
ROUNDING = frozenset({"Round", "Rint", "Floor", "Ceil"})
#: To find scales made from a row's largest value: `_PASSED_ON` may stand between the product with a scale and
#: its rounding, `_OF_A_SCALE` between the largest value and the scale; `_NEAR` ops are searched.
_PASSED_ON = frozenset({"Identity", "Cast", "ClipByValue", "Maximum", "Minimum", "AddV2", "Sub"})
_OF_A_SCALE = frozenset(
    {
        "Identity",
        "Cast",
        "AddV2",
        "Add",
        "Maximum",
        "Mul",
        "RealDiv",
        "DivNoNan",
        "Reciprocal",
        "Inv",
        "Reshape",
    }
    | {"ExpandDims", "Squeeze", "Transpose", "BroadcastTo", "StopGradient", "Neg"}
)
_NEAR = 16
#: Rules that need the values of operands at both ends.
_OPERAND_RULES = frozenset({"products", "quotients", "either", "orders"})


def plan_walk(traced: TracedModel, scores: Sequence[Any], still: frozenset[str] = frozenset()) -> WalkPlan:
    """Plans the walk of an unrolled model.

    Args:
      traced: The model.
      scores: The tensors at which the walk begins.
      still: Names of inputs that have the row axis but the same values for all rows.
    Raises:
      UserError: An op has no rule, or mixes ids before the first float tensor.
    """
    return _Planner(traced, scores, still).plan()


@dataclass
class _Planner:
    traced: TracedModel
    scores: Sequence[Any]
    still: frozenset[str] = frozenset()
    kept: dict[str, Any] = field(default_factory=dict)
    slopes: dict[str, Step] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    shaped: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    sized: dict[str, Any] = field(default_factory=dict)

    def plan(self) -> WalkPlan:
        needed = self.traced.ancestors(self.scores)
        moving = {name: t for name, t in self.traced.inputs.items() if name not in self.still}
        self._sources = input_sources(replace(self.traced, inputs=moving), needed)
        self._ordered = [op for op in self.traced.graph.get_operations() if op.name in needed]
        self._order = {op.name: place for place, op in enumerate(self._ordered)}
        self._free = self._independent()
        self._find_whole()
        self._find_curves()
        steps, entries = self._walk()
        self._collect(steps, entries)
        return WalkPlan(
            tuple(self.scores),
            steps,
            entries,
            self.kept,
            self.slopes,
            self.beside,
            self.shaped,
            self.constants,
            self.sized,
        )

    def _varies(self, tensor: Any) -> bool:
        return bool(self._sources.get(tensor.op.name))

    def _carried(self, tensor: Any) -> bool:
        """True if a tensor can have multipliers: numbers and booleans, but not ids, strings or handles."""
        return is_float(tensor.dtype) or tensor.dtype == tf.bool or tensor.name in self._whole

    def _find_whole(self) -> None:
        """Finds integers that are rounded floats, as in quantised layers, rather than ids."""
        self._whole: set[str] = set()
        for op in self._ordered:
            varying = self._varying(op)
            from_numbers = varying and all(
                is_float(op.inputs[place].dtype) or op.inputs[place].name in self._whole for place in varying
            )
            known = op.type in ELEMENTWISE or op.type == "IdentityN" or rule_name(op, varying)
            if from_numbers and known:
                outputs = op.outputs[:1] if op.type in ORDERS else op.outputs  # the second holds indices
                self._whole.update(tensor.name for tensor in outputs if tensor.dtype.is_integer)

    def _varying(self, op: Any) -> list[int]:
        return [place for place, tensor in enumerate(op.inputs) if self._varies(tensor)]

    def _independent(self) -> set[str]:
        """Names of ops whose values are the same for every row and any number of rows."""
        inputs = {tensor.op.name for tensor in self.traced.inputs.values()}
        dependent: set[str] = set(inputs)
        for op in self._ordered:
            if any(tensor.op.name in dependent for tensor in op.inputs):
                dependent.add(op.name)
        return {op.name for op in self._ordered} - dependent

    # -- curves: functions of one tensor, element by element -------------------------------------------------

    def _find_curves(self) -> None:
        """Finds tensors that are element-wise functions of a single other tensor, their root."""
        self._root: dict[str, Any] = {}
        self._bent: dict[str, bool] = {}
        for op in self._ordered:
            varying = self._varying(op)
            if not varying:
                continue
            if op.type == "IdentityN":
                for place in varying:
                    self._follow(op.outputs[place], [op.inputs[place]], False)
            elif op.type in ELEMENTWISE and len(op.outputs) == 1:
                self._follow(op.outputs[0], [op.inputs[place] for place in varying], bends(op, varying))

    def _follow(self, output: Any, operands: Sequence[Any], bends_here: bool) -> None:
        if not all(self._carried(tensor) for tensor in (output, *operands)):
            return
        roots = {tensor.name: tensor for tensor in (self._root.get(t.name, t) for t in operands)}
        (root, *others) = roots.values()
        shape = static_shape(output)
        if others or shape is None or static_shape(root) != shape:
            return
        if any(static_shape(tensor) != shape for tensor in operands):
            return
        self._root[output.name] = root
        self._bent[output.name] = bends_here or any(self._bent.get(t.name, False) for t in operands)

    def _curve(self, tensor: Any) -> Step | None:
        """The step from a nonlinear curve's end to its start; None if no such curve ends in the tensor."""
        if tensor.name not in self._root:
            return None
        op, start = tensor.op, self._root[tensor.name]
        varying = self._varying(op)
        if not self._bent[tensor.name] and (op.type == "IdentityN" or rule_name(op, varying)):
            return None
        if op.type in KINKED and not self._bent.get(op.inputs[0].name, False):
            start = op.inputs[0]
        return Step("curves", op, (tensor,), {0: start}, self._between(start, tensor))

    def _between(self, start: Any, end: Any) -> tuple[Any, ...]:
        """The ops of a curve, in the graph's order."""
        ops: dict[str, Any] = {}
        pending = [end]
        while pending:
            op = pending.pop().op
            if op.name in ops:
                continue
            ops[op.name] = op
            pending += [t for t in op.inputs if self._varies(t) and t.name != start.name]
        return tuple(sorted(ops.values(), key=lambda op: self._order[op.name]))

    # -- the walk --------------------------------------------------------------------------------------------

    def _walk(self) -> tuple[tuple[Step, ...], tuple[Entry, ...]]:
        entries: dict[str, Entry] = {}
        waiting = {tensor.name: tensor for tensor in self.scores}
        steps: list[Step] = []
        while waiting:
            # The last waiting op in the graph's order: all contributions to its multipliers have arrived.
            last = max(waiting.values(), key=lambda tensor: self._order[tensor.op.name]).op
            at_op = [waiting.pop(t.name) for t in last.outputs if t.name in waiting]
            at_op = [tensor for tensor in at_op if self._varies(tensor)]
            if not at_op:
                continue
            for step in self._steps(last, at_op, entries):
                steps.append(step)
                for operand in step.operands.values():
                    waiting[operand.name] = operand
        ordered = sorted(entries.values(), key=lambda entry: self._order[entry.tensor.op.name])
        return tuple(steps), tuple(ordered)

    def _steps(self, op: Any, outputs: list[Any], entries: dict[str, Entry]) -> list[Step]:
        steps: list[Step] = []
        for tensor in list(outputs):
            source = next((name for name, t in self.traced.inputs.items() if t.name == tensor.name), None)
            if source is not None and self._carried(tensor):
                entries[tensor.name] = Entry(tensor, source, position_map(self.traced, tensor, source))
                outputs = _without(outputs, tensor)
            elif (curve := self._curve(tensor)) is not None:
                steps.append(curve)
                outputs = _without(outputs, tensor)
        if not outputs:
            return steps
        varying = self._varying(op)
        scan = self.traced.scans.get(op.name)
        if scan is not None:
            operands = {place: op.inputs[place] for place in scan.operands}
            return [*steps, Step("loops", op, tuple(outputs), operands, scan=scan)]
        rule = rule_name(op, varying)
        if op.type == "IdentityN":
            wanted = {tensor.name for tensor in outputs}
            varying = [place for place, tensor in enumerate(op.outputs) if tensor.name in wanted]
        if rule is not None and all(self._carried(op.inputs[place]) for place in varying):
            operands = {place: op.inputs[place] for place in varying if self._varies(op.inputs[place])}
            return [*steps, Step(rule, op, tuple(outputs), operands)]
        for tensor in outputs:
            entries[tensor.name] = self._entry(tensor, rule)
        return steps

    def _entry(self, tensor: Any, rule: str | None) -> Entry:
        """Makes an entry at a tensor that no rule passes.

        Raises:
          UserError: The tensor mixes inputs or positions, or holds ids, or follows floats of several values.
        """
        op = tensor.op
        sources = sorted(self._sources[op.name])
        from_numbers = rule is None and any(
            self._varies(operand) and operand.dtype.is_floating for operand in op.inputs
        )
        if not self._carried(tensor):
            raise refused(op)
        if len(sources) > 1:
            raise refused(op, f"is where inputs {', '.join(map(repr, sources))} meet, and has no rule")
        size = tf.TensorShape(self.traced.inputs[sources[0]].shape[1:]).num_elements()
        if from_numbers and size != 1:
            raise refused(op)
        try:
            positions = entry_positions(self.traced, tensor, sources[0])
        except Mixed as error:
            raise refused(error.op, f"mixes the values of input {sources[0]!r}, and has no rule") from error
        return Entry(tensor, sources[0], positions)

    # -- what the rules must know ----------------------------------------------------------------------------

    def _collect(self, steps: Sequence[Step], entries: Sequence[Entry]) -> None:
        for op in self._ordered:
            if op.type in RANDOM:
                raise refused(op, "draws random numbers")
            if op.type in ROUNDING and self._varies(op.inputs[0]):
                self._check_scale(op.inputs[0].op)
        for entry in entries:
            self._keep(entry.tensor)
        for score in self.scores:
            self.shaped[score.name] = score
        for step in steps:
            self.shaped.update((t.name, t) for t in (*step.outputs, *step.operands.values()))
            if step.rule == "curves":
                self._keep(step.outputs[0])
                self._keep(step.operands[0])
                self.slopes[step.outputs[0].name] = step
                operands = [tensor for op in step.inner for tensor in op.inputs]
                self.beside.update((t.name, t) for t in operands if not self._varies(t))
                continue
            if step.rule == "loops":
                for place in step.scan.kept:
                    self._keep(step.op.outputs[place])
            if step.rule in ("passing", "sums", "loops"):
                continue
            for place, tensor in enumerate(step.op.inputs):
                if place not in step.operands:
                    self._fixed(step.op, tensor)
            if step.rule in _OPERAND_RULES | _WHOLE_RULES:
                for tensor in step.operands.values():
                    self._keep(tensor)
            if step.rule in _WHOLE_RULES or (step.rule == "products" and step.op.type == "Mul"):
                self._keep(step.outputs[0])
                self.shaped[step.op.outputs[0].name] = step.op.outputs[0]

    def _check_scale(self, op: Any) -> None:
        """Refuses values that are scaled by their row's own maximum and then rounded, as in int8 layers.

        For a row of zeros the scale is 127 / ε: the Shapley value of such a factor is far larger than any
        difference of the score, and the sum is right only because two such numbers cancel.
        """
        while op.type in _PASSED_ON:
            op = op.inputs[0].op
        if op.type not in ("Mul", "RealDiv", "DivNoNan") or not all(map(self._varies, op.inputs)):
            return
        seen, ahead = 0, [tensor.op for tensor in op.inputs]
        while ahead and seen < _NEAR:
            near, seen = ahead.pop(0), seen + 1
            if near.type == "Max":
                raise refused(op, "scales a row by its own largest value before it is rounded, as int8 does")
            if near.type in _OF_A_SCALE:
                ahead += [tensor.op for tensor in near.inputs if self._varies(tensor)]

    def _keep(self, tensor: Any) -> None:
        self.kept[tensor.name] = self.shaped[tensor.name] = tensor

    def _fixed(self, op: Any, tensor: Any) -> None:
        """Records, for an operand that does not vary, how the walk will know its value."""
        if self._varies(tensor):
            raise refused(op)
        if tensor.op.name in self._free:
            self.constants[tensor.name] = tensor
            self.shaped[tensor.name] = tensor
        elif tensor.dtype in (tf.int32, tf.int64) and (tensor.shape.rank or 0) <= 1:
            self.sized[tensor.name] = tensor
        else:
            self._keep(tensor)


def _without(tensors: Sequence[Any], which: Any) -> list[Any]:
    """The tensors except `which`; they are compared by name, because TensorFlow's `==` compares values."""
    return [tensor for tensor in tensors if tensor.name != which.name]
