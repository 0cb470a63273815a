"""Reports exceptions of a model's own code, while a run is planned, as failures of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from pipeline.planning.method.requirements import playable
from transforms.errors import DeviceMemoryError, HostMemoryError, UserError
from transforms.methods.base import AttributionMethod, evaluate
from transforms.models.base import ScoredModel
from transforms.models.tensorflow_errors import first_line, out_of_memory, refusal
from transforms.rows.decode import Rows
from transforms.rows.schema import ExampleSchema
from transforms.worker.device_batch import DeviceBatchSize

#: The reason for refusing a row whose score is NaN or infinite.
NOT_FINITE = "its score is not finite"
_TRIED = 64
_OUTSIDE = "check that it predicts these rows where it was trained, and what --debug shows"


def is_no_failure(error: Exception) -> bool:
    """Whether an exception is a user error or a lack of memory, and not a failure of the model."""
    return isinstance(error, (UserError, MemoryError, DeviceMemoryError, HostMemoryError)) or out_of_memory(
        error
    )


def message_of(error: Exception) -> str:
    """The message of a model's exception, in one line of at most 200 characters."""
    line = refusal(error, planning=True)
    if line is None:
        name, line = type(error).__name__, first_line(error)
        line = line if line.startswith(name) else f"{name}: {line}"
    return line[:200]


@contextmanager
def models_own(where: str) -> Iterator[None]:
    """Reports exceptions in the block as failures of the model.

    Args:
      where: Words that follow "the model fails".
    Raises:
      UserError: The model's code raised an exception.
    """
    try:
        yield
    except Exception as error:
        if is_no_failure(error):
            raise
        raise UserError(f"the model fails {where}: {message_of(error)}", "model.path", _OUTSIDE) from error


@contextmanager
def methods_own(method: AttributionMethod, schema: ExampleSchema) -> Iterator[None]:
    """Reports exceptions in the block as an error that the method does not work on the model.

    Args:
      method: The method.
      schema: The schema of the examples, which the suggested methods can explain.
    Raises:
      UserError: The method raised an exception on the model.
    """
    try:
        yield
    except Exception as error:
        if is_no_failure(error):
            raise
        others = [name for name in ("permutation_shap", "kernel_shap", "occlusion") if name != method.name]
        masking = playable(others, schema)
        raise UserError(
            f"{method.name} fails on this model: {message_of(error)}",
            "method.name",
            f"use a method that only evaluates it: {', '.join(masking)}",
        ) from error


def scores_of(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], device_batch: DeviceBatchSize
) -> np.ndarray:
    """Scores of all targets, `[B, T]`."""
    return device_batch.run(lambda size: evaluate(model, inputs, size)[0])


def taken(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], device_batch: DeviceBatchSize
) -> tuple[np.ndarray, str]:
    """Marks rows that the model accepts with a finite score, `[B]`; also says why one other was refused."""
    rows = len(next(iter(inputs.values())))
    try:
        scores = scores_of(model, inputs, device_batch)
    except Exception as error:
        if is_no_failure(error):
            raise
        if rows == 1:
            return np.zeros(1, bool), message_of(error)
        parts = (slice(0, rows // 2), slice(rows // 2, None))
        halves = [taken(model, {k: v[part] for k, v in inputs.items()}, device_batch) for part in parts]
        return np.concatenate([kept for kept, _ in halves]), halves[0][1] or halves[1][1]
    finite: np.ndarray = np.isfinite(scores).all(axis=1)
    return finite, "" if finite.all() else NOT_FINITE


def refused_baseline(model: ScoredModel, reason: str, first: Rows | None, schema: ExampleSchema) -> UserError:
    """The error if the model refuses the baseline, or refuses all rows."""
    if first is not None:
        some = {name: value[:_TRIED] for name, value in first.features.items()}
        kept, why = taken(model, schema.assemble(some), DeviceBatchSize(_TRIED))
        if not kept.any() and why != NOT_FINITE:
            return UserError(f"the model fails on the first rows: {why}", "model.path", _OUTSIDE)
    problem = "the model's score of the baseline is not finite"
    if reason != NOT_FINITE:
        problem = f"the model does not accept the baseline: {reason}"
    return UserError(problem, "baseline", "choose another kind of baseline")
