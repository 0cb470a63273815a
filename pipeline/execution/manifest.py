"""Writes the manifest of a run, commits it atomically, and reads the state of a run directory."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.config.config import Config
from pipeline.planning.plan import Plan
from pipeline.planning.summary import describe_baseline, describe_model
from pipeline.run_directory.committed import SCHEMA_VERSION, read_manifest
from pipeline.run_directory.layout import beside
from transforms.outputs.run_files import MANIFEST, WORK
from transforms.slices.slicings import described
from transforms.storage import files
from transforms.worker.device_batch import with_halved
from transforms.worker.journal import ShardResult, fingerprint_path

_PACKAGES = ("attribeam", "apache-beam", "tensorflow", "keras", "numpy", "pyarrow", "shap")


def draft_manifest(plan: Plan, runner: str) -> dict[str, Any]:
    """The manifest of a run before it has figures.

    Args:
      plan: The plan of the run.
      runner: The engine.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.spec.run_id,
        "name": plan.loaded.config.name,
        "created": None,
        "config": plan.loaded.config.model_dump(mode="json"),
        "config_folder": plan.loaded.folder,
        "defaults": dict(plan.probe.defaults),
        "fingerprint": plan.fingerprint,
        "model": describe_model(plan),
        "baseline": describe_baseline(plan),
        "inputs": [
            {"file": f.name, "rows": f.rows, "bytes": f.bytes, "digest": f.digest} for f in plan.files
        ],
        "rows": plan.rows,
        "shard_rows": plan.shard_rows,
        "increments": [asdict(part) for part in plan.increments],
        "batch_size": plan.spec.batch_size,
        "device_batch_size": plan.spec.device_batch_size,
        "device_batch_size_used": plan.spec.device_batch_size,
        "evaluations_per_row": plan.probe.evaluations_per_row,
        "affine_prefix": plan.probe.affine_prefix,
        "target_names": list(plan.probe.signature.target_names),
        "features": list(plan.spec.schema.attributed),
        "schema": [
            {
                "name": f.name,
                "kind": f.kind,
                "dtype": f.dtype,
                "shape": list(f.shape),
                "fill": f.fill,
                "input": f.input,
                "start": f.start,
                "fixed": f.fixed,
                "nan": f.nan,
                **({} if f.categories is None else {"categories": f.categories.to_json()}),
                **({} if f.encoding is None else {"encoding": f.encoding}),
                **({} if f.pad is None else {"pad": f.pad}),
                **({} if f.missing is None else {"missing": f.missing}),
            }
            for f in plan.spec.schema.features
        ],
        "columns": {name: str(kind) for name, kind in plan.spec.schema.columns},
        "slices": described(plan.spec.schema.slicings),
        "parts": None,
        "counts": None,
        "quality": None,
        "warnings": plan.warnings,
        "timing": None,
        "runner": runner,
        "versions": versions(),
    }


def fill_manifest(
    draft: Mapping[str, Any],
    result: ShardResult,
    timing: Mapping[str, float],
    exceeded: list[str],
    suppressed: int = 0,
) -> dict[str, Any]:
    """The manifest of a finished run.

    Args:
      draft: The manifest's draft.
      result: The aggregates of the run.
      timing: Durations in seconds.
      exceeded: Limits that the run exceeds, in words.
      suppressed: Number of slices that `privacy.min_rows` keeps out of the importance.
    """
    planned = draft["device_batch_size"]
    used = result.device_batch_size_used or planned
    return {
        **draft,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parts": [asdict(part) for part in result.parts],
        "counts": {
            "rows_read": result.read,
            "rows_attributed": result.attributed,
            "rows_rejected": result.rejected,
            "attributions": result.attributions,
        },
        "quality": {
            "convergence_delta": result.quality.summary(),
            "limited_rows": result.quality.limited,
            "suppressed_slices": suppressed,
            "exceeded": exceeded,
        },
        "timing": dict(timing),
        "device_batch_size_used": used,
        "warnings": with_halved(draft["warnings"], planned, used),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    numbers = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            numbers[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a checkout that is not installed
    return numbers


def work_fingerprint(run: str) -> str | None:
    """The fingerprint of an unfinished run; None if there is none."""
    path = fingerprint_path(run)
    return files.read_bytes(path).decode() if files.exists(path) else None


def known_cuts(run: str) -> dict[str, int]:
    """Rows per shard, by fingerprint, of the runs at a target: committed, unfinished, or replacing it."""
    cuts = {}
    committed = read_manifest(run, replaces=True)
    if committed is not None and committed["fingerprint"] is not None:
        cuts[committed["fingerprint"]] = committed["shard_rows"]
    for place in (run, beside(run)):
        path, fingerprint = files.join(place, WORK, "shard_rows"), work_fingerprint(place)
        if fingerprint is not None and files.exists(path):
            rows = files.read_bytes(path)
            if rows.isdigit():
                cuts[fingerprint] = int(rows)
    return cuts


def relabel(run: str, manifest: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """Writes the current config's labels into a committed run's manifest; labels change no number.

    Args:
      run: The run directory.
      manifest: The run's manifest.
      config: The current config, of the same fingerprint.
    Returns:
      The manifest with the new labels.
    """
    texts = config.model_dump(mode="json")["features"]
    if manifest["config"].get("features") == texts:
        return manifest
    manifest = {**manifest, "config": {**manifest["config"], "features": texts}}
    _write(run, manifest)
    return manifest


def _write(run: str, manifest: Mapping[str, Any]) -> None:
    data = json.dumps(manifest, indent=2, default=str).encode() + b"\n"
    files.write_atomic(files.join(run, MANIFEST), data)


def commit(run: str, manifest: Mapping[str, Any]) -> None:
    """Commits a run: the manifest appears in one piece, then the journal is deleted."""
    _write(run, manifest)
    files.delete_tree(files.join(run, WORK))
