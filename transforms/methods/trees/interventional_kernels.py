"""Compiled loops of interventional values; see `interventional` for the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np

from transforms.models.forest.kernels import BLOCK, block_goes_left, compiled, goes_left


@compiled
def count_splits(left: Any, right: Any, splits: Any) -> None:
    """Counts the splits of each node's subtree."""
    for node in range(len(left) - 1, -1, -1):
        if left[node] >= 0:
            splits[node] = 1 + splits[left[node]] + splits[right[node]]


@compiled
def find_conditions(rows: Any, left: Any, right: Any, earlier: Any, split: Any, passes: Any) -> None:
    """Finds background rows that pass all tests of an edge's feature so far, as bits, `[nodes, words]`."""
    feature = split[0]
    for node in range(len(left)):
        if left[node] < 0:
            continue
        for row in range(len(rows)):
            goes = goes_left(rows[row, feature[node]], node, split)
            child = left[node] if goes else right[node]
            passes[child, row >> 6] |= np.uint64(1) << np.uint64(row & 63)
        for child in (left[node], right[node]):
            if earlier[child] >= 0:
                passes[child] &= passes[earlier[child]]


@compiled
def find_edges(left: Any, parent: Any, bit: Any, start: Any, edges: Any) -> None:
    """Finds the last edge of each feature on the path to a leaf, by the feature's bit."""
    for leaf in range(len(left)):
        if left[leaf] >= 0:
            continue
        mine = edges[start[leaf] : start[leaf + 1]]
        mine[:] = -1
        node = leaf
        while parent[node] >= 0:
            if mine[bit[node]] < 0:
                mine[bit[node]] = node
            node = parent[node]


@compiled
def _leaf(pattern: Any, edges: Any, game: Any, share: Any) -> None:
    """Computes each path feature's share of a leaf of value 1, averaged over the background."""
    passes, every, gain, loss = game
    depth = len(edges)
    lost, failed = 0.0, 0
    share[:depth] = 0.0
    for k in range(depth):
        if not (pattern >> np.uint64(k)) & np.uint64(1):
            failed += 1
    for word in range(len(every)):
        alive = every[word]  # background rows that pass all tests that the row fails
        for k in range(depth):
            if not (pattern >> np.uint64(k)) & np.uint64(1):
                alive &= passes[edges[k], word]
        while alive:
            low = alive & (~alive + np.uint64(1))
            alive ^= low
            alone = 0  # features that the row passes and this background row does not
            for k in range(depth):
                if (pattern >> np.uint64(k)) & np.uint64(1) and not passes[edges[k], word] & low:
                    alone += 1
            lost += loss[alone, failed]
            if alone:
                won = gain[alone, failed]
                for k in range(depth):
                    if (pattern >> np.uint64(k)) & np.uint64(1) and not passes[edges[k], word] & low:
                        share[k] += won
    for k in range(depth):
        if not (pattern >> np.uint64(k)) & np.uint64(1):
            share[k] -= lost


@compiled
def _descend(pattern: Any, goes: Any, node: Any, tree: Any) -> None:
    """Computes the patterns of a node's children from its own pattern and the row's direction."""
    left, right, bit, earlier = tree[:4]
    for child in (left[node], right[node]):
        passed = goes == (child == left[node])
        one = np.uint64(1) << np.uint64(bit[child])
        if earlier[child] < 0:
            pattern[child] = pattern[node] | one if passed else pattern[node]
        else:
            pattern[child] = pattern[node] if passed else pattern[node] & ~one


@compiled
def tabulate(units: Any, tree: Any, leaves: Any, game: Any, table: Any) -> None:
    """Fills the tables of subtrees, each `[outputs, features, patterns]`."""
    _, roots, inner_start, inner, features_start, features, start, _, _ = units
    left, _, _, _, depth, _ = tree
    edges_start, edges, value, of_edge = leaves
    share = np.zeros(64)
    pattern = np.zeros(len(left), np.uint64)
    outputs = value.shape[1]
    for unit in range(len(roots)):
        root = roots[unit]
        splits = inner[inner_start[unit] : inner_start[unit + 1]]
        own = features[features_start[unit] : features_start[unit + 1]]
        first = depth[root]
        rows = 1 << (first + len(splits))
        cells = table[start[unit] : start[unit + 1]].reshape(outputs, len(own), rows)
        for leaf in range(root, root + 2 * len(splits) + 1):
            if left[leaf] >= 0:
                continue
            mine = edges[edges_start[leaf] : edges_start[leaf + 1]]
            column = np.zeros(len(mine), np.int64)
            for k in range(len(mine)):
                for j in range(len(own)):
                    if own[j] == of_edge[mine[k]]:
                        column[k] = j
            shares = np.zeros((1 << len(mine), len(mine)))
            for p in range(1 << len(mine)):
                _leaf(np.uint64(p), mine, game, share)
                shares[p] = share[: len(mine)]
            for row in range(rows):
                pattern[root] = np.uint64(row & ((1 << first) - 1))
                for i in range(len(splits)):
                    _descend(pattern, (row >> (first + i)) & 1 == 1, splits[i], tree)
                won = shares[np.int64(pattern[leaf])]
                for v in range(outputs):
                    for k in range(len(mine)):
                        cells[v, column[k], row] += value[leaf, v] * won[k]


@compiled
def look_up(
    columns: Any, trees: Any, tree_roots: Any, output: Any, place: Any, split: Any, units: Any, table: Any,
    tree: Any, outputs: Any, phi: Any,
) -> None:  # fmt: skip
    """Adds what tabled trees give to rows as columns, `[width, B]`, to φ, `[T, width, B]`."""
    unit_start, roots, inner_start, inner, features_start, features, start, upper_start, upper = units
    left, right, bit, earlier, depth, sizes = tree
    rows, most = columns.shape[1], 1
    for one in trees:
        most = max(most, sizes[one])
    goes = np.zeros(BLOCK, np.int32)
    index = np.zeros(BLOCK, np.int64)
    pattern = np.zeros((most, BLOCK), np.int64)
    for begin in range(0, rows, BLOCK):
        size = min(BLOCK, rows - begin)
        for one in trees:
            base = tree_roots[one]
            pattern[0] = 0
            for i in range(upper_start[one], upper_start[one + 1]):
                node = upper[i]
                block_goes_left(columns, begin, node, split, goes[:size])
                mine, to_left, to_right = (
                    pattern[node - base],
                    pattern[left[node] - base],
                    pattern[right[node] - base],
                )
                shift = bit[left[node]]
                if earlier[left[node]] < 0:
                    for row in range(size):
                        to_left[row] = mine[row] | (goes[row] << shift)
                        to_right[row] = mine[row] | ((1 - goes[row]) << shift)
                else:
                    for row in range(size):
                        to_left[row] = mine[row] & ~((1 - goes[row]) << shift)
                        to_right[row] = mine[row] & ~(goes[row] << shift)
            for unit in range(unit_start[one], unit_start[one + 1]):
                root = roots[unit]
                index[:] = pattern[root - base]
                for i in range(inner_start[unit], inner_start[unit + 1]):
                    block_goes_left(columns, begin, inner[i], split, goes[:size])
                    shift = depth[root] + i - inner_start[unit]
                    for row in range(size):
                        index[row] |= goes[row] << shift
                count = features_start[unit + 1] - features_start[unit]
                patterns = (start[unit + 1] - start[unit]) // max(1, outputs * count)
                for v in range(outputs):
                    to = place[output[one] + v]
                    if to < 0:
                        continue
                    for j in range(count):
                        column = phi[to, features[features_start[unit] + j], begin : begin + size]
                        at = start[unit] + (v * count + j) * patterns
                        cells = table[at : at + patterns]
                        for row in range(size):
                            column[row] += cells[index[row]]


@compiled
def walk(
    columns: Any, trees: Any, tree_roots: Any, output: Any, place: Any, split: Any, tree: Any, route: Any,
    leaves: Any, game: Any, rows: int, phi: Any,
) -> None:  # fmt: skip
    """Adds the values of trees without tables to φ, walking each with the background rows still possible.

    A holds the features whose tests only the row passes, B those whose tests only the background row passes.
    On the way down |A| is counted for each background row. On the way back the leaves' shares of a member of
    A (`won`) and of B (`lost`) are summed, and an edge adds them to its feature's φ if it was the edge that
    made the feature a member.

    Args:
      columns: Rows as columns, `[width, B]`.
      trees: Numbers of the trees to walk.
      tree_roots: First node of each tree, `[trees]`.
      output: First output of each tree, `[trees]`.
      place: Place in φ of each output, −1 where it is not asked for, `[outputs]`.
      split: `Forest.split_arrays`.
      tree: Left and right child, bit, earlier edge and depth of each node; nodes of each tree.
      route: Parent, earlier edge and level of each node, and the splits of its subtree.
      leaves: `of_edge` is the feature of an edge; `value` the leaves' values, `[nodes, V]`.
      game: `passes`: background rows that pass an edge's tests, as bits, `[nodes, words]`; `gain` and `loss`:
        share of a member of A and of B, by |A| and the features that the row fails.
      rows: Background rows R.
      phi: Takes the sums, `[T, width, B]`.
    """
    left, _, _, _, _, sizes = tree
    parent, earlier, levels, splits = route
    _, _, value, of_edge = leaves
    passes, _, gain, loss = game
    feature, outputs = split[0], value.shape[1]
    deepest = 1
    for node in range(len(levels)):
        deepest = max(deepest, levels[node])
    # By level of the walk, `[levels]`: the edge that is open there, whether the row goes left and what it
    # passed; and of the background rows still possible there, `[levels, R]`: their numbers (`who`), their
    # places one level `above`, |A| (`alone`), and whether this edge made its feature a member (`newly`).
    edge = np.zeros(deepest + 1, np.int64)
    goes, passed = np.zeros(deepest + 1, np.bool_), np.zeros(deepest + 1, np.bool_)
    first_failed = np.zeros(deepest + 1, np.bool_)
    failed, count = np.zeros(deepest + 1, np.int64), np.zeros(deepest + 1, np.int64)
    who, above = np.zeros((deepest + 1, rows), np.int32), np.zeros((deepest + 1, rows), np.int32)
    alone = np.zeros((deepest + 1, rows), np.int32)
    newly = np.zeros((deepest + 1, rows), np.bool_)
    won, lost = np.zeros((deepest + 1, outputs, rows)), np.zeros((deepest + 1, outputs, rows))
    count[0] = rows
    for i in range(rows):
        who[0, i] = i
    for one in trees:
        end = tree_roots[one] + sizes[one]
        for row in range(columns.shape[1]):
            node, current = tree_roots[one], 0
            while True:
                level = levels[node] if node < end else 0
                while current >= max(level, 1):  # close the edges that the walk has left
                    done = edge[current]
                    for v in range(outputs):
                        total = 0.0
                        for i in range(count[current]):
                            up, down = won[current, v, i], lost[current, v, i]
                            if newly[current, i]:
                                total += up
                            if first_failed[current]:
                                total -= down
                            won[current - 1, v, above[current, i]] += up
                            lost[current - 1, v, above[current, i]] += down
                        to = place[output[one] + v]
                        if to >= 0:
                            phi[to, of_edge[done], row] += total
                    current -= 1
                if node == end:
                    break
                if level:
                    up, old = level - 1, earlier[node]
                    before = passed[levels[old]] if old >= 0 else True
                    passed[level] = before and goes[up] == (node == left[parent[node]])
                    first_failed[level] = before and not passed[level]
                    failed[level] = failed[up] + (1 if first_failed[level] else 0)
                    # A background row that fails where the row fails reaches no leaf below: it is dropped.
                    kept = 0
                    for i in range(count[up]):
                        other = who[up, i]
                        word, at = other >> 6, np.uint64(other & 63)
                        comes = (passes[node, word] >> at) & np.uint64(1) != 0
                        if not comes and not passed[level]:
                            continue
                        new = not comes and (old < 0 or (passes[old, word] >> at) & np.uint64(1) != 0)
                        who[level, kept], above[level, kept] = other, i
                        newly[level, kept] = new
                        alone[level, kept] = alone[up, i] + (1 if new else 0)
                        kept += 1
                    count[level] = kept
                    if not kept:
                        node += 2 * splits[node] + 1
                        continue
                    edge[level] = node
                current = level
                if left[node] >= 0:
                    goes[level] = goes_left(columns[feature[node], row], node, split)
                    for v in range(outputs):
                        won[level, v, : count[level]] = 0.0
                        lost[level, v, : count[level]] = 0.0
                else:
                    for v in range(outputs):
                        for i in range(count[level]):
                            won[level, v, i] = value[node, v] * gain[alone[level, i], failed[level]]
                            lost[level, v, i] = value[node, v] * loss[alone[level, i], failed[level]]
                node += 1
