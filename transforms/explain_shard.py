"""A shard from input to part file: reader, device and writer overlap, in plain Python without an engine."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transforms import files
from transforms.decode import Rows, as_text, decode, join
from transforms.importance import ImportanceState
from transforms.methods.base import Attribution, evaluate
from transforms.methods.random import row_keys
from transforms.quality import Quality
from transforms.read import Column, Rejection, read_piece
from transforms.shards import Shard
from transforms.worker import ExplainSpec, Runtime, runtime
from transforms.write import PartWriter, attribution_schema, attribution_table, feature_totals, rejected_bytes

#: Batches in flight between two of the three threads.
_IN_FLIGHT = 2
_END = object()


@dataclass
class ShardResult:
    """What a shard adds to a run; a few KB, the only thing that crosses a shuffle.

    Args:
      shards: Shards in it.
      read: Rows read.
      attributed: Rows explained.
      rejected: Rows rejected.
      attributions: Rows of the attributions table.
      seconds: Device seconds, the sum over shards.
      importance: Aggregates of the attributions.
      quality: Aggregates of the deltas.
    """

    shards: int
    read: int
    attributed: int
    rejected: int
    attributions: int
    seconds: float
    importance: ImportanceState
    quality: Quality = field(default_factory=Quality)

    def merge(self, other: ShardResult) -> None:
        """Adds another's figures; any order gives the same."""
        self.shards += other.shards
        self.read += other.read
        self.attributed += other.attributed
        self.rejected += other.rejected
        self.attributions += other.attributions
        self.seconds += other.seconds
        self.importance.merge(other.importance)
        self.quality.merge(other.quality)

    def to_bytes(self) -> bytes:
        """For the journal: a line of JSON, then the importance."""
        counts = {name: getattr(self, name) for name in _COUNTS} | {"quality": self.quality.to_json()}
        return json.dumps(counts).encode() + b"\n" + self.importance.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardResult:
        """Undoes `to_bytes`."""
        line, _, rest = data.partition(b"\n")
        counts = json.loads(line)
        quality = Quality.from_json(counts.pop("quality"))
        return cls(**counts, importance=ImportanceState.from_bytes(rest), quality=quality)

    @classmethod
    def empty(cls, features: tuple[str, ...]) -> ShardResult:
        """Nothing yet."""
        return cls(0, 0, 0, 0, 0, 0.0, ImportanceState(features))


_COUNTS = ("shards", "read", "attributed", "rejected", "attributions", "seconds")


def part_name(shard: int) -> str:
    """The file name of a shard's parts."""
    return f"part-{shard:05d}.parquet"


def journal_path(run: str, shard: int) -> str:
    """Where a finished shard leaves its result."""
    return files.join(run, "_work", "shards", f"{shard:05d}.done")


def explain_shard(shard: Shard, spec: ExplainSpec) -> ShardResult:
    """Reads, explains and writes a shard, or takes over its result where an earlier attempt finished it.

    The parts are written first and the journal entry last, each atomically, so that a retry or a second attempt at
    the same time writes the same bytes under the same names.

    Args:
      shard: The rows.
      spec: What to do with them.
    Raises:
      UserError: A column of a file cannot become what the model takes.
    Cost: the model's, plus what reading and writing cannot hide behind it.
    """
    journal = journal_path(spec.run, shard.index)
    if files.exists(journal):
        head, _, rest = files.read_bytes(journal).partition(b"\n")
        if head.decode() == spec.fingerprint:
            return ShardResult.from_bytes(rest)
    result = _run(shard, runtime(spec))
    files.write_atomic(journal, spec.fingerprint.encode() + b"\n" + result.to_bytes())
    return result


def _run(shard: Shard, loaded: Runtime) -> ShardResult:
    spec = loaded.spec
    rejected: list[Rejection] = []
    writer = _Writer(shard, loaded)
    batches = _ahead(read_batches(shard, spec, len(loaded.target_names), rejected))
    results: queue.Queue[Any] = queue.Queue(_IN_FLIGHT)
    failure: list[BaseException] = []
    writing = threading.Thread(target=_drain, args=(results, writer, failure), name="attribeam-writer")
    writing.start()
    try:
        for rows in batches:
            if failure:
                break
            start = time.perf_counter()
            explained, problems = explain_rows(rows, loaded)
            writer.result.seconds += time.perf_counter() - start
            rejected.extend(problems)
            if explained is not None:
                results.put(explained)
    except BaseException:
        writer.abandon()
        raise
    finally:
        results.put(_END)
        writing.join()
        batches.close()
    if failure:
        writer.abandon()
        raise failure[0]
    return writer.finish(rejected)


def _drain(results: queue.Queue[Any], writer: _Writer, failure: list[BaseException]) -> None:
    """The writer thread; after a failure it goes on emptying the queue, so that nobody waits for it."""
    while (item := results.get()) is not _END:
        if failure:
            continue
        try:
            writer.add(*item)
        except BaseException as error:  # noqa: BLE001 - handed to the device thread, which raises it
            failure.append(error)


def read_batches(shard: Shard, spec: ExplainSpec, targets: int, rejected: list[Rejection]) -> Iterator[Rows]:
    """The shard's usable rows in batches of `batch_size`, whatever the files and row groups they come from.

    Args:
      shard: The rows.
      spec: What to read of them.
      targets: Outputs of the model.
      rejected: Takes the others.
    """
    columns = [Column(name, kind) for name, kind in spec.schema.columns]
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
    """Runs an iterator in a thread, a few items ahead."""
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

    thread = threading.Thread(target=run, name="attribeam-reader")
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


Explained = tuple[Rows, Attribution, np.ndarray]


def explain_rows(rows: Rows, loaded: Runtime) -> tuple[Explained | None, list[Rejection]]:
    """Attributes a batch; rows that the model cannot take are found and rejected one by one.

    Returns:
      The explained rows with their attribution and targets `[B, T]` (None where none is left), and the rejections.
    """
    attempt = _attempt(rows, loaded)
    if isinstance(attempt, str):
        if len(rows) == 1:
            return None, [_rejection(rows, 0, "predict", attempt)]
        middle = len(rows) // 2
        halves = [explain_rows(rows.take(part), loaded) for part in (slice(0, middle), slice(middle, None))]
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
    return (rows.take(good), _take(attribution, good), targets[good]), rejections


def _attempt(rows: Rows, loaded: Runtime) -> tuple[Attribution, np.ndarray] | str:
    """The attribution of a batch with its targets, or why the model would not take it."""
    import tensorflow as tf

    spec = loaded.spec
    inputs = spec.schema.assemble(rows.features)
    # What depends on the values of a row: an index outside an embedding, a word outside a closed vocabulary.
    try:
        outputs = evaluate(loaded.model, inputs, spec.device_batch_size)[1] if spec.targets.predicted else None
        targets = spec.targets.of(outputs, rows.targets, len(rows))
        seeds = row_keys(spec.seed, rows.ordinals)
        found = spec.method.attribute(
            loaded.model, inputs, loaded.reference, targets, seeds, spec.device_batch_size
        )
    except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        message = str(error.message).strip().splitlines()[0]
        return f"the model does not take the row: {message[:200]}"
    return found, targets


def _worst(attribution: Attribution) -> np.ndarray:
    """A number a row that is finite if and only if all of the row's values are, `[B, 1]`."""
    total = np.zeros(len(attribution.prediction))
    for value in attribution.values.values():
        # Adding up |φ| in float64 cannot overflow, and NaN and ∞ stay what they are.
        total += np.abs(value.reshape(len(value), -1)).sum(axis=1, dtype=np.float64)
    return total[:, None]


def _rejection(rows: Rows, index: int, stage: str, reason: str) -> Rejection:
    return Rejection(rows.file[index], int(rows.rows[index]), stage, reason, rows.ids[index])


def _take(attribution: Attribution, index: np.ndarray) -> Attribution:
    errors, delta = attribution.standard_error, attribution.convergence_delta
    return Attribution(
        {k: v[index] for k, v in attribution.values.items()},
        attribution.prediction[index],
        attribution.output[index],
        attribution.base_value[index],
        None if delta is None else delta[index],
        None if errors is None else {k: v[index] for k, v in errors.items()},
        attribution.limited[index],
    )


def _join_explained(parts: list[Explained]) -> Explained | None:
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    found = [part[1] for part in parts]
    deltas = [a.convergence_delta for a in found if a.convergence_delta is not None]
    errors = [a.standard_error for a in found if a.standard_error is not None]
    whole = Attribution(
        {k: np.concatenate([a.values[k] for a in found]) for k in found[0].values},
        np.concatenate([a.prediction for a in found]),
        np.concatenate([a.output for a in found]),
        np.concatenate([a.base_value for a in found]),
        np.concatenate(deltas) if deltas else None,
        {k: np.concatenate([e[k] for e in errors]) for k in errors[0]} if errors else None,
        np.concatenate([a.limited for a in found]),
    )
    return join([part[0] for part in parts]), whole, np.concatenate([part[2] for part in parts])


class _Writer:
    """What the writer thread does with a batch: tables, importance, quality, progress."""

    def __init__(self, shard: Shard, loaded: Runtime) -> None:
        spec = loaded.spec
        self._shard, self._loaded = shard, loaded
        self._arrow = attribution_schema(spec.schema, spec.output, spec.metadata)
        self._part: PartWriter | None = None
        self._progress = _Progress(shard, spec.run)
        self.result = ShardResult.empty(spec.schema.attributed)
        if spec.output.attributions != "none":
            repeated = ["target_name", *(name for name, _ in spec.schema.slices)]
            path = files.join(spec.run, "attributions", part_name(shard.index))
            self._part = PartWriter(path, self._arrow, repeated)

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
        slices: dict[str, Any] = {name: as_text(array) for name, array in rows.slices.items()}
        if per_example > 1:
            repeat = np.repeat(np.arange(len(rows)), per_example)
            slices = {name: array.take(repeat) for name, array in slices.items()}
        result.importance.update(feature_totals(split), targets.reshape(-1), slices)
        spread = self._loaded.reference.spread[targets]
        result.quality.update(attribution.convergence_delta, spread, attribution.limited)
        result.attributed += len(rows)
        result.attributions += targets.size
        self._progress.add(len(rows))

    def finish(self, rejected: list[Rejection]) -> ShardResult:
        """Completes the parts; the figures are whole."""
        spec, result = self._loaded.spec, self.result
        if self._part is not None:
            self._part.close()
        path = files.join(spec.run, "rejected", part_name(self._shard.index))
        if rejected:
            files.makedirs(files.join(spec.run, "rejected"))
            files.write_atomic(path, rejected_bytes(rejected, spec.metadata))
        result.shards, result.read, result.rejected = 1, self._shard.rows, len(rejected)
        if result.read != result.attributed + result.rejected:
            raise RuntimeError(
                f"shard {self._shard.index}: {result.read} rows planned, {result.attributed} explained and "
                f"{result.rejected} rejected: the input changed since it was planned"
            )
        self._progress.close()
        return result

    def abandon(self) -> None:
        """After a failure: no part."""
        if self._part is not None:
            self._part.abort()
            self._part = None
        self._progress.close()


class _Progress:
    """Rows explained so far, for a launcher on the same machine: a file that grows by a byte a row batch is enough.

    Each line is the rows of a batch; on object stores the journal of finished shards has to do.
    """

    def __init__(self, shard: Shard, run: str) -> None:
        self._file = None
        if not files.is_url(run):
            path = files.join(run, "_work", "progress", f"{shard.index:05d}")
            files.makedirs(files.join(run, "_work", "progress"))
            self._file = open(path, "w", buffering=1)  # noqa: SIM115 - closed with the shard

    def add(self, rows: int) -> None:
        if self._file is not None:
            self._file.write(f"{rows}\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


