"""Preflight: everything that a run checks and decides before its first row, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import LoadedConfig, TargetColumn, TopK
from pipeline.place import check_apart
from pipeline.probe import ProbeRequest, ProbeResult, probe, probe_in_child
from transforms import files
from transforms.absent import named
from transforms.baselines import BaselineRequest
from transforms.errors import UserError
from transforms.models import ModelRequest
from transforms.models.function import PREFIX, is_function, split_name
from transforms.read import describe_columns
from transforms.resolve import ColumnRequest
from transforms.resolve_feature import FeatureRequest
from transforms.shards import InputFile, Shard, auto_shard_rows, cut, inspect_files
from transforms.worker import ExplainSpec
from transforms.write import OutputSpec

#: Part of every fingerprint: a change in what the tables hold must not be mixed with older parts.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """A run before it runs.

    Args:
      loaded: The config.
      files: The input.
      shards: In input order.
      spec: What workers are told.
      found: What the model said.
      rows: Rows that will be read.
      shard_rows: Rows a shard.
      baseline_kind: With the method's default filled in.
      output: The run directory.
    """

    loaded: LoadedConfig
    files: Sequence[InputFile]
    shards: Sequence[Shard]
    spec: ExplainSpec
    found: ProbeResult
    rows: int
    shard_rows: int
    baseline_kind: str
    output: str

    @property
    def fingerprint(self) -> str:
        """Of all that decides the numbers and their files."""
        return self.spec.fingerprint

    @property
    def warnings(self) -> list[str]:
        """What is not as it should be and stops no run."""
        return [f"{self.loaded.where}: {line}" for line in self.found.warnings]

    def summary(self) -> dict[str, Any]:
        """What `attribeam plan` prints."""
        found, spec = self.found, self.spec
        per_row = found.seconds_per_row
        return {
            "name": self.loaded.config.name,
            "output": self.output,
            "fingerprint": self.fingerprint,
            "files": [{"file": f.name, "rows": f.rows, "bytes": f.bytes} for f in self.files],
            "rows": self.rows,
            "shards": len(self.shards),
            "shard_rows": self.shard_rows,
            "model": describe_model(self),
            "features": [
                {"name": f.name, "kind": f.kind, "dtype": f.dtype, "shape": list(f.shape), "input": f.input}
                for f in spec.schema.features
            ],
            "groups": {name: list(members) for name, members in spec.schema.groups.items()},
            "targets": target_names(self),
            "method": {"name": spec.method.name, **dataclasses.asdict(spec.method)},  # type: ignore[call-overload]
            "affine_prefix": found.affine_prefix,
            "baseline": describe_baseline(self),
            "evaluations_per_row": found.evaluations_per_row,
            "batch_size": spec.batch_size,
            "device_batch_size": spec.device_batch_size,
            "precision": spec.model.precision,
            "jit": spec.model.jit,
            "devices": list(found.devices),
            "estimate": {
                "seconds_per_row": per_row,
                "seconds": None if per_row is None else per_row * self.rows,
                "output_bytes": self._output_bytes(),
                "device_bytes": found.device_bytes,
                "device_calls_per_row": -(-found.evaluations_per_row // spec.device_batch_size),
            },
            "warnings": self.warnings,
        }

    def _output_bytes(self) -> int:
        """Before compression, which takes little off noise: ids, five numbers and φ a row and target."""
        if self.spec.output.attributions == "none":
            return 0
        schema, output = self.spec.schema, self.spec.output
        sizes = {f.name: f.size for f in schema.features}
        values = sum(1 if name in schema.groups else sizes[name] for name in schema.attributed)
        per_row = 4 * (5 + values * (2 if output.standard_error else 1)) + 12 + 4 * len(schema.slices)
        if isinstance(output.attributions, int):
            per_row = 4 * 5 + 12 + 6 * output.attributions + 4 * len(schema.slices)
        if output.features:
            per_row += 4 * sum(sizes.values())
        return per_row * self.rows * self._targets_a_row

    @property
    def _targets_a_row(self) -> int:
        indices = self.spec.targets.indices
        return 1 if indices is None else len(indices)


def describe_model(plan: Plan) -> dict[str, Any]:
    """The manifest's `model`."""
    signature = plan.found.signature
    return {
        "path": plan.spec.model.path,
        "digest": plan.found.digest,
        "inputs": [{"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in signature.inputs],
        "outputs": [
            {"name": o.name, "shape": list(o.shape), "score": kind}
            for o, kind in zip(signature.outputs, plan.found.score_kinds, strict=True)
        ],
    }


def describe_baseline(plan: Plan) -> dict[str, Any]:
    """The manifest's `baseline`."""
    artifact = plan.found.artifact
    return {"kind": plan.baseline_kind, "rows": len(artifact.scores), "digest": artifact.digest}


def target_names(plan: Plan) -> list[str]:
    """Names of the outputs that may be explained."""
    names = plan.found.signature.target_names
    indices = plan.spec.targets.indices
    return list(names) if indices is None else [names[i] for i in indices]


def make_plan(
    loaded: LoadedConfig,
    *,
    limit: int | None = None,
    local: bool = True,
    in_process: bool = False,
    measure: bool = False,
    slots: int | None = None,
    earlier: Mapping[str, int] | None = None,
) -> Plan:
    """Checks a config against its files and its model, and decides what the config leaves open.

    Args:
      loaded: The config.
      limit: Only the first so many rows.
      local: The run's workers share this machine's processors.
      in_process: Ask the model in this process: right where it will also explain.
      measure: Measure the time per row.
      slots: Shards that are worked on at a time; the config's workers by default.
      earlier: Rows a shard of runs that may be gone on with, by fingerprint: a run keeps its cut, however
        many slots there are by now.
    Raises:
      UserError: Whatever would stop the run and can be mended.
    """
    config = loaded.config
    found_files = input_files(loaded)
    total = sum(file.rows for file in found_files)
    rows = total if limit is None else min(total, limit)
    output = loaded.path(config.output.path)
    baseline_files = baseline_files_of(loaded)
    sources = [
        ("", [loaded.where]),
        ("model.path", [loaded.path(config.model.path)]),
        ("input.files", [file.path for file in found_files]),
        ("baseline.path", [file.path for file in baseline_files]),
    ]
    check_apart(output, sources, loaded.where)
    method = config.method
    kind = config.baseline.kind or ("sample" if method.needs.background else "mean")
    threads = _threads(config.compute.workers) if local else None
    request = probe_request(loaded, found_files, kind, baseline_files, threads=threads, measure=measure)
    try:
        found = probe(request) if in_process else probe_in_child(request)
    except UserError as error:
        raise of_config(loaded, error) from error
    if local:
        found = _with_devices(loaded, found)
    asked = config.compute.shard_rows
    if asked == "auto":
        auto = auto_shard_rows(rows, found.evaluations_per_row, slots or config.compute.workers)
        kept = (
            cut_rows
            for fingerprint, cut_rows in (earlier or {}).items()
            if _fingerprint(loaded, found, found_files, cut_rows, rows) == fingerprint
        )
        shard_rows = next(kept, auto)
    else:
        shard_rows = asked
    shards = cut(found_files, shard_rows, rows)
    fingerprint = _fingerprint(loaded, found, found_files, shard_rows, rows)
    attributions = config.output.attributions
    spec = ExplainSpec(
        run=output,
        run_id=fingerprint[:16],
        fingerprint=fingerprint,
        model=request.model,
        score=request.score,
        schema=found.schema,
        method=method,
        targets=found.targets,
        reference=files.join(output, "_work", "reference.npz"),
        output=OutputSpec(
            attributions.top_k if isinstance(attributions, TopK) else attributions,
            config.output.features,
            bool(getattr(method, "standard_error", False)),
            bool(getattr(method, "local_fit", False)),
        ),
        batch_size=config.compute.batch_size,
        device_batch_size=found.device_batch_size,
        seed=config.seed,
        threads=threads,
        metadata={
            "attribeam.run_id": fingerprint[:16],
            "attribeam.method": method.name,
            "attribeam.model_digest": found.digest,
            "attribeam.baseline_digest": found.artifact.digest,
        },
    )
    return Plan(loaded, found_files, shards, spec, found, rows, shard_rows, kind, output)


def _model_path(loaded: LoadedConfig) -> str:
    """A path in full, or the name of a function."""
    path = loaded.config.model.path
    if is_function(path):
        return ":".join((PREFIX.rstrip(":"), *split_name(path)))
    return loaded.path(path)


def input_files(loaded: LoadedConfig) -> list[InputFile]:
    """The files of a config's input.

    Raises:
      UserError: There are none, one cannot be read, or all are empty.
    """
    found = _matched(loaded, loaded.config.patterns, "input.files", loaded.config.input.format)
    if not any(file.rows for file in found):
        raise UserError(
            "the input has no rows", f"{loaded.where}: input.files", "check the files that it matches"
        )
    return found


def probe_request(
    loaded: LoadedConfig,
    found_files: Sequence[InputFile],
    baseline: str,
    baseline_files: Sequence[InputFile],
    *,
    threads: int | None = None,
    measure: bool = False,
) -> ProbeRequest:
    """What is asked of a config's model: its baseline is of this kind."""
    config, columns = loaded.config, _columns(loaded)
    return ProbeRequest(
        ModelRequest(
            _model_path(loaded),
            tuple(config.model.modules),
            (loaded.folder,) if not files.is_url(loaded.folder) else (),
            config.model.allow_unsafe,
            config.compute.precision,
            config.compute.jit,
        ),
        config.model.score,
        None if isinstance(config.model.target, TargetColumn) else config.model.target,
        columns,
        describe_columns(found_files, named(columns)),
        found_files,
        config.method,
        BaselineRequest(baseline, config.baseline.rows, config.baseline.value),
        baseline_files,
        None if config.compute.device_batch_size == "auto" else config.compute.device_batch_size,
        config.seed,
        threads,
        measure,
    )


def _with_devices(loaded: LoadedConfig, found: ProbeResult) -> ProbeResult:
    """The same, with a warning where some of this machine's GPUs would be idle.

    Raises:
      UserError: There are more workers than GPUs.
    """
    workers, gpus = loaded.config.compute.workers, [name for name in found.devices if "GPU" in name]
    if gpus and workers > len(gpus):
        raise UserError(
            f"{workers} workers and {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: no two share one",
            f"{loaded.where}: compute.workers",
            f"give at most {len(gpus)}",
        )
    if workers < len(gpus):
        idle = f"compute.workers: {workers} of {len(gpus)} GPUs will be used; give {len(gpus)} to use all"
        return dataclasses.replace(found, warnings=(*found.warnings, idle))
    return found


def _threads(workers: int) -> int | None:
    """TensorFlow's threads in each local worker: the processors divided between them."""
    if workers == 1:
        return None
    return max(1, (os.cpu_count() or 1) // workers)


def _columns(loaded: LoadedConfig) -> ColumnRequest:
    block, target = loaded.config.input, loaded.config.model.target
    features = None
    if block.features is not None:
        features = tuple(
            FeatureRequest(f.name, f.kind, f.fill, None if f.shape is None else tuple(f.shape), f.fixed)
            for f in block.features
        )
    return ColumnRequest(
        features,
        {name: tuple(members) for name, members in block.groups.items()},
        block.id,
        tuple(block.slices),
        target.column if isinstance(target, TargetColumn) else None,
    )


def baseline_files_of(loaded: LoadedConfig) -> Sequence[InputFile]:
    """The files of a `baseline.path`; none without one."""
    path = loaded.config.baseline.path
    return () if path is None else _matched(loaded, [path], "baseline.path")


def _matched(
    loaded: LoadedConfig, patterns: Sequence[str], key: str, format: str | None = None
) -> list[InputFile]:
    try:
        return inspect_files(files.expand(patterns, loaded.folder), format)
    except UserError as error:
        if error.where in ("input.files", "input.format"):
            raise of_config(loaded, error) from error
        what = f"{error.where}: {error.what}" if error.where else error.what
        remedy = error.remedy
        if key != "input.files" and remedy is not None and "input." in remedy:
            remedy = "name Parquet or TFRecord files by their suffixes"
        raise UserError(what, f"{loaded.where}: {key}", remedy) from error


def of_config(loaded: LoadedConfig, error: UserError) -> UserError:
    """The same error; one that names a key of the config, or its model, also says which config."""
    where, model = error.where or "", loaded.path(loaded.config.model.path)
    if where == model or where.startswith(model + "/"):
        return UserError(error.what, f"{loaded.where}: model.path: {where}", error.remedy)
    block = where.split(" ")[0].split(".")[0]
    if block in ("model", "input", "baseline", "method", "compute"):
        return UserError(error.what, f"{loaded.where}: {error.where}", error.remedy)
    return error


def _fingerprint(
    loaded: LoadedConfig, found: ProbeResult, inputs: Sequence[InputFile], shard_rows: int, rows: int
) -> str:
    """SHA-256 of what decides the numbers and how they are laid out in files."""
    config = loaded.config.model_dump(mode="json")
    # Where the run goes, on which engine, and how many processes share the work change no number.
    for block, key in (("output", "path"), ("compute", "workers"), ("model", "path"), ("input", "files")):
        config[block].pop(key)
    for key in ("limits", "name", "runner"):
        config.pop(key)
    facts = {
        "version": SCHEMA_VERSION,
        "config": config,
        "model": found.digest,
        "baseline": found.artifact.digest,
        "inputs": [[f.name, f.rows, *files.stamp(f.path)] for f in inputs],
        "columns": [[name, str(kind)] for name, kind in found.schema.columns],
        "device_batch_size": found.device_batch_size,
        "shard_rows": shard_rows,
        "rows": rows,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
