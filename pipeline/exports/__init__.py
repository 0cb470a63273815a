"""Exports a run's attributions in the layouts of other tools, for dashboards built on those layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.exports import clarify, tfma, vertex
from pipeline.run_directory.checks import check_outside
from transforms.errors import UserError
from transforms.storage import files

if TYPE_CHECKING:
    from pipeline.results.run import Run

_KINDS: dict[str, Callable[[Run, str], list[str]]] = {
    "clarify": clarify.write,
    "vertex": vertex.write,
    "tfma": tfma.write,
}
#: The kinds of export: for SageMaker Clarify, Vertex AI and TensorFlow Model Analysis.
KINDS = tuple(_KINDS)


def export(run: Run, kind: str, folder: str | None = None) -> list[str]:
    """Writes a run in the layout of another tool.

    Args:
      run: A committed run, which is only read.
      kind: One of `KINDS`; each module's docstring says what it writes.
      folder: The output folder, which must be empty or not exist yet. None writes to `RUN-KIND`, next to
        the run directory `RUN`.
    Returns:
      The paths of the written files.
    Raises:
      UserError: The kind is unknown, the folder holds files or is the run directory itself, or the run lacks
        data that the layout needs.
    Cost: one pass over the attributions, with a few thousand rows in memory at a time.
    """
    if kind not in _KINDS:
        raise UserError(f"{kind!r} is not an export", "--export", f"known: {', '.join(KINDS)}")
    folder = f"{run.path.rstrip('/')}-{kind}" if folder is None else folder
    check_outside(folder, run.path)
    if files.list_dir(folder):
        raise UserError("is not empty", folder, "name a new folder, or delete this one")
    return _KINDS[kind](run, folder)
