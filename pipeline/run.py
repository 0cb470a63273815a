"""A run from config to committed directory: plan → graph → wait → commit."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from pipeline import runners
from pipeline.config import LoadedConfig, load_config
from pipeline.manifest import build_manifest, commit, known_cuts, read_manifest, work_fingerprint
from pipeline.place import OURS, WORK, beside, check_place, clear, swap, sweep
from pipeline.plan import Plan, make_plan
from transforms import files
from transforms.errors import UserError
from transforms.models.function import is_function
from transforms.shard_result import ShardResult, journal_path, read_journal
from transforms.worker import ExplainSpec

if TYPE_CHECKING:
    from pipeline.results import Run


#: Journal entries are waited for rather than worked on.
_READERS = 8


class RunBrokenError(Exception):
    """A run that broke on its way: what is done is kept, and the same command goes on from there."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
      run: Its directory.
      manifest: Of the committed run.
      reused: It was there already, of the same fingerprint; nothing was done.
      exceeded: Limits of the config that the run exceeds, in words.
      warnings: What is not as it should be and exceeds no limit.
    """

    run: str
    manifest: dict[str, Any]
    reused: bool
    exceeded: Sequence[str]
    warnings: Sequence[str] = ()


def explain(
    config: str | os.PathLike[str],
    *,
    output: str | None = None,
    settings: Sequence[str] = (),
    limit: int | None = None,
    date: str | None = None,
    overwrite: bool = False,
    runner: str = runners.LOCAL,
    flags: Sequence[str] = (),
) -> Run:
    """Explains a data set and returns the committed run.

    Args:
      config: Path of a config file.
      output: The run directory, instead of the config's.
      settings: `a.b=value` overrides of the config.
      limit: Only the first so many rows.
      date: Fills `{date}` in paths, YYYY-MM-DD.
      overwrite: Replace a run of another fingerprint.
      runner: The engine.
      flags: Passed to Beam.
    Raises:
      UserError: Something the user can mend.
      RunBrokenError: The run broke on its way.
    """
    from pipeline.results import load_run

    loaded = load_config(os.fspath(config), settings=settings, output=output, date=date)
    return load_run(execute(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags).run)


def execute(
    loaded: LoadedConfig,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    runner: str = runners.LOCAL,
    flags: Sequence[str] = (),
    progress: bool = False,
) -> Outcome:
    """Plans, runs and commits; see `explain`. `progress` shows how far the run is on stderr."""
    start = time.perf_counter()
    flags = runners.check_flags(flags)
    runners.check_runner(runner, flags)
    local = runner == runners.LOCAL
    workers = loaded.config.compute.workers
    target = loaded.path(loaded.config.output.path)
    check_place(target)
    runners.check_places(runner, flags, _places(loaded))
    plan = make_plan(
        loaded,
        limit=limit,
        local=local,
        in_process=local and workers == 1,
        slots=runners.slots(runner, flags, workers),
        earlier=known_cuts(target),
    )
    planned = time.perf_counter()
    committed = read_manifest(target)
    if committed is not None and committed["fingerprint"] == plan.fingerprint:
        files.delete_tree(files.join(target, WORK))  # left by a kill between the manifest and the end
        # Limits are no part of the fingerprint: they are judged by the config of today.
        quality = committed["quality"]["convergence_delta"]
        exceeded = _exceeded(loaded, committed["counts"], quality)
        return Outcome(target, committed, True, exceeded, plan.warnings)
    if committed is not None and not overwrite:
        raise UserError(
            "holds a committed run of another config, model or input",
            target,
            "give another --output, or --overwrite to replace it",
        )
    # A committed run stays whole until the one that replaces it is.
    place = beside(target) if committed is not None and not files.is_url(target) else target
    plan = _moved(plan, place)
    _begin(plan, overwrite or place != target)
    result, seconds = _run(plan, runner, workers, flags, progress)
    timing = {
        "seconds": time.perf_counter() - start,
        "planning_seconds": planned - start,
        "pipeline_seconds": seconds,
        "explaining_seconds": result.seconds,
        "rows_per_second": result.read / seconds if seconds > 0 else 0.0,
    }
    counts = {"rows_read": result.read, "rows_rejected": result.rejected}
    exceeded = _exceeded(loaded, counts, result.quality.summary())
    manifest = build_manifest(plan, result, runner, timing, exceeded)
    _write_importance(plan, result)
    if place == target and committed is not None:
        clear(
            target, (f"part-{shard.index:05d}.parquet" for shard in plan.shards)
        )  # an object store: no rename of folders there
    sweep(place)
    commit(place, manifest)
    if place != target:
        swap(place, target)
    return Outcome(target, manifest, False, exceeded, plan.warnings)


def _places(loaded: LoadedConfig) -> dict[str, list[str]]:
    """What workers read and write, by the config's name for it; a function is found by its module's name."""
    config = loaded.config
    named = {"input.files": config.patterns, "output.path": [config.output.path]}
    if not is_function(config.model.path):
        named["model.path"] = [config.model.path]
    return {f"{loaded.where}: {key}": [loaded.path(path) for path in paths] for key, paths in named.items()}


def _moved(plan: Plan, run: str) -> Plan:
    spec = replace(plan.spec, run=run, reference=files.join(run, WORK, "reference.npz"))
    return replace(plan, spec=spec)


def _begin(plan: Plan, overwrite: bool) -> None:
    """Prepares the run directory, or recognises the run that goes on in it."""
    run = plan.spec.run
    begun = work_fingerprint(run)
    if begun is not None and begun != plan.fingerprint:
        if not overwrite:
            raise UserError(
                "holds a run of another config, model or input that did not finish",
                run,
                "give another --output, or --overwrite to replace it",
            )
        files.delete_tree(run)
    elif begun is None and read_manifest(run) is None:
        # Nothing can be gone on with; parts without a journal are not to be trusted.
        for name in OURS:
            files.delete_tree(files.join(run, name))
    files.makedirs(files.join(run, WORK, "shards"))
    if plan.spec.output.attributions != "none":
        files.makedirs(files.join(run, "attributions"))
    files.delete_tree(files.join(run, WORK, "failures"))
    files.delete_tree(files.join(run, WORK, "progress"))
    files.write_atomic(str(plan.spec.reference), plan.found.artifact.to_bytes())
    files.write_atomic(files.join(run, WORK, "shard_rows"), str(plan.shard_rows).encode())
    files.write_atomic(files.join(run, WORK, "fingerprint"), plan.fingerprint.encode())


def _run(
    plan: Plan, runner: str, workers: int, flags: Sequence[str], progress: bool
) -> tuple[ShardResult, float]:
    """Runs the pipeline; returns its aggregates and the seconds that it took."""
    from pipeline.graph import define_pipeline, result_path
    from pipeline.progress import RunProgress

    run = plan.spec.run
    done = sum(shard.rows for shard in plan.shards if files.exists(journal_path(run, shard.index)))
    start = time.perf_counter()
    shown = RunProgress(run, plan.rows, done) if progress and not files.is_url(run) else nullcontext()
    try:
        with shown:
            runners.run_pipeline(
                lambda pipeline: define_pipeline(pipeline, plan.shards, plan.spec), runner, workers, flags
            )
    except (UserError, InterruptedError):
        raise
    except Exception as error:
        raise _cause(run, error) from error
    seconds = time.perf_counter() - start
    combined = ShardResult.from_bytes(files.read_bytes(result_path(run)))
    result = _in_order(plan)
    if (combined.shards, combined.read) != (result.shards, result.read):
        raise RunBrokenError(
            f"the runner counted {combined.shards} shards and {combined.read} rows, the journal "
            f"{result.shards} and {result.read}"
        )
    if result.read != plan.rows or result.read != result.attributed + result.rejected:
        raise RunBrokenError(
            f"the counts do not balance: {plan.rows} rows planned, {result.read} read, {result.attributed} "
            f"attributed, {result.rejected} rejected"
        )
    return result, seconds


def _in_order(plan: Plan) -> ShardResult:
    """The shards' results from the journal, merged in their order.

    Which worker finishes first decides in which order the runner merges, and so the last bits of a mean.
    """
    total = ShardResult.empty(plan.spec.schema.attributed)
    spec = plan.spec
    with ThreadPoolExecutor(_READERS) as pool:
        for found in pool.map(
            lambda shard: read_journal(spec.run, shard.index, spec.fingerprint), plan.shards
        ):
            if found is not None:
                total.merge(found)
    return total


def _cause(run: str, error: Exception) -> BaseException:
    """Why a pipeline failed, from the note that the failing worker left."""
    if "KeyboardInterrupt" in str(error):
        return KeyboardInterrupt()  # that Beam has wrapped
    folder = files.join(run, WORK, "failures")
    notes = files.list_dir(folder)
    if not notes:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "Channel closed" in first:
            first = "a worker process died, as it does when memory runs out"
        return RunBrokenError(f"the runner failed: {first}")
    note = json.loads(files.read_bytes(files.join(folder, notes[0])))
    if note["user"]:
        return UserError(note["message"])
    line = note["message"].strip().splitlines()[0]
    return RunBrokenError(f"shard {note['shard']} failed with {note['kind']}: {line}")


def _exceeded(
    loaded: LoadedConfig, counts: Mapping[str, int], quality: Mapping[str, float | None] | None
) -> list[str]:
    """The limits that a run exceeds, from the manifest's `counts` and `quality.convergence_delta`."""
    limits = loaded.config.limits
    found = []
    share = counts["rows_rejected"] / counts["rows_read"] if counts["rows_read"] else 0.0
    if share > limits.rejected:
        found.append(f"{share:.2%} of the rows were rejected, more than limits.rejected: {limits.rejected:g}")
    worst = quality["relative_p99"] if quality else None
    if worst is not None and loaded.config.method.additive and worst > limits.convergence:
        found.append(
            f"p99 of |convergence_delta| is {worst:.3g} of the score's spread, more than limits.convergence: "
            f"{limits.convergence:g}"
        )
    return found


def _write_importance(plan: Plan, result: ShardResult) -> None:
    table = result.importance.to_table(plan.found.signature.target_names)
    table = table.replace_schema_metadata(dict(plan.spec.metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    files.write_atomic(files.join(plan.spec.run, "importance.parquet"), buffer.getvalue())


def preview(
    loaded: LoadedConfig,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    runner: str = runners.LOCAL,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """What `execute` would check and decide, and nothing else; writes nothing."""
    flags = runners.check_flags(flags)
    runners.check_runner(runner, flags)
    target = loaded.path(loaded.config.output.path)
    check_place(target)
    runners.check_places(runner, flags, _places(loaded))
    plan = make_plan(
        loaded,
        limit=limit,
        local=runner == runners.LOCAL,
        measure=True,
        slots=runners.slots(runner, flags, loaded.config.compute.workers),
        earlier=known_cuts(target),
    )
    committed = read_manifest(target)
    same = committed is not None and committed["fingerprint"] == plan.fingerprint
    if committed is not None and not same and not overwrite:
        raise UserError(
            "holds a committed run of another config, model or input",
            target,
            "give another --output, or --overwrite to replace it",
        )
    return {**plan.summary(), "runner": runner, "committed": same}


def prepare(
    config: str | os.PathLike[str], *, settings: Sequence[str] = (), date: str | None = None
) -> ExplainSpec:
    """What `transforms.ExplainBatches` needs in a pipeline of your own: a spec that carries its baseline.

    Args:
      config: Path of a config file.
      settings: `a.b=value` overrides of the config.
      date: Fills `{date}` in paths, YYYY-MM-DD.
    Raises:
      UserError: Whatever would stop a run of the config.
    """
    plan = make_plan(load_config(os.fspath(config), settings=settings, date=date))
    return replace(plan.spec, reference=plan.found.artifact.to_bytes())
