"""The baseline that a committed run keeps, for other runs and for `compare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.run_directory.committed import read_manifest
from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import BASELINE
from transforms.rows.baselines.artifact import Artifact
from transforms.storage import files

#: Kinds of baseline that consist of data rows: a run with `output.sample: 0` must not keep them.
_DRAWN = ("sample", "file", "run")
#: Largest baseline that is kept, in bytes.
_MOST_BYTES = 64 << 20
_PIECE = 16 << 20


@dataclass(frozen=True)
class EarlierBaseline:
    """The baseline of an earlier run that another run takes over.

    Args:
      run: The earlier run's directory.
      run_id: The id of that run.
      kind: The kind of the baseline, for example "median".
      digest: The digest of the baseline.
      features: The baseline's rows, `[R, *shape]` by feature, as the model takes them.
      edges: Edges of bins for which the config gives only their number, by column and number of bins.
      categories: Categories of the features that are held as codes.
    """

    run: str
    run_id: str
    kind: str
    digest: str
    features: Mapping[str, np.ndarray]
    edges: Mapping[tuple[str, int], tuple[float, ...]]
    categories: Mapping[str, Categories]


def is_kept(kind: str, artifact: Artifact, sample: int) -> bool:
    """Whether a run keeps its baseline.

    Args:
      kind: The kind of the baseline.
      artifact: The baseline.
      sample: `output.sample`; 0 keeps single rows out of the run.
    """
    drawn = kind in _DRAWN and (kind != "run" or len(artifact.scores) > 1)
    return (sample > 0 or not drawn) and sum(v.nbytes for v in artifact.features.values()) <= _MOST_BYTES


def baseline_table(artifact: Artifact) -> pa.Table:
    """The rows of a baseline as bytes, which keep all types, cut into pieces: one per table row."""
    none = np.zeros((len(artifact.scores), 0))
    data = Artifact(artifact.features, none, np.zeros(0)).to_bytes()
    pieces = [data[first : first + _PIECE] for first in range(0, len(data), _PIECE)]
    return pa.table({"rows": pa.array(pieces, pa.binary())})


def kept_baseline(run: str) -> Mapping[str, np.ndarray] | None:
    """Reads the rows of a run's baseline, `[R, *shape]` by feature; None if it keeps none."""
    path = files.join(run, BASELINE)
    if not files.exists(path):
        return None
    return Artifact.from_bytes(b"".join(read_whole(path, ["rows"])["rows"].to_pylist())).features


def earlier_baseline(path: str, where: str) -> EarlierBaseline:
    """Reads the baseline of a committed run for another run.

    Args:
      path: The run directory, in full.
      where: The key of the config that names it.
    Raises:
      UserError: The run is missing, not committed, keeps no baseline, or is damaged.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise UserError(f"there is no committed run in {path}", where, "give the folder that explain wrote")
    features = kept_baseline(path)
    if features is None:
        problem = f"{path} keeps no rows of its baseline"
        remedy = (
            "explain it again: runs keep them unless output.sample is 0 or they take more than "
            f"{_MOST_BYTES >> 20} MB; or give baseline: {{kind: file, path: …}}"
        )
        raise UserError(problem, where, remedy)
    block = manifest["baseline"]
    edges = dict(_edges(manifest["config"]["input"]["slices"], manifest["slices"]))
    earlier = EarlierBaseline(
        path,
        manifest["run_id"],
        block["kind"],
        block["digest"],
        features,
        edges,
        categories_of(manifest),
    )
    digest = Artifact(features, np.zeros((0, 0)), np.zeros(0)).digest
    if digest != block["digest"]:
        problem = f"{path}: the baseline rows that it keeps do not match its manifest"
        raise UserError(problem, where, "attribeam verify lists all differences; explain it again")
    return (
        earlier
        if block["kind"] != "run"
        else replace(earlier, kind=str((block.get("of") or {}).get("kind", "run")))
    )


def categories_of(manifest: Mapping[str, Any]) -> dict[str, Categories]:
    """The categories of a run's features, where they have some."""
    categories = {item["name"]: Categories.from_json(item.get("categories")) for item in manifest["schema"]}
    return {name: known for name, known in categories.items() if known is not None}


def _edges(asked: Any, slicings: Any) -> Iterator[tuple[tuple[str, int], tuple[float, ...]]]:
    """The edges of bins with equal numbers of rows, by column and number of bins."""
    for item, slicing in zip(asked, slicings, strict=True):
        if slicing["kind"] == "intersection":
            yield from _edges(item, slicing["parts"])
        elif slicing["kind"] == "bins" and isinstance(item["bins"], int):
            yield (item["column"], item["bins"]), tuple(slicing["edges"])
