"""What decides a run's numbers and their files, as one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pipeline.config import LoadedConfig
from pipeline.memory import batch_rows
from pipeline.probe import ProbeResult
from pipeline.sources import output_of
from transforms import files
from transforms.shards import InputFile

#: Part of every fingerprint: a change in what the tables hold must not be mixed with older parts.
SCHEMA_VERSION = 1


def fingerprint_of(
    loaded: LoadedConfig, found: ProbeResult, cuts: Sequence[tuple[Sequence[InputFile], int, int]]
) -> str:
    """SHA-256 of what decides the numbers and how they are laid out in files.

    Args:
      loaded: The config.
      found: What the model said.
      cuts: Of each increment its files, rows a shard, and rows.
    """
    config = loaded.config.model_dump(mode="json")
    # Where the run goes, on which engine, and how many processes share the work change no number.
    for block, key in (("output", "path"), ("compute", "workers"), ("model", "path"), ("input", "files")):
        config[block].pop(key)
    for key in ("limits", "name", "runner", "incremental"):
        config.pop(key)
    facts = {
        "version": SCHEMA_VERSION,
        "config": config,
        "model": found.digest,
        "baseline": found.artifact.digest,
        "columns": [[name, str(kind)] for name, kind in found.schema.columns],
        "device_batch_size": found.device_batch_size,
        "input": [
            [[[f.name, f.rows, *(f.stamp or files.stamp(f.path))] for f in inputs], shard_rows, rows]
            for inputs, shard_rows, rows in cuts
        ],
        "batch_size": batch_rows(
            loaded.config.compute.batch_size, found.schema, found.targets, output_of(loaded)
        ),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
