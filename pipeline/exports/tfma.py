"""TensorFlow Model Analysis (TFMA): Parquet files of extracts for its attribution metrics.

`TotalAttributions`, `TotalAbsoluteAttributions`, `MeanAttributions` and `MeanAbsoluteAttributions` take an
extract's `attributions`, a dict from feature to number(s), and sum them weighted by `example_weights`. With
several outputs, `attributions` maps each output name to such a dict. Sources: metrics/attributions.py and
the test `testEvaluateWithAttributions` of evaluators/metrics_plots_and_validations_evaluator_test.py, both
under github.com/tensorflow/model-analysis. Each row of the files is one extract, with these keys:

    attributions     struct<FEATURE: φ, …>; for several outputs: struct<OUTPUT: struct<…>, …>
    predictions      the model's output; for several outputs: struct<OUTPUT: …>
    labels           null: a run stores no labels
    example_weights  the weight column, or 1
    features         struct<COLUMN: list<value>, …>: slice columns, and feature values if `output.features`
    example_id       the id of the example

A tensor is written as a flat list. `features` is omitted if the run has no slice columns and no values. A
TFMA pipeline reads the files without a model:

    extracts = (
        pipeline
        | beam.io.ReadFromParquet("runs/flights-tfma/extracts-*.parquet")
        | beam.Map(pipeline.exports.tfma.to_extracts)
    )
    extracts | tfma.ExtractAndEvaluate(
        extractors=[tfma.extractors.SliceKeyExtractor(eval_config=eval_config)],
        evaluators=[tfma.evaluators.MetricsPlotsAndValidationsEvaluator(eval_config=eval_config)],
    )
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exports.reading import (
    attribution_of,
    attribution_parts,
    columns_of_run,
    whole_examples,
    whole_file,
)
from transforms.arrow.nested import unnested
from transforms.errors import UserError
from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.run import Run

#: Columns of the attributions that are not slices.
_OWN = (
    *("example_id", "target", "target_name", "prediction", "output", "base_value", "convergence_delta"),
    *("attribution", "standard_error", "fit", "feature", "weight"),
)


def write(run: Run, folder: str) -> list[str]:
    """Writes one file per part, `extracts-00000-of-00004.parquet`; see `pipeline.exports.export`."""
    parts = attribution_parts(run, "tfma")
    if "attribution" not in columns_of_run(run):
        what = "sums over all rows need every feature of each row, and the run keeps only some"
        raise UserError(what, "--export tfma", "explain again with output.attributions: all")
    paths = []
    for number, part in enumerate(parts):
        path = files.join(folder, f"extracts-{number:05d}-of-{len(parts):05d}.parquet")
        with whole_file(path) as local:
            writer: pq.ParquetWriter | None = None
            for table in whole_examples(part, run.rows_per_example):
                extracts = _extracts(table, run.rows_per_example)
                if writer is None:
                    writer = pq.ParquetWriter(local, extracts.schema, compression="zstd")
                writer.write_table(extracts)
            if writer is None:
                empty = pq.read_schema(files.local_copy(part)).empty_table()
                pq.write_table(_extracts(empty, 1), local)
            else:
                writer.close()
        paths.append(path)
    return paths


def to_extracts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a row read by Beam's ReadFromParquet into a TFMA extract, with each number as an array."""

    def arrays(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: arrays(item) for key, item in value.items()}
        return None if value is None else np.asarray(value)

    extracts = {key: value if key == "example_id" else arrays(value) for key, value in row.items()}
    return {"features": {}, **extracts}


def _extracts(table: pa.Table, per_example: int) -> pa.Table:
    firsts = pa.array(np.arange(0, len(table), per_example))
    whole = table.take(firsts)
    values, outputs = _listed(attribution_of(table)), table["output"].combine_chunks()
    if per_example > 1:
        names = table["target_name"][:per_example].to_pylist()
        rows = [pa.array(np.arange(at, len(table), per_example)) for at in range(per_example)]
        values = pa.StructArray.from_arrays([values.take(mine) for mine in rows], names=names)
        outputs = pa.StructArray.from_arrays([outputs.take(mine) for mine in rows], names=names)
    if "weight" in table.column_names:
        weights = whole["weight"].combine_chunks()
    else:
        weights = pa.array(np.ones(len(whole)))
    columns = {
        "example_id": whole["example_id"],
        "attributions": values,
        "predictions": outputs,
        "labels": pa.nulls(len(whole)),
        "example_weights": weights,
    }
    features = _features(whole)
    return pa.table(columns if features is None else {**columns, "features": features})


def _listed(struct: pa.StructArray) -> pa.StructArray:
    """Flattens each tensor in a struct to a list of numbers."""
    names = [field.name for field in struct.type]
    columns = []
    for name in names:
        numbers, shape = unnested(struct.field(name))
        column = pa.FixedSizeListArray.from_arrays(numbers, math.prod(shape)) if shape else numbers
        columns.append(column)
    return pa.StructArray.from_arrays(columns, names=names)


def _features(table: pa.Table) -> pa.StructArray | None:
    """The columns that TFMA may slice by; None if there are none, as Parquet has no empty struct."""
    columns: dict[str, pa.Array] = {}
    if "feature" in table.column_names:
        struct = table["feature"].combine_chunks()
        columns |= {field.name: struct.field(field.name) for field in struct.type}
    slices = {name: table[name].combine_chunks() for name in table.column_names if name not in _OWN}
    columns |= {name: array for name, array in slices.items() if name not in columns}
    lists = {name: _as_list(array) for name, array in columns.items()}
    if not lists:
        return None
    return pa.StructArray.from_arrays(list(lists.values()), names=list(lists))


def _as_list(array: pa.Array) -> pa.Array:
    numbers, shape = unnested(array)
    if pa.types.is_dictionary(numbers.type):
        numbers = numbers.dictionary_decode()
    return pa.FixedSizeListArray.from_arrays(numbers, math.prod(shape))
