"""Compiled gradients of a model from its entries or its affine frontier: what gradient methods run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.cut import Cut, check_positions, find_cut
from transforms.models.trace import TracedModel, static_shape

#: Gradients of this many targets share one forward pass; more targets are taken in turns.
TARGETS_AT_ONCE = 8


class DifferentiableModel:
    """A model cut where gradients can begin, with one traced function a job.

    Args:
      traced: The model as a graph.
      scores: The tensors to explain, one a head; they are flattened side by side, `[rows, T]`.
      input_shapes: By model input, without the batch.
      example: A row of each model input, `[1, *shape]`: shapes are measured with it.
      affine_prefix: False integrates from the entries (to measure what the prefix gains).

    Attributes:
      evaluations: Model evaluations asked for so far, padding included: points, whatever the number of targets.
      activation_bytes: Memory that one evaluation and its gradient hold at most, by the static shapes.
    """

    def __init__(
        self,
        traced: TracedModel,
        scores: Sequence[Any],
        input_shapes: Mapping[str, tuple[int, ...]],
        example: Mapping[str, np.ndarray],
        *,
        affine_prefix: bool = True,
    ) -> None:
        self.evaluations = 0
        self._traced = traced
        self.input_shapes = dict(input_shapes)
        self.cut: Cut = find_cut(traced, scores, affine_prefix=affine_prefix)
        self._lead = self._measure_shapes(example)
        for entry in self.cut.entries:
            check_positions(entry, self.input_shapes[entry.input], self._lead[entry.tensor.name])
        self.activation_bytes = self._activation_bytes()
        self._build()

    # -- what lies where ---------------------------------------------------------------------------------------

    def _measure_shapes(self, example: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Runs two and three rows and fits shapes as base + slope · rows; returns leading rows a row."""
        watched = [entry.tensor for entry in self.cut.entries] + list(self.cut.frontier)

        @tf.function(autograph=False)
        def shapes(inputs: Any) -> Any:
            feeds = {self._traced.inputs[name].name: value for name, value in inputs.items()}
            built = self._traced.replay(feeds, [*watched, *self.cut.shapes])
            return [tf.shape(value) for value in built[: len(watched)]], built[len(watched) :]

        def run(rows: int) -> Any:
            return shapes({k: tf.constant(np.repeat(v[:1], rows, axis=0)) for k, v in example.items()})

        (leads2, values2), (leads3, values3) = run(2), run(3)
        self._shape_lines = []
        for two, three in zip(values2, values3, strict=True):
            slope = three.numpy() - two.numpy()
            self._shape_lines.append((two.numpy() - 2 * slope, slope))
        lead: dict[str, int] = {}
        for tensor, two, three in zip(watched, leads2, leads3, strict=True):
            per_row = int(three[0]) - int(two[0]) if two.shape[0] else 0
            if per_row < 1 or int(two[0]) != 2 * per_row:
                raise UserError(
                    f"tensor {tensor.name} of shape {tensor.shape} does not lead with the batch", "model"
                )
            lead[tensor.name] = per_row
        return lead

    def _activation_bytes(self) -> int:
        fed = frozenset(t.name for t in (*self.cut.frontier, *self.cut.shapes))
        total = sum(_row_bytes(tensor) for tensor in self.cut.frontier)
        for op in self._traced.ancestors(self.cut.scores, fed).values():
            for tensor in op.outputs:
                shape = static_shape(tensor)
                if tensor.dtype.is_floating and shape and shape[0] is None:
                    total += _row_bytes(tensor)
        return max(1, 2 * total)  # the backward pass holds about as much as the forward pass

    # -- building blocks, called while tracing -----------------------------------------------------------------

    def _feeds(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {self._traced.inputs[name].name: value for name, value in inputs.items()}

    def _entries_and_frontier(self, inputs: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
        entries = self._traced.replay(self._feeds(inputs), [entry.tensor for entry in self.cut.entries])
        return entries, self._frontier_from(entries, inputs)

    def _frontier_from(self, entries: Sequence[Any], inputs: Mapping[str, Any]) -> list[Any]:
        feeds = self._feeds(inputs)
        feeds.update((e.tensor.name, value) for e, value in zip(self.cut.entries, entries, strict=True))
        return self._traced.replay(feeds, list(self.cut.frontier))

    def _scores_from(self, cut_at: Sequence[Any], values: Sequence[Any], side: Mapping[str, Any], rows: Any) -> Any:
        """Scores `[rows, T]` from values of the frontier (or the entries)."""
        feeds = {tensor.name: value for tensor, value in zip(cut_at, values, strict=True)}
        for tensor, (base, slope) in zip(self.cut.shapes, self._shape_lines, strict=True):
            count = tf.cast(rows, tensor.dtype)
            feeds.setdefault(tensor.name, tf.constant(base, tensor.dtype) + tf.constant(slope, tensor.dtype) * count)
        feeds.update({k: v for k, v in self._feeds(side).items() if k not in feeds})
        scores = self._traced.replay(feeds, list(self.cut.scores))
        return flatten_heads(scores, rows)

    def _to_inputs(self, per_entry: Sequence[Any], rows: Any) -> dict[str, Any]:
        """Sums entry values `[rows · per_row, ...]` to model inputs, `[rows, *input_shape]`."""
        sums: dict[str, Any] = {}
        for entry, value in zip(self.cut.entries, per_entry, strict=True):
            shape = self.input_shapes[entry.input]
            positions = int(np.prod(shape, dtype=np.int64))
            value = tf.reduce_sum(tf.reshape(tf.cast(value, tf.float32), [rows, positions, -1]), axis=-1)
            value = tf.reshape(value, [rows, *shape])
            sums[entry.input] = sums[entry.input] + value if entry.input in sums else value
        # An input that the score does not depend on has no entry: its attribution is exactly nothing.
        for name, shape in self.input_shapes.items():
            sums.setdefault(name, tf.zeros([rows, *shape], tf.float32))
        return sums

    def _target_gradients(self, scores: Any, targets: Any, points: Sequence[Any]) -> list[list[Any]]:
        """Gradients of Σ_rows score[targets[:, t]] at the points: a list over t of lists over points."""
        gradients = []
        for t in range(targets.shape[1]):
            chosen = scores if scores.shape[1] == 1 else tf.gather(scores, targets[:, t], axis=1, batch_dims=1)
            found = tf.gradients(tf.reduce_sum(chosen), list(points))
            for point, gradient in zip(points, found, strict=True):
                if gradient is None:
                    raise UserError(f"no gradient path leads from {point.name} to the score", "model")
            gradients.append([tf.convert_to_tensor(gradient) for gradient in found])
        return gradients

    # -- the traced functions ----------------------------------------------------------------------------------

    def _build(self) -> None:
        inputs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in self._traced.inputs.items()}
        entries = [_spec(entry.tensor) for entry in self.cut.entries]
        frontier = [_spec(tensor) for tensor in self.cut.frontier]
        floats, ints = tf.float32, tf.int32
        self.ends = tf.function(
            self._entries_and_frontier, input_signature=[inputs], autograph=False, reduce_retracing=True
        )
        self._integrate_signature = [
            inputs,
            entries,  # of the background, [R, ...]
            frontier,
            tf.TensorSpec([None, None], ints),  # base row of a group, [G, B or 1]
            tf.TensorSpec([None, None, None], floats),  # α of a node, [G, K, B or 1]
            tf.TensorSpec([None], floats),  # weight of a node, [K]
        ]
        self._gradient_signature = [inputs, [tf.TensorSpec(None, t.dtype) for t in entries], tf.TensorSpec([], floats)]
        self._functions: dict[Any, Any] = {}

    def _compiled(self, function: Any, signature: list[Any], targets: int, *options: Any) -> Any:
        """One traced function for each number of targets and set of options, whatever the batch."""
        key = (function.__name__, targets, *options)
        if key not in self._functions:
            self._functions[key] = tf.function(
                lambda *args: function(*args, *options),
                input_signature=[*signature, tf.TensorSpec([None, targets], tf.int32)],
                autograph=False,
            )
        return self._functions[key]

    @property
    def traces(self) -> int:
        """How many graphs have been traced: few, and never one a batch."""
        compiled = [*self._functions.values(), self.ends]
        return int(sum(function.experimental_get_tracing_count() for function in compiled))

    def integrate(
        self,
        inputs: Mapping[str, Any],
        background: tuple[Sequence[Any], Sequence[Any]],
        base_index: np.ndarray,
        alphas: np.ndarray,
        weights: np.ndarray,
        targets: np.ndarray,
        *,
        squares: bool = False,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sums gradients along straight paths from background rows to the inputs.

        φ = Σ_g (e − e′_g) ⊙ Jᵀ Σ_k w_k ∇F(z′_g + α_gk (z − z′_g)), with e the entries, z the frontier and J the
        Jacobian of the affine prefix, the same everywhere.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          background: Entries and frontier of the background, as `ends` returns them.
          base_index: Background row of each group, `[G, B]` or `[G, 1]`.
          alphas: Positions on the path, `[G, K, B]` or `[G, K, 1]`.
          weights: Of the nodes, `[K]`.
          targets: Output index, `[B, T]`.
          squares: Also return Σ over pairs of groups (0,1), (2,3), … of the squared difference of their terms.
        Returns:
          Sums `[B, T, *shape]` by model input, in units of the score, and the squares (empty without).
        Cost: G · K gradient evaluations a row in one device call.
        """
        rows = len(targets)
        self.evaluations += rows * alphas.shape[0] * alphas.shape[1]
        return self._by_targets(
            self._integrate,
            self._integrate_signature,
            (inputs, *background, base_index, alphas, weights),
            targets,
            squares,
        )

    def gradient(
        self, inputs: Mapping[str, Any], noise: Sequence[np.ndarray], copies: int, targets: np.ndarray, mode: str
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sums gradients at noisy copies of the inputs.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          noise: By entry, what is added to it, `[copies · B · per_row, ...]` copy-major, or a scalar 0.
          copies: How many.
          targets: Output index, `[B, T]`.
          mode: "plain" (∂F/∂e), "absolute" (|∂F/∂e|) or "times_input" (e ⊙ ∂F/∂e), before summing over an
            embedding's axis.
        Returns:
          Sums over the copies and sums of squares, `[B, T, *shape]` by model input.
        """
        self.evaluations += len(targets) * copies
        return self._by_targets(
            self._gradient, self._gradient_signature, (inputs, list(noise), np.float32(copies)), targets, mode
        )

    def _by_targets(
        self, function: Any, signature: list[Any], args: tuple[Any, ...], targets: np.ndarray, *options: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        sums: dict[str, list[np.ndarray]] = {}
        squares: dict[str, list[np.ndarray]] = {}
        for first in range(0, targets.shape[1], TARGETS_AT_ONCE):
            part = targets[:, first : first + TARGETS_AT_ONCE]
            compiled = self._compiled(function, signature, part.shape[1], *options)
            found, square = compiled(*args, part.astype(np.int32))
            for name, value in found.items():
                sums.setdefault(name, []).append(value.numpy())
            for name, value in square.items():
                squares.setdefault(name, []).append(value.numpy())
        return _join(sums), _join(squares)

    def _integrate(
        self, inputs: Any, base_entries: Any, base_frontier: Any, base: Any, alphas: Any, weights: Any, *rest: Any
    ) -> Any:
        targets, squares = rest
        entries, frontier = self._entries_and_frontier(inputs)
        rows = tf.shape(targets)[0]
        groups, nodes = tf.shape(alphas)[0], tf.shape(alphas)[1]
        base = tf.broadcast_to(base, [groups, rows])
        alphas = tf.broadcast_to(alphas, [groups, nodes, rows])
        points = []
        for tensor, end, bases in zip(self.cut.frontier, frontier, base_frontier, strict=True):
            lead = self._lead[tensor.name]
            end, bases = _rows_first(end, lead), _rows_first(bases, lead)
            start = tf.gather(bases, base)[:, tf.newaxis]  # [G, 1, B, lead, ...]
            a = tf.cast(_expand(alphas, start.shape.rank), end.dtype)
            point = start + a * (end - start)  # [G, K, B, lead, ...]
            flat = tf.reshape(point, tf.concat([[-1], tf.shape(end)[2 if lead > 1 else 1 :]], 0))
            flat.set_shape([None, *tensor.shape[1:]])
            points.append(flat)
        total = groups * nodes * rows
        side = {name: _tile(inputs[name], groups * nodes) for name in self.cut.side_inputs}
        scores = self._scores_from(self.cut.frontier, points, side, total)
        tiled = _tile(targets, groups * nodes)
        gradients = self._target_gradients(scores, tiled, points)
        # Jᵀ at any point will do, the prefix being affine: the inputs themselves, once a group.
        here = {name: _tile(value, groups) for name, value in inputs.items()}
        anchors = [_tile(value, groups) for value in entries]
        plane = self._frontier_from(anchors, here) if self._has_prefix else anchors
        differences = [
            tf.reshape(_rows_first(end, lead)[tf.newaxis] - tf.gather(_rows_first(bases, lead), base), tf.shape(anchor))
            for end, bases, anchor, lead in zip(
                entries, base_entries, anchors, [self._lead[e.tensor.name] for e in self.cut.entries], strict=True
            )
        ]
        sums: list[dict[str, Any]] = []
        pairs: list[dict[str, Any]] = []
        for per_target in gradients:
            summed = [self._sum_nodes(g, weights, groups, nodes, rows) for g in per_target]
            if self._has_prefix:
                summed = tf.gradients(plane, anchors, grad_ys=summed, unconnected_gradients="zero")
            terms = [g * d for g, d in zip(summed, differences, strict=True)]
            by_input = self._to_inputs(terms, groups * rows)
            grouped = {k: tf.reshape(v, tf.concat([[groups, rows], tf.shape(v)[1:]], 0)) for k, v in by_input.items()}
            sums.append({k: tf.reduce_sum(v, axis=0) for k, v in grouped.items()})
            if squares:
                even = groups - groups % 2
                pairs.append(
                    {k: tf.reduce_sum((v[0:even:2] - v[1:even:2]) ** 2, axis=0) for k, v in grouped.items()}
                )
        return _stack(sums), _stack(pairs)

    @property
    def _has_prefix(self) -> bool:
        return [t.name for t in self.cut.frontier] != [e.tensor.name for e in self.cut.entries]

    @staticmethod
    def _sum_nodes(gradient: Any, weights: Any, groups: Any, nodes: Any, rows: Any) -> Any:
        """Σ_k w_k g_k: `[G·K·B·lead, ...]` → `[G·B·lead, ...]`."""
        tail = tf.shape(gradient)[1:]
        by_node = tf.reshape(gradient, [groups, nodes, -1])
        summed = tf.einsum("gkn,k->gn", by_node, tf.cast(weights, gradient.dtype))
        return tf.reshape(summed, tf.concat([[-1], tail], 0))

    def _gradient(self, inputs: Any, noise: Any, copies: Any, *rest: Any) -> Any:
        targets, mode = rest
        copies = tf.cast(copies, tf.int32)
        rows = tf.shape(targets)[0]
        entries = self._traced.replay(self._feeds(inputs), [entry.tensor for entry in self.cut.entries])
        points = [_tile(value, copies) + tf.cast(n, value.dtype) for value, n in zip(entries, noise, strict=True)]
        here = {name: _tile(value, copies) for name, value in inputs.items()}
        scores = self._scores_from([e.tensor for e in self.cut.entries], points, here, rows * copies)
        sums, squares = [], []
        for per_target in self._target_gradients(scores, _tile(targets, copies), points):
            if mode == "absolute":
                per_target = [tf.abs(g) for g in per_target]
            elif mode == "times_input":
                per_target = [g * point for g, point in zip(per_target, points, strict=True)]
            by_input = self._to_inputs(per_target, copies * rows)
            copied = {k: tf.reshape(v, tf.concat([[copies, rows], tf.shape(v)[1:]], 0)) for k, v in by_input.items()}
            sums.append({k: tf.reduce_sum(v, axis=0) for k, v in copied.items()})
            squares.append({k: tf.reduce_sum(v * v, axis=0) for k, v in copied.items()})
        return _stack(sums), _stack(squares)


def flatten_heads(heads: Sequence[Any], rows: Any) -> Any:
    """Heads `[rows, ...]` side by side in the model's order, `[rows, T]`, float32."""
    flat = []
    for head in heads:
        width = int(np.prod([extent or 1 for extent in (static_shape(head) or ())[1:]], dtype=np.int64))
        flat.append(tf.reshape(tf.cast(head, tf.float32), [rows, width]))
    return flat[0] if len(flat) == 1 else tf.concat(flat, axis=1)


def _row_bytes(tensor: Any) -> int:
    shape = static_shape(tensor) or ()
    return int(np.prod([extent or 1 for extent in shape[1:]], dtype=np.int64)) * tensor.dtype.size


def _spec(tensor: Any) -> Any:
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _tile(value: Any, times: Any) -> Any:
    """`[n, ...]` → `[times · n, ...]`, the copies one after another."""
    shape = tf.shape(value)
    tiled = tf.broadcast_to(value[tf.newaxis], tf.concat([[times], shape], 0))
    result = tf.reshape(tiled, tf.concat([[-1], shape[1:]], 0))
    result.set_shape([None, *value.shape[1:]])
    return result


def _rows_first(value: Any, lead: int) -> Any:
    """`[rows · lead, ...]` → `[rows, lead, ...]`, so that a row is one index."""
    return tf.reshape(value, tf.concat([[-1, lead], tf.shape(value)[1:]], 0)) if lead > 1 else value


def _expand(alphas: Any, rank: int) -> Any:
    return tf.reshape(alphas, tf.concat([tf.shape(alphas), tf.ones([rank - 3], tf.int32)], 0))


def _stack(per_target: list[dict[str, Any]]) -> dict[str, Any]:
    return {k: tf.stack([sums[k] for sums in per_target], axis=1) for k in per_target[0]} if per_target else {}


def _join(parts: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {k: v[0] if len(v) == 1 else np.concatenate(v, axis=1) for k, v in parts.items()}
