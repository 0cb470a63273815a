"""Scores of rows of which only some values are kept: what masking methods run, made and summed on the device.

Between the entries and the frontier of a cut (see `cut.py`) a model is affine, so that a masked point's
frontier is a sum of two: prefix(x ⊙ m) + prefix(b ⊙ (1 − m)) − prefix(0). The first is the same for all
background rows b and the second for all rows x; what is left to do for each pair starts behind the prefix.
Where a model has no such prefix, masked inputs of any type are put together as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from transforms.errors import UserError
from transforms.models.compiled import Compiled
from transforms.models.cut import Cut, find_cut
from transforms.models.layout import Layout
from transforms.models.positions import EVERYWHERE, NOWHERE
from transforms.models.tensors import flatten_heads
from transforms.players import HELD, Players

if TYPE_CHECKING:
    from transforms.models.base import ScoredModel

#: With so many outputs it is cheaper to sum all of them than to pick one point's first.
_FEW_OUTPUTS = 16


class MaskedModel:
    """A model with its background on the device and one compiled function, for any number of threads.

    Args:
      model: The model with its score.
      background: Model inputs of the R background rows, `[R, *shape]`.
      players: Whose values are kept or replaced together.
      affine_prefix: False puts masked inputs together in any case (to measure what the prefix gains).
    """

    def __init__(
        self,
        model: ScoredModel,
        background: Mapping[str, np.ndarray],
        players: Players,
        *,
        affine_prefix: bool = True,
    ) -> None:
        self._model, self._traced = model, model.traced
        self._players = players
        self._inputs = {
            name: tf.constant(background[name], tensor.dtype) for name, tensor in self._traced.inputs.items()
        }
        example = {name: value[:1] for name, value in background.items()}
        self._prefix = _Prefix.of(model, players, example) if affine_prefix else None
        self._entries = [] if self._prefix is None else self._prefix.entries_of(self._inputs)
        specs = {name: tf.TensorSpec(t.shape, t.dtype) for name, t in self._traced.inputs.items()}
        self._compiled = Compiled(
            self._sums,
            [
                specs,
                tf.TensorSpec([None, None], tf.int32),  # targets, [B, T]
                tf.TensorSpec([None, players.count], tf.bool),  # coalitions, [C, M]
                tf.TensorSpec([None, None], tf.int32),  # background rows of a coalition, [C or 1, R′]
            ],
            self._traced.build,
        )

    @property
    def has_prefix(self) -> bool:
        """Whether points are put together behind an affine prefix."""
        return self._prefix is not None

    def sums(
        self, inputs: Mapping[str, Any], targets: np.ndarray, coalitions: np.ndarray, base: np.ndarray
    ) -> np.ndarray:
        """Scores of masked rows, summed over background rows, in one device call.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          targets: Output index, `[B, T]`.
          coalitions: Members, `[C, M]` bool.
          base: Background rows that take the others' place, `[C, R′]`, or `[1, R′]` for every coalition.
        Returns:
          `[B, C, T]` float64.
        Cost: C · R′ evaluations a row.
        """
        self._model.count(len(targets) * len(coalitions) * base.shape[1])
        found = self._compiled(
            dict(inputs), targets.astype(np.int32, copy=False), coalitions, base.astype(np.int32, copy=False)
        )
        sums: np.ndarray = found.numpy()
        return sums

    def _sums(self, inputs: Any, targets: Any, coalitions: Any, base: Any) -> Any:
        rows, count, every = tf.shape(targets)[0], tf.shape(coalitions)[0], tf.shape(base)[1]
        kept = tf.concat([coalitions, tf.ones([count, 1], tf.bool)], axis=1)  # HELD is the last column
        points = rows * count * every
        if self._prefix is None:
            scores = self._raw_scores(inputs, kept, base, points)
        else:
            others = [tf.gather(value, base) for value in self._prefix.by_row(self._entries)]
            scores = self._prefix.scores(inputs, others, kept, points)
        outputs = int(scores.shape[1])
        if outputs <= _FEW_OUTPUTS:
            by_point = tf.reshape(tf.cast(scores, tf.float64), [rows, count, every, outputs])
            return tf.gather(tf.reduce_sum(by_point, axis=2), targets, axis=2, batch_dims=1)
        by_row = tf.gather(tf.reshape(scores, [rows, -1, outputs]), targets, axis=2, batch_dims=1)
        chosen = tf.reshape(tf.cast(by_row, tf.float64), [rows, count, every, tf.shape(targets)[1]])
        return tf.reduce_sum(chosen, axis=2)

    def _raw_scores(self, inputs: Any, kept: Any, base: Any, points: Any) -> Any:
        feeds = {}
        for name, value in inputs.items():
            of, tensor = self._players.of[name], self._traced.inputs[name]
            mask = tf.gather(kept, _column(of, self._players), axis=1)[tf.newaxis, :, tf.newaxis]
            others = tf.gather(self._inputs[name], base)  # [C or 1, R′, *shape]
            others = tf.reshape(others, [1, tf.shape(base)[0], tf.shape(base)[1], len(of)])
            own = tf.reshape(value, [-1, 1, 1, len(of)])
            point = tf.reshape(tf.where(mask, own, others), tf.concat([[points], tf.shape(value)[1:]], 0))
            point.set_shape(tensor.shape)
            feeds[tensor.name] = point
        return flatten_heads(self._traced.replay(feeds, list(self._model.scores)), points)


class _Prefix:
    """A cut whose entries can be masked value by value, with its affine prefix.

    Args:
      model: The model.
      cut: Its cut, which has a prefix.
      layout: Of the cut.
      players: The player of each entry's values in a row, `[lead · size]`; the number of players: held.
    """

    def __init__(self, model: ScoredModel, cut: Cut, layout: Layout, players: Sequence[np.ndarray]) -> None:
        self._model, self._traced = model, model.traced
        self._cut, self._layout, self._players = cut, layout, players
        nothing = [
            tf.zeros([layout.lead[e.tensor.name], *e.tensor.shape[1:]], e.tensor.dtype) for e in cut.entries
        ]
        self._zero = tf.function(self._frontier, autograph=False)(nothing)

    @classmethod
    def of(cls, model: ScoredModel, players: Players, example: Mapping[str, np.ndarray]) -> _Prefix | None:
        """The prefix of a model, None where it has none that masks can be split at."""
        traced = model.traced
        try:
            cut = find_cut(traced, model.scores)
        except UserError:  # no gradient reaches some input: it can only be masked as it is
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
            of = np.append(players.of[entry.input], HELD)  # what comes from nowhere is the same in every row
            assert NOWHERE == -1, "the place of the last of them"
            columns.append(_column(of[entry.positions.reshape(-1)], players))
        return cls(model, cut, Layout.of(traced, cut, example), columns)

    def entries_of(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Entries of model inputs, `[rows · lead, ...]`."""
        function = tf.function(self._entries, autograph=False)
        return list(function(dict(inputs)))

    def by_row(self, entries: Sequence[Any]) -> list[Any]:
        """`[rows · lead, ...]` → `[rows, lead · size]`."""
        return [tf.reshape(v, [-1, len(of)]) for v, of in zip(entries, self._players, strict=True)]

    def scores(self, inputs: Mapping[str, Any], others: Sequence[Any], kept: Any, points: Any) -> Any:
        """Scores of masked rows, `[B · C · R′, T]`.

        Args:
          inputs: Model inputs, `[B, *shape]`.
          others: Entries of the background rows, each `[C or 1, R′, lead · size]`.
          kept: Members and a last column of what is held, `[C, M + 1]` bool.
          points: B · C · R′.
        """
        own, replaced = [], []
        entries = self.by_row(self._entries(inputs))
        for entry, of, value, other in zip(self._cut.entries, self._players, entries, others, strict=True):
            mask = tf.gather(kept, of, axis=1)
            # Chosen, not multiplied: a value that is not kept must not be felt, were it infinite.
            nothing = tf.zeros([], value.dtype)
            tail = [-1, *entry.tensor.shape[1:]]
            own.append(tf.reshape(tf.where(mask, value[:, tf.newaxis], nothing), tail))
            replaced.append(tf.reshape(tf.where(mask[:, tf.newaxis], nothing, other), tail))
        count, every = tf.shape(kept)[0], tf.shape(others[0])[1]
        feeds = {}
        for tensor, mine, theirs, zero in zip(
            self._cut.frontier, self._frontier(own), self._frontier(replaced), self._zero, strict=True
        ):
            size = int(np.prod(zero.shape))
            theirs = tf.reshape(theirs, [1, count, every, size]) - tf.reshape(zero, [size])
            point = tf.reshape(mine, [-1, count, 1, size]) + theirs
            point = tf.reshape(point, [-1, *tensor.shape[1:]])
            point.set_shape(tensor.shape)
            feeds[tensor.name] = point
        for tensor, value in zip(self._cut.shapes, self._layout.shape_values(self._cut, points), strict=True):
            feeds.setdefault(tensor.name, value)
        return flatten_heads(self._traced.replay(feeds, list(self._cut.scores)), points)

    def _entries(self, inputs: Mapping[str, Any]) -> list[Any]:
        feeds = {self._traced.inputs[name].name: value for name, value in inputs.items()}
        return self._traced.replay(feeds, _tensors(self._cut))

    def _frontier(self, entries: Sequence[Any]) -> list[Any]:
        feeds = {e.tensor.name: value for e, value in zip(self._cut.entries, entries, strict=True)}
        return self._traced.replay(feeds, list(self._cut.frontier))


def _tensors(cut: Cut) -> list[Any]:
    return [entry.tensor for entry in cut.entries]


def _column(of: np.ndarray, players: Players) -> np.ndarray:
    """Columns of `[C, M + 1]` membership: the last is that of what is held."""
    return np.where(of == HELD, players.count, of).astype(np.int32)
