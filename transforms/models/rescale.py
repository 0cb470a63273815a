"""A model with DeepLIFT's rules compiled: differences of the score between rows and background rows, divided."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.rescale_layout import Layout, as_numbers
from transforms.models.rescale_plan import make_plan, refused
from transforms.models.rescale_walk import Walk
from transforms.models.tensors import sum_positions
from transforms.models.trace import TracedModel
from transforms.models.unrolled import unrolled

#: Targets that share a device call; more are taken in turns.
TARGETS_AT_ONCE = 8

Ends = tuple[list[Any], list[Any]]


class RescaleModel:
    """A model cut, unrolled and planned for DeepLIFT's rules, for any number of threads.

    Args:
      traced: The model as a graph.
      scores: The tensors to explain, one a head; they are flattened side by side, `[rows, T]`.
      input_shapes: By model input, without the batch.
      example: Some rows of each model input, `[R, *shape]`: how tensors grow with the rows is measured on them.

    Attributes:
      evaluations: Pairs of a row and a background row asked for so far, padding included.
      pair_bytes: Memory that a pair takes at most, by the static shapes.
    Raises:
      UserError: An op has no rule, or does not keep the rows of a batch apart.
    """

    def __init__(
        self,
        traced: TracedModel,
        scores: Sequence[Any],
        input_shapes: Mapping[str, tuple[int, ...]],
        example: Mapping[str, np.ndarray],
    ) -> None:
        self.evaluations = 0
        self._lock = threading.Lock()
        self._shapes = dict(input_shapes)
        self._traced, flat_scores = unrolled(traced, scores, refused)
        self.plan = make_plan(self._traced, flat_scores)
        self._layout = Layout.measured(self._traced, self.plan, example)
        self.pair_bytes = self._layout.pair_bytes(self.plan)
        for entry in self.plan.entries:
            known = self._layout.extents[entry.tensor.name]
            if known.outer != 1 or known.inner != entry.positions.size:
                raise refused(entry.tensor.op, "does not keep the rows of a batch one after another")
        self._build()

    def _build(self) -> None:
        inputs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in self._traced.inputs.items()}
        values, slopes = (
            [
                tf.TensorSpec([self._layout.extents[n].outer, None, self._layout.extents[n].inner], tf.float32)
                for n in names
            ]
            for names in (self.plan.kept, self.plan.slopes)
        )
        ends = (values, slopes)
        weights, targets = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, None], tf.int32)
        #: What the rules need of some rows: kept values and slopes, `[outer, rows, inner]` each.
        self.ends = tf.function(self._ends, input_signature=[inputs], autograph=False)
        self._explain = tf.function(
            self._walk, input_signature=[ends, ends, weights, targets], autograph=False
        )

    # -- called while tracing --------------------------------------------------------------------------------

    def _ends(self, inputs: Mapping[str, Any]) -> Ends:
        feeds = {self._traced.inputs[name].name: value for name, value in inputs.items()}
        curves = list(self.plan.slopes.values())
        starts = [step.operands[0] for step in curves]
        kept = list(self.plan.kept.values())
        found = self._traced.replay(feeds, kept)
        by_name = dict(zip(self.plan.kept, found, strict=True))
        slopes = []
        for step, start in zip(curves, starts, strict=True):
            value = by_name[start.name]
            slopes.append(self._slope(step.outputs[0], start, value, feeds, by_name))
        return (
            [self._layout.flat(value, tensor) for value, tensor in zip(found, kept, strict=True)],
            [self._layout.flat(v, s.outputs[0]) for v, s in zip(slopes, curves, strict=True)],
        )

    def _slope(
        self, end: Any, start: Any, value: Any, feeds: Mapping[str, Any], known: Mapping[str, Any]
    ) -> Any:
        """Derivative of a curve at its start, nothing where it is none."""
        del known
        if not start.dtype.is_floating:
            return tf.zeros_like(tf.cast(value, tf.float32))
        own = tf.identity(value)
        (out,) = self._traced.replay({**feeds, start.name: own}, [end])
        found = tf.gradients(tf.cast(out, tf.float32), own)[0] if out.dtype.is_floating else None
        if found is None:
            return tf.zeros_like(tf.cast(value, tf.float32))
        found = tf.cast(tf.convert_to_tensor(found), tf.float32)
        return tf.where(tf.math.is_finite(found), found, 0.0)

    def _walk(self, rows: Ends, background: Ends, weights: Any, targets: Any) -> dict[str, Any]:
        plan, layout = self.plan, self._layout
        names = (plan.kept, plan.slopes)
        at_rows, at_background = (
            tuple(dict(zip(n, v, strict=True)) for n, v in zip(names, ends, strict=True))
            for ends in (rows, background)
        )
        t, r, b = tf.shape(targets)[1], tf.shape(weights)[0], tf.shape(targets)[0]
        constants = {
            name: as_numbers(value) if value.dtype.is_floating or value.dtype == tf.bool else value
            for name, value in zip(
                plan.constants, self._traced.replay({}, list(plan.constants.values())), strict=True
            )
        }
        walk = Walk(
            plan,
            layout.extents,
            layout.sized,
            constants,
            (at_rows[0], at_rows[1]),
            (at_background[0], at_background[1]),
            (t, r, b),
            any(step.rule == "selects" for step in plan.steps),
        )
        multipliers = walk.run(self._seeds(walk, targets))
        sums: dict[str, Any] = {}
        for entry, m in zip(plan.entries, multipliers, strict=True):
            x, background_x = walk.pair(entry.tensor)
            terms = m * ((x - background_x) * weights[:, tf.newaxis, tf.newaxis])[:, tf.newaxis]
            value = tf.reshape(tf.reduce_sum(terms, axis=2), [t * b, -1])  # [T·B, inner]
            shape = self._shapes[entry.input]
            positions = int(np.prod(shape, dtype=np.int64))
            value = tf.reshape(sum_positions(value, entry.positions, t * b, positions), [t, b, *shape])
            sums[entry.input] = sums[entry.input] + value if entry.input in sums else value
        # An input that the score does not depend on has no entry: its attribution is exactly nothing.
        for name, shape in self._shapes.items():
            sums.setdefault(name, tf.zeros([t, b, *shape]))
        return {k: tf.transpose(v, [1, 0, *range(2, v.shape.rank)]) for k, v in sums.items()}

    def _seeds(self, walk: Walk, targets: Any) -> list[Any]:
        """1 at each pair's target, 0 elsewhere: by score, shaped like it."""
        widths = [self._layout.extents[score.name].inner for score in self.plan.scores]
        hot = tf.one_hot(tf.transpose(targets), sum(widths))  # [T, B, all]
        t, r, b = walk.counts
        whole = tf.broadcast_to(hot[:, tf.newaxis], [t, r, b, sum(widths)])
        parts = tf.split(whole, widths, axis=3)
        return [tf.reshape(p, walk.shape(s)) for p, s in zip(parts, self.plan.scores, strict=True)]

    # -- called at run time ----------------------------------------------------------------------------------

    def explain(
        self, inputs: Mapping[str, Any], background: Sequence[tuple[Ends, np.ndarray]], targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Attributes the differences to each background row, averaged.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          background: Parts of the background: their ends, and the weight of each of their rows.
          targets: Output index, `[B, T]`.
        Returns:
          φ by model input, `[B, T, *shape]` float32.
        Cost: a forward evaluation a row, and a backward walk a pair of row and background row; a device call
          holds T times the rows times a part's background rows.
        """
        ends = self.ends(dict(inputs))
        parts: dict[str, list[np.ndarray]] = {}
        for first in range(0, targets.shape[1], TARGETS_AT_ONCE):
            chosen = targets[:, first : first + TARGETS_AT_ONCE].astype(np.int32)
            total: dict[str, np.ndarray] = {}
            for base, weights in background:
                found = {k: v.numpy() for k, v in self._explain(ends, base, weights, chosen).items()}
                total = {k: total[k] + v for k, v in found.items()} if total else found
                with self._lock:
                    self.evaluations += len(targets) * len(weights)
            for name, value in total.items():
                parts.setdefault(name, []).append(value)
        return {k: v[0] if len(v) == 1 else np.concatenate(v, axis=1) for k, v in parts.items()}

    def background(self, inputs: Mapping[str, np.ndarray], rows: int) -> list[tuple[Ends, np.ndarray]]:
        """The background in parts of `rows` rows, padded to equal sizes by rows of no weight."""
        count = len(next(iter(inputs.values())))
        found = []
        for start in range(0, count, rows):
            index = np.minimum(np.arange(start, start + rows), count - 1)
            ends = self.ends({name: value[index] for name, value in inputs.items()})
            weights = np.where(np.arange(start, start + rows) < count, 1.0 / count, 0.0)
            found.append((ends, weights.astype(np.float32)))
        return found


__all__ = ["TARGETS_AT_ONCE", "RescaleModel", "UserError"]
