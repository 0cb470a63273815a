"""A loop as one step of DeepLIFT's walk: the loop's body is planned once, and walked once per loop step.

If a recurrent layer of 60 steps is unrolled, it takes a thousand rules, and building them takes a minute.
Here the loop stays a loop: the forward pass keeps the values that the rules need at each loop step, and the
backward pass goes through the loop steps from the last to the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.graphs.deeplift.plan import Step, WalkPlan
from transforms.models.graphs.deeplift.slopes import slope
from transforms.models.graphs.deeplift.tensor_sizes import WalkGrowth
from transforms.models.graphs.deeplift.walk import Walk, constants_of
from transforms.models.graphs.trace import TracedModel


@dataclass(frozen=True)
class Variable:
    """A loop variable that takes part in the walk: a state, a list, or a value held by all steps.

    Args:
      number: The variable's place among the loop's variables.
      name: Name of the body's input: a state, an item of a list, or a held value; None for a list that is
        written.
      result: Place of the body's output in `Scan.body.outputs`; None if the variable is only read or held.
      listed: Whether the variable is a list with one item per step.
      last: Whether all steps write the same item of a list, so that only the last value remains.
      varies: Whether the variable's value differs between rows.
    """

    number: int
    name: str | None
    result: int | None
    listed: bool
    last: bool = False
    varies: bool = True

    @property
    def state(self) -> bool:
        """True if each step passes a new value on to the next step."""
        return self.name is not None and self.result is not None


@dataclass(frozen=True)
class Scan:
    """A loop of a known number of steps, which reads and writes its lists item by item.

    Args:
      steps: Number of steps.
      body: One step as a model: its inputs are states, items and held values; its outputs are new states and
        items.
      plan: The plan of the walk through the body.
      growth: Growth of the body's tensors with the rows.
      variables: The loop's variables, except counters and weights.
      numbers: Values of the counters after the last step, by place.
    """

    steps: int
    body: TracedModel
    plan: WalkPlan
    growth: WalkGrowth
    variables: tuple[Variable, ...]
    numbers: Mapping[int, np.ndarray]

    @property
    def given(self) -> list[Variable]:
        """The variables that are arguments of `call`, in order; a list is one tensor `[steps, rows, ...]`."""
        return [variable for variable in self.variables if variable.name is not None]

    @property
    def results(self) -> list[Variable]:
        """The variables that are the first results of `call`, in order.

        A list is `[steps, rows, ...]`, or `[1, rows, ...]` if only its last value remains.
        """
        return [variable for variable in self.variables if variable.result is not None]

    @property
    def kept(self) -> range:
        """Places of the outputs of `call` with the values that the rules need at each step."""
        first = len(self.results)
        return range(first, first + len(self.plan.kept) + len(self.plan.slopes))

    @property
    def operands(self) -> list[int]:
        """Places of the inputs of `call` that receive multipliers."""
        return [place for place, variable in enumerate(self.given) if variable.varies]

    # -- forward ---------------------------------------------------------------------------------------------

    @cached_property
    def call(self) -> Any:
        """The loop as a function; its arguments are `given`, its outputs `results` and then `kept`."""
        specs = []
        for variable in self.given:
            tensor = self.body.inputs[str(variable.name)]
            lead = [self.steps] if variable.listed else []
            specs.append(tf.TensorSpec([*lead, *tensor.shape], tensor.dtype))
        return tf.function(self._run, input_signature=specs, autograph=False).get_concrete_function()

    def _run(self, *given: Any) -> list[Any]:
        known = {str(v.name): value for v, value in zip(self.given, given, strict=True)}
        states = [v for v in self.results if v.state]
        written = [v for v in self.results if not v.state and not v.last]
        lasts = [v for v in self.results if not v.state and v.last]
        plan = self.plan
        wanted = {**plan.kept, **plan.beside}

        def step(at: Any, now: list[Any], last: list[Any], lists: list[Any], kept: list[Any]) -> Any:
            feeds = {}
            for variable in self.given:
                value = known[str(variable.name)]
                # A tensor from outside must pass through an op to belong to the loop's body.
                own = value[at] if variable.listed else tf.identity(value)
                feeds[self.body.inputs[str(variable.name)].name] = own
            for variable, value in zip(states, now, strict=True):
                feeds[self.body.inputs[str(variable.name)].name] = value
            fetched = self.body.replay(feeds, [*self.body.outputs, *wanted.values()])
            outputs = fetched[: len(self.body.outputs)]
            values = dict(zip(wanted, fetched[len(outputs) :], strict=True))
            flat = [self.growth.flat(values[name], tensor) for name, tensor in plan.kept.items()]
            flat += [self.growth.flat(slope(s, values), s.outputs[0]) for s in plan.slopes.values()]
            return (
                at + 1,
                [outputs[int(v.result or 0)] for v in states],
                [outputs[int(v.result or 0)] for v in lasts],
                [a.write(at, outputs[int(v.result or 0)]) for v, a in zip(written, lists, strict=True)],
                [a.write(at, value) for a, value in zip(kept, flat, strict=True)],
            )

        rows = tf.shape(given[0])[1 if self.given[0].listed else 0]
        tensors = [self.body.outputs[int(v.result or 0)] for v in lasts]
        empty = [tf.zeros([rows, *t.shape[1:]], t.dtype) for t in tensors]
        for value, tensor in zip(empty, tensors, strict=True):
            value.set_shape(tensor.shape)
        begin = (
            tf.constant(0),
            [known[str(v.name)] for v in states],
            empty,
            [tf.TensorArray(self.body.outputs[int(v.result or 0)].dtype, self.steps) for v in written],
            [tf.TensorArray(tf.float32, self.steps) for _ in self.kept],
        )
        _, now, last, lists, kept = tf.while_loop(
            lambda at, *_: at < self.steps, step, begin, maximum_iterations=self.steps
        )
        by_number = {v.number: value for v, value in zip(states, now, strict=True)}
        by_number.update((v.number, value[tf.newaxis]) for v, value in zip(lasts, last, strict=True))
        by_number.update((v.number, a.stack()) for v, a in zip(written, lists, strict=True))
        return [tf.identity(by_number[v.number]) for v in self.results] + [a.stack() for a in kept]

    # -- back ------------------------------------------------------------------------------------------------

    def back(self, walk: Walk, step: Step, given: Mapping[str, Any]) -> dict[int, Any]:
        """Turns multipliers of the call's results into multipliers of its operands, while tracing.

        Args:
          walk: The walk of the model that contains the loop.
          step: The walk's step for the loop.
          given: Multipliers of the call's results, by tensor name.
        Returns:
          Multipliers of the call's operands, by place.
        """
        plan, growth = self.plan, self.growth
        names = [*plan.kept, *plan.slopes]
        constants = constants_of(self.body, plan)
        ends = [
            [self._by_step(side[0][step.op.outputs[place].name], name) for place, name in self._places(names)]
            for side in (walk.rows, walk.background)
        ]
        scores = {score.name: score for score in plan.scores}
        results = [v for v in self.results if self.body.outputs[int(v.result or 0)].name in scores]
        arriving = [
            given.get(step.op.outputs[place].name) for place, v in enumerate(self.results) if v in results
        ]
        states = [v for v in results if v.state]
        items = [v for v in self.given if v.varies and v.listed]
        held = [v for v in self.given if v.varies and not v.listed and not v.state]

        def inner(at: Any) -> Walk:
            halves = [
                tuple(
                    dict(zip(part, values, strict=True))
                    for part, values in (
                        (plan.kept, [value[at] for value in side[: len(plan.kept)]]),
                        (plan.slopes, [value[at] for value in side[len(plan.kept) :]]),
                    )
                )
                for side in ends
            ]
            guarded = walk.guarded or any(each.rule == "selects" for each in plan.steps)
            return Walk(
                plan,
                walk.rules,
                growth.extents,
                growth.sized,
                constants,
                (halves[0][0], halves[0][1]),
                (halves[1][0], halves[1][1]),
                walk.counts,
                guarded,
            )

        def one(at: Any, now: list[Any], total: list[Any], lists: list[Any]) -> Any:
            own = inner(at)
            at_states = iter(now)
            seeds = {}
            for variable, m in zip(results, arriving, strict=True):
                name = self.body.outputs[int(variable.result or 0)].name
                if variable.state:
                    seeds[name] = next(at_states)
                elif m is None:
                    seeds[name] = own.zeros(scores[name])
                elif variable.last:
                    seeds[name] = m[0] * tf.cast(tf.equal(at, self.steps - 1), tf.float32)
                else:
                    seeds[name] = m[at]
            multipliers = own.run([own.like(seeds[name], score) for name, score in scores.items()])
            by_name = {
                entry.tensor.name: own.like(value, entry.tensor)
                for entry, value in zip(plan.entries, multipliers, strict=True)
            }

            def of(variable: Variable) -> Any:
                tensor = self.body.inputs[str(variable.name)]
                return by_name[tensor.name] if tensor.name in by_name else self._zeros(own, variable)

            return (
                at - 1,
                [of(v) for v in states],
                [value + of(v) for v, value in zip(held, total, strict=True)],
                [a.write(at, of(v)) for v, a in zip(items, lists, strict=True)],
            )

        outside = inner(tf.constant(0))
        by_result = dict(zip((v.number for v in results), arriving, strict=True))
        begin = (
            tf.constant(self.steps - 1),
            [
                self._zeros(outside, v)
                if by_result[v.number] is None
                else outside.like(by_result[v.number], self._score(v))
                for v in states
            ],
            [self._zeros(outside, v) for v in held],
            [tf.TensorArray(tf.float32, self.steps) for _ in items],
        )
        _, now, total, lists = tf.while_loop(
            lambda at, *_: at >= 0, one, begin, maximum_iterations=self.steps, parallel_iterations=1
        )
        made = {v.number: value for v, value in zip(states, now, strict=True)}
        made.update((v.number, value) for v, value in zip(held, total, strict=True))
        made.update((v.number, a.stack()) for v, a in zip(items, lists, strict=True))
        return {
            place: walk.like(made[self.given[place].number], operand)
            for place, operand in step.operands.items()
        }

    def _places(self, names: Sequence[str]) -> list[tuple[int, str]]:
        return list(zip(self.kept, names, strict=True))

    def _by_step(self, value: Any, name: str) -> Any:
        """Reshapes `[steps · outer, rows, inner]` to `[steps, outer, rows, inner]`."""
        known = self.growth.extents[name]
        return tf.reshape(value, [self.steps, known.outer, -1, known.inner])

    def _score(self, variable: Variable) -> Any:
        return self.body.outputs[int(variable.result or 0)]

    def _zeros(self, walk: Walk, variable: Variable) -> Any:
        tensor = self.body.inputs[str(variable.name)]
        shape = [size or 1 for size in tensor.shape[1:]]
        value = tf.zeros([walk.pairs, *shape])
        value.set_shape([None, *shape])
        return value

    @property
    def pair_values(self) -> int:
        """Upper bound of the numbers held per pair, without the multipliers of the call's own tensors."""
        items = sum(
            self.steps * int(np.prod([size or 1 for size in self.body.inputs[str(v.name)].shape[1:]]))
            for v in self.given
            if v.varies and v.listed
        )
        return items + self.growth.pair_bytes(self.plan) // 4


def loops(walk: Walk, step: Step, given: Mapping[str, Any]) -> dict[int, Any]:
    """Applies the rules of a loop's body, from its last step to its first."""
    multipliers: dict[int, Any] = step.scan.back(walk, step, given)
    return multipliers
