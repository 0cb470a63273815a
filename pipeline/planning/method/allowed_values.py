"""Describes the allowed values of a method's keys, from the types of its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints


def allowed_values(method: Any) -> dict[str, str]:
    """The allowed values by key, such as "auto | a whole number, 4 to 1,000,000"."""
    from pydantic import TypeAdapter

    hints = get_type_hints(method, include_extras=True)
    keys = [field.name for field in dataclasses.fields(method)]
    return {key: _schema_in_words(TypeAdapter(hints[key]).json_schema()) for key in keys}


def _schema_in_words(schema: Mapping[str, Any]) -> str:
    """The JSON schema of one value in words."""
    if "anyOf" in schema:
        parts = [_schema_in_words(part) for part in schema["anyOf"]]
        return " | ".join(sorted(parts, key=lambda text: text == "none"))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = schema.get("type")
    if kind == "array":
        each = _schema_in_words(schema["items"]).removeprefix("a ")
        return f"a list; each item is a {each}"
    names = {"integer": "a whole number", "number": "a number", "boolean": "true | false", "null": "none"}
    return names.get(str(kind), str(kind)) + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high = schema.get("maximum")
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    parts = [
        f"at least {_number(low)}"
        if low is not None
        else f"above {_number(above)}"
        if above is not None
        else ""
    ]
    parts.append(f"at most {_number(high)}" if high is not None else "")
    limits = ", ".join(part for part in parts if part)
    return f", {limits}" if limits else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
