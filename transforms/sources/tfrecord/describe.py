"""The columns of a TFRecord input, with the types that most records of a sample have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from transforms.errors import UserError
from transforms.sources.base import InputFile, Piece
from transforms.sources.shards import cut
from transforms.sources.tfrecord import example as tf_example
from transforms.sources.tfrecord import framing
from transforms.sources.tfrecord import read as read_tfrecord
from transforms.sources.tfrecord.sequences import PREFIX
from transforms.storage import files

_SAMPLE = 256
#: Columns that the sample lacks are searched for in stretches spread evenly over the input: the number of
#: stretches, and the rows and bytes of each.
_STRETCHES, _STRETCH_ROWS, _STRETCH_BYTES = 64, 256, 4 << 20


def describe(inputs: Sequence[InputFile], named: Iterable[str] = ()) -> dict[str, pa.DataType]:
    """The columns of a TFRecord input and their types: `read.describe_columns` for TFRecord."""
    votes = _Votes()
    for file in inputs:
        with files.open_input(file.path) as opened:
            source = framing.Source(opened)
            records = framing.take(source, framing.frames(source), _SAMPLE, read_tfrecord.BATCH_BYTES)
        votes.add(records.payloads)
        if votes.records >= _SAMPLE:
            break
    if not votes.records and any(file.rows for file in inputs):
        raise UserError(
            "no tf.train.Example can be read from its first records",
            where=inputs[0].name,
            remedy="check that these are TFRecords of tf.train.Example or SequenceExample, or set the format",
        )
    types = votes.types()
    lacking = set(named) - set(types)
    if lacking:
        further = _Votes(lacking)
        for piece in _stretches(inputs):
            further.add(read_tfrecord.peek(piece, _STRETCH_BYTES))
        types |= further.types()
    return {name: types[name] for name in sorted(types)}


def _stretches(inputs: Sequence[InputFile]) -> Iterator[Piece]:
    """Pieces of the input: all of a small one, or stretches spread from its beginning to its end."""
    total = sum(file.rows for file in inputs)
    for shard in cut(inputs, max(_STRETCH_ROWS, -(-total // _STRETCHES))):
        left = _STRETCH_ROWS
        for piece in shard.pieces:
            if left > 0:
                yield replace(piece, rows=min(piece.rows, left))
                left -= piece.rows


class _Votes:
    """Counts of records by the kind and number of values that each feature has.

    Args:
      names: Features to count; None: all.
    """

    def __init__(self, names: set[str] | None = None) -> None:
        self.records = 0
        self._names = names
        self._kinds: dict[str, Counter[pa.DataType]] = {}
        self._sizes: dict[tuple[str, bool], Counter[int]] = {}
        self._steps: dict[str, tuple[Counter[pa.DataType], Counter[int]]] = {}

    def add(self, payloads: Iterable[bytes]) -> None:
        """Counts the Examples among some payloads."""
        for example in filter(None, map(tf_example.decode, payloads)):
            self.records += 1
            present = example.features.feature
            for name in list(present) if self._names is None else self._names:
                self._count(name, example)
            for name in example.feature_lists.feature_list:
                if self._names is None or self._names & {name, PREFIX + name}:
                    self._count_steps(name, example)

    def _count(self, name: str, example: Any) -> None:
        kind, values = tf_example.values_of(example, name)
        if kind:
            value = tf_example.KINDS[kind]
            self._kinds.setdefault(name, Counter())[value] += 1
            self._sizes.setdefault((name, pt.is_binary(value)), Counter())[len(values)] += 1

    def _count_steps(self, name: str, example: Any) -> None:
        kinds, sizes = self._steps.setdefault(name, (Counter(), Counter()))
        steps = tf_example.steps_of(example, name)
        # A record counts once, as it does for a feature, however many steps it has.
        kinds.update({tf_example.KINDS[kind] for kind, _ in steps if kind})
        sizes.update({len(values) for _, values in steps})

    def types(self) -> dict[str, pa.DataType]:
        """The type of each feature that was counted.

        The majority of records decides between bytes and numbers, then between whole numbers and floats; on a
        tie it is float32. The column has a fixed number of values if more than half of these records have it.
        """
        types: dict[str, pa.DataType] = {}
        for name, kinds in self._kinds.items():
            texts = kinds[pa.binary()]
            is_text = 2 * texts > kinds.total()
            value = pa.int64() if kinds[pa.int64()] > kinds[pa.float32()] else pa.float32()
            sizes = self._sizes[name, is_text]
            size, count = sizes.most_common(1)[0]
            types[name] = _column_type(
                pa.binary() if is_text else value, size if 2 * count > sizes.total() else None
            )
        for name, (kinds, sizes) in self._steps.items():
            if not kinds:  # no step has a value
                kinds, sizes = Counter([pa.float32()]), Counter([1])
            texts, whole = kinds[pa.binary()], kinds[pa.int64()]
            number = pa.int64() if whole > kinds[pa.float32()] else pa.float32()
            value = pa.binary() if 2 * texts > kinds.total() else number
            only = next(iter(sizes)) if len(sizes) == 1 else None
            # If a feature has the same name, the list is a column under its name with the prefix.
            types[PREFIX + name if name in types else name] = pa.list_(_column_type(value, only))
        return types


def _column_type(value: pa.DataType, size: int | None) -> pa.DataType:
    if size is None:
        return pa.list_(value)
    return value if size == 1 else pa.list_(value, size)
