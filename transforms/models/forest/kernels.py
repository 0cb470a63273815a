"""Compiled loops over the nodes of trees; they release Python's lock, so that threads can run in parallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

#: LightGBM's tolerance: values up to this magnitude count as zero.
_ZERO = float(np.float32(1e-35))
#: Number of rows that are processed together, so that their state at each node stays in the CPU's cache.
BLOCK = 128


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function to machine code, which is cached on disk if a cache folder is writable."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return numba.njit(nogil=True, error_model="numpy")(function)


@compiled
def goes_left(x: float, node: int, split: Any) -> Any:
    """True if a row with the value `x` goes left at a node; `split` is `Forest.split_arrays`."""
    _, threshold, missing_left, zero_missing, members_left, words, categories = split
    if np.isnan(x):
        return missing_left[node]
    first, count = words[node], words[node + 1] - words[node]
    if count > 0:
        member = False
        # Fractions are truncated, and negative numbers are not categories. LightGBM (the library with
        # members_left) truncates before it tests the sign, so that −0.5 becomes category 0.
        if (x > -1 if members_left[node] else x >= 0) and x < 32 * count:
            category = np.int64(x)
            word = categories[first + (category >> 5)]
            member = (word >> np.uint32(category & 31)) & np.uint32(1) != 0
        return member == members_left[node]
    if zero_missing[node] and -_ZERO <= x <= _ZERO:
        return missing_left[node]
    return x <= threshold[node]


@compiled
def block_goes_left(columns: Any, start: int, node: int, split: Any, goes: Any) -> None:
    """Writes into `goes`, `[block]` int32, which rows of a block go left at a node.

    Args:
      columns: All rows, stored by feature, `[width, B]`.
      start: First row of the block.
      node: A node that is not a leaf.
      split: `Forest.split_arrays`.
      goes: Receives 1 for left and 0 for right.
    """
    feature, threshold, missing_left, zero_missing, _, words, _ = split
    column = columns[feature[node], start : start + len(goes)]
    if words[node + 1] > words[node] or zero_missing[node]:
        for row in range(len(goes)):
            goes[row] = 1 if goes_left(column[row], node, split) else 0
        return
    limit = threshold[node]
    # NaN fails both comparisons: with `> limit` it goes left, with `<= limit` it goes right.
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
    """Adds to `out`, `[B, T]`, the values of the leaves that `rows`, `[B, width]`, reach.

    The other arrays are those of `Forest`.
    """
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
    """Writes the numbers of a tree's nodes into `order`, in preorder: node, left subtree, right subtree."""
    stack = np.empty(len(order) + 1, np.int64)
    stack[0] = root
    waiting, position = 1, 0
    while waiting:
        waiting -= 1
        node = stack[waiting]
        order[position] = node
        position += 1
        if left[node] >= 0:
            stack[waiting] = right[node]
            stack[waiting + 1] = left[node]
            waiting += 2


@compiled
def find_paths(roots: Any, left: Any, right: Any, feature: Any, cover: Any, paths: Any) -> None:
    """Fills the arrays of `Paths`; the nodes must be in preorder."""
    parent, bit, earlier, depth, level, share = paths
    for node in range(len(left)):
        if left[node] < 0:
            continue
        # Climb to the nearest node (or this one) reached by an edge on the same feature, or to the root.
        above = node
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
