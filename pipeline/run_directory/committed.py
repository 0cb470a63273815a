"""Reads the manifest of a committed run."""

from __future__ import annotations

import json
from typing import Any

from transforms.errors import UserError
from transforms.outputs.run_files import MANIFEST
from transforms.storage import files

#: The version of a run's files. It is part of every fingerprint, so that a resumed run never mixes files of
#: different versions.
SCHEMA_VERSION = 3


def read_manifest(run: str, *, replaces: bool = False) -> dict[str, Any] | None:
    """Reads the manifest of a committed run; None if the directory has none.

    Args:
      run: The run directory.
      replaces: The run is to be replaced, so a damaged manifest or another version's is accepted.
    Raises:
      UserError: The file is not a manifest, or was written by another version.
    """
    path = files.join(run, MANIFEST)
    if not files.exists(path):
        return None
    try:
        return _read_manifest(path)
    except UserError:
        if replaces:
            return {"fingerprint": None}
        raise


def _read_manifest(path: str) -> dict[str, Any]:
    try:
        manifest = json.loads(files.read_bytes(path))
    except ValueError as error:
        raise UserError("is not a manifest", path, "give the folder of a committed run") from error
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        raise UserError("is not a manifest", path, "give the folder of a committed run")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"has schema_version {manifest['schema_version']}, and this version reads {SCHEMA_VERSION}",
            path,
            "use the version that wrote it",
        )
    return manifest
