"""Scores of masked rows, in which some values are kept and others replaced; built and summed on the device.

Between the entries and the frontier of a cut (see `cut/`) a model is affine, so that the frontier of a masked
point is prefix(x ⊙ m) + prefix(b ⊙ (1 − m)) − prefix(0). The first term is the same for all background rows
b, and the second term for all rows x; only the model after the prefix is evaluated for each pair of x and b.
If a model has no such prefix, masked inputs of any type are assembled value by value.

Points are ordered by row, coalition, background row: `[B · C · R′]` for B rows, C coalitions and R′
background rows per coalition. M is the number of players, T the number of outputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.graphs.compiled import Compiled
from transforms.models.graphs.cut.cut import find_cut
from transforms.models.graphs.cut.entries import Cut
from transforms.models.graphs.cut.provenance import EVERYWHERE, NOWHERE
from transforms.models.graphs.tensor_sizes import CutGrowth, forward_bytes
from transforms.models.graphs.tensors import flatten_heads, in_calls
from transforms.models.graphs.trace import TracedModel
from transforms.models.players import HELD, Players

#: Up to this many outputs, summing all of them is cheaper than selecting each point's targets first.
_FEW_OUTPUTS = 16

#: Bytes of values in one part of a call's rows, and fewest points in it. Parts run one after another, so that
#: intermediate values stay in a processor's cache: measured, 1.3 to 1.6 times the rows per second.
_BYTES_A_PART = 4 << 20
_LEAST_POINTS = 256
#: Number of background rows for which entries are computed at a time.
_ROWS_A_CALL = 4096
_MOST_PARTS = 16

#: Computes scores, `[B′ · C · R′, T]`, for a slice of B′ rows; the second argument is the number of points.
_ScoreRows = Callable[[slice, Any], Any]


class MaskedModel:
    """A thread-safe model with its background on the device and a compiled function of masked rows.

    Args:
      traced: The model as a graph.
      scores: The tensors to explain, one for each head.
      background: Model inputs of the R background rows, `[R, *shape]`.
      players: The players, whose values are kept or replaced together.
      count: Called once per device call, with the call's number of evaluations.
      affine_prefix: False assembles masked inputs even if there is a prefix (to measure the prefix's gain).
    """

    def __init__(
        self,
        traced: TracedModel,
        scores: Sequence[Any],
        background: Mapping[str, np.ndarray],
        players: Players,
        *,
        count: Callable[[int], None],
        affine_prefix: bool = True,
    ) -> None:
        self._traced, self._scores, self._players, self._count = traced, tuple(scores), players, count
        self._inputs = {
            name: tf.constant(background[name], tensor.dtype) for name, tensor in self._traced.inputs.items()
        }
        example = {name: value[:1] for name, value in background.items()}
        self._prefix = _Prefix.of(traced, scores, players, example) if affine_prefix else None
        self._entries = [] if self._prefix is None else self._prefix.entries_of(self._inputs)
        specs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in self._traced.inputs.items()}
        self._signature = [
            specs,
            tf.TensorSpec([None, None], tf.int32),  # targets, [B, T]
            tf.TensorSpec([None, players.count], tf.bool),  # coalitions, [C, M]
            tf.TensorSpec([None, None], tf.int32),  # background rows of a coalition, [C or 1, R′]
        ]
        self._repeatable = traced.repeatable(scores) if self._prefix is None else self._prefix.repeatable
        self._points_a_part = max(_LEAST_POINTS, _BYTES_A_PART // forward_bytes(traced, scores))
        self._compiled: dict[int, Compiled] = {}
        self._lock = threading.Lock()

    @property
    def has_prefix(self) -> bool:
        """True if points are assembled after an affine prefix."""
        return self._prefix is not None

    def sums(
        self, inputs: Mapping[str, Any], targets: np.ndarray, coalitions: np.ndarray, base: np.ndarray
    ) -> np.ndarray:
        """Computes scores of masked rows, summed over background rows, in one device call.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          targets: Output indices, `[B, T]`.
          coalitions: Members of each coalition, `[C, M]` bool.
          base: Indices of the background rows that replace the other players' values, `[C, R′]`, or `[1, R′]`
            if all coalitions share them.
        Returns:
          Sums of scores over the background rows, `[B, C, T]` float64.
        Cost: C · R′ evaluations per row.
        """
        points = len(targets) * len(coalitions) * base.shape[1]
        self._count(points)
        summed = self._in_parts(self._parts(len(targets), points))(
            dict(inputs), targets.astype(np.int32, copy=False), coalitions, base.astype(np.int32, copy=False)
        )
        sums: np.ndarray = summed.numpy()
        return sums

    def _in_parts(self, parts: int) -> Compiled:
        """The compiled function that processes a call's rows in `parts` parts."""
        if parts not in self._compiled:
            made = Compiled(partial(self._sums, parts), self._signature, self._traced.compile_options)
            with self._lock:
                self._compiled.setdefault(parts, made)
        return self._compiled[parts]

    def _parts(self, rows: int, points: int) -> int:
        """The number of parts of a call: a power of two, so that few functions are traced."""
        most = min(_MOST_PARTS, rows, max(1, points // self._points_a_part)) if self._repeatable else 1
        return 1 << (most.bit_length() - 1)

    def _sums(self, parts: int, inputs: Any, targets: Any, coalitions: Any, base: Any) -> Any:
        rows, count, every = tf.shape(targets)[0], tf.shape(coalitions)[0], tf.shape(base)[1]
        kept = tf.concat([coalitions, tf.ones([count, 1], tf.bool)], axis=1)  # HELD is the last column
        if self._prefix is None:
            scores = self._raw_scores(inputs, kept, base)
        else:
            others = [tf.gather(value, base) for value in self._prefix.by_row(self._entries)]
            scores = self._prefix.scores(inputs, others, kept)
        done: list[Any] = []
        for part in range(parts):
            # The parts run one after another, because two parts at once would compete for the cache.
            with tf.control_dependencies(done[-1:]):
                some = slice(rows * part // parts, rows * (part + 1) // parts)
            chosen = targets[some]
            points = tf.shape(chosen)[0] * count * every
            done.append(_sum_background(scores(some, points), chosen, count, every))
        return tf.concat(done, axis=0) if parts > 1 else done[0]

    def _raw_scores(self, inputs: Any, kept: Any, base: Any) -> _ScoreRows:
        """Returns a function that scores a slice of the rows, masking the model's inputs value by value."""
        masks, others = {}, {}
        for name in inputs:
            owners = self._players.of[name]
            masks[name] = tf.gather(kept, _column(owners, self._players), axis=1)[tf.newaxis, :, tf.newaxis]
            other = tf.gather(self._inputs[name], base)  # [C or 1, R′, *shape]
            others[name] = tf.reshape(other, [1, tf.shape(base)[0], tf.shape(base)[1], len(owners)])

        def scores(some: slice, points: Any) -> Any:
            feeds = {}
            for name, value in inputs.items():
                tensor = self._traced.inputs[name]
                own = tf.reshape(value[some], [-1, 1, 1, len(self._players.of[name])])
                point = tf.where(masks[name], own, others[name])
                point = tf.reshape(point, tf.concat([[points], tf.shape(value)[1:]], 0))
                point.set_shape(tensor.shape)
                feeds[tensor.name] = point
            return flatten_heads(self._traced.replay(feeds, list(self._scores)), points)

        return scores


def _sum_background(scores: Any, targets: Any, count: Any, every: Any) -> Any:
    """Sums scores `[B · C · R′, T]` over R′ and selects the targets, `[B, C, T′]` float64."""
    rows, outputs = tf.shape(targets)[0], int(scores.shape[1])
    if outputs <= _FEW_OUTPUTS:
        by_point = tf.reshape(tf.cast(scores, tf.float64), [rows, count, every, outputs])
        return tf.gather(tf.reduce_sum(by_point, axis=2), targets, axis=2, batch_dims=1)
    by_row = tf.gather(tf.reshape(scores, [rows, -1, outputs]), targets, axis=2, batch_dims=1)
    chosen = tf.reshape(tf.cast(by_row, tf.float64), [rows, count, every, tf.shape(targets)[1]])
    return tf.reduce_sum(chosen, axis=2)


class _Prefix:
    """A cut whose entries can be masked value by value, with its affine prefix.

    Args:
      traced: The model as a graph.
      cut: The model's cut, which has a prefix.
      growth: The growth of the cut's tensors.
      players: For each entry, the player of each of its values, `[lead · size]`; M stands for held values.
    """

    def __init__(
        self, traced: TracedModel, cut: Cut, growth: CutGrowth, players: Sequence[np.ndarray]
    ) -> None:
        self._traced = traced
        self._cut, self._growth, self._players = cut, growth, players
        nothing = [
            tf.zeros([growth.lead[e.tensor.name], *e.tensor.shape[1:]], e.tensor.dtype) for e in cut.entries
        ]
        #: True if the model after the prefix may be copied several times into one graph.
        self.repeatable = self._traced.repeatable(cut.scores, cut.fed)
        self._zero = tf.function(self._frontier, autograph=False)(nothing)

    @classmethod
    def of(
        cls, traced: TracedModel, scores: Sequence[Any], players: Players, example: Mapping[str, np.ndarray]
    ) -> _Prefix | None:
        """The affine prefix of a model; None without one, or if masked rows cannot be assembled after it."""
        try:
            cut = find_cut(traced, scores, hold_masks=False)
        except UserError:  # an input that no gradient reaches can only be masked at the input itself
            return None
        fed = frozenset(entry.tensor.name for entry in cut.entries)
        before = traced.ancestors(cut.frontier, fed)
        whole = all(
            tensor.op.name not in before for tensor in traced.inputs.values() if tensor.name not in fed
        )
        precise = all(tensor.dtype in (tf.float32, tf.float64) for tensor in (*cut.frontier, *_tensors(cut)))
        placed = not any((entry.positions == EVERYWHERE).any() for entry in cut.entries)
        if not (cut.has_prefix and whole and precise and placed) or cut.side_inputs:
            return None
        columns = []
        for entry in cut.entries:
            owners = np.append(players.of[entry.input], HELD)  # constants are the same in every row
            assert NOWHERE == -1, "indexes the appended HELD"
            columns.append(_column(owners[entry.positions.reshape(-1)], players))
        return cls(traced, cut, CutGrowth.of(traced, cut, example), columns)

    def entries_of(self, inputs: Mapping[str, Any]) -> list[Any]:
        """The entries of model inputs, `[rows · lead, ...]`, in calls of `_ROWS_A_CALL` rows or fewer."""
        function = tf.function(self._entries, autograph=False, reduce_retracing=True)
        return in_calls(lambda some: [function(some)], inputs, _ROWS_A_CALL)[0]

    def by_row(self, entries: Sequence[Any]) -> list[Any]:
        """Reshapes entries `[rows · lead, ...]` to `[rows, lead · size]`."""
        return [tf.reshape(v, [-1, len(owners)]) for v, owners in zip(entries, self._players, strict=True)]

    def scores(self, inputs: Mapping[str, Any], others: Sequence[Any], kept: Any) -> _ScoreRows:
        """Returns a function that computes scores of masked rows for a slice of the rows.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          others: Entries of the background rows, each `[C or 1, R′, lead · size]`.
          kept: Members of the coalitions, `[C, M + 1]` bool; the last column, of held values, is true.
        """
        own, replaced = [], []
        entries = self.by_row(self._entries(inputs))
        # From mask [C, lead · size], value [B, lead · size] and other [C or 1, R′, lead · size]: `own` gets
        # the values kept from the rows, [B · C · lead, ...], and `replaced` the values taken from the
        # background, [C · R′ · lead, ...].
        for entry, owners, value, other in zip(
            self._cut.entries, self._players, entries, others, strict=True
        ):
            mask = tf.gather(kept, owners, axis=1)
            # `tf.where` instead of a product: an infinite value that is not kept must have no effect.
            nothing = tf.zeros([], value.dtype)
            tail = [-1, *entry.tensor.shape[1:]]
            own.append(tf.reshape(tf.where(mask, value[:, tf.newaxis], nothing), tail))
            replaced.append(tf.reshape(tf.where(mask[:, tf.newaxis], nothing, other), tail))
        count, every = tf.shape(kept)[0], tf.shape(others[0])[1]
        mine, theirs = [], []
        for kept_part, rest, zero in zip(
            self._frontier(own), self._frontier(replaced), self._zero, strict=True
        ):
            size = int(np.prod(zero.shape))
            mine.append(tf.reshape(kept_part, [-1, count, 1, size]))
            theirs.append(tf.reshape(rest, [1, count, every, size]) - tf.reshape(zero, [size]))

        def scores(some: slice, points: Any) -> Any:
            feeds = {}
            for tensor, a, b in zip(self._cut.frontier, mine, theirs, strict=True):
                point = tf.reshape(a[some] + b, [-1, *tensor.shape[1:]])
                point.set_shape(tensor.shape)
                feeds[tensor.name] = point
            shapes = self._growth.shape_values(self._cut, points)
            for tensor, value in zip(self._cut.shapes, shapes, strict=True):
                feeds.setdefault(tensor.name, value)
            return flatten_heads(self._traced.replay(feeds, list(self._cut.scores)), points)

        return scores

    def _entries(self, inputs: Mapping[str, Any]) -> list[Any]:
        feeds = {self._traced.inputs[name].name: value for name, value in inputs.items()}
        return self._traced.replay(feeds, _tensors(self._cut))

    def _frontier(self, entries: Sequence[Any]) -> list[Any]:
        feeds = {e.tensor.name: value for e, value in zip(self._cut.entries, entries, strict=True)}
        return self._traced.replay(feeds, list(self._cut.frontier))


def _tensors(cut: Cut) -> list[Any]:
    return [entry.tensor for entry in cut.entries]


def _column(owners: np.ndarray, players: Players) -> np.ndarray:
    """The column of each value's player in the membership `[C, M + 1]`; held values have the last column."""
    return np.where(owners == HELD, players.count, owners).astype(np.int32)
