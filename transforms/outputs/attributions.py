"""The attributions of a batch as an Arrow table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.arrow.value_text import as_text
from transforms.methods.base import Attribution
from transforms.outputs.layout import LABELLED_PAIR, PAIR, TableSpec, slice_names
from transforms.rows.decode import Rows
from transforms.rows.schema import ExampleSchema


def _value_array(values: np.ndarray | pa.Array, shape: Sequence[int]) -> pa.Array:
    """An array `[N, *shape]` as one Arrow column of nested fixed-size lists."""
    array = pa.array(values.reshape(-1)) if isinstance(values, np.ndarray) else values
    for extent in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, extent)
    return array


def attribution_table(
    rows: Rows,
    attribution: Attribution,
    split: Mapping[str, np.ndarray],
    targets: np.ndarray,
    target_names: np.ndarray,
    schema: ExampleSchema,
    output: TableSpec,
    arrow_schema: pa.Schema,
) -> pa.Table:
    """The attribution table of a batch, with one row per example and target; an example's rows are adjacent.

    Args:
      rows: The B examples.
      attribution: The attribution of the examples.
      split: φ by feature or group, `[B, T, *shape]`.
      targets: Output indices of each example's targets, `[B, T]`.
      target_names: Names of all targets, an object array.
      schema: The schema of the examples.
      output: The columns to write.
      arrow_schema: The schema of the table, from `attribution_schema`.
    """
    per_example = targets.shape[1]
    repeat = np.repeat(np.arange(len(rows)), per_example)
    flat = targets.reshape(-1)
    delta = attribution.convergence_delta
    columns: dict[str, Any] = {
        "example_id": pa.array(rows.ids[repeat] if per_example > 1 else rows.ids, pa.string()),
        "target": pa.array(flat.astype(np.int32)),
        "target_name": pa.array(target_names, pa.string()).take(pa.array(flat)),
        "prediction": pa.array(attribution.prediction.reshape(-1)),
        "output": pa.array(attribution.output.reshape(-1)),
        "base_value": pa.array(attribution.base_value.reshape(-1)),
        "convergence_delta": pa.nulls(len(flat), pa.float32())
        if delta is None
        else pa.array(delta.reshape(-1)),
    }
    if isinstance(output.attributions, int):
        columns["top"], columns["rest"] = _top(split, output.attributions, dict(output.labels))
    else:
        columns["attribution"] = _by_feature(split, schema)
    if output.standard_error and attribution.standard_error is not None:
        columns["standard_error"] = _by_feature(split_errors(attribution.standard_error, schema), schema)
    elif output.standard_error:
        columns["standard_error"] = pa.nulls(len(flat), arrow_schema.field("standard_error").type)
    if output.fit:
        fit = attribution.fit
        columns["fit"] = pa.nulls(len(flat), pa.float32()) if fit is None else pa.array(fit.reshape(-1))
    if output.features:
        columns["feature"] = _feature_values(rows, schema, repeat if per_example > 1 else None)
    if rows.weights is not None:
        columns["weight"] = pa.array(rows.weights[repeat])
    for name, column in slice_names(schema).items():
        array = rows.slices[name]
        columns[column] = array.take(pa.array(repeat)) if per_example > 1 else array
    return pa.table([columns[name] for name in arrow_schema.names], schema=arrow_schema)


def _feature_values(rows: Rows, schema: ExampleSchema, repeat: np.ndarray | None) -> pa.StructArray:
    values = []
    for feature in schema.features:
        array = rows.features[feature.name] if repeat is None else rows.features[feature.name][repeat]
        held: np.ndarray | pa.Array = array
        if feature.categories is not None:  # the table's readers do not know the codes
            held = feature.categories.of_codes(array)
        elif feature.dtype == "string":
            held = as_text(pa.array(array.reshape(-1), pa.binary()))
        values.append(_value_array(held, feature.shape))
    return pa.StructArray.from_arrays(values, names=[feature.name for feature in schema.features])


def split_errors(errors: Mapping[str, np.ndarray], schema: ExampleSchema) -> dict[str, np.ndarray]:
    """Standard errors by feature or group; the error of a group's sum assumes independent errors."""
    squared = schema.split({name: value.astype(np.float64) ** 2 for name, value in errors.items()})
    return {name: np.sqrt(value).astype(np.float32) for name, value in squared.items()}


def _by_feature(split: Mapping[str, np.ndarray], schema: ExampleSchema) -> pa.StructArray:
    names = list(schema.attributed)
    shapes = [schema.attributed_shape(name) for name in names]
    arrays = [_value_array(split[name], shape) for name, shape in zip(names, shapes, strict=True)]
    return pa.StructArray.from_arrays(arrays, names=names)


def feature_totals(split: Mapping[str, np.ndarray]) -> np.ndarray:
    """One φ per feature for each of N = B · T examples and targets, `[features, N]` float32.

    The φ of a feature with several values is their sum.
    """
    rows, targets = next(iter(split.values())).shape[:2]
    totals = np.empty((len(split), rows * targets), np.float32)
    for total, value in zip(totals, split.values(), strict=True):
        flat = value.reshape(rows * targets, -1)
        total[:] = flat[:, 0] if flat.shape[1] == 1 else flat.sum(axis=1, dtype=np.float64)
    return totals


def _top(split: Mapping[str, np.ndarray], k: int, labels: Mapping[str, str]) -> tuple[pa.Array, pa.Array]:
    """The k features with the largest |φ| in each row, and the sum of the φ of all other features.

    Features with equal |φ| are in the order of `split`. If `labels` is not empty, each pair has a label: that
    of the feature, or else the feature's name.
    """
    values = feature_totals(split).T.astype(np.float64)
    rows, k = len(values), min(k, values.shape[1])
    order = np.argsort(-np.abs(values), axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    places = pa.array(order[:, :k].reshape(-1))
    columns = [pa.array(list(split), pa.string()).take(places)]
    columns.append(pa.array(ordered[:, :k].reshape(-1).astype(np.float32)))
    if labels:
        columns.append(pa.array([labels.get(name, name) for name in split], pa.string()).take(places))
    pairs = pa.StructArray.from_arrays(columns, fields=list(LABELLED_PAIR if labels else PAIR))
    top = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * k), pairs)
    return top, pa.array(ordered[:, k:].sum(axis=1).astype(np.float32))
