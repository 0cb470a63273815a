"""Beam transforms: ExplainShards for runs, ExplainBatches for use in other pipelines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics

from transforms.errors import InputLost, OutputLost, RunReplaced
from transforms.outputs.attributions import attribution_table
from transforms.outputs.layout import attribution_schema
from transforms.rows.decode import decode
from transforms.sources.base import RawBatch, Shard
from transforms.sources.parquet.read import select
from transforms.worker.batch import explain_rows
from transforms.worker.failures import note_failure
from transforms.worker.journal import ShardResult
from transforms.worker.runtime import Runtime, runtime
from transforms.worker.shard import explain_shard
from transforms.worker.spec import ExplainSpec


class ExplainShards(beam.PTransform):
    """Explains shards: each is read, attributed and written in one fused step.

    `PCollection[Shard]` → `PCollection[ShardResult]`; rows and attributions never leave the worker.

    Args:
      spec: The instructions for workers.
    """

    def __init__(self, spec: ExplainSpec) -> None:
        super().__init__()
        self._spec = spec

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        """Adds the step."""
        work = beam.ParDo(_ExplainShard(self._spec)).with_output_types(ShardResult)
        return shards | "Read, explain and write" >> work


class _ExplainShard(beam.DoFn):
    def __init__(self, spec: ExplainSpec) -> None:
        self._spec = spec
        self._rows = Metrics.counter("attribeam", "rows_attributed")
        self._rejected = Metrics.counter("attribeam", "rows_rejected")
        self._milliseconds = Metrics.distribution("attribeam", "shard_milliseconds")

    def process(self, shard: Shard) -> Iterator[ShardResult]:
        start = time.monotonic()
        try:
            result = explain_shard(shard, self._spec)
        except InputLost as error:
            # A retry would fail too, and other shards are fine: leave a note that makes the commit fail.
            note_failure(self._spec.run, shard.index, error)
            return
        except RunReplaced:
            raise  # no note: nothing may be written to another run's directory
        except Exception as error:
            # Each runner wraps a worker's exception in its own way, so the launcher reads the cause from this
            # note. On a full disk the note fails too; the worker's own exception matters more.
            with contextlib.suppress(OutputLost):
                note_failure(self._spec.run, shard.index, error)
            raise
        self._rows.inc(result.attributed)
        self._rejected.inc(result.rejected)
        self._milliseconds.update(int(1000 * (time.monotonic() - start)))
        yield result


class ShardResultCoder(beam.coders.Coder):
    """Encodes a shard's result as its journal does.

    Runners ask for the size of every element they pass on. Without this coder they would pickle each result
    to find it: 40 ms for a few thousand features.
    """

    def encode(self, value: ShardResult) -> bytes:
        """The result as bytes."""
        return value.to_bytes()

    def decode(self, encoded: bytes) -> ShardResult:
        """Undoes `encode`."""
        return ShardResult.from_bytes(encoded)

    def estimate_size(self, value: ShardResult) -> int:
        """Approximate size of the result in bytes, used only for the runner's counters."""
        return value.held_bytes

    def is_deterministic(self) -> bool:
        """False: results are never keys."""
        return False


beam.coders.registry.register_coder(ShardResult, ShardResultCoder)


class MergeShardResults(beam.CombineFn):
    """Sums shard results; the sum takes a few KB whatever the number of rows.

    Args:
      features: Names of the features in the tables.
    """

    def __init__(self, features: tuple[str, ...]) -> None:
        self._features = features

    def create_accumulator(self) -> ShardResult:
        """An empty result."""
        return ShardResult.empty(self._features)

    def add_input(self, accumulator: ShardResult, element: ShardResult) -> ShardResult:
        """Adds a shard; mutates only the accumulator."""
        accumulator.merge(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[ShardResult]) -> ShardResult:
        """Adds accumulators; mutates none of them."""
        total = self.create_accumulator()
        for accumulator in accumulators:
            total.merge(accumulator)
        return total

    def extract_output(self, accumulator: ShardResult) -> ShardResult:
        """The sum."""
        return accumulator


class ExplainBatches(beam.PTransform):
    """Attributes Arrow batches inside a pipeline of your own.

    `PCollection[pyarrow.RecordBatch]` of rows → batches in the layout of the attributions table. Rows that
    cannot be explained are left out and counted in the metric `attribeam/rows_rejected`. Random numbers are
    keyed by a row's position in its batch, because there is no input file to count positions in.

    Args:
      spec: Made by `pipeline.prepare(config)`; nothing is written to its run directory.
    """

    def __init__(self, spec: ExplainSpec) -> None:
        super().__init__()
        self._spec = spec

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Adds the step."""
        return batches | "Explain batches" >> beam.ParDo(_ExplainBatch(self._spec))


class _ExplainBatch(beam.DoFn):
    def __init__(self, spec: ExplainSpec) -> None:
        self._spec = spec
        self._rejected = Metrics.counter("attribeam", "rows_rejected")

    def process(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        with runtime(self._spec) as loaded:
            table = self._explained(batch, loaded)
        if table is not None:
            yield from table.to_batches()

    def _explained(self, batch: pa.RecordBatch, loaded: Runtime) -> pa.Table | None:
        schema = self._spec.schema
        wanted = select(batch, [name for name, _ in schema.columns], "the batch")
        raw = RawBatch(wanted, np.arange(len(batch)), ())
        rows, rejected = decode(raw, schema, "batch", 0, len(loaded.target_names))
        arrow = attribution_schema(schema, self._spec.output, self._spec.metadata)
        explained = None
        if len(rows):
            explained, more = explain_rows(rows, loaded)
            rejected += more
        self._rejected.inc(len(rejected))
        if explained is None:
            return None
        kept, attribution, targets = explained
        return attribution_table(
            kept, attribution, schema.split(attribution.values), targets, loaded.target_names, schema,
            self._spec.output, arrow,
        )  # fmt: skip
