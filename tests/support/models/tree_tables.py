"""Tables through the decoder into a tree model, without a pipeline; no tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from transforms.models.base import ModelAdapter, ScoredModel
from transforms.models.load import ModelRequest, load_model
from transforms.rows.decode import Rows, decode
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.resolve import ColumnRequest, resolve
from transforms.rows.schema import ExampleSchema
from transforms.sources.base import RawBatch, Rejection


@dataclass
class Decoded:
    """A table as a model takes it.

    Args:
      schema: Of the columns.
      rows: The usable ones.
      rejected: The others.
      scores: `[B, T]` of the usable rows.
      outputs: Likewise.
    """

    adapter: ModelAdapter
    model: ScoredModel
    schema: ExampleSchema
    rows: Rows
    rejected: list[Rejection]
    scores: np.ndarray
    outputs: np.ndarray

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return self.schema.assemble(self.rows.features)


def through(
    path: str,
    table: pa.Table,
    *,
    features: tuple[FeatureRequest, ...] | None = None,
    score: str = "auto",
    target: str | None = None,
    missing: float | None = None,
) -> Decoded:
    """What becomes of a table's rows with a model."""
    more = {} if missing is None else {"missing": missing}
    adapter = load_model(ModelRequest(path, allow_unsafe=True, **more))
    # A file's dictionaries count as their values.
    kinds = {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in table.schema}
    schema = resolve(ColumnRequest(features, {}, None, (), target), adapter.signature, kinds)
    assert adapter.signature is not None
    batch = table.select([name for name, _ in schema.columns]).combine_chunks().to_batches()[0]
    raw = RawBatch(batch, np.arange(len(batch)), ())
    rows, rejected = decode(raw, schema, "rows", 0, len(adapter.signature.target_names))
    inputs = schema.assemble(rows.features)
    model = adapter.scored(
        {name: value.shape[1:] for name, value in inputs.items()}, score, affine_prefix=True, example=inputs
    )
    scores, outputs = model.evaluate(inputs)
    return Decoded(adapter, model, schema, rows, rejected, scores, outputs)
