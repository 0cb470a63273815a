"""Differences in how two runs were made: model, data, method, baseline, config, versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.wording import count, listed, plain, shorten

#: Keys of the config that only say where a run is made, or that another subject covers.
_ELSEWHERE = ("name", "output.path", "compute", "runner", "model.path", "input.files", "method", "baseline")
_LONGEST = 120


@dataclass(frozen=True)
class Difference:
    """One difference between two runs.

    Args:
      subject: "model", "data", "method", "baseline", "score", "features", "config" or "versions".
      name: The part of the subject that differs; may be empty.
      before: Its state in the first run, in words.
      after: Its state in the second run.
    """

    subject: str
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class RunDifferences:
    """The common ground and the differences of two runs.

    Args:
      summary: In a phrase, such as "another model, the same data, method and baseline".
      differences: All differences, the most important first.
    """

    summary: str
    differences: tuple[Difference, ...]

    @classmethod
    def of(cls, first: Mapping[str, Any], second: Mapping[str, Any]) -> RunDifferences:
        """Compares two manifests."""
        subjects = {"model": _model, "data": _data, "method": _method, "baseline": _baseline}
        by_subject = {name: tuple(differences(first, second)) for name, differences in subjects.items()}
        others = (*_score(first, second), *_features(first, second), *_config(first, second))
        every = (
            *(each for name in by_subject for each in by_subject[name]),
            *others,
            *_versions(first, second),
        )
        another = [name for name, differences in by_subject.items() if differences]
        same = [name for name, differences in by_subject.items() if not differences]
        parts = [f"another {name}" if name != "data" else "other data" for name in another]
        if others:
            parts.append("another config")
        if same:
            parts.append(f"the same {listed(same)}")
        return cls(listed_plainly(parts), every)


def listed_plainly(parts: list[str]) -> str:
    """Joins parts as `a, b, c`; joined as `a and b`, two parts would read as one."""
    return ", ".join(parts)


def _model(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = first["model"], second["model"]
    if before["digest"] == after["digest"]:
        return
    names = [f"{_short(model['path'])} ({_digest(model)})" for model in (before, after)]
    yield Difference("model", "", *names)


def _digest(block: Mapping[str, Any]) -> str:
    return str(block["digest"]).removeprefix("sha256:")[:12]


def _data(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = ({_content(file) for file in run["inputs"]} for run in (first, second))
    rows = [run["counts"]["rows_read"] for run in (first, second)]
    if before == after and rows[0] == rows[1]:
        return
    words = [
        f"{count(len(run['inputs']), 'file')}, {count(n, 'row')}"
        for run, n in zip((first, second), rows, strict=True)
    ]
    shared = len(before & after)
    if shared:
        words[1] += f" ({count(shared, 'file')} in both)"
    yield Difference("data", "", *words)


def _content(file: Mapping[str, Any]) -> tuple[Any, ...]:
    # Without a digest, equal sizes of a file of the same name are taken for the same content.
    digest = file.get("digest")
    return (digest,) if digest else (file["file"], file["rows"], file["bytes"])


def _method(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = first["config"]["method"], second["config"]["method"]
    if before["name"] != after["name"]:
        yield Difference("method", "", before["name"], after["name"])
        return
    yield from _keys("method", before, after)


def _baseline(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = first["baseline"], second["baseline"]
    if before["digest"] != after["digest"]:
        words = [f"{b['kind']}, {count(b['rows'], 'row')} ({_digest(b)})" for b in (before, after)]
        yield Difference("baseline", "", *words)


def _score(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = (sorted({head["score"] for head in run["model"]["outputs"]}) for run in (first, second))
    if before != after:
        yield Difference("score", "", listed(before), listed(after))


def _features(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = set(first["features"]), set(second["features"])
    gone, new = sorted(before - after), sorted(after - before)
    if gone or new:
        yield Difference("features", "", _some(gone), _some(new))


def _some(names: list[str]) -> str:
    shown = [plain(name) for name in names[:8]]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return shorten(listed([*shown, *more]), _LONGEST) if names else "–"


def _config(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    yield from _keys("config", first["config"], second["config"])


def _versions(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    yield from _keys("versions", first["versions"], second["versions"])


def _keys(subject: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = dict(_flat(before)), dict(_flat(after))
    for key in dict.fromkeys([*old, *new]):
        if subject == "config" and any(key == name or key.startswith(f"{name}.") for name in _ELSEWHERE):
            continue
        if old.get(key) != new.get(key):
            yield Difference(subject, key, _short(old.get(key)), _short(new.get(key)))


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{before}{key}.")
        else:
            yield f"{before}{key}", item


def _short(value: Any) -> str:
    return "none" if value is None else shorten(plain(str(value)), _LONGEST)
