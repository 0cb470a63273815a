"""Parsing tf.train.Example without TensorFlow, for the few records that are examined one by one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from transforms.sources.tfrecord.protobuf_classes import message_class, message_type

#: The type of the values in each kind of feature.
KINDS = {"int64_list": pa.int64(), "float_list": pa.float32(), "bytes_list": pa.binary()}


def values_of(example: Any, name: str) -> tuple[str, Sequence[Any]]:
    """The kind and the values of an Example's feature; the kind is "" where it is missing or empty."""
    # Subscripting a map of messages would add a missing key.
    feature = example.features.feature.get(name)
    kind: str | None = None if feature is None else feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    return (kind, values) if kind and values else ("", ())


def steps_of(example: Any, name: str) -> list[tuple[str, Sequence[Any]]]:
    """The kind and the values of each step of a feature list; empty where it is missing or has no steps."""
    feature_list = example.feature_lists.feature_list.get(name)
    if feature_list is None:
        return []
    kinds = [(step.WhichOneof("kind"), step) for step in feature_list.feature]
    return [(kind, getattr(step, kind).value) if kind else ("", ()) for kind, step in kinds]


def is_there(example: Any, name: str) -> bool:
    """True if an Example has a feature or a feature list of this name, even one without values."""
    feature = example.features.feature.get(name)
    there = feature is not None and feature.WhichOneof("kind") is not None
    return there or name in example.feature_lists.feature_list


def decode(payload: bytes) -> Any | None:
    """The tf.train.Example in a payload, or SequenceExample, with its context as features; None: neither."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    example = _example_class()()
    try:
        example.ParseFromString(payload)
    except DecodeError:
        return None
    return example


@functools.cache
def _example_class() -> Any:
    """The message class of tf.train.Example, with the feature_lists that a SequenceExample has as well.

    It is built here so that planning a job does not import TensorFlow, and in a descriptor pool of its own,
    because TensorFlow registers the same names in the default pool.
    """
    from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="attribeam/example.proto", package="tensorflow", syntax="proto3"
    )

    lists = (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    )
    for name, kind in lists:
        message_type(file.message_type, name, ("value*", 1, kind, ""))
    members = [
        (name, number, field.TYPE_MESSAGE, f".tensorflow.{kind}")
        for number, (name, kind) in enumerate(
            (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
        )
    ]
    feature = message_type(file.message_type, "Feature", *members)
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    steps = ("feature*", 1, field.TYPE_MESSAGE, ".tensorflow.Feature")
    message_type(file.message_type, "FeatureList", steps)
    for whole, name, part in (
        ("Features", "feature", "Feature"),
        ("FeatureLists", "feature_list", "FeatureList"),
    ):
        entry_type = f".tensorflow.{whole}.{part}Entry"
        mapping = message_type(file.message_type, whole, (f"{name}*", 1, field.TYPE_MESSAGE, entry_type))
        entry = message_type(
            mapping.nested_type,
            f"{part}Entry",
            ("key", 1, field.TYPE_STRING, ""),
            ("value", 2, field.TYPE_MESSAGE, f".tensorflow.{part}"),
        )
        entry.options.map_entry = True
    message_type(
        file.message_type,
        "Example",
        ("features", 1, field.TYPE_MESSAGE, ".tensorflow.Features"),
        ("feature_lists", 2, field.TYPE_MESSAGE, ".tensorflow.FeatureLists"),
    )
    return message_class(file, "tensorflow.Example")
