"""The application: composes, submits and commits runs.

`explain`, `load_run` and, for Beam pipelines of your own, `prepare` are its Python interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.execution.run import explain, prepare
    from pipeline.results.run import Run, load_run

__all__ = ["Run", "explain", "load_run", "prepare"]
_HOMES = {
    "explain": "pipeline.execution.run",
    "prepare": "pipeline.execution.run",
    "load_run": "pipeline.results.run",
    "Run": "pipeline.results.run",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `attribeam --help` must not wait for Beam, nor reading a run for TensorFlow.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
