"""Checks the loaded model on the first rows: one score per row, and the library's own predictions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.planning.device_batches import forward_batch_size
from pipeline.planning.model.behaviour import DRAWS, check_behaviour, random_error, random_places
from pipeline.planning.model.failures import models_own, taken
from transforms.errors import UserError
from transforms.methods.base import evaluate
from transforms.models.base import DEFAULT, CompiledAdapter, PublicPrediction, ScoredModel
from transforms.rows.decode import Rows
from transforms.rows.schema import ExampleSchema
from transforms.worker.device_batch import DeviceBatchSize

#: Number of rows that are checked.
_CHECKED = 256
#: Fewest rows that are checked if device calls are small.
_FEWEST = 8
#: Tolerances for rounding, relative to the output in the row. Libraries without a graph compute the same way
#: twice; TensorFlow fuses the operations of different graphs differently; half precision has two or three
#: digits, and a sum may lose most of them.
_ALIKE, _ALIKE_GRAPH, _ALIKE_HALVES = 1e-4, 1e-3, 5e-2
_OVER_ROWS, _OVER_ROWS_HALVES = 0.1, 1.0
#: Tolerance between two predictions of the same rows by the library itself.
_AGAIN = 2e-6


@dataclass(frozen=True)
class Checked:
    """The first rows, as far as the model accepts them.

    Args:
      stored: The features' columns as the file holds them, under the features' names.
      ids: `[B]` str objects.
      inputs: `[B, *shape]`, by model input.
    """

    stored: pa.RecordBatch
    ids: np.ndarray
    inputs: Mapping[str, np.ndarray]


def check_model(model: ScoredModel, first: Rows, schema: ExampleSchema, size: int | None) -> None:
    """Checks that a row has one score, and that scores equal the library's own predictions of the first rows.

    Args:
      model: The model with its score.
      first: The rows that `first_rows` returns.
      schema: The schema of the examples.
      size: Evaluations per device call; None if not decided yet.
    Raises:
      UserError: A row has several scores, or its score differs from the library's own.
    Cost: evaluates some hundred rows, fewer if rows take much memory.
    """
    size = size or forward_batch_size(model)
    device_batch = DeviceBatchSize(size)
    checked = _usable(model, first, schema, device_batch, min(_CHECKED, max(_FEWEST, size)))
    if checked is not None:
        check_accepted_rows(model, checked, device_batch)


def check_accepted_rows(model: ScoredModel, checked: Checked, device_batch: DeviceBatchSize) -> None:
    """Checks the model on rows that it accepts."""
    with models_own("on the first rows"):
        device_batch.run(lambda size: check_behaviour(model, checked.inputs, size))
    with models_own("in its own prediction of the first rows"):
        _check_prediction(model, checked, device_batch)


def _usable(
    model: ScoredModel, first: Rows, schema: ExampleSchema, device_batch: DeviceBatchSize, count: int
) -> Checked | None:
    if first.stored is None:
        return None
    stored = first.stored.slice(0, count)
    rows = first.take(slice(0, stored.num_rows))
    inputs = schema.assemble(rows.features)
    kept, _ = taken(model, inputs, device_batch)
    if not kept.any():
        return None
    return Checked(
        stored.filter(pa.array(kept)), rows.ids[kept], {name: value[kept] for name, value in inputs.items()}
    )


def _check_prediction(model: ScoredModel, checked: Checked, device_batch: DeviceBatchSize) -> None:
    adapter = model.adapter
    if not isinstance(adapter, PublicPrediction):
        return
    theirs = adapter.public_prediction(checked.stored, checked.inputs)
    if theirs is None:
        return
    draws = random_places(model)
    for _ in range(DRAWS if draws else 1):
        again = adapter.public_prediction(checked.stored, checked.inputs)
        if again is not None and differing(again, theirs, _AGAIN).any():
            raise random_error(draws)
    read = _as_saved(model, checked.inputs)
    ours = device_batch.run(lambda size: evaluate(read, checked.inputs, size)[1])
    with np.errstate(over="ignore"):
        theirs = np.asarray(theirs).astype(np.float32).reshape(len(ours), -1)
    if theirs.shape != ours.shape:
        raise UserError(
            f"the model's own prediction has {theirs.shape[1]} outputs, and {ours.shape[1]} are read",
            "model.path",
            _REMEDY,
        )
    if model.has_gradients and read.in_halves:
        unlike = differing(ours, theirs, _ALIKE_HALVES, _OVER_ROWS_HALVES)
    else:
        unlike = differing(ours, theirs, _ALIKE_GRAPH if model.has_gradients else _ALIKE)
    if not unlike.any():
        return
    row, target = (int(index) for index in np.argwhere(unlike)[0])
    number = int(unlike.any(axis=1).sum())
    raise UserError(
        f"the model's own prediction of row {checked.ids[row]} for {model.signature.target_names[target]} is "
        f"{theirs[row, target]:.6g}, and {ours[row, target]:.6g} would be explained; so in {number} of the "
        f"first {len(ours)} rows",
        "model.path",
        _REMEDY,
    )


_REMEDY = "wrap its own prediction in a python: function, and explain that with a method that evaluates"


def _as_saved(model: ScoredModel, rows: Mapping[str, np.ndarray]) -> ScoredModel:
    """The model in its own precision: mixed precision is the config's choice, not an error."""
    adapter = model.adapter
    if not isinstance(adapter, CompiledAdapter) or adapter.precision == "float32":
        return model
    adapter = copy.copy(adapter)
    adapter.precision, adapter.compile_options = "float32", DEFAULT
    return adapter.scored(model.shapes, "output", affine_prefix=False, example=rows)


def differing(
    ours: np.ndarray, theirs: np.ndarray, tolerance: float, over_rows: float = _OVER_ROWS
) -> np.ndarray:
    """Marks predictions that differ by more than rounding, `[B, T]` bool; NaN equals NaN.

    Args:
      ours: `[B, T]`.
      theirs: `[B, T]`.
      tolerance: Tolerance relative to the value.
      over_rows: Share of the tolerance that is also allowed relative to the output's root mean square over
        the rows.
    """
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    known = np.where(np.isfinite(a) & np.isfinite(b), np.maximum(np.abs(a), np.abs(b)), 0.0)
    scale = np.sqrt(np.mean(np.square(known), axis=0))
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(a - b) <= tolerance * (known + over_rows * scale)
    different: np.ndarray = ~(same | near)
    return different
