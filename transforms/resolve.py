"""Fits the file's columns to the model's inputs, and says what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from transforms.arrow_types import extents, in_same_order, is_list, is_number, leaf, squeezed, storage, width
from transforms.errors import UserError
from transforms.models.base import InputSpec, Signature, names_in_words
from transforms.schema import ExampleSchema, FeatureSpec, Fill, misfit

_FEATURES = "input.features"
_TRAINED_ON = "list the columns that the model was trained on, in its order"


@dataclass(frozen=True)
class FeatureRequest:
    """A feature as the config has it: `kind` and `shape` may be left open."""

    name: str
    kind: str | None = None
    fill: Fill = None
    shape: tuple[int, ...] | None = None
    fixed: bool = False


@dataclass(frozen=True)
class ColumnRequest:
    """The columns that the config gives a part to play."""

    features: tuple[FeatureRequest, ...] | None
    groups: Mapping[str, tuple[str, ...]]
    id: str | None
    slices: tuple[str, ...]
    target: str | None


def resolve(
    request: ColumnRequest, signature: Signature, columns: Mapping[str, pa.DataType]
) -> ExampleSchema:
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
    _check_columns(request, columns)
    for spec in signature.inputs:
        if spec.dtype != "string" and not _is_number_type(spec.dtype):
            raise UserError(
                f"the model's input {spec.name!r} takes {spec.dtype}, which no column holds", "model.path"
            )
    if len(signature.inputs) == 1:
        features = _one_input(request, signature.inputs[0], columns)
    else:
        features = _by_name(request, signature, columns)
    if all(feature.fixed for feature in features):
        raise UserError("every feature is fixed, and none is left to explain", _FEATURES, "free some")
    _check_groups(request, features)
    shapes = {
        spec.name: _full_shape(spec, [feature for feature in features if feature.input == spec.name])
        for spec in signature.inputs
    }
    return ExampleSchema(
        tuple(features),
        shapes,
        {name: tuple(members) for name, members in request.groups.items()},
        None if request.id is None else (request.id, columns[request.id]),
        tuple((name, columns[name]) for name in request.slices),
        None if request.target is None else (request.target, columns[request.target]),
    )


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean a or b?`, or nothing."""
    close = _close(name, known)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _close(name: str, known: Sequence[str]) -> list[str]:
    # A name in the wrong case is nearer than any other spelling.
    alike = [other for other in known if other.lower() == name.lower()]
    return alike or get_close_matches(name, list(known), n=2, cutoff=0.6)


def _check_columns(request: ColumnRequest, columns: Mapping[str, pa.DataType]) -> None:
    """Every column that the config names is there, once, and one value a row where that is needed."""
    parts = [("input.id", request.id), ("model.target", request.target)]
    for key, part in [*parts, *(("input.slices", name) for name in request.slices)]:
        if part is None:
            continue
        _need(part, columns, key)
        if pt.is_nested(storage(columns[part])):
            what = f"column {part!r} holds {columns[part]}, and one value a row is needed"
            raise UserError(what, key, "name another column")
    if request.target is not None and not is_number(columns[request.target]):
        raise UserError(
            f"column {request.target!r} holds {columns[request.target]}, and an output's index is needed",
            "model.target",
            "name a column of whole numbers, or give the output itself",
        )
    names = [feature.name for feature in request.features or ()]
    for name in names:
        _need(name, columns, _FEATURES)
    _no_twice(names, _FEATURES)
    _no_twice(request.slices, "input.slices")
    if request.features is not None and not names:
        raise UserError("no feature is listed", _FEATURES, "list some, or leave the key out")


def _need(name: str, columns: Mapping[str, pa.DataType], key: str) -> None:
    if name not in columns:
        known = list(columns)
        remedy = nearest(name, known) or f"its columns are {names_in_words(known, 12)}"
        raise UserError(f"the input has no column {name!r}", key, remedy)


def _no_twice(names: Iterable[str], key: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{names_in_words(twice)} is listed twice", key, "list it once")


def _one_input(
    request: ColumnRequest, spec: InputSpec, columns: Mapping[str, pa.DataType]
) -> list[FeatureSpec]:
    """Features of a model with one input: a vector of many columns, or one column that is the input."""
    wanted = _size(spec.shape)
    chosen = (
        list(request.features) if request.features is not None else _guess(request, spec, columns, wanted)
    )
    if len(chosen) > 1 and len(spec.shape) > 1 and (wanted is None or len(squeezed(spec.shape)) > 1):
        raise UserError(
            f"{len(chosen)} features are given, and the model's one input {spec.name!r} has the shape "
            f"{_shown(spec.shape)}",
            _FEATURES,
            "give the one column that holds it",
        )
    features: list[FeatureSpec] = []
    start = 0
    for feature in chosen:
        alone = spec.shape if len(chosen) == 1 else None
        features.append(_feature(feature, spec, columns[feature.name], start, alone))
        start += features[-1].size
    if wanted is not None and start != wanted:
        raise UserError(
            f"the model's input {spec.name!r} takes {wanted} values a row, and the {len(features)} features "
            f"give {start}: {names_in_words([f.name for f in features], 60)}",
            _FEATURES,
            _TRAINED_ON,
        )
    return features


def _guess(
    request: ColumnRequest, spec: InputSpec, columns: Mapping[str, pa.DataType], wanted: int | None
) -> list[FeatureRequest]:
    """The columns that have no other part and that fit, in file order."""
    spoken = {request.id, request.target, *request.slices}
    free = {name: kind for name, kind in columns.items() if name not in spoken}
    if spec.name in free and _fits(spec, free[spec.name], wanted):
        return [FeatureRequest(spec.name)]
    usable = {name: kind for name, kind in free.items() if _type_fits(spec, kind)}
    widths = [width(kind) for kind in usable.values()]
    total = None if None in widths else sum(count or 0 for count in widths)
    if usable and total is not None and wanted == total and len(squeezed(spec.shape)) <= 1:
        return [FeatureRequest(name) for name in usable]
    whole = [name for name, kind in free.items() if _fits(spec, kind, wanted)]
    if len(whole) == 1:
        return [FeatureRequest(whole[0])]
    other = [name for name in free if name not in usable]
    gives = "none" if not usable else f"{'a number that is not known' if total is None else total}"
    raise UserError(
        f"the model's input {spec.name!r} takes {wanted or 'some'} {spec.dtype} values a row, and the "
        f"columns that could be features give {gives}"
        + (f": {names_in_words(list(usable), 60)}" if usable else "")
        + (f" (of other types: {names_in_words(other)})" if other else ""),
        _FEATURES,
        f"{_TRAINED_ON}, or give the others a part as id or slices",
    )


def _by_name(
    request: ColumnRequest, signature: Signature, columns: Mapping[str, pa.DataType]
) -> list[FeatureSpec]:
    """Features of a model with several inputs: each input is the column of its name."""
    inputs = {spec.name: spec for spec in signature.inputs}
    if request.features is None:
        chosen = [FeatureRequest(name) for name in inputs if name in columns]
        spoken = {request.id, request.target, *request.slices}
        left = [name for name in columns if name not in inputs and name not in spoken]
    else:
        chosen = list(request.features)
        left = [feature.name for feature in chosen if feature.name not in inputs]
    given = {feature.name for feature in chosen}
    missing = [name for name in inputs if name not in given]
    # Columns that nobody listed may be left over: a label, say.
    if missing or (request.features is not None and left):
        words, near = [], []
        if missing:
            lacking = (
                "have no column of their name" if request.features is None else "are not among the features"
            )
            words.append(f"the model's inputs {names_in_words(missing, 20)} {lacking}")
            pool = left or [name for name in columns if name not in given]
            near = [f"{close[0]} for {name}" for name in missing if (close := _close(name, pool))]
        if left:
            words.append(f"left over: {names_in_words(left, 20)}")
        remedy = f"did you mean {names_in_words(near)}? " if near else ""
        raise UserError(
            "; ".join(words),
            _FEATURES,
            f"{remedy}A model with several inputs takes them by name: {names_in_words(list(inputs), 20)}",
        )
    return [_feature(f, inputs[f.name], columns[f.name], 0, inputs[f.name].shape) for f in chosen]


def _feature(
    request: FeatureRequest,
    spec: InputSpec,
    stored: pa.DataType,
    start: int,
    alone: tuple[int | None, ...] | None,
) -> FeatureSpec:
    where = f"{_FEATURES} {request.name}"
    held = leaf(stored)
    kind = request.kind
    if kind is None:
        pictured = _is_picture(spec, stored) and alone is not None
        kind = "image" if pictured else "categorical" if spec.dtype == "string" else "numeric"
    if kind == "image":
        _check_image(spec, stored, where)
    elif not _type_fits(spec, stored):
        wants = "strings" if spec.dtype == "string" else f"{spec.dtype} numbers"
        mend = "store it as strings" if spec.dtype == "string" else "give a column of numbers"
        if pt.is_binary(held):
            mend = "if it is a picture, give it kind: image and its shape"
        raise UserError(
            f"the column holds {stored}, and the model's input {spec.name!r} takes {wants}", where, mend
        )
    shape = _shape(request, kind, spec, stored, alone, where)
    if request.fill is not None and (better := misfit(request.fill, spec.dtype)):
        raise UserError(f"fill: {request.fill!r}, and the model takes {spec.dtype}", where, f"give {better}")
    return FeatureSpec(
        request.name, kind, spec.dtype, shape, stored, request.fill, spec.name, start, request.fixed
    )


def _check_image(spec: InputSpec, stored: pa.DataType, where: str) -> None:
    if spec.dtype == "string" or (np.dtype(spec.dtype).kind != "f" and np.iinfo(spec.dtype).max < 255):
        raise UserError(
            f"kind: image gives 0 to 255, and the model takes {spec.dtype}", where, "leave kind out"
        )
    held, many = leaf(stored), is_list(storage(stored))
    if not (many and is_number(held)) and not pt.is_binary(storage(stored)) and not pt.is_null(held):
        mend = "store one picture a row" if many and pt.is_binary(held) else "leave kind out"
        raise UserError(f"the column holds {stored}, and an image is bytes or a list of numbers", where, mend)


def _shape(
    request: FeatureRequest,
    kind: str,
    spec: InputSpec,
    stored: pa.DataType,
    alone: tuple[int | None, ...] | None,
    where: str,
) -> tuple[int, ...]:
    """The shape of a feature's value: the config's, else the model's, else the column's."""
    values = None if kind == "image" and pt.is_binary(storage(stored)) else width(stored)
    wanted = None if alone is None else _size(alone)
    if request.shape is not None:
        shape = tuple(request.shape)
    elif alone is not None and None not in alone:
        # A single value a row is a scalar to everybody but Keras.
        shape = () if wanted == 1 and values in (1, None) else tuple(extent or 0 for extent in alone)
    elif values is not None:
        shape = extents(stored)
    else:
        raise UserError(
            f"neither the column ({stored}) nor the model's input {spec.name!r} {_shown(spec.shape)} says "
            "how many values a row has",
            where,
            "give its shape",
        )
    size = int(np.prod(shape, dtype=np.int64))
    if wanted is not None and (size != wanted or not in_same_order(shape, alone or ())):
        held, takes = (f"has {size} values", wanted) if size != wanted else ("is given", _shown(spec.shape))
        raise UserError(
            f"shape {list(shape)} {held}, and the model's input {spec.name!r} takes {takes}",
            where,
            f"give the shape {_shown(spec.shape)}",
        )
    if values is not None and values != size:
        raise UserError(
            f"the column holds {values} value{'s' * (values != 1)} a row, and {size} are needed",
            where,
            _TRAINED_ON,
        )
    if values is not None and not in_same_order(extents(stored), shape):
        raise UserError(
            f"the column holds the shape {list(extents(stored))}, and {list(shape)} is needed",
            where,
            "store it in that order",
        )
    return shape


def _full_shape(spec: InputSpec, features: Sequence[FeatureSpec]) -> tuple[int, ...]:
    """The model input's shape with what it left open taken from the feature."""
    if None not in spec.shape:
        return tuple(extent or 0 for extent in spec.shape)
    if len(spec.shape) == 1:
        return (sum(feature.size for feature in features),)
    shape = features[0].shape
    if len(shape) == len(spec.shape) and all(
        own in (None, given) for own, given in zip(spec.shape, shape, strict=True)
    ):
        return shape
    raise UserError(
        f"its shape is {list(shape)}, and the model's input {spec.name!r} takes {_shown(spec.shape)}",
        f"{_FEATURES} {features[0].name}",
        "give it a shape of that form",
    )


def _check_groups(request: ColumnRequest, features: Sequence[FeatureSpec]) -> None:
    names = [feature.name for feature in features]
    fixed = {feature.name for feature in features if feature.fixed}
    seen: dict[str, str] = {}
    for group, members in request.groups.items():
        key = f"input.groups.{group}"
        if not members:
            raise UserError("the group has no members", key, "list some, or leave it out")
        if group in names and group not in members:
            raise UserError(f"the group {group!r} has the name of a feature", key, "give it another name")
        _no_twice(members, key)
        for member in members:
            if member not in names:
                remedy = nearest(member, names) or f"the features are {names_in_words(names, 12)}"
                raise UserError(f"{member!r} is no feature", key, remedy)
            if member in fixed:
                raise UserError(f"{member!r} is fixed, and a group moves", key, "leave one of the two out")
            if member in seen:
                raise UserError(
                    f"{member!r} is in the group {seen[member]!r} too", key, "keep it in one of them"
                )
            seen[member] = group


def _size(shape: Sequence[int | None]) -> int | None:
    """Values a row; None where an extent is open."""
    return None if None in shape else int(np.prod([extent or 0 for extent in shape], dtype=np.int64))


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if extent is None else str(extent) for extent in shape)}]"


def _is_number_type(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def _type_fits(spec: InputSpec, kind: pa.DataType) -> bool:
    held = leaf(kind)
    if spec.dtype == "string":
        return bool(pt.is_string(held) or pt.is_binary(held) or pt.is_null(held))
    return is_number(held)


def _is_picture(spec: InputSpec, kind: pa.DataType) -> bool:
    return bool(pt.is_binary(storage(kind)) and len(spec.shape) == 3 and spec.dtype != "string")


def _fits(spec: InputSpec, kind: pa.DataType, wanted: int | None) -> bool:
    """Whether one column can be the whole input."""
    if _is_picture(spec, kind):
        return True
    return _type_fits(spec, kind) and (wanted is None or width(kind) in (None, wanted))
