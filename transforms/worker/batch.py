"""Explaining a batch of rows; rows that the model refuses are found and rejected one by one.

Running out of memory never rejects a row. If the device or a model in user code runs out, calls are halved
from then on, and the same rows are tried again. If this process runs out, the batch is explained in two
halves. If nothing is left to halve, the run breaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from transforms.errors import HostMemoryError
from transforms.methods.base import Attribution, evaluate, predict
from transforms.models.tensorflow_errors import refusal
from transforms.numerics.random import row_keys
from transforms.rows.decode import Rows, join
from transforms.rows.padding import groups_of, narrowed
from transforms.rows.schema import ExampleSchema
from transforms.sources.base import Rejection
from transforms.worker.runtime import Runtime

Explained = tuple[Rows, Attribution, np.ndarray]


def explain_rows(rows: Rows, loaded: Runtime) -> tuple[Explained | None, list[Rejection]]:
    """Attributes a batch; if lists are padded, rows of equal lengths are explained together.

    Returns:
      The explained rows in order, with their attribution and targets `[B, T]` (None if all are rejected), and
      the rejections.
    Raises:
      DeviceMemoryError: The device has too little memory for a single evaluation.
      HostMemoryError: This process has too little memory for a single row.
    """
    if not rows.lengths:
        return _explain_alike(rows, loaded)
    schema, parts, problems = loaded.spec.schema, [], []
    for steps, members in groups_of(schema, rows.lengths):
        group, own = rows.take(members), loaded.at(steps)
        narrow = replace(group, features=narrowed(group.features, own.spec.schema))
        explained, rejected = _explain_alike(narrow, own)
        problems.extend(rejected)
        if explained is not None:
            kept = np.isin(group.ordinals, explained[0].ordinals)
            parts.append((group.take(kept), widened(explained[1], own.spec.schema, schema), explained[2]))
    whole = _join_explained(parts)
    if whole is None:
        return None, problems
    order = np.argsort(whole[0].ordinals, kind="stable")
    problems.sort(key=lambda one: (one.file, one.row))
    return (whole[0].take(order), whole[1].take(order), whole[2][order]), problems


def _explain_alike(rows: Rows, loaded: Runtime) -> tuple[Explained | None, list[Rejection]]:
    """Attributes rows of one shape; those that the model does not accept are found and rejected one by one.

    Returns:
      The explained rows, with their attribution and targets `[B, T]` (None if all are rejected), and the
      rejections.
    Raises:
      DeviceMemoryError: The device has too little memory for a single evaluation.
      HostMemoryError: This process has too little memory for a single row.
    Cost: O(k log B) attempts for k rejected rows of B; each attempt ends at its first failing call.
    """
    attempt = _attempt(rows, loaded)
    if not isinstance(attempt, tuple):
        if len(rows) == 1 and isinstance(attempt, _NoMemory):
            raise HostMemoryError(
                f"there is too little memory for a single row ({attempt}); explain on a machine with more "
                "memory, with fewer compute.workers or with fewer targets"
            )
        if len(rows) == 1:
            return None, [_rejection(rows, 0, "predict", attempt)]
        middle = len(rows) // 2
        halves = [_explain_alike(rows.take(part), loaded) for part in (slice(0, middle), slice(middle, None))]
        problems = [problem for _, rejected in halves for problem in rejected]
        return _join_explained([explained for explained, _ in halves if explained is not None]), problems
    attribution, targets = attempt
    bad: dict[int, tuple[str, str]] = {}
    for stage, values, what in (
        ("predict", attribution.prediction, "the model's score"),
        ("attribute", _worst(attribution), "an attribution"),
    ):
        for index in np.flatnonzero(~np.isfinite(values).all(axis=1)):
            bad.setdefault(int(index), (stage, f"{what} is not finite"))
    if not bad:
        return (rows, attribution, targets), []
    good = np.setdiff1d(np.arange(len(rows)), list(bad))
    rejections = [_rejection(rows, index, *reason) for index, reason in sorted(bad.items())]
    if not len(good):
        return None, rejections
    return (rows.take(good), attribution.take(good), targets[good]), rejections


def _nothing_plays(
    loaded: Runtime, inputs: Mapping[str, np.ndarray], targets: np.ndarray, size: int
) -> Attribution:
    """The attribution of rows whose lists are empty: zeros, because the row equals its baseline."""
    prediction, output = predict(loaded.model, inputs, targets, size)
    method, zeros = loaded.spec.method, np.zeros(targets.shape, np.float32)
    values = {
        name: np.zeros((*targets.shape, *value.shape[1:]), np.float32) for name, value in inputs.items()
    }
    return Attribution(
        values,
        prediction,
        output,
        prediction,
        zeros if method.additive else None,
        values if method.standard_error else None,
        np.zeros(len(targets), bool),
        np.full(targets.shape, np.nan, np.float32) if method.local_fit else None,
    )


class _NoMemory(str):
    """The message of a memory error in this process; the exception itself would keep the memory in use."""


def _attempt(rows: Rows, loaded: Runtime) -> tuple[Attribution, np.ndarray] | str:
    """The attribution of a batch with its targets, or a message: why the model refused it, or `_NoMemory`."""
    spec = loaded.spec

    def explain(size: int) -> tuple[Attribution, np.ndarray]:
        outputs = evaluate(loaded.model, inputs, size)[1] if spec.targets.predicted else None
        targets = spec.targets.of(outputs, rows.targets, len(rows))
        asked = np.zeros_like(targets) if spec.targets.mirrored else targets
        seeds = row_keys(spec.seed, rows.ordinals)
        # Rows with infinite scores are rejected later: numpy's warnings would add nothing.
        with np.errstate(invalid="ignore", over="ignore"):
            if loaded.reference.players.count:
                attribution = spec.method.attribute(
                    loaded.model, inputs, loaded.reference, asked, seeds, size
                )
            else:
                attribution = _nothing_plays(loaded, inputs, asked, size)
        if spec.targets.mirrored:
            attribution = _of_no(attribution, targets == 0, loaded)
        return attribution, targets

    try:
        inputs = spec.schema.assemble(rows.features)
        return loaded.device_batch.run(explain)
    except MemoryError as error:  # numpy's and Arrow's errors are subclasses
        return _NoMemory(str(error) or type(error).__name__)
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        return f"the model refuses the row: {reason}"


def _of_no(yes: Attribution, no: np.ndarray, loaded: Runtime) -> Attribution:
    """Converts the attribution of "yes" to that of "no" where `no` `[B, T]` is true."""
    start = 0.0 if loaded.model.score_kinds[0] in ("logit", "margin") else 1.0
    signed = loaded.spec.method.signed

    def turned(values: np.ndarray) -> np.ndarray:
        return np.where(no.reshape(*no.shape, *(1,) * (values.ndim - 2)), -values, values)

    def score(values: np.ndarray) -> np.ndarray:
        return np.where(no, start - values, values).astype(values.dtype)

    delta = yes.convergence_delta
    return replace(
        yes,
        values={name: turned(value) for name, value in yes.values.items()} if signed else yes.values,
        prediction=score(yes.prediction),
        output=np.where(no, 1 - yes.output, yes.output).astype(yes.output.dtype),
        base_value=score(yes.base_value),
        convergence_delta=None if delta is None else turned(delta),
    )


def _worst(attribution: Attribution) -> np.ndarray:
    """One number per row, finite if and only if all of the row's values are, `[B, 1]`."""
    total = np.zeros(len(attribution.prediction))
    for value in attribution.values.values():
        # A sum of float32 |φ| in float64 cannot overflow, and keeps NaN and ∞.
        total += np.abs(value.reshape(len(value), -1)).sum(axis=1, dtype=np.float64)
    return total[:, None]


def _rejection(rows: Rows, index: int, stage: str, reason: str) -> Rejection:
    return Rejection(rows.file[index], int(rows.rows[index]), stage, reason, rows.ids[index])


def _join_explained(parts: list[Explained]) -> Explained | None:
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    rows, attributions, targets = zip(*parts, strict=True)
    return join(rows), Attribution.joined(attributions), np.concatenate(targets)


def widened(attribution: Attribution, narrow: ExampleSchema, wide: ExampleSchema) -> Attribution:
    """The attribution in the shapes of the run's schema, with zeros after the end of each list."""

    def wider(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        by_input = dict(values)
        for feature in narrow.features:
            if feature.pad is None or feature.steps is None:
                continue
            value = by_input[feature.input]
            size = feature.steps * int(np.prod(feature.shape[1:], dtype=np.int64))
            own = value.reshape(*value.shape[:2], -1)
            flat = np.zeros((*value.shape[:2], int(np.prod(wide.inputs[feature.input]))), value.dtype)
            flat[:, :, : own.shape[2]] = own
            start, end = feature.start, feature.start + feature.size
            flat[:, :, start + size : end] = 0
            by_input[feature.input] = flat.reshape(*value.shape[:2], *wide.inputs[feature.input])
        return by_input

    errors = attribution.standard_error
    return replace(
        attribution,
        values=wider(attribution.values),
        standard_error=None if errors is None else wider(errors),
    )
