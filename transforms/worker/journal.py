"""What a finished shard says of itself: the journal keeps all of it, and its counts cross a shuffle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from transforms.aggregates.by_position import Positions
from transforms.aggregates.importance import ImportanceState
from transforms.aggregates.quality import Quality
from transforms.aggregates.sample import Sample
from transforms.errors import RunReplaced, UserError
from transforms.outputs.parts import Part, is_there
from transforms.outputs.run_files import MANIFEST, WORK
from transforms.storage import files
from transforms.storage.digests import digest_of


@dataclass
class ShardResult:
    """What a shard adds to a run: aggregates and a few rows, of a size that does not grow with its rows.

    Args:
      shards: Shards in it.
      read: Rows read.
      attributed: Rows explained.
      rejected: Rows rejected.
      attributions: Rows of the attributions table.
      seconds: Spent on explaining, the sum over batches, of which two overlap.
      importance: Aggregates of the attributions.
      quality: Aggregates of the deltas.
      sample: Rows for the report.
      positions: Aggregates of the attributions by position in a tensor.
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
    sample: Sample = field(default_factory=Sample)
    positions: Positions = field(default_factory=Positions)
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
        self.sample.merge(other.sample)
        self.positions.merge(other.positions)
        self.parts.extend(other.parts)
        used = [size for size in (self.device_batch_size_used, other.device_batch_size_used) if size]
        self.device_batch_size_used = min(used, default=None)

    def counts(self) -> ShardResult:
        """The same without the aggregates, which grow with the slices and are in the journal: a few KB."""
        return replace(ShardResult.empty(self.importance.features), **_counts(self))

    @property
    def held_bytes(self) -> int:
        """Memory of the aggregates and of the rows for the report, about."""
        return self.importance.held_bytes + self.sample.spec.bytes

    def to_bytes(self) -> bytes:
        """For the journal: a line of JSON, then the importance, the sample and the positions."""
        states = [getattr(self, name).to_bytes() for name in _STATES]
        line = _counts(self) | {
            "quality": self.quality.to_json(),
            "parts": [asdict(part) for part in self.parts],
            "sizes": [len(state) for state in states],
        }
        return json.dumps(line).encode() + b"\n" + b"".join(states)

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardResult:
        """Undoes `to_bytes`."""
        line, _, rest = data.partition(b"\n")
        found = json.loads(line)
        found["quality"] = Quality.from_json(found["quality"])
        found["parts"] = [Part(**part) for part in found["parts"]]
        first = 0
        for (name, kind), size in zip(_STATES.items(), found.pop("sizes"), strict=True):
            found[name] = kind.from_bytes(rest[first : first + size])
            first += size
        return cls(**found)

    @classmethod
    def empty(cls, features: tuple[str, ...]) -> ShardResult:
        """Nothing yet."""
        return cls(0, 0, 0, 0, 0, 0.0, ImportanceState(features))


#: Results that a commit reads ahead of the one that it merges: each may be some 10 MB.
STATES_AHEAD = 4
_COUNTS = ("shards", "read", "attributed", "rejected", "attributions", "seconds", "device_batch_size_used")
#: States in their order in the journal.
_STATES: dict[str, Any] = {"importance": ImportanceState, "sample": Sample, "positions": Positions}


def _counts(result: ShardResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in _COUNTS}


def journal_path(run: str, shard: int) -> str:
    """Where a finished shard leaves its result."""
    return files.join(run, WORK, "shards", f"{shard:05d}.done")


def fingerprint_path(run: str) -> str:
    """Where a run that goes on says which one it is."""
    return files.join(run, WORK, "fingerprint")


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
