"""The commit of a run from its journal: by the launcher, or by the pipeline's last step if nobody waits."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline import manifest as manifests
from pipeline.place import WORK, clear, swap, sweep
from pipeline.plan import Plan
from transforms import files
from transforms.shard_result import ShardResult, part_name, read_journal

#: Journal entries are waited for rather than worked on.
_READERS = 8


class RunBrokenError(Exception):
    """A run that broke on its way: what is done is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class Commit:
    """All that a commit needs besides the journal: a few KB, for a worker may be the one to do it.

    Args:
      place: Where the run is made.
      target: The run directory; another than `place` where a local run is replaced.
      replaces: A committed run stands there.
      shards: Their numbers.
      rows: That were planned.
      fingerprint: Of the run.
      features: Names in the tables.
      metadata: Of every table.
      draft: The manifest without its figures.
      rejected: `limits.rejected`.
      convergence: `limits.convergence`; None for a method that promises no sum.
      started: When the command was given, in seconds since 1970.
      planned: When the plan was made.
    """

    place: str
    target: str
    replaces: bool
    shards: Sequence[int]
    rows: int
    fingerprint: str
    features: tuple[str, ...]
    metadata: Mapping[str, str]
    draft: Mapping[str, Any]
    rejected: float
    convergence: float | None
    started: float
    planned: float

    @classmethod
    def of(
        cls, plan: Plan, target: str, runner: str, *, replaces: bool, started: float, planned: float
    ) -> Commit:
        """The commit of a plan, whose `spec.run` is the place; see the class."""
        config, spec = plan.loaded.config, plan.spec
        return cls(
            place=spec.run,
            target=target,
            replaces=replaces,
            shards=tuple(shard.index for shard in plan.shards),
            rows=plan.rows,
            fingerprint=plan.fingerprint,
            features=spec.schema.attributed,
            metadata=dict(spec.metadata),
            draft=manifests.draft_manifest(plan, runner),
            rejected=config.limits.rejected,
            convergence=config.limits.convergence if config.method.additive else None,
            started=started,
            planned=planned,
        )

    def exceeded(self, counts: Mapping[str, int], quality: Mapping[str, float | None] | None) -> list[str]:
        """The limits that a run exceeds, from the manifest's `counts` and `quality.convergence_delta`."""
        found = []
        share = counts["rows_rejected"] / counts["rows_read"] if counts["rows_read"] else 0.0
        if share > self.rejected:
            found.append(
                f"{share:.2%} of the rows were rejected, more than limits.rejected: {self.rejected:g}"
            )
        worst = quality["relative_p99"] if quality else None
        if worst is not None and self.convergence is not None and worst > self.convergence:
            found.append(
                f"p99 of |convergence_delta| is {worst:.3g} of the score's spread, more than "
                f"limits.convergence: {self.convergence:g}"
            )
        return found


def result_path(run: str) -> str:
    """Where a pipeline leaves the run's aggregates for the launcher."""
    return files.join(run, WORK, "result")


def finished_shards(run: str) -> set[int]:
    """The numbers of the shards that the journal of a run has."""
    return {int(name.partition(".")[0]) for name in files.list_dir(files.join(run, WORK, "shards"))}


def commit_run(commit: Commit, combined: ShardResult | None = None) -> dict[str, Any]:
    """Merges the journal, checks it, and writes the importance and the manifest; a retry finds it done.

    Args:
      commit: What to commit.
      combined: What the pipeline itself has counted, to be compared with the journal.
    Returns:
      The manifest.
    Raises:
      RunBrokenError: The counts do not balance.
    """
    committed = manifests.read_manifest(commit.target)
    if committed is not None and committed["fingerprint"] == commit.fingerprint:
        files.delete_tree(files.join(commit.target, WORK))
        return committed
    result = _in_order(commit)
    _check(commit, result, combined)
    now = time.time()
    seconds = now - commit.planned
    timing = {
        "seconds": now - commit.started,
        "planning_seconds": commit.planned - commit.started,
        "pipeline_seconds": seconds,
        "explaining_seconds": result.seconds,
        "rows_per_second": result.read / seconds if seconds > 0 else 0.0,
    }
    counts = {"rows_read": result.read, "rows_rejected": result.rejected}
    exceeded = commit.exceeded(counts, result.quality.summary())
    manifest = manifests.fill_manifest(commit.draft, result, timing, exceeded)
    _write_importance(commit, result)
    if commit.replaces and commit.place == commit.target:  # an object store: no rename of folders there
        clear(commit.target, (part_name(shard) for shard in commit.shards))
    sweep(commit.place)
    manifests.commit(commit.place, manifest)
    if commit.place != commit.target:
        swap(commit.place, commit.target)
    return manifest


def _in_order(commit: Commit) -> ShardResult:
    """The shards' results from the journal, merged in their order.

    Which worker finishes first decides in which order the runner merges, and so the last bits of a mean.
    """
    total = ShardResult.empty(commit.features)
    with ThreadPoolExecutor(_READERS) as pool:
        for found in pool.map(
            lambda shard: read_journal(commit.place, shard, commit.fingerprint), commit.shards
        ):
            if found is not None:
                total.merge(found)
    return total


def _check(commit: Commit, result: ShardResult, combined: ShardResult | None) -> None:
    if combined is not None and (combined.shards, combined.read) != (result.shards, result.read):
        raise RunBrokenError(
            f"the runner counted {combined.shards} shards and {combined.read} rows, the journal "
            f"{result.shards} and {result.read}"
        )
    if result.read != commit.rows or result.read != result.attributed + result.rejected:
        raise RunBrokenError(
            f"the counts do not balance: {commit.rows} rows planned, {result.read} read, {result.attributed} "
            f"attributed, {result.rejected} rejected"
        )


def _write_importance(commit: Commit, result: ShardResult) -> None:
    table = result.importance.to_table(tuple(commit.draft["target_names"]))
    table = table.replace_schema_metadata(dict(commit.metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    files.write_atomic(files.join(commit.place, "importance.parquet"), buffer.getvalue())
