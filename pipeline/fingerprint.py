"""What decides a run's numbers and their files, as one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pipeline.committed import SCHEMA_VERSION
from pipeline.config import LoadedConfig
from pipeline.increments import Grown
from pipeline.memory import batch_rows
from pipeline.probe import ProbeResult
from pipeline.sources import output_of
from transforms import files
from transforms.shards import InputFile
from transforms.slicing import described

_NO_NUMBERS = ("limits", "name", "runner", "incremental")


def fingerprint_of(
    loaded: LoadedConfig, found: ProbeResult, cuts: Sequence[tuple[Sequence[InputFile], int, int]]
) -> str:
    """SHA-256 of what decides the numbers and how they are laid out in files.

    Args:
      loaded: The config.
      found: What the model said.
      cuts: Of each increment its files, rows a shard, and rows.
    """
    config = _deciding(loaded.config.model_dump(mode="json"))
    facts = {
        "version": SCHEMA_VERSION,
        "config": config,
        "model": found.digest,
        "baseline": found.artifact.digest,
        "columns": [[name, str(kind)] for name, kind in found.schema.columns],
        "slices": described(found.schema.slicings),
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


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """What of a config decides numbers: not where the run goes, where it is made, or by how many."""
    # Labels are for readers, but that a table of the largest attributions has a column of them.
    features = config.get("features") or {}
    config = {key: value for key, value in config.items() if key != "features"}
    if isinstance(config["output"]["attributions"], dict):
        config["features"] = {name: texts["label"] for name, texts in features.items() if texts.get("label")}
    left_out = {
        "output": ("path", "report"),
        "compute": ("workers",),
        "model": ("path",),
        "input": ("files",),
        "baseline": ("path",),  # its rows have a digest
    }
    kept = {key: value for key, value in config.items() if key not in _NO_NUMBERS}
    for block, keys in left_out.items():
        kept[block] = {name: value for name, value in kept[block].items() if name not in keys}
    return kept


def difference(loaded: LoadedConfig, found: ProbeResult, base: Grown) -> str:
    """Why a run is another than the committed one whose files it has, as far as that one's manifest tells."""
    then, now = _deciding(base.committed["config"]), _deciding(loaded.config.model_dump(mode="json"))
    keys = []
    for block, value in now.items():
        if isinstance(value, dict) and isinstance(then.get(block), dict):
            keys += [f"{block}.{key}" for key in value if then[block].get(key) != value[key]]
        elif then.get(block) != value:
            keys.append(block)
    if keys:
        return f"{', '.join(keys)} in the config {'are' if len(keys) > 1 else 'is'} not what it was"
    if found.digest != base.committed["model"]["digest"]:
        return "the model is not what it was"
    if found.artifact.digest != base.committed["baseline"]["digest"]:
        return "the baseline is not what it was"
    return "a file was written anew, or the new ones have columns of other types"
