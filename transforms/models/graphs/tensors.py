"""Small tensor helpers that the compiled functions share; called while tracing.

Dimensions: G groups, each of which pairs every row with one background row; K nodes on a path; B rows;
R background rows; T targets. `lead` is a tensor's leading extent per row of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.graphs.cut.provenance import EVERYWHERE, NOWHERE
from transforms.models.graphs.trace import static_shape


def flatten_heads(heads: Sequence[Any], rows: Any) -> Any:
    """Flattens heads `[rows, ...]` and joins them in the model's order to `[rows, T]`, float32."""
    flat = []
    for head in heads:
        width = row_bytes(head) // int(head.dtype.size)
        flat.append(tf.reshape(tf.cast(head, tf.float32), [rows, width]))
    return flat[0] if len(flat) == 1 else tf.concat(flat, axis=1)


def row_bytes(tensor: Any) -> int:
    """Bytes per row of a tensor `[rows, ...]`, with unknown extents counted as one."""
    shape = static_shape(tensor) or ()
    return int(np.prod([extent or 1 for extent in shape[1:]], dtype=np.int64)) * int(tensor.dtype.size)


def tile(value: Any, times: Any) -> Any:
    """Repeats `[n, ...]` to `[times · n, ...]`, with whole copies one after another."""
    shape = tf.shape(value)
    tiled = tf.broadcast_to(value[tf.newaxis], tf.concat([[times], shape], 0))
    result = tf.reshape(tiled, tf.concat([[-1], shape[1:]], 0))
    result.set_shape([None, *value.shape[1:]])
    return result


def rows_first(value: Any, lead: int) -> Any:
    """Reshapes `[rows · lead, ...]` to `[rows, lead, ...]`, so that the first axis indexes rows."""
    return tf.reshape(value, tf.concat([[-1, lead], tf.shape(value)[1:]], 0)) if lead > 1 else value


def pick_rows(value: Any, lead: int, index: Any) -> Any:
    """Gathers rows of `[rows · lead, ...]` by an index of any shape, to `[size of index · lead, ...]`."""
    picked = tf.gather(rows_first(value, lead), tf.reshape(index, [-1]))
    result = tf.reshape(picked, _with_tail(value))
    result.set_shape([None, *value.shape[1:]])
    return result


def path_differences(lead: int, end: Any, starts: Any, base: Any) -> Any:
    """Computes z − z′ of one tensor, `[G·B·lead, ...]`; the arguments are those of `path_points`."""
    start = tf.gather(widen(rows_first(starts, lead)), base)
    return tf.reshape(widen(rows_first(end, lead))[tf.newaxis] - start, _with_tail(end))


def expand(values: Any, rank: int) -> Any:
    """Appends axes of extent one to `[G, K, B]`, up to `rank`."""
    return tf.reshape(values, tf.concat([tf.shape(values), tf.ones([rank - 3], tf.int32)], 0))


def widen(value: Any) -> Any:
    """Converts half precision to float32, so that sums and differences are not rounded to three digits."""
    return tf.cast(value, tf.float32) if value.dtype in (tf.float16, tf.bfloat16) else value


def path_points(
    tensors: Sequence[tuple[Any, int]],
    ends: Sequence[Any],
    starts: Sequence[Any],
    base: Any,
    alphas: Any,
    shared: bool,
) -> list[Any]:
    """Computes points (1 − α)z′ + αz, `[G·K·B·lead, ...]` for each tensor of the frontier.

    If all rows share the positions α, a matrix product makes the points in one pass over memory.

    Args:
      tensors: Tensors of the frontier, each with its `lead`.
      ends: Values z of these tensors at the rows, `[B·lead, ...]`.
      starts: Values z′ of these tensors at the background rows, `[R·lead, ...]`.
      base: Background row of each group, `[G, B]` or `[G, 1]`.
      alphas: Positions on the path, `[G, K, B]` or `[G, K, 1]`.
      shared: Whether all rows share the positions, so that `alphas` is `[G, K, 1]`.
    """
    points = []
    for (tensor, lead), end, bases in zip(tensors, ends, starts, strict=True):
        tail = tf.shape(end)[1:]
        end, bases = widen(rows_first(end, lead)), widen(rows_first(bases, lead))
        start = tf.gather(bases, base)  # [G, B | 1, lead, ...]
        if shared:
            whole = tf.concat([tf.shape(base)[:1], tf.shape(end)], 0)
            two = [tf.reshape(tf.broadcast_to(v, whole), [whole[0], -1]) for v in (start, end)]
            a = tf.cast(alphas[:, :, 0], end.dtype)
            point = tf.matmul(tf.stack([1 - a, a], axis=2), tf.stack(two, axis=1))  # [G, K, B·…]
        else:
            a = tf.cast(expand(alphas, end.shape.rank + 2), end.dtype)
            point = start[:, tf.newaxis] + a * (end - start)[:, tf.newaxis]  # [G, K, B, lead, ...]
        flat = tf.cast(tf.reshape(point, tf.concat([[-1], tail], 0)), tensor.dtype)
        flat.set_shape([None, *tensor.shape[1:]])
        points.append(flat)
    return points


def stack_targets(per_target: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks the values of T targets, `[B, ...]` per target, to `[B, T, ...]` for each model input."""
    return (
        {k: tf.stack([sums[k] for sums in per_target], axis=1) for k in per_target[0]} if per_target else {}
    )


def join_targets(parts: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenates results for different targets, `[B, T', ...]` each, along T for each model input."""
    return {k: v[0] if len(v) == 1 else np.concatenate(v, axis=1) for k, v in parts.items()}


def target_gradients(
    scores: Any, targets: Any, points: Sequence[Any], weights: Any = None
) -> list[list[Any]]:
    """Gradients of Σ_rows weight · score[targets[:, t]]: per target t, a list with one gradient per point.

    Raises:
      UserError: The scores do not depend on one of the points.
    """
    gradients = []
    for t in range(targets.shape[1]):
        chosen = scores
        if scores.shape[1] > 1:
            chosen = tf.gather(scores, targets[:, t], axis=1, batch_dims=1)
        seed = None if weights is None else [tf.reshape(weights, tf.shape(chosen))]
        gradients_of = tf.gradients(chosen, list(points), grad_ys=seed)
        for point, gradient in zip(points, gradients_of, strict=True):
            if gradient is None:
                raise UserError(f"no gradient path leads from {point.name} to the score", "model")
        gradients.append([tf.convert_to_tensor(gradient) for gradient in gradients_of])
    return gradients


def sum_nodes(gradient: Any, groups: Any, nodes: Any, many: bool) -> Any:
    """Sums `[G·K·B·lead, ...]` over the nodes to `[G·B·lead, ...]`; `many` uses a matrix product."""
    by_node = widen(tf.reshape(gradient, [groups, nodes, -1]))
    # Each branch is the faster way to sum over the middle axis in its case.
    if many:
        summed = tf.matmul(tf.ones([groups, 1, nodes], by_node.dtype), by_node)
    else:
        summed = tf.reduce_sum(by_node, axis=1)
    return tf.reshape(summed, _with_tail(gradient))


def node_difference(gradient: Any, groups: Any) -> Any:
    """Subtracts the second of two nodes from the first: `[G·2·B·lead, ...]` → `[G·B·lead, ...]`."""
    by_node = widen(tf.reshape(gradient, [groups, 2, -1]))
    return tf.reshape(by_node[:, 0] - by_node[:, 1], _with_tail(gradient))


def sum_copies(value: Any, copies: Any) -> Any:
    """Sums `[copies · n, ...]` over the copies to `[n, ...]`."""
    summed = tf.reduce_sum(tf.reshape(value, [copies, -1]), axis=0)
    return tf.reshape(summed, _with_tail(value))


def _with_tail(value: Any) -> Any:
    return tf.concat([[-1], tf.shape(value)[1:]], 0)


def sum_positions(value: Any, places: np.ndarray, rows: Any, positions: int) -> Any:
    """Sums an entry's values per position of its input, to `[rows, positions]`.

    Args:
      value: Values of the entry, `[rows · lead, ...]`.
      places: Position from which each value comes, `[lead, ...]`. A value from NOWHERE is left out; a value
        from EVERYWHERE is shared equally by all positions.
      rows: Number of rows.
      positions: Number of the input's positions.
    """
    source = places.reshape(-1)
    flat = tf.reshape(value, [rows, source.size])
    if source.size % positions == 0:
        width = source.size // positions
        if np.array_equal(source, np.repeat(np.arange(positions), width)):
            return tf.reduce_sum(tf.reshape(flat, [rows, positions, width]), axis=-1) if width > 1 else flat
    shared = np.flatnonzero(source == EVERYWHERE)
    kept = np.flatnonzero((source != NOWHERE) & (source != EVERYWHERE))
    summed = tf.math.unsorted_segment_sum(tf.gather(tf.transpose(flat), kept), source[kept], positions)
    by_row = tf.transpose(summed)
    if shared.size:
        by_row += tf.reduce_sum(tf.gather(flat, shared, axis=1), axis=1, keepdims=True) / positions
    return by_row


def sum_inputs(
    places: Sequence[tuple[str, np.ndarray]],
    per_entry: Sequence[Any],
    shapes: Mapping[str, tuple[int, ...]],
    rows: Any,
) -> dict[str, Any]:
    """Sums the entries' values for each model input, to `[rows, *shape]` float32.

    Args:
      places: For each entry, the name of its input and its positions as in `sum_positions`.
      per_entry: Values of each entry.
      shapes: Shape of each model input; an input on which the score does not depend gets exactly 0.
      rows: Number of rows.
    """
    sums: dict[str, Any] = {}
    for (name, where), value in zip(places, per_entry, strict=True):
        positions = int(np.prod(shapes[name], dtype=np.int64))
        summed = sum_positions(tf.cast(value, tf.float32), where, rows, positions)
        summed = tf.reshape(summed, [rows, *shapes[name]])
        sums[name] = sums[name] + summed if name in sums else summed
    for name, shape in shapes.items():
        sums.setdefault(name, tf.zeros([rows, *shape], tf.float32))
    return sums


def in_calls(
    function: Callable[[dict[str, Any]], Sequence[Sequence[Any]]], inputs: Mapping[str, Any], size: int
) -> list[list[Any]]:
    """Calls a function on successive parts of the rows and concatenates the tensors that it returns.

    Args:
      function: Takes model inputs, `[B, *shape]`; returns lists of tensors, `[B · lead, ...]`.
      inputs: Model inputs of all rows.
      size: Maximum number of rows per call.
    """
    rows = len(next(iter(inputs.values())))
    calls = [
        [list(part) for part in function({name: v[first : first + size] for name, v in inputs.items()})]
        for first in range(0, rows, size)
    ]
    joined = calls[0]
    if len(calls) > 1:
        for number, part in enumerate(joined):
            for i in range(len(part)):
                part[i] = tf.concat([call[number][i] for call in calls], axis=0)
                for call in calls[1:]:
                    call[number][i] = None  # frees memory: only one tensor at a time exists twice
    return joined
