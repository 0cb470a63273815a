"""What a finished shard says of itself: the journal keeps all of it, and its counts cross a shuffle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

from transforms import files
from transforms.errors import RunReplaced, UserError
from transforms.importance import ImportanceState
from transforms.parts import MANIFEST, Part, digest_of, is_there
from transforms.quality import Quality


@dataclass
class ShardResult:
    """What a shard adds to a run: aggregates of a size that does not grow with the number of rows.

    Args:
      shards: Shards in it.
      read: Rows read.
      attributed: Rows explained.
      rejected: Rows rejected.
      attributions: Rows of the attributions table.
      seconds: Spent on explaining, the sum over batches, of which two overlap.
      importance: Aggregates of the attributions.
      quality: Aggregates of the deltas.
      parts: The files that were written, in the order of the shards.
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
    parts: list[Part] = field(default_factory=list)
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
        self.parts.extend(other.parts)
        used = [size for size in (self.device_batch_size_used, other.device_batch_size_used) if size]
        self.device_batch_size_used = min(used, default=None)

    def counts(self) -> ShardResult:
        """The same without the aggregates, which grow with the slices and are in the journal: a few KB."""
        return replace(
            self, importance=ImportanceState(self.importance.features), quality=Quality(), parts=[]
        )

    def to_bytes(self) -> bytes:
        """For the journal: a line of JSON, then the importance."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        counts |= {"quality": self.quality.to_json(), "parts": [asdict(part) for part in self.parts]}
        return json.dumps(counts).encode() + b"\n" + self.importance.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardResult:
        """Undoes `to_bytes`."""
        line, _, rest = data.partition(b"\n")
        counts = json.loads(line)
        quality = Quality.from_json(counts.pop("quality"))
        parts = [Part(**part) for part in counts.pop("parts")]
        return cls(**counts, importance=ImportanceState.from_bytes(rest), quality=quality, parts=parts)

    @classmethod
    def empty(cls, features: tuple[str, ...]) -> ShardResult:
        """Nothing yet."""
        return cls(0, 0, 0, 0, 0, 0.0, ImportanceState(features))


#: Results that a commit reads ahead of the one that it merges: each may be some 10 MB.
STATES_AHEAD = 4
_COUNTS = ("shards", "read", "attributed", "rejected", "attributions", "seconds", "device_batch_size_used")


def journal_path(run: str, shard: int) -> str:
    """Where a finished shard leaves its result."""
    return files.join(run, "_work", "shards", f"{shard:05d}.done")


def fingerprint_path(run: str) -> str:
    """Where a run that goes on says which one it is."""
    return files.join(run, "_work", "fingerprint")


def check_own(run: str, fingerprint: str, *, begun: bool) -> None:
    """Makes sure that a run directory is not another run's by now, nor committed.

    Args:
      run: The directory.
      fingerprint: Of the run that is at work.
      begun: Whether a launcher has begun it there; `ExplainShards` may be used without one.
    Raises:
      RunReplaced: Nothing more may be written to it.
    """
    path = fingerprint_path(run)
    try:
        found = files.read_bytes(path).decode() if files.exists(path) else None
    except UserError:  # it went between the two
        found = None
    if found == fingerprint or (found is None and not begun):
        return
    whose = "another's by now" if found else "committed, or was taken away"
    raise RunReplaced(f"{run} is {whose}: nothing more is written to it")


def is_committed(run: str, fingerprint: str) -> bool:
    """Whether the run of this fingerprint is committed in its place."""
    path = files.join(run, MANIFEST)
    if not files.exists(path):
        return False
    try:
        found = json.loads(files.read_bytes(path))
    except ValueError:  # a damaged one is that of no run
        return False
    return isinstance(found, dict) and found.get("fingerprint") == fingerprint


def write_journal(run: str, shard: int, fingerprint: str, result: ShardResult) -> None:
    """Notes that a shard is finished, atomically and after its parts are there."""
    data = result.to_bytes()
    head = f"{fingerprint} {digest_of(data)}\n".encode()
    files.write_atomic(journal_path(run, shard), head + data)


def read_journal(run: str, shard: int, fingerprint: str) -> ShardResult | None:
    """The result of a shard that a run of this fingerprint finished, None where there is none.

    An entry that is not whole, or whose parts are not there as they were written, is none: a shard that is
    done again costs less than a run that is wrong.
    """
    path = journal_path(run, shard)
    if not files.exists(path):
        return None
    head, _, rest = files.read_bytes(path).partition(b"\n")
    if head != f"{fingerprint} {digest_of(rest)}".encode():
        return None
    result = ShardResult.from_bytes(rest)
    return result if all(is_there(run, part) for part in result.parts) else None
