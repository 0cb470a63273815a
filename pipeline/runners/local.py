"""Runs on this machine's processors by Beam's FnApiRunner, chosen by name."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Names of Beam's threads that notice when a worker has ended.
_WATCHERS = ("run_worker", "beam_control_read", "read_grpc_client_inputs")


def local_engine(workers: int) -> Any:
    """Creates Beam's FnApiRunner directly; its DirectRunner would first try to download Prism."""
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    return FnApiRunner(default_environment=_local_processes() if workers > 1 else None)


def local_options(workers: int) -> dict[str, Any]:
    """Beam's options for a number of worker processes."""
    return {"direct_num_workers": workers, "direct_running_mode": "in_memory"}


def _local_processes() -> Any:
    """Beam's own worker processes on this machine, without the log that each writes to stderr."""
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    if not logging.getLogger().isEnabledFor(logging.INFO):
        command += f" 2>{os.devnull}"  # the journal records failures
    return SubprocessSDKEnvironment.from_command_string(command)


@contextmanager
def quiet_watchers() -> Iterator[None]:
    """Silences the tracebacks of Beam's watching threads, which repeat the error that follows."""
    kept = threading.excepthook

    def hook(problem: threading.ExceptHookArgs) -> None:
        if problem.thread is None or problem.thread.name not in _WATCHERS:
            kept(problem)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = kept
