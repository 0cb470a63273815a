"""Engines: the only place that names a runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from pipeline.runners.flags import check_flags
from transforms import files
from transforms.errors import UserError

__all__ = ["LOCAL", "RUNNERS", "check_flags", "check_places", "check_runner", "run_pipeline", "slots"]

LOCAL, _FLINK, _PRISM, _PORTABLE = "DirectRunner", "FlinkRunner", "PrismRunner", "PortableRunner"
RUNNERS = (LOCAL, _FLINK, "DataflowRunner", _PRISM, _PORTABLE)


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
        from pipeline.runners.dataflow import dataflow_problems

        problems = dataflow_problems(flags)
        remedy = "give --project=…, --region=… and --temp_location=gs://… (or --staging_location)"
    else:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

        problems = PipelineOptionsValidator(PipelineOptions(list(flags)), None).validate()
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
      UserError: Workers run in containers, and a path is one of this machine.
    """
    if runner != _FLINK:
        return
    from pipeline.runners.flink import in_containers

    if not in_containers(flags):
        return
    for where, paths in places.items():
        for path in paths:
            if not files.is_url(path):
                raise UserError(
                    f"{path} is on this machine, and the workers run in containers that cannot see it",
                    where,
                    "give a URL (gs://, s3://, hdfs://), or another --environment_type",
                )


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


def _has_endpoint(flags: Sequence[str]) -> bool:
    return any(flag.partition("=")[0] == "--job_endpoint" for flag in flags)


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

    from pipeline.runners.local import local_engine, local_options, quiet_watchers
    from pipeline.runners.signals import run_to_its_end, terminated_like_interrupted

    options: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())
        stack.enter_context(quiet_watchers())
        engine: Any = runner
        if runner == LOCAL:
            engine, options = local_engine(workers), local_options(workers)
        elif runner == _FLINK:
            from pipeline.runners.flink import flink_engine, flink_flags

            flags = flink_flags(flags)
            engine = stack.enter_context(flink_engine(flags))
        try:
            pipeline = beam.Pipeline(runner=engine, options=PipelineOptions(list(flags), **options))
        except ValueError as error:  # all that Beam's validation of the options finds
            raise UserError(str(error), f"--runner {runner}", "see Beam's pipeline options") from error
        define(pipeline)
        # A job server of our own goes when it is interrupted, and can cancel nothing any more.
        own_server = runner in (_FLINK, _PRISM) and not _has_endpoint(flags)
        run_to_its_end(pipeline, cancels=not own_server)
