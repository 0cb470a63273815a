"""The memory of a worker process: the rows of a batch, and the upper bound that a plan prints.

A batch has as many rows as the config says, but at most as many as fit into `BATCH_BYTES`. That bounds the
memory of batches between the reader, the device and the writer for rows of any size. The rest is the process
itself, the reader's row group, device calls, the method's own arrays, and the background.
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
from transforms.methods.base import working_bytes
from transforms.methods.calls import processors, rows_in_call
from transforms.models.base import TARGETS_AT_ONCE
from transforms.models.kinds.function import is_function
from transforms.outputs.layout import TableSpec
from transforms.rows.baselines.baselines import drawing_bytes
from transforms.rows.schema import ExampleSchema, columns_of
from transforms.sources.base import InputFile
from transforms.sources.read import read_bytes
from transforms.worker.journal import STATES_AHEAD
from transforms.worker.shard import BATCHES_OF_RESULTS, BATCHES_OF_ROWS
from transforms.worker.spec import ExplainSpec, TargetSpec

#: Bytes that the rows of a batch may take, features and attributions together; a single row may take more.
BATCH_BYTES = 64 << 20
#: Bytes of Python with Beam, Arrow and numpy, and of TensorFlow: measured, with a margin.
_PROCESS_BYTES = 330 << 20
_TENSORFLOW_BYTES = 520 << 20
#: Bytes of the libraries of tree models and of numba's compiler. A function's own imports are unknown.
_TREES_BYTES = 240 << 20
#: Copies of a model while it is loaded: the bytes of its file, and its variables.
_COPIES_OF_A_MODEL = 3
#: Bytes of a row besides its values: its id, its file's name, its slices, and the output columns of these.
_OBJECTS_BYTES = 400
#: Factor for freed memory that malloc keeps for the next call, some of which is never used again.
_KEPT_BY_MALLOC = 1.3
#: Copies of the background: the loaded file, its arrays, the model's inputs, and the plan's in the launcher.
_COPIES_OF_A_BACKGROUND = 4
#: Copies of the aggregates: a shard's or the run's, one that is stored, and those read ahead for the commit.
_COPIES_OF_AGGREGATES = 2 + STATES_AHEAD
#: Bytes of a value in the aggregates: the value, and the numbers of its buckets.
_CODED_BYTES = 20


@dataclass(frozen=True)
class HostBytes:
    """An upper bound of a worker process's resident memory, by purpose.

    Args:
      process: Python, TensorFlow and the model.
      planning: The rows that planning reads, if the same process plans and explains.
      reading: A row group or block of records, and a batch being decoded.
      batches: Batches on their way from the reader to the writer.
      working: The method's own arrays for the batches that are explained.
      device: Device calls in flight, if the device uses the host's memory.
      background: The background, and values computed from it once.
      aggregates: The importance of a shard, while it is merged and while it becomes a table.
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
        """Bytes of a worker process; planning's memory counts only if it exceeds that of the run."""
        run = self.reading + self.batches + self.working + self.device + self.aggregates
        return self.process + int(_KEPT_BY_MALLOC * (self.background + max(self.planning, run)))

    def to_json(self) -> dict[str, int]:
        """The bound's parts by name."""
        return asdict(self)


@dataclass(frozen=True)
class RowSizes:
    """The size of a row.

    Args:
      features: Bytes of the features in the model's types.
      decoded: Bytes between Arrow's columns and these, at most.
      attribution: Bytes of the attributions, with standard errors if requested.
      targets: Number of targets that are explained.
      values: Number of attributed values per target.
    """

    features: int
    decoded: int
    attribution: int
    targets: int
    values: int

    @property
    def row(self) -> int:
        """Bytes of features and attributions, which decide how many rows a batch has."""
        return self.features + self.attribution

    @classmethod
    def of(cls, schema: ExampleSchema, targets: TargetSpec, output: TableSpec) -> RowSizes:
        """Derives the sizes from static shapes alone."""
        values = sum(feature.size for feature in schema.features if not feature.fixed)
        count = 1 if targets.indices is None else len(targets.indices)
        attribution = 4 * values * count * (2 if output.standard_error else 1)
        decoded = sum(_decoded_bytes(f.stored, f.size, f.kind) for f in schema.features)
        return cls(schema.row_bytes, decoded, attribution, count, values)


@dataclass(frozen=True)
class Batches:
    """The batches of a run.

    Args:
      size: Rows of a batch.
      count: Number of batches.
    """

    size: int
    count: int

    @classmethod
    def of(cls, size: int, rows: int) -> Batches:
        """The batches of a run of `rows` rows."""
        return cls(size, -(-rows // size))

    @property
    def waiting(self) -> int:
        """Batches of rows in memory at a time, at most those of the run."""
        return min(BATCHES_OF_ROWS, 4 + self.count)

    @property
    def explained(self) -> int:
        """Batches of attributions in memory at a time."""
        return min(BATCHES_OF_RESULTS, 1 + self.count)


@dataclass(frozen=True)
class DeviceCalls:
    """The device calls in flight, if the device uses the host's memory.

    Args:
      bytes: Memory of one call.
      count: Number of calls in flight; 0 if the device has its own memory.
    """

    bytes: int
    count: int

    @property
    def total(self) -> int:
        """Memory of all calls in flight."""
        return self.bytes * self.count

    @classmethod
    def of(cls, spec: ExplainSpec, probe: ProbeResult, sizes: RowSizes) -> DeviceCalls:
        """Calls in flight: one for each thread of the pool, and one for each of two batches."""
        if any("GPU" in name for name in probe.devices):
            return cls(0, 0)
        count = (spec.threads or processors()) + 2
        per_row = max(1, probe.evaluations_per_row)
        if not spec.method.needs.gradients:
            evaluations = min(spec.device_batch_size, spec.batch_size * per_row)
            rows = max(1, min(spec.batch_size, spec.device_batch_size // per_row))
            return cls(evaluations * probe.evaluation_bytes + 2 * rows * probe.forward_bytes, count)
        fitting = max(1, spec.device_batch_size // per_row)
        rows = min(spec.batch_size, rows_in_call(spec.batch_size, fitting))
        evaluations = min(spec.device_batch_size, rows * per_row)
        # Gradients of a few targets at a time, as the call makes and gathers them.
        gradients = 3 * 4 * min(sizes.targets, TARGETS_AT_ONCE) * sizes.values
        each = evaluations * probe.evaluation_bytes + rows * (2 * probe.forward_bytes + gradients)
        return cls(each, min(count, 2 * -(-spec.batch_size // rows)))


def batch_rows(asked: int, schema: ExampleSchema, targets: TargetSpec, output: TableSpec) -> int:
    """Rows of an Arrow batch: the config's, or as many as fit; independent of the planning machine."""
    return max(1, min(asked, BATCH_BYTES // RowSizes.of(schema, targets, output).row))


def host_bytes(inputs: Sequence[InputFile], spec: ExplainSpec, probe: ProbeResult, rows: int) -> HostBytes:
    """Bounds the resident memory of a plan's worker process on this machine.

    Args:
      inputs: The input.
      spec: The specification that workers receive.
      probe: The facts that the model was asked for.
      rows: Rows of the run.
    """
    sizes = RowSizes.of(spec.schema, spec.targets, spec.output)
    batches = Batches.of(spec.batch_size, rows)
    calls = DeviceCalls.of(spec, probe, sizes)
    return HostBytes(
        process=_PROCESS_BYTES + _library_bytes(spec) + _COPIES_OF_A_MODEL * probe.model_bytes,
        planning=drawing_bytes(inputs, spec.schema, probe.baseline_kind) + calls.total,
        reading=_reading_bytes(inputs, spec.schema, batches, sizes),
        batches=_batch_bytes(spec, batches, sizes),
        working=min(2, batches.count) * _working_bytes(spec, probe, sizes),
        device=calls.total,
        background=_background_bytes(probe, calls, sizes),
        aggregates=_aggregate_bytes(spec, probe, sizes),
    )


def _library_bytes(spec: ExplainSpec) -> int:
    """Memory of the libraries that the model needs."""
    if spec.model.needs_tensorflow:
        return _TENSORFLOW_BYTES
    return 0 if is_function(spec.model.path) else _TREES_BYTES


def _reading_bytes(
    inputs: Sequence[InputFile], schema: ExampleSchema, batches: Batches, sizes: RowSizes
) -> int:
    """Memory of the reader, and of a batch that is decoded."""
    reader = read_bytes(inputs, columns_of(schema), batches.size)
    return reader + batches.size * (sizes.decoded + sizes.features)


def _batch_bytes(spec: ExplainSpec, batches: Batches, sizes: RowSizes) -> int:
    """Memory of the batches between the reader and the writer, and of their intermediate forms."""
    schema = spec.schema
    features, attribution = batches.size * sizes.features, batches.size * sizes.attribution
    objects = batches.size * (_OBJECTS_BYTES + 2 * _OBJECTS_BYTES * len(schema.slices)) * sizes.targets
    # Columns that are joined into one input are copied, even in a run of a single batch.
    assembled = 2 * features if len(schema.features) > len(schema.inputs) else 0
    writing = _writing_bytes(batches.size, sizes, spec.output)
    return batches.waiting * (features + objects) + assembled + batches.explained * attribution + writing


def _working_bytes(spec: ExplainSpec, probe: ProbeResult, sizes: RowSizes) -> int:
    """Memory of the method's own arrays for one batch."""
    players = spec.schema.players.count
    return working_bytes(
        spec.method, spec.batch_size, sizes.targets, sizes.values, players, probe.evaluations_per_row
    )


def _background_bytes(probe: ProbeResult, calls: DeviceCalls, sizes: RowSizes) -> int:
    """Memory of the background, and of its copies on a device that shares the host's memory."""
    kept = probe.background_bytes if calls.count else 0
    return _COPIES_OF_A_BACKGROUND * len(probe.artifact.scores) * sizes.features + kept


def _aggregate_bytes(spec: ExplainSpec, probe: ProbeResult, sizes: RowSizes) -> int:
    """Memory of the importance and the other aggregates."""
    features, targets = len(spec.schema.attributed), len(probe.signature.target_names)
    state = (
        state_bytes(features, targets, probe.slice_values, weighted=spec.schema.weight is not None)
        # The sample's rows are in memory twice while they are sorted, or merged.
        + 2 * spec.sample.bytes
        + positions_bytes(spec.schema, spec.targets.count(targets))
    )
    counted = _CODED_BYTES * spec.batch_size * sizes.targets * features
    # The ranking is made at the commit, after the counting.
    return _COPIES_OF_AGGREGATES * state + max(counted, ranking_bytes(features))


def _writing_bytes(batch_size: int, sizes: RowSizes, output: TableSpec) -> int:
    """Memory of the writer for a batch: columns, a table, pages, and for top_k the order of values."""
    columns = 4 * batch_size * sizes.values * sizes.targets
    total = 2 * columns
    if output.attributions != "none":
        total += 3 * columns
    if isinstance(output.attributions, int):
        total += 8 * columns
    if output.standard_error:
        total += 6 * columns
    if output.features:
        total += 3 * batch_size * sizes.features * sizes.targets
    return total


def _decoded_bytes(stored: pa.DataType, size: int, kind: str) -> int:
    """Bytes of a feature's value on its way from Arrow to the model's input."""
    while pt.is_list(stored) or pt.is_large_list(stored) or pt.is_fixed_size_list(stored):
        stored = stored.value_type
    if kind == "image" and not (pt.is_integer(stored) or pt.is_floating(stored)):
        return 4 * size  # a copy of the bytes, the pixels twice, and the pictures that are being decoded
    try:
        each = stored.bit_width // 8 or 1
    except ValueError:  # strings have no fixed width
        each = 64
    return size * (each + np.dtype(np.float32).itemsize)
