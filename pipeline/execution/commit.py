"""Commits a run from its journal: in the launcher, or in the pipeline's last step if nobody waits for it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pipeline.execution import manifest as manifests
from pipeline.execution.tables import NoWeightError, write_tables
from pipeline.planning.plan import Plan
from pipeline.run_directory import convergence_scale as yardstick
from pipeline.run_directory.committed import read_manifest
from pipeline.run_directory.increments import read_base
from pipeline.run_directory.kept_baseline import is_kept
from pipeline.run_directory.layout import REFERENCE, is_under_way
from pipeline.run_directory.replace import swap, sweep
from transforms.errors import SAID_ALL, UserError
from transforms.outputs.parts import as_output_lost
from transforms.outputs.run_files import WORK
from transforms.rows.baselines.artifact import Artifact
from transforms.storage import files
from transforms.worker.failures import read_failures
from transforms.worker.journal import STATES_AHEAD, ShardResult, read_journal

_DRAW_LATER = "the run is committed nevertheless; attribeam report RUN draws it later"
#: Threads that read journal entries: they mostly wait for the filesystem.
_READERS = 8
_ENTRY = re.compile(r"\d{5,}\.done")


class RunBrokenError(Exception):
    """A run that broke on its way: finished work is kept, and the same command continues from there."""


@dataclass(frozen=True)
class Commit:
    """Everything that a commit needs besides the journal.

    A commit may be sent to a worker, without the draft, which may be large and stays in the journal.

    Args:
      place: The directory in which the run is made.
      target: The run directory; it differs from `place` if a committed run is replaced.
      shards: Numbers of the shards.
      rows: Rows that were planned, including those taken over.
      takes_over: The run adds to a committed one.
      keeps_state: Another run may add to this one.
      keeps_baseline: The run keeps its baseline's rows, for other runs.
      fingerprint: The run's fingerprint.
      features: Names of the features in the tables.
      metadata: The metadata of every table.
      draft: The manifest without its figures; None if it is in the journal.
      min_rows: `privacy.min_rows`.
      weight: The column of weights; None if all rows count the same.
      rejected: `limits.rejected`.
      convergence: `limits.convergence`; None for a method that promises no sum.
      measured: The scale of the convergence in words, with {} for the share.
      report: Write a report.
      started: Time of the command, in seconds since 1970.
      planned: Time at which the plan was ready.
    """

    place: str
    target: str
    shards: Sequence[int]
    rows: int
    takes_over: bool
    keeps_state: bool
    keeps_baseline: bool
    fingerprint: str
    features: tuple[str, ...]
    metadata: Mapping[str, str]
    draft: Mapping[str, Any] | None
    min_rows: int
    weight: str | None
    rejected: float
    convergence: float | None
    measured: str
    report: bool
    started: float
    planned: float

    @classmethod
    def of(cls, plan: Plan, target: str, runner: str, *, started: float, planned: float) -> Commit:
        """The commit of a plan; its `spec.run` is the place."""
        config, spec = plan.loaded.config, plan.spec
        draft = manifests.draft_manifest(plan, runner)
        return cls(
            place=spec.run,
            target=target,
            shards=tuple(shard.index for shard in plan.shards),
            rows=plan.rows,
            takes_over=plan.base is not None,
            keeps_state=config.incremental,
            keeps_baseline=is_kept(plan.baseline_kind, plan.probe.artifact, config.output.sample),
            fingerprint=plan.fingerprint,
            features=spec.schema.attributed,
            metadata=dict(spec.metadata),
            draft=draft,
            min_rows=config.privacy.min_rows,
            weight=config.input.weight,
            rejected=config.limits.rejected,
            convergence=config.limits.convergence if config.method.additive else None,
            measured=yardstick.share_in_words(draft, "{}"),
            report=config.output.report,
            started=started,
            planned=planned,
        )

    def handed_over(self) -> Commit:
        """The commit that is sent to a worker, which finds the draft in the journal."""
        return replace(self, draft=None)

    def leave_draft(self) -> None:
        """Writes the draft into the journal, for a worker and for commands that meet the unfinished run."""
        files.write_atomic(_draft_path(self.place), json.dumps(self.draft).encode())

    def exceeded(self, counts: Mapping[str, int], quality: Mapping[str, float | None] | None) -> list[str]:
        """The limits that a run exceeds, from the manifest's `counts` and `quality.convergence_delta`."""
        lines = []
        share = counts["rows_rejected"] / counts["rows_read"] if counts["rows_read"] else 0.0
        if share > self.rejected:
            lines.append(
                f"{share:.2%} of the rows were rejected, more than limits.rejected: {self.rejected:g}"
            )
        worst = quality["relative_p99"] if quality else None
        if worst is not None and self.convergence is not None and worst > self.convergence:
            lines.append(
                f"p99 of |convergence_delta| {self.measured.format(f'{worst:.3g}')}, more than "
                f"limits.convergence: {self.convergence:g}"
            )
        return lines


def read_draft(run: str) -> dict[str, Any] | None:
    """Reads the draft of an unfinished run's manifest; None if it is missing."""
    path = _draft_path(run)
    return json.loads(files.read_bytes(path)) if files.exists(path) else None


def _draft_path(run: str) -> str:
    return files.join(run, WORK, "draft")


def result_path(run: str) -> str:
    """Path of the file in which a pipeline leaves the aggregates for the launcher."""
    return files.join(run, WORK, "result")


def finished_shards(run: str, fingerprint: str) -> set[int]:
    """Finds the shards that the journal holds and whose parts are in place.

    Args:
      run: The directory in which the run is made.
      fingerprint: The run's fingerprint; entries of another run do not count.
    Cost: reads the journal, several entries at a time.
    """
    names = files.list_dir(files.join(run, WORK, "shards"))
    numbers = [int(name.removesuffix(".done")) for name in names if _ENTRY.fullmatch(name)]
    with ThreadPoolExecutor(_READERS) as pool:
        finished = pool.map(lambda number: read_journal(run, number, fingerprint) is not None, numbers)
        return {number for number, whole in zip(numbers, finished, strict=True) if whole}


def commit_run(commit: Commit, combined: ShardResult | None = None) -> dict[str, Any]:
    """Merges the journal, checks it, and writes the importance and the manifest; repeating it is harmless.

    Args:
      commit: The commit.
      combined: The pipeline's own counts, which must equal the journal's; None skips the comparison.
    Returns:
      The manifest.
    Raises:
      RunBrokenError: Shards failed, or the counts do not balance.
      UserError: Every row has weight 0.
      OutputLost: The directory cannot be written any more.
    """
    try:
        with as_output_lost(commit.place):
            manifest = _commit_run(commit, combined)
    except NoWeightError as error:  # not an error of the directory
        problem = f"every row that was explained has the weight 0 in {commit.weight!r}, so no mean exists"
        raise UserError(problem, "input.weight", "correct the column, or leave the key out") from error
    make_report(commit)
    return manifest


def make_report(commit: Commit) -> list[str]:
    """Makes the report of a committed run, unless it exists or the config wants none.

    The run stays committed and complete even if drawing the report fails.

    Returns:
      Lines that name what the report lacks, each with the reason.
    Raises:
      OutputLost: The report cannot be written. The run is complete; the next command makes the report.
    """
    if not commit.report:
        return []
    from pipeline.report import draw_report, report_is_current, write_page
    from pipeline.report.sections import reason_of
    from pipeline.results.run import load_run

    run = load_run(commit.target)
    if report_is_current(run):
        return []
    try:
        made = draw_report(run)
    except Exception as error:
        logging.getLogger(__name__).info("the report could not be drawn", exc_info=error)
        return [f"report.html could not be drawn: {reason_of(error)}; {_DRAW_LATER}"]
    with as_output_lost(commit.target):
        write_page(run, made)
    return [f"{line}; {_DRAW_LATER}" for line in made.warnings]


def _commit_run(commit: Commit, combined: ShardResult | None) -> dict[str, Any]:
    # The target may hold a run of the same fingerprint that is being replaced.
    places = [commit.place] if is_under_way(commit.place, commit.target) else [commit.target]
    for place in places:
        committed = read_manifest(place, replaces=True)
        if committed is not None and committed["fingerprint"] == commit.fingerprint:
            files.delete_tree(files.join(place, WORK))
            if place != commit.target:
                swap(place, commit.target)
            return committed
    result = read_base(commit.place) if commit.takes_over else ShardResult.empty(commit.features)
    before = result.shards, result.read
    missing = _add_in_order(commit, result)
    # A shard that failed may have succeeded in another attempt.
    failures = [note for note in read_failures(commit.place) if note["shard"] in missing]
    if failures:
        raise RunBrokenError(failures_in_words(failures, len(commit.shards)))
    explained = _check(commit, result, before, combined)
    now = time.time()
    seconds = now - commit.planned
    timing = {
        "seconds": now - commit.started,
        "planning_seconds": commit.planned - commit.started,
        "pipeline_seconds": seconds,
        "explaining_seconds": result.seconds,
        "rows_per_second": explained / seconds if seconds > 0 else 0.0,
    }
    counts = {"rows_read": result.read, "rows_rejected": result.rejected}
    exceeded = commit.exceeded(counts, result.quality.summary())
    draft = commit.draft
    if draft is None:
        draft = json.loads(files.read_bytes(_draft_path(commit.place)))
    parts, suppressed = write_tables(
        commit.place,
        draft,
        result,
        commit.metadata,
        min_rows=commit.min_rows,
        weighted=commit.weight is not None,
        keeps_state=commit.keeps_state,
        baseline=_baseline(commit) if commit.keeps_baseline else None,
    )
    result.parts += parts
    manifest = manifests.fill_manifest(draft, result, timing, exceeded, suppressed)
    sweep(commit.place, [part.file for part in result.parts])
    manifests.commit(commit.place, manifest)
    if commit.place != commit.target:
        swap(commit.place, commit.target)
    return manifest


def _baseline(commit: Commit) -> Artifact:
    """Reads the baseline that the workers used."""
    return Artifact.from_bytes(files.read_bytes(files.join(commit.place, WORK, REFERENCE)))


def _add_in_order(commit: Commit, total: ShardResult) -> set[int]:
    """Adds the shards' results from the journal in the order of shards; returns the missing shards.

    The order fixes the last bits of a mean, which would otherwise depend on the workers' speed.
    """
    missing = set()
    ahead: deque[tuple[int, Future[ShardResult | None]]] = deque()

    def take() -> None:
        shard, read = ahead.popleft()
        result = read.result()
        if result is None:
            missing.add(shard)
        else:
            total.merge(result)

    with ThreadPoolExecutor(STATES_AHEAD) as pool:
        for shard in commit.shards:
            ahead.append((shard, pool.submit(read_journal, commit.place, shard, commit.fingerprint)))
            if len(ahead) == STATES_AHEAD:
                take()
        while ahead:
            take()
    return missing


def _check(commit: Commit, result: ShardResult, before: tuple[int, int], combined: ShardResult | None) -> int:
    """Compares the counts with each other; returns the number of rows read by this run itself."""
    shards, read = result.shards - before[0], result.read - before[1]
    if combined is not None and (combined.shards, combined.read) != (shards, read):
        raise RunBrokenError(
            f"the runner counted {combined.shards} shards and {combined.read} rows, the journal "
            f"{shards} and {read}"
        )
    if result.read != commit.rows or result.read != result.attributed + result.rejected:
        raise RunBrokenError(
            f"the counts do not balance: {commit.rows} rows planned, {result.read} read, {result.attributed} "
            f"attributed, {result.rejected} rejected"
        )
    return read


def failures_in_words(failures: Sequence[Mapping[str, Any]], shards: int) -> str:
    """The failures in one line, the first of them in full.

    Args:
      failures: The notes, as `read_failures` gives them.
      shards: Number of shards of the run.
    """
    first = failures[0]
    line = first["message"].strip().splitlines()[0]
    kind = f" with {first['kind']}" if first["kind"] not in SAID_ALL else ""
    others = f" ({len(failures)} of {shards} shards failed)" if len(failures) > 1 else ""
    return f"shard {first['shard']} failed{kind}: {line}{others}"
