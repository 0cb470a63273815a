"""Summarises a plan for `attribeam plan` and for manifests."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.config.model import TargetColumn
from pipeline.planning.host_memory import host_bytes
from pipeline.planning.model.targets import explained_in_words
from pipeline.planning.plan import Plan
from pipeline.run_directory.baseline_summary import described_values
from pipeline.run_directory.convergence_scale import scale_of
from transforms.slices.slicings import described


def summarize(plan: Plan) -> dict[str, Any]:
    """The content of `attribeam plan --json`."""
    probe, spec = plan.probe, plan.spec
    per_row = probe.seconds_per_row
    host = host_bytes(plan.files, spec, probe, plan.rows)
    return {
        "name": plan.loaded.config.name,
        "output": plan.output,
        "fingerprint": plan.fingerprint,
        "files": [{"file": f.name, "rows": f.rows, "bytes": f.bytes} for f in plan.files],
        "rows": plan.rows,
        "reused_rows": plan.reused_rows,
        "anew": plan.anew,
        "shards": len(plan.shards),
        "shard_rows": plan.shard_rows,
        "model": describe_model(plan),
        "features": [
            {"name": f.name, "kind": f.kind, "dtype": f.dtype, "shape": list(f.shape), "input": f.input}
            for f in spec.schema.features
        ],
        "groups": {name: list(members) for name, members in spec.schema.groups.items()},
        "slices": described(spec.schema.slicings),
        "weight": None if spec.schema.weight is None else spec.schema.weight[0],
        "targets": target_names(plan),
        "explains": explains(plan),
        "method": {"name": spec.method.name, **dataclasses.asdict(spec.method)},  # type: ignore[call-overload]
        "defaults": dict(probe.defaults),
        "affine_prefix": probe.affine_prefix,
        "baseline": {**describe_baseline(plan), "values": baseline_values(plan)},
        "evaluations_per_row": probe.evaluations_per_row,
        "workers": plan.loaded.config.compute.workers,
        "batch_size": spec.batch_size,
        "batch_size_asked": plan.loaded.config.compute.batch_size,
        "device_batch_size": spec.device_batch_size,
        "precision": spec.model.precision,
        "jit": spec.model.jit,
        "devices": list(probe.devices),
        "estimate": {
            "seconds_per_row": per_row,
            "seconds": None if per_row is None else per_row * (plan.rows - plan.reused_rows),
            "output_bytes": _output_bytes(plan),
            "device_bytes": probe.device_bytes,
            "host_bytes": host.total,
            "host_bytes_by_part": host.to_json(),
            "device_calls_per_row": -(-probe.evaluations_per_row // spec.device_batch_size),
        },
        "notes": list(probe.notes),
        "warnings": plan.warnings,
    }


def _output_bytes(plan: Plan) -> int:
    """Bytes of the tables before compression: ids, five numbers and φ per row and target."""
    if plan.spec.output.attributions == "none":
        return 0
    schema, output = plan.spec.schema, plan.spec.output
    sizes = {f.name: f.size for f in schema.features}
    values = sum(1 if name in schema.groups else sizes[name] for name in schema.attributed)
    extra = 4 * len(schema.slices) + (8 if schema.weight is not None else 0)
    per_row = 4 * (5 + values * (2 if output.standard_error else 1)) + 12 + extra
    if isinstance(output.attributions, int):
        per_row = 4 * 5 + 12 + 6 * output.attributions + extra
    if output.features:
        per_row += 4 * sum(sizes.values())
    return per_row * plan.rows * _targets_a_row(plan)


def _targets_a_row(plan: Plan) -> int:
    indices = plan.spec.targets.indices
    return 1 if indices is None else len(indices)


def describe_model(plan: Plan) -> dict[str, Any]:
    """The manifest's `model`."""
    signature = plan.probe.signature
    return {
        "path": plan.spec.model.path,
        "digest": plan.probe.digest,
        "inputs": [{"name": i.name, "shape": list(i.shape), "dtype": i.dtype} for i in signature.inputs],
        "outputs": [
            {"name": o.name, "shape": list(o.shape), "score": kind}
            for o, kind in zip(signature.outputs, plan.probe.score_kinds, strict=True)
        ],
    }


def describe_baseline(plan: Plan) -> dict[str, Any]:
    """The manifest's `baseline`."""
    artifact = plan.probe.artifact
    earlier = plan.baseline_run
    measure, flat = scale_of(artifact, plan.spec.targets.indices)
    return {
        "kind": plan.baseline_kind,
        "rows": len(artifact.scores),
        "digest": artifact.digest,
        "measured_by": measure,
        "flat_targets": flat,
        **(
            {}
            if earlier is None
            else {"of": {"run": earlier.run, "run_id": earlier.run_id, "kind": earlier.kind}}
        ),
    }


def explains(plan: Plan) -> str:
    """Describes the explained outputs."""
    asked = plan.loaded.config.model.target
    column = asked.column if isinstance(asked, TargetColumn) else None
    target = None if isinstance(asked, TargetColumn) else asked
    return explained_in_words(target, column, plan.spec.targets, plan.probe.signature, plan.probe.score_kinds)


def baseline_values(plan: Plan) -> list[dict[str, Any]]:
    """The values of the baseline, feature by feature."""
    known = {f.name: f.categories for f in plan.spec.schema.features if f.categories is not None}
    return described_values(plan.probe.artifact.features, known)


def target_names(plan: Plan) -> list[str]:
    """Names of the explained outputs."""
    names = plan.probe.signature.target_names
    indices = plan.spec.targets.indices
    return list(names) if indices is None else [names[i] for i in indices]
