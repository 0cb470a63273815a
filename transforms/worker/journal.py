"""The result of a finished shard: kept in the journal, while only its counts cross a shuffle."""

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
    """A shard's contribution to a run: aggregates and a few rows; its size does not depend on its row count.

    Args:
      shards: Number of shards in this contribution.
      read: Rows read.
      attributed: Rows explained.
      rejected: Rows rejected.
      attributions: Rows of the attributions table.
      seconds: Time spent on explaining, summed over batches; two batches may overlap in time.
      importance: Aggregates of the attributions.
      quality: Aggregates of the deltas.
      sample: Rows for the report.
      positions: Aggregates of the attributions by position in a tensor.
      parts: The files that were written, in the order of the shards.
      device_batch_size_used: The smallest device batch size used; None if the planned size was kept.
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
        """Adds another result's figures; the order of merging does not matter."""
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
        """A copy of a few KB without the aggregates, which grow with the slices and are in the journal."""
        return replace(ShardResult.empty(self.importance.features), **_counts(self))

    @property
    def held_bytes(self) -> int:
        """Approximate memory of the aggregates and of the rows for the report."""
        return self.importance.held_bytes + self.sample.spec.bytes

    def to_bytes(self) -> bytes:
        """Encodes the result for the journal: a line of JSON, then importance, sample and positions."""
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
        fields = json.loads(line)
        fields["quality"] = Quality.from_json(fields["quality"])
        fields["parts"] = [Part(**part) for part in fields["parts"]]
        first = 0
        for (name, kind), size in zip(_STATES.items(), fields.pop("sizes"), strict=True):
            fields[name] = kind.from_bytes(rest[first : first + size])
            first += size
        return cls(**fields)

    @classmethod
    def empty(cls, features: tuple[str, ...]) -> ShardResult:
        """A result without any shard."""
        return cls(0, 0, 0, 0, 0, 0.0, ImportanceState(features))


#: Number of results, of some 10 MB each, that a commit reads ahead while it merges one.
STATES_AHEAD = 4
_COUNTS = ("shards", "read", "attributed", "rejected", "attributions", "seconds", "device_batch_size_used")
#: States in their order in the journal.
_STATES: dict[str, Any] = {"importance": ImportanceState, "sample": Sample, "positions": Positions}


def _counts(result: ShardResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in _COUNTS}


def journal_path(run: str, shard: int) -> str:
    """The path of a finished shard's result."""
    return files.join(run, WORK, "shards", f"{shard:05d}.done")


def fingerprint_path(run: str) -> str:
    """The path of the fingerprint that identifies an unfinished run."""
    return files.join(run, WORK, "fingerprint")


def check_own(run: str, fingerprint: str, *, begun: bool) -> None:
    """Checks that a run directory still belongs to this run, and that the run is not committed.

    Args:
      run: The directory.
      fingerprint: The fingerprint of this run.
      begun: Whether a launcher has begun the run there; `ExplainShards` may be used without one.
    Raises:
      RunReplaced: Nothing more may be written to the directory.
    """
    path = fingerprint_path(run)
    try:
        owner = files.read_bytes(path).decode() if files.exists(path) else None
    except UserError:  # deleted between the two calls
        owner = None
    if owner == fingerprint or (owner is None and not begun):
        return
    state = "now belongs to another run" if owner else "is committed, or was deleted"
    raise RunReplaced(f"{run} {state}: nothing more is written to it")


def is_committed(run: str, fingerprint: str) -> bool:
    """True if the run of this fingerprint is committed in this directory."""
    path = files.join(run, MANIFEST)
    if not files.exists(path):
        return False
    try:
        manifest = json.loads(files.read_bytes(path))
    except ValueError:  # a damaged manifest identifies no run
        return False
    return isinstance(manifest, dict) and manifest.get("fingerprint") == fingerprint


def write_journal(run: str, shard: int, fingerprint: str, result: ShardResult) -> None:
    """Notes that a shard is finished: atomically, after its parts are written."""
    data = result.to_bytes()
    head = f"{fingerprint} {digest_of(data)}\n".encode()
    files.write_atomic(journal_path(run, shard), head + data)


def read_journal(run: str, shard: int, fingerprint: str) -> ShardResult | None:
    """The result of a shard, if a run of this fingerprint finished the shard; otherwise None.

    An entry that is damaged, or whose parts are missing or of another size, does not count: repeating a shard
    costs less than a wrong run.
    """
    path = journal_path(run, shard)
    if not files.exists(path):
        return None
    head, _, rest = files.read_bytes(path).partition(b"\n")
    if head != f"{fingerprint} {digest_of(rest)}".encode():
        return None
    result = ShardResult.from_bytes(rest)
    return result if all(is_there(run, part) for part in result.parts) else None
