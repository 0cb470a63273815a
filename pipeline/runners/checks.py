"""Engines: the only place that names a runner."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.runners.flags import check_flags, option_flags
from transforms.errors import UserError
from transforms.models.kinds.function import is_function
from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.config.models import LoadedConfig

__all__ = [
    "LOCAL", "RUNNERS", "Job", "check_flags", "check_places", "check_runner", "choose_runner", "engine_flags",
    "needs_remote_files", "run_pipeline", "slots", "waits",
]  # fmt: skip

LOCAL, _FLINK, _DATAFLOW = "DirectRunner", "FlinkRunner", "DataflowRunner"
_PRISM, _PORTABLE = "PrismRunner", "PortableRunner"
RUNNERS = (LOCAL, _FLINK, _DATAFLOW, _PRISM, _PORTABLE)


@dataclass(frozen=True)
class Job:
    """What an engine's console shows of a run.

    Args:
      name: The config's.
      run_id: The run's.
      method: That explains.
    """

    name: str
    run_id: str
    method: str

    @property
    def title(self) -> str:
        """The name of the job: the same for the same run, in the letters that every engine takes."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:48].rstrip("-")
        return f"{name if name[:1].isalpha() else f'run-{name}'.rstrip('-')}-{self.run_id[:8]}"


def choose_runner(loaded: LoadedConfig, runner: str | None, flags: Sequence[str]) -> tuple[str, list[str]]:
    """The engine of a run and the flags for Beam, checked before anything else is done.

    The command line counts more than the config's `runner` block. Its options stand before the command
    line's flags, of which Beam heeds the last, or all where a flag may be given several times; another
    runner on the command line leaves them out.

    Args:
      loaded: The config.
      runner: The one that was asked for; None leaves it to the config, and then to this machine.
      flags: That were asked for.
    Raises:
      UserError: A flag or an option that is unknown, wrong or missing.
    """
    block = loaded.config.runner
    name = runner or (block.name if block else LOCAL)
    given = check_flags(flags)
    if block and block.name == name:
        given = [*option_flags(block.options, f"{loaded.preset or loaded.where}: runner.options"), *given]
    check_runner(name, given)
    check_places(name, given, _places(loaded))
    return name, given


def _places(loaded: LoadedConfig) -> dict[str, list[str]]:
    """What workers read and write, by the config's name for it; a function is found by its module's name."""
    config = loaded.config
    named: dict[str, list[str]] = {}
    if not is_function(config.model.path):
        named["model.path"] = [config.model.path]
    named["input.files"] = list(config.patterns)
    named["output.path"] = [config.output.path]
    return {f"{loaded.where}: {key}": [loaded.path(path) for path in paths] for key, paths in named.items()}


def needs_remote_files(runner: str) -> bool:
    """Whether an engine's workers share no filesystem with this machine."""
    return runner == _DATAFLOW


def check_runner(runner: str, flags: Sequence[str]) -> None:
    """Refuses, before anything else is done, flags that an engine does not take, or takes no run without.

    Args:
      runner: One of RUNNERS.
      flags: To be passed to Beam.
    Raises:
      UserError: Which are missing, or have no such value, in Beam's words.
    """
    if runner == LOCAL and not flags:
        return  # without Beam's import
    where, remedy = f"--runner {runner}", "see Beam's pipeline options"
    if any(flag.partition("=")[0] == "--dry_run" for flag in flags):
        raise UserError("a dry run explains nothing", "--dry_run", "attribeam plan tells what would be run")
    if runner == _DATAFLOW:
        from pipeline.runners.dataflow import check_means, dataflow_flags, dataflow_problems

        flags = dataflow_flags(flags)
        problems = dataflow_problems(flags)
        remedy = "give --project=…, --region=… and --temp_location=gs://… (or --staging_location)"
        if not problems:
            check_means(flags)
    else:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

        problems = PipelineOptionsValidator(PipelineOptions(list(flags)), None).validate()
    if runner != _DATAFLOW and any(flag.partition("=")[0] == "--worker_accelerator" for flag in flags):
        raise UserError(f"{runner} takes no such flag", "--worker_accelerator", "it is for DataflowRunner")
    if _own_server(runner, flags) and not waits(flags):
        raise UserError(
            "a job whose job server ends with this command cannot be left alone",
            "--no_wait_until_finish",
            "give --job_endpoint=HOST:PORT of a job server that stays",
        )
    if runner == _PORTABLE and not _has_endpoint(flags):
        problems, remedy = ["--job_endpoint is missing"], "give HOST:PORT of a job server, or embed for here"
    if problems:
        raise UserError(" ".join(problems).rstrip("."), where, remedy)
    if runner == _FLINK:
        from pipeline.runners.flink import check_flink

        check_flink(flags)


def check_places(runner: str, flags: Sequence[str], places: Mapping[str, Sequence[str]]) -> None:
    """Refuses files that the workers of a runner are known not to see.

    Args:
      runner: One of RUNNERS.
      flags: As given.
      places: What the config calls them, to paths in full and URLs.
    Raises:
      UserError: Workers run on other machines or in containers, and a path is one of this machine.
    """
    if needs_remote_files(runner):
        why, remedy = (
            f"where the workers of {runner} cannot reach it",
            "give a gs:// path, or put the config beside its files there",
        )
    elif runner == _FLINK:
        from pipeline.runners.flink import in_containers

        if not in_containers(flags):
            return
        why = "and the workers run in containers that cannot see it"
        remedy = "give a URL (gs://, s3://, hdfs://), or another --environment_type"
    else:
        return
    for where, paths in places.items():
        for path in paths:
            if not files.is_url(path):
                raise UserError(f"{path} is on this machine, {why}", where, remedy)


def slots(runner: str, flags: Sequence[str], workers: int) -> int:
    """How many shards the engine works on at a time, as far as that is known.

    Args:
      runner: One of RUNNERS.
      flags: As given.
      workers: What the config says.
    Raises:
      UserError: A cluster that was asked does not answer.
    """
    if runner != _FLINK:
        return workers
    from pipeline.runners.flink import flink_slots

    return flink_slots(flags, workers)


def _own_server(runner: str, flags: Sequence[str]) -> bool:
    """Whether this process starts a job server for the run, which ends with it."""
    return runner in (_FLINK, _PRISM) and not _has_endpoint(flags)


def _has_endpoint(flags: Sequence[str]) -> bool:
    return any(flag.partition("=")[0] == "--job_endpoint" for flag in flags)


def waits(flags: Sequence[str]) -> bool:
    """Whether a run is waited for: not with Beam's --no_wait_until_finish, nor if it becomes a template."""
    return not {flag.partition("=")[0] for flag in flags} & {"--no_wait_until_finish", "--template_location"}


def engine_flags(runner: str, flags: Sequence[str], job: Job) -> list[str]:
    """The flags that Beam is given in the end: as they were, and what a runner's console and GPUs need."""
    if runner == LOCAL:
        return list(flags)
    found = list(flags)
    if not {"--save_main_session", "--no_save_main_session"} & set(flags):
        # Beam would send all that this program has in its main module; workers import what they need.
        found.append("--no_save_main_session")
    if runner == _FLINK:
        from pipeline.runners.flink import flink_flags

        # Beam heeds the last of a name. What is cancelled is found by it: no other job has the same.
        return [f"--job_name={job.title}-{uuid.uuid4().hex[:8]}", *flink_flags(found)]
    if runner != _DATAFLOW:
        return found
    from pipeline.runners.dataflow import dataflow_flags, job_flags

    labels = (("attribeam-run", job.run_id), ("attribeam-name", job.name), ("attribeam-method", job.method))
    return job_flags(dataflow_flags(found), job.title, labels)


def run_pipeline(define: Any, runner: str, workers: int, flags: Sequence[str], job: Job) -> str | None:
    """Runs a pipeline to its end, or hands it over where that is not waited for.

    Args:
      define: Adds the stages to a Pipeline.
      runner: One of RUNNERS.
      workers: Local worker processes.
      flags: Passed to Beam.
      job: What it is called there.
    Returns:
      The engine's name for a job that was handed over, None where it has none.
    Raises:
      UserError: Beam does not take the flags.
      Exception: Whatever the runner raises when the pipeline fails.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline.runners.local import local_engine, local_options, quiet_watchers
    from pipeline.runners.signals import run_to_its_end, terminated_like_interrupted

    options: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())
        stack.enter_context(quiet_watchers())
        engine: Any = runner
        flags = engine_flags(runner, flags, job)
        if runner == LOCAL:
            engine, options = local_engine(workers), local_options(workers)
        elif runner == _FLINK:
            from pipeline.runners.flink import flink_engine

            engine = stack.enter_context(flink_engine(flags))
        try:
            pipeline = beam.Pipeline(runner=engine, options=PipelineOptions(list(flags), **options))
        except ValueError as error:  # all that Beam's validation of the options finds
            raise UserError(str(error), f"--runner {runner}", "see Beam's pipeline options") from error
        define(pipeline)
        # A job server of our own goes when it is interrupted, and can cancel nothing any more.
        return run_to_its_end(pipeline, cancels=not _own_server(runner, flags), waits=waits(flags))
