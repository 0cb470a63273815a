"""Plans a run: everything that is checked and decided before the first row is explained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config.config import LoadedConfig
from pipeline.planning.cut_input import Cut, CutInput, cut_input, kept_shard_rows
from pipeline.planning.differences import PlannedRun, in_one_line, list_differences
from pipeline.planning.fingerprint import fingerprint_of
from pipeline.planning.host_memory import batch_rows
from pipeline.planning.input_notes import input_notes
from pipeline.planning.inputs import Sources, model_request, of_config, output_of, probe_request, sources_of
from pipeline.planning.model.probe import ProbeResult, probe_in_child, probe_model
from pipeline.run_directory.checks import check_apart
from pipeline.run_directory.increments import Grown, Increment, grown, is_limited
from pipeline.run_directory.kept_baseline import EarlierBaseline
from pipeline.run_directory.layout import REFERENCE
from transforms.aggregates.sample import SampleSpec
from transforms.errors import UserError
from transforms.models.kinds.function import is_function
from transforms.outputs.run_files import WORK
from transforms.sources.base import InputFile, Shard
from transforms.sources.shards import auto_shard_rows
from transforms.storage import files
from transforms.wording import did_you_mean, names_in_words
from transforms.worker.device_batch import with_halved
from transforms.worker.spec import ExplainSpec


@dataclass(frozen=True)
class Workers:
    """Where the shards of a run are explained.

    Args:
      local: Whether the workers share this machine's processors and devices.
      slots: Number of shards that are explained at a time; None takes the config's workers.
    """

    local: bool = True
    slots: int | None = None


@dataclass(frozen=True)
class EarlierRuns:
    """The earlier runs in the output directory.

    Args:
      committed: The manifest of the committed run, which an incremental run may add to.
      shard_rows: Rows per shard, by fingerprint, of runs that may be continued. A continued run keeps its
        cut, even if the number of slots has changed.
    """

    committed: Mapping[str, Any] | None = None
    shard_rows: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A planned run.

    Args:
      loaded: The config, with the method that was decided on.
      files: The input.
      shards: The shards to explain, in input order.
      spec: The specification that workers receive.
      probe: The facts about the model.
      rows: Rows of all increments.
      shard_rows: Rows per shard.
      increments: All increments of the run; all but the last are taken over from the committed run.
      base: The committed run that is added to; None explains everything.
      anew: The reason why an incremental run takes nothing over; None otherwise.
      baseline_run: The earlier run whose baseline is taken over.
    """

    loaded: LoadedConfig
    files: Sequence[InputFile]
    shards: Sequence[Shard]
    spec: ExplainSpec
    probe: ProbeResult
    rows: int
    shard_rows: int
    increments: tuple[Increment, ...]
    base: Grown | None = None
    anew: str | None = None
    baseline_run: EarlierBaseline | None = None

    def differences(self, manifest: Mapping[str, Any]) -> list[str]:
        """Differences from the run of a manifest; see `pipeline.planning.differences`."""
        return _differences(self.loaded, self.probe, manifest, self.files, self.rows)

    @property
    def output(self) -> str:
        """The run directory."""
        return self.loaded.paths.output

    @property
    def baseline_kind(self) -> str:
        """The kind of baseline, with the method's default filled in."""
        return self.probe.baseline_kind

    @property
    def reused_rows(self) -> int:
        """Rows that an earlier run has explained."""
        return sum(part.rows for part in self.base.increments) if self.base else 0

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all that decides the numbers and their files."""
        return self.spec.fingerprint

    @property
    def warnings(self) -> list[str]:
        """Problems that do not stop the run."""
        planned = self.probe.device_batch_size
        warnings = [f"{self.loaded.where}: {line}" for line in self.probe.warnings]
        earlier = self.baseline_run
        if earlier is not None and earlier.digest != self.probe.artifact.digest:
            there, here = len(next(iter(earlier.features.values()))), len(self.probe.artifact.scores)
            if here < there:
                warnings.append(
                    f"{self.loaded.where}: baseline.path: the model refuses {there - here} of the {there} "
                    f"baseline rows of {earlier.run}, so the baselines differ"
                )
        return with_halved(warnings, planned, self.probe.device_room or planned)


def make_plan(
    loaded: LoadedConfig,
    *,
    limit: int | None = None,
    in_process: bool = False,
    measure: bool = False,
    workers: Workers = Workers(),
    earlier: EarlierRuns = EarlierRuns(),
    sources: Sources | None = None,
) -> Plan:
    """Checks a config against its files and its model, and decides what the config leaves open.

    Args:
      loaded: The config.
      limit: Read only this number of rows.
      in_process: Probe the model in this process, if the process will also explain.
      measure: Measure the time per row.
      workers: Where the shards are explained.
      earlier: The earlier runs in the output directory.
      sources: The config's files, if they have been inspected already.
    Raises:
      UserError: A problem that would stop the run and that the user can mend.
    """
    sources = sources_of(loaded) if sources is None else sources
    _check_apart(loaded, sources)
    questions = _Questions(loaded, sources, workers.local, in_process, measure)
    base, anew, probe = _find_base(questions, earlier.committed, limit)
    if probe is None:
        probe = questions.ask(sources.files, sources.drawn_from)
    loaded = loaded.with_method(probe.method)
    cut = _cut_input(loaded, probe, base, sources, limit, workers, earlier.shard_rows)
    return Plan(
        loaded=loaded,
        files=sources.files if base is None else base.files,
        shards=cut.shards,
        spec=_spec(loaded, probe, cut, workers.local),
        probe=probe,
        rows=cut.rows,
        shard_rows=cut.shard_rows,
        increments=cut.increments,
        base=base,
        anew=anew,
        baseline_run=sources.baseline_run,
    )


def _check_apart(loaded: LoadedConfig, sources: Sources) -> None:
    """Refuses an output directory that holds the config, the model, or a file that is read."""
    baselines = [file.path for file in sources.baseline_files]
    if loaded.config.baseline.kind == "run" and loaded.paths.baseline is not None:
        baselines.append(loaded.paths.baseline)
    model = loaded.paths.model
    paths = [
        ("", [loaded.where]),
        ("model.path", [] if is_function(model) else [model]),
        ("input.files", [file.path for file in sources.files]),
        ("baseline.path", baselines),
    ]
    check_apart(loaded.paths.output, paths, loaded.where)


@dataclass(frozen=True)
class _Questions:
    """The probe of the model, for any selection of the input's files.

    Args:
      loaded: The config, which may leave the method open.
      sources: The config's files.
      local: The workers share this machine's processors and devices.
      in_process: Probe in this process.
      measure: Measure the time per row.
    """

    loaded: LoadedConfig
    sources: Sources
    local: bool
    in_process: bool
    measure: bool

    def ask(self, inputs: Sequence[InputFile], drawn_from: Sequence[InputFile] | None = None) -> ProbeResult:
        """Probes the model, in a child process unless `in_process`, and adds the files' warnings.

        Args:
          inputs: The input.
          drawn_from: The files from which a baseline is drawn; None draws from all.
        """
        config = self.loaded.config
        request = probe_request(
            self.loaded,
            replace(self.sources, files=inputs, drawn_from=drawn_from),
            config.baseline.kind or "",
            threads=_threads(config.compute.workers) if self.local else None,
            measure=self.measure,
        )
        try:
            result = probe_model(request) if self.in_process else probe_in_child(request)
        except UserError as error:
            raise of_config(self.loaded, error) from error
        _check_texts(self.loaded, result)
        notes = input_notes(inputs, result.schema, listed=config.input.features is not None)
        result = replace(result, warnings=(*notes, *result.warnings))
        return _with_devices(self.loaded, result) if self.local else result


def _find_base(
    questions: _Questions, committed: Mapping[str, Any] | None, limit: int | None
) -> tuple[Grown | None, str | None, ProbeResult | None]:
    """Finds out whether an incremental run can add to the committed one.

    Returns:
      The committed run, or the reason why it cannot be added to; and the probe, if it can be reused.
    """
    loaded = questions.loaded
    if not loaded.config.incremental or committed is None or committed["fingerprint"] is None:
        return None, None, None
    if is_limited(committed):
        return None, "it was made with --limit", None
    if limit is not None:
        return None, "--limit asks for a part of the input", None
    base = grown(questions.sources.files, committed)
    if isinstance(base, str):
        return None, base, None
    probe = questions.ask(base.files, base.first)
    loaded = loaded.with_method(probe.method)
    if fingerprint_of(loaded, probe, base.cuts) != committed["fingerprint"]:
        lines = _differences(loaded, probe, committed, base.known, committed["rows"])
        return None, in_one_line(lines), None
    return base, None, probe


def _cut_input(
    loaded: LoadedConfig,
    probe: ProbeResult,
    base: Grown | None,
    sources: Sources,
    limit: int | None,
    workers: Workers,
    earlier: Mapping[str, int],
) -> CutInput:
    """Cuts the remaining rows into shards: by the config, as in an earlier attempt, or by cost."""
    compute = loaded.config.compute
    added = sources.files if base is None else base.added
    rows = sum(file.rows for file in added)
    rows = rows if limit is None else min(rows, limit)

    def fingerprint(cuts: Sequence[Cut]) -> str:
        return fingerprint_of(loaded, probe, cuts)

    if compute.shard_rows == "auto":
        shard_rows = kept_shard_rows(base, added, rows, earlier, fingerprint)
        if shard_rows is None:
            slots = workers.slots or compute.workers
            shard_rows = auto_shard_rows(rows, probe.evaluations_per_row, slots)
    else:
        shard_rows = compute.shard_rows
    return cut_input(base, added, rows, shard_rows, fingerprint)


def _spec(loaded: LoadedConfig, probe: ProbeResult, cut: CutInput, local: bool) -> ExplainSpec:
    """The specification that workers receive."""
    config, run, run_id = loaded.config, loaded.paths.output, cut.fingerprint[:16]
    output = output_of(loaded)
    return ExplainSpec(
        run=run,
        run_id=run_id,
        fingerprint=cut.fingerprint,
        model=model_request(loaded),
        score=config.model.score,
        schema=probe.schema,
        method=probe.method,
        targets=probe.targets,
        reference=files.join(run, WORK, REFERENCE),
        output=output,
        batch_size=batch_rows(config.compute.batch_size, probe.schema, probe.targets, output),
        device_batch_size=probe.device_batch_size,
        # The room on this machine's devices; workers elsewhere find out their own.
        device_room=probe.device_room if local else None,
        sample=SampleSpec.of(
            probe.schema,
            wanted=config.output.sample,
            total=cut.rows,
            per_example=len(probe.targets.indices or (0,)),
            targets=probe.targets.count(len(probe.signature.target_names)),
        ),
        seed=config.seed,
        threads=_threads(config.compute.workers) if local else None,
        metadata={
            "attribeam.run_id": run_id,
            "attribeam.method": probe.method.name,
            "attribeam.model_digest": probe.digest,
            "attribeam.baseline_digest": probe.artifact.digest,
        },
    )


def _differences(
    loaded: LoadedConfig,
    probe: ProbeResult,
    manifest: Mapping[str, Any],
    inputs: Sequence[InputFile],
    rows: int,
) -> list[str]:
    config = loaded.config.model_dump(mode="json")
    columns = {name: str(kind) for name, kind in probe.schema.columns}
    planned = PlannedRun(config, probe.digest, probe.artifact.digest, inputs, rows, columns)
    return list_differences(manifest, planned)


def _check_texts(loaded: LoadedConfig, probe: ProbeResult) -> None:
    """Checks that labels and vocabularies belong to known features and groups, and that the files exist."""
    schema = probe.schema
    known = [*(feature.name for feature in schema.features), *schema.groups]
    for name in loaded.config.features:
        if name not in known:
            remedy = did_you_mean(name, known, f"there are {names_in_words(known, 12)}")
            raise UserError(f"{name!r} is neither a feature nor a group", f"{loaded.where}: features", remedy)
        vocabulary = loaded.paths.vocabularies.get(name)
        if vocabulary is not None and not files.exists(vocabulary):
            raise UserError(
                f"there is no {vocabulary}",
                f"{loaded.where}: features.{name}.vocabulary",
                "name a text file with one word on each line, beginning with id 0",
            )


def _with_devices(loaded: LoadedConfig, probe: ProbeResult) -> ProbeResult:
    """Adds a warning if some of this machine's GPUs would be idle.

    Raises:
      UserError: There are more workers than GPUs.
    """
    workers, gpus = loaded.config.compute.workers, [name for name in probe.devices if "GPU" in name]
    if gpus and workers > len(gpus):
        raise UserError(
            f"{workers} workers and {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: each worker needs its own",
            f"{loaded.where}: compute.workers",
            f"give at most {len(gpus)}",
        )
    if workers < len(gpus):
        idle = f"compute.workers: {workers} of {len(gpus)} GPUs will be used; give {len(gpus)} to use all"
        return replace(probe, warnings=(*probe.warnings, idle))
    return probe


def _threads(workers: int) -> int | None:
    """TensorFlow's threads in each local worker: an equal share of the processors."""
    if workers == 1:
        return None
    return max(1, (os.cpu_count() or 1) // workers)
