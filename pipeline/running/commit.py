"""The commit of a run from its journal: by the launcher, or by the pipeline's last step if nobody waits."""

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

from pipeline.planning.plan import Plan
from pipeline.run_directory import convergence_scale as yardstick
from pipeline.run_directory.committed import read_manifest
from pipeline.run_directory.increments import read_base
from pipeline.run_directory.kept_baseline import is_kept
from pipeline.run_directory.layout import REFERENCE, is_under_way
from pipeline.run_directory.replace import swap, sweep
from pipeline.running import manifest as manifests
from pipeline.running.tables import NoWeightError, write_tables
from transforms.errors import SAID_ALL, UserError
from transforms.outputs.parts import written
from transforms.outputs.run_files import WORK
from transforms.rows.baselines.artifact import Artifact
from transforms.storage import files
from transforms.work.failures import read_failures
from transforms.work.journal import STATES_AHEAD, ShardResult, read_journal

_DRAW_LATER = "the run is committed nevertheless; attribeam report RUN draws it later"
#: Journal entries are waited for rather than worked on.
_READERS = 8
_ENTRY = re.compile(r"\d{5,}\.done")


class RunBrokenError(Exception):
    """A run that broke on its way: finished work is kept, and the same command continues from there."""


@dataclass(frozen=True)
class Commit:
    """All that a commit needs besides the journal.

    A worker may be the one to do it: what grows with the input's files, the draft, waits in the journal then.

    Args:
      place: Where the run is made.
      target: The run directory; another than `place` where a committed run is replaced.
      shards: Their numbers.
      rows: That were planned, those included that were taken over.
      takes_over: Whether some were, from a run that this one adds to.
      keeps_state: Whether another run may add to this one.
      keeps_baseline: Whether the rows of its baseline are kept, for another run to be compared by.
      fingerprint: Of the run.
      features: Names in the tables.
      metadata: Of every table.
      draft: The manifest without its figures; None: in the journal.
      min_rows: `privacy.min_rows`.
      weight: The column of weights; None: all rows count the same.
      rejected: `limits.rejected`.
      convergence: `limits.convergence`; None for a method that promises no sum.
      measured: What convergence is measured by, in words, with {} for the share.
      report: Whether there is to be a report.
      started: When the command was given, in seconds since 1970.
      planned: When the plan was made.
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
        """The commit of a plan, whose `spec.run` is the place; see the class."""
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
        """The same for a worker, who finds the draft in the journal."""
        return replace(self, draft=None)

    def leave_draft(self) -> None:
        """Leaves the draft in the journal: for a worker, and to tell of what a run was begun."""
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
    """The manifest's draft of a run that was begun; None where it is not there."""
    path = _draft_path(run)
    return json.loads(files.read_bytes(path)) if files.exists(path) else None


def _draft_path(run: str) -> str:
    return files.join(run, WORK, "draft")


def result_path(run: str) -> str:
    """Where a pipeline leaves the run's aggregates for the launcher."""
    return files.join(run, WORK, "result")


def finished_shards(run: str, fingerprint: str) -> set[int]:
    """The numbers of the shards that the journal of a run has, with their parts in their places.

    Args:
      run: Its place.
      fingerprint: Its own; entries of another are not counted.
    Cost: reads the journal, several entries at a time.
    """
    names = files.list_dir(files.join(run, WORK, "shards"))
    numbers = [int(name.removesuffix(".done")) for name in names if _ENTRY.fullmatch(name)]
    with ThreadPoolExecutor(_READERS) as pool:
        finished = pool.map(lambda number: read_journal(run, number, fingerprint) is not None, numbers)
        return {number for number, whole in zip(numbers, finished, strict=True) if whole}


def commit_run(commit: Commit, combined: ShardResult | None = None) -> dict[str, Any]:
    """Merges the journal, checks it, and writes the importance and the manifest; a retry finds it done.

    Args:
      commit: What to commit.
      combined: What the pipeline itself has counted, to be compared with the journal.
    Returns:
      The manifest.
    Raises:
      RunBrokenError: Shards failed, or the counts do not balance.
      UserError: No row has any weight.
      OutputLost: The place can be written no more.
    """
    try:
        with written(commit.place):
            manifest = _commit_run(commit, combined)
    except NoWeightError as error:  # no fault of the place's
        problem = f"every row that was explained has the weight 0 in {commit.weight!r}, so no mean exists"
        raise UserError(problem, "input.weight", "correct the column, or leave the key out") from error
    make_report(commit)
    return manifest


def make_report(commit: Commit) -> list[str]:
    """Makes the report of a committed run, unless it is there or the config wants none.

    Whatever fails in drawing it leaves the run as it is: committed and whole.

    Returns:
      What the report lacks, in lines, each with its reason.
    Raises:
      OutputLost: It cannot be written; the run is whole without it, and the next command makes it.
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
    with written(commit.target):
        write_page(run, made)
    return [f"{line}; {_DRAW_LATER}" for line in made.warnings]


def _commit_run(commit: Commit, combined: ShardResult | None) -> dict[str, Any]:
    # The same run may stand where this one is to go, to be replaced by it.
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
    # A shard that has failed may have been done when it was tried again.
    failures = [note for note in read_failures(commit.place) if note["shard"] in missing]
    if failures:
        raise RunBrokenError(told_failures(failures, len(commit.shards)))
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
    """What the workers were told to compare by."""
    return Artifact.from_bytes(files.read_bytes(files.join(commit.place, WORK, REFERENCE)))


def _add_in_order(commit: Commit, total: ShardResult) -> set[int]:
    """Adds the shards' results from the journal in their order; returns the shards that it has not.

    Which worker finishes first decides in which order the runner merges, and so the last bits of a mean.
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
    """Holds the counts against each other; returns the rows read that were not taken over with `before`."""
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


def told_failures(failures: Sequence[Mapping[str, Any]], shards: int) -> str:
    """What failed, in a line: the first of the failures in full.

    Args:
      failures: The notes, as `read_failures` gives them.
      shards: Of the run.
    """
    first = failures[0]
    line = first["message"].strip().splitlines()[0]
    kind = f" with {first['kind']}" if first["kind"] not in SAID_ALL else ""
    others = f" ({len(failures)} of {shards} shards failed)" if len(failures) > 1 else ""
    return f"shard {first['shard']} failed{kind}: {line}{others}"
