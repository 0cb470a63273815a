"""tf.train.Example without TensorFlow, for the few records that are looked at one by one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

#: What each kind of feature holds.
KINDS = {"int64_list": pa.int64(), "float_list": pa.float32(), "bytes_list": pa.binary()}


def values_of(example: Any, name: str) -> tuple[str, Sequence[Any]]:
    """The kind of a feature of an Example, and its values; "" where it is missing or has none."""
    # Subscripting a map of messages would put there what it lacks.
    feature = example.features.feature.get(name)
    kind: str | None = None if feature is None else feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    return (kind, values) if kind and values else ("", ())


def decode(payload: bytes) -> Any | None:
    """The tf.train.Example in a payload; None where it is none."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    example = _example_class()()
    try:
        example.ParseFromString(payload)
    except DecodeError:
        return None
    return example


@functools.cache
def _example_class() -> Any:
    """tf.train.Example, built here so that planning a job does not import TensorFlow.

    In a pool of its own: TensorFlow registers the same names in the default one, whichever comes first.
    """
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
    )

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="attribeam/example.proto", package="tensorflow", syntax="proto3"
    )

    def message(parent: Any, name: str, *fields: tuple[str, int, int, str]) -> Any:
        made = parent.add(name=name)
        for label, number, kind, type_name in fields:
            repeated = label.endswith("*")
            made.field.add(
                name=label.rstrip("*"),
                number=number,
                type=kind,
                type_name=type_name or None,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
        return made

    lists = (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    )
    for name, kind in lists:
        message(file.message_type, name, ("value*", 1, kind, ""))
    members = [
        (name, number, field.TYPE_MESSAGE, f".tensorflow.{kind}")
        for number, (name, kind) in enumerate(
            (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
        )
    ]
    feature = message(file.message_type, "Feature", *members)
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    entry_type = ".tensorflow.Features.FeatureEntry"
    features = message(file.message_type, "Features", ("feature*", 1, field.TYPE_MESSAGE, entry_type))
    entry = message(
        features.nested_type,
        "FeatureEntry",
        ("key", 1, field.TYPE_STRING, ""),
        ("value", 2, field.TYPE_MESSAGE, ".tensorflow.Feature"),
    )
    entry.options.map_entry = True
    message(file.message_type, "Example", ("features", 1, field.TYPE_MESSAGE, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
