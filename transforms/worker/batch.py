"""A batch of rows through the method; rows that the model cannot take are rejected one by one.

Memory that runs out is never a row's fault. On the device, or in a model that is somebody's code, calls are
of half as many evaluations from then on, and the same rows are tried again; in this process, the batch is
explained in two halves. Where nothing is left to halve the run breaks.
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
    """Attributes a batch, rows of equal lengths together where lists are padded.

    Returns:
      The explained rows in order with their attribution and targets `[B, T]` (None where none is left), and
      the rejections.
    Raises:
      DeviceMemoryError: There is no room for a single evaluation.
      HostMemoryError: There is none for a single row.
    """
    if not rows.lengths:
        return _explain_alike(rows, loaded)
    schema, parts, problems = loaded.spec.schema, [], []
    for steps, at in groups_of(schema, rows.lengths):
        group, own = rows.take(at), loaded.at(steps)
        narrow = replace(group, features=narrowed(group.features, own.spec.schema))
        found, rejected = _explain_alike(narrow, own)
        problems.extend(rejected)
        if found is not None:
            kept = np.isin(group.ordinals, found[0].ordinals)
            parts.append((group.take(kept), widened(found[1], own.spec.schema, schema), found[2]))
    whole = _join_explained(parts)
    if whole is None:
        return None, problems
    order = np.argsort(whole[0].ordinals, kind="stable")
    problems.sort(key=lambda one: (one.file, one.row))
    return (whole[0].take(order), take(whole[1], order), whole[2][order]), problems


def _explain_alike(rows: Rows, loaded: Runtime) -> tuple[Explained | None, list[Rejection]]:
    """Attributes rows of one shape; those that the model cannot take are found and rejected one by one.

    Returns:
      The explained rows with their attribution and targets `[B, T]` (None where none is left), and the
      rejections.
    Raises:
      DeviceMemoryError: There is no room for a single evaluation.
      HostMemoryError: There is none for a single row.
    Cost: O(k log B) attempts where the model does not take k rows of B; each ends at its first failing call.
    """
    attempt = _attempt(rows, loaded)
    if not isinstance(attempt, tuple):
        if len(rows) == 1 and isinstance(attempt, _NoMemory):
            raise HostMemoryError(
                f"the memory has no room for a single row ({attempt}); explain on a machine with more of it, "
                "with fewer compute.workers or with fewer targets"
            )
        if len(rows) == 1:
            return None, [_rejection(rows, 0, "predict", attempt)]
        middle = len(rows) // 2
        halves = [_explain_alike(rows.take(part), loaded) for part in (slice(0, middle), slice(middle, None))]
        problems = [problem for _, found in halves for problem in found]
        return _join_explained([found for found, _ in halves if found is not None]), problems
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
    return (rows.take(good), take(attribution, good), targets[good]), rejections


def _nothing_plays(
    loaded: Runtime, inputs: Mapping[str, np.ndarray], targets: np.ndarray, size: int
) -> Attribution:
    """Of rows without a value, whose lists are empty, nothing is attributed: they are their own baseline."""
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
    """In words, that this process had no memory for a batch: the exception itself would hold on to it."""


def _attempt(rows: Rows, loaded: Runtime) -> tuple[Attribution, np.ndarray] | str:
    """The attribution of a batch with its targets, or why the model would not take it, or not so many."""
    spec = loaded.spec

    def explain(size: int) -> tuple[Attribution, np.ndarray]:
        outputs = evaluate(loaded.model, inputs, size)[1] if spec.targets.predicted else None
        targets = spec.targets.of(outputs, rows.targets, len(rows))
        asked = np.zeros_like(targets) if spec.targets.mirrored else targets
        seeds = row_keys(spec.seed, rows.ordinals)
        # Rows whose scores are infinite are rejected below: numpy need not say so as well.
        with np.errstate(invalid="ignore", over="ignore"):
            if loaded.reference.players.count:
                found = spec.method.attribute(loaded.model, inputs, loaded.reference, asked, seeds, size)
            else:
                found = _nothing_plays(loaded, inputs, asked, size)
        if spec.targets.mirrored:
            found = _of_no(found, targets == 0, loaded)
        return found, targets

    try:
        inputs = spec.schema.assemble(rows.features)
        return loaded.device_batch.run(explain)
    except MemoryError as error:  # numpy's and Arrow's are kinds of it
        return _NoMemory(str(error) or type(error).__name__)
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        return f"the model does not take the row: {reason}"


def _of_no(found: Attribution, no: np.ndarray, loaded: Runtime) -> Attribution:
    """The attribution of a yes with that of a no in the rows that ask for it, `[B, T]` bool."""
    start = 0.0 if loaded.model.score_kinds[0] in ("logit", "margin") else 1.0
    signed = loaded.spec.method.signed

    def turned(values: np.ndarray) -> np.ndarray:
        return np.where(no.reshape(*no.shape, *(1,) * (values.ndim - 2)), -values, values)

    def score(values: np.ndarray) -> np.ndarray:
        return np.where(no, start - values, values).astype(values.dtype)

    delta = found.convergence_delta
    return replace(
        found,
        values={name: turned(value) for name, value in found.values.items()} if signed else found.values,
        prediction=score(found.prediction),
        output=np.where(no, 1 - found.output, found.output).astype(found.output.dtype),
        base_value=score(found.base_value),
        convergence_delta=None if delta is None else turned(delta),
    )


def _worst(attribution: Attribution) -> np.ndarray:
    """A number a row that is finite if and only if all of the row's values are, `[B, 1]`."""
    total = np.zeros(len(attribution.prediction))
    for value in attribution.values.values():
        # Adding up |φ| in float64 cannot overflow, and NaN and ∞ stay what they are.
        total += np.abs(value.reshape(len(value), -1)).sum(axis=1, dtype=np.float64)
    return total[:, None]


def _rejection(rows: Rows, index: int, stage: str, reason: str) -> Rejection:
    return Rejection(rows.file[index], int(rows.rows[index]), stage, reason, rows.ids[index])


def take(attribution: Attribution, index: np.ndarray) -> Attribution:
    """Some rows of an attribution, by number."""
    errors, delta = attribution.standard_error, attribution.convergence_delta
    return Attribution(
        {k: v[index] for k, v in attribution.values.items()},
        attribution.prediction[index],
        attribution.output[index],
        attribution.base_value[index],
        None if delta is None else delta[index],
        None if errors is None else {k: v[index] for k, v in errors.items()},
        attribution.limited[index],
        None if attribution.fit is None else attribution.fit[index],
    )


def _join_explained(parts: list[Explained]) -> Explained | None:
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    found = [part[1] for part in parts]
    deltas = [a.convergence_delta for a in found if a.convergence_delta is not None]
    errors = [a.standard_error for a in found if a.standard_error is not None]
    fits = [a.fit for a in found if a.fit is not None]
    whole = Attribution(
        {k: np.concatenate([a.values[k] for a in found]) for k in found[0].values},
        np.concatenate([a.prediction for a in found]),
        np.concatenate([a.output for a in found]),
        np.concatenate([a.base_value for a in found]),
        np.concatenate(deltas) if deltas else None,
        {k: np.concatenate([e[k] for e in errors]) for k in errors[0]} if errors else None,
        np.concatenate([a.limited for a in found]),
        np.concatenate(fits) if fits else None,
    )
    return join([part[0] for part in parts]), whole, np.concatenate([part[2] for part in parts])


def widened(attribution: Attribution, narrow: ExampleSchema, wide: ExampleSchema) -> Attribution:
    """The attribution in the shapes of the run's schema, with zeros where lists have ended."""

    def wider(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = dict(values)
        for feature in narrow.features:
            if feature.pad is None or feature.steps is None:
                continue
            value = found[feature.input]
            size = feature.steps * int(np.prod(feature.shape[1:], dtype=np.int64))
            own = value.reshape(*value.shape[:2], -1)
            flat = np.zeros((*value.shape[:2], int(np.prod(wide.inputs[feature.input]))), value.dtype)
            flat[:, :, : own.shape[2]] = own
            start, end = feature.start, feature.start + feature.size
            flat[:, :, start + size : end] = 0
            found[feature.input] = flat.reshape(*value.shape[:2], *wide.inputs[feature.input])
        return found

    errors = attribution.standard_error
    return replace(
        attribution,
        values=wider(attribution.values),
        standard_error=None if errors is None else wider(errors),
    )
