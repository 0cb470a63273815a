"""The config file as strict, typed models: what it says, what it may say, and one clear line where it errs."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from transforms import files
from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod

Scalar = bool | int | float | str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TargetColumn(_Strict):
    """`target: {column: label}`: the column holds the index of the output to explain."""

    column: str


class Model(_Strict):
    """The `model` block."""

    path: str
    modules: list[str] = []
    allow_unsafe: bool = False
    target: int | str | TargetColumn = 0
    score: Literal["auto", "output", "logit", "probability"] = "auto"


class Feature(_Strict):
    """An item of `input.features`."""

    name: str
    kind: Literal["numeric", "categorical", "image"] | None = None
    fill: Scalar | None = None
    shape: list[Annotated[int, Field(ge=1)]] | None = None


class Input(_Strict):
    """The `input` block."""

    format: Literal["parquet", "tfrecord"] | None = None
    files: str | Annotated[list[str], Field(min_length=1)]
    id: str | None = None
    features: Annotated[list[Feature], Field(min_length=1)] | None = None
    groups: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    slices: list[str] = []

    @field_validator("features", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        # `features: [distance, carrier]` says all that many features need.
        if isinstance(value, list):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        return value

    @model_validator(mode="after")
    def _no_twins(self) -> Input:
        for key, names in (("features", [f.name for f in self.features or []]), ("slices", self.slices)):
            twins = sorted({name for name in names if names.count(name) > 1})
            if twins:
                raise ValueError(f"{key} names {twins[0]!r} twice")
        return self


class Baseline(_Strict):
    """The `baseline` block; the method decides the kind where it is left out."""

    kind: Literal["zeros", "constant", "mean", "median", "mode", "sample", "file"] | None = None
    rows: Annotated[int, Field(ge=1)] | None = None
    path: str | None = None
    value: Scalar | dict[str, Scalar] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Baseline:
        for key, kind in (("path", "file"), ("value", "constant")):
            given = getattr(self, key) is not None
            if given != (self.kind == kind):
                raise ValueError(f"kind: {kind} and the key {key!r} go together")
        return self


class TopK(_Strict):
    """`attributions: {top_k: 5}`."""

    top_k: Annotated[int, Field(ge=1)]


class Output(_Strict):
    """The `output` block."""

    path: str
    attributions: Literal["all", "none"] | TopK = "all"
    features: bool = False


class Compute(_Strict):
    """The `compute` block."""

    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 4096
    device_batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    shard_rows: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    workers: Annotated[int, Field(ge=1, le=1024)] = 1


class Limits(_Strict):
    """The `limits` block: what is exceeded makes exit status 1."""

    rejected: Annotated[float, Field(ge=0, le=1)] = 0.01
    convergence: Annotated[float, Field(ge=0)] = 0.05


class Config(_Strict):
    """A whole config. `method` is the method's own dataclass."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)

    name: str = "attribeam"
    model: Model
    input: Input
    method: Any
    baseline: Baseline = Baseline()
    output: Output
    compute: Compute = Compute()
    seed: int = 0
    limits: Limits = Limits()

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> AttributionMethod:
        return _parse_method(value)

    @field_serializer("method")
    def _method_keys(self, method: Any) -> dict[str, Any]:
        return {"name": method.name, **dataclasses.asdict(method)}

    @property
    def patterns(self) -> list[str]:
        """The globs of the input."""
        return [self.input.files] if isinstance(self.input.files, str) else list(self.input.files)


class LoadedConfig:
    """A config with the place that its relative paths start from.

    Args:
      config: As the file and the command line have it.
      where: What to call it in errors.
      folder: The config file's folder.
    """

    def __init__(self, config: Config, where: str, folder: str) -> None:
        self.config, self.where, self.folder = config, where, folder

    def path(self, path: str) -> str:
        """A path of the config in full."""
        joined = files.join(self.folder, path)
        return joined if files.is_url(joined) else os.path.abspath(joined)


def load_config(
    path: str,
    *,
    settings: Sequence[str] = (),
    output: str | None = None,
    date: str | None = None,
) -> LoadedConfig:
    """Reads a config file.

    Args:
      path: A local YAML file or a Beam filesystem URL.
      settings: `a.b=value`, each overrides one key; the value is YAML.
      output: Overrides `output.path`; relative to the working directory.
      date: Fills `{date}` in paths; the day of today if it is None.
    Raises:
      UserError: The file, a key or a value; the line names the nearest known key.
    """
    try:
        text = files.read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", path, "name a YAML config") from error
    data = _parse(text, path)
    for setting in settings:
        _override(data, setting)
    if output is not None:
        block = data.setdefault("output", {})
        if isinstance(block, dict):
            block["path"] = output if files.is_url(output) else os.path.abspath(output)
    config = _validate(data, path)
    folder = path.rpartition("/")[0] if files.is_url(path) else os.path.dirname(os.path.abspath(path))
    return LoadedConfig(_fill_date(config, date, path), path, folder)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML would take the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UserError(f"not valid YAML: {error.problem}", line) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"not valid YAML: {str(error).splitlines()[0]}", where) from error
    if not isinstance(data, dict):
        raise UserError("is not a config: the keys model, input, method and output are expected", where)
    return data


def _override(data: dict[str, Any], setting: str) -> None:
    key, sign, value = setting.partition("=")
    if not sign or not all(key.split(".")):
        raise UserError("is not key=value", f"--set {setting}", "for example --set method.n_steps=100")
    block: Any = data
    *parents, last = key.split(".")
    for parent in parents:
        if block.get(parent) is None:
            block[parent] = {}
        block = block[parent]
        if not isinstance(block, dict):
            raise UserError(f"{parent} has no keys of its own", f"--set {setting}")
    try:
        block[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError("the value is not valid YAML", f"--set {setting}") from error


def _validate(data: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(dict(data))
    except UserError as error:  # of a method's keys
        raise UserError(error.what, f"{where}: {error.where}", error.remedy) from error
    except ValidationError as error:
        raise _as_user_error(error, where) from error


def _parse_method(value: Any) -> AttributionMethod:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise UserError(f"a name is needed, one of {', '.join(METHODS)}", "method.name")
    name = value["name"]
    if name not in METHODS:
        close = get_close_matches(name, METHODS, n=1)
        known = f"known are {', '.join(METHODS)}"
        raise UserError(f"{name!r} is no method", "method.name", f"did you mean {close[0]}?" if close else known)
    method = METHODS[name]
    keys = {key: item for key, item in value.items() if key != "name"}
    known_keys = [field.name for field in dataclasses.fields(method)]  # type: ignore[arg-type]
    for key in keys:
        if key not in known_keys:
            raise UserError("unknown key", f"method.{key}", _nearest(str(key), [*known_keys, "name"]))
    hints = get_type_hints(method, include_extras=True)
    values = {}
    for key, item in keys.items():
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(item, strict=True)
        except ValidationError as error:
            raise _as_user_error(error, "", prefix=("method", key)) from error
    return method(**values)


def _as_user_error(error: ValidationError, where: str, prefix: Sequence[str] = ()) -> UserError:
    """The first problem as one line: file, key, problem, remedy."""
    problems = error.errors(include_url=False)
    # Of a union, pydantic lists what each branch says: the deepest location is the branch that was meant.
    first = max(problems, key=lambda p: (p["type"] == "extra_forbidden", -problems.index(p)))
    location = [str(part) for part in (*prefix, *first["loc"]) if not _is_branch(part)]
    key = ".".join(location)
    place = f"{where}: {key}" if where and key else where or key
    if first["type"] == "extra_forbidden":
        return UserError("unknown key", place, _nearest(location[-1], _keys_at(location[:-1])))
    if first["type"] == "missing":
        return UserError("is missing", place, "the config needs it")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    same = [p["msg"] for p in problems if [str(x) for x in p["loc"] if not _is_branch(x)] == location[len(prefix) :]]
    if len(same) > 1:
        message = " or ".join(dict.fromkeys(m[0].lower() + m[1:] for m in same))
    given = "" if isinstance(first["input"], dict | list) else f"{first['input']!r}: "
    return UserError(f"{given}{message[0].lower()}{message[1:]}", place)


def _is_branch(part: object) -> bool:
    """Whether a piece of a pydantic location names a branch of a union rather than a key."""
    return isinstance(part, str) and (part in _BRANCHES or "[" in part or part.startswith("function-"))


_BRANCHES = {"int", "str", "bool", "float", "TargetColumn", "TopK"}


def _keys_at(location: Sequence[str]) -> list[str]:
    """The known keys of a block."""
    model: Any = Config
    for part in location:
        if part.isdigit():
            continue
        model = _BLOCKS.get((model, part))
        if model is None:
            return []
    return list(model.model_fields)


_BLOCKS: dict[tuple[Any, str], Any] = {
    (Config, "model"): Model,
    (Config, "input"): Input,
    (Config, "baseline"): Baseline,
    (Config, "output"): Output,
    (Config, "compute"): Compute,
    (Config, "limits"): Limits,
    (Input, "features"): Feature,
    (Model, "target"): TargetColumn,
    (Output, "attributions"): TopK,
}


def _nearest(key: str, known: Sequence[str]) -> str:
    close = get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}" if known else "remove it"


def _fill_date(config: Config, date: str | None, where: str) -> Config:
    if date is not None:
        try:
            datetime.date.fromisoformat(date)
        except ValueError as error:
            raise UserError(f"{date!r} is no day", "--date", "write YYYY-MM-DD") from error
    day = date or datetime.date.today().isoformat()

    def filled(path: str) -> str:
        return path.replace("{date}", day)

    found = config.input.files
    updates = {
        "model": config.model.model_copy(update={"path": filled(config.model.path)}),
        "input": config.input.model_copy(
            update={"files": filled(found) if isinstance(found, str) else [filled(p) for p in found]}
        ),
        "output": config.output.model_copy(update={"path": filled(config.output.path)}),
    }
    if config.baseline.path is not None:
        updates["baseline"] = config.baseline.model_copy(update={"path": filled(config.baseline.path)})
    return config.model_copy(update=updates)
