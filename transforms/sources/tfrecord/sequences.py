"""The feature_lists of tf.train.SequenceExample, in which a feature has one list of values per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from transforms.sources.tfrecord import example as tf_example
from transforms.sources.tfrecord.ragged import Ragged

#: Prefix of a feature list's name where a feature has the same name.
PREFIX = "feature_lists."

_FEATURES_TAG, _LISTS_TAG = 0x0A, 0x12


class Steps(NamedTuple):
    """The values of n rows that consist of steps.

    Args:
      values: All values, one after another.
      inner: Where each step's values begin, `[steps + 1]`.
      outer: The first step of each row, `[n + 1]`.
      reasons: By row, why its steps cannot be read; such a row has no steps here.
    """

    values: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    reasons: dict[int, str]

    @property
    def splits(self) -> np.ndarray:
        """Where each row's values begin, `[n + 1]`."""
        starts: np.ndarray = self.inner[self.outer]
        return starts


@dataclass
class Wanted:
    """A feature to read, with the values that the features of a batch's n records have for it.

    Args:
      name: The column's name.
      value: The type of a value.
      column: The values; `with_lists` adds those from feature_lists.
      listed: Whether the column holds lists.
      nested: Whether it holds lists of lists.
      any_size: Whether lists may have any length.
      steps: The values, if they are lists of lists.
      missing: The rows without the feature, `[n]` bool, if lists may have any length.
    """

    name: str
    value: pa.DataType
    column: Ragged
    listed: bool
    nested: bool
    any_size: bool
    steps: Steps | None = None
    missing: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def key(self) -> str:
        """The name of the feature list in a record."""
        return self.name.removeprefix(PREFIX)

    def array(self) -> pa.Array:
        """The lists of lists as an Arrow array."""
        assert self.steps is not None  # for the type checker
        inner = pa.ListArray.from_arrays(pa.array(self.steps.inner), pa.array(self.steps.values, self.value))
        return pa.ListArray.from_arrays(pa.array(self.steps.outer), inner, mask=pa.array(self.missing))


def with_lists(payloads: np.ndarray, features: Sequence[Wanted]) -> dict[int, str]:
    """Fills gaps in features with values from the records' feature_lists.

    Args:
      payloads: The records, `[n]`.
      features: The features with their values so far; changed in place.
    Returns:
      By row, the reason why its feature_lists cannot be used.
    Cost: none where every record has every feature; else ~1 µs for each record with a gap, and the parsing.
    """
    reasons: dict[int, str] = {}
    rows = len(payloads)
    lacking = [feature.column.counts == 0 for feature in features]
    some = np.zeros(rows, bool)
    for lacks in lacking:
        some |= lacks
    listing = np.array([at for at in np.flatnonzero(some).tolist() if has_lists(payloads[at])], np.int64)
    wanted = [at for at, lacks in enumerate(lacking) if len(listing) and lacks[listing].any()]
    steps: dict[int, Steps] = {}
    if wanted:
        pairs = [(features[at].key, features[at].value) for at in wanted]
        steps = dict(zip(wanted, parse_steps(payloads[listing], pairs), strict=True))
    for number, (feature, lacks) in enumerate(zip(features, lacking, strict=True)):
        steps_found = steps.get(number)
        if steps_found is not None:
            for at, reason in steps_found.reasons.items():
                if lacks[listing[at]]:
                    reasons.setdefault(int(listing[at]), reason)
        if feature.nested:
            for at in np.flatnonzero(~lacks).tolist():
                what = "is a single list, but one list per step of feature_lists in most records"
                reasons.setdefault(at, f"feature {feature.name} {what}")
            _put_steps(feature, listing, steps_found, rows)
        elif steps_found is not None:
            _put_values(feature, listing, steps_found, lacks, reasons)
        if feature.any_size:
            feature.missing = _missing(feature, payloads)
    return reasons


def _put_steps(feature: Wanted, listing: np.ndarray, steps: Steps | None, rows: int) -> None:
    counts = np.zeros(rows, np.int32)
    if steps is None:
        steps = Steps(np.zeros(0, _dtype(feature.value)), np.zeros(1, np.int32), counts[:1], {})
    else:
        counts[listing] = np.diff(steps.outer)
    feature.steps = steps._replace(outer=np.r_[0, np.cumsum(counts)].astype(np.int32))


def _put_values(
    feature: Wanted, listing: np.ndarray, steps: Steps, lacks: np.ndarray, reasons: dict[int, str]
) -> None:
    """Fills the gaps of a list feature from a feature list that has one value per step."""
    there = np.diff(steps.outer) > 0
    chosen = np.flatnonzero(there & lacks[listing])
    if not len(chosen):
        return
    sizes = np.diff(steps.inner)
    odd = np.zeros(len(listing), np.int64)
    owners = np.repeat(np.arange(len(listing)), np.diff(steps.outer))
    odd[owners[sizes != 1][::-1]] = sizes[sizes != 1][::-1]
    zero = np.zeros(len(listing), bool)
    zero[owners[sizes == 0]] = True
    for at in chosen.tolist():
        row = int(listing[at])
        if not feature.listed:
            what = "is in feature_lists here, but among the features in most records"
            reasons.setdefault(row, f"feature {feature.name} {what}")
        elif zero[at] or odd[at]:
            what = f"has {0 if zero[at] else odd[at]} values in a step of feature_lists, 1 expected"
            reasons.setdefault(row, f"feature {feature.name} {what}")
    good = np.array([at for at in chosen.tolist() if int(listing[at]) not in reasons], np.int64)
    if len(good) and feature.column.others is None:
        values = Ragged(steps.values, steps.splits.astype(np.int32)).take(good)
        feature.column = feature.column.put(listing[good], values)
    else:
        what = "is in feature_lists here, while other records' features mix whole numbers and floats"
        for at in good.tolist():
            reasons.setdefault(int(listing[at]), f"feature {feature.name} {what}")


def _missing(feature: Wanted, payloads: np.ndarray) -> np.ndarray:
    """The rows without the feature, `[n]` bool; a feature that is present without values is not missing."""
    lengths = feature.column.counts if feature.steps is None else np.diff(feature.steps.outer)
    missing: np.ndarray = lengths == 0
    key = feature.key.encode()
    for at in np.flatnonzero(missing).tolist():
        # Searching the bytes for the name is much faster than decoding the record.
        if key in payloads[at]:
            example = tf_example.decode(payloads[at])
            missing[at] = example is None or not tf_example.is_there(example, feature.key)
    return missing


def has_lists(payload: bytes) -> bool:
    """True if a payload has feature_lists after its features: it is a SequenceExample."""
    at = 0
    while at < len(payload) and payload[at] == _FEATURES_TAG:
        size, shift, at = 0, 0, at + 1
        while at < len(payload):
            size |= (payload[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if payload[at - 1] < 0x80:
                break
        at += size
    return at < len(payload) and payload[at] == _LISTS_TAG


def parse_steps(payloads: np.ndarray, wanted: Sequence[tuple[str, pa.DataType]]) -> list[Steps]:
    """The steps of some feature lists in a batch of serialized SequenceExamples; a missing one has none.

    Cost: TensorFlow's parsing; ~30 µs per record if some list holds another kind of value than is wanted.
    """
    import tensorflow as tf

    kinds = {pa.int64(): tf.int64, pa.float32(): tf.float32, pa.binary(): tf.string}
    none: list[Any] = []
    try:
        parsed = tf.raw_ops.ParseSequenceExampleV2(
            serialized=tf.constant(payloads, tf.string, [len(payloads)]),
            debug_name=none,
            context_sparse_keys=none,
            context_dense_keys=none,
            context_ragged_keys=none,
            feature_list_sparse_keys=none,
            feature_list_dense_keys=none,
            feature_list_ragged_keys=[name for name, _ in wanted],
            feature_list_dense_missing_assumed_empty=none,
            context_dense_defaults=none,
            feature_list_ragged_value_types=[kinds[value] for _, value in wanted],
            feature_list_ragged_split_types=[tf.int32] * len(wanted),
        )
    except tf.errors.InvalidArgumentError:
        return _one_by_one(payloads, wanted)
    parts = zip(
        parsed.feature_list_ragged_values,
        parsed.feature_list_ragged_inner_splits,
        parsed.feature_list_ragged_outer_splits,
        strict=True,
    )
    return [Steps(values.numpy(), inner.numpy(), outer.numpy(), {}) for values, inner, outer in parts]


def _one_by_one(payloads: np.ndarray, wanted: Sequence[tuple[str, pa.DataType]]) -> list[Steps]:
    steps: list[list[list[Sequence[Any]]]] = [[] for _ in wanted]
    reasons: list[dict[int, str]] = [{} for _ in wanted]
    for row, payload in enumerate(payloads):
        example = tf_example.decode(payload)
        for at, (name, value) in enumerate(wanted):
            record_steps = [] if example is None else tf_example.steps_of(example, name)
            others = {kind for kind, values in record_steps if kind and tf_example.KINDS[kind] != value}
            if others:
                held = tf_example.KINDS[sorted(others)[0]]
                reasons[at][row] = f"feature {name} is {held} in a step of feature_lists, {value} expected"
            steps[at].append([] if others else [values for _, values in record_steps])
    return [_steps_of(*one) for one in zip(steps, reasons, [value for _, value in wanted], strict=True)]


def _steps_of(rows: Sequence[Sequence[Sequence[Any]]], reasons: dict[int, str], kind: pa.DataType) -> Steps:
    flat = [value for row in rows for step in row for value in step]
    values = np.array(flat, _dtype(kind))
    inner = np.cumsum([0, *(len(step) for row in rows for step in row)], dtype=np.int32)
    return Steps(values, inner, np.cumsum([0, *map(len, rows)], dtype=np.int32), reasons)


def _dtype(kind: pa.DataType) -> Any:
    return object if kind == pa.binary() else kind.to_pandas_dtype()
