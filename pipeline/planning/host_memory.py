"""What a worker process holds of this machine's memory: rows of a batch, and the bound that a plan prints.

Batches have as many rows as the config says, or as few as fit into `BATCH_BYTES`: with that, what is in
flight between the reader, the device and the writer is bounded whatever a row holds. The rest is the process
itself, the reader's row group, device calls, what the method works with, and the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from pipeline.planning.model.probe import ProbeResult
from transforms.aggregates.by_position import positions_bytes
from transforms.aggregates.importance import ranking_bytes, state_bytes
from transforms.methods.base import AttributionMethod, working_bytes
from transforms.methods.calls import processors, rows_in_call
from transforms.models.base import TARGETS_AT_ONCE
from transforms.models.kinds.function import is_function
from transforms.outputs.layout import TableSpec
from transforms.rows.baselines.baselines import drawing_bytes
from transforms.rows.schema import ExampleSchema, columns_of
from transforms.sources.base import InputFile
from transforms.sources.read import read_bytes
from transforms.work.journal import STATES_AHEAD
from transforms.work.shard import BATCHES_OF_RESULTS, BATCHES_OF_ROWS
from transforms.work.spec import ExplainSpec, TargetSpec

#: What the rows of a batch may take, features and attributions together; a single row may take more.
BATCH_BYTES = 64 << 20
#: Python with Beam, Arrow and numpy, and TensorFlow on top of it: measured, with a margin.
_PROCESS_BYTES = 330 << 20
_TENSORFLOW_BYTES = 520 << 20
#: The libraries of tree models, and numba's compiler; what a function imports nobody knows.
_TREES_BYTES = 240 << 20
#: A model's variables while they are loaded: the file's bytes, and what they become.
_COPIES_OF_A_MODEL = 3
#: Of a row beside its values: its id, the name of its file, its slices; and what is written of them.
_OBJECTS_BYTES = 400
#: Freed memory stays with the process for the next call (see the worker), some of it where nobody looks.
_KEPT_BY_MALLOC = 1.3
#: Of the background: what is loaded, its arrays, the model's inputs of them, and in the launcher the plan's.
_COPIES_OF_A_BACKGROUND = 4
#: Of the aggregates: a shard's or the run's, those that are read ahead for the commit, one that is stored.
_COPIES_OF_AGGREGATES = 2 + STATES_AHEAD
#: Of a value that the aggregates count: itself, and the numbers of its buckets.
_CODED_BYTES = 20


@dataclass(frozen=True)
class HostBytes:
    """The bound, by what takes it.

    Args:
      process: Python, TensorFlow and the model.
      planning: The rows that are looked at before the run, where the same process plans and explains.
      reading: A row group or block of records, and a batch being decoded.
      batches: Batches on their way from the reader to the writer.
      working: What the method holds of the batches that are explained.
      device: Device calls in flight, where the device's memory is the host's.
      background: The background and what is computed of it once.
      aggregates: The importance of a shard, and while it is merged; then while it becomes a table.
    """

    process: int
    planning: int
    reading: int
    batches: int
    working: int
    device: int
    background: int
    aggregates: int

    @property
    def total(self) -> int:
        """Of a worker process; what planning took is free again when the run begins."""
        run = self.reading + self.batches + self.working + self.device + self.aggregates
        return self.process + int(_KEPT_BY_MALLOC * (self.background + max(self.planning, run)))

    def to_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


@dataclass(frozen=True)
class Widths:
    """What a row takes.

    Args:
      features: As the model takes them.
      decoded: On the way from Arrow's columns to the former, at most.
      attributed: Values that are attributed to, times targets.
      attribution: Their attributions, with standard errors where these are wanted.
      targets: Explained of a row.
      values: That are attributed to.
    """

    features: int
    decoded: int
    attributed: int
    attribution: int
    targets: int
    values: int

    @property
    def row(self) -> int:
        """Features and attributions: what decides how many rows a batch has."""
        return self.features + self.attribution

    @classmethod
    def of(cls, schema: ExampleSchema, targets: TargetSpec, output: TableSpec) -> Widths:
        """By static shapes alone."""
        values = sum(feature.size for feature in schema.features if not feature.fixed)
        count = 1 if targets.indices is None else len(targets.indices)
        attribution = 4 * values * count * (2 if output.standard_error else 1)
        decoded = sum(_decoded_bytes(f.stored, f.size, f.kind) for f in schema.features)
        return cls(schema.row_bytes, decoded, values * count, attribution, count, values)


def batch_rows(asked: int, schema: ExampleSchema, targets: TargetSpec, output: TableSpec) -> int:
    """Rows of an Arrow batch: as many as asked for, or as fit; the same wherever the plan is made."""
    return max(1, min(asked, BATCH_BYTES // Widths.of(schema, targets, output).row))


def bound(
    inputs: Sequence[InputFile], spec: ExplainSpec, found: ProbeResult, baseline_kind: str, rows: int
) -> HostBytes:
    """The bound of a plan's worker process on this machine; see `host_bytes`."""
    widths = Widths.of(spec.schema, spec.targets, spec.output)
    libraries = 0 if is_function(spec.model.path) else _TREES_BYTES
    if spec.model.needs_tensorflow:
        libraries = _TENSORFLOW_BYTES
    call, calls = 0, 0
    if not any("GPU" in name for name in found.devices):
        call, calls = _device_calls(spec, found, widths)
    return host_bytes(
        inputs,
        spec.schema,
        spec.method,
        widths,
        spec.batch_size,
        spec.output,
        baseline_kind,
        rows,
        libraries=libraries,
        model_bytes=found.model_bytes,
        background_rows=len(found.artifact.scores),
        background_bytes=found.background_bytes if calls else 0,
        call_bytes=call,
        calls=calls,
        evaluations=found.evaluations_per_row,
        state=state_bytes(
            len(spec.schema.attributed),
            len(found.signature.target_names),
            found.slice_values,
            weighted=spec.schema.weight is not None,
        )
        # What is added is there once more while it is sorted, or summed.
        + 2 * spec.sample.bytes
        + positions_bytes(spec.schema, spec.targets.count(len(found.signature.target_names))),
    )


def _device_calls(spec: ExplainSpec, found: ProbeResult, widths: Widths) -> tuple[int, int]:
    """Memory of a device call, and how many are in flight: one a thread of the pool, and two batches' own."""
    calls = (spec.threads or processors()) + 2
    per_row = max(1, found.evaluations_per_row)
    if not spec.method.needs.gradients:
        evaluations = min(spec.device_batch_size, spec.batch_size * per_row)
        rows = max(1, min(spec.batch_size, spec.device_batch_size // per_row))
        return evaluations * found.evaluation_bytes + 2 * rows * found.forward_bytes, calls
    rows = min(spec.batch_size, rows_in_call(spec.batch_size, max(1, spec.device_batch_size // per_row)))
    evaluations = min(spec.device_batch_size, rows * per_row)
    # Gradients of a few targets at a time, as the call makes and gathers them.
    gradients = 3 * 4 * min(widths.targets, TARGETS_AT_ONCE) * widths.values
    each = evaluations * found.evaluation_bytes + rows * (2 * found.forward_bytes + gradients)
    return each, min(calls, 2 * -(-spec.batch_size // rows))


def host_bytes(
    inputs: Sequence[InputFile],
    schema: ExampleSchema,
    method: AttributionMethod,
    widths: Widths,
    batch_size: int,
    output: TableSpec,
    baseline_kind: str,
    rows: int,
    *,
    libraries: int,
    model_bytes: int,
    background_rows: int,
    background_bytes: int,
    call_bytes: int,
    calls: int,
    evaluations: int,
    state: int,
) -> HostBytes:
    """An upper bound of a worker process's resident memory.

    Args:
      inputs: The input.
      schema: Of the examples.
      method: With its keys.
      widths: Of a row.
      batch_size: Rows of a batch.
      output: What is written.
      baseline_kind: How the background is made.
      rows: Of the run.
      libraries: Bytes of what the model needs to run.
      model_bytes: Of the model's files.
      background_rows: R.
      background_bytes: What a device keeps of the background, where its memory is the host's.
      call_bytes: Of a device call, where its memory is the host's.
      calls: In flight at a time.
      evaluations: Of the model, for a row.
      state: Bytes of the aggregates.
    """
    features, attribution = batch_size * widths.features, batch_size * widths.attribution
    objects = batch_size * (_OBJECTS_BYTES + 2 * _OBJECTS_BYTES * len(schema.slices)) * widths.targets
    assembled = 2 * features if len(schema.features) > len(schema.inputs) else 0
    # A run of few rows has no more batches than these make; what is copied is copied all the same.
    batches = -(-rows // batch_size)
    flying, results = min(BATCHES_OF_ROWS, 4 + batches), min(BATCHES_OF_RESULTS, 1 + batches)
    written = results * attribution + _writing(batch_size, widths, output)
    counted = _CODED_BYTES * batch_size * widths.targets * len(schema.attributed)
    # Of the commit, when nothing is counted any more.
    ranked = ranking_bytes(len(schema.attributed))
    columns = columns_of(schema)
    working = working_bytes(
        method, batch_size, widths.targets, widths.values, schema.players.count, evaluations
    )
    return HostBytes(
        process=_PROCESS_BYTES + libraries + _COPIES_OF_A_MODEL * model_bytes,
        planning=drawing_bytes(inputs, schema, baseline_kind) + call_bytes * calls,
        reading=read_bytes(inputs, columns, batch_size) + batch_size * widths.decoded + features,
        batches=flying * (features + objects) + assembled + written,
        working=min(2, batches) * working,
        device=calls * call_bytes,
        background=_COPIES_OF_A_BACKGROUND * background_rows * widths.features + background_bytes,
        aggregates=_COPIES_OF_AGGREGATES * state + max(counted, ranked),
    )


def _writing(batch_size: int, widths: Widths, output: TableSpec) -> int:
    """What the writer makes of a batch: columns, a table, pages, and of top_k the order of the values."""
    columns = 4 * batch_size * widths.attributed
    found = 2 * columns
    if output.attributions != "none":
        found += 3 * columns
    if isinstance(output.attributions, int):
        found += 8 * columns
    if output.standard_error:
        found += 6 * columns
    if output.features:
        found += 3 * batch_size * widths.features * widths.targets
    return found


def _decoded_bytes(stored: pa.DataType, size: int, kind: str) -> int:
    """Bytes of a feature's row between Arrow and what the model takes."""
    while pt.is_list(stored) or pt.is_large_list(stored) or pt.is_fixed_size_list(stored):
        stored = stored.value_type
    if kind == "image" and not (pt.is_integer(stored) or pt.is_floating(stored)):
        return 4 * size  # the bytes once more, pixels twice, and those that are decoded at a time
    try:
        each = stored.bit_width // 8 or 1
    except ValueError:  # so Arrow says that strings have no width of their own
        each = 64
    return size * (each + np.dtype(np.float32).itemsize)
