"""Decision trees of any library as arrays: splits, leaves, training rows per node, and paths to the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from transforms.errors import UserError

#: Maximum number of features that a path may split on: an int64 holds a row's decisions, one bit per feature.
MOST_ON_A_PATH = 63


@dataclass(frozen=True)
class Forest:
    """Trees; the score is a constant plus the sum of the leaves that a row reaches.

    Nodes are numbered across all trees in preorder: each node, then its left subtree, then the right one.

    At a split by threshold, a row goes left if its value is at most the threshold. At a split between
    categories, the direction depends on whether the node's set of categories contains the row's value.

    Args:
      roots: First node of each tree, `[trees]` int32, ascending.
      output: The output to which a tree adds, `[trees]` int32; 0 if its leaves hold a value for each output.
      left: Left child of each node, `[nodes]` int32; -1 at a leaf.
      right: Right child of each node, `[nodes]` int32; -1 at a leaf.
      feature: The feature on which the node splits, `[nodes]` int32.
      threshold: Threshold of each node, `[nodes]` float64; unused at a split between categories.
      missing_left: Whether NaN goes left, `[nodes]` bool.
      zero_missing: Whether zero goes where NaN goes, `[nodes]` bool.
      members_left: Whether values in the node's set of categories go left and other values go right,
        `[nodes]` bool; if false, values in the set go right and other values go left.
      words: Where the node's set begins in `categories`, `[nodes + 1]` int64; each set ends where the next
        one begins, and a split by threshold has an empty set.
      categories: The sets of categories of all nodes, as bits, `[words]` uint32.
      value: Values of the leaves, `[nodes, V]` float64; V is 1, or T if leaves hold a value for each output.
      cover: Number of training rows (or the sum of their weights) that reached the node, `[nodes]` float64.
      width: Number of features.
      outputs: Number of outputs, T.
    """

    roots: np.ndarray
    output: np.ndarray
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    zero_missing: np.ndarray
    members_left: np.ndarray
    words: np.ndarray
    categories: np.ndarray
    value: np.ndarray
    cover: np.ndarray
    width: int
    outputs: int

    @cached_property
    def paths(self) -> Paths:
        """The path to each node."""
        return Paths.of(self)

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """For each of `rows`, `[B, width]`, the sum of the leaves that it reaches, `[B, T]` float64."""
        from transforms.models.forest.kernels import sum_leaves

        sums = np.zeros((len(rows), self.outputs))
        rows = np.ascontiguousarray(rows, np.float64)
        sum_leaves(rows, self.roots, self.output, self.left, self.right, self.value, self.split_arrays, sums)
        return sums

    @property
    def split_arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays that decide whether a row goes left, in the order in which the kernels unpack them."""
        return (
            self.feature,
            self.threshold,
            self.missing_left,
            self.zero_missing,
            self.members_left,
            self.words,
            self.categories,
        )


@dataclass(frozen=True)
class Paths:
    """The path from the root to each node, as arrays `[nodes]`.

    Below, "the edge" is the last edge of the path. It tests the feature on which the node's parent splits.
    Several splits on one feature along a path count as one condition on that feature.

    Args:
      parent: The parent of the node; -1 at a root.
      bit: Position of the edge's feature among the path's distinct features; -1 at a root.
      earlier: The nearest ancestor reached by an edge that tests the same feature; -1 if there is none.
      depth: Number of distinct features on the path.
      level: Number of edges on the path.
      share: Share of training rows that pass all tests of the edge's feature on the path: the product, over
        these tests, of the share of the parent's rows that reached the child.
    """

    parent: np.ndarray
    bit: np.ndarray
    earlier: np.ndarray
    depth: np.ndarray
    level: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, forest: Forest) -> Paths:
        """Computes the paths of a forest.

        Raises:
          UserError: A path splits on too many features.
        """
        from transforms.models.forest.kernels import find_paths

        nodes = len(forest.left)
        parent, bit, earlier, depth, level = (np.full(nodes, fill, np.int32) for fill in (-1, -1, -1, 0, 0))
        arrays = parent, bit, earlier, depth, level, np.ones(nodes)
        find_paths(forest.roots, forest.left, forest.right, forest.feature, forest.cover, arrays)
        paths = cls(*arrays)
        if paths.depth.max() > MOST_ON_A_PATH:
            raise UserError(
                f"a tree splits on {paths.depth.max()} features on a path; the limit is {MOST_ON_A_PATH}",
                "method",
                "use permutation_shap or kernel_shap",
            )
        return paths


@dataclass(frozen=True)
class Tree:
    """One tree, its nodes numbered from 0; see `Forest`."""

    output: int
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    cover: np.ndarray
    zero_missing: np.ndarray | None = None
    members_left: np.ndarray | None = None
    categories: Sequence[np.ndarray] | None = None

    @classmethod
    def leaf(cls, output: int, value: np.ndarray, cover: float) -> Tree:
        """A tree of a single leaf."""
        none, never = np.full(1, -1), np.zeros(1, bool)
        return cls(output, none, none, none, np.zeros(1), never, value.reshape(1, -1), np.array([cover]))


def plant(trees: Sequence[Tree], width: int, outputs: int) -> Forest:
    """Joins trees into a forest, and numbers their nodes consecutively.

    Args:
      trees: At least one tree.
      width: Number of features.
      outputs: Number of outputs, T.
    """
    trees = [_in_order(tree) for tree in trees]
    sizes = np.array([len(tree.left) for tree in trees])
    roots = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.int32)
    joined: dict[str, np.ndarray] = {}
    for field in fields(Tree):
        if field.name in ("output", "categories"):
            continue
        parts = [getattr(tree, field.name) for tree in trees]
        parts = [np.zeros(n, bool) if part is None else part for part, n in zip(parts, sizes, strict=True)]
        joined[field.name] = np.ascontiguousarray(np.concatenate(parts))
    offset = np.repeat(roots, sizes)
    for side in ("left", "right"):
        joined[side] = np.where(joined[side] >= 0, joined[side] + offset, -1).astype(np.int32)
    sets = [
        words
        for tree in trees
        for words in (tree.categories if tree.categories is not None else [_NO_WORDS] * len(tree.left))
    ]
    lengths = np.array([len(words) for words in sets], np.int64)
    return Forest(
        roots=roots,
        output=np.array([tree.output for tree in trees], np.int32),
        left=joined["left"],
        right=joined["right"],
        feature=joined["feature"].astype(np.int32),
        threshold=joined["threshold"].astype(np.float64),
        missing_left=joined["missing_left"].astype(bool),
        zero_missing=joined["zero_missing"].astype(bool),
        members_left=joined["members_left"].astype(bool),
        words=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        categories=np.concatenate([*sets, _NO_WORDS]).astype(np.uint32),
        value=joined["value"].astype(np.float64),
        cover=joined["cover"].astype(np.float64),
        width=width,
        outputs=outputs,
    )


def _in_order(tree: Tree) -> Tree:
    """The tree with its nodes in preorder: each node, then its left subtree, then its right subtree."""
    from transforms.models.forest.kernels import preorder

    left, right = (np.asarray(side, np.int64) for side in (tree.left, tree.right))
    order = np.zeros(2 * np.count_nonzero(left >= 0) + 1, np.int64)  # some files keep pruned nodes
    preorder(left, right, 0, order)
    place = np.full(len(left) + 1, -1)
    place[order] = np.arange(len(order))
    left, right = place[left[order]], place[right[order]]
    parts = ("feature", "threshold", "missing_left", "value", "cover", "zero_missing", "members_left")
    arrays: dict[str, Any] = {name: getattr(tree, name) for name in parts}
    arrays = {name: None if part is None else np.asarray(part)[order] for name, part in arrays.items()}
    sets = None if tree.categories is None else [tree.categories[int(node)] for node in order]
    return Tree(output=tree.output, left=left, right=right, categories=sets, **arrays)


_NO_WORDS = np.zeros(0, np.uint32)


def bit_set(members: Sequence[int] | np.ndarray) -> np.ndarray:
    """A set of whole numbers as bits, `[words]` uint32, with at least one word."""
    members = np.asarray(members, np.int64)
    words = np.zeros(int(members.max(initial=0)) // 32 + 1, np.uint32)
    np.bitwise_or.at(words, members // 32, np.uint32(1) << (members % 32).astype(np.uint32))
    return words
