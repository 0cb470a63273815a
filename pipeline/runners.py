"""Engines: the only place that names a runner."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transforms.errors import UserError

LOCAL = "DirectRunner"
RUNNERS = (LOCAL, "FlinkRunner", "DataflowRunner")


def check_flags(flags: Sequence[str]) -> list[str]:
    """Beam's own flags among those that the command line did not know.

    Args:
      flags: `--name=value` or `--name value`, as given.
    Returns:
      What to pass on to Beam: all of them but launchers' `--labels`, where Beam has no such flag.
    Raises:
      UserError: A flag that Beam does not know either.
    """
    if not flags:
        return []
    from apache_beam.options.pipeline_options import PipelineOptions

    # Beam's own classes name some flags twice: the later one counts, as it does to Beam.
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, conflict_handler="resolve"
    )
    parser.add_argument("--labels", action="append")
    for options in _all_options(PipelineOptions):
        if "_add_argparse_args" in vars(options):
            options._add_argparse_args(parser)
    try:
        _, unknown = parser.parse_known_args(list(flags))
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(str(error), " ".join(flags), "see Beam's pipeline options") from error
    if unknown:
        raise UserError(
            "neither attribeam nor Beam knows this flag", unknown[0], "see attribeam explain --help"
        )
    return list(flags)


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
    if runner == "DataflowRunner":
        problems = _dataflow_problems(flags)
        remedy = "give --project=…, --region=… and --temp_location=gs://… (or --staging_location)"
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


def _dataflow_problems(flags: Sequence[str]) -> list[str]:
    """What Beam finds wrong with Dataflow's flags; unlike its own check as a whole, this makes no bucket."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    options = PipelineOptions(list(flags))
    validator = PipelineOptionsValidator(options, create_runner("DataflowRunner"))
    view = options.view_as(GoogleCloudOptions)
    places = {name: validator.validate_gcs_path(view, name) for name in ("temp_location", "staging_location")}
    # Either will do for both. Without any, Beam makes a bucket, if it has the libraries for it.
    lacking = all(places.values()) and (
        any(getattr(view, name) is not None for name in places) or not _can_make_buckets()
    )
    problems = [*places["temp_location"], *places["staging_location"]] if lacking else []
    return [*problems, *validator.validate_cloud_options(view)]


def _can_make_buckets() -> bool:
    try:
        importlib.import_module("apache_beam.io.gcp.gcsio")
    except ImportError:
        return False
    return True


def _all_options(options: Any) -> list[Any]:
    found = []
    for child in options.__subclasses__():
        found += [child, *_all_options(child)]
    return found


def _local_processes() -> Any:
    """Workers as processes of this machine: Beam's own, but for the log that each writes to stderr."""
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    if not logging.getLogger().isEnabledFor(logging.INFO):
        command += f" 2>{os.devnull}"  # what fails leaves a note in the journal
    return SubprocessSDKEnvironment.from_command_string(command)


@contextmanager
def _quiet_watchers() -> Iterator[None]:
    """Beam watches local workers from threads; their tracebacks say no more than the error that follows."""
    kept = threading.excepthook

    def hook(problem: threading.ExceptHookArgs) -> None:
        if problem.thread is None or problem.thread.name not in ("run_worker", "beam_control_read"):
            kept(problem)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = kept


def run_pipeline(define: Any, runner: str, workers: int, flags: Sequence[str]) -> None:
    """Runs a pipeline to its end.

    Args:
      define: Adds the stages to a Pipeline.
      runner: One of RUNNERS.
      workers: Local worker processes.
      flags: Passed to Beam.
    Raises:
      UserError: Beam does not take the flags.
      Exception: Whatever the runner raises when the pipeline fails.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    options: dict[str, Any] = {}
    engine: Any = runner
    if runner == LOCAL:
        # By name: what Beam calls the direct runner first tries to download another one.
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        engine = FnApiRunner(default_environment=_local_processes() if workers > 1 else None)
        options = {"direct_num_workers": workers, "direct_running_mode": "in_memory"}
    try:
        pipeline = beam.Pipeline(runner=engine, options=PipelineOptions(list(flags), **options))
    except ValueError as error:  # all that Beam's validation of the options finds
        raise UserError(str(error), f"--runner {runner}", "see Beam's pipeline options") from error
    define(pipeline)
    with _quiet_watchers():
        pipeline.run().wait_until_finish()
