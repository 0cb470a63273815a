"""Runs a config: plan → graph → wait → commit."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.config.config import LoadedConfig, load_config
from pipeline.execution.choose_runner import choose_runner
from pipeline.execution.commit import (
    Commit,
    RunBrokenError,
    commit_run,
    failures_in_words,
    finished_shards,
    make_report,
    read_draft,
    result_path,
)
from pipeline.execution.manifest import known_cuts, relabel, work_fingerprint
from pipeline.planning.differences import in_one_line
from pipeline.planning.plan import EarlierRuns, Plan, Workers, make_plan
from pipeline.planning.summary import summarize
from pipeline.run_directory.checks import check_place, check_replaceable
from pipeline.run_directory.committed import read_manifest
from pipeline.run_directory.increments import take_over
from pipeline.run_directory.layout import OURS, REFERENCE, beside, is_under_way
from pipeline.run_directory.lock import run_lock
from pipeline.run_directory.replace import recover
from pipeline.runners import submit
from pipeline.runners.checks import slots
from pipeline.runners.names import LOCAL, needs_remote_files, waits
from transforms.errors import UserError
from transforms.outputs.parts import as_output_lost
from transforms.outputs.run_files import MANIFEST, WORK
from transforms.storage import files
from transforms.worker.failures import read_failures
from transforms.worker.journal import ShardResult, is_committed
from transforms.worker.spec import ExplainSpec

if TYPE_CHECKING:
    from pipeline.results.run import Run

__all__ = ["Outcome", "RunBrokenError", "execute", "explain", "prepare", "preview"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
      run: The run directory.
      manifest: The manifest of the committed run; None if a job was handed over, which will commit the run.
      reused: Nothing was done, because a committed run of the same fingerprint existed.
      exceeded: Limits of the config that the run exceeds, in words.
      warnings: Problems that do not change the exit status.
      job: The engine's name for a job that was handed over; None otherwise.
    """

    run: str
    manifest: dict[str, Any] | None
    reused: bool
    exceeded: Sequence[str]
    warnings: Sequence[str] = ()
    job: str | None = None


def explain(
    config: str | os.PathLike[str],
    *,
    preset: str | os.PathLike[str] | None = None,
    output: str | None = None,
    settings: Sequence[str] = (),
    limit: int | None = None,
    date: str | None = None,
    overwrite: bool = False,
    runner: str | None = None,
    flags: Sequence[str] = (),
) -> Run:
    """Explains a data set and returns the committed run.

    Args:
      config: Path of the config file.
      preset: Path of a preset, which says how and where the config is run.
      output: The run directory, in place of the config's `output.path`.
      settings: Overrides of single keys, each as `a.b=value`.
      limit: Number of rows to explain, from the first one on; None: all.
      date: What `{date}` in paths becomes, as YYYY-MM-DD; today by default.
      overwrite: Make the run anew, and replace whatever run is in the directory.
      runner: The engine, in place of the config's.
      flags: Beam's own flags.
    Raises:
      UserError: Something the user can fix, or a job was submitted without waiting for it, so that there is
        no run yet.
      RunBrokenError: The run broke on its way; the same call continues from there.
    """
    from pipeline.results.run import load_run

    laid = None if preset is None else os.fspath(preset)
    loaded = load_config(os.fspath(config), preset=laid, settings=settings, output=output, date=date)
    return load_run(execute(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags).run)


def execute(
    loaded: LoadedConfig,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    runner: str | None = None,
    flags: Sequence[str] = (),
    progress: bool = False,
) -> Outcome:
    """Plans, runs and commits; see `explain`. `progress` prints the progress on stderr."""
    started = time.time()
    runner, flags = choose_runner(loaded, runner, flags)
    target = _target(loaded)
    with run_lock(target):
        recover(target)
        outcome = _execute(loaded, target, limit, overwrite, runner, flags, progress, started)
    return replace(outcome, run=loaded.paths.output)


def _execute(
    loaded: LoadedConfig,
    target: str,
    limit: int | None,
    overwrite: bool,
    runner: str,
    flags: Sequence[str],
    progress: bool,
    started: float,
) -> Outcome:
    """Plans, runs and commits while this command holds the lock of the directory."""
    local = runner == LOCAL
    workers = loaded.config.compute.workers
    committed = read_manifest(target, replaces=overwrite)
    plan = make_plan(
        loaded,
        limit=limit,
        in_process=local and workers == 1,
        workers=Workers(local, slots(runner, flags, workers)),
        # With --overwrite nothing is taken over.
        earlier=EarlierRuns(None if overwrite else committed, known_cuts(target)),
    )
    planned = time.time()
    if committed is not None and committed["fingerprint"] == plan.fingerprint and not overwrite:
        files.delete_tree(
            files.join(target, WORK)
        )  # remains if the process was killed right after the commit
        commit = Commit.of(plan, target, runner, started=started, planned=planned)
        # Limits are not part of the fingerprint, so the current config's limits apply.
        exceeded = commit.exceeded(committed["counts"], committed["quality"]["convergence_delta"])
        with as_output_lost(target):
            manifest = dict(relabel(target, committed, loaded.config))
        warnings = [*plan.warnings, *make_report(commit)]
        return Outcome(target, manifest, True, exceeded, warnings)
    place = _place(target, plan, committed, overwrite)
    plan = _moved(plan, place, runner)
    commit = Commit.of(plan, target, runner, started=started, planned=planned)
    _begin(plan)
    if not is_committed(place, plan.fingerprint):
        commit.leave_draft()
    finished = finished_shards(place, plan.fingerprint)
    if is_committed(place, plan.fingerprint) or finished.issuperset(commit.shards):
        # An earlier launcher ended before the commit, or during it.
        manifest = commit_run(commit)
    elif waits(flags):
        _run(plan, None, finished, runner, workers, flags, progress)
        manifest = commit_run(commit, ShardResult.from_bytes(files.read_bytes(result_path(place))))
    else:
        job = _run(plan, commit.handed_over(), finished, runner, workers, flags, progress)
        manifest_there = read_manifest(target)  # a local engine may have finished
        if (
            manifest_there is None
            or manifest_there["fingerprint"] != plan.fingerprint
            or is_under_way(place, target)
        ):
            return Outcome(target, None, False, (), plan.warnings, job)
        manifest = manifest_there
    # The run may have been committed by a worker: what its report lacks is printed here.
    warnings = [*manifest["warnings"], *make_report(commit)]
    return Outcome(target, manifest, False, manifest["quality"]["exceeded"], warnings)


def _target(loaded: LoadedConfig) -> str:
    """The run directory, with symbolic links resolved, after checking that it can be written.

    The lock and a replacing run use this path.
    """
    named = loaded.paths.output
    target = named if files.is_url(named) else os.path.realpath(named)
    check_place(target)
    return target


def _place(target: str, plan: Plan, committed: Mapping[str, Any] | None, overwrite: bool) -> str:
    """The directory in which the run is made: a committed run stays until its replacement is complete.

    Raises:
      UserError: The directory holds another run that must not, or cannot, be replaced.
    """
    remedy = "give another --output, or --overwrite to replace it"
    if committed is None:
        begun = work_fingerprint(target)
        if begun is not None and begun != plan.fingerprint and not overwrite:
            draft = read_draft(target)
            why = f": {in_one_line(plan.differences(draft))}" if draft else ""
            problem = f"holds an unfinished run of a different config, model or input{why}"
            raise UserError(problem, target, remedy)
        return target
    if plan.base is None and not overwrite:
        why = f": {in_one_line(plan.differences(committed))}"
        if plan.anew:
            why = f", and cannot be added to: {plan.anew}"
        raise UserError(f"holds a committed run of a different config, model or input{why}", target, remedy)
    check_replaceable(target)
    return beside(target)


def _moved(plan: Plan, run: str, runner: str) -> Plan:
    """The plan with the directory in which it is made, without local folders if workers cannot see them."""
    model = plan.spec.model
    if needs_remote_files(runner):
        model = replace(model, module_paths=())
    reference = files.join(run, WORK, REFERENCE)
    return replace(plan, spec=replace(plan.spec, run=run, reference=reference, model=model))


def _begin(plan: Plan) -> None:
    """Prepares the run directory, or recognises an unfinished run to continue."""
    run = plan.spec.run
    begun = work_fingerprint(run)
    if begun is not None and begun != plan.fingerprint:
        _clear(run)
    elif begun is None and not is_committed(run, plan.fingerprint):
        # There is nothing to continue; parts without a journal cannot be trusted.
        _clear(run)
    elif begun is None:
        return  # a complete run, which only has to be moved to its target
    files.makedirs(files.join(run, WORK, "shards"))
    if plan.spec.output.attributions != "none":
        files.makedirs(files.join(run, "attributions"))
    files.delete_tree(files.join(run, WORK, "failures"))
    files.delete_tree(files.join(run, WORK, "progress"))
    if plan.base is not None:
        take_over(plan.base, plan.output, run)
    files.write_atomic(str(plan.spec.reference), plan.probe.artifact.to_bytes())
    files.write_atomic(files.join(run, WORK, "shard_rows"), str(plan.shard_rows).encode())
    files.write_atomic(files.join(run, WORK, "fingerprint"), plan.fingerprint.encode())


def _clear(run: str) -> None:
    """Deletes a run, its manifest first, so that the remains do not look like a complete run."""
    for name in (MANIFEST, *sorted(OURS - {MANIFEST, WORK}), WORK):
        files.delete_tree(files.join(run, name))


def _run(
    plan: Plan,
    commit: Commit | None,
    finished: Set[int],
    runner: str,
    workers: int,
    flags: Sequence[str],
    progress: bool,
) -> str | None:
    """Runs the pipeline, or hands it over together with the commit; returns the engine's name of the job."""
    from pipeline.execution.graph import define_pipeline
    from pipeline.execution.progress import RunProgress

    run = plan.spec.run
    done = plan.reused_rows + sum(shard.rows for shard in plan.shards if shard.index in finished)
    shown = RunProgress(run, plan.rows, done) if progress and not files.is_url(run) else nullcontext()
    job = submit.Job(plan.loaded.config.name, plan.spec.run_id, plan.spec.method.name)
    try:
        with shown:
            return submit.run_pipeline(
                lambda pipeline: define_pipeline(pipeline, plan.shards, plan.spec, commit),
                runner,
                workers,
                flags,
                job,
            )
    except (UserError, InterruptedError):
        raise
    except Exception as error:
        raise _cause(run, len(plan.shards), error) from error


def _cause(run: str, shards: int, error: Exception) -> BaseException:
    """The reason why a pipeline failed, from the note that the failing worker left."""
    if "KeyboardInterrupt" in str(error):
        return KeyboardInterrupt()  # Beam wraps the interrupt in an error of its own
    notes = read_failures(run)
    if not notes:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(" [while running")[0]
        if "Channel closed" in first:
            first = "a worker process died, as happens when memory runs out"
        return RunBrokenError(f"the runner failed: {first}")
    for note in notes:
        if note["user"]:
            return UserError(note["message"])
    return RunBrokenError(failures_in_words(notes, shards))


def preview(
    loaded: LoadedConfig,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    runner: str | None = None,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """Checks and decides everything that `execute` would, and writes nothing."""
    runner, flags = choose_runner(loaded, runner, flags)
    target = _target(loaded)
    committed = read_manifest(target, replaces=overwrite)
    plan = make_plan(
        loaded,
        limit=limit,
        measure=True,
        workers=Workers(runner == LOCAL, slots(runner, flags, loaded.config.compute.workers)),
        earlier=EarlierRuns(None if overwrite else committed, known_cuts(target)),
    )
    same = committed is not None and committed["fingerprint"] == plan.fingerprint and not overwrite
    if not same:
        _place(target, plan, committed, overwrite)
    job = submit.Job(loaded.config.name, plan.spec.run_id, plan.spec.method.name)
    flags = submit.engine_flags(runner, flags, job)
    return {**summarize(plan), "runner": runner, "flags": flags, "committed": same}


def prepare(
    config: str | os.PathLike[str], *, settings: Sequence[str] = (), date: str | None = None
) -> ExplainSpec:
    """Prepares `transforms.ExplainBatches` for your own pipeline: plans the config and reads its baseline.

    Args:
      config: Path of the config file.
      settings: Overrides of single keys, each as `a.b=value`.
      date: What `{date}` in paths becomes, as YYYY-MM-DD; today by default.
    Returns:
      A spec that carries the baseline; workers need no access to the input.
    Raises:
      UserError: The config cannot be run.
    """
    plan = make_plan(load_config(os.fspath(config), settings=settings, date=date))
    return replace(plan.spec, reference=plan.probe.artifact.to_bytes())
