"""Probes the model for the facts that a plan needs, in this process or in a child process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.planning.baseline_checks import degenerate_baseline
from pipeline.planning.device_batches import (
    background_bytes,
    device_batch_size,
    evaluation_bytes,
    seconds_per_row,
)
from pipeline.planning.method.default import baseline_kind, candidate_methods
from pipeline.planning.method.requirements import Unfit
from pipeline.planning.model.child import in_child
from pipeline.planning.model.failures import methods_own, scores_of, taken
from pipeline.planning.model.opening import Opened, ProbeRequest, fit, open_model, open_schema
from pipeline.planning.model.remarks import remarks
from pipeline.planning.model.targets import find_targets
from pipeline.planning.slicings import plan_slicings
from transforms.aggregates.quality import distance_of, spread_of, yardsticks
from transforms.errors import DeviceMemoryError, HostMemoryError, UserError
from transforms.methods.base import AttributionMethod
from transforms.methods.sampling import RunningMoments
from transforms.models.base import ScoredModel, Signature
from transforms.models.devices import device_scopes
from transforms.models.load import request_bytes, request_digest
from transforms.models.reference import Reference
from transforms.rows.baselines.baselines import Artifact
from transforms.rows.decode import Rows
from transforms.rows.resolve.completion import completion_note
from transforms.rows.schema import ExampleSchema
from transforms.worker.device_batch import DeviceBatchSize
from transforms.worker.runtime import make_reference
from transforms.worker.spec import TargetSpec


@dataclass(frozen=True)
class ProbeResult:
    """The facts about a model, its method and its data that a plan needs.

    Args:
      signature: The model's signature.
      digest: The model's digest.
      score_kinds: The kind of score that is explained, by head.
      schema: The complete schema.
      targets: The outputs that are explained.
      artifact: The baseline with its scores.
      evaluations_per_row: Model evaluations per row.
      device_batch_size: Evaluations per device call.
      device_bytes: Largest memory of a device call.
      affine_prefix: Whether an affine prefix of the model is skipped.
      seconds_per_row: Time per row, measured on the first rows; None unless requested.
      warnings: Problems that do not stop the run, with their config keys.
      devices: TensorFlow's names of the devices on this machine; none for other models.
      device_room: Evaluations per device call that fitted into memory here; None if the planned size fitted.
      evaluation_bytes: Memory of an evaluation in a device call, with its gradient if there is one.
      forward_bytes: Memory of an evaluation without gradient.
      background_bytes: Bytes of the background's results that a device keeps.
      model_bytes: Bytes of the model's files.
      slice_values: Estimated number of slices, over all slicings.
      notes: Remarks on the model for the plan.
      method: The method, chosen if the config leaves it open.
      baseline_kind: The kind of the baseline.
      defaults: Reasons for choices that the config leaves open, by key.
    """

    signature: Signature
    digest: str
    score_kinds: tuple[str, ...]
    schema: ExampleSchema
    targets: TargetSpec
    artifact: Artifact
    evaluations_per_row: int
    device_batch_size: int
    device_bytes: int
    affine_prefix: bool
    seconds_per_row: float | None
    warnings: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    device_room: int | None = None
    evaluation_bytes: int = 0
    forward_bytes: int = 0
    background_bytes: int = 0
    model_bytes: int = 0
    slice_values: int = 0
    notes: tuple[str, ...] = ()
    method: AttributionMethod = None  # type: ignore[assignment] # always given, by name
    baseline_kind: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)


def probe_model(request: ProbeRequest) -> ProbeResult:
    """Loads the model and probes it in this process.

    Raises:
      UserError: Model, columns, target, method and baseline do not fit each other, or not into memory.
    Cost: loading the model, a pass over the input for the baseline, a few device calls.
    """
    try:
        return _with_defaults(request)
    except (DeviceMemoryError, HostMemoryError) as error:
        problem, _, remedy = str(error).partition("; ")
        raise UserError(problem, "compute", remedy) from error
    except MemoryError as error:
        problem = f"not enough memory to plan the run ({error or type(error).__name__})"
        raise UserError(problem, "model.path", "plan it on a machine with more memory") from error


def _with_defaults(request: ProbeRequest) -> ProbeResult:
    """Probes the model with the first method that works, if the config names none."""
    if request.method is not None:
        own = _with_kind(request, request.method)
        return _probe(own, open_model(own))
    kind, schema, _ = open_schema(request)
    refused: list[str] = []
    choices = candidate_methods(kind, schema.players.count)
    opened: Opened | None = None
    for number, (method, why) in enumerate(choices, 1):
        own = _with_kind(request, method)
        try:
            opened = open_model(own, opened)
            result = _probe(own, opened)
        except Unfit as error:
            if number == len(choices):
                raise
            refused.append(error.what)
            continue
        reason = "; ".join([why, *refused])
        return replace(result, defaults={**result.defaults, "method": reason})
    raise AssertionError("there is a method for every kind of model")


def _with_kind(request: ProbeRequest, method: AttributionMethod) -> ProbeRequest:
    kind = request.baseline.kind or baseline_kind(method)
    return replace(request, method=method, baseline=replace(request.baseline, kind=kind))


def _probe(request: ProbeRequest, opened: Opened) -> ProbeResult:
    """Probes a sound model with a method, which must fit it."""
    method = request.method
    assert method is not None  # for the type checker: `_with_defaults` has filled it in
    schema, model = fit(request, opened, method)
    targets = find_targets(request.target, request.columns.target, model)
    drawn_from, total = request.drawn_from or request.files, sum(file.rows for file in request.files)
    schema, slices, crowded = plan_slicings(schema, drawn_from, request.seed, total, request.edges)
    inputs = schema.assemble(opened.background)
    size = request.device_batch_size or device_batch_size(model, inputs, method)
    device_batch = DeviceBatchSize(size)
    first_inputs = _first_inputs(model, schema, opened.first, device_batch)
    first_inputs = inputs if first_inputs is None else first_inputs
    artifact = _measured(model, schema, method, opened.background, first_inputs, device_batch)
    if targets.mirrored:  # the scores of no and yes have the same spread
        yardstick = None if artifact.yardstick is None else np.repeat(artifact.yardstick, 2)
        artifact = replace(artifact, spread=np.repeat(artifact.spread, 2), yardstick=yardstick)
    reference = make_reference(artifact, schema, request.seed)
    if request.model.jit:  # if XLA fails, it must fail before the run
        rows = inputs if len(artifact.scores) > 1 else first_inputs
        _attribute_one(model, schema, method, reference, rows, device_batch)
    seconds = None
    if request.measure:
        with methods_own(method, schema):
            seconds = device_batch.run(
                lambda size: seconds_per_row(method, model, reference, first_inputs, targets, size)
            )
    listed = completion_note(request.columns, model.signature, [feature.name for feature in schema.features])
    return ProbeResult(
        signature=targets.signature(model.signature),
        digest=request_digest(request.model),
        score_kinds=model.score_kinds,
        schema=schema,
        targets=targets,
        artifact=artifact,
        evaluations_per_row=method.evaluations_per_row(len(artifact.scores), schema.players.count),
        device_batch_size=size,
        device_bytes=device_batch.size * evaluation_bytes(model, inputs, method),
        affine_prefix=_has_prefix(model, reference, method),
        seconds_per_row=seconds,
        warnings=_warnings(request, opened, schema, model, reference, crowded),
        devices=device_scopes() if request.model.needs_tensorflow else (),
        device_room=device_batch.used,
        evaluation_bytes=evaluation_bytes(model, inputs, method),
        forward_bytes=model.forward_bytes,
        background_bytes=background_bytes(model, inputs, method, len(artifact.scores)),
        model_bytes=request_bytes(request.model),
        slice_values=slices,
        notes=tuple(getattr(model.adapter, "notes", ())),
        method=method,
        baseline_kind=str(request.baseline.kind),
        defaults={} if listed is None else {"features": listed},
    )


def _first_inputs(
    model: ScoredModel, schema: ExampleSchema, first: Rows | None, device_batch: DeviceBatchSize
) -> Mapping[str, np.ndarray] | None:
    """The first rows of the input that the model accepts; None if there are none."""
    if first is None:
        return None
    rows = schema.assemble(first.features)
    kept, _ = taken(model, rows, device_batch)
    if not kept.any():
        return None
    # If all rows are kept, nothing is copied: indexing by a mask copies.
    return rows if kept.all() else {name: value[kept] for name, value in rows.items()}


def _measured(
    model: ScoredModel,
    schema: ExampleSchema,
    method: AttributionMethod,
    background: Mapping[str, np.ndarray],
    first_inputs: Mapping[str, np.ndarray],
    device_batch: DeviceBatchSize,
) -> Artifact:
    """Measures the scores of a baseline, their spread, and the distance of the first rows from them.

    Args:
      model: The model with its score.
      schema: The schema of the examples.
      method: The method, which may need the spread of each entry.
      background: The rows of the baseline, by feature.
      first_inputs: First rows of the input, for the spread of a baseline of one row.
      device_batch: The device batch size.
    """
    inputs = schema.assemble(background)
    scores = scores_of(model, inputs, device_batch)
    spread_inputs = inputs if len(scores) > 1 else first_inputs
    spread_scores = scores if len(scores) > 1 else scores_of(model, first_inputs, device_batch)
    spread = spread_of(spread_scores)
    first_scores = spread_scores
    if len(scores) > 1 and not spread.all():  # a distance replaces a spread of 0
        first_scores = scores_of(model, first_inputs, device_batch)
    yardstick = yardsticks(spread, distance_of(first_scores, scores), len(scores))
    noise: tuple[np.ndarray, ...] = ()
    if method.needs.entry_spread:
        with methods_own(method, schema):
            noise = device_batch.run(lambda size: _entry_spread(model, spread_inputs, size))
    return Artifact(background, scores, spread, noise, yardstick)


def _attribute_one(
    model: ScoredModel,
    schema: ExampleSchema,
    method: AttributionMethod,
    reference: Reference,
    inputs: Mapping[str, np.ndarray],
    device_batch: DeviceBatchSize,
) -> None:
    """Attributes one row, which compiles the model and the method around it."""
    row = {name: value[:1] for name, value in inputs.items()}
    target, seed = np.zeros((1, 1), np.int64), np.zeros(1, np.uint64)
    with methods_own(method, schema):
        device_batch.run(lambda size: method.attribute(model, row, reference, target, seed, size))


def _warnings(
    request: ProbeRequest,
    opened: Opened,
    schema: ExampleSchema,
    model: ScoredModel,
    reference: Reference,
    crowded: Sequence[str],
) -> tuple[str, ...]:
    """All warnings: on the model, its method, the first ids, the slices (`crowded`) and the baseline."""
    method, first = request.method, opened.first
    assert method is not None
    first_features = None if first is None else first.features
    return (
        *_warnings_of(model),
        *remarks(model, schema, reference, request.columns, method),
        *(() if first is None else _repeated_ids(first, schema)),
        *crowded,
        *degenerate_baseline(request.baseline.kind, method, opened.background, first_features),
    )


def _warnings_of(model: ScoredModel) -> tuple[str, ...]:
    """Warnings of the model's adapter."""
    return tuple(f"model.path: {line}" for line in getattr(model.adapter, "warnings", ()))


def _repeated_ids(first: Rows, schema: ExampleSchema) -> tuple[str, ...]:
    """A warning about repeated ids among the first rows.

    Uniqueness is left to the user: to verify it, a run would have to hold all ids.
    """
    ids: list[str] = first.ids.tolist()
    number = len(ids) - len(set(ids))
    if schema.id is None or not number:
        return ()
    twice = next(name for name, count in Counter(ids).items() if count > 1)
    return (
        f"input.id: {schema.id[0]} is not unique: {number} of the first {len(ids)} rows repeat an "
        f"earlier id, e.g. {twice!r}",
    )


def _has_prefix(model: ScoredModel, reference: Reference, method: AttributionMethod) -> bool:
    if method.needs.rescale:
        return False
    if method.needs.gradients:
        return model.differentiable(reference.inputs).cut.has_prefix
    masked = model.masked(reference)
    return masked is not None and masked.has_prefix


def _entry_spread(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], device_batch_size: int
) -> tuple[np.ndarray, ...]:
    """Standard deviation over the rows of each value where gradients begin, `[per_row, *shape]`."""
    differentiable = model.differentiable(inputs)
    count = len(next(iter(inputs.values())))
    moments = RunningMoments()
    for first in range(0, count, device_batch_size):
        some = {name: value[first : first + device_batch_size] for name, value in inputs.items()}
        rows = len(next(iter(some.values())))
        entries = [entry.numpy() for entry in differentiable.ends(some)[0]]
        by_row = {str(entry_name): v.reshape(rows, -1, *v.shape[1:]) for entry_name, v in enumerate(entries)}
        sums = {entry_name: v.sum(axis=0, dtype=np.float64) for entry_name, v in by_row.items()}
        away = {entry_name: v.var(axis=0, dtype=np.float64) * rows for entry_name, v in by_row.items()}
        moments.add(rows, sums, away)
    return tuple(np.sqrt(value / count).astype(np.float32) for value in moments.deviations.values())


def probe_in_child(request: ProbeRequest) -> ProbeResult:
    """Probes a model in a child process, whose end frees all memory, TensorFlow's included."""
    return in_child(probe_model, request)
