"""A list of features that names only what differs, made complete where that can be done in one way alone."""

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
    """The request with the features that its list leaves out, as they are.

    By name, where the model has names for its inputs or for the values of its one vector. A vector without
    names takes the file's columns without id, slices, weight and target, where these are as many values as it
    takes, in the file's order, of which the list must be a part: it may not say another. What is complete and
    what cannot be completed so stay as they are.

    Args:
      request: What the config says.
      signature: Of the model; None: it takes what is listed.
      columns: Of the input, in file order, with their types.
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


def said(request: ColumnRequest, signature: Signature | None, names: Sequence[str]) -> str | None:
    """That a list was completed, in words; None where it was not.

    Args:
      request: What the config says.
      signature: Of the model.
      names: Of all features.
    """
    listed = len(request.features or ())
    if not listed or listed >= len(names) or signature is None:
        return None
    named = len(signature.inputs) > 1 or signature.inputs[0].values
    order = "by the model's names" if named else "and all are in the file's order"
    return f"{listed} of {len(names):,} features are listed: the others are taken as they are, {order}"


def _by_spelling(spec: InputSpec, columns: Iterable[str]) -> dict[str, list[str]]:
    """The columns of a file by what the model calls them."""
    found: dict[str, list[str]] = {}
    for column in columns:
        found.setdefault(spelled(spec, column), []).append(column)
    return found


def _by_name(
    listed: Sequence[FeatureRequest], names: Sequence[str], columns: Mapping[str, Sequence[str]]
) -> list[FeatureRequest] | None:
    """All names that the model has, in its order; None where nothing can be added.

    Args:
      listed: By the config.
      names: Of the model.
      columns: Of the file, by the model's spelling; where it is that of several, none is taken.
    """
    spelling = {column: name for name, those in columns.items() for column in those}
    feeds = [feature.input or spelling.get(feature.name, feature.name) for feature in listed]
    if not set(feeds) <= set(names):
        return None  # which is told with all names beside it
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
    found: list[FeatureRequest] = []
    for name in names:
        found += own.get(name, [])
        if name in missing:
            found.append(FeatureRequest(missing[name]))
    return found


def _in_file_order(
    listed: Sequence[FeatureRequest],
    spec: InputSpec,
    request: ColumnRequest,
    columns: Mapping[str, pa.DataType],
) -> list[FeatureRequest] | None:
    """The columns of a vector without names; None where the list is whole, or of another order."""
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
