"""Values of baselines, feature by feature: from the config, statistics of rows, or an earlier run's rows."""

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
      UserError: A feature has categories, and neither zero nor the empty string is one of them.
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
    """A row of values from the config, by feature.

    Raises:
      UserError: A value is missing, names an unknown feature, or does not fit its feature.
    """
    names, key = [feature.name for feature in schema.features], "baseline.value"
    if value is None:
        raise UserError("kind: constant needs a value", key, "give a value for each feature, or one for all")
    by_name = value if isinstance(value, Mapping) else dict.fromkeys(names, value)
    if unknown := [name for name in by_name if name not in names]:
        near = did_you_mean(unknown[0], names, f"the features are {names_in_words(names, 12)}")
        raise UserError(f"{unknown[0]!r} is not a feature", key, near)
    if missing := [name for name in names if name not in by_name]:
        raise UserError(f"no value for {names_in_words(missing)}", key, "give one for each feature")
    for feature in schema.features:
        given, known = by_name[feature.name], feature.categories
        wanted = misfit(given, feature.dtype) if known is None else None
        if known is not None and known.code(given) is None:
            wanted = f"one of {known.words()}"
        if wanted:
            raise UserError(
                f"{given!r} does not fit {feature.name}, which takes {wanted}", key, "give each its own value"
            )
    return {feature.name: _constant(feature, by_name[feature.name]) for feature in schema.features}


def statistic(
    kind: str, feature: FeatureSpec, values: np.ndarray, lengths: np.ndarray | None = None
) -> np.ndarray:
    """The mean, median or mode, `[1, *shape]`; always the mode for categories and whole numbers.

    Categories have no mean, and a model that takes whole numbers cannot be given 2.5. In padded lists,
    the statistic is taken over the steps of all rows, and every step gets it: a step's place in its list
    means little, and padding does not count.
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
        result = np.empty(len(modes), values.dtype)
        result[:] = modes
        return result.reshape(1, *feature.shape)
    if feature.nan and np.isnan(values).any():
        return _of_known(kind, values, feature.dtype)
    result = values.mean(axis=0, dtype=np.float64) if kind == "mean" else np.median(values, axis=0)
    return np.asarray(result).astype(feature.dtype)[None]


def _of_known(kind: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """The mean or median of the values that are not NaN, `[1, *shape]`; NaN where all are."""
    result = np.full((1, *values.shape[1:]), np.nan, dtype)
    has_known = ~np.isnan(values).all(axis=0)
    of_known = np.nanmean if kind == "mean" else np.nanmedian
    result[0, has_known] = of_known(values[:, has_known].astype(np.float64), axis=0)
    return result


def _mode(values: np.ndarray) -> object:
    """The most frequent known value, on a tie the smallest; a missing value if none is known."""
    if values.dtype == object:
        values = values[[value is not None for value in values]]
        if not len(values):
            return None
    elif values.dtype.kind == "f" and not np.isnan(values).all():
        values = values[~np.isnan(values)]
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts.argmax()]


def of_earlier(
    earlier: Mapping[str, np.ndarray], categories: Mapping[str, Categories], schema: ExampleSchema
) -> dict[str, np.ndarray]:
    """The rows of an earlier run's baseline, whose features must be those of this run.

    Args:
      earlier: Rows of the earlier run's baseline, `[R, *shape]` by feature.
      categories: The categories that their codes stand for.
      schema: The examples' schema.
    Raises:
      UserError: The features differ.
    """
    names = [feature.name for feature in schema.features]
    remedy = "name a run of the same features, or choose another kind of baseline"
    if missing := [name for name in names if name not in earlier]:
        raise UserError(f"the baseline of that run has no {names_in_words(missing)}", _EARLIER, remedy)
    if more := [name for name in earlier if name not in names]:
        what = f"the baseline of that run has {names_in_words(more)}, which this run has not"
        raise UserError(what, _EARLIER, remedy)
    for feature in schema.features:
        value = earlier[feature.name]
        kind = "string" if value.dtype == object else value.dtype.name
        if (kind, value.shape[1:]) != (feature.dtype, tuple(feature.shape)):
            what = (
                f"{feature.name} is {kind} {list(value.shape[1:])} in the baseline of that run, but "
                f"{feature.dtype} {list(feature.shape)} here"
            )
            raise UserError(what, _EARLIER, remedy)
    return {f.name: _recoded(f, earlier[f.name], categories.get(f.name)) for f in schema.features}


def _recoded(feature: FeatureSpec, codes: np.ndarray, known: Categories | None) -> np.ndarray:
    """Values of an earlier run's baseline, recoded where this model has its categories in another order."""
    mine = feature.categories
    remedy = "name a run of a model of the same categories, or choose another kind of baseline"
    if (known is None) != (mine is None):
        what = f"{feature.name} has categories in only one of the two runs' models"
        raise UserError(what, _EARLIER, remedy)
    if mine is None or known is None or mine.values == known.values:
        return codes
    words = known.of_codes(codes.reshape(-1).astype(np.float64))
    recoded, strange = mine.codes(words)
    if mine.reject and strange.any():
        one = words[int(strange.argmax())]
        what = f"{one} of {feature.name} in the baseline of that run is not a category of this model"
        raise UserError(what, _EARLIER, remedy)
    return recoded.astype(codes.dtype).reshape(codes.shape)
