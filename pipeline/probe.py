"""What a plan must ask of the model: in this process, or in a child so that the launcher stays light."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from transforms.absent import with_absent
from transforms.baselines import Artifact, BaselineRequest, first_rows, make_background
from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod, evaluate
from transforms.models import ModelRequest
from transforms.models.base import ScoredModel, Signature, names_in_words
from transforms.read import Column, check_columns
from transforms.resolve import ColumnRequest, resolve
from transforms.schema import ExampleSchema
from transforms.shards import TFRECORD, InputFile
from transforms.worker import TargetSpec

#: Rows of the input that stand for it where a spread or a time is measured.
FIRST_ROWS = 4096
#: Memory that the activations of a device call may take. On a processor what fits its caches is fastest.
_CPU_BYTES = 64 << 20
_GPU_SHARE = 0.25
_MOST_EVALUATIONS = 1 << 16
_MEASURED_SECONDS = 2.0


@dataclass(frozen=True)
class ProbeRequest:
    """What to find out.

    Args:
      model: What to load.
      score: auto | output | logit | probability.
      target: Index, head name, "predicted", "all", or None where a column names it.
      columns: The parts that the config gives to columns.
      types: Columns of the input, with their types.
      files: The input.
      method: The method.
      baseline: The kind of baseline, with its own files for kind `file`.
      baseline_files: These.
      device_batch_size: From the config; None: to be found.
      seed: Of the run.
      threads: TensorFlow's threads in this process.
      measure: Whether to measure the time per row.
    """

    model: ModelRequest
    score: str
    target: int | str | None
    columns: ColumnRequest
    types: Mapping[str, pa.DataType]
    files: Sequence[InputFile]
    method: AttributionMethod
    baseline: BaselineRequest
    baseline_files: Sequence[InputFile]
    device_batch_size: int | None
    seed: int
    threads: int | None = None
    measure: bool = False


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
      affine_prefix: Whether the path methods skip an affine prefix.
      seconds_per_row: Measured on the first rows; None unless asked for.
    """

    signature: Signature
    digest: str
    score_kinds: tuple[str, ...]
    schema: ExampleSchema
    targets: TargetSpec
    artifact: Artifact
    evaluations_per_row: int
    device_batch_size: int
    affine_prefix: bool
    seconds_per_row: float | None


def probe(request: ProbeRequest) -> ProbeResult:
    """Loads the model and finds out, in this process.

    Raises:
      UserError: Model, columns, target, method or baseline do not fit each other.
    Cost: loading the model, a pass over the input for the baseline, a few device calls.
    """
    from transforms import files as paths
    from transforms import worker
    from transforms.models import model_digest

    loaded = worker.adapter(request.model, request.threads)
    types = request.types
    if request.files[0].format == TFRECORD:
        types = with_absent(request.columns, loaded.signature, types)
    schema = resolve(request.columns, loaded.signature, types)
    common = check_columns(request.files, [Column(name, kind) for name, kind in schema.columns])
    schema = replace(schema, slices=tuple((name, common[name]) for name, _ in schema.slices))
    if request.baseline.kind == "file":
        wanted = [Column(f.name, f.stored) for f in schema.features]
        check_columns(request.baseline_files, wanted)
    model = worker.scored_model(request.model, schema.inputs, request.score, request.threads)
    targets = _targets(request.target, model.signature)
    background = make_background(
        request.baseline, schema, request.baseline_files or request.files, request.seed
    )
    first = first_rows(request.files, schema, FIRST_ROWS)
    size = request.device_batch_size or _MOST_EVALUATIONS
    # Rows that the model refuses will be rejected: they are no background and no measure of the others.
    kept, reason = _taken(model, schema.assemble(background), size)
    if not kept.any():
        raise UserError(reason, "baseline", "choose another kind")
    background = {name: value[kept] for name, value in background.items()}
    inputs = schema.assemble(background)
    if request.method.needs.gradients:
        _check_gradients(model, inputs, request.method, schema)
    if request.device_batch_size is None:
        size = _device_batch_size(model, inputs, request.method)
    first_inputs = inputs
    if first is not None:
        found = schema.assemble(first.features)
        kept, _ = _taken(model, found, size)
        first_inputs = {name: value[kept] for name, value in found.items()} if kept.any() else inputs
    scores, _ = evaluate(model, inputs, size)
    spread_inputs = inputs if len(scores) > 1 else first_inputs
    spread_scores = scores if len(scores) > 1 else evaluate(model, first_inputs, size)[0]
    finite = spread_scores[np.isfinite(spread_scores).all(axis=1)]
    spread = finite.std(axis=0, dtype=np.float64) if len(finite) else np.zeros(scores.shape[1])
    noise = _entry_spread(model, spread_inputs) if request.method.name == "smoothgrad" else ()
    artifact = Artifact(background, scores, spread, noise)
    affine = False
    if request.method.needs.gradients:
        affine = model.differentiable(inputs).cut.has_prefix
    return ProbeResult(
        model.signature,
        model_digest(paths.local_copy(request.model.path)),
        model.score_kinds,
        schema,
        targets,
        artifact,
        request.method.evaluations_per_row(len(scores), schema.players.count),
        size,
        affine,
        _measure(request, model, schema, artifact, first_inputs, targets, size) if request.measure else None,
    )


def _targets(target: int | str | None, signature: Signature) -> TargetSpec:
    names = signature.target_names
    if target is None:
        return TargetSpec()
    if target == "all":
        return TargetSpec(tuple(range(len(names))))
    if target == "predicted":
        if len(signature.outputs) > 1:
            heads = ", ".join(head.name for head in signature.outputs)
            raise UserError(
                f"predicted means the largest output of one head, and the model has several: {heads}",
                "model.target",
                "give an output index, a head's name or all",
            )
        return TargetSpec(predicted=True)
    if isinstance(target, str):
        if target in names:
            return TargetSpec((names.index(target),))
        from transforms.resolve import nearest

        raise UserError(
            f"{target!r} is no output of the model",
            "model.target",
            nearest(target, [*names, "predicted", "all"]) or f"its outputs are {', '.join(names[:12])}",
        )
    if not 0 <= target < len(names):
        raise UserError(
            f"{target} is no output index: the model has {len(names)} output{'s' if len(names) > 1 else ''}",
            "model.target",
            f"give 0 to {len(names) - 1}" if len(names) > 1 else "give 0",
        )
    return TargetSpec((target,))


def _taken(model: ScoredModel, inputs: Mapping[str, np.ndarray], size: int) -> tuple[np.ndarray, str]:
    """Which rows the model takes and gives a finite score, `[B]` bool, and why not one of the others."""
    import tensorflow as tf

    rows = len(next(iter(inputs.values())))
    try:
        scores = evaluate(model, inputs, size)[0]
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        line = str(error.message).strip().splitlines()[0][:200]
        if rows == 1:
            return np.zeros(1, bool), f"the model does not take the baseline: {line}"
        parts = (slice(0, rows // 2), slice(rows // 2, None))
        halves = [_taken(model, {k: v[part] for k, v in inputs.items()}, size) for part in parts]
        return np.concatenate([kept for kept, _ in halves]), halves[0][1] or halves[1][1]
    finite: np.ndarray = np.isfinite(scores).all(axis=1)
    return finite, "" if finite.all() else "the model's score of the baseline is not finite"


def _check_gradients(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod, schema: ExampleSchema
) -> None:
    fixed = [feature.name for feature in schema.features if feature.fixed]
    try:
        if fixed:
            raise UserError(f"it moves every feature, and {names_in_words(fixed)} is fixed", "input.features")
        model.differentiable({name: value[:1] for name, value in inputs.items()})
    except UserError as error:
        others = [name for name, other in METHODS.items() if not other.needs.gradients]
        remedy = f"methods that need no gradients would work: {', '.join(others)}" if others else error.remedy
        raise UserError(f"{method.name} needs gradients: {error.what}", error.where, remedy) from error


def _device_batch_size(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod
) -> int:
    """The largest power of two whose activations stay within the memory bound; no clock decides it."""
    import tensorflow as tf

    per_evaluation = sum(int(np.prod(shape)) * 4 for shape in model.shapes.values()) or 4
    if method.needs.gradients:
        per_evaluation = model.differentiable(inputs).activation_bytes
    bound = _CPU_BYTES
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        limit = tf.config.experimental.get_device_details(gpus[0]).get("memory_limit_mb", 8192)
        bound = int(limit * (1 << 20) * _GPU_SHARE)
    fitting = max(1, bound // per_evaluation)
    return int(min(_MOST_EVALUATIONS, 1 << (fitting.bit_length() - 1)))


def _entry_spread(model: ScoredModel, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Standard deviation of each entry over the rows, `[per_row, *shape]`."""
    differentiable = model.differentiable(inputs)
    entries, _ = differentiable.ends(dict(inputs))
    rows = len(next(iter(inputs.values())))
    spreads = []
    for entry in entries:
        value = entry.numpy()
        by_row = value.reshape(rows, -1, *value.shape[1:])
        spreads.append(by_row.std(axis=0, dtype=np.float64).astype(np.float32))
    return tuple(spreads)


def _measure(
    request: ProbeRequest,
    model: ScoredModel,
    schema: ExampleSchema,
    artifact: Artifact,
    inputs: Mapping[str, np.ndarray],
    targets: TargetSpec,
    size: int,
) -> float:
    """Seconds a row takes, on the first rows of the input: more of them until the time can be trusted."""
    from transforms.worker import make_reference

    reference = make_reference(artifact, schema, request.seed)
    count = len(next(iter(inputs.values())))
    per_row = request.method.evaluations_per_row(reference.rows, schema.players.count)
    rows = min(count, max(1, size // max(1, per_row)))
    elapsed = 0.0
    for attempt in range(20):
        part = {name: value[:rows] for name, value in inputs.items()}
        outputs = evaluate(model, part, size)[1] if targets.predicted else None
        column = np.zeros(rows, np.int64) if targets.indices is None and not targets.predicted else None
        chosen = targets.of(outputs, column, rows)
        start = time.perf_counter()
        request.method.attribute(model, part, reference, chosen, np.arange(rows, dtype=np.uint64), size)
        elapsed = time.perf_counter() - start
        if attempt and (elapsed > _MEASURED_SECONDS / 4 or rows == count):
            break
        rows = rows if not attempt else min(count, 4 * rows)
    return elapsed / rows


def probe_in_child(request: ProbeRequest) -> ProbeResult:
    """The same in a process of its own, which takes TensorFlow with it when it ends."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as noise:
        child = subprocess.run(
            [sys.executable, "-m", "pipeline.probe", str(answer.fileno())],
            input=pickle.dumps((sys.path, request)),
            pass_fds=[answer.fileno()],
            stdout=noise,
            stderr=noise,
            check=False,
        )
        answer.seek(0)
        data = answer.read()
        if not data:
            noise.seek(0)
            lines = noise.read().decode("utf-8", "replace").strip().splitlines()
            last = lines[-1] if lines else "no message"
            raise RuntimeError(f"the model's process ended with status {child.returncode}: {last}")
        # Written by our own child a moment ago, through a file without a name.
        found = pickle.loads(data)
    if isinstance(found, BaseException):
        raise found
    assert isinstance(found, ProbeResult)
    return found


def _child(descriptor: int) -> None:
    path, request = pickle.loads(sys.stdin.buffer.read())
    sys.path[:] = path
    try:
        found: object = probe(request)
    except UserError as error:
        found = error
    with open(descriptor, "wb") as answer:
        answer.write(pickle.dumps(found))


if __name__ == "__main__":
    # The classes must be those of the package, not of __main__, to mean the same to the parent.
    from pipeline import probe as package

    package._child(int(sys.argv[1]))
