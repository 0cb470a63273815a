"""Fits the file's columns to the model's inputs, and says what does not fit."""

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

#: How a column of pictures is stored by Hugging Face's datasets: a struct of these.
_BYTES, _PATH = ".bytes", ".path"


@dataclass(frozen=True)
class ColumnRequest:
    """The columns that the config gives a part to play."""

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
    """Decides which column goes where.

    Args:
      request: What the config says.
      signature: Of the model; None: it takes the columns as they are.
      columns: Of the input, in file order, with their types.
    Returns:
      The schema, complete.
    Raises:
      UserError: A column is missing, left over, of the wrong type or of the wrong size.
    """
    request = _with_pictures(request, columns, named=signature is None)
    _check_columns(request, columns)
    slicings = resolve_slicings(request.slices, columns)
    slices = columns_needed(slicings)
    spoken = {request.id, request.target, request.weight, *slices}
    if signature is None:
        signature = _of_columns(request, columns, spoken)
    for spec in signature.inputs:
        if spec.dtype != "string" and not is_number_type(spec.dtype):
            raise UserError(
                f"the model's input {spec.name!r} takes {spec.dtype}, which no column holds", "model.path"
            )
    if len(signature.inputs) == 1:
        features = _one_input(request, signature.inputs[0], columns, spoken)
    else:
        features = _by_name(request, signature, columns, spoken)
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
    """What the column that names the output of each row is looked up in; None: it holds indices.

    Raises:
      UserError: It holds neither indices nor classes.
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
            f"column {target!r} holds {held}, and the model's classes are others: {known.words()}",
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
    """The request with the bytes of a struct of pictures where it names the struct.

    Args:
      request: What the config says.
      columns: Of the input, with their types.
      named: Whether features name the model's inputs, as those of a function do: by the struct, then.
    """
    if request.features is None:
        return request

    def of(feature: FeatureRequest) -> FeatureRequest:
        found = feature.name not in columns and _holds_pictures(feature.name, columns)
        if not found:
            return feature
        feeds = feature.input or (feature.name if named else None)
        return replace(feature, name=feature.name + _BYTES, input=feeds)

    return replace(request, features=tuple(map(of, request.features)))


def _holds_pictures(name: str, columns: Mapping[str, pa.DataType]) -> bool:
    """Whether the name is that of a struct of a picture's bytes and its path."""
    kind = columns.get(name + _BYTES)
    return kind is not None and bool(pt.is_binary(storage(kind))) and name + _PATH in columns


def fed(feature: FeatureRequest, names: Set[str]) -> str:
    """Which of these inputs a feature feeds: what it says, that of its name, that of a struct's pictures."""
    if feature.input is None and feature.name not in names and feature.name.endswith(_BYTES):
        struct = feature.name.removesuffix(_BYTES)
        return struct if struct in names else feature.name
    return feature.feeds


def _check_columns(request: ColumnRequest, columns: Mapping[str, pa.DataType]) -> None:
    """Every column that the config names is there, once, and one value a row where that is needed."""
    parts = {"input.id": request.id, "model.target": request.target, "input.weight": request.weight}
    for key, part in parts.items():
        if part is None:
            continue
        _need(part, columns, key)
        if pt.is_nested(storage(columns[part])):
            what = f"column {part!r} holds {columns[part]}, and one value a row is needed"
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
    request: ColumnRequest, spec: InputSpec, columns: Mapping[str, pa.DataType], spoken: Set[str | None]
) -> list[FeatureSpec]:
    """Features of a model with one input: a vector of many columns, or one column that is the input."""
    wanted = size_of(spec.shape)
    if spec.values:
        chosen = by_value(request.features, spec, columns, spoken)
    elif request.features is not None:
        chosen = list(request.features)
    else:
        chosen = _guess(spec, columns, wanted, spoken, request.asides)
    for feature in chosen:
        if not spec.values and feature.input not in (None, spec.name):
            what = f"the model has no input {feature.input!r}: its one input is {spec.name!r}"
            raise UserError(what, f"{FEATURES} {feature.name}", "leave the key input out")
    return _side_by_side(chosen, spec, columns)


def _side_by_side(
    chosen: Sequence[FeatureRequest], spec: InputSpec, columns: Mapping[str, pa.DataType]
) -> list[FeatureSpec]:
    """Columns that are one input together, in this order."""
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
            f"the model's input {spec.name!r} takes {wanted} values a row, and the {len(features)} features "
            f"give {start}: {names_in_words([f.name for f in features], 60)}",
            FEATURES,
            TRAINED_ON,
        )
    return features


def _categories(spec: InputSpec, kinds: Sequence[pa.DataType]) -> Mapping[int, Categories]:
    """The categories of a vector's values, by place."""
    if spec.categories is None:
        return {}
    if len(kinds) != size_of(spec.shape) or any(width(kind) != 1 for kind in kinds):
        raise UserError(
            f"some of the {size_of(spec.shape)} values that the model takes are categories, and the "
            f"{len(kinds)} features are not a column for each",
            FEATURES,
            TRAINED_ON,
        )
    return spec.categories.at([is_text(kind) for kind in kinds])


def _guess(
    spec: InputSpec,
    columns: Mapping[str, pa.DataType],
    wanted: int | None,
    spoken: Set[str | None],
    asides: Set[str],
) -> list[FeatureRequest]:
    """The columns that have no other part and that fit, in file order."""
    free = {name: kind for name, kind in columns.items() if name not in spoken}
    if spec.name in free and fits(spec, free[spec.name], wanted):
        return [FeatureRequest(spec.name)]
    named_only = [name for name in free if name in asides]
    free = {name: kind for name, kind in free.items() if name not in asides}
    takes_text = spec.categories is not None
    usable = {n: kind for n, kind in free.items() if type_fits(spec, kind) or (takes_text and is_text(kind))}
    widths = [width(kind) for kind in usable.values()]
    total = None if None in widths else sum(count or 0 for count in widths)
    if usable and total is not None and wanted == total and len(squeezed(spec.shape)) <= 1:
        return [FeatureRequest(name) for name in usable]
    whole = [name for name, kind in free.items() if fits(spec, kind, wanted)]
    if not whole and not usable and spec.dtype != "string":
        # Tensors in bytes, perhaps: each says itself what it is, or it is refused.
        whole = [name for name, kind in free.items() if pt.is_binary(storage(kind))]
    if len(whole) == 1:
        return [FeatureRequest(whole[0])]
    other = [name for name in free if name not in usable]
    gives = "none" if not usable else f"{'a number that is not known' if total is None else total}"
    raise UserError(
        f"the model's input {spec.name!r} takes {wanted or 'some'} {spec.dtype} values a row, and the "
        f"columns that could be features give {gives}"
        + (f": {names_in_words(list(usable), 60)}" if usable else "")
        + (f" (of other types: {names_in_words(other)})" if other else "")
        + (f" (only where they are listed: {names_in_words(named_only, 12)})" if named_only else ""),
        FEATURES,
        f"{TRAINED_ON}, or give the others a part as id or slices",
    )


def _by_name(
    request: ColumnRequest,
    signature: Signature,
    columns: Mapping[str, pa.DataType],
    spoken: Set[str | None],
) -> list[FeatureSpec]:
    """Features of a model with several inputs: each is the column of its name, or what is said to feed it."""
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

    check_names(chosen, request.features is not None, list(inputs), columns, spoken, "inputs", rule, fitting)
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
    request: ColumnRequest, columns: Mapping[str, pa.DataType], spoken: Set[str | None]
) -> Signature:
    """What a function takes: each feature as an input of its own, of the column's type and shape."""
    chosen = request.features
    if chosen is None:
        chosen = tuple(
            FeatureRequest(name) for name in columns if name not in spoken and name not in request.asides
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
                raise UserError(f"{member!r} is no feature", key, remedy)
            if member in fixed:
                raise UserError(f"{member!r} is fixed, and a group moves", key, "leave one of the two out")
            if member in seen:
                raise UserError(
                    f"{member!r} is in the group {seen[member]!r} too", key, "keep it in one of them"
                )
            seen[member] = group
