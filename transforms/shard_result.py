"""What a finished shard says of itself: the journal keeps all of it, and its counts cross a shuffle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from transforms import files
from transforms.importance import ImportanceState
from transforms.quality import Quality


@dataclass
class ShardResult:
    """What a shard adds to a run: seven numbers a slice, target and feature, whatever the number of rows.

    Args:
      shards: Shards in it.
      read: Rows read.
      attributed: Rows explained.
      rejected: Rows rejected.
      attributions: Rows of the attributions table.
      seconds: Spent on explaining, the sum over batches, of which two overlap.
      importance: Aggregates of the attributions.
      quality: Aggregates of the deltas.
      device_batch_size_used: The smallest size of its device calls; None: as planned.
    """

    shards: int
    read: int
    attributed: int
    rejected: int
    attributions: int
    seconds: float
    importance: ImportanceState
    quality: Quality = field(default_factory=Quality)
    device_batch_size_used: int | None = None

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
        used = [size for size in (self.device_batch_size_used, other.device_batch_size_used) if size]
        self.device_batch_size_used = min(used, default=None)

    def counts(self) -> ShardResult:
        """The same without the aggregates, which grow with the slices and are in the journal: a few KB."""
        return replace(self, importance=ImportanceState(self.importance.features), quality=Quality())

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


_COUNTS = ("shards", "read", "attributed", "rejected", "attributions", "seconds", "device_batch_size_used")


def part_name(shard: int) -> str:
    """The file name of a shard's parts."""
    return f"part-{shard:05d}.parquet"


def journal_path(run: str, shard: int) -> str:
    """Where a finished shard leaves its result."""
    return files.join(run, "_work", "shards", f"{shard:05d}.done")


def write_journal(run: str, shard: int, fingerprint: str, result: ShardResult) -> None:
    """Notes that a shard is finished, atomically and after its parts are there."""
    files.write_atomic(journal_path(run, shard), fingerprint.encode() + b"\n" + result.to_bytes())


def read_journal(run: str, shard: int, fingerprint: str) -> ShardResult | None:
    """The result of a shard that a run of this fingerprint finished, None where there is none."""
    path = journal_path(run, shard)
    if not files.exists(path):
        return None
    head, _, rest = files.read_bytes(path).partition(b"\n")
    return ShardResult.from_bytes(rest) if head.decode() == fingerprint else None
