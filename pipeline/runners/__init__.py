"""Engines: the only place that names a runner."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.runners.flags import check_flags, option_flags
from transforms import files
from transforms.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import LoadedConfig

__all__ = [
    "LOCAL", "RUNNERS", "Job", "check_flags", "check_runner", "choose_runner", "engine_flags",
    "needs_remote_files", "run_pipeline", "waits",
]  # fmt: skip

LOCAL = "DirectRunner"
RUNNERS = (LOCAL, "FlinkRunner", "DataflowRunner")


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
    if needs_remote_files(name):
        _check_remote(loaded, name)
    return name, given


def _check_remote(loaded: LoadedConfig, runner: str) -> None:
    config = loaded.config
    paths = [
        *([] if config.model.path.startswith("python:") else [("model.path", config.model.path)]),
        *(("input.files", pattern) for pattern in config.patterns),
        *([("baseline.path", config.baseline.path)] if config.baseline.path else []),
        ("output.path", config.output.path),
    ]
    for key, path in paths:
        if not files.is_url(loaded.path(path)):
            raise UserError(
                f"{path} is on this machine, where the workers of {runner} cannot reach it",
                f"{loaded.where}: {key}",
                "give a gs:// path, or put the config beside its files there",
            )


def needs_remote_files(runner: str) -> bool:
    """Whether an engine's workers share no filesystem with this machine."""
    return runner == "DataflowRunner"


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
    if runner == "DataflowRunner":
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
    # Without either Beam would fetch a job server from the network and start it here.
    given = {flag.partition("=")[0] for flag in flags}
    if runner == "FlinkRunner" and not given & {"--flink_master", "--job_endpoint"}:
        problems, remedy = ["--flink_master is missing"], "give --flink_master=HOST:PORT, or [local] for here"
    if problems:
        raise UserError(" ".join(problems).rstrip("."), where, remedy)


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
    if runner != "DataflowRunner":
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

    options: dict[str, Any] = {}
    engine: Any = runner
    if runner == LOCAL:
        engine, options = local_engine(workers), local_options(workers)
    flags = engine_flags(runner, flags, job)
    try:
        pipeline = beam.Pipeline(runner=engine, options=PipelineOptions(flags, **options))
    except ValueError as error:  # all that Beam's validation of the options finds
        raise UserError(str(error), f"--runner {runner}", "see Beam's pipeline options") from error
    define(pipeline)
    with quiet_watchers():
        result = pipeline.run()
        if not waits(flags):
            return str(result.job_id()) if getattr(result, "has_job", False) else None
        result.wait_until_finish()
    return None
