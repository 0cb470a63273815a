"""Stops a run in the same way on every signal, together with the engine's job."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOT_CANCELLED = "the job may still run, as it could not be cancelled"


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Makes SIGTERM, which launchers and service managers send, raise KeyboardInterrupt like Ctrl-C.

    Outside of the main thread nothing changes. Handlers that Beam leaves behind are removed as well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:  # None is a handler that Python did not set
                signal.signal(number, handler)


def run_to_its_end(pipeline: Any, *, cancels: bool, waits: bool = True) -> str | None:
    """Runs a pipeline; an interrupt cancels its job.

    Args:
      pipeline: The pipeline.
      cancels: Ask the engine's server, which is not ours, to cancel the job.
      waits: Wait for the end; otherwise the job is handed over, and nothing here ends it.
    Returns:
      The engine's name for a job that was handed over; None if it has none.
    Raises:
      InterruptedError: The run was interrupted, and its job could not be cancelled.
      Exception: Whatever the engine raises when the pipeline fails.
    """
    from apache_beam.runners.runner import PipelineState

    result = pipeline.run()
    if not waits:
        return str(result.job_id()) if getattr(result, "has_job", False) else None
    try:
        result.wait_until_finish()
    except KeyboardInterrupt as interrupt:
        try:
            if cancels and not PipelineState.is_terminal(result.state):
                result.cancel()
        except Exception as failure:  # noqa: BLE001 - each engine has its own, and all mean the same
            line = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
            raise InterruptedError(f"interrupted; {NOT_CANCELLED}: {line}") from interrupt
        raise
    return None
