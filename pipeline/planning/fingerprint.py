"""The fingerprint of a run: one digest of everything that determines its numbers and their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pipeline.config.config import LoadedConfig
from pipeline.planning.differences import deciding
from pipeline.planning.host_memory import batch_rows
from pipeline.planning.inputs import output_of
from pipeline.planning.model.probe import ProbeResult
from pipeline.run_directory.committed import SCHEMA_VERSION
from transforms.slices.slicings import described
from transforms.sources.base import InputFile
from transforms.storage import files


def fingerprint_of(
    loaded: LoadedConfig, probe: ProbeResult, cuts: Sequence[tuple[Sequence[InputFile], int, int]]
) -> str:
    """SHA-256 of everything that determines a run's numbers and their layout in files.

    Args:
      loaded: The config.
      probe: The facts about the model.
      cuts: The files, rows per shard and rows of each increment.
    """
    config = deciding(loaded.config.model_dump(mode="json"))
    facts = {
        "version": SCHEMA_VERSION,
        "config": config,
        "model": probe.digest,
        "baseline": probe.artifact.digest,
        "columns": [[name, str(kind)] for name, kind in probe.schema.columns],
        "slices": described(probe.schema.slicings),
        "device_batch_size": probe.device_batch_size,
        "input": [
            [[[f.name, f.rows, *(f.stamp or files.stamp(f.path))] for f in inputs], shard_rows, rows]
            for inputs, shard_rows, rows in cuts
        ],
        "batch_size": batch_rows(
            loaded.config.compute.batch_size, probe.schema, probe.targets, output_of(loaded)
        ),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
