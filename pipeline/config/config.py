"""The config file as strict, typed models, and how it is loaded."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from pipeline.config.blocks import Baseline, Compute, Limits, Output, Privacy, Runner, TopK
from pipeline.config.errors import as_user_error, nearest_key
from pipeline.config.input import Bins, Feature, FeatureTexts, Input, Strict, all_labels
from pipeline.config.model import Model, TargetColumn
from pipeline.config.values import day_of
from pipeline.config.yaml_text import override, read_mapping
from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod
from transforms.models.kinds.function import is_function
from transforms.storage import files

__all__ = [
    "Baseline",
    "Compute",
    "Config",
    "ConfigPaths",
    "Input",
    "Limits",
    "LoadedConfig",
    "Model",
    "Output",
    "Preset",
    "Privacy",
    "Runner",
    "TopK",
    "load_config",
    "restored",
]  # fmt: skip


class Config(Strict):
    """A whole config. `method` becomes the method's own dataclass; None leaves the choice to the model."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str = "attribeam"
    """The run's name, in reports and on an engine's console."""
    model: Model
    """The model to explain."""
    input: Input
    """The rows to explain."""
    features: dict[str, FeatureTexts] = Field(default={})
    """Labels and vocabularies for readers, by feature or group."""
    method: Any = None
    """A method's name, or its `name` with the method's keys. Without it, the kind of the model decides."""
    baseline: Baseline = Baseline()
    """The reference that rows are compared with."""
    output: Output
    """Where the tables go, and which of them are written."""
    compute: Compute = Compute()
    """Batches, workers and arithmetic: how the run is computed, never what is explained."""
    runner: Runner | None = None
    """The engine; without it, the run is computed on this machine."""
    seed: int = 0
    """Seed of every random number."""
    incremental: bool = False
    """If a committed run exists and the input has gained files, explain only the new files."""
    limits: Limits = Limits()
    """Limits beyond which a finished run ends with exit status 1."""
    privacy: Privacy = Privacy()
    """Which small groups are kept out of the importance."""

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> AttributionMethod | None:
        return None if value is None else _parse_method(value)

    @field_serializer("method")
    def _method_keys(self, method: Any) -> dict[str, Any] | None:
        return None if method is None else {"name": method.name, **dataclasses.asdict(method)}

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if self.incremental and self.privacy.min_rows > 1:
            raise UserError(
                "and incremental: true exclude each other: an incremental run keeps aggregates of "
                "every slice",
                "privacy.min_rows",
                "leave one of the two out",
            )
        features = self.input.features or []
        if all(feature.label is None for feature in features):
            return self
        # The place of labels in the file does not change a config's identity.
        bare = [feature.model_copy(update={"label": None}) for feature in features]
        block = self.input.model_copy(update={"features": bare})
        return self.model_copy(update={"input": block, "features": all_labels(self.features, features)})

    @property
    def labels(self) -> dict[str, str]:
        """Labels of features and groups, where the config gives them."""
        return {name: texts.label for name, texts in self.features.items() if texts.label is not None}

    @property
    def patterns(self) -> list[str]:
        """The globs of the input."""
        return [self.input.files] if isinstance(self.input.files, str) else list(self.input.files)


class Preset(Strict):
    """A preset: how and where a config is run. It cannot change what is explained."""

    runner: Runner | None = None
    """Replaces the config's `runner`."""
    compute: Compute = Compute()
    """Its keys replace those of the config's `compute`."""


@dataclass(frozen=True)
class ConfigPaths:
    """The paths of a config in full: each is absolute or a URL.

    Args:
      model: The model's file or folder; a function keeps its name, `python: module:function`.
      inputs: The globs of the input. Matched files are named relative to the config's folder.
      baseline: The file or the run that `baseline.path` names; None without one.
      output: The run directory.
      vocabularies: Files of words, by feature.
    """

    model: str
    inputs: tuple[str, ...]
    baseline: str | None
    output: str
    vocabularies: Mapping[str, str]

    @classmethod
    def of(cls, config: Config, folder: str) -> ConfigPaths:
        """Resolves the paths of a config; relative paths start from the folder."""

        def full(path: str) -> str:
            joined = files.join(folder, path)
            return joined if files.is_url(joined) else os.path.abspath(files.local_path(joined))

        model, baseline = config.model.path, config.baseline.path
        return cls(
            model=model if is_function(model) else full(model),
            inputs=tuple(map(full, config.patterns)),
            baseline=None if baseline is None else full(baseline),
            output=full(config.output.path),
            vocabularies={
                name: full(texts.vocabulary)
                for name, texts in config.features.items()
                if texts.vocabulary is not None
            },
        )


@dataclass(frozen=True)
class LoadedConfig:
    """A config with the place that it comes from; its paths are resolved once, here.

    Args:
      config: The config, with the preset and the command line applied.
      where: The name of the config in errors.
      folder: The config file's folder, from which relative paths start.
      preset: The preset file that set `runner`; None if none did.
    """

    config: Config
    where: str
    folder: str
    preset: str | None = None
    paths: ConfigPaths = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", ConfigPaths.of(self.config, self.folder))

    def with_method(self, method: AttributionMethod) -> LoadedConfig:
        """The config with the method that was decided on."""
        return dataclasses.replace(self, config=self.config.model_copy(update={"method": method}))


def load_config(
    path: str,
    *,
    preset: str | None = None,
    settings: Sequence[str] = (),
    output: str | None = None,
    date: str | None = None,
) -> LoadedConfig:
    """Reads a config file.

    Args:
      path: A local YAML file or a Beam filesystem URL.
      preset: A preset file, whose `runner` and keys of `compute` override the config's.
      settings: Overrides of single keys, each as `a.b=value`; the value is YAML.
      output: Overrides `output.path`; relative to the working directory.
      date: Fills `{date}` in paths; None means today.
    Raises:
      UserError: The file, a key or a value is wrong; the line suggests the nearest known key.
    """
    data = read_mapping(path)
    if preset is not None:
        _apply_preset(data, preset)
    for setting in settings:
        override(data, setting)
    if output is not None:
        if not output:
            raise UserError("is empty", "--output", "give the run directory")
        if data.get("output") is None:
            data["output"] = {}
        if isinstance(data["output"], dict):
            data["output"]["path"] = (
                output if files.is_url(output) else os.path.abspath(files.local_path(output))
            )
    config: Config = _validate(data, path)
    folder = path.rpartition("/")[0] if files.is_url(path) else os.path.dirname(os.path.abspath(path))
    return LoadedConfig(_fill_date(config, date), path, folder, preset)


def restored(data: Mapping[str, Any], where: str, folder: str) -> LoadedConfig:
    """Restores the config that a manifest keeps.

    Args:
      data: The manifest's `config`.
      where: The name of the config in errors.
      folder: The manifest's `config_folder`.
    Raises:
      UserError: The data is not a config of this version.
    """
    return LoadedConfig(_validate(data, where), where, folder)


def _apply_preset(data: dict[str, Any], path: str) -> None:
    """Applies a preset to a config, after validating it by itself so that errors name the right file."""
    preset = read_mapping(path)
    _validate(preset, path, Preset)
    if preset.get("runner") is not None:
        data["runner"] = preset["runner"]  # as a whole, because options belong to their engine
    if preset.get("compute") is not None and isinstance(data.setdefault("compute", {}), dict | None):
        data["compute"] = {**(data["compute"] or {}), **preset["compute"]}


def _validate(data: Mapping[str, Any], where: str, model: Any = Config) -> Any:
    try:
        return model.model_validate(dict(data))
    except UserError as error:  # from a method's keys, or a runner's name
        raise UserError(error.what, f"{where}: {error.where}", error.remedy) from error
    except ValidationError as error:
        problem = as_user_error(error, where, lambda location: _keys_at(location, model))
        raise UserError(problem.what, _by_name(problem.where or "", data), problem.remedy) from error


def _by_name(place: str, data: Mapping[str, Any]) -> str:
    """The place of an error with a feature's name instead of its number, if the file has a mapping."""
    block = data.get("input")
    features = block.get("features") if isinstance(block, Mapping) else None
    if not isinstance(features, Mapping):
        return place
    names = list(features)
    return re.sub(r"(: input\.features\.)(\d+)", lambda match: f"{match[1]}{names[int(match[2])]}", place)


def _parse_method(value: Any) -> AttributionMethod:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise UserError("must be a method's name or its keys", "method", f"known: {', '.join(METHODS)}")
    name = value.get("name")
    if name is None:
        raise UserError("is missing", "method.name", f"known: {', '.join(METHODS)}")
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"{name!r} is not a method", "method.name", nearest_key(str(name), list(METHODS)))
    method = METHODS[name]
    if missing := sorted(method.__abstractmethods__):
        problem = f"{name!r} is registered, and its class lacks {' and '.join(missing)}"
        raise UserError(problem, "method.name", "see transforms.methods.base.AttributionMethod")
    known = [field.name for field in dataclasses.fields(method)]  # type: ignore[arg-type]
    for key in value:
        if key not in (*known, "name"):
            raise UserError("unknown key", f"method.{key}", _remedy_of_key(str(key), name, known))
    hints = get_type_hints(method, include_extras=True)
    values = {}
    for key, item in value.items():
        if key == "name" or item is None:
            continue
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(item, strict=True)
        except ValidationError as error:
            raise as_user_error(error, f"method.{key}", _keys_at) from error
    return method(**values)


def _remedy_of_key(key: str, method: str, known: Sequence[str]) -> str:
    """The remedy for an unknown key: the nearest key, and other methods that have it."""
    others = [n for n, m in METHODS.items() if key in (f.name for f in dataclasses.fields(m))]  # type: ignore[arg-type]
    elsewhere = f" ({key} is a key of {', '.join(others)})" if others else ""
    remedy = nearest_key(key, known) if known else f"{method} takes no keys"
    return remedy + elsewhere


def _keys_at(location: Sequence[str], model: Any = Config) -> list[str]:
    """The known keys of a block."""
    for number, part in enumerate(location):
        if part.isdigit() or (number and location[number - 1] == "features" and model is FeatureTexts):
            continue  # the name of a feature is not a key
        model = _BLOCKS.get((model, part))
        if model is None:
            return []
    return list(model.model_fields)


_BLOCKS: dict[tuple[Any, str], Any] = {
    (Config, "model"): Model,
    (Config, "input"): Input,
    (Config, "features"): FeatureTexts,
    (Config, "baseline"): Baseline,
    (Config, "output"): Output,
    (Config, "compute"): Compute,
    (Config, "runner"): Runner,
    (Preset, "runner"): Runner,
    (Preset, "compute"): Compute,
    (Config, "limits"): Limits,
    (Config, "privacy"): Privacy,
    (Input, "slices"): Bins,
    (Input, "features"): Feature,
    (Model, "target"): TargetColumn,
    (Output, "attributions"): TopK,
}


def _fill_date(config: Config, date: str | None) -> Config:
    day = day_of(date)

    def filled(path: str) -> str:
        return path.replace("{date}", day)

    inputs = config.input.files
    updates = {
        "model": config.model.model_copy(update={"path": filled(config.model.path)}),
        "input": config.input.model_copy(
            update={"files": filled(inputs) if isinstance(inputs, str) else [filled(p) for p in inputs]}
        ),
        "output": config.output.model_copy(update={"path": filled(config.output.path)}),
    }
    if config.baseline.path is not None:
        updates["baseline"] = config.baseline.model_copy(update={"path": filled(config.baseline.path)})
    return config.model_copy(update=updates)
