"""What a config names: its input files, its baseline's, and what is asked of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.model import TargetColumn
from pipeline.config.models import LoadedConfig, TopK
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
from transforms.sources.table_logs import check_no_table
from transforms.storage import files


def input_files(loaded: LoadedConfig) -> list[InputFile]:
    """The files of a config's input.

    Raises:
      UserError: There are none, one cannot be read, or all are empty.
    """
    found = _matched(loaded, loaded.config.patterns, "input.files", loaded.config.input.format)
    if not any(file.rows and file.damage is None for file in found):
        raise UserError(
            "the input has no rows", f"{loaded.where}: input.files", "check the files that it matches"
        )
    return found


def baseline_files_of(loaded: LoadedConfig) -> Sequence[InputFile]:
    """The files of a `baseline.path`; none without one."""
    block = loaded.config.baseline
    if block.path is None or block.kind != "file":
        return ()
    return _matched(loaded, [block.path], "baseline.path")


def baseline_run_of(loaded: LoadedConfig) -> EarlierBaseline | None:
    """What a `baseline` of kind `run` names; None for another kind."""
    block = loaded.config.baseline
    if block.path is None or block.kind != "run":
        return None
    return earlier_baseline(loaded.path(block.path), f"{loaded.where}: baseline.path")


def probe_request(
    loaded: LoadedConfig,
    found_files: Sequence[InputFile],
    baseline: str,
    baseline_files: Sequence[InputFile],
    baseline_run: EarlierBaseline | None = None,
    *,
    threads: int | None = None,
    measure: bool = False,
) -> ProbeRequest:
    """What is asked of a config's model: its baseline is of this kind."""
    config, columns = loaded.config, _columns(loaded)
    described = describe_input(found_files, named(columns))
    return ProbeRequest(
        model_request(loaded),
        config.model.score,
        None if isinstance(config.model.target, TargetColumn) else config.model.target,
        replace(columns, asides=described.asides),
        described.types,
        found_files,
        config.method,
        BaselineRequest(
            baseline,
            config.baseline.rows,
            config.baseline.value,
            None if baseline_run is None else baseline_run.features,
            {} if baseline_run is None else baseline_run.categories,
        ),
        baseline_files,
        None if config.compute.device_batch_size == "auto" else config.compute.device_batch_size,
        config.seed,
        threads,
        measure,
        paths=described.paths,
        edges={} if baseline_run is None else baseline_run.edges,
    )


def model_request(loaded: LoadedConfig) -> ModelRequest:
    """The model of a config."""
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
    """What the config has written of each example."""
    block, method = loaded.config.output, loaded.config.method
    top = isinstance(block.attributions, TopK)
    return TableSpec(
        block.attributions.top_k if isinstance(block.attributions, TopK) else block.attributions,
        block.features,
        bool(getattr(method, "standard_error", False)),
        bool(getattr(method, "local_fit", False)),
        tuple(sorted(loaded.config.labels.items())) if top else (),
    )


def of_config(loaded: LoadedConfig, error: UserError) -> UserError:
    """The same error; one that names a key of the config, or its model, also says which config."""
    where, model = error.where or "", loaded.path(loaded.config.model.path)
    if where == model or where.startswith(model + "/"):
        return UserError(error.what, f"{loaded.where}: model.path: {where}", error.remedy)
    if loaded.config.model.python is not None and where.startswith("model.path"):
        where = where.replace("model.path", "model.python", 1).replace(f" {PREFIX}", " ", 1)
    block = where.split(" ")[0].split(".")[0]
    if block in ("model", "input", "features", "baseline", "method", "compute"):
        return UserError(error.what, f"{loaded.where}: {where}", error.remedy)
    return error


def _model_path(loaded: LoadedConfig) -> str:
    """A path in full, or the name of a function."""
    path = loaded.config.model.path
    if is_function(path):
        return ":".join((PREFIX.rstrip(":"), *split_name(path)))
    return loaded.path(path)


def _columns(loaded: LoadedConfig) -> ColumnRequest:
    block, target = loaded.config.input, loaded.config.model.target
    features = None
    for feature in block.features or ():
        if loaded.config.incremental and feature.pad is not None and feature.shape is None:
            what = "pad, and an input that grows may bring longer lists than it has"
            raise UserError(what, f"{loaded.where}: input.features {feature.name}", "give its shape")
    if block.features is not None:
        features = tuple(
            FeatureRequest(
                f.name,
                f.kind,
                f.fill,
                None if f.shape is None else tuple(f.shape),
                f.fixed,
                f.missing,
                f.input,
                f.dtype,
                f.pad,
            )
            for f in block.features
        )
    return ColumnRequest(
        features,
        {name: tuple(members) for name, members in block.groups.items()},
        block.id,
        block.slice_requests,
        target.column if isinstance(target, TargetColumn) else None,
        block.weight,
    )


def _matched(
    loaded: LoadedConfig, patterns: Sequence[str], key: str, format: str | None = None
) -> list[InputFile]:
    try:
        matched = globs.expand(patterns, loaded.folder, format)
        check_no_table(matched)
        return inspect_files(matched, format, hive=loaded.config.input.partitioning == "hive")
    except UserError as error:
        if error.where in ("input.files", "input.format"):
            raise of_config(loaded, error) from error
        what = f"{error.where}: {error.what}" if error.where else error.what
        remedy = error.remedy
        if key != "input.files" and remedy is not None and "input." in remedy:
            remedy = "name Parquet or TFRecord files by their suffixes"
        raise UserError(what, f"{loaded.where}: {key}", remedy) from error
