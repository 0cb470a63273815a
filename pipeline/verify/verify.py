"""Verifies a committed run against its manifest, its input and its model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.config.config import LoadedConfig, restored
from pipeline.planning.inputs import Sources, baseline_files_of, input_files, model_request
from pipeline.planning.plan import Plan, make_plan
from pipeline.results.run import load_run
from pipeline.run_directory.increments import cut_increments, increments_of
from pipeline.run_directory.kept_baseline import earlier_baseline
from pipeline.verify.parts import Check, check_counts, check_importance, check_parts
from pipeline.verify.rows import check_rows
from pipeline.wording import count
from transforms.errors import UserError
from transforms.models.kinds.function import is_function
from transforms.models.load import request_digest
from transforms.sources.base import PARQUET, InputFile
from transforms.storage import files

#: Keys of a manifest that the checks need.
_KEYS = (
    *("run_id", "fingerprint", "config", "config_folder", "model", "baseline", "inputs", "counts", "rows"),
    *("parts", "increments", "shard_rows", "batch_size", "device_batch_size", "features", "target_names"),
)
#: Tolerance relative to the spread of the score. Rows are recomputed in other batches than in the run, and a
#: matrix product of another number of rows sums its float32 terms in another order.
TOLERANCE = 1e-5
#: Tolerance in mixed precision: the last bit of a half-precision product.
_MIXED = 1e-2


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Args:
      run: The run directory.
      checks: The checks in the order in which they were made.
      sample: The recomputed rows: number asked for, seed, drawn rows, agreement.
    """

    run: str
    checks: tuple[Check, ...]
    sample: Mapping[str, Any]

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [check.name for check in self.checks if check.ok is False]

    def to_json(self) -> dict[str, Any]:
        """The result for `--json`."""
        states = {True: "ok", False: "failed", None: "unknown"}
        checks = [
            {"name": c.name, "state": states[c.ok], "what": c.what, "details": list(c.details)}
            for c in self.checks
        ]
        return {"run": self.run, "ok": not self.failed, "checks": checks, "rows": dict(self.sample)}


def verify(run: str, *, rows: int, seed: int, tolerance: float | None = None) -> Verification:
    """Compares a run with its manifest, the manifest with model and input, and some rows with the model.

    Checks are independent as far as possible: without the model, the parts' checksums can still be compared.

    Args:
      run: The run directory.
      rows: Number of rows to recompute; 0 loads no model.
      seed: Seed of the draw.
      tolerance: Largest difference, relative to the larger of the row's largest |φ| and the score's spread.
    Raises:
      UserError: There is no committed run.
    Cost: reads all tables once, loads the model, explains the rows, and reads those parts of the input that
      hold them or from which the baseline is drawn.
    """
    manifest = _manifest(run)
    parts, unsound = check_parts(run, manifest)
    checks = [
        parts,
        _attempt("counts", lambda: check_counts(manifest)),
        _attempt("importance", lambda: check_importance(run, manifest, unsound)),
    ]
    sample: dict[str, Any] = {"asked": rows, "seed": seed, "drawn": []}
    try:
        loaded = _config(run, manifest)
    except UserError as error:
        problem = f"cannot be read back from the manifest: {error}"
        return Verification(run, (*checks, Check("config", False, problem)), sample)
    inspected, inputs = _inputs(loaded, manifest)
    model = _attempt("model", lambda: _model(loaded, manifest))
    checks += [inputs, model]
    if rows == 0:
        checks += [Check(name, None, "not recomputed: --rows 0") for name in ("baseline", "rows")]
        return Verification(run, tuple(checks), sample)
    if inspected is None or model.ok is False:
        lacking = "model" if model.ok is False else "input"
        why = f"not recomputed: the {lacking} has changed"
        checks += [Check(name, None, why) for name in ("baseline", "rows")]
        return Verification(run, tuple(checks), sample)
    try:
        plan = _plan(loaded, manifest, inspected)
    except UserError as error:
        checks += [Check("baseline", False, str(error)), Check("rows", None, "not recomputed: no baseline")]
        return Verification(run, tuple(checks), sample)
    baseline = _baseline(plan, manifest)
    checks.append(baseline)
    if not baseline.ok:
        checks.append(Check("rows", None, "not recomputed: the baseline has changed"))
        return Verification(run, tuple(checks), sample)
    if tolerance is None:
        tolerance = TOLERANCE if plan.spec.model.precision == "float32" else _MIXED
    try:
        checked, report = check_rows(run, manifest, plan, unsound, rows, seed, tolerance)
    except UserError as error:
        checked, report = Check("rows", False, str(error)), {}
    except (pa.ArrowException, OSError) as error:
        checked, report = _unreadable("rows", error), {}
    return Verification(run, (*checks, checked), {**sample, **report})


def _manifest(run: str) -> dict[str, Any]:
    manifest = load_run(run).manifest
    lacking = [key for key in _KEYS if manifest.get(key) is None]
    if lacking:
        raise UserError(
            f"lacks {lacking[0]}: it is not the manifest of a committed run", f"{run}/manifest.json"
        )
    return manifest


def _config(run: str, manifest: Mapping[str, Any]) -> LoadedConfig:
    """The config of the run, with batch sizes as the run used them."""
    # The manifest's path cannot serve as the name: a config must not lie in the run directory.
    loaded = restored(manifest["config"], f"{run}: config", manifest["config_folder"])
    config = loaded.config
    compute = {
        "workers": 1,
        "batch_size": manifest["batch_size"],
        "device_batch_size": manifest["device_batch_size"],
    }
    place = run if files.is_url(run) else os.path.abspath(run)
    config = config.model_copy(
        update={
            "compute": config.compute.model_copy(update=compute),
            "output": config.output.model_copy(update={"path": place}),
        }
    )
    return replace(loaded, config=config)


def _attempt(name: str, check: Callable[[], Check]) -> Check:
    """Makes a check; an error on the way fails it."""
    try:
        return check()
    except UserError as error:
        return Check(name, False, str(error))
    except (pa.ArrowException, OSError) as error:
        return _unreadable(name, error)


def _unreadable(name: str, error: Exception) -> Check:
    return Check(name, False, f"a table cannot be read: {str(error).splitlines()[0][:200]}")


def _inputs(loaded: LoadedConfig, manifest: Mapping[str, Any]) -> tuple[list[InputFile] | None, Check]:
    """The input files (None if their rows are not those of the run), and the check."""
    try:
        inputs = input_files(loaded)
    except UserError as error:
        return None, Check("inputs", False, str(error))
    return compare_inputs(inputs, manifest["inputs"])


def compare_inputs(
    inputs: list[InputFile], noted: list[Mapping[str, Any]]
) -> tuple[list[InputFile] | None, Check]:
    """Compares the input with the manifest's `inputs`.

    Args:
      inputs: The input as it is now.
      noted: The input as the manifest describes it.
    Returns:
      The files (None if the run's rows cannot be found in them), and the check.
    """
    now, then = {f.name: f for f in inputs}, {f["file"]: f for f in noted}
    moved, changed = [], []
    for name in [*then, *(name for name in now if name not in then)]:
        if name not in now:
            moved.append(f"{name} is gone")
        elif name not in then:
            moved.append(f"{name} is new")
        elif now[name].rows != then[name]["rows"]:
            moved.append(f"{name} has {now[name].rows:,} rows, and had {then[name]['rows']:,}")
        elif now[name].bytes != then[name]["bytes"]:
            changed.append(f"{name} has {now[name].bytes:,} bytes, and had {then[name]['bytes']:,}")
        elif now[name].digest != then[name].get("digest", now[name].digest):
            changed.append(f"{name} has different content")
    problems = moved + changed
    # In the run's order: an incremental run has its new files last.
    kept = None if moved else [now[name] for name in then]
    if problems:
        return kept, Check("inputs", False, _first(problems), tuple(problems))
    if not all("digest" in entry for entry in noted):
        statement = "names, rows and bytes match; the manifest has no digests of their contents"
    elif inputs[0].format == PARQUET:
        # Pages are not read. If a changed value leaves the column's statistics as they were, only the
        # comparison of rows can find it.
        statement = "names, rows, bytes and digests of the Parquet footers, statistics included, match"
    else:
        statement = "names, rows, bytes and digests of the records' checksums match"
    rows = sum(f.rows for f in now.values())
    number = f"{count(len(inputs), 'file')}, {count(rows, 'row')}"
    return kept, Check("inputs", True, f"{number}: {statement}")


def _first(problems: list[str]) -> str:
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    return problems[0] + more


def _model(loaded: LoadedConfig, manifest: Mapping[str, Any]) -> Check:
    request = model_request(loaded)
    if not (is_function(request.path) or files.exists(request.path)):
        return Check("model", False, f"{request.path} is gone")
    digest, noted = request_digest(request), manifest["model"]["digest"]
    if digest != noted:
        problem = f"{manifest['model']['path']} has the digest {digest[:19]}…, and had {noted[:19]}…"
        return Check("model", False, problem)
    return Check("model", True, f"{manifest['model']['path']} has the same digest")


def _plan(loaded: LoadedConfig, manifest: Mapping[str, Any], inputs: list[InputFile]) -> Plan:
    """Plans the run again, with its model loaded in this process."""
    increments = increments_of(manifest)
    kept = None
    if loaded.config.baseline.kind == "run":  # the earlier run may be gone, but this run keeps its baseline
        kept = earlier_baseline(loaded.paths.output, "its own baseline")
    sources = Sources(inputs, baseline_files_of(loaded), kept, drawn_from=inputs[: increments[0].files])
    plan = make_plan(loaded, limit=manifest["rows"], in_process=True, sources=sources)
    spec = replace(plan.spec, reference=plan.probe.artifact.to_bytes())
    return replace(plan, spec=spec, shards=cut_increments(inputs, increments))


def _baseline(plan: Plan, manifest: Mapping[str, Any]) -> Check:
    artifact, noted = plan.probe.artifact, manifest["baseline"]
    rows = len(artifact.scores)
    if (plan.baseline_kind, rows, artifact.digest) == (noted["kind"], noted["rows"], noted["digest"]):
        number = count(rows, "row")
        return Check("baseline", True, f"{noted['kind']}, {number}: made again, it has the same digest")
    problem = (
        f"made again, it is {plan.baseline_kind} of {rows:,} rows with the digest {artifact.digest[:19]}…"
    )
    return Check(
        "baseline", False, f"{problem}, and was {noted['kind']} of {noted['rows']:,}, {noted['digest'][:19]}…"
    )
