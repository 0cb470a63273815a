"""Preflight: everything that a run checks and decides before its first row, and nothing else."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.models import Config, LoadedConfig, with_method
from pipeline.planning.differences import differences, told
from pipeline.planning.fingerprint import fingerprint_of
from pipeline.planning.host_memory import batch_rows
from pipeline.planning.input_notes import input_notes
from pipeline.planning.inputs import (
    baseline_files_of,
    baseline_run_of,
    input_files,
    of_config,
    output_of,
    probe_request,
)
from pipeline.planning.model.opening import ProbeRequest
from pipeline.planning.model.probe import ProbeResult, probe, probe_in_child
from pipeline.run_directory.checks import check_apart
from pipeline.run_directory.increments import Grown, Increment, grown, is_limited
from pipeline.run_directory.kept_baseline import EarlierBaseline
from pipeline.run_directory.layout import REFERENCE
from transforms.aggregates.sample import SampleSpec
from transforms.errors import UserError
from transforms.outputs.run_files import WORK
from transforms.sources.base import InputFile, Shard
from transforms.sources.shards import auto_shard_rows, cut
from transforms.storage import files
from transforms.wording import names_in_words, nearest
from transforms.work.device_batch import with_halved
from transforms.work.spec import ExplainSpec


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
      increments: Of the run; all but the last are taken over from the committed one.
      base: What that is; None where everything is explained.
      anew: Why nothing could be taken over where the config asks for it.
      baseline_run: The earlier run whose baseline this one has.
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
    increments: tuple[Increment, ...]
    base: Grown | None = None
    anew: str | None = None
    baseline_run: EarlierBaseline | None = None

    def differences(self, there: Mapping[str, Any]) -> list[str]:
        """In what it is another than the run of a manifest; see `pipeline.planning.differences`."""
        return _differences(self.loaded, self.found, there, self.files, self.rows)

    @property
    def reused_rows(self) -> int:
        """Rows that an earlier run has explained."""
        return sum(part.rows for part in self.base.increments) if self.base else 0

    @property
    def fingerprint(self) -> str:
        """Of all that decides the numbers and their files."""
        return self.spec.fingerprint

    @property
    def warnings(self) -> list[str]:
        """What is not as it should be and stops no run."""
        planned = self.found.device_batch_size
        warnings = [f"{self.loaded.where}: {line}" for line in self.found.warnings]
        earlier = self.baseline_run
        if earlier is not None and earlier.digest != self.found.artifact.digest:
            there, here = len(next(iter(earlier.features.values()))), len(self.found.artifact.scores)
            if here < there:
                warnings.append(
                    f"{self.loaded.where}: baseline.path: the model refuses {there - here} of the {there} "
                    f"rows that {earlier.run} was compared by: the baseline is another"
                )
        return with_halved(warnings, planned, self.found.device_room or planned)


def make_plan(
    loaded: LoadedConfig,
    *,
    limit: int | None = None,
    local: bool = True,
    in_process: bool = False,
    measure: bool = False,
    slots: int | None = None,
    earlier: Mapping[str, int] | None = None,
    committed: Mapping[str, Any] | None = None,
    inputs: Sequence[InputFile] | None = None,
    drawn_from: Sequence[InputFile] | None = None,
    baseline_run: EarlierBaseline | None = None,
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
      committed: The manifest of the run in the place, which an incremental one may add to.
      inputs: The config's input files, where they have been looked at already.
      drawn_from: Those that the baseline is made of, if not all.
      baseline_run: What the baseline is taken from, where it has been looked at already.
    Raises:
      UserError: Whatever would stop the run and can be mended.
    """
    asked, config = loaded, loaded.config
    found_files: Sequence[InputFile] = input_files(loaded) if inputs is None else inputs
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
    if baseline_run is None and (baseline_run := baseline_run_of(loaded)) is not None:
        sources.append(("baseline.path", [baseline_run.run]))
    check_apart(output, sources, loaded.where)
    threads = _threads(config.compute.workers) if local else None

    def noted(inputs: Sequence[InputFile], found: ProbeResult) -> list[str]:
        return input_notes(inputs, found.schema, listed=config.input.features is not None)

    def ask(
        inputs: Sequence[InputFile], drawn_from: Sequence[InputFile] | None = None
    ) -> tuple[ProbeRequest, ProbeResult]:
        request = probe_request(
            asked,
            inputs,
            config.baseline.kind or "",
            baseline_files,
            baseline_run,
            threads=threads,
            measure=measure,
        )
        request = dataclasses.replace(request, drawn_from=drawn_from)
        try:
            found = probe(request) if in_process else probe_in_child(request)
        except UserError as error:
            raise of_config(loaded, error) from error
        _check_texts(loaded, found)
        found = dataclasses.replace(found, warnings=(*noted(inputs, found), *found.warnings))
        return request, _with_devices(loaded, found) if local else found

    base: Grown | str | None = None
    if config.incremental and committed is not None and committed["fingerprint"] is not None:
        base = grown(found_files, committed) if limit is None else "--limit asks for a part of the input"
        if is_limited(committed):
            base = "it was made with --limit"
    if isinstance(base, Grown):
        request, found = ask(base.files, base.first)
        loaded = with_method(loaded, found.method)
        if fingerprint_of(loaded, found, base.cuts) != base.committed["fingerprint"]:
            base = told(_differences(loaded, found, base.committed, base.known, base.committed["rows"]))
    if isinstance(base, Grown):
        inputs, added, taken, earlier_increments = base.files, base.added, base.cuts, base.increments
    else:
        request, found = ask(found_files, drawn_from)
        loaded = with_method(loaded, found.method)
        inputs, added, taken, earlier_increments = found_files, found_files, [], ()
    rows = min(sum(file.rows for file in added), rows)
    shard_rows = _shard_rows(config, found.evaluations_per_row, rows, slots)
    if config.compute.shard_rows == "auto":
        known = (earlier or {}).items()
        kept = (n for fp, n in known if fingerprint_of(loaded, found, [*taken, (added, n, rows)]) == fp)
        shard_rows = next(kept, shard_rows)
    shards: list[Shard] = []
    increments = earlier_increments
    if added or not increments:
        taken = [*taken, (added, shard_rows, rows)]
        before = sum(part.shards for part in increments), sum(part.rows for part in increments)
        shards = cut(added, shard_rows, rows, first_shard=before[0], first_ordinal=before[1])
    fingerprint = fingerprint_of(loaded, found, taken)
    if len(taken) > len(increments):
        own = Increment(fingerprint[:16], len(added), rows, shard_rows, len(shards))
        increments = (*increments, own)
    written = output_of(loaded)
    spec = ExplainSpec(
        run=output,
        run_id=fingerprint[:16],
        fingerprint=fingerprint,
        model=request.model,
        score=request.score,
        schema=found.schema,
        method=found.method,
        targets=found.targets,
        reference=files.join(output, WORK, REFERENCE),
        output=written,
        batch_size=batch_rows(config.compute.batch_size, found.schema, found.targets, written),
        device_batch_size=found.device_batch_size,
        # Of this machine's devices: what workers elsewhere have is for them to find out.
        device_room=found.device_room if local else None,
        sample=SampleSpec.of(
            found.schema,
            wanted=config.output.sample,
            total=sum(part.rows for part in increments),
            per_example=len(found.targets.indices or (0,)),
            targets=found.targets.count(len(found.signature.target_names)),
        ),
        seed=config.seed,
        threads=threads,
        metadata={
            "attribeam.run_id": fingerprint[:16],
            "attribeam.method": found.method.name,
            "attribeam.model_digest": found.digest,
            "attribeam.baseline_digest": found.artifact.digest,
        },
    )
    return Plan(
        loaded, inputs, shards, spec, found, sum(part.rows for part in increments), shard_rows,
        found.baseline_kind, output,
        increments, base if isinstance(base, Grown) else None, base if isinstance(base, str) else None,
        baseline_run,
    )  # fmt: skip


def _differences(
    loaded: LoadedConfig,
    found: ProbeResult,
    there: Mapping[str, Any],
    inputs: Sequence[InputFile],
    rows: int,
) -> list[str]:
    config = loaded.config.model_dump(mode="json")
    columns = {name: str(kind) for name, kind in found.schema.columns}
    return differences(there, config, found.digest, found.artifact.digest, inputs, rows, columns)


def _check_texts(loaded: LoadedConfig, found: ProbeResult) -> None:
    """That labels and vocabularies are of features and groups that there are, and the files as well."""
    schema = found.schema
    known = [*(feature.name for feature in schema.features), *schema.groups]
    for name, texts in loaded.config.features.items():
        if name not in known:
            remedy = nearest(name, known) or f"there are {names_in_words(known, 12)}"
            raise UserError(f"{name!r} is no feature and no group", f"{loaded.where}: features", remedy)
        if texts.vocabulary is not None and not files.exists(loaded.path(texts.vocabulary)):
            raise UserError(
                f"there is no {loaded.path(texts.vocabulary)}",
                f"{loaded.where}: features.{name}.vocabulary",
                "name a text file, a word a line, the first line for the id 0",
            )


def _shard_rows(config: Config, evaluations_per_row: int, rows: int, slots: int | None) -> int:
    asked = config.compute.shard_rows
    if asked == "auto":
        return auto_shard_rows(rows, evaluations_per_row, slots or config.compute.workers)
    return asked


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
