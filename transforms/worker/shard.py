"""Explaining a shard, from input to part file: reader, device and writer overlap, without an engine."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.aggregates.by_position import Positions, positioned
from transforms.aggregates.sample import WHOLE, Sample, sample_schema, shortened
from transforms.errors import RunReplaced
from transforms.methods.base import Attribution
from transforms.numerics.random import row_keys
from transforms.outputs.attributions import attribution_table, feature_totals
from transforms.outputs.layout import attribution_schema, slice_names
from transforms.outputs.parts import Part, as_output_lost
from transforms.outputs.run_files import WORK, part_name
from transforms.outputs.write import PartWriter, write_rejected
from transforms.rows.decode import Rows, decode, join
from transforms.rows.schema import columns_of
from transforms.slices.slicings import labels
from transforms.sources.base import Rejection, Shard
from transforms.sources.read import read_piece
from transforms.storage import files
from transforms.worker.batch import Explained, explain_rows
from transforms.worker.journal import ShardResult, check_own, is_committed, read_journal, write_journal
from transforms.worker.runtime import Runtime, runtime
from transforms.worker.spec import ExplainSpec

#: Batches in flight between two of the three threads.
_IN_FLIGHT = 2
#: Batches that are explained at a time.
_AT_ONCE = 2
#: Batches that the reader holds: the parts of one, these joined, and what is left over.
_READING = 3
#: The batch that a thread holds while it waits for room in a queue.
_WAITING = 1
#: The batch that the writer is working on.
_WRITING = 1
#: The most batches of results that a process holds, for a plan's bound on memory.
BATCHES_OF_RESULTS = _AT_ONCE + _WAITING + _IN_FLIGHT + _WRITING
#: The most batches of rows that a process holds: batches not yet explained, plus the batches of results.
BATCHES_OF_ROWS = _READING + _WAITING + _IN_FLIGHT + BATCHES_OF_RESULTS
_END = object()


def explain_shard(shard: Shard, spec: ExplainSpec) -> ShardResult:
    """Reads, explains and writes a shard, or takes over its result if an earlier attempt finished it.

    The parts are written first and the journal entry last, each atomically, so that a retry or a second
    attempt at the same time writes the same bytes under the same names. An attempt after the commit, which
    engines may start if they lost contact with a worker, does nothing.

    Args:
      shard: The rows.
      spec: The worker's instructions.
    Raises:
      UserError: A column's type in some file cannot be converted to what the model takes.
      InputLost: A file has disappeared or changed.
      OutputLost: The run directory can no longer be written.
      RunReplaced: The run directory now belongs to another run.
    Cost: the model's evaluations; reading and writing overlap with them.
    """
    finished = read_journal(spec.run, shard.index, spec.fingerprint)
    if finished is not None:
        return finished
    try:
        check_own(spec.run, spec.fingerprint, begun=spec.begun)
        with runtime(spec) as loaded:
            result = _run(shard, loaded)
    except RunReplaced:
        if is_committed(spec.run, spec.fingerprint):
            return ShardResult.empty(spec.schema.attributed)
        raise
    with as_output_lost(spec.run):
        write_journal(spec.run, shard.index, spec.fingerprint, result)
    return result


def _run(shard: Shard, loaded: Runtime) -> ShardResult:
    spec = loaded.spec
    rejected: list[Rejection] = []
    writer = _Writer(shard, loaded)
    batches = _ahead(read_batches(shard, spec, len(loaded.target_names), rejected))
    results: queue.Queue[Any] = queue.Queue(_IN_FLIGHT)
    failure: list[BaseException] = []
    # A daemon: an interrupt may come before the thread gets its end mark, and must not wait for it forever.
    writing = threading.Thread(
        target=_drain, args=(results, writer, failure), name="attribeam-writer", daemon=True
    )
    writing.start()
    try:
        try:
            for explained, problems, seconds in _overlapped(batches, loaded):
                if failure:
                    break
                writer.result.seconds += seconds
                rejected.extend(problems)
                if explained is not None:
                    results.put(explained)
        finally:
            # No thread may outlive the shard, or write to an abandoned part.
            results.put(_END)
            writing.join()
            batches.close()
        if failure:
            raise failure[0]
        return writer.finish(rejected)
    except BaseException:
        writer.abandon()
        raise


def _overlapped(
    batches: Iterator[Rows], loaded: Runtime
) -> Generator[tuple[Explained | None, list[Rejection], float], None, None]:
    """Explains batches in order, two at a time: while one is prepared, the other keeps the device busy.

    Yields:
      The result of `explain_rows`, and the seconds that it took.
    """

    def explain(rows: Rows) -> tuple[Explained | None, list[Rejection], float]:
        start = time.perf_counter()
        explained, problems = explain_rows(rows, loaded)
        return explained, problems, time.perf_counter() - start

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="attribeam-batch") as pool:
        started: deque[Future[tuple[Explained | None, list[Rejection], float]]] = deque()
        for rows in batches:
            started.append(pool.submit(explain, rows))
            if len(started) == _AT_ONCE:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()


def _drain(results: queue.Queue[Any], writer: _Writer, failure: list[BaseException]) -> None:
    """Runs the writer thread; after a failure it keeps emptying the queue, so that no thread is stuck."""
    while (item := results.get()) is not _END:
        if failure:
            continue
        try:
            writer.add(*item)
        except BaseException as error:  # noqa: BLE001 - handed to the device thread, which raises it
            failure.append(error)


def read_batches(shard: Shard, spec: ExplainSpec, targets: int, rejected: list[Rejection]) -> Iterator[Rows]:
    """The shard's usable rows in batches of `batch_size`, across files and row groups.

    Args:
      shard: The rows.
      spec: The worker's instructions.
      targets: Number of the model's outputs.
      rejected: Receives the rejected rows.
    """
    columns = columns_of(spec.schema)
    held: list[Rows] = []
    count = 0
    for piece in shard.pieces:
        for raw in read_piece(piece, columns, spec.batch_size):
            rows, problems = decode(raw, spec.schema, piece.name, piece.ordinal - piece.start, targets)
            rejected.extend(problems)
            if len(rows):
                held.append(rows)
                count += len(rows)
            while count >= spec.batch_size:
                whole = join(held)
                yield whole.take(slice(0, spec.batch_size)) if count > spec.batch_size else whole
                held = [whole.take(slice(spec.batch_size, None))] if count > spec.batch_size else []
                count -= spec.batch_size
    if held:
        yield join(held)


def _ahead(batches: Iterator[Rows]) -> Generator[Rows, None, None]:
    """Runs an iterator in a thread that keeps a few items ahead."""
    ready: queue.Queue[Any] = queue.Queue(_IN_FLIGHT)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(_END)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=run, name="attribeam-reader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


class _Writer:
    """The writer thread's part: writes batches to tables, and adds them to aggregates and progress."""

    def __init__(self, shard: Shard, loaded: Runtime) -> None:
        spec = loaded.spec
        self._shard, self._loaded = shard, loaded
        self._arrow = attribution_schema(spec.schema, spec.output, spec.metadata)
        self._part: PartWriter | None = None
        self.result = replace(
            ShardResult.empty(spec.schema.attributed),
            sample=Sample(spec.sample),
            positions=Positions(positioned(spec.schema, spec.targets.count(len(loaded.target_names)))),
        )
        self._sampled = sample_schema(spec.schema, spec.metadata)
        if spec.output.attributions != "none":
            repeated = ["target_name", *slice_names(spec.schema).values()]
            file = f"attributions/{part_name(shard.index)}"
            self._part = PartWriter(spec.run, file, self._arrow, repeated)
        try:
            self._progress = _Progress(shard, spec.run)
        except BaseException:
            if self._part is not None:
                self._part.abort()
            raise

    def add(self, rows: Rows, attribution: Attribution, targets: np.ndarray) -> None:
        """Writes a batch and adds it to the aggregates."""
        spec, result = self._loaded.spec, self.result
        split = spec.schema.split(attribution.values)
        if self._part is not None:
            names = self._loaded.target_names
            table = attribution_table(
                rows, attribution, split, targets, names, spec.schema, spec.output, self._arrow
            )
            self._part.write(table)
        per_example = targets.shape[1]
        keys, weights = row_keys(spec.seed, rows.ordinals), rows.weights
        result.sample.update(
            keys, attribution.prediction, targets, self._table_of(rows, attribution, targets)
        )
        result.positions.update(split, targets, weights)
        slices: dict[str, Any] = labels(spec.schema.slicings, rows.slices)
        if per_example > 1:
            repeat = np.repeat(np.arange(len(rows)), per_example)
            slices = {name: array.take(repeat) for name, array in slices.items()}
            keys, weights = keys[repeat], None if weights is None else weights[repeat]
        result.importance.update(feature_totals(split), targets.reshape(-1), slices, keys, weights)
        yardstick = self._loaded.reference.yardstick[targets]
        result.quality.update(attribution.convergence_delta, yardstick, attribution.limited)
        result.attributed += len(rows)
        result.attributions += targets.size
        self._progress.add(len(rows))

    def _table_of(
        self, rows: Rows, attribution: Attribution, targets: np.ndarray
    ) -> Callable[[np.ndarray], pa.Table]:
        """A function that makes the sample's table for some rows of a batch."""
        schema, names = self._loaded.spec.schema, self._loaded.target_names

        def table(chosen: np.ndarray) -> pa.Table:
            part = attribution.take(chosen)
            split = schema.split(part.values)
            return shortened(
                attribution_table(
                    rows.take(chosen), part, split, targets[chosen], names, schema, WHOLE, self._sampled
                )
            )

        return table

    def finish(self, rejected: list[Rejection]) -> ShardResult:
        """Completes the parts, and returns the shard's result."""
        spec, result = self._loaded.spec, self.result
        result.shards, result.read, result.rejected = 1, self._shard.rows, len(rejected)
        result.device_batch_size_used = self._loaded.device_batch.used
        if result.read != result.attributed + result.rejected:
            raise RuntimeError(
                f"{result.read} rows planned, {result.attributed} explained and {result.rejected} rejected: "
                "the input has changed since it was planned"
            )
        # A worker that was taken for dead may get here after its run was replaced or committed.
        check_own(spec.run, spec.fingerprint, begun=spec.begun)
        parts: list[Part] = []
        if self._part is not None:
            parts.append(self._part.close())
        if rejected:
            file = f"rejected/{part_name(self._shard.index)}"
            parts.append(write_rejected(spec.run, file, rejected, spec.metadata))
        result.parts = parts
        self._progress.add(result.rejected)
        self._progress.close()
        return result

    def abandon(self) -> None:
        """Gives up the part after a failure."""
        if self._part is not None:
            self._part.abort()
            self._part = None
        self._progress.close()


class _Progress:
    """Rows explained so far, for a launcher on the same machine: a file that grows by a line per batch.

    On object stores there is only the journal of finished shards.
    """

    def __init__(self, shard: Shard, run: str) -> None:
        self._file = None
        self._path = files.join(run, WORK, "progress", f"{shard.index:05d}")
        if not files.is_url(run):
            with as_output_lost(self._path):
                files.makedirs(files.join(run, WORK, "progress"))
                self._file = open(self._path, "w", buffering=1)  # noqa: SIM115 - closed with the shard

    def add(self, rows: int) -> None:
        if self._file is not None:
            with as_output_lost(self._path):
                self._file.write(f"{rows}\n")

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # from a line that did not fit on the disk, reported already
                self._file.close()
