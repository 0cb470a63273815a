"""Compiled loops over the nodes of trees; they let go of Python's lock, so that threads share the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

#: LightGBM's: what is nearer to zero than this is one.
_ZERO = float(np.float32(1e-35))
#: Rows that are worked on together: what is kept of them for each node stays in the processor's cache.
BLOCK = 128


def compiled(function: Callable[..., Any]) -> Any:
    """The function as machine code, kept on disk between processes where there is a place to keep it."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
def goes_left(x: float, node: int, split: Any) -> Any:
    """Whether a value goes left at a node; `split` is `Forest.split_arrays`."""
    _, threshold, missing_left, zero_missing, members_left, words, categories = split
    if np.isnan(x):
        return missing_left[node]
    first, count = words[node], words[node + 1] - words[node]
    if count > 0:
        member = False
        # Fractions are cut off. Values below 0 are not categories; LightGBM, whose members go left, cuts −0.5
        # off before it asks that.
        if (x > -1 if members_left[node] else x >= 0) and x < 32 * count:
            at = np.int64(x)
            member = (categories[first + (at >> 5)] >> np.uint32(at & 31)) & np.uint32(1) != 0
        return member == members_left[node]
    if zero_missing[node] and -_ZERO <= x <= _ZERO:
        return missing_left[node]
    return x <= threshold[node]


@compiled
def block_goes_left(columns: Any, start: int, node: int, split: Any, goes: Any) -> None:
    """Writes into `goes`, `[block]` int32, which rows of a block go left at a node.

    Args:
      columns: Rows as columns, `[width, B]`.
      start: First row of the block.
      node: A split.
      split: `Forest.split_arrays`.
      goes: Takes 1 for left and 0 for right.
    """
    feature, threshold, missing_left, zero_missing, _, words, _ = split
    column = columns[feature[node], start : start + len(goes)]
    if words[node + 1] > words[node] or zero_missing[node]:
        for row in range(len(goes)):
            goes[row] = 1 if goes_left(column[row], node, split) else 0
        return
    limit = threshold[node]
    # NaN is neither above nor at most the threshold.
    if missing_left[node]:
        for row in range(len(goes)):
            goes[row] = 0 if column[row] > limit else 1
    else:
        for row in range(len(goes)):
            goes[row] = 1 if column[row] <= limit else 0


@compiled
def sum_leaves(
    rows: Any, roots: Any, output: Any, left: Any, right: Any, value: Any, split: Any, out: Any
) -> None:
    """Adds to `out`, `[B, T]`, the leaves that `rows`, `[B, width]`, fall into; the rest as in `Forest`."""
    feature = split[0]
    for tree in range(len(roots)):
        for row in range(len(rows)):
            node = roots[tree]
            while left[node] >= 0:
                node = left[node] if goes_left(rows[row, feature[node]], node, split) else right[node]
            for v in range(value.shape[1]):
                out[row, output[tree] + v] += value[node, v]


@compiled
def preorder(left: Any, right: Any, root: int, order: Any) -> None:
    """The nodes of a tree, each before its left subtree and that before its right one, into `order`."""
    stack = np.empty(len(order) + 1, np.int64)
    stack[0] = root
    waiting, at = 1, 0
    while waiting:
        waiting -= 1
        node = stack[waiting]
        order[at] = node
        at += 1
        if left[node] >= 0:
            stack[waiting] = right[node]
            stack[waiting + 1] = left[node]
            waiting += 2


@compiled
def find_paths(roots: Any, left: Any, right: Any, feature: Any, cover: Any, paths: Any) -> None:
    """See `Paths`: fills its arrays, of nodes that come in preorder."""
    parent, bit, earlier, depth, level, share = paths
    for node in range(len(left)):
        if left[node] < 0:
            continue
        above = node  # the last edge above that tests the same feature
        while parent[above] >= 0 and feature[parent[above]] != feature[node]:
            above = parent[above]
        seen = parent[above] >= 0
        for child in (left[node], right[node]):
            parent[child] = node
            level[child] = level[node] + 1
            earlier[child] = above if seen else -1
            bit[child] = bit[above] if seen else depth[node]
            depth[child] = depth[node] if seen else depth[node] + 1
            ratio = cover[child] / cover[node] if cover[node] > 0 else 0.0
            share[child] = (share[above] if seen else 1.0) * ratio
