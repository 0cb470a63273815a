"""Why shards failed: notes that workers leave in a run's journal, for runners wrap what a worker raises."""

from __future__ import annotations

import json
import traceback
from typing import Any

from transforms.errors import InputLost, UserError
from transforms.outputs.parts import written
from transforms.outputs.run_files import WORK
from transforms.storage import files


def note_failure(run: str, shard: int, error: BaseException) -> None:
    """Leaves the cause of a failed shard in the run's journal.

    Raises:
      OutputLost: There is no room for it, or no permission.
    """
    note = {
        "shard": shard,
        # What an input lost in the middle of a run is the user's to mend, and the run broke all the same.
        "user": isinstance(error, UserError) and not isinstance(error, InputLost),
        "message": str(error) or type(error).__name__,
        "kind": type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
    }
    folder = files.join(run, WORK, "failures")
    with written(folder):
        files.makedirs(folder)
        files.write_atomic(files.join(folder, f"{shard:05d}.json"), json.dumps(note).encode())


def read_failures(run: str) -> list[dict[str, Any]]:
    """The notes of a run that goes on, by shard."""
    folder = files.join(run, WORK, "failures")
    names = [name for name in files.list_dir(folder) if name.endswith(".json")]
    return [json.loads(files.read_bytes(files.join(folder, name))) for name in names]
