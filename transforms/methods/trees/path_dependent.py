"""Path-dependent Shapley values of trees: at a missing feature a row goes both ways, like training rows.

A leaf's game is the product over the path's features of p_j for members and z_j for the others, where p_j is
1 if the row passes the feature's tests, else 0, and z_j is the share of training rows that pass them. By its
multilinear extension, φ_j = value · ∫₀¹ (p_j − z_j) Π_{k≠j} f_k(t) dt with f_k(t) = z_k + (p_k − z_k) t. This
is a polynomial of t, for which Gauss–Legendre quadrature with half as many nodes as the path has features is
exact. The products are computed at the quadrature nodes on the way down and summed over leaves on the way up,
so that a row costs O(splits · quadrature nodes).

References: Lundberg et al. 2020, https://doi.org/10.1038/s42256-019-0138-9 (the values);
Yu et al. 2022, https://arxiv.org/abs/2209.08192 (polynomials at fixed points, linear in the splits);
2026, https://arxiv.org/abs/2605.04497 (quadrature).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transforms.models.forest.arrays import Forest
from transforms.models.forest.kernels import BLOCK, block_goes_left, compiled


@dataclass(frozen=True)
class PathDependent:
    """A forest with its own covers as the reference.

    Args:
      forest: The trees.
    """

    forest: Forest

    @cached_property
    def expected(self) -> np.ndarray:
        """The mean of the trees' sum over their training rows, `[T]` float64."""
        forest = self.forest
        reach = np.ones(len(forest.left))
        _reach(forest.left, forest.right, forest.cover, reach)
        expected = np.zeros(forest.outputs)
        output = np.repeat(forest.output, np.diff(np.r_[forest.roots, len(forest.left)]))
        leaves = forest.left < 0
        for v in range(forest.value.shape[1]):
            np.add.at(expected, output[leaves] + v, (reach * forest.value[:, v])[leaves])
        return expected

    @cached_property
    def _terms(self) -> tuple[np.ndarray, np.ndarray]:
        """The factor of each edge in the product, and its weight in its feature's sum over the leaves below.

        Both are `[nodes, 2, K]`: for a row that fails the feature's tests and one that passes them, at each
        of the K quadrature nodes.
        """
        share = self.forest.paths.share[:, None, None]
        points, weights = np.polynomial.legendre.leggauss(max(1, -(-int(self.forest.paths.depth.max()) // 2)))
        times, passed = (points + 1) / 2, np.array([0.0, 1.0])[:, None]
        factor = share + (passed - share) * times
        # If no training row came this way, a row that fails has factor 0, and gets nothing from below: 0/0.
        gain = np.divide(
            weights / 2 * (passed - share), factor, out=np.zeros(factor.shape), where=factor != 0
        )
        return factor, gain

    def values(self, rows: np.ndarray, place: np.ndarray, outputs: int) -> np.ndarray:
        """φ of some outputs; see `Interventional.values`."""
        forest = self.forest
        columns = np.ascontiguousarray(rows.T, np.float64)
        phi = np.zeros((outputs, forest.width, len(rows)))
        factor, gain = self._terms
        paths = forest.paths
        ends = np.r_[forest.roots, len(forest.left)].astype(np.int64)
        place = np.r_[place, np.full(forest.value.shape[1], -1)]
        _values(columns, ends, forest.output, place, forest.left, forest.value, forest.split_arrays,
                paths.parent, paths.earlier, paths.level, factor, gain, phi)  # fmt: skip
        return np.ascontiguousarray(phi.transpose(2, 0, 1))


@compiled
def _reach(left: Any, right: Any, cover: Any, reach: Any) -> None:
    """Computes the share of the training rows that reach each node."""
    for node in range(len(left)):
        if left[node] >= 0:
            for child in (left[node], right[node]):
                reach[child] = reach[node] * cover[child] / cover[node] if cover[node] > 0 else 0.0


@compiled
def _down(
    product: Any, passes: Any, goes: Any, node: Any, is_left: Any, level: Any, before: Any, factor: Any
) -> None:
    """Computes an edge's `product`, `[K, block]`, and `passes`, `[block]`, from those of the edge above.

    `before` is the level and node of the nearest edge above on the same feature, −1 if there is none: its
    factor is replaced in the product.
    """
    size, count = len(goes[0]), factor.shape[2]
    above = level - 1
    for row in range(size):
        passed = goes[above, row] if is_left else 1 - goes[above, row]
        passes[level, row] = passed if before[0] < 0 else passed * passes[before[0], row]
    for i in range(count):
        fail, win = factor[node, 0, i], factor[node, 1, i]
        if before[0] < 0:
            for row in range(size):
                product[level, i, row] = product[above, i, row] * (win if passes[level, row] else fail)
        else:
            old_fail, old_win = factor[before[1], 0, i], factor[before[1], 1, i]
            both, lost = win / old_win, fail / old_win
            neither = fail / old_fail if old_fail != 0.0 else 0.0
            for row in range(size):
                ratio = both if passes[level, row] else (lost if passes[before[0], row] else neither)
                product[level, i, row] = product[above, i, row] * ratio


@compiled
def _up(
    sums: Any, passes: Any, node: Any, level: Any, before: Any, gain: Any, feature: Any, output: Any,
    place: Any, phi: Any, start: Any,
) -> None:  # fmt: skip
    """Adds an edge's sums over the leaves below to its feature's φ, and to the sums of the edge above."""
    outputs, count, size = sums.shape[1], sums.shape[2], sums.shape[3]
    for v in range(outputs):
        to = place[output + v]
        if to < 0:
            continue
        column = phi[to, feature, start : start + size]
        for i in range(count):
            fail, win = gain[node, 0, i], gain[node, 1, i]
            mine, above = sums[level, v, i], sums[level - 1, v, i]
            if before[0] < 0:
                for row in range(size):
                    column[row] += mine[row] * (win if passes[level, row] else fail)
                    above[row] += mine[row]
            else:
                old_fail, old_win = gain[before[1], 0, i], gain[before[1], 1, i]
                for row in range(size):
                    old = old_win if passes[before[0], row] else old_fail
                    column[row] += mine[row] * ((win if passes[level, row] else fail) - old)
                    above[row] += mine[row]


@compiled
def _values(
    columns: Any, ends: Any, output: Any, place: Any, left: Any, value: Any, split: Any, parent: Any,
    earlier: Any, levels: Any, factor: Any, gain: Any, phi: Any,
) -> None:  # fmt: skip
    """Adds the values of all trees to φ, block by block of the rows, in one walk down and up each tree.

    Args:
      columns: Rows as columns, `[width, B]`.
      ends: First node of each tree, and the end of the last, `[trees + 1]`.
      output: First output of each tree, `[trees]`.
      place: Place in φ of each output, −1 where it is not asked for.
      left: Left child, `[nodes]`; −1 at a leaf.
      value: Values of the leaves, `[nodes, V]`.
      split: `Forest.split_arrays`.
      parent: Parent of each node, `[nodes]`.
      earlier: The last edge above on the same feature, −1 for none, `[nodes]`.
      levels: Edges above each node, `[nodes]`.
      factor: See `PathDependent._terms`, `[nodes, 2, K]`.
      gain: See `PathDependent._terms`, `[nodes, 2, K]`.
      phi: Takes the values, `[T, width, B]`.
    """
    outputs, count, rows, feature = value.shape[1], factor.shape[2], columns.shape[1], split[0]
    deepest = 1
    for node in range(len(levels)):
        deepest = max(deepest, levels[node])
    for start in range(0, rows, BLOCK):
        size = min(BLOCK, rows - start)
        # By level of the walk: Π_k f_k at the K quadrature nodes, the sums of value · product over the leaves
        # below, whether the row passes the tests of the edge's feature so far, and whether it goes left.
        product = np.ones((deepest + 1, count, size))
        sums = np.zeros((deepest + 1, outputs, count, size))
        passes = np.ones((deepest + 1, size), np.int32)
        goes = np.zeros((deepest + 1, size), np.int32)
        open_at = np.zeros(deepest + 1, np.int64)
        for tree in range(len(ends) - 1):
            wanted = False
            for v in range(outputs):
                wanted |= place[output[tree] + v] >= 0
            if not wanted:
                continue
            current = 0
            # One more turn than there are nodes, to close the edges that are still open.
            for node in range(ends[tree], ends[tree + 1] + 1):
                level = levels[node] if node < ends[tree + 1] else 0
                while current >= max(level, 1):
                    edge = open_at[current]
                    old = earlier[edge]
                    before = (levels[old] if old >= 0 else -1, old)
                    _up(
                        sums,
                        passes,
                        edge,
                        current,
                        before,
                        gain,
                        feature[parent[edge]],
                        output[tree],
                        place,
                        phi,
                        start,
                    )
                    current -= 1
                if node == ends[tree + 1]:
                    break
                if level:
                    old = earlier[node]
                    before = (levels[old] if old >= 0 else -1, old)
                    _down(product, passes, goes, node, node == left[parent[node]], level, before, factor)
                if left[node] >= 0:
                    block_goes_left(columns, start, node, split, goes[level])
                    sums[level] = 0.0
                else:
                    for v in range(outputs):
                        for i in range(count):
                            for row in range(size):
                                sums[level, v, i, row] = value[node, v] * product[level, i, row]
                open_at[level] = node
                current = level
