"""Baselines by the kind of each feature: of the config, a statistic of rows, or an earlier run's rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.rows.schema import ExampleSchema, FeatureSpec, Fill, misfit
from transforms.wording import did_you_mean, names_in_words

_EARLIER = "baseline.path"


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
        near = did_you_mean(unknown[0], names, f"the features are {names_in_words(names, 12)}")
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


def statistic(
    kind: str, feature: FeatureSpec, values: np.ndarray, lengths: np.ndarray | None = None
) -> np.ndarray:
    """Mean, median or mode, `[1, *shape]`; of what the model takes as categories or whole numbers the mode.

    The mean of two carriers is none, nor can a model that takes whole numbers be given 2.5. Of lists that are
    padded it is that of the steps of all rows, in each step: places mean little, and padding is no value.
    """
    if lengths is not None:
        steps = values[np.arange(values.shape[1]) < lengths[:, None]]
        if not len(steps):
            return np.full((1, *feature.shape), feature.pad_value, values.dtype)
        one = dataclasses.replace(feature, shape=feature.shape[1:], pad=None)
        return np.broadcast_to(statistic(kind, one, steps)[:, None], (1, *feature.shape)).copy()
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
    """The most frequent known value; the smallest of equally frequent ones; a missing one where none is."""
    if values.dtype == object:
        values = values[[value is not None for value in values]]
        if not len(values):
            return None
    elif values.dtype.kind == "f" and not np.isnan(values).all():
        values = values[~np.isnan(values)]
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


def of_earlier(
    there: Mapping[str, np.ndarray], categories: Mapping[str, Categories], schema: ExampleSchema
) -> dict[str, np.ndarray]:
    """The rows of an earlier run's baseline, which must have been of these features.

    Args:
      there: Its rows, `[R, *shape]` by feature.
      categories: What its codes mean.
      schema: Of the examples.
    Raises:
      UserError: The features differ.
    """
    names = [feature.name for feature in schema.features]
    remedy = "name a run of the same features, or choose another kind of baseline"
    if missing := [name for name in names if name not in there]:
        raise UserError(f"the baseline of that run has no {names_in_words(missing)}", _EARLIER, remedy)
    if more := [name for name in there if name not in names]:
        what = f"the baseline of that run has {names_in_words(more)}, no feature here"
        raise UserError(what, _EARLIER, remedy)
    for feature in schema.features:
        value = there[feature.name]
        kind = "string" if value.dtype == object else value.dtype.name
        if (kind, value.shape[1:]) != (feature.dtype, tuple(feature.shape)):
            what = (
                f"{feature.name} is {kind} {list(value.shape[1:])} in the baseline of that run, and "
                f"{feature.dtype} {list(feature.shape)} here"
            )
            raise UserError(what, _EARLIER, remedy)
    return {f.name: _recoded(f, there[f.name], categories.get(f.name)) for f in schema.features}


def _recoded(feature: FeatureSpec, codes: np.ndarray, known: Categories | None) -> np.ndarray:
    """Values of an earlier run's baseline, whose categories another model may have in another order."""
    mine = feature.categories
    remedy = "name a run of a model of the same categories, or choose another kind of baseline"
    if (known is None) != (mine is None):
        what = f"{feature.name} has categories in the model of one of the two runs alone"
        raise UserError(what, _EARLIER, remedy)
    if mine is None or known is None or mine.values == known.values:
        return codes
    words = known.of_codes(codes.reshape(-1).astype(np.float64))
    found, strange = mine.codes(words)
    if mine.reject and strange.any():
        one = words[int(strange.argmax())]
        what = f"{one} of {feature.name} in the baseline of that run is no category of this model"
        raise UserError(what, _EARLIER, remedy)
    return found.astype(codes.dtype).reshape(codes.shape)
