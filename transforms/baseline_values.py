"""One row that stands for all: given by the config, or a statistic of rows, by the kind of each feature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from transforms.errors import UserError
from transforms.models.base import names_in_words
from transforms.schema import ExampleSchema, FeatureSpec, Fill, misfit
from transforms.spelling import nearest


def zeros(schema: ExampleSchema) -> dict[str, np.ndarray]:
    """A row of zeros and empty strings, by feature.

    Raises:
      UserError: A feature has categories, and that is none of them.
    """
    return {feature.name: _constant(feature, _zero(feature)) for feature in schema.features}


def _zero(feature: FeatureSpec) -> Fill:
    known = feature.categories
    if known is not None and known.code("" if known.strings else 0) is None:
        raise UserError(
            f"kind: zeros has no meaning for {feature.name}, which is one of {known.words()}",
            "baseline.kind",
            "use mode, sample or constant",
        )
    if known is not None:
        return "" if known.strings else 0
    return "" if feature.dtype == "string" else 0


def _constant(feature: FeatureSpec, value: Fill) -> np.ndarray:
    if feature.dtype == "string":
        return np.full((1, *feature.shape), str(value).encode(), object)
    if feature.categories is not None:
        return feature.known(np.array([feature.categories.code(value)], np.dtype(feature.dtype)))
    return feature.known(np.full((1, *feature.shape), value, np.dtype(feature.dtype)))


def constants(value: Fill | Mapping[str, Fill], schema: ExampleSchema) -> dict[str, np.ndarray]:
    """A row of values that the config gives, by feature.

    Raises:
      UserError: One is missing, is of no feature, or is nothing that its feature takes.
    """
    names, key = [feature.name for feature in schema.features], "baseline.value"
    if value is None:
        raise UserError("kind: constant needs a value", key, "give a value for each feature, or one for all")
    by_name = value if isinstance(value, Mapping) else dict.fromkeys(names, value)
    if unknown := [name for name in by_name if name not in names]:
        near = nearest(unknown[0], names) or f"the features are {names_in_words(names, 12)}"
        raise UserError(f"{unknown[0]!r} is no feature", key, near)
    if missing := [name for name in names if name not in by_name]:
        raise UserError(f"no value for {names_in_words(missing)}", key, "give one for each feature")
    for feature in schema.features:
        given, known = by_name[feature.name], feature.categories
        wanted = misfit(given, feature.dtype) if known is None else None
        if known is not None and known.code(given) is None:
            wanted = f"one of {known.words()}"
        if wanted:
            raise UserError(
                f"{given!r} is no value for {feature.name}, which takes {wanted}", key, "give each its own"
            )
    return {feature.name: _constant(feature, by_name[feature.name]) for feature in schema.features}


def statistic(kind: str, feature: FeatureSpec, values: np.ndarray) -> np.ndarray:
    """Mean, median or mode, `[1, *shape]`; of what the model takes as categories or whole numbers the mode.

    The mean of two carriers is none, nor can a model that takes whole numbers be given 2.5.
    """
    measured = feature.dtype != "string" and np.dtype(feature.dtype).kind == "f"
    if kind == "mode" or feature.kind == "categorical" or not measured:
        flat = values.reshape(len(values), -1)
        modes = [_mode(flat[:, column]) for column in range(flat.shape[1])]
        found = np.empty(len(modes), values.dtype)
        found[:] = modes
        return found.reshape(1, *feature.shape)
    if feature.nan and np.isnan(values).any():
        return _of_known(kind, values, feature.dtype)
    found = values.mean(axis=0, dtype=np.float64) if kind == "mean" else np.median(values, axis=0)
    return np.asarray(found).astype(feature.dtype)[None]


def _of_known(kind: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """The same of the values that are known, `[1, *shape]`; NaN where none is."""
    found = np.full((1, *values.shape[1:]), np.nan, dtype)
    some = ~np.isnan(values).all(axis=0)
    of_known = np.nanmean if kind == "mean" else np.nanmedian
    found[0, some] = of_known(values[:, some].astype(np.float64), axis=0)
    return found


def _mode(values: np.ndarray) -> object:
    """The most frequent known value; the smallest of equally frequent ones; NaN where none is known."""
    if values.dtype.kind == "f" and not np.isnan(values).all():
        values = values[~np.isnan(values)]
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]
