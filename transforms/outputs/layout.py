"""The layout of the attribution and rejected tables: their columns and types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from transforms.arrow.values import slice_type
from transforms.rows.schema import ExampleSchema, FeatureSpec

PAIR = pa.struct([("feature", pa.string()), ("attribution", pa.float32())])
LABELLED_PAIR = pa.struct([*PAIR, ("label", pa.string())])
REJECTED = pa.schema(
    [
        ("example_id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class TableSpec:
    """The columns that the attribution table has.

    Args:
      attributions: "all", "none", or the k of `top_k`.
      features: Whether to write the values of the features.
      standard_error: Whether to write standard errors; the method must estimate them.
      fit: Whether to write how well the method's local surrogate fits.
      labels: With `top_k`, pairs of a feature and its label, which are written with the top features.
    """

    attributions: str | int = "all"
    features: bool = False
    standard_error: bool = False
    fit: bool = False
    labels: tuple[tuple[str, str], ...] = ()


#: Names that slice columns must not have, because other columns of the tables may have them.
_OWN_NAMES = (
    *("example_id", "target", "target_name", "prediction", "output", "base_value", "convergence_delta"),
    *("attribution", "standard_error", "fit", "feature", "top", "rest", "weight"),
    *("kind", "key"),  # columns of the report's sample of rows
)


def attribution_schema(schema: ExampleSchema, output: TableSpec, metadata: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of the attribution table, with the run's metadata."""
    names = schema.attributed
    by_feature = pa.struct(
        [(name, _value_type(schema.attributed_shape(name), pa.float32())) for name in names]
    )
    fields = [
        ("example_id", pa.string()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("prediction", pa.float32()),
        ("output", pa.float32()),
        ("base_value", pa.float32()),
        ("convergence_delta", pa.float32()),
    ]
    if isinstance(output.attributions, int):
        pair = LABELLED_PAIR if output.labels else PAIR
        fields += [("top", pa.list_(pair)), ("rest", pa.float32())]
    else:
        fields.append(("attribution", by_feature))
    if output.standard_error:
        fields.append(("standard_error", by_feature))
    if output.fit:
        fields.append(("fit", pa.float32()))
    if output.features:
        values = [(f.name, _value_type(f.shape, _feature_type(f))) for f in schema.features]
        fields.append(("feature", pa.struct(values)))
    if schema.weight is not None:
        fields.append(("weight", pa.float64()))
    slices = slice_names(schema)
    fields += [(slices[name], slice_type(stored)) for name, stored in schema.slices]
    return pa.schema(fields, metadata=dict(metadata))


def slice_names(schema: ExampleSchema) -> dict[str, str]:
    """The name of each slice column in the table: its own name, prefixed by `slice_` if that is taken."""
    names: dict[str, str] = {}
    columns = {name for name, _ in schema.slices}
    for name, _ in schema.slices:
        names[name] = name
        while names[name] in _OWN_NAMES or (names[name] != name and names[name] in columns):
            names[name] = f"slice_{names[name]}"
    return names


def _feature_type(feature: FeatureSpec) -> pa.DataType:
    if feature.categories is not None:
        return feature.categories.type
    return pa.string() if feature.dtype == "string" else pa.from_numpy_dtype(np.dtype(feature.dtype))


def _value_type(shape: Sequence[int], leaf: pa.DataType) -> pa.DataType:
    for extent in reversed(shape):
        leaf = pa.list_(leaf, extent)
    return leaf
