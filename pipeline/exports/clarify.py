"""SageMaker Clarify: `analysis.json` and the local values of a SHAP analysis.

The layout follows "Analysis Results" in the Amazon SageMaker Developer Guide
(docs.aws.amazon.com/sagemaker/latest/dg/clarify-processing-job-analysis-results.html):

    analysis.json                     {"version": "1.0", "explanations": {"kernel_shap": {
                                         "label0": {"global_shap_values": {FEATURE: mean |φ|, …},
                                                    "expected_value": mean base value}}}}
    explanations_shap/out.csv         one column FEATURE_label0 per feature and label; one line per example
    explanations_shap/example_ids.csv the example id of each line; Clarify relies on the data set's order

`global_shap_values` are Clarify's `mean_abs`, its default. Labels have the numbers of the model's
outputs: `label1` is output 1. If an example was explained for some labels only (`model.target: predicted` or
a column), the cells of its other labels are empty. Each number of a tensor has its own column, such as
`pixels[0, 1]_label0`. Clarify's only explainer key is `kernel_shap`, but the values come from the run's
method, which `analysis.json` names in `method`, next to `run_id`. For a run without full attributions, only
`analysis.json` is written.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipeline.exports.reading import (
    attribution_of,
    columns_of_run,
    flat_names,
    whole_examples,
    whole_file,
)
from transforms.arrow.nested import unnested
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import SAMPLE
from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.run import Run

_FOLDER = "explanations_shap"


def write(run: Run, folder: str) -> list[str]:
    """Writes the files that the module docstring lists; see `pipeline.exports.export`."""
    frame = run.importance(slice="")
    targets = sorted(frame["target"].unique().tolist())
    expected = _expected_values(run)
    labels = {
        f"label{target}": {
            "global_shap_values": dict(zip(rows["feature"], rows["mean_abs"], strict=True)),
            "expected_value": expected.get(target),
        }
        for target, rows in ((target, frame[frame["target"] == target]) for target in targets)
    }
    analysis = {
        "version": "1.0",
        "explanations": {"kernel_shap": labels},
        "method": run.manifest["config"]["method"]["name"],
        "run_id": run.manifest["run_id"],
    }
    path = files.join(folder, "analysis.json")
    files.makedirs(folder)
    files.write_atomic(path, json.dumps(analysis, indent=2, ensure_ascii=False, allow_nan=False).encode())
    if "attribution" not in columns_of_run(run):
        return [path]
    return [path, *_local(run, folder, targets)]


def _local(run: Run, folder: str, targets: Sequence[int]) -> list[str]:
    paths = [files.join(folder, _FOLDER, name) for name in ("out.csv", "example_ids.csv")]
    columns = ["example_id", "target", "attribution"]
    ids = pa.schema([("example_id", pa.string())])
    writer: Any = None
    with contextlib.ExitStack() as stack:
        values_path, ids_path = (stack.enter_context(whole_file(path)) for path in paths)
        ids_writer = stack.enter_context(pacsv.CSVWriter(ids_path, ids))
        for part in run.parts():
            for table in whole_examples(part, run.rows_per_example, columns):
                values = _side_by_side(table, run, targets)
                if writer is None:
                    writer = stack.enter_context(pacsv.CSVWriter(values_path, values.schema))
                writer.write_table(values)
                ids_writer.write_table(table.select(["example_id"]).take(_firsts(table, run)).cast(ids))
        if writer is None:  # no example was explained
            empty = pq.read_schema(files.local_copy(run.parts()[0])).empty_table()
            values = _side_by_side(empty, run, targets)
            pacsv.write_csv(values, values_path)
    return paths


def _firsts(table: pa.Table, run: Run) -> pa.Array:
    return pa.array(np.arange(0, len(table), run.rows_per_example))


def _side_by_side(table: pa.Table, run: Run, targets: Sequence[int]) -> pa.Table:
    """One row per example: one column per feature for the first label, then for the next label, and so on."""
    struct = attribution_of(table)
    places = np.searchsorted(targets, table["target"].to_numpy())
    examples = np.arange(len(table)) // run.rows_per_example
    count = len(table) // run.rows_per_example
    columns: dict[str, pa.Array] = {}
    for at, target in enumerate(targets):
        mine = np.flatnonzero(places == at)
        missing = np.ones(count, bool)
        missing[examples[mine]] = False
        for name in run.features:
            numbers, shape = unnested(struct.field(name))
            width = math.prod(shape)
            values = numbers.to_numpy(zero_copy_only=False).reshape(len(table), width)
            placed = np.zeros((count, width), np.float32)
            placed[examples[mine]] = values[mine]
            for number, column in zip(flat_names(name, shape), placed.T, strict=True):
                columns[f"{number}_label{target}"] = pa.array(column, mask=missing)
    return pa.table(columns)


def _expected_values(run: Run) -> dict[int, float]:
    """Mean base value by target, over all rows, or over the sample if the run wrote no attributions."""
    columns = ["target", "base_value"]
    total: dict[int, float] = {}
    rows: dict[int, int] = {}
    for part in run.parts():
        for table in whole_examples(part, 1, columns):
            _add(total, rows, table)
    sample = files.join(run.path, SAMPLE)
    if not total and files.exists(sample):
        table = read_whole(sample, ["kind", *columns])
        drawn = pa.array([kind == "sample" for kind in table["kind"].to_pylist()], pa.bool_())
        _add(total, rows, table.filter(drawn))
    return {target: total[target] / rows[target] for target in total}


def _add(total: dict[int, float], rows: dict[int, int], table: pa.Table) -> None:
    targets = table["target"].to_numpy()
    values = table["base_value"].to_numpy().astype(np.float64)
    for target in np.unique(targets).tolist():
        mine = values[targets == target]
        total[target] = total.get(target, 0.0) + float(mine.sum())
        rows[target] = rows.get(target, 0) + len(mine)
