"""Compiled gradients of a model at its entries or its affine frontier (see `cut/`), for gradient methods."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import add
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.models.base import TARGETS_AT_ONCE
from transforms.models.graphs.compiled import Compiled
from transforms.models.graphs.cut.cut import equalities, find_cut
from transforms.models.graphs.cut.entries import Cut
from transforms.models.graphs.cut.provenance import EVERYWHERE
from transforms.models.graphs.rewrites.custom_gradients import rename_all
from transforms.models.graphs.tensor_sizes import CutGrowth, activation_bytes
from transforms.models.graphs.tensors import (
    flatten_heads,
    join_targets,
    node_difference,
    path_differences,
    path_points,
    pick_rows,
    row_bytes,
    stack_targets,
    sum_copies,
    sum_inputs,
    sum_nodes,
    target_gradients,
    tile,
    widen,
)
from transforms.models.graphs.trace import TracedModel

#: Number of parts into which a call's nodes are divided. Parts are computed one after another, so that
#: intermediate values stay in a processor's cache: measured, 1.3 times the rows on two processors.
_PARTS = 8


class DifferentiableModel:
    """A thread-safe model, cut where gradients can begin, with a traced function for each computation.

    Args:
      traced: The model as a graph.
      scores: The tensors to explain, one for each head; flattened side by side they are `[rows, T]`.
      input_shapes: Shape of each model input, without the batch.
      example: One row of each model input, `[1, *shape]`, on which shapes are measured.
      affine_prefix: False integrates from the entries, not the frontier (to measure the gain of the prefix).
      held: Names of inputs that keep the row's values.

    Attributes:
      evaluations: Number of points evaluated so far, padding included. A point counts once, however many
        targets it serves.
      activation_bytes: Peak memory of one evaluation and its gradient in bytes, from static shapes.
    """

    def __init__(
        self,
        traced: TracedModel,
        scores: Sequence[Any],
        input_shapes: Mapping[str, tuple[int, ...]],
        example: Mapping[str, np.ndarray],
        *,
        affine_prefix: bool = True,
        held: frozenset[str] = frozenset(),
    ) -> None:
        self.evaluations, self._lock = 0, threading.Lock()
        self._traced = traced
        self.input_shapes = dict(input_shapes)
        self.cut: Cut = find_cut(traced, scores, affine_prefix=affine_prefix, held=held)
        self._growth = CutGrowth.of(traced, self.cut, example)
        self._frontier = [(tensor, self._growth.lead[tensor.name]) for tensor in self.cut.frontier]
        self.activation_bytes = activation_bytes(traced, self.cut)
        self._equalities = equalities(traced, self.cut)
        self._small = traced.repeatable(self.cut.scores, self.cut.fed)
        self._build()

    @property
    def counted(self) -> frozenset[str]:
        """Inputs with an entry that counts over all positions; the positions share its φ equally."""
        return frozenset(e.input for e in self.cut.entries if (e.positions == EVERYWHERE).any())

    @property
    def end_bytes(self) -> int:
        """Bytes of one background row's entries and frontier."""
        tensors = [*(entry.tensor for entry in self.cut.entries), *self.cut.frontier]
        return sum(self._growth.lead[tensor.name] * row_bytes(tensor) for tensor in tensors)

    # -- building blocks, called while tracing ---------------------------------------------------------------

    def _feeds(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {self._traced.inputs[name].name: value for name, value in inputs.items()}

    def _entries_of(self, inputs: Mapping[str, Any]) -> list[Any]:
        return self._traced.replay(self._feeds(inputs), [entry.tensor for entry in self.cut.entries])

    def _entries_and_frontier(self, inputs: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
        entries = self._entries_of(inputs)
        return entries, self._frontier_from(entries, inputs)

    def _frontier_from(self, entries: Sequence[Any], inputs: Mapping[str, Any]) -> list[Any]:
        feeds = self._feeds(inputs)
        feeds.update((e.tensor.name, value) for e, value in zip(self.cut.entries, entries, strict=True))
        return self._traced.replay(feeds, list(self.cut.frontier))

    def _scores_from(
        self,
        cut_at: Sequence[Any],
        values: Sequence[Any],
        side: Mapping[str, Any],
        rows: Any,
        known: Mapping[str, Any] | None = None,
    ) -> Any:
        """Scores `[rows, T]` from values of the frontier (or the entries) and of other known tensors."""
        feeds = dict(known or {}) | {tensor.name: value for tensor, value in zip(cut_at, values, strict=True)}
        for tensor, value in zip(self.cut.shapes, self._growth.shape_values(self.cut, rows), strict=True):
            feeds.setdefault(tensor.name, value)
        feeds.update({k: v for k, v in self._feeds(side).items() if k not in feeds})
        # To differentiate a loop or branch, TensorFlow makes its function also return intermediate values,
        # but keeps the function's name. With more known tensors the function returns fewer values. TensorFlow
        # does not accept two different functions of one name, so they are renamed.
        apart = rename_all if known else None
        return flatten_heads(self._traced.replay(feeds, list(self.cut.scores), apart), rows)

    def _to_inputs(self, per_entry: Sequence[Any], rows: Any) -> dict[str, Any]:
        """Sums the entries' values, `[rows · lead, ...]`, for each model input, to `[rows, *input_shape]`."""
        places = [(entry.input, entry.positions) for entry in self.cut.entries]
        return sum_inputs(places, per_entry, self.input_shapes, rows)

    # -- the traced functions --------------------------------------------------------------------------------

    def _build(self) -> None:
        inputs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in self._traced.inputs.items()}
        entries = [tf.TensorSpec(e.tensor.shape, e.tensor.dtype) for e in self.cut.entries]
        frontier = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in self.cut.frontier]
        floats, ints = tf.float32, tf.int32
        self.ends = Compiled(self._entries_and_frontier, [inputs], self._traced.compile_options)
        path = [
            inputs,
            entries,  # of the background, [R, ...]
            frontier,
            tf.TensorSpec([None, None], ints),  # background row of each group, [G, B or 1]
            tf.TensorSpec([None, None, None], floats),  # α of each node, [G, K, B or 1]
        ]
        self._integrate_signature = [*path, tf.TensorSpec([None], floats)]  # weight of each node, [K]
        noise = [tf.TensorSpec(None, floats) for _ in entries]
        self._gradient_signature = [inputs, noise, tf.TensorSpec([], ints)]
        path.append(tf.TensorSpec([None, None], ints))
        self._path = Compiled(self._path_scores, path, self._traced.compile_options)
        self._functions: dict[Any, Compiled] = {}

    def _compiled(self, function: Any, signature: list[Any], targets: int, *options: Any) -> Compiled:
        """The traced function for a number of targets and a set of options, for batches of any size."""
        key = (function.__name__, targets, *options)
        with self._lock:
            if key not in self._functions:
                self._functions[key] = Compiled(
                    lambda *args: function(*args, *options),
                    [*signature, tf.TensorSpec([None, targets], tf.int32)],
                    self._traced.compile_options,
                )
            return self._functions[key]

    def _count(self, evaluations: int) -> None:
        with self._lock:
            self.evaluations += evaluations

    @property
    def traces(self) -> int:
        """The number of traced graphs, which is small and does not grow with the number of batches."""
        compiled = [*self._functions.values(), self.ends, self._path]
        return sum(function.traces for function in compiled)

    def constants(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """Converts arrays to tensors once, for many calls that share them."""
        return tuple(tf.constant(array) for array in arrays)

    def integrate(
        self,
        inputs: Mapping[str, Any],
        background: tuple[Sequence[Any], Sequence[Any]],
        base_index: Any,
        alphas: Any,
        weights: Any,
        targets: np.ndarray,
        *,
        squares: bool = False,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sums gradients along straight paths; see `Gradients.integrate`."""
        self._count(len(targets) * alphas.shape[0] * alphas.shape[1])
        arguments = (dict(inputs), *background, base_index, alphas, weights)
        shared = alphas.shape[2] == 1
        parts = _PARTS if self._small and shared and not squares and alphas.shape[1] >= 4 * _PARTS else 1
        options = (shared, squares, squares and alphas.shape[1] == 2, parts)
        return self._by_targets(self._integrate, self._integrate_signature, arguments, targets, *options)

    def path_scores(
        self,
        inputs: Mapping[str, Any],
        background: tuple[Sequence[Any], Sequence[Any]],
        base_index: np.ndarray,
        alphas: np.ndarray,
        targets: np.ndarray,
    ) -> np.ndarray:
        """Evaluates the score at points of straight paths; see `Gradients.path_scores`."""
        self._count(len(targets) * alphas.shape[0] * alphas.shape[1])
        scores = self._path(dict(inputs), *background, base_index, alphas, targets.astype(np.int32))
        return np.asarray(scores.numpy())

    def gradient(
        self,
        inputs: Mapping[str, Any],
        noise: Sequence[np.ndarray],
        copies: int,
        targets: np.ndarray,
        mode: str,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sums gradients at noisy copies of the inputs; see `Gradients.gradient`."""
        self._count(len(targets) * copies)
        arguments = (dict(inputs), list(noise), np.int32(copies))
        return self._by_targets(self._gradient, self._gradient_signature, arguments, targets, mode)

    def _by_targets(
        self, function: Any, signature: list[Any], args: tuple[Any, ...], targets: np.ndarray, *options: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        sums: dict[str, list[np.ndarray]] = {}
        squares: dict[str, list[np.ndarray]] = {}
        for first in range(0, targets.shape[1], TARGETS_AT_ONCE):
            part = targets[:, first : first + TARGETS_AT_ONCE]
            compiled = self._compiled(function, signature, part.shape[1], *options)
            total, square = compiled(*args, part.astype(np.int32))
            for name, value in total.items():
                sums.setdefault(name, []).append(value.numpy())
            for name, value in square.items():
                squares.setdefault(name, []).append(value.numpy())
        return join_targets(sums), join_targets(squares)

    def _starts(
        self, inputs: Any, base_entries: Any, base_frontier: Any, base: Any, rows: Any
    ) -> tuple[Any, Any]:
        """Frontier values where paths start, and each path's index among them, `[G, B]` or `[G, 1]`.

        If the prefix contains a held mask, the frontier at a background row also depends on the explained
        row, which gives the mask. The frontier is then computed for each pair of the two rows.
        """
        if not (self.cut.has_prefix and self.cut.row_masks):
            return base_frontier, base
        groups = tf.shape(base)[0]
        index = tf.broadcast_to(base, [groups, rows])
        entries = [
            pick_rows(bases, self._growth.lead[entry.tensor.name], index)
            for entry, bases in zip(self.cut.entries, base_entries, strict=True)
        ]
        here = {name: tile(value, groups) for name, value in inputs.items()}
        return self._frontier_from(entries, here), tf.reshape(tf.range(groups * rows), [groups, rows])

    def _points(
        self,
        inputs: Any,
        frontier: Any,
        start: tuple[Any, Any],
        alphas: Any,
        targets: Any,
        shared: bool,
    ) -> tuple[list[Any], Any, Any]:
        """Points of the paths, the scores of all outputs there, `[G·K·B, T]`, and targets, `[G·K·B, T']`."""
        copies = tf.shape(alphas)[0] * tf.shape(alphas)[1]
        points = path_points(self._frontier, frontier, *start, alphas, shared)
        side = {name: tile(inputs[name], copies) for name in self.cut.side_inputs}
        scores = self._scores_from(self.cut.frontier, points, side, copies * tf.shape(targets)[0])
        return points, scores, tile(targets, copies)

    def _path_scores(
        self, inputs: Any, base_entries: Any, base_frontier: Any, base: Any, alphas: Any, targets: Any
    ) -> Any:
        rows, groups, nodes = tf.shape(targets)[0], tf.shape(alphas)[0], tf.shape(alphas)[1]
        alphas = tf.broadcast_to(alphas, [groups, nodes, rows])
        _, frontier = self._entries_and_frontier(inputs)
        start = self._starts(inputs, base_entries, base_frontier, base, rows)
        _, scores, tiled = self._points(inputs, frontier, start, alphas, targets, False)
        chosen = tf.gather(scores, tiled, axis=1, batch_dims=1)
        return tf.reshape(chosen, [groups, nodes, rows, tf.shape(targets)[1]])

    def _integrate(
        self, inputs: Any, base_entries: Any, base_frontier: Any, base: Any, alphas: Any, weights: Any,
        targets: Any, shared: bool, squares: bool, within: bool, parts: int,
    ) -> Any:  # fmt: skip
        """Traces `integrate`; `tensors.py` explains the dimensions G, K, B, R, T and `lead`.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          base_entries: Entries of the background, `[R·lead, ...]` each.
          base_frontier: Frontier tensors of the background, `[R·lead, ...]` each.
          base: Background row of each group, `[G, B or 1]`.
          alphas: Positions of the nodes, `[G, K, B or 1]`.
          weights: Weights of the nodes, `[K]`.
          targets: Output indices, `[B, T]`.
          shared: Whether all rows share the nodes' positions.
          squares: Whether sums of squared differences are also computed.
          within: Whether a squared difference is taken between the two nodes of a group (True) or between two
            groups (False).
          parts: Number of parts into which the nodes are divided; parts are computed one after another.
        """
        rows, groups, nodes = tf.shape(targets)[0], tf.shape(alphas)[0], tf.shape(alphas)[1]
        if not shared:
            alphas = tf.broadcast_to(alphas, [groups, nodes, rows])
        entries, frontier = self._entries_and_frontier(inputs)
        start = self._starts(inputs, base_entries, base_frontier, base, rows)
        # Σ_k w_k ∇F over the nodes, for each target and each tensor of the frontier, `[G·B·lead, ...]`.
        by_target: list[list[Any]] = []
        for part in range(parts):
            some = slice(nodes * part // parts, nodes * (part + 1) // parts)
            at, count = alphas[:, some], tf.shape(alphas[:, some])[1]
            points, scores, tiled = self._points(inputs, frontier, start, at, targets, shared)
            seeds = tf.broadcast_to(weights[tf.newaxis, some, tf.newaxis], [groups, count, rows])
            gradients = target_gradients(scores, tiled, points, seeds)
            summed = [[sum_nodes(g, groups, count, shared) for g in own] for own in gradients]
            by_target = (
                [list(map(add, *both)) for both in zip(by_target, summed, strict=True)] if part else summed
            )
        # The prefix is affine, so its Jacobian J is the same at all points: Jᵀ is applied at the inputs, once
        # per group.
        here = {name: tile(value, groups) for name, value in inputs.items()}
        anchors = [tile(value, groups) for value in entries]
        plane = self._frontier_from(anchors, here) if self.cut.has_prefix else anchors
        # e − e′ of each entry, `[G·B·lead, ...]`.
        leads = [self._growth.lead[entry.tensor.name] for entry in self.cut.entries]
        differences = list(map(path_differences, leads, entries, base_entries, repeat(base)))

        def terms(at_frontier: Sequence[Any]) -> list[Any]:
            """(e − e′) ⊙ Jᵀg for each entry, `[G·B·lead, ...]`, from g at the frontier."""
            pulled = at_frontier
            if self.cut.has_prefix:
                dual = [tf.cast(g, z.dtype) for g, z in zip(at_frontier, plane, strict=True)]
                pulled = tf.gradients(plane, anchors, grad_ys=dual, unconnected_gradients="zero")
            return [widen(g) * d for g, d in zip(pulled, differences, strict=True)]

        sums: list[dict[str, Any]] = []
        pairs: list[dict[str, Any]] = []
        for summed_gradients, per_target in zip(by_target, gradients, strict=True):
            by_group = terms(summed_gradients)
            sums.append(self._to_inputs([sum_copies(term, groups) for term in by_group], rows))
            if squares:
                # Sum of squared differences between the terms of two nodes, or of two neighbouring groups.
                if within:
                    by_group = terms([node_difference(g, groups) for g in per_target])
                moved = self._by_copy(by_group, groups, rows)
                even = groups - groups % 2
                if not within:
                    moved = {k: v[0:even:2] - v[1:even:2] for k, v in moved.items()}
                pairs.append({k: tf.reduce_sum(v**2, axis=0) for k, v in moved.items()})
        return stack_targets(sums), stack_targets(pairs)

    def _by_copy(self, per_entry: Sequence[Any], copies: Any, rows: Any) -> dict[str, Any]:
        """Sums the entries' values of tiled rows for each model input, to `[copies, rows, *input_shape]`."""
        by_input = self._to_inputs(per_entry, copies * rows)
        return {
            k: tf.reshape(v, tf.concat([[copies, rows], tf.shape(v)[1:]], 0)) for k, v in by_input.items()
        }

    def _gradient(self, inputs: Any, noise: Any, copies: Any, *rest: Any) -> Any:
        targets, mode = rest
        rows = tf.shape(targets)[0]
        points = []
        for value, added in zip(self._entries_of(inputs), noise, strict=True):
            point = tile(value, copies)
            noisy = point + tf.cast(added, value.dtype)
            noisy.set_shape(point.shape)  # the noise has no static shape
            points.append(noisy)
        here = {name: tile(value, copies) for name, value in inputs.items()}
        held = self._traced.replay(self._feeds(inputs), self._equalities) if self._equalities else []
        known = {t.name: tile(v, copies) for t, v in zip(self._equalities, held, strict=True)}
        scores = self._scores_from([e.tensor for e in self.cut.entries], points, here, rows * copies, known)
        sums, squares = [], []
        for per_target in target_gradients(scores, tile(targets, copies), points):
            if mode == "absolute":
                per_target = [tf.abs(g) for g in per_target]
            elif mode == "times_input":
                per_target = [widen(g) * widen(point) for g, point in zip(per_target, points, strict=True)]
            copied = self._by_copy(per_target, copies, rows)
            sums.append({k: tf.reduce_sum(v, axis=0) for k, v in copied.items()})
            squares.append(
                {k: tf.reduce_sum((v - tf.reduce_mean(v, axis=0)) ** 2, axis=0) for k, v in copied.items()}
            )
        return stack_targets(sums), stack_targets(squares)
