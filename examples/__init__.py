"""Makers of the example data sets: real rows and a small model, ready for the configs in `configs/`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def quiet_tensorflow() -> None:
    """Imports TensorFlow without the lines on GPUs and rounding that it greets every process with.

    They are written by its C++ code while it loads, before TF_CPP_MIN_LOG_LEVEL is heeded, so the process's
    stderr is turned away for as long as the import takes. A failing import still raises.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def is_built(stamp: Path, settings: Mapping[str, object]) -> bool:
    """Tells whether an earlier run finished this step with these settings and its files are still there."""
    if not stamp.exists():
        return False
    built = json.loads(stamp.read_text(encoding="utf-8"))
    missing = [name for name in built["files"] if not (stamp.parent / name).exists()]
    return bool(built["settings"] == settings and not missing)


def mark_built(stamp: Path, settings: Mapping[str, object], files: Sequence[Path]) -> None:
    """Records that a step is complete. Called last, so that an interrupted step is done again."""
    built = {"settings": dict(settings), "files": [path.name for path in files]}
    partial = stamp.with_suffix(".partial")
    partial.write_text(json.dumps(built) + "\n", encoding="utf-8")
    partial.replace(stamp)
