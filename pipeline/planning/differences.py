"""In what a run is another than the one that stands in its place, key by key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transforms.sources.base import InputFile

#: Keys of a config that decide no number.
_NO_NUMBERS = ("limits", "name", "runner", "incremental")
#: Differences that are told, and characters of a value.
_MOST, _VALUE = 6, 60


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config decides numbers: not where the run goes, where it is made, or by how many."""
    # Labels are for readers, but that a table of the largest attributions has a column of them.
    features = config.get("features") or {}
    config = {key: value for key, value in config.items() if key != "features"}
    if isinstance(config["output"]["attributions"], dict):
        config["features"] = {name: texts["label"] for name, texts in features.items() if texts.get("label")}
    left_out = {
        "output": ("path", "report"),
        "compute": ("workers",),
        "model": ("path",),
        "input": ("files",),
        "baseline": ("path",),  # its rows have a digest
    }
    kept = {key: value for key, value in config.items() if key not in _NO_NUMBERS}
    for block, keys in left_out.items():
        kept[block] = {name: value for name, value in kept[block].items() if name not in keys}
    return kept


def in_one_line(lines: Sequence[str]) -> str:
    """Joins the first few differences in one line."""
    more = len(lines) - _MOST
    return "; ".join(lines[:_MOST]) + (f"; and {more} more" if more > 0 else "")


def differences(
    there: Mapping[str, Any],
    config: Mapping[str, Any],
    model: str,
    baseline: str,
    inputs: Sequence[InputFile],
    rows: int,
    columns: Mapping[str, str],
) -> list[str]:
    """In what a run that is there is another than the one that is planned, as far as its manifest tells.

    Args:
      there: Its manifest, or the draft of it.
      config: The planned one's, as JSON.
      model: Its model's digest.
      baseline: Its baseline's digest.
      inputs: Its files.
      rows: That it reads.
      columns: The types in which it reads its columns, in words.
    """
    lines = list(_keys(deciding(there["config"]), deciding(config)))
    if there["model"]["digest"] != model:
        lines.append(f"the model: {_digest(there['model']['digest'])} there, {_digest(model)} here")
    files = list(_files(there["inputs"], inputs))
    lines += files
    if not files and there["rows"] != rows:
        lines.append(f"rows: {there['rows']:,} there, {rows:,} here")
    known = there.get("columns", {})  # not in manifests of older runs
    for name in sorted(set(known) & set(columns)):
        if known[name] != columns[name]:
            lines.append(f"the column {name}: {known[name]} there, {columns[name]} over all files here")
    if not lines and there["baseline"]["digest"] != baseline:
        lines.append(f"the baseline: {_digest(there['baseline']['digest'])} there, {_digest(baseline)} here")
    return lines or ["a file was rewritten, or has columns of other types"]


def _keys(there: Mapping[str, Any], here: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The keys of the config whose values differ; of another method its name alone."""
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
