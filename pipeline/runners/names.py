"""Names of runners, and questions that a name and its flags answer."""

from __future__ import annotations

from collections.abc import Sequence

LOCAL, FLINK, DATAFLOW = "DirectRunner", "FlinkRunner", "DataflowRunner"
PRISM, PORTABLE = "PrismRunner", "PortableRunner"
RUNNERS = (LOCAL, FLINK, DATAFLOW, PRISM, PORTABLE)


def needs_remote_files(runner: str) -> bool:
    """Whether an engine's workers share no filesystem with this machine."""
    return runner == DATAFLOW


def starts_job_server(runner: str, flags: Sequence[str]) -> bool:
    """Whether this process starts a job server for the run, which ends with it."""
    return runner in (FLINK, PRISM) and not has_endpoint(flags)


def has_endpoint(flags: Sequence[str]) -> bool:
    """Whether the flags name a job server."""
    return any(flag.partition("=")[0] == "--job_endpoint" for flag in flags)


def waits(flags: Sequence[str]) -> bool:
    """Whether the command waits for the run: not with --no_wait_until_finish, nor for a template."""
    return not {flag.partition("=")[0] for flag in flags} & {"--no_wait_until_finish", "--template_location"}
