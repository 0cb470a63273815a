"""Vertex AI: batch explanations as JSON Lines, one line per example.

The layout is that of a batch prediction job with `generateExplanation`; its messages `Explanation` and
`Attribution` are in the reference of the Vertex AI API
(cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.endpoints/explain), and `key` is
described under `InstanceConfig.keyField` (…/rest/v1/projects.locations.batchPredictionJobs):

    {"key": example id, "instance": {FEATURE: value, …}, "prediction": the model's output,
     "explanation": {"attributions": [{
       "baselineOutputValue": base value, "instanceOutputValue": the score that is explained,
       "featureAttributions": {FEATURE: φ, …}, "outputIndex": [1], "outputDisplayName": "dog",
       "approximationError": |convergence_delta| / |prediction − base value|, "outputName": "class"}, …]}}

`instance` is present if the run keeps the feature values (`output.features: true`). `prediction` is a list if
several outputs are explained. `outputIndex` is left out for an output of a single number, and
`approximationError` if the method has no convergence delta or the
prediction equals the base value. With
`attributions: {top_k: …}`, `featureAttributions` holds the features that were kept, and the sum of the other
features as "(all others)". NaN and infinity, which JSON does not have, become null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.exports.reading import attribution_parts, short, whole_examples, whole_file
from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.run import Run

_REST = "(all others)"


def write(run: Run, folder: str) -> list[str]:
    """Writes one file per part, `explanation.results-00000-of-00004`; see `pipeline.exports.export`."""
    parts = attribution_parts(run, "vertex")
    outputs = _outputs(run)
    paths = []
    for number, part in enumerate(parts):
        path = files.join(folder, f"explanation.results-{number:05d}-of-{len(parts):05d}")
        with whole_file(path) as local, open(local, "w", encoding="utf-8") as lines:
            for table in whole_examples(part, run.rows_per_example):
                lines.writelines(f"{line}\n" for line in _lines(table, run.rows_per_example, outputs))
        paths.append(path)
    return paths


def _outputs(run: Run) -> list[tuple[str, int | None]]:
    """Each target's output name, and its index within that output; None if the output is one number."""
    outputs: list[tuple[str, int | None]] = []
    for head in run.manifest["model"]["outputs"]:
        width = math.prod(extent or 1 for extent in head["shape"])
        outputs += [(head["name"], at if width > 1 else None) for at in range(width)]
    return outputs


def _lines(table: pa.Table, per_example: int, outputs: list[tuple[str, int | None]]) -> Iterator[str]:
    names = [name for name in table.column_names if name in ("attribution", "feature", "top", "rest")]
    names += [
        "example_id",
        "target",
        "target_name",
        "prediction",
        "output",
        "base_value",
        "convergence_delta",
    ]
    columns = {name: _plain(table[name].combine_chunks()) for name in names}
    for first in range(0, len(table), per_example):
        rows = range(first, first + per_example)
        values = [columns["output"][row] for row in rows]
        line: dict[str, Any] = {"key": columns["example_id"][first]}
        if "feature" in columns:
            line["instance"] = columns["feature"][first]
        line["prediction"] = values[0] if per_example == 1 else values
        line["explanation"] = {"attributions": [_attribution(columns, row, outputs) for row in rows]}
        yield _json(line)


def _attribution(
    columns: Mapping[str, Any], row: int, outputs: list[tuple[str, int | None]]
) -> dict[str, Any]:
    name, index = outputs[columns["target"][row]]
    base, score = columns["base_value"][row], columns["prediction"][row]
    if "attribution" in columns:
        values = columns["attribution"][row]
    else:
        values = {pair["feature"]: pair["attribution"] for pair in columns["top"][row]}
        values[_REST] = columns["rest"][row]
    attribution = {"baselineOutputValue": base, "instanceOutputValue": score, "featureAttributions": values}
    if index is not None:
        attribution["outputIndex"] = [index]
    attribution["outputDisplayName"] = columns["target_name"][row]
    delta = columns["convergence_delta"][row]
    if delta is not None and score != base:
        attribution["approximationError"] = abs(delta) / abs(score - base)
    return {**attribution, "outputName": name}


def _plain(array: pa.Array) -> list[Any]:
    """Converts a column to Python values, with float32 numbers in as few digits as possible."""
    if pa.types.is_struct(array.type):
        fields = [short(array.field(at)) for at in range(array.type.num_fields)]
        array = pa.StructArray.from_arrays(fields, names=[field.name for field in array.type])
    values: list[Any] = short(array).to_pylist()
    return values


def _json(line: Mapping[str, Any]) -> str:
    try:
        return json.dumps(line, ensure_ascii=False, allow_nan=False)
    except ValueError:  # for example, a tree model's feature that is NaN
        return json.dumps(_without_nan(line), ensure_ascii=False, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
