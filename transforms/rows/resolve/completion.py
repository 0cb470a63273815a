"""Completing a partial list of features, where there is only one way to do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from transforms.arrow.types import is_text, squeezed, width
from transforms.models.base import InputSpec, Signature
from transforms.rows.resolve.feature import FeatureRequest, size_of, type_fits
from transforms.rows.resolve.names import spelled
from transforms.rows.resolve.resolve import ColumnRequest
from transforms.slices.slicings import candidates


def completed(
    request: ColumnRequest, signature: Signature | None, columns: Mapping[str, pa.DataType]
) -> ColumnRequest:
    """The request with the features that its list leaves out, without options.

    The list is completed by name if the model names its inputs or the values of its only vector. For a vector
    without names, the columns other than id, slices, weight and target are taken in the file's order, if they
    have as many values as the vector and the list keeps to that order. A list that is complete, or that
    cannot be completed in this way, is not changed.

    Args:
      request: The columns that the config names.
      signature: The model's signature; None: the model takes the listed features.
      columns: The input's columns, in file order, with their types.
    """
    listed = request.features
    if not listed or signature is None:
        return request
    if len(signature.inputs) > 1:
        names = [spec.name for spec in signature.inputs]
        features = _by_name(listed, names, {name: [name] for name in columns})
    elif signature.inputs[0].values:
        features = _by_name(listed, signature.inputs[0].values, _by_spelling(signature.inputs[0], columns))
    else:
        features = _in_file_order(listed, signature.inputs[0], request, columns)
    return request if features is None else replace(request, features=tuple(features))


def completion_note(request: ColumnRequest, signature: Signature | None, names: Sequence[str]) -> str | None:
    """A sentence which says that a list was completed; None if it was not.

    Args:
      request: The columns that the config names.
      signature: The model's signature.
      names: The names of all features.
    """
    listed = len(request.features or ())
    if not listed or listed >= len(names) or signature is None:
        return None
    named = len(signature.inputs) > 1 or signature.inputs[0].values
    order = "by the model's names" if named else "and all are in the file's order"
    return f"{listed} of {len(names):,} features are listed: the others are taken as they are, {order}"


def _by_spelling(spec: InputSpec, columns: Iterable[str]) -> dict[str, list[str]]:
    """The columns of a file by the model's name for them."""
    columns_by_name: dict[str, list[str]] = {}
    for column in columns:
        columns_by_name.setdefault(spelled(spec, column), []).append(column)
    return columns_by_name


def _by_name(
    listed: Sequence[FeatureRequest], names: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> list[FeatureRequest] | None:
    """The features for all names of the model, in its order; None if nothing can be added.

    Args:
      listed: The features that the config lists.
      names: The model's names.
      columns: The file's columns by the model's spelling; a name with several columns is not completed.
    """
    spelling = {column: name for name, those in columns.items() for column in those}
    feeds = [feature.input or spelling.get(feature.name, feature.name) for feature in listed]
    if not set(feeds) <= set(names):
        return None  # `check_names` reports this, with all names
    used, fed = {feature.name for feature in listed}, set(feeds)
    missing = {
        name: columns[name][0]
        for name in names
        if name not in fed and len(columns.get(name, ())) == 1 and columns[name][0] not in used
    }
    if not missing:
        return None
    own: dict[str, list[FeatureRequest]] = {}
    for name, feature in zip(feeds, listed, strict=True):
        own.setdefault(name, []).append(feature)
    features: list[FeatureRequest] = []
    for name in names:
        features += own.get(name, [])
        if name in missing:
            features.append(FeatureRequest(missing[name]))
    return features


def _in_file_order(
    listed: Sequence[FeatureRequest],
    spec: InputSpec,
    request: ColumnRequest,
    columns: Mapping[str, pa.DataType],
) -> list[FeatureRequest] | None:
    """The features of a vector without names; None if the list is complete or in another order."""
    wanted = size_of(spec.shape)
    if wanted is None or len(squeezed(spec.shape)) > 1 or any(f.kind == "image" or f.shape for f in listed):
        return None
    own = {feature.name: feature for feature in listed}
    if not own.keys() <= columns.keys() or _width(own, columns) in (None, wanted):
        return None
    taken = {request.id, request.target, request.weight, *candidates(request.slices), *request.asides}
    free = [
        name
        for name, kind in columns.items()
        if name in own
        or (name not in taken and (type_fits(spec, kind) or (spec.categories is not None and is_text(kind))))
    ]
    if _width(free, columns) != wanted or [name for name in free if name in own] != list(own):
        return None
    return [own.get(name, FeatureRequest(name)) for name in free]


def _width(names: Sequence[str] | Mapping[str, object], columns: Mapping[str, pa.DataType]) -> int | None:
    widths = [width(columns[name]) for name in names]
    return None if None in widths else sum(each or 0 for each in widths)
