"""What a plan must ask of the model: in this process, or in a child so that the launcher stays light."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.planning.baseline_checks import degenerate_baseline
from pipeline.planning.device_batches import (
    background_bytes,
    device_batch_size,
    evaluation_bytes,
    seconds_per_row,
)
from pipeline.planning.method.default import baseline_kind, candidates
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
from transforms.rows.resolve.completion import said
from transforms.rows.schema import ExampleSchema
from transforms.work.device_batch import DeviceBatchSize
from transforms.work.runtime import make_reference
from transforms.work.spec import TargetSpec


@dataclass(frozen=True)
class ProbeResult:
    """What was found.

    Args:
      signature: Of the model.
      digest: Of the model.
      score_kinds: A head, what is explained.
      schema: Complete.
      targets: Which outputs are explained.
      artifact: Baseline with its scores.
      evaluations_per_row: Model evaluations a row.
      device_batch_size: Evaluations a device call.
      device_bytes: Memory that these take at most.
      affine_prefix: Whether an affine prefix of the model is skipped.
      seconds_per_row: Measured on the first rows; None unless asked for.
      warnings: What is not as it should be and stops no run, by key of the config.
      devices: That the model may run on here, as TensorFlow calls them; none where it does not run it.
      device_room: Evaluations a device call that there was memory for here; None: as many as planned.
      evaluation_bytes: Memory of an evaluation in a device call, with its gradient where one is taken.
      forward_bytes: The same of an evaluation alone.
      background_bytes: Memory that a device keeps of the background.
      model_bytes: Of the model's files.
      slice_values: Slices that there will be, over all slicings; an estimate.
      notes: What the model's file does not say, for a plan.
      method: With which it was found.
      baseline_kind: Of the artifact.
      defaults: What the config leaves open and the model has decided, with the reason, by key.
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
    """Loads the model and finds out, in this process.

    Raises:
      UserError: Model, columns, target, method or baseline do not fit each other, or the memory.
    Cost: loading the model, a pass over the input for the baseline, a few device calls.
    """
    try:
        return _with_defaults(request)
    except (DeviceMemoryError, HostMemoryError) as error:
        what, _, remedy = str(error).partition("; ")
        raise UserError(what, "compute", remedy) from error
    except MemoryError as error:
        what = f"the memory does not suffice to plan the run ({error or type(error).__name__})"
        raise UserError(what, "model.path", "plan it on a machine with more") from error


def _with_defaults(request: ProbeRequest) -> ProbeResult:
    """The same with the first method that can work on the model, where the config names none."""
    if request.method is not None:
        own = _with_kind(request, request.method)
        return _probe(own, open_model(own))
    kind, schema, _ = open_schema(request)
    refused: list[str] = []
    choices = candidates(kind, schema.players.count)
    opened: Opened | None = None
    for number, (method, why) in enumerate(choices, 1):
        own = _with_kind(request, method)
        try:
            opened = open_model(own, opened)
            found = _probe(own, opened)
        except Unfit as error:
            if number == len(choices):
                raise
            refused.append(error.what)
            continue
        reason = "; ".join([why, *refused])
        return replace(found, defaults={**found.defaults, "method": reason})
    raise AssertionError("there is a method for every kind of model")


def _with_kind(request: ProbeRequest, method: AttributionMethod) -> ProbeRequest:
    kind = request.baseline.kind or baseline_kind(method)
    return replace(request, method=method, baseline=replace(request.baseline, kind=kind))


def _probe(request: ProbeRequest, opened: Opened) -> ProbeResult:
    """What there is to find out of a model that is sound, with a method that has to fit it."""
    method = request.method
    assert method is not None  # for the type checker: `probe` has filled it in
    schema, model = fit(request, opened, method)
    background, first = opened.background, opened.first
    inputs = schema.assemble(background)
    targets = find_targets(request.target, request.columns.target, model)
    drawn_from = request.drawn_from or request.files
    total = sum(file.rows for file in request.files)
    schema, slices, crowded = plan_slicings(schema, drawn_from, request.seed, total, request.edges)
    size = request.device_batch_size or device_batch_size(model, inputs, method)
    device_batch = DeviceBatchSize(size)
    first_inputs, first_features = inputs, None if first is None else first.features
    if first is not None:
        found = schema.assemble(first.features)
        kept, _ = taken(model, found, device_batch)
        if kept.any():  # a mask copies
            first_inputs = found if kept.all() else {name: value[kept] for name, value in found.items()}
    scores = scores_of(model, inputs, device_batch)
    spread_inputs = inputs if len(scores) > 1 else first_inputs
    spread_scores = scores if len(scores) > 1 else scores_of(model, first_inputs, device_batch)
    spread = spread_of(spread_scores)
    first_scores = spread_scores
    if len(scores) > 1 and not spread.all():  # what their spread cannot measure, their distance may
        first_scores = scores_of(model, first_inputs, device_batch)
    yardstick = yardsticks(spread, distance_of(first_scores, scores), len(scores))
    noise: tuple[np.ndarray, ...] = ()
    if method.needs.entry_spread:
        with methods_own(method, schema):
            noise = device_batch.run(lambda size: _entry_spread(model, spread_inputs, size))
    if targets.mirrored:  # of no and yes alike
        spread, yardstick = np.repeat(spread, 2), np.repeat(yardstick, 2)
    artifact = Artifact(background, scores, spread, noise, yardstick)
    listed = said(request.columns, model.signature, [feature.name for feature in schema.features])
    reference = make_reference(artifact, schema, request.seed)
    if request.model.jit:  # what XLA cannot compile is to be known before the run
        row = {name: value[:1] for name, value in spread_inputs.items()}
        none = np.zeros((1, 1), np.int64), np.zeros(1, np.uint64)
        with methods_own(method, schema):
            device_batch.run(lambda size: method.attribute(model, row, reference, *none, size))
    seconds = None
    if request.measure:
        with methods_own(method, schema):
            seconds = device_batch.run(
                lambda size: seconds_per_row(method, model, reference, first_inputs, targets, size)
            )
    return ProbeResult(
        targets.signature(model.signature),
        request_digest(request.model),
        model.score_kinds,
        schema,
        targets,
        artifact,
        method.evaluations_per_row(len(scores), schema.players.count),
        size,
        device_batch.size * evaluation_bytes(model, inputs, method),
        _has_prefix(model, reference, method),
        seconds,
        (
            *_said_of(model),
            *remarks(model, schema, reference, request.columns, method),
            *(() if first is None else _repeated_ids(first, schema)),
            *crowded,
            *degenerate_baseline(request.baseline.kind, method, background, first_features),
        ),
        device_scopes() if request.model.needs_tensorflow else (),
        device_batch.used,
        evaluation_bytes(model, inputs, method),
        model.forward_bytes,
        background_bytes(model, inputs, method, len(scores)),
        request_bytes(request.model),
        slices,
        notes=tuple(getattr(model.adapter, "notes", ())),
        method=method,
        baseline_kind=str(request.baseline.kind),
        defaults={} if listed is None else {"features": listed},
    )


def _said_of(model: ScoredModel) -> tuple[str, ...]:
    """What a model's adapter has to say that stops no run."""
    return tuple(f"model.path: {line}" for line in getattr(model.adapter, "warnings", ()))


def _repeated_ids(first: Rows, schema: ExampleSchema) -> tuple[str, ...]:
    """A warning where ids come twice among the first rows.

    That ids are unique is the user's to see to: a run that made sure would have to hold all of them.
    """
    ids: list[str] = first.ids.tolist()
    number = len(ids) - len(set(ids))
    if schema.id is None or not number:
        return ()
    twice = next(name for name, count in Counter(ids).items() if count > 1)
    return (
        f"input.id: {schema.id[0]} is not unique: {number} of the first {len(ids)} rows have the id of an "
        f"earlier one, {twice!r} for example",
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
    """Standard deviation of each entry over the rows, `[per_row, *shape]`."""
    differentiable = model.differentiable(inputs)
    count = len(next(iter(inputs.values())))
    moments = RunningMoments()
    for first in range(0, count, device_batch_size):
        some = {name: value[first : first + device_batch_size] for name, value in inputs.items()}
        rows = len(next(iter(some.values())))
        entries = [entry.numpy() for entry in differentiable.ends(some)[0]]
        by_row = {str(at): v.reshape(rows, -1, *v.shape[1:]) for at, v in enumerate(entries)}
        sums = {at: v.sum(axis=0, dtype=np.float64) for at, v in by_row.items()}
        away = {at: v.var(axis=0, dtype=np.float64) * rows for at, v in by_row.items()}
        moments.add(rows, sums, away)
    return tuple(np.sqrt(value / count).astype(np.float32) for value in moments.deviations.values())


def probe_in_child(request: ProbeRequest) -> ProbeResult:
    """The same in a process of its own, which takes TensorFlow with it when it ends."""
    return in_child(probe_model, request)
