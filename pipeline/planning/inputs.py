"""Translates a config into requests: input and baseline files, model, columns of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.config.config import LoadedConfig, TopK
from pipeline.config.input import Feature
from pipeline.config.model import TargetColumn
from pipeline.planning.model.opening import ProbeRequest
from pipeline.run_directory.kept_baseline import EarlierBaseline, earlier_baseline
from transforms.errors import UserError
from transforms.models.kinds.function import PREFIX, is_function, split_name
from transforms.models.load import ModelRequest
from transforms.outputs.layout import TableSpec
from transforms.rows.baselines.baselines import BaselineRequest
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.missing_features import named
from transforms.rows.resolve.resolve import ColumnRequest
from transforms.sources import globs
from transforms.sources.base import InputFile
from transforms.sources.inspection import inspect_files
from transforms.sources.read import describe_input
from transforms.sources.table_formats import check_no_table
from transforms.storage import files


@dataclass(frozen=True)
class Sources:
    """The files and the earlier run from which a run takes rows.

    Args:
      files: The files of the input.
      baseline_files: The files of `baseline.path`; empty without one.
      baseline_run: The earlier run whose baseline is taken over, if the config names one.
      drawn_from: The input files from which a baseline is drawn; None draws from all of them.
    """

    files: Sequence[InputFile]
    baseline_files: Sequence[InputFile] = ()
    baseline_run: EarlierBaseline | None = None
    drawn_from: Sequence[InputFile] | None = None

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return sum(file.rows for file in self.files)


def sources_of(loaded: LoadedConfig) -> Sources:
    """Inspects all files that a config names besides its model.

    Raises:
      UserError: A file cannot be read, or an earlier run has no baseline to take over.
    """
    block, path = loaded.config.baseline, loaded.paths.baseline
    inputs = input_files(loaded)
    baseline_files = baseline_files_of(loaded)
    baseline_run = None
    if block.kind == "run" and path is not None:
        baseline_run = earlier_baseline(path, f"{loaded.where}: baseline.path")
    return Sources(inputs, baseline_files, baseline_run)


def input_files(loaded: LoadedConfig) -> list[InputFile]:
    """Finds and inspects the files of a config's input.

    Raises:
      UserError: There are no files, a file cannot be read, or all files are empty.
    """
    inputs = _matched(loaded, loaded.config.patterns, "input.files", loaded.config.input.format)
    if not any(file.rows and file.damage is None for file in inputs):
        raise UserError(
            "the input has no rows", f"{loaded.where}: input.files", "check the files that it matches"
        )
    return inputs


def baseline_files_of(loaded: LoadedConfig) -> Sequence[InputFile]:
    """Finds and inspects the files of `baseline.path`; empty without one."""
    block = loaded.config.baseline
    if block.path is None or block.kind != "file":
        return ()
    return _matched(loaded, [block.path], "baseline.path")


def probe_request(
    loaded: LoadedConfig,
    sources: Sources,
    baseline_kind: str,
    *,
    threads: int | None = None,
    measure: bool = False,
) -> ProbeRequest:
    """The request for the facts that a plan needs about the model.

    Args:
      loaded: The config.
      sources: The config's files.
      baseline_kind: The kind of the baseline; "" leaves it to the method.
      threads: TensorFlow's threads.
      measure: Measure the time per row.
    """
    config, columns = loaded.config, _columns(loaded)
    description = describe_input(sources.files, named(columns))
    earlier = sources.baseline_run
    return ProbeRequest(
        model=model_request(loaded),
        score=config.model.score,
        target=None if isinstance(config.model.target, TargetColumn) else config.model.target,
        columns=replace(columns, asides=description.asides),
        types=description.types,
        files=sources.files,
        method=config.method,
        baseline=BaselineRequest(
            baseline_kind,
            config.baseline.rows,
            config.baseline.value,
            None if earlier is None else earlier.features,
            {} if earlier is None else earlier.categories,
        ),
        baseline_files=sources.baseline_files,
        device_batch_size=None
        if config.compute.device_batch_size == "auto"
        else config.compute.device_batch_size,
        seed=config.seed,
        threads=threads,
        measure=measure,
        drawn_from=sources.drawn_from,
        paths=description.paths,
        edges={} if earlier is None else earlier.edges,
    )


def model_request(loaded: LoadedConfig) -> ModelRequest:
    """The request that loads a config's model."""
    config = loaded.config
    return ModelRequest(
        _model_path(loaded),
        tuple(config.model.modules),
        (loaded.folder,) if not files.is_url(loaded.folder) else (),
        config.model.allow_unsafe,
        config.compute.precision,
        config.compute.jit,
        config.model.missing,
        config.model.signature,
    )


def output_of(loaded: LoadedConfig) -> TableSpec:
    """The columns that a config requests in the tables of examples."""
    block, method = loaded.config.output, loaded.config.method
    top = isinstance(block.attributions, TopK)
    return TableSpec(
        block.attributions.top_k if isinstance(block.attributions, TopK) else block.attributions,
        block.features,
        method.standard_error,
        method.local_fit,
        tuple(sorted(loaded.config.labels.items())) if top else (),
    )


def of_config(loaded: LoadedConfig, error: UserError) -> UserError:
    """Adds the config's name to an error that names one of its keys, or its model."""
    where, model = error.where or "", loaded.paths.model
    if not is_function(model) and (where == model or where.startswith(model + "/")):
        return UserError(error.what, f"{loaded.where}: model.path: {where}", error.remedy)
    if loaded.config.model.python is not None and where.startswith("model.path"):
        where = where.replace("model.path", "model.python", 1).replace(f" {PREFIX}", " ", 1)
    block = where.split(" ")[0].split(".")[0]
    if block in ("model", "input", "features", "baseline", "method", "compute"):
        return UserError(error.what, f"{loaded.where}: {where}", error.remedy)
    return error


def _model_path(loaded: LoadedConfig) -> str:
    """The path in full, or a function's name without blanks."""
    path = loaded.paths.model
    return ":".join((PREFIX.rstrip(":"), *split_name(path))) if is_function(path) else path


def _columns(loaded: LoadedConfig) -> ColumnRequest:
    block, target = loaded.config.input, loaded.config.model.target
    features = None
    if block.features is not None:
        features = tuple(_feature(loaded, feature) for feature in block.features)
    return ColumnRequest(
        features,
        {name: tuple(members) for name, members in block.groups.items()},
        block.id,
        block.slice_requests,
        target.column if isinstance(target, TargetColumn) else None,
        block.weight,
    )


def _feature(loaded: LoadedConfig, feature: Feature) -> FeatureRequest:
    if loaded.config.incremental and feature.pad is not None and feature.shape is None:
        problem = "has pad without a shape, but a growing input may bring longer lists"
        raise UserError(problem, f"{loaded.where}: input.features {feature.name}", "give its shape")
    return FeatureRequest(
        feature.name,
        feature.kind,
        feature.fill,
        None if feature.shape is None else tuple(feature.shape),
        feature.fixed,
        feature.missing,
        feature.input,
        feature.dtype,
        feature.pad,
    )


def _matched(
    loaded: LoadedConfig, patterns: Sequence[str], key: str, format: str | None = None
) -> list[InputFile]:
    """Expands globs; matched files are named relative to the config's folder."""
    try:
        matched = globs.expand(patterns, loaded.folder, format)
        check_no_table(matched)
        return inspect_files(matched, format, hive=loaded.config.input.partitioning == "hive")
    except UserError as error:
        if error.where in ("input.files", "input.format"):
            raise of_config(loaded, error) from error
        problem = f"{error.where}: {error.what}" if error.where else error.what
        remedy = error.remedy
        if key != "input.files" and remedy is not None and "input." in remedy:
            remedy = "give Parquet or TFRecord files with their usual suffixes"
        raise UserError(problem, f"{loaded.where}: {key}", remedy) from error
