"""Engines: the only place that names a runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.runners.flags import check_flags
from transforms.errors import UserError

__all__ = ["LOCAL", "RUNNERS", "check_flags", "check_runner", "run_pipeline"]

LOCAL = "DirectRunner"
RUNNERS = (LOCAL, "FlinkRunner", "DataflowRunner")


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
    # Without either Beam would fetch a job server from the network and start it here.
    given = {flag.partition("=")[0] for flag in flags}
    if runner == "FlinkRunner" and not given & {"--flink_master", "--job_endpoint"}:
        problems, remedy = ["--flink_master is missing"], "give --flink_master=HOST:PORT, or [local] for here"
    if problems:
        raise UserError(" ".join(problems).rstrip("."), where, remedy)


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

    options: dict[str, Any] = {}
    engine: Any = runner
    if runner == LOCAL:
        engine, options = local_engine(workers), local_options(workers)
    try:
        pipeline = beam.Pipeline(runner=engine, options=PipelineOptions(list(flags), **options))
    except ValueError as error:  # all that Beam's validation of the options finds
        raise UserError(str(error), f"--runner {runner}", "see Beam's pipeline options") from error
    define(pipeline)
    with quiet_watchers():
        pipeline.run().wait_until_finish()
