"""Matching the file's columns to the model's inputs, with errors for what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.types as pt

from transforms.arrow.types import is_number, is_text, squeezed, storage, width
from transforms.errors import UserError
from transforms.models.base import InputSpec, Signature
from transforms.models.categories import Categories
from transforms.rows.resolve.feature import (
    FEATURES,
    TRAINED_ON,
    FeatureRequest,
    feature_spec,
    fits,
    free_input,
    full_shape,
    is_number_type,
    shown,
    size_of,
    type_fits,
)
from transforms.rows.resolve.names import by_value, check_names
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.slices.slicings import SliceRequest, columns_needed, resolve_slicings
from transforms.wording import did_you_mean, names_in_words

#: Fields of the struct in which Hugging Face's datasets store pictures.
_BYTES, _PATH = ".bytes", ".path"


@dataclass(frozen=True)
class ColumnRequest:
    """The columns that the config names, by their roles."""

    features: tuple[FeatureRequest, ...] | None
    groups: Mapping[str, tuple[str, ...]]
    id: str | None
    slices: tuple[SliceRequest, ...]
    target: str | None
    weight: str | None = None
    asides: frozenset[str] = frozenset()  # features only where the config or the model names them


def resolve(
    request: ColumnRequest, signature: Signature | None, columns: Mapping[str, pa.DataType]
) -> ExampleSchema:
    """Decides which column feeds which part of the model's inputs.

    Args:
      request: The columns that the config names.
      signature: The model's signature; None: the model takes the columns as they are.
      columns: The input's columns, in file order, with their types.
    Returns:
      The schema, complete.
    Raises:
      UserError: A column is missing, left over, of the wrong type or of the wrong size.
    """
    request = _with_pictures(request, columns, named=signature is None)
    _check_columns(request, columns)
    slicings = resolve_slicings(request.slices, columns)
    slices = columns_needed(slicings)
    reserved = {request.id, request.target, request.weight, *slices}
    if signature is None:
        signature = _of_columns(request, columns, reserved)
    for spec in signature.inputs:
        if spec.dtype != "string" and not is_number_type(spec.dtype):
            raise UserError(
                f"the model's input {spec.name!r} takes {spec.dtype}, which no column holds", "model.path"
            )
    if len(signature.inputs) == 1:
        features = _one_input(request, signature.inputs[0], columns, reserved)
    else:
        features = _by_name(request, signature, columns, reserved)
    if all(feature.fixed for feature in features):
        raise UserError("every feature is fixed, and none is left to explain", FEATURES, "free some")
    _check_groups(request, features)
    shapes = {
        spec.name: full_shape(spec, [feature for feature in features if feature.input == spec.name])
        for spec in signature.inputs
    }
    return ExampleSchema(
        tuple(features),
        shapes,
        {name: tuple(members) for name, members in request.groups.items()},
        None if request.id is None else (request.id, columns[request.id]),
        tuple((name, columns[name]) for name in slices),
        None if request.target is None else (request.target, columns[request.target]),
        None if request.weight is None else (request.weight, columns[request.weight]),
        slicings,
        _classes(request.target, signature, columns),
    )


def _classes(
    target: str | None, signature: Signature, columns: Mapping[str, pa.DataType]
) -> Categories | None:
    """The classes in which the target column is looked up; None: the column holds indices of outputs.

    Raises:
      UserError: The column holds neither indices nor classes.
    """
    if target is None:
        return None
    held, known = columns[target], Categories(signature.classes, reject=True)
    if signature.classes and known.misfit(held) is None:
        return known
    if is_number(held) and (not signature.classes or known.strings):
        return None
    if signature.classes:
        raise UserError(
            f"column {target!r} holds {held}, but the model's classes are {known.words()}",
            "model.target",
            "name a column of classes, or give one of them",
        )
    raise UserError(
        f"column {target!r} holds {held}, and an output's index is needed",
        "model.target",
        "name a column of whole numbers, or give the output itself",
    )


def _with_pictures(
    request: ColumnRequest, columns: Mapping[str, pa.DataType], *, named: bool
) -> ColumnRequest:
    """The request with each struct of pictures replaced by its field of bytes.

    Args:
      request: The columns that the config names.
      columns: The input's columns, with their types.
      named: Whether features feed inputs of their own name, as in a function: then the struct's name counts.
    """
    if request.features is None:
        return request

    def with_bytes(feature: FeatureRequest) -> FeatureRequest:
        if feature.name in columns or not _holds_pictures(feature.name, columns):
            return feature
        feeds = feature.input or (feature.name if named else None)
        return replace(feature, name=feature.name + _BYTES, input=feeds)

    return replace(request, features=tuple(map(with_bytes, request.features)))


def _holds_pictures(name: str, columns: Mapping[str, pa.DataType]) -> bool:
    """True for the name of a struct with a picture's bytes and path."""
    dtype = columns.get(name + _BYTES)
    return dtype is not None and bool(pt.is_binary(storage(dtype))) and name + _PATH in columns


def fed(feature: FeatureRequest, names: Set[str]) -> str:
    """The name of the input that a feature feeds: the one it states, else its own or its struct's name."""
    if feature.input is None and feature.name not in names and feature.name.endswith(_BYTES):
        struct = feature.name.removesuffix(_BYTES)
        return struct if struct in names else feature.name
    return feature.feeds


def _check_columns(request: ColumnRequest, columns: Mapping[str, pa.DataType]) -> None:
    """Checks that every column that the config names exists, once, with one value per row where needed."""
    parts = {"input.id": request.id, "model.target": request.target, "input.weight": request.weight}
    for key, part in parts.items():
        if part is None:
            continue
        _need(part, columns, key)
        if pt.is_nested(storage(columns[part])):
            what = f"column {part!r} holds {columns[part]}, and one value per row is needed"
            raise UserError(what, key, "name another column")
    if request.weight is not None and not is_number(columns[request.weight]):
        raise UserError(
            f"column {request.weight!r} holds {columns[request.weight]}, and weights are numbers",
            "input.weight",
            "name a column of numbers",
        )
    names = [feature.name for feature in request.features or ()]
    for name in names:
        _need(name, columns, FEATURES)
    _no_twice(names, FEATURES)
    if request.features is not None and not names:
        raise UserError("no feature is listed", FEATURES, "list some, or leave the key out")


def _need(name: str, columns: Mapping[str, pa.DataType], key: str) -> None:
    if name not in columns:
        known = list(columns)
        remedy = did_you_mean(name, known, f"its columns are {names_in_words(known, 12)}")
        raise UserError(f"the input has no column {name!r}", key, remedy)


def _no_twice(names: Iterable[str], key: str, remedy: str = "list it once") -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{names_in_words(twice)} is listed twice", key, remedy)


def _one_input(
    request: ColumnRequest, spec: InputSpec, columns: Mapping[str, pa.DataType], reserved: Set[str | None]
) -> list[FeatureSpec]:
    """Features of a model with one input: a vector of many columns, or one column that is the input."""
    wanted = size_of(spec.shape)
    if spec.values:
        chosen = by_value(request.features, spec, columns, reserved)
    elif request.features is not None:
        chosen = list(request.features)
    else:
        chosen = _guess(spec, columns, wanted, reserved, request.asides)
    for feature in chosen:
        if not spec.values and feature.input not in (None, spec.name):
            what = f"the model has no input {feature.input!r}: its one input is {spec.name!r}"
            raise UserError(what, f"{FEATURES} {feature.name}", "leave the key input out")
    return _side_by_side(chosen, spec, columns)


def _side_by_side(
    chosen: Sequence[FeatureRequest], spec: InputSpec, columns: Mapping[str, pa.DataType]
) -> list[FeatureSpec]:
    """The features of columns that together fill one input, in this order."""
    wanted = size_of(spec.shape)
    if len(chosen) > 1 and len(spec.shape) > 1 and (wanted is None or len(squeezed(spec.shape)) > 1):
        raise UserError(
            f"{len(chosen)} features are given, and the model's input {spec.name!r} has the shape "
            f"{shown(spec.shape)}",
            FEATURES,
            "give the one column that holds it",
        )
    features: list[FeatureSpec] = []
    start = 0
    categories = _categories(spec, [columns[feature.name] for feature in chosen])
    for feature in chosen:
        alone = spec.shape if len(chosen) == 1 else None
        known = categories.get(start)
        features.append(feature_spec(feature, spec, columns[feature.name], start, alone, known))
        start += features[-1].size
    if wanted is not None and start != wanted:
        raise UserError(
            f"the model's input {spec.name!r} takes {wanted} values per row, and the "
            f"{len(features)} features give {start}: {names_in_words([f.name for f in features], 60)}",
            FEATURES,
            TRAINED_ON,
        )
    return features


def _categories(spec: InputSpec, kinds: Sequence[pa.DataType]) -> Mapping[int, Categories]:
    """The categories of a vector's values, by position."""
    if spec.categories is None:
        return {}
    if len(kinds) != size_of(spec.shape) or any(width(kind) != 1 for kind in kinds):
        raise UserError(
            f"some of the {size_of(spec.shape)} values that the model takes are categories, but the "
            f"{len(kinds)} features are not one column for each value",
            FEATURES,
            TRAINED_ON,
        )
    return spec.categories.at([is_text(kind) for kind in kinds])


def _guess(
    spec: InputSpec,
    columns: Mapping[str, pa.DataType],
    wanted: int | None,
    reserved: Set[str | None],
    asides: Set[str],
) -> list[FeatureRequest]:
    """The columns without another role that fit, in file order."""
    free = {name: dtype for name, dtype in columns.items() if name not in reserved}
    if spec.name in free and fits(spec, free[spec.name], wanted):
        return [FeatureRequest(spec.name)]
    named_only = [name for name in free if name in asides]
    free = {name: dtype for name, dtype in free.items() if name not in asides}
    takes_text = spec.categories is not None
    usable = {
        n: dtype for n, dtype in free.items() if type_fits(spec, dtype) or (takes_text and is_text(dtype))
    }
    widths = [width(dtype) for dtype in usable.values()]
    total = None if None in widths else sum(count or 0 for count in widths)
    if usable and total is not None and wanted == total and len(squeezed(spec.shape)) <= 1:
        return [FeatureRequest(name) for name in usable]
    whole = [name for name, dtype in free.items() if fits(spec, dtype, wanted)]
    if not whole and not usable and spec.dtype != "string":
        # Columns of bytes may hold tensors; `with_encodings` refuses those that do not.
        whole = [name for name, dtype in free.items() if pt.is_binary(storage(dtype))]
    if len(whole) == 1:
        return [FeatureRequest(whole[0])]
    other = [name for name in free if name not in usable]
    gives = "none" if not usable else f"{'an unknown number' if total is None else total}"
    raise UserError(
        f"the model's input {spec.name!r} takes {wanted or 'some'} {spec.dtype} values per row, and the "
        f"columns that could be features give {gives}"
        + (f": {names_in_words(list(usable), 60)}" if usable else "")
        + (f" (of other types: {names_in_words(other)})" if other else "")
        + (f" (only if they are listed: {names_in_words(named_only, 12)})" if named_only else ""),
        FEATURES,
        f"{TRAINED_ON}, or use the others as id or slices",
    )


def _by_name(
    request: ColumnRequest,
    signature: Signature,
    columns: Mapping[str, pa.DataType],
    reserved: Set[str | None],
) -> list[FeatureSpec]:
    """Features of a model with several inputs, each fed by the column of its name or as the config says."""
    inputs = {spec.name: spec for spec in signature.inputs}
    if request.features is None:
        chosen = [FeatureRequest(name) for name in inputs if name in columns]
        # A struct of pictures feeds the input of its name.
        structs = [name for name in inputs if name not in columns and _holds_pictures(name, columns)]
        chosen += [FeatureRequest(name + _BYTES, input=name) for name in structs]
    else:
        chosen = [replace(feature, input=fed(feature, inputs.keys())) for feature in request.features]
    rule = "A model with several inputs takes them by name"

    def fitting(column: str, name: str) -> bool:
        return fits(inputs[name], columns[column], size_of(inputs[name].shape))

    check_names(
        chosen, request.features is not None, list(inputs), columns, reserved, "inputs", rule, fitting
    )
    members: dict[str, list[FeatureRequest]] = {}
    for feature in chosen:
        members.setdefault(feature.feeds, []).append(feature)
    specs = {
        feature.name: feature
        for name, parts in members.items()
        for feature in _side_by_side(parts, inputs[name], columns)
    }
    return [specs[feature.name] for feature in chosen]


def _of_columns(
    request: ColumnRequest, columns: Mapping[str, pa.DataType], reserved: Set[str | None]
) -> Signature:
    """The signature of a function: each feature is an input of its own, with the column's type and shape."""
    chosen = request.features
    if chosen is None:
        chosen = tuple(
            FeatureRequest(name) for name in columns if name not in reserved and name not in request.asides
        )
    if not chosen:
        raise UserError("no column is left for the function", FEATURES, "list some")
    _no_twice([feature.feeds for feature in chosen], f"{FEATURES}: input", "feed each input once")
    return Signature(tuple(free_input(feature, columns[feature.name]) for feature in chosen), ())


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
                remedy = did_you_mean(member, names, f"the features are {names_in_words(names, 12)}")
                raise UserError(f"{member!r} is not a feature", key, remedy)
            if member in fixed:
                raise UserError(
                    f"{member!r} is fixed, but features of a group vary", key, "leave one of the two out"
                )
            if member in seen:
                raise UserError(
                    f"{member!r} is in the group {seen[member]!r} too", key, "keep it in one of them"
                )
            seen[member] = group
