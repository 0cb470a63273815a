"""Interventional Shapley values of trees against a background, exactly and for many rows at a time.

A coalition reaches a leaf if every feature on the path passes its tests, with the row's value for members and
the background row's value for the others. Let A be the path's features whose tests only the row passes, and B
those whose tests only the background row passes. If each feature is passed by at least one of the two, the
leaf's game is v(S) = value · [A ⊆ S][B ∩ S = ∅], whose Shapley values have a closed form: a member of A gets
value · (|A|−1)! |B|! / (|A|+|B|)!, and a member of B gets −value · |A|! (|B|−1)! / (|A|+|B|)!.

The values that a leaf gives to a row depend only on which of the path's features the row passes: a few bits,
its pattern. For subtrees of few bits the mean over the background is tabulated once, and explaining a row is
a look-up. Deeper trees are walked for each row, with the background rows that are still possible as bits.

References: Laberge & Pequignot 2022, https://arxiv.org/abs/2209.15123 (the closed form);
Nadel & Wettenstein 2025, https://arxiv.org/abs/2511.09376 (tables over the patterns of a path).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import factorial
from typing import Any

import numpy as np

from transforms.methods.trees import interventional_kernels as kernels
from transforms.models.forest.arrays import MOST_ON_A_PATH, Forest

#: Most bits that index a subtree's table: the features tested above it, and the splits within it.
TABLE_BITS = 8
#: Most numbers that all tables hold together; further trees are walked.
TABLE_CELLS = 1 << 25


@dataclass(frozen=True)
class Interventional:
    """A forest with a background, whose tables are computed once.

    Args:
      forest: The trees.
      background: Background rows, `[R, width]`.
      table_bits: See TABLE_BITS; 0 walks every tree.
    Cost: 2^bits · R per leaf for the tables; memory up to TABLE_CELLS numbers.
    """

    forest: Forest
    background: np.ndarray
    table_bits: int = TABLE_BITS

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.r_[self.forest.roots[1:], len(self.forest.left)]

    @cached_property
    def _tree(self) -> tuple[np.ndarray, ...]:
        forest, paths = self.forest, self.forest.paths
        sizes = np.diff(np.r_[0, self._ends])
        return forest.left, forest.right, paths.bit, paths.earlier, paths.depth, sizes

    @cached_property
    def _route(self) -> tuple[np.ndarray, ...]:
        paths = self.forest.paths
        return paths.parent, paths.earlier, paths.level, count_splits(self.forest)

    @cached_property
    def _leaves(self) -> tuple[np.ndarray, ...]:
        """The last edge of each feature on the path to each leaf, the leaves' values, the edges' features."""
        forest, paths = self.forest, self.forest.paths
        start = np.r_[0, np.cumsum(np.where(forest.left < 0, paths.depth, 0))].astype(np.int64)
        edges = np.zeros(int(start[-1]) + 1, np.int32)
        kernels.find_edges(forest.left, paths.parent, paths.bit, start, edges)
        return start, edges, forest.value, forest.feature[paths.parent]

    @cached_property
    def _game(self) -> tuple[np.ndarray, ...]:
        """The background rows that pass each edge's tests, as bits, and the shares of A and B."""
        forest, rows = self.forest, np.ascontiguousarray(self.background, np.float64)
        passes = np.zeros((len(forest.left), -(-len(rows) // 64)), np.uint64)
        split = forest.split_arrays
        kernels.find_conditions(rows, forest.left, forest.right, forest.paths.earlier, split, passes)
        return passes, _every(len(rows)), *_weights(len(rows))

    @cached_property
    def units(self) -> Units:
        """Subtrees that have a table."""
        return Units.of(self.forest, self._ends, self.table_bits)

    @cached_property
    def table(self) -> np.ndarray:
        """The tables of all units, one after another: φ by pattern, mean over the background."""
        table = np.zeros(int(self.units.start[-1]) + 1)
        kernels.tabulate(self.units.arrays, self._tree, self._leaves, self._game, table)
        return table

    def values(self, rows: np.ndarray, place: np.ndarray, outputs: int) -> np.ndarray:
        """Computes φ of some outputs.

        Args:
          rows: Rows to explain, `[B, width]`.
          place: Place of each of the forest's outputs in the result, `[T]`; -1 leaves it out.
          outputs: Number of outputs in the result.
        Returns:
          `[B, outputs, width]` float64.
        """
        forest, units = self.forest, self.units
        columns = np.ascontiguousarray(rows.T, np.float64)
        phi = np.zeros((outputs, forest.width, len(rows)))
        wanted = np.flatnonzero((place[forest.output] >= 0) | (forest.value.shape[1] > 1)).astype(np.int32)
        tabled = units.tabled[wanted]
        every = (forest.roots, forest.output, place, forest.split_arrays)
        if tabled.any():
            kernels.look_up(
                columns,
                wanted[tabled],
                *every,
                units.arrays,
                self.table,
                self._tree,
                forest.value.shape[1],
                phi,
            )
        if not tabled.all():
            kernels.walk(
                columns,
                wanted[~tabled],
                *every,
                self._tree,
                self._route,
                self._leaves,
                self._game,
                len(self.background),
                phi,
            )
        return np.ascontiguousarray(phi.transpose(2, 0, 1))


def count_splits(forest: Forest) -> np.ndarray:
    """The number of splits in each node's subtree, `[nodes]`; its subtree is 2 · splits + 1 nodes."""
    splits = np.zeros(len(forest.left), np.int64)
    kernels.count_splits(forest.left, forest.right, splits)
    return splits


def _every(rows: int) -> np.ndarray:
    """The set of all background rows, as bits, `[words]` uint64."""
    words = np.full(-(-rows // 64), ~np.uint64(0), np.uint64)
    if rows % 64:
        words[-1] = np.uint64((1 << (rows % 64)) - 1)
    return words


def _weights(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of a member of A and of B, by |A| and |B|, divided by the number of background rows."""
    most = MOST_ON_A_PATH + 1
    gain, loss = np.zeros((most, most)), np.zeros((most, most))
    for a in range(most):
        for b in range(most - a):
            if a:
                gain[a, b] = factorial(a - 1) * factorial(b) / factorial(a + b) / rows
            if b:
                loss[a, b] = factorial(a) * factorial(b - 1) / factorial(a + b) / rows
    return gain, loss


@dataclass(frozen=True)
class Units:
    """Subtrees with a table, tree after tree, and the nodes above them.

    Args:
      tabled: Whether a tree has tables, `[trees]` bool.
      tree_start: First unit of each tree.
      root: Root of each unit.
      inner_start: First of each unit's splits.
      inner: The splits.
      features_start: First of each unit's features.
      features: Features for which a unit has values.
      start: First number of each unit's table.
      upper_start: First of each tree's splits above its units.
      upper: The splits above units.
    """

    tabled: np.ndarray
    tree_start: np.ndarray
    root: np.ndarray
    inner_start: np.ndarray
    inner: np.ndarray
    features_start: np.ndarray
    features: np.ndarray
    start: np.ndarray
    upper_start: np.ndarray
    upper: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All arrays but `tabled`, in the order in which the kernels unpack them."""
        return (
            self.tree_start, self.root, self.inner_start, self.inner, self.features_start, self.features,
            self.start, self.upper_start, self.upper,
        )  # fmt: skip

    @classmethod
    def of(cls, forest: Forest, ends: np.ndarray, bits: int) -> Units:
        """Cuts trees into the largest subtrees whose table needs at most `bits` bits."""
        left, paths = forest.left, forest.paths
        splits = count_splits(forest)
        needs = paths.depth + splits
        tree_of = np.repeat(np.arange(len(ends)), np.diff(np.r_[0, ends]))
        tabled = np.full(len(ends), bits > 0)
        tabled[tree_of[(left < 0) & (needs > bits)]] = False
        roots: list[int] = []
        inner: list[np.ndarray] = []
        features: list[list[int]] = []
        sizes: list[int] = []
        cells = 0
        for root in np.flatnonzero((needs <= bits) & ((paths.parent < 0) | (needs[paths.parent] > bits))):
            if not tabled[tree_of[root]]:
                continue
            below = np.arange(root, root + 2 * splits[root] + 1)
            mine = below[left[below] >= 0]
            own = list(dict.fromkeys([*_features_above(forest, int(root)), *forest.feature[mine].tolist()]))
            size = (1 << int(needs[root])) * len(own) * forest.value.shape[1]
            cells += size
            if cells > TABLE_CELLS:  # this tree and all that follow are walked
                tabled[tree_of[root] :] = False
                while roots and roots[-1] >= forest.roots[tree_of[root]]:
                    del roots[-1], inner[-1], features[-1], sizes[-1]
                break
            roots.append(int(root))
            inner.append(mine)
            features.append(own)
            sizes.append(size)
        above = (left >= 0) & tabled[tree_of]
        for mine in inner:
            above[mine] = False
        upper = np.flatnonzero(above)
        firsts = np.r_[forest.roots, len(left)]
        return cls(
            tabled,
            _places(roots, firsts),
            np.array(roots, np.int32),
            _starts(inner),
            np.concatenate([*inner, np.zeros(0, np.int64)]).astype(np.int32),
            _starts(features),
            np.array([name for own in features for name in own], np.int32),
            np.r_[0, np.cumsum(sizes)].astype(np.int64),
            _places(upper, firsts),
            upper.astype(np.int32),
        )


def _starts(lists: list[Any]) -> np.ndarray:
    return np.r_[0, np.cumsum([len(items) for items in lists])].astype(np.int64)


def _places(numbers: Any, firsts: np.ndarray) -> np.ndarray:
    """The start of each tree's part in ascending node numbers."""
    places: np.ndarray = np.searchsorted(np.asarray(numbers, np.int64), firsts)
    return places


def _features_above(forest: Forest, node: int) -> list[int]:
    """The distinct features on the path to a node, in the order of their bits."""
    paths, above = forest.paths, {}
    while paths.parent[node] >= 0:
        above[int(paths.bit[node])] = int(forest.feature[paths.parent[node]])
        node = int(paths.parent[node])
    return [above[bit] for bit in sorted(above)]
