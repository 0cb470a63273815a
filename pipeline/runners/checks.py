"""Checks a runner's flags, and the paths that its workers must reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.runners.names import (
    DATAFLOW,
    FLINK,
    LOCAL,
    PORTABLE,
    has_endpoint,
    needs_remote_files,
    starts_job_server,
    waits,
)
from transforms.errors import UserError
from transforms.storage import files


def check_runner(runner: str, flags: Sequence[str]) -> None:
    """Refuses, before anything else is done, flags that an engine does not take or lacks.

    Args:
      runner: One of RUNNERS.
      flags: Beam's flags.
    Raises:
      UserError: A flag is missing or has a wrong value, in Beam's words.
    """
    if runner == LOCAL and not flags:
        return  # without importing Beam
    where, remedy = f"--runner {runner}", "see Beam's pipeline options"
    if any(flag.partition("=")[0] == "--dry_run" for flag in flags):
        raise UserError("a dry run explains nothing", "--dry_run", "attribeam plan shows what would be run")
    if runner == DATAFLOW:
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
    if runner != DATAFLOW and any(flag.partition("=")[0] == "--worker_accelerator" for flag in flags):
        raise UserError(
            f"{runner} does not take this flag", "--worker_accelerator", "it is for DataflowRunner"
        )
    if starts_job_server(runner, flags) and not waits(flags):
        raise UserError(
            "the job server ends with this command, so the job must be waited for",
            "--no_wait_until_finish",
            "give --job_endpoint=HOST:PORT of a job server that keeps running",
        )
    if runner == PORTABLE and not has_endpoint(flags):
        problems, remedy = (
            ["--job_endpoint is missing"],
            "give HOST:PORT of a job server, or embed for this machine",
        )
    if problems:
        raise UserError(" ".join(problems).rstrip("."), where, remedy)
    if runner == FLINK:
        from pipeline.runners.flink import check_flink

        check_flink(flags)


def check_places(runner: str, flags: Sequence[str], places: Mapping[str, Sequence[str]]) -> None:
    """Refuses files that the workers of a runner cannot see.

    Args:
      runner: One of RUNNERS.
      flags: Beam's flags, as given.
      places: Full paths and URLs, by key of the config.
    Raises:
      UserError: Workers run on other machines or in containers, and a path is local to this machine.
    """
    if needs_remote_files(runner):
        why, remedy = (
            f"where the workers of {runner} cannot reach it",
            "give a gs:// path, or put the config beside its files there",
        )
    elif runner == FLINK:
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
    """The number of shards that an engine works on at a time, as far as it is known.

    Args:
      runner: One of RUNNERS.
      flags: Beam's flags, as given.
      workers: The config's `compute.workers`.
    Raises:
      UserError: The cluster does not answer.
    """
    if runner != FLINK:
        return workers
    from pipeline.runners.flink import flink_slots

    return flink_slots(flags, workers)
