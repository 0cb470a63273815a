"""The feature_lists of tf.train.SequenceExample: a list a step, in records whose other features have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from transforms.sources.tfrecord import example as tf_example
from transforms.sources.tfrecord.ragged import Ragged

#: Before the name of a feature list where a feature has the same name.
PREFIX = "feature_lists."

_FEATURES_TAG, _LISTS_TAG = 0x0A, 0x12


class Steps(NamedTuple):
    """Values of rows in steps.

    Args:
      values: One after another.
      inner: Where each step's begin, `[steps + 1]`.
      outer: Which step each row's begin with, `[n + 1]`.
      reasons: By row, why its steps cannot be read; it has none here.
    """

    values: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    reasons: dict[int, str]

    @property
    def splits(self) -> np.ndarray:
        """Where each row's values begin, `[n + 1]`."""
        found: np.ndarray = self.inner[self.outer]
        return found


@dataclass
class Found:
    """A wanted feature, and what was found of it in the features of a batch's records.

    Args:
      name: Of the column.
      value: What it holds.
      column: Its values; `with_lists` puts those of feature_lists among them.
      listed: Whether it is lists.
      nested: Whether it is lists of lists.
      any_size: Of any length.
      steps: Of lists of lists, the values.
      missing: Which rows do not have it, `[n]`, where it is of any length.
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
        """Of the feature list."""
        return self.name.removeprefix(PREFIX)

    def array(self) -> pa.Array:
        """Of lists of lists."""
        assert self.steps is not None  # for the type checker
        inner = pa.ListArray.from_arrays(pa.array(self.steps.inner), pa.array(self.steps.values, self.value))
        return pa.ListArray.from_arrays(pa.array(self.steps.outer), inner, mask=pa.array(self.missing))


def with_lists(payloads: np.ndarray, features: Sequence[Found]) -> dict[int, str]:
    """Looks for what the features of records lack in their feature_lists.

    Args:
      payloads: Of the records, `[n]`.
      features: What was found so far; takes what is found.
    Returns:
      By row, why it cannot be had so.
    Cost: none where every record has every feature; else ~1 µs for each that lacks one, and the parsing.
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
        found = steps.get(number)
        if found is not None:
            for at, reason in found.reasons.items():
                if lacks[listing[at]]:
                    reasons.setdefault(int(listing[at]), reason)
        if feature.nested:
            for at in np.flatnonzero(~lacks).tolist():
                what = "is one list, and in most records a list a step of feature_lists"
                reasons.setdefault(at, f"feature {feature.name} {what}")
            _put_steps(feature, listing, found, rows)
        elif found is not None:
            _put_values(feature, listing, found, lacks, reasons)
        if feature.any_size:
            feature.missing = _missing(feature, payloads)
    return reasons


def _put_steps(feature: Found, listing: np.ndarray, found: Steps | None, rows: int) -> None:
    counts = np.zeros(rows, np.int32)
    if found is None:
        found = Steps(np.zeros(0, _dtype(feature.value)), np.zeros(1, np.int32), counts[:1], {})
    else:
        counts[listing] = np.diff(found.outer)
    feature.steps = found._replace(outer=np.r_[0, np.cumsum(counts)].astype(np.int32))


def _put_values(
    feature: Found, listing: np.ndarray, found: Steps, lacks: np.ndarray, reasons: dict[int, str]
) -> None:
    """Puts the values of a feature list of a value a step among those of features that are lists."""
    there = np.diff(found.outer) > 0
    chosen = np.flatnonzero(there & lacks[listing])
    if not len(chosen):
        return
    sizes = np.diff(found.inner)
    odd = np.zeros(len(listing), np.int64)
    owners = np.repeat(np.arange(len(listing)), np.diff(found.outer))
    odd[owners[sizes != 1][::-1]] = sizes[sizes != 1][::-1]
    zero = np.zeros(len(listing), bool)
    zero[owners[sizes == 0]] = True
    for at in chosen.tolist():
        row = int(listing[at])
        if not feature.listed:
            what = "stands in feature_lists here, and among the features in most records"
            reasons.setdefault(row, f"feature {feature.name} {what}")
        elif zero[at] or odd[at]:
            what = f"has {0 if zero[at] else odd[at]} values in a step of feature_lists, 1 expected"
            reasons.setdefault(row, f"feature {feature.name} {what}")
    good = np.array([at for at in chosen.tolist() if int(listing[at]) not in reasons], np.int64)
    if len(good) and feature.column.others is None:
        values = Ragged(found.values, found.splits.astype(np.int32)).take(good)
        feature.column = feature.column.put(listing[good], values)
    else:
        what = "stands in feature_lists, beside records whose features hold whole numbers and others"
        for at in good.tolist():
            reasons.setdefault(int(listing[at]), f"feature {feature.name} {what}")


def _missing(feature: Found, payloads: np.ndarray) -> np.ndarray:
    """Which rows have the feature nowhere, `[n]`; one that is there without a value is no such row."""
    lengths = feature.column.counts if feature.steps is None else np.diff(feature.steps.outer)
    missing: np.ndarray = lengths == 0
    key = feature.key.encode()
    for at in np.flatnonzero(missing).tolist():
        # To look into a record takes much longer than to see that the name is nowhere in it.
        if key in payloads[at]:
            example = tf_example.decode(payloads[at])
            missing[at] = example is None or not tf_example.is_there(example, feature.key)
    return missing


def has_lists(payload: bytes) -> bool:
    """Whether an Example has more than features: it is a SequenceExample with feature_lists."""
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
    """The steps of some feature lists over a batch of serialized SequenceExamples; none where one is missing.

    Cost: TensorFlow's parsing; where a list holds another kind of value than is wanted, ~30 µs a record.
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
    found = zip(
        parsed.feature_list_ragged_values,
        parsed.feature_list_ragged_inner_splits,
        parsed.feature_list_ragged_outer_splits,
        strict=True,
    )
    return [Steps(values.numpy(), inner.numpy(), outer.numpy(), {}) for values, inner, outer in found]


def _one_by_one(payloads: np.ndarray, wanted: Sequence[tuple[str, pa.DataType]]) -> list[Steps]:
    steps: list[list[list[Sequence[Any]]]] = [[] for _ in wanted]
    reasons: list[dict[int, str]] = [{} for _ in wanted]
    for row, payload in enumerate(payloads):
        example = tf_example.decode(payload)
        for at, (name, value) in enumerate(wanted):
            found = [] if example is None else tf_example.steps_of(example, name)
            others = {kind for kind, values in found if kind and tf_example.KINDS[kind] != value}
            if others:
                held = tf_example.KINDS[sorted(others)[0]]
                reasons[at][row] = f"feature {name} is {held} in a step of feature_lists, {value} expected"
            steps[at].append([] if others else [values for _, values in found])
    return [_steps_of(*one) for one in zip(steps, reasons, [value for _, value in wanted], strict=True)]


def _steps_of(rows: Sequence[Sequence[Sequence[Any]]], reasons: dict[int, str], kind: pa.DataType) -> Steps:
    flat = [value for row in rows for step in row for value in step]
    values = np.array(flat, _dtype(kind))
    inner = np.cumsum([0, *(len(step) for row in rows for step in row)], dtype=np.int32)
    return Steps(values, inner, np.cumsum([0, *map(len, rows)], dtype=np.int32), reasons)


def _dtype(kind: pa.DataType) -> Any:
    return object if kind == pa.binary() else kind.to_pandas_dtype()
