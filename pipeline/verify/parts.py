"""Checks a run directory by itself: its parts against the manifest, its tables against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.run_directory.increments import cut_increments, increments_of
from pipeline.wording import count
from transforms.arrow.nested import as_tensor
from transforms.errors import UserError
from transforms.outputs.read_whole import read_whole
from transforms.outputs.run_files import FOLDERS, IMPORTANCE, is_table, part_name
from transforms.sources.base import PARQUET, InputFile
from transforms.storage import files
from transforms.storage.digests import new_digest

_READERS = 8
_CHUNK = 1 << 20
_BATCH = 16_384
#: Tolerance between means of the same float32 numbers, summed in another order.
_AGREE = 1e-5


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
      name: The name of the check.
      ok: True if it passed; None if that could not be found out.
      what: The result in one line.
      details: All problems that were found.
    """

    name: str
    ok: bool | None
    what: str
    details: tuple[str, ...] = ()


def check_parts(run: str, manifest: Mapping[str, Any]) -> tuple[Check, frozenset[str]]:
    """Compares the tables' files with the manifest: their names, rows, bytes, digests and metadata.

    Args:
      run: The run directory.
      manifest: The run's manifest.
    Returns:
      The check, and the names of the files whose content cannot be trusted.
    """
    there = _there(run)
    wanted = {part["file"]: part for part in manifest["parts"]}
    lacking = [name for name in _needed(manifest) if name not in wanted and name not in there]
    known = _metadata(manifest)
    with ThreadPoolExecutor(_READERS) as pool:
        reasons = list(pool.map(lambda item: _examine(run, item[0], item[1], there, known), wanted.items()))
    bad = {name: reason for name, reason in zip(wanted, reasons, strict=True) if isinstance(reason, str)}
    strangers = [name for name in there if name not in wanted]
    bad |= dict.fromkeys(lacking, "is missing, and the manifest does not name it")
    bad |= dict.fromkeys(strangers, "does not belong to the run: the manifest does not name it")
    problems = [f"{name} {reason}" for name, reason in bad.items()]
    if problems:
        more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
        return Check("parts", False, problems[0] + more, tuple(problems)), frozenset(bad)
    size = sum(reason for reason in reasons if isinstance(reason, int))
    number = count(len(wanted), "file")
    return Check(
        "parts", True, f"{number}, {size:,} bytes: rows, bytes and BLAKE2b digests match"
    ), frozenset()


def _there(run: str) -> list[str]:
    """The files in the folders of the tables, without hidden ones that an interrupted writer left."""
    names = [
        f"{folder}/{name}"
        for folder in FOLDERS
        for name in files.list_dir(files.join(run, folder))
        if not name.startswith(".")
    ]
    return [*names, IMPORTANCE] if files.exists(files.join(run, IMPORTANCE)) else names


def _needed(manifest: Mapping[str, Any]) -> list[str]:
    """The files that a run must have, whether or not its manifest names them."""
    if manifest["config"]["output"]["attributions"] == "none":
        return [IMPORTANCE]
    inputs = [InputFile("", f["file"], PARQUET, f["rows"], f["bytes"]) for f in manifest["inputs"]]
    shards = cut_increments(inputs, increments_of(manifest))  # depends on the rows alone
    return [*(f"attributions/{part_name(shard.index)}" for shard in shards), IMPORTANCE]


def _metadata(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """The metadata that each part must have; parts that were taken over name the run that made them."""
    runs = {manifest["run_id"], *(part.run_id for part in increments_of(manifest))}
    return {
        "attribeam.run_id": runs,
        "attribeam.method": {manifest["config"]["method"]["name"]},
        "attribeam.model_digest": {manifest["model"]["digest"]},
        "attribeam.baseline_digest": {manifest["baseline"]["digest"]},
    }


def _examine(
    run: str,
    name: str,
    noted: Mapping[str, Any],
    there: Sequence[str],
    known: Mapping[str, set[str]],
) -> str | int:
    """The problem with a file, or its size in bytes if there is none."""
    if not is_table(name):
        return "is not a name that a run gives a part"
    if name not in there:
        return "is gone"
    path = files.join(run, name)
    try:
        size = files.size(path)
        if size != noted["bytes"]:
            return f"has {size:,} bytes, and had {noted['bytes']:,}"
        if _blake2b(path) != noted["digest"]:
            return "does not hold the bytes that were written: its BLAKE2b digest differs"
        with files.open_arrow(path) as source:
            footer = pq.read_metadata(source)
    except (pa.ArrowException, OSError) as error:
        return f"cannot be read: {str(error).splitlines()[0][:200]}"
    except UserError as error:
        return error.what
    if footer.num_rows != noted["rows"]:
        return f"has {footer.num_rows:,} rows, and had {noted['rows']:,}"
    own = footer.metadata or {}
    for key, allowed in known.items():
        value = own.get(key.encode(), b"").decode("utf-8", "replace")
        if value not in allowed:
            return f"belongs to another run: its {key} is {value!r}, and not {' or '.join(sorted(allowed))}"
    return size


def _blake2b(path: str) -> str:
    digest = new_digest()
    with files.open_input(path) as source:
        while block := source.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def check_counts(manifest: Mapping[str, Any]) -> Check:
    """Compares the manifest's counts with each other and with the rows of its parts."""
    counts, planned = manifest["counts"], manifest["rows"]
    read, attributed = counts["rows_read"], counts["rows_attributed"]
    rejected, total = counts["rows_rejected"], counts["attributions"]
    problems = []
    if read != attributed + rejected:
        problems.append(f"{read:,} rows read are not {attributed:,} attributed and {rejected:,} rejected")
    if read != planned:
        problems.append(f"{read:,} rows were read, and {planned:,} planned")
    if planned > sum(entry["rows"] for entry in manifest["inputs"]):
        problems.append(f"{planned:,} rows are more than the input had")
    if attributed and total % attributed:
        problems.append(f"{total:,} attributions do not divide evenly among {attributed:,} rows")
    rows = _rows_by_folder(manifest)
    wanted = {"rejected": rejected}
    if manifest["config"]["output"]["attributions"] != "none":
        wanted["attributions"] = total
    for folder, number in wanted.items():
        if rows[folder] != number:
            problems.append(f"{folder}/ holds {rows[folder]:,} rows, and the manifest counts {number:,}")
    if problems:
        return Check("counts", False, problems[0], tuple(problems))
    statement = f"{read:,} rows read are {attributed:,} attributed and {rejected:,} rejected"
    return Check("counts", True, f"{statement}, as many as the parts hold")


def _rows_by_folder(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Rows of each folder's parts by the manifest; another check compares it with the files."""
    rows = dict.fromkeys(FOLDERS, 0)
    for part in manifest["parts"]:
        folder = part["file"].partition("/")[0]
        if folder in rows:
            rows[folder] += part["rows"]
    return rows


def check_importance(run: str, manifest: Mapping[str, Any], unsound: frozenset[str]) -> Check:
    """Compares the importance over all rows with means recomputed from the attributions.

    Cost: reads the attributions once, a batch at a time.
    """
    if IMPORTANCE in unsound or any(name.startswith("attributions/") for name in unsound):
        return Check("importance", None, "not compared: the tables have changed since they were written")
    table = read_whole(files.join(run, IMPORTANCE))
    table = table.filter(pc.equal(table["slice"], "")).to_pydict()
    rows = dict(zip(table["target"], table["rows"], strict=True))
    weighted = manifest["config"]["input"].get("weight") is not None
    # A target whose rows all have weight 0 has no mean.
    total, wanted = sum(rows.values()), manifest["counts"]["attributions"]
    if total > wanted or (total < wanted and not weighted):
        statement = f"it is over {total:,} attributions, and the manifest counts {wanted:,}"
        return Check("importance", False, statement)
    kept = manifest["config"]["output"]["attributions"]
    if kept != "all":
        largest = "none" if kept == "none" else f"the {kept['top_k']} largest"
        return Check("importance", None, f"not compared: of the attributions {largest} of each row are kept")
    means, weight = _means(run, list(manifest["features"]), len(manifest["target_names"]), weighted)
    problems = [
        f"target {target} is not in it, and its rows have weights"
        for target in np.flatnonzero(weight > 0).tolist()
        if target not in rows
    ]
    columns = ("target", "feature", "rows", "mean_abs", "mean")
    for target, feature, number, mean_abs, mean in zip(*(table[c] for c in columns), strict=True):
        statement = f"{feature}, target {target}: "
        if feature not in means:
            problems.append(f"{statement}is not a feature of the run")
            continue
        held, absolute, signed = means[feature][:, target]
        limit = _AGREE * max(abs(mean_abs), absolute)
        if held != number:
            problems.append(f"{statement}is over {number:,} rows, and there are {held:,.0f}")
        elif not (abs(absolute - mean_abs) <= limit and abs(signed - mean) <= limit):
            problems.append(
                f"{statement}mean |φ| {mean_abs:.6g} and mean φ {mean:.6g}, and from the attributions they "
                f"are {absolute:.6g} and {signed:.6g}"
            )
    if len(table["feature"]) != len(rows) * len(means):
        problems.append(f"{len(table['feature']):,} lines, and {len(rows)} targets × {len(means)} features")
    if problems:
        return Check("importance", False, problems[0], tuple(problems))
    return Check(
        "importance", True, f"the means of {count(len(means), 'feature')} agree with the attributions"
    )


def _means(
    run: str, features: Sequence[str], targets: int, weighted: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows, mean |φ| and mean φ of each target, `[3, targets]` by feature, and the weight of each target.

    Where rows have weights the means are weighted; else each counts 1.
    """
    sums = {name: np.zeros((3, targets)) for name in features}
    total_weight = np.zeros(targets)
    for batch in _batches(run, weighted):
        target = batch.column("target").to_numpy()
        weight = batch.column("weight").to_numpy() if weighted else np.ones(len(target))
        total_weight += np.bincount(target, weight, targets)
        struct = batch.column("attribution")
        for name in features:
            values = as_tensor(struct.field(name))
            # The importance takes one number per feature: a tensor's values are summed.
            total = values.reshape(len(target), -1).sum(axis=1, dtype=np.float64).astype(np.float32)
            by = sums[name]
            by[0] += np.bincount(target, minlength=targets)
            by[1] += np.bincount(target, np.abs(total) * weight, targets)
            by[2] += np.bincount(target, total * weight, targets)
    for by in sums.values():
        by[1:] /= np.where(total_weight > 0, total_weight, 1)
    return sums, total_weight


def _batches(run: str, weighted: bool) -> Iterator[pa.RecordBatch]:
    for name in _there(run):
        if name.startswith("attributions/"):
            with files.open_arrow(files.join(run, name)) as source:
                part = pq.ParquetFile(source)
                weight = ["weight"] if weighted else []
                yield from part.iter_batches(_BATCH, columns=["target", "attribution", *weight])
