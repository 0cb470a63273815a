"""Lists the differences between a planned run and the run that stands in its place, key by key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.sources.base import InputFile

#: Keys of a config that affect no number.
_NO_NUMBERS = ("limits", "name", "runner", "incremental")
#: Largest number of differences in one line.
_MOST = 6
#: Largest number of characters of a value.
_VALUE = 60


@dataclass(frozen=True)
class PlannedRun:
    """The facts of a planned run that an existing one is compared with.

    Args:
      config: The config as JSON.
      model: The digest of the model.
      baseline: The digest of the baseline.
      inputs: The files of the input.
      rows: Rows that are read.
      columns: The types of the columns, in words.
    """

    config: Mapping[str, Any]
    model: str
    baseline: str
    inputs: Sequence[InputFile]
    rows: int
    columns: Mapping[str, str]


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config that affect numbers: not the output, the engine or the number of workers."""
    # Labels affect no number, but tables of the largest attributions have a column of labels.
    features = config.get("features") or {}
    config = {key: value for key, value in config.items() if key != "features"}
    if isinstance(config["output"]["attributions"], dict):
        config["features"] = {name: texts["label"] for name, texts in features.items() if texts.get("label")}
    left_out = {
        "output": ("path", "report"),
        "compute": ("workers",),
        "model": ("path",),
        "input": ("files",),
        "baseline": ("path",),  # the digest covers the rows
    }
    kept = {key: value for key, value in config.items() if key not in _NO_NUMBERS}
    for block, keys in left_out.items():
        kept[block] = {name: value for name, value in kept[block].items() if name not in keys}
    return kept


def in_one_line(lines: Sequence[str]) -> str:
    """Joins the first few differences in one line."""
    more = len(lines) - _MOST
    return "; ".join(lines[:_MOST]) + (f"; and {more} more" if more > 0 else "")


def list_differences(there: Mapping[str, Any], here: PlannedRun) -> list[str]:
    """Lists the differences between an existing run and a planned one, as far as the manifest shows them.

    Args:
      there: The manifest of the existing run, or its draft.
      here: The planned run.
    """
    lines = list(_keys(deciding(there["config"]), deciding(here.config)))
    if there["model"]["digest"] != here.model:
        lines.append(f"the model: {_digest(there['model']['digest'])} there, {_digest(here.model)} here")
    files = list(_files(there["inputs"], here.inputs))
    lines += files
    if not files and there["rows"] != here.rows:
        lines.append(f"rows: {there['rows']:,} there, {here.rows:,} here")
    known = there.get("columns", {})  # missing in manifests of older runs
    for name in sorted(set(known) & set(here.columns)):
        if known[name] != here.columns[name]:
            lines.append(f"the column {name}: {known[name]} there, {here.columns[name]} over all files here")
    if not lines and there["baseline"]["digest"] != here.baseline:
        lines.append(
            f"the baseline: {_digest(there['baseline']['digest'])} there, {_digest(here.baseline)} here"
        )
    return lines or ["a file was rewritten, or has columns of other types"]


def _keys(there: Mapping[str, Any], here: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The keys of the config whose values differ; a different method is listed by its name alone."""
    for key in dict.fromkeys([*here, *there]):
        one, other = there.get(key), here.get(key)
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if key == "method" and one.get("name") != other.get("name"):
                one, other = one.get("name"), other.get("name")
            else:
                yield from _keys(one, other, f"{before}{key}.")
                continue
        yield f"{before}{key}: {_value(one)} there, {_value(other)} here"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 1]}…"


def _digest(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _files(there: Sequence[Mapping[str, Any]], here: Sequence[InputFile]) -> Iterator[str]:
    now, then = {file.name: file for file in here}, {item["file"]: item for item in there}
    for name, item in then.items():
        file = now.get(name)
        if file is None:
            yield f"{name} is no longer in the input"
        elif file.rows != item["rows"]:
            yield f"{name}: {item['rows']:,} rows there, {file.rows:,} here"
        elif file.bytes != item["bytes"]:
            yield f"{name}: {item['bytes']:,} bytes there, {file.bytes:,} here"
        elif item.get("digest") not in (None, file.digest):
            yield f"{name} has different content"
    yield from (f"{name} is new in the input" for name in now if name not in then)
