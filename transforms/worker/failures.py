"""Notes on failed shards that workers leave in a run's journal, because runners wrap their exceptions."""

from __future__ import annotations

import json
import traceback
from typing import Any

from transforms.errors import InputLost, UserError
from transforms.outputs.parts import as_output_lost
from transforms.outputs.run_files import WORK
from transforms.storage import files


def note_failure(run: str, shard: int, error: BaseException) -> None:
    """Leaves the cause of a failed shard in the run's journal.

    Raises:
      OutputLost: The disk is full, or the folder may not be written.
    """
    note = {
        "shard": shard,
        # A lost input does not count as a user error here, because the run had begun and broke.
        "user": isinstance(error, UserError) and not isinstance(error, InputLost),
        "message": str(error) or type(error).__name__,
        "kind": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
    }
    folder = files.join(run, WORK, "failures")
    with as_output_lost(folder):
        files.makedirs(folder)
        files.write_atomic(files.join(folder, f"{shard:05d}.json"), json.dumps(note).encode())


def read_failures(run: str) -> list[dict[str, Any]]:
    """The notes in the journal of an unfinished run, by shard."""
    folder = files.join(run, WORK, "failures")
    names = [name for name in files.list_dir(folder) if name.endswith(".json")]
    return [json.loads(files.read_bytes(files.join(folder, name))) for name in names]
