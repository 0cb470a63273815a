"""Fits the file's columns to the model's inputs, by the config or by what they are, and says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pyarrow as pa

from transforms.errors import UserError
from transforms.models.base import InputSpec, Signature, names_in_words
from transforms.schema import ExampleSchema, FeatureSpec, Fill


@dataclass(frozen=True)
class FeatureRequest:
    """A feature as the config has it: `kind` and `shape` may be left open."""

    name: str
    kind: str | None = None
    fill: Fill = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ColumnRequest:
    """The columns that the config gives a part to play."""

    features: tuple[FeatureRequest, ...] | None
    groups: Mapping[str, tuple[str, ...]]
    id: str | None
    slices: tuple[str, ...]
    target: str | None


def resolve(request: ColumnRequest, signature: Signature, columns: Mapping[str, pa.DataType]) -> ExampleSchema:
    """Decides which column goes where.

    Args:
      request: What the config says.
      signature: Of the model.
      columns: Of the input, in file order, with their types.
    Returns:
      The schema, complete.
    Raises:
      UserError: A column is missing, left over, of the wrong type or of the wrong size.
    """
    for key, name in (("input.id", request.id), ("model.target", request.target)):
        if name is not None:
            _need(name, columns, key)
    for name in request.slices:
        _need(name, columns, "input.slices")
    for feature in request.features or ():
        _need(feature.name, columns, "input.features")
    if len(signature.inputs) == 1:
        features = _one_input(request, signature.inputs[0], columns)
    else:
        features = _by_name(request, signature, columns)
    _check_groups(request, features)
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in signature.inputs:
        size = sum(feature.size for feature in features if feature.input == spec.name)
        shapes[spec.name] = _full_shape(spec, size, [f for f in features if f.input == spec.name])
    return ExampleSchema(
        tuple(features),
        shapes,
        {name: tuple(members) for name, members in request.groups.items()},
        None if request.id is None else (request.id, columns[request.id]),
        tuple((name, columns[name]) for name in request.slices),
        None if request.target is None else (request.target, columns[request.target]),
    )


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean a or b?`, or nothing."""
    close = get_close_matches(name, list(known), n=2, cutoff=0.6)
    lowered = {k.lower(): k for k in known}
    if not close and name.lower() in lowered:
        close = [lowered[name.lower()]]
    return f"did you mean {' or '.join(close)}?" if close else ""


def _need(name: str, columns: Mapping[str, pa.DataType], key: str) -> None:
    if name not in columns:
        raise UserError(
            f"the input has no column {name!r}",
            key,
            nearest(name, list(columns)) or f"its columns are {names_in_words(list(columns), 12)}",
        )


def _one_input(request: ColumnRequest, spec: InputSpec, columns: Mapping[str, pa.DataType]) -> list[FeatureSpec]:
    """Features of a model with one input: a vector of many columns, or one column that is the input."""
    wanted = _size(spec.shape)
    if request.features is not None:
        chosen = list(request.features)
    else:
        chosen = _guess(request, spec, columns, wanted)
    if len(chosen) > 1 and len(spec.shape) > 1 and wanted is not None and spec.shape[-1] != wanted:
        raise UserError(
            f"{len(chosen)} features are given, but the model's one input {spec.name!r} has the shape {spec.shape}",
            "input.features",
            "give the one column that holds it",
        )
    features, start = [], 0
    for feature in chosen:
        alone = spec.shape if len(chosen) == 1 else None
        found = _feature(feature, spec, columns[feature.name], start, alone)
        features.append(found)
        start += found.size
    if wanted is not None and start != wanted:
        raise UserError(
            f"the model's input {spec.name!r} takes {wanted} values a row, and {len(features)} "
            f"feature{'s' if len(features) != 1 else ''} give {start}: {names_in_words([f.name for f in features])}",
            "input.features",
            "list the columns that the model was trained on, in its order",
        )
    return features


def _guess(
    request: ColumnRequest, spec: InputSpec, columns: Mapping[str, pa.DataType], wanted: int | None
) -> list[FeatureRequest]:
    """The columns that are not spoken for and that fit, in file order."""
    spoken = {request.id, request.target, *request.slices}
    free = {name: kind for name, kind in columns.items() if name not in spoken}
    if spec.name in free and _fits(spec, free[spec.name], wanted):
        return [FeatureRequest(spec.name)]
    usable = {name: kind for name, kind in free.items() if _type_fits(spec, kind)}
    whole = [name for name, kind in free.items() if wanted and wanted > 1 and _fits(spec, kind, wanted)]
    widths = [_width(kind) for kind in usable.values()]
    if wanted is not None and None not in widths and sum(w or 0 for w in widths) == wanted:
        return [FeatureRequest(name) for name in usable]
    if len(whole) == 1:
        return [FeatureRequest(whole[0])]
    left = [name for name in free if name not in usable]
    raise UserError(
        f"the model's input {spec.name!r} takes {wanted or 'any number of'} {spec.dtype} values a row, and the input's "
        f"{len(usable)} usable columns do not come to that: {names_in_words(list(usable), 60)}"
        + (f" (of other types: {names_in_words(left)})" if left else ""),
        "input.features",
        "list the columns that the model was trained on, in its order, or give the others a part as id or slices",
    )


def _by_name(request: ColumnRequest, signature: Signature, columns: Mapping[str, pa.DataType]) -> list[FeatureSpec]:
    """Features of a model with several inputs: each input is the column of its name."""
    inputs = {spec.name: spec for spec in signature.inputs}
    if request.features is None:
        chosen = [FeatureRequest(name) for name in inputs if name in columns]
        spoken = {request.id, request.target, *request.slices}
        left = [name for name in columns if name not in inputs and name not in spoken]
    else:
        chosen = list(request.features)
        left = [feature.name for feature in chosen if feature.name not in inputs]
    missing = [name for name in inputs if name not in {feature.name for feature in chosen}]
    if missing or (request.features is not None and left):
        near = [f"{name} is near {close[0]}" for name in missing if (close := get_close_matches(name, left, n=1))]
        words = []
        if missing:
            words.append(f"the model's inputs {names_in_words(missing, 20)} have no column of their name")
        if left:
            words.append(f"left over: {names_in_words(left, 20)}")
        if near:
            words.append(f"{names_in_words(near)}")
        raise UserError("; ".join(words), "input.features", "a model with several inputs takes them by name")
    return [_feature(f, inputs[f.name], columns[f.name], 0, inputs[f.name].shape) for f in chosen]


def _feature(
    request: FeatureRequest, spec: InputSpec, stored: pa.DataType, start: int, alone: tuple[int | None, ...] | None
) -> FeatureSpec:
    where = f"input.features {request.name}"
    leaf = _leaf(stored)
    text = pa.types.is_string(leaf) or pa.types.is_binary(leaf)
    kind = request.kind
    if kind is None:
        pictured = pa.types.is_binary(leaf) and alone is not None and len(alone) == 3 and spec.dtype != "string"
        kind = "image" if pictured else "categorical" if spec.dtype == "string" else "numeric"
    if kind != "image" and not _type_fits(spec, stored):
        wants = "strings" if spec.dtype == "string" else f"{spec.dtype} numbers"
        remedy = "if it is a picture, give it kind: image and its shape" if text else None
        raise UserError(f"the column holds {stored}, the model's input {spec.name!r} takes {wants}", where, remedy)
    if kind == "image" and spec.dtype == "string":
        raise UserError("kind: image, but the model takes strings", where)
    shape = _shape(request, spec, stored, alone, where)
    fill = request.fill
    if fill is not None and isinstance(fill, str) != (spec.dtype == "string"):
        wants = "a string" if spec.dtype == "string" else "a number"
        raise UserError(f"fill: {fill!r}, and the model takes {spec.dtype}", where, f"give {wants}")
    return FeatureSpec(request.name, kind, spec.dtype, shape, stored, fill, spec.name, start)


def _shape(
    request: FeatureRequest,
    spec: InputSpec,
    stored: pa.DataType,
    alone: tuple[int | None, ...] | None,
    where: str,
) -> tuple[int, ...]:
    """The shape of a feature's value: the config's, else the model's, else the column's."""
    width = _width(stored)
    if request.shape is not None:
        shape = request.shape
    elif alone is not None and None not in alone and not (width == 1 and _size(alone) == 1):
        shape = tuple(extent for extent in alone if extent is not None)
        # A single value a row is a scalar to everybody but Keras.
        shape = () if shape == (1,) else shape
    elif width == 1:
        shape = ()
    elif width is not None:
        shape = _stored_shape(stored)
    else:
        raise UserError(
            f"neither the column ({stored}) nor the model's input {spec.name!r} {spec.shape} says how many values a "
            "row has",
            where,
            "give its shape",
        )
    size = int(np.prod(shape, dtype=np.int64))
    wanted = None if alone is None else _size(alone)
    if wanted is not None and size != wanted:
        raise UserError(f"shape {list(shape)} has {size} values, the model's input takes {wanted}", where)
    raw = pa.types.is_binary(_leaf(stored)) and spec.dtype != "string"
    if width is not None and width != size and not raw:
        raise UserError(f"the column holds {width} value{'s' if width != 1 else ''} a row, not {size}", where)
    return tuple(shape)


def _full_shape(spec: InputSpec, size: int, features: Sequence[FeatureSpec]) -> tuple[int, ...]:
    """The model input's shape with what it left open taken from the feature."""
    if None not in spec.shape:
        return tuple(extent for extent in spec.shape if extent is not None)
    if len(features) == 1 and len(features[0].shape) == len(spec.shape):
        return features[0].shape
    if len(spec.shape) == 1:
        return (size,)
    raise UserError(
        f"the model's input {spec.name!r} {spec.shape} leaves open what the feature's shape must say",
        f"input.features {features[0].name}",
        "give its shape",
    )


def _check_groups(request: ColumnRequest, features: Sequence[FeatureSpec]) -> None:
    names = [feature.name for feature in features]
    seen: dict[str, str] = {}
    for group, members in request.groups.items():
        if group in names and group not in members:
            raise UserError(f"group {group!r} has the name of a feature", "input.groups")
        for member in members:
            if member not in names:
                raise UserError(f"{member!r} is no feature", f"input.groups.{group}", nearest(member, names))
            if member in seen:
                raise UserError(f"{member!r} is in two groups, {seen[member]} and {group}", "input.groups")
            seen[member] = group


def _size(shape: Sequence[int | None]) -> int | None:
    """Values a row; None where an extent is open."""
    return None if None in shape else int(np.prod([extent or 0 for extent in shape], dtype=np.int64))


def _leaf(kind: pa.DataType) -> pa.DataType:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) else kind


def _stored_shape(kind: pa.DataType) -> tuple[int, ...]:
    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape)
    shape = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape)


def _width(kind: pa.DataType) -> int | None:
    """Values a row that the column's type promises; None for a list of any length."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    width = 1
    while True:
        if pa.types.is_fixed_size_list(kind):
            width, kind = width * kind.list_size, kind.value_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return None
        else:
            return width


def _type_fits(spec: InputSpec, kind: pa.DataType) -> bool:
    leaf = _leaf(kind)
    if spec.dtype == "string":
        return bool(pa.types.is_string(leaf) or pa.types.is_binary(leaf))
    return bool(
        pa.types.is_integer(leaf)
        or pa.types.is_floating(leaf)
        or pa.types.is_boolean(leaf)
        or pa.types.is_decimal(leaf)
        or pa.types.is_null(leaf)
    )


def _fits(spec: InputSpec, kind: pa.DataType, wanted: int | None) -> bool:
    """Whether one column can be the whole input."""
    picture = pa.types.is_binary(_leaf(kind)) and len(spec.shape) == 3 and spec.dtype != "string"
    if picture:
        return True
    width = _width(kind)
    return _type_fits(spec, kind) and (width is None or wanted is None or width == wanted)
