"""Submits a pipeline to an engine."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pipeline.runners.names import (
    DATAFLOW,
    FLINK,
    LOCAL,
    starts_job_server,
    waits,
)
from transforms.errors import UserError


@dataclass(frozen=True)
class Job:
    """A run as an engine's console shows it.

    Args:
      name: The config's name.
      run_id: The run's id.
      method: The name of the method.
    """

    name: str
    run_id: str
    method: str

    @property
    def title(self) -> str:
        """The job's name: equal for equal runs, in characters that every engine takes."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:48].rstrip("-")
        return f"{name if name[:1].isalpha() else f'run-{name}'.rstrip('-')}-{self.run_id[:8]}"


def engine_flags(runner: str, flags: Sequence[str], job: Job) -> list[str]:
    """The final flags for Beam: the given ones, and those for a runner's console and GPUs."""
    if runner == LOCAL:
        return list(flags)
    given = list(flags)
    if not {"--save_main_session", "--no_save_main_session"} & set(flags):
        # Otherwise Beam would send the main module of this program; workers import what they need.
        given.append("--no_save_main_session")
    if runner == FLINK:
        from pipeline.runners.flink import flink_flags

        # Beam takes the last flag of a name. A job is cancelled by its name, which must be unique.
        return [f"--job_name={job.title}-{uuid.uuid4().hex[:8]}", *flink_flags(given)]
    if runner != DATAFLOW:
        return given
    from pipeline.runners.dataflow import dataflow_flags, job_flags

    labels = (("attribeam-run", job.run_id), ("attribeam-name", job.name), ("attribeam-method", job.method))
    return job_flags(dataflow_flags(given), job.title, labels)


def run_pipeline(define: Any, runner: str, workers: int, flags: Sequence[str], job: Job) -> str | None:
    """Runs a pipeline to its end, or hands it over.

    Args:
      define: A function that adds the stages to a Pipeline.
      runner: One of RUNNERS.
      workers: Local worker processes.
      flags: Beam's flags.
      job: The name and labels of the job.
    Returns:
      The engine's name for a job that was handed over; None if it has none.
    Raises:
      UserError: Beam refuses the flags.
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
        elif runner == FLINK:
            from pipeline.runners.flink import flink_engine

            engine = stack.enter_context(flink_engine(flags))
        try:
            pipeline = beam.Pipeline(runner=engine, options=PipelineOptions(list(flags), **options))
        except ValueError as error:  # every problem that Beam's validation finds
            raise UserError(str(error), f"--runner {runner}", "see Beam's pipeline options") from error
        define(pipeline)
        # Our own job server ends on an interrupt and can no longer cancel a job.
        return run_to_its_end(pipeline, cancels=not starts_job_server(runner, flags), waits=waits(flags))
