"""A model compiled with DeepLIFT's rules, which attribute the score's difference from background rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.base import KEPT_BYTES, TARGETS_AT_ONCE
from transforms.models.graphs.compiled import Compiled
from transforms.models.graphs.deeplift.ops import ELEMENTWISE
from transforms.models.graphs.deeplift.plan import Step, plan_walk, refused
from transforms.models.graphs.deeplift.rules import RULES
from transforms.models.graphs.deeplift.slopes import slope
from transforms.models.graphs.deeplift.tensor_sizes import WalkGrowth
from transforms.models.graphs.deeplift.unrolled import unrolled
from transforms.models.graphs.deeplift.walk import Walk, constants_of
from transforms.models.graphs.tensors import sum_positions
from transforms.models.graphs.trace import TracedModel
from transforms.models.graphs.xla import for_xla

#: XLA is used only for walks of at most `_MOST_FUSED` steps and calls of at least `_LEAST_FUSED` pairs times
#: targets, because it recompiles for each new shape.
_MOST_FUSED, _LEAST_FUSED = 64, 4096
#: Linear ops for which XLA is never slower than TensorFlow's own kernels.
_FUSED_OPS = frozenset({"ConcatV2", "MatMul", "Mul", "Mean", "Neg", "RealDiv", "Split", "Sum", "Transpose"})
#: Ops of a forward pass that XLA can compile together with the walk.
_FUSED_FORWARD = ELEMENTWISE | _FUSED_OPS | {"Const", "IdentityN", "Placeholder", "ReadVariableOp", "Reshape"}

#: Kept values and slopes of some rows, `[outer, rows, inner]` each.
Ends = tuple[list[Any], list[Any]]


class RescaleModel:
    """A thread-safe model, unrolled and planned for DeepLIFT's rules.

    Args:
      traced: The model as a graph.
      scores: The tensors to explain, one for each head; flattened side by side they are `[rows, T]`.
      input_shapes: Shape of each model input, without the batch.
      example: Some rows of each model input, `[R, *shape]`, on which the growth of tensors is measured.

    Attributes:
      evaluations: Number of pairs of a row and a background row walked so far, padding included.
      pair_bytes: Peak memory per pair in bytes, computed from the measured growth of tensors.
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
        if traced.compile_options.jit:
            self._traced = for_xla(self._traced)
        self.plan = plan_walk(self._traced, flat_scores)
        self._growth = WalkGrowth.measured(self._traced, self.plan, example)
        self.pair_bytes = self._growth.pair_bytes(self.plan)
        for entry in self.plan.entries:
            known = self._growth.extents[entry.tensor.name]
            if known.outer != 1 or known.inner != entry.positions.size:
                raise refused(entry.tensor.op, "does not keep the rows of a batch one after another")
        self._build()

    def _build(self) -> None:
        inputs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in self._traced.inputs.items()}
        values, slopes = (
            [
                tf.TensorSpec(
                    [self._growth.extents[n].outer, None, self._growth.extents[n].inner], tf.float32
                )
                for n in names
            ]
            for names in (self.plan.kept, self.plan.slopes)
        )
        ends = (values, slopes)
        weights, targets = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None, None], tf.int32)
        options = self._traced.compile_options
        fused = replace(options, jit=True)
        #: Computes the kept values and slopes of some rows, which the rules need.
        self.ends = Compiled(self._ends, [inputs], options)
        signature = [ends, ends, weights, targets]
        self._plain = Compiled(self._walk, signature, options)
        self._fused = Compiled(self._walk, signature, fused)
        self._fusable = len(self.plan.steps) <= _MOST_FUSED and all(map(_fuses, self.plan.steps))
        # If XLA can also compile the forward pass, one call does both; lookups of ids and strings prevent it.
        self._whole = Compiled(
            lambda rows, *rest: self._walk(self._ends(rows), *rest), [inputs, *signature[1:]], fused
        )
        forward = self._traced.ancestors([*self.plan.kept.values(), *self.plan.beside.values()]).values()
        self._fusable_whole = self._fusable and all(op.type in _FUSED_FORWARD for op in forward)

    # -- called while tracing --------------------------------------------------------------------------------

    def _ends(self, inputs: Mapping[str, Any]) -> Ends:
        plan, growth = self.plan, self._growth
        feeds = {self._traced.inputs[name].name: value for name, value in inputs.items()}
        wanted = {**plan.kept, **plan.beside}
        known = dict(zip(wanted, self._traced.replay(feeds, list(wanted.values())), strict=True))
        return (
            [growth.flat(known[name], tensor) for name, tensor in plan.kept.items()],
            [growth.flat(slope(step, known), step.outputs[0]) for step in plan.slopes.values()],
        )

    def _walk(self, rows: Ends, background: Ends, weights: Any, targets: Any) -> dict[str, Any]:
        plan, growth = self.plan, self._growth
        names = (plan.kept, plan.slopes)
        at_rows, at_background = (
            tuple(dict(zip(n, v, strict=True)) for n, v in zip(names, ends, strict=True))
            for ends in (rows, background)
        )
        t, r, b = tf.shape(targets)[1], tf.shape(weights)[0], tf.shape(targets)[0]
        walk = Walk(
            plan,
            RULES,
            growth.extents,
            growth.sized,
            constants_of(self._traced, plan),
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
        # An input on which the score does not depend has no entry: its attribution is exactly 0.
        for name, shape in self._shapes.items():
            sums.setdefault(name, tf.zeros([t, b, *shape]))
        return {k: tf.transpose(v, [1, 0, *range(2, v.shape.rank)]) for k, v in sums.items()}

    def _seeds(self, walk: Walk, targets: Any) -> list[Any]:
        """The multipliers of the scores: 1 at each pair's target and 0 elsewhere, shaped like each score."""
        widths = [self._growth.extents[score.name].inner for score in self.plan.scores]
        hot = tf.one_hot(tf.transpose(targets), sum(widths))  # [T, B, all]
        t, r, b = walk.counts
        whole = tf.broadcast_to(hot[:, tf.newaxis], [t, r, b, sum(widths)])
        parts = tf.split(whole, widths, axis=3)
        return [walk.like(p, s) for p, s in zip(parts, self.plan.scores, strict=True)]

    # -- called at run time ----------------------------------------------------------------------------------

    def explain(
        self, inputs: Mapping[str, Any], background: Background, targets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Attributes the score's difference from each background row, and averages over the background.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          background: The background, as returned by the method `background`.
          targets: Output indices, `[B, T]`.
        Returns:
          φ by model input, `[B, T, *shape]` float32.
        Cost: One forward evaluation per row, and one backward walk per target and pair of a row and a
          background row. A device call holds B rows, a part's background rows and up to TARGETS_AT_ONCE
          targets, in all combinations.
        """
        wide = min(targets.shape[1], TARGETS_AT_ONCE) * len(targets) * background.rows >= _LEAST_FUSED
        explain, ends = self._plain, None
        if self._fusable and wide:
            explain = self._whole if self._fusable_whole else self._fused
        if explain is not self._whole:
            ends = self.ends(dict(inputs))
        parts: dict[str, list[np.ndarray]] = {}
        for first in range(0, targets.shape[1], TARGETS_AT_ONCE):
            chosen = targets[:, first : first + TARGETS_AT_ONCE].astype(np.int32)
            total: dict[str, np.ndarray] = {}
            for base, weights in background:
                part = {k: v.numpy() for k, v in explain(ends or dict(inputs), base, weights, chosen).items()}
                total = {k: total[k] + v for k, v in part.items()} if total else part
                with self._lock:
                    self.evaluations += len(targets) * len(weights)
            for name, value in total.items():
                parts.setdefault(name, []).append(value)
        return {k: v[0] if len(v) == 1 else np.concatenate(v, axis=1) for k, v in parts.items()}

    def background(self, inputs: Mapping[str, np.ndarray], rows: int) -> Background:
        """Makes the background in parts of `rows` rows; caches its values if they take little memory."""
        names = (*self.plan.kept, *self.plan.slopes)
        per_row = 4 * sum(self._growth.extents[n].outer * self._growth.extents[n].inner for n in names)
        background = Background(self, inputs, rows)
        if background.count * per_row <= KEPT_BYTES:
            background.keep()
        return background


@dataclass
class Background:
    """Background rows in parts of equal size: the values that the rules need, and the rows' weights.

    The last part is padded with rows of weight 0.
    """

    model: RescaleModel
    inputs: Mapping[str, np.ndarray]
    rows: int
    _kept: list[tuple[Ends, np.ndarray]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of background rows."""
        return len(next(iter(self.inputs.values())))

    def keep(self) -> None:
        """Computes and caches all parts."""
        self._kept = list(self)

    def __iter__(self) -> Iterator[tuple[Ends, np.ndarray]]:
        if self._kept:
            yield from self._kept
            return
        for start in range(0, self.count, self.rows):
            index = np.arange(start, start + self.rows)
            weights = np.where(index < self.count, 1.0 / self.count, 0.0).astype(np.float32)
            index = np.minimum(index, self.count - 1)
            yield self.model.ends({name: value[index] for name, value in self.inputs.items()}), weights


def _fuses(step: Step) -> bool:
    """True for element-wise steps and matrix products, which XLA fuses into one pass over memory."""
    if step.rule in ("curves", "passing", "sums"):
        return True
    return step.rule in ("linear", "products") and step.op.type in _FUSED_OPS
