"""Building protocol buffer classes by hand, so that planning a job does not import TensorFlow."""

from __future__ import annotations

from typing import Any


def message_type(parent: Any, name: str, *fields: tuple[str, int, int, str]) -> Any:
    """Adds a message to a file's or a message's descriptors.

    Args:
      parent: The `message_type` of a file, or the `nested_type` of a message.
      name: The message's name.
      fields: For each field its name, with a star if repeated, its number, its type and the type's name.
    """
    from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]

    kinds = descriptor_pb2.FieldDescriptorProto
    made = parent.add(name=name)
    for label, number, kind, type_name in fields:
        made.field.add(
            name=label.rstrip("*"),
            number=number,
            type=kind,
            type_name=type_name or None,
            label=kinds.LABEL_REPEATED if label.endswith("*") else kinds.LABEL_OPTIONAL,
        )
    return made


def message_class(file: Any, name: str) -> Any:
    """The class of a message in a file, in a pool apart from TensorFlow's messages of the same names."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
