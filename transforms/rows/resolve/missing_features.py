"""Configured features that no sampled record has: their names are misspelt, or few records have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from transforms.errors import UserError
from transforms.models.base import Signature
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.resolve import ColumnRequest
from transforms.slices.slicings import candidates
from transforms.wording import did_you_mean, names_in_words


def named(request: ColumnRequest) -> list[str]:
    """The columns that the config names, and names in its slices that may be columns."""
    features = [feature.name for feature in request.features or ()]
    parts = (request.id, request.target, request.weight, *candidates(request.slices), *features)
    return [name for name in parts if name is not None]


def with_absent(
    request: ColumnRequest, signature: Signature | None, columns: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """The columns of a sample, and those that are missing from it but that the config can fill.

    Args:
      request: The columns that the config names.
      signature: The model's signature, which gives the types; None: the model takes any columns.
      columns: The columns of the sample, with their types.
    Raises:
      UserError: No sampled record has a feature, and the feature has neither `fill` nor `missing: keep`, or
        an unused column has almost the same name.
    """
    types = dict(columns)
    free = [name for name in columns if name not in named(request)]
    for feature in request.features or ():
        if feature.name in columns:
            continue
        near = did_you_mean(feature.name, free)
        needed = feature.fill is None and feature.missing != "keep"
        if near or needed:
            remedy = near or f"the records have {names_in_words(list(columns), 12)}"
            if needed:
                remedy += f"{' Or, if' if near else '; if'} only few records have it, give it a fill"
            raise UserError(
                f"no record in a sample from the whole input has {feature.name!r}",
                "input.features",
                remedy,
            )
        types[feature.name] = _expected(feature, request, signature)
    return types


def assumed(dtype: str, kind: str, shape: Sequence[int]) -> pa.DataType:
    """The Arrow type of a model input in a TFRecord, by its dtype: a list, unless the input is one value."""
    if kind == "image" or dtype == "string":
        value = pa.binary()
    else:
        value = pa.float32() if np.dtype(dtype).kind == "f" else pa.int64()
    one = kind == "image" or int(np.prod(shape, dtype=np.int64)) == 1
    return value if one else pa.list_(value)


def _expected(feature: FeatureRequest, request: ColumnRequest, signature: Signature | None) -> pa.DataType:
    dtype = "string" if isinstance(feature.fill, str) else "float32"
    shape: Sequence[int | None] = feature.shape or ()
    inputs = {} if signature is None else {spec.name: spec for spec in signature.inputs}
    spec = next(iter(inputs.values())) if len(inputs) == 1 else inputs.get(feature.feeds)
    if spec is not None:
        # A string can only fill a feature whose categories are strings.
        dtype = dtype if spec.categories is not None and dtype == "string" else spec.dtype
        whole = len(inputs) > 1 or len(request.features or ()) == 1
        if feature.shape is None and whole:
            shape = spec.shape
    # If the model leaves the shape open, `resolve` asks the user for it.
    return assumed(dtype, feature.kind or "", [0 if extent is None else extent for extent in shape])
