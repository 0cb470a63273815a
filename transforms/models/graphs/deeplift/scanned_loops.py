"""Recognises loops that the walk can take as one step, with their number of steps and variables' roles.

The loop of a recurrent layer counts up to a number that does not depend on the rows; it reads some lists and
writes others item by item. All other loops are unrolled instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.graphs.constant_integers import work_out
from transforms.models.graphs.cut.cut import input_sources
from transforms.models.graphs.deeplift.loops import Scan, Variable
from transforms.models.graphs.deeplift.plan import plan_walk
from transforms.models.graphs.deeplift.tensor_sizes import WalkGrowth
from transforms.models.graphs.trace import SHAPE_ONLY, TracedModel, static_shape

#: Copies a body into the current graph: takes the body's graph and the values of its inputs by name, and
#: returns its outputs. Lists are `StepList`s.
Write = Callable[[Any, dict[str, Any]], list[Any]]
_SAME = frozenset({"Identity", "StopGradient"})


class StepList:
    """A list as seen within one step: only the item that the step reads or has written."""

    def __init__(self, item: Any) -> None:
        self.item = item


@dataclass(frozen=True)
class Loop:
    """A loop of a traced model, found while the model is copied.

    Args:
      op: The loop's op.
      body, condition: The graphs of the loop's body and condition.
      known: Known values of integer variables before the first step, by place.
      lengths: Lengths of lists, by place; negative if nothing has been written to the list yet.
      shapes: Shapes of tensors and of lists' items, by place.
    """

    op: Any
    body: Any
    condition: Any
    known: Mapping[int, np.ndarray]
    lengths: Mapping[int, int]
    shapes: Mapping[int, Any]


def scanned(traced: TracedModel, loop: Loop, write: Write, most_steps: int) -> Scan | None:
    """The loop as one step of a walk; None if it has to be unrolled."""
    counted = _counted(loop, most_steps)
    if counted is None or counted.steps < 2:
        return None
    with tf.init_scope():
        outside = _outside(traced, loop, counted)
        if outside is None:
            return None
        roles = _roles(traced, loop, counted, outside)
        if roles is None:
            return None
        try:
            return _planned(loop, counted, roles, outside, write)
        except UserError:
            return None  # unrolling the loop will raise the error that names the op


# -- counting --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Counted:
    """A loop's number of steps, its counters after the last step, and the lists that it reads and writes.

    `written` maps a list's place to True if all steps write its first item, or to False if each step writes
    its own item.
    """

    steps: int
    numbers: Mapping[int, np.ndarray]
    read: frozenset[int]
    written: Mapping[int, bool]


def _counted(loop: Loop, most_steps: int) -> _Counted | None:
    """Counts a loop's steps by computing only its integers; None if the loop does not count."""
    place_of = {tensor.name: place for place, tensor in enumerate(loop.body.inputs)}
    accesses: list[tuple[int, bool, Any]] = []
    for op in loop.body.get_operations():
        listed = any(t.dtype == tf.variant for t in (*op.inputs, *op.outputs))
        if not listed or op.type == "Placeholder" or op.type in _SAME:
            continue
        if op.type not in ("TensorListGetItem", "TensorListSetItem"):
            return None
        place = place_of.get(_source(op.inputs[0]).name)
        if place is None:
            return None
        accesses.append((place, op.type == "TensorListSetItem", op.inputs[1]))
    now = dict(loop.known)
    indices: list[list[int]] = [[] for _ in accesses]
    steps = 0
    while True:
        going = work_out(loop.condition.outputs[0], _bound(loop.condition, now))
        if going is None or steps > most_steps:
            return None
        if not going:
            break
        bound = _bound(loop.body, now)
        for accessed, (_, _, tensor) in zip(indices, accesses, strict=True):
            index = work_out(tensor, bound)
            if index is None:
                return None
            accessed.append(int(index))
        after = {place: work_out(loop.body.outputs[place], bound) for place in now}
        now = {place: value for place, value in after.items() if value is not None}
        steps += 1
    read: set[int] = set()
    written: dict[int, bool] = {}
    for accessed, (place, writes, _) in zip(indices, accesses, strict=True):
        in_order = accessed == list(range(steps))
        last = writes and not any(accessed) and loop.lengths.get(place) == -1
        if writes and place not in written and (last or (in_order and loop.lengths.get(place) == -steps)):
            written[place] = last
        elif not writes and in_order and loop.lengths.get(place) == steps:
            read.add(place)
        else:
            return None
    if read & written.keys():
        return None
    return _Counted(steps, now, frozenset(read), written)


def _bound(graph: Any, values: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
    return {graph.inputs[place].name: value for place, value in values.items()}


def _source(tensor: Any) -> Any:
    while tensor.op.type in _SAME:
        tensor = tensor.op.inputs[0]
    return tensor


# -- what each variable is -------------------------------------------------------------------------------


def _held(loop: Loop, place: int) -> bool:
    """True if a variable keeps its value in every step."""
    return bool(_source(loop.body.outputs[place]).name == loop.body.inputs[place].name)


def _outside(traced: TracedModel, loop: Loop, counted: _Counted) -> dict[int, Any] | None:
    """Finds held values that all rows share (weights, tables), by place; None if a held handle is unknown."""
    values_by_place: dict[int, Any] = {}
    wanted: dict[int, Any] = {}
    inputs = {tensor.op.name for tensor in traced.inputs.values()}
    for place, given in enumerate(loop.op.inputs):
        if place in counted.numbers or place in loop.lengths or not _held(loop, place):
            continue
        source = _source(given)
        if source.name in traced.captures:
            values_by_place[place] = traced.captures[source.name]
        elif given.dtype in (tf.resource, tf.variant):
            return None
        elif not inputs & traced.ancestors([given]).keys():
            wanted[place] = given
    if wanted:
        # Computed once, outside the loop: every step reads the same weights.
        values = tf.function(lambda: traced.replay({}, list(wanted.values())), autograph=False)()
        values_by_place.update(zip(wanted, values, strict=True))
    return values_by_place


def _roles(
    traced: TracedModel, loop: Loop, counted: _Counted, outside: Mapping[int, Any]
) -> list[Variable] | None:
    sources = input_sources(traced, traced.ancestors([loop.op.outputs[0]]))
    varying = {
        place
        for place, tensor in enumerate(loop.op.inputs)
        if place not in counted.numbers and sources.get(tensor.op.name)
    }
    while (more := _varying(loop.body, varying)) - varying:
        varying |= more
    roles: list[Variable] = []
    for place in range(len(loop.op.inputs)):
        varies = place in varying
        if place in counted.numbers or place in outside:
            continue
        if place in counted.written:
            roles.append(Variable(place, None, 0, True, counted.written[place], varies))
        elif place in counted.read:
            roles.append(Variable(place, f"item{place}", None, True, False, varies))
        elif place in loop.lengths:
            continue  # neither read nor written
        else:
            shape = loop.shapes[place]
            if shape.rank is None or not shape.rank:
                return None
            result = None if _held(loop, place) else 0
            roles.append(Variable(place, f"value{place}", result, False, False, varies))
    for role in roles:
        if role.name is not None:
            shape = loop.shapes[role.number]
            rows_first = shape.rank and shape[0] is None and None not in shape[1:].as_list()
            dtype = _dtype(loop, role)
            if not rows_first or (role.varies and not (dtype.is_floating or dtype == tf.bool)):
                return None
    if not any(role.name is not None for role in roles):
        return None
    numbered: list[Variable] = []
    for role in roles:
        result = None if role.result is None else sum(v.result is not None for v in numbered)
        numbered.append(Variable(role.number, role.name, result, role.listed, role.last, role.varies))
    return numbered


def _varying(body: Any, places: set[int]) -> set[int]:
    """Places of variables that vary between rows after a step, if those in `places` vary before the step."""
    names = {body.inputs[place].op.name for place in places}
    for op in body.get_operations():
        if op.type not in SHAPE_ONLY and any(tensor.op.name in names for tensor in op.inputs):
            names.add(op.name)
    return {place for place, tensor in enumerate(body.outputs) if tensor.op.name in names}


# -- planning --------------------------------------------------------------------------------------------


def _planned(
    loop: Loop, counted: _Counted, roles: Sequence[Variable], outside: Mapping[int, Any], write: Write
) -> Scan | None:
    """Traces and plans one step; None if the loop has to be unrolled."""
    specs = {
        str(role.name): tf.TensorSpec(loop.shapes[role.number], _dtype(loop, role), name=f"in_{role.name}")
        for role in roles
        if role.name is not None
    }
    counters: dict[str, Any] = {}
    placeholders: dict[str, Any] = {}
    results: list[Any] = []

    @tf.function(input_signature=[specs], autograph=False)
    def step(inputs: Mapping[str, Any]) -> Any:
        placeholders.update(inputs)
        graph = tf.compat.v1.get_default_graph()
        values: dict[str, Any] = {}
        for place, tensor in enumerate(loop.body.inputs):
            if place in outside:
                values[tensor.name] = graph.capture(outside[place])
            elif place in loop.lengths:
                values[tensor.name] = StepList(None)
            else:
                counters[tensor.name] = tf.compat.v1.placeholder(tensor.dtype, loop.shapes[place])
                values[tensor.name] = counters[tensor.name]
        for role in roles:
            if role.name is not None:
                value = inputs[role.name]
                name = loop.body.inputs[role.number].name
                values[name] = StepList(value) if role.listed else value
                counters.pop(name, None)
        written = write(loop.body, values)
        for role in roles:
            if role.result is not None:
                value = written[role.number]
                results.append(tf.identity(value.item if isinstance(value, StepList) else value))
        return list(results)

    function = step.get_concrete_function()
    body = TracedModel.of(function, placeholders, results)
    fixed = {tensor.op.name for tensor in counters.values()}
    if fixed & body.ancestors(results).keys():
        return None  # a step's values depend on its number
    for role in roles:
        if role.result is not None:
            tensor, expected = results[role.result], loop.shapes.get(role.number)
            if (
                role.name is not None
                and not role.listed
                and static_shape(tensor) != static_shape_of(expected)
            ):
                tensor.set_shape(expected)
            shape = static_shape(tensor)
            if not shape or shape[0] is not None or None in shape[1:]:
                return None
    scores = [results[role.result] for role in roles if role.result is not None and role.varies]
    still = frozenset(str(role.name) for role in roles if role.name is not None and not role.varies)
    plan = plan_walk(body, scores, still)
    if any(entry.tensor.name != body.inputs[entry.input].name for entry in plan.entries):
        return None
    growth = WalkGrowth.measured(body, plan, _example(specs))
    for entry in plan.entries:
        if growth.extents[entry.tensor.name].outer != 1:
            return None
    return Scan(counted.steps, body, plan, growth, tuple(roles), counted.numbers)


def static_shape_of(shape: Any) -> tuple[int | None, ...] | None:
    """A TensorShape as a tuple, like `static_shape`; None if its rank is unknown."""
    return None if shape is None or shape.rank is None else tuple(shape.as_list())


def _dtype(loop: Loop, role: Variable) -> Any:
    if not role.listed:
        return loop.body.inputs[role.number].dtype
    reads = [
        op.get_attr("element_dtype")
        for op in loop.body.get_operations()
        if op.type == "TensorListGetItem" and _source(op.inputs[0]) is loop.body.inputs[role.number]
    ]
    return reads[0]


def _example(specs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Two random rows of a step's inputs, on which the growth of tensors with the rows is measured."""
    rng = np.random.default_rng(0)
    rows = {}
    for name, spec in specs.items():
        shape = [2, *spec.shape[1:]]
        if spec.dtype == tf.bool:
            rows[name] = rng.random(shape) < 0.5
        else:
            rows[name] = rng.normal(0, 0.5, shape).astype(spec.dtype.as_numpy_dtype)
    return rows
