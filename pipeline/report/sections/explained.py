"""The report's section on the run: model, data, method, baseline and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.blocks import Figure, Section, Table, Terms
from pipeline.report.data.view import View
from pipeline.wording import count, duration, listed, number, plain, shorten, size

#: Most input files that are named.
_FILES = 8
#: Most targets, features and slicings that are named.
_NAMES = 12
__all__ = ["facts", "sections"]


def facts(view: View) -> list[tuple[str, str]]:
    """The facts under the page's title."""
    manifest = view.data.manifest
    counts = manifest["counts"]
    shown = [
        ("Rows explained", f"{counts['rows_attributed']:,}"),
        ("Features", f"{len(manifest['features']):,}"),
        ("Targets", _targets(view)),
        ("Method", method(manifest).partition(",")[0]),
        ("Model", shorten(plain(_file(manifest["model"]["path"])), 60)),
        ("Explained", _when(manifest["created"])),
    ]
    if counts["rows_rejected"]:
        shown.insert(1, ("Rows rejected", f"{counts['rows_rejected']:,}"))
    return shown


def sections(view: View) -> list[Section]:
    """Builds the section from the manifest."""
    settings = [[path, plain(str(value))] for path, value in _flat(view.data.manifest["config"])]
    return [
        Section(
            "explained",
            "What was explained",
            "Everything needed to find the same model, data and settings again.",
            [
                Terms([(name, text) for name, text in _items(view) if text]),
                Figure(
                    name="config",
                    title="Config",
                    description="Every setting of the run.",
                    table=Table(["Key", "Value"], settings, "Every setting of the run, defaults included."),
                ),
            ],
        )
    ]


def _items(view: View) -> list[tuple[str, str]]:
    """Names and texts; a text may be empty."""
    manifest = view.data.manifest
    config, timing = manifest["config"], manifest["timing"]
    model, baseline = manifest["model"], manifest["baseline"]
    kinds = sorted({view.unit(target) for target in view.data.targets})
    rows = baseline["rows"]
    pace = f"{timing['rows_per_second']:,.0f} rows per second after planning"
    return [
        ("Model", plain(str(model["path"]))),
        ("Model's digest", str(model["digest"])),
        ("Data", _inputs(manifest)),
        ("Rows", _rows(manifest["counts"])),
        ("Target", _target(config, view)),
        ("Score", f"{listed(kinds)}: φ adds up to it and is in its units" if kinds else ""),
        ("Method", method(manifest)),
        ("Baseline", f"{baseline['kind']}, {count(rows, 'row')}" if rows else str(baseline["kind"])),
        ("Baseline's digest", str(baseline["digest"] or "")),
        ("Features", _some(list(manifest["features"]), view.labels)),
        ("Groups", _groups(config["input"].get("groups") or {})),
        ("Slices", _slicings(manifest.get("slices") or [])),
        ("Weights", plain(str(config["input"].get("weight") or ""))),
        ("Sample", _sample(view)),
        ("Time", f"{duration(timing['seconds'])} in all, {pace}"),
        ("Runner", str(manifest["runner"])),
        ("Seed", str(config.get("seed", ""))),
        ("Run", str(manifest["run_id"])),
        ("Explained", _when(manifest["created"])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())),
    ]


def _groups(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{plain(name)}: {', '.join(map(plain, members))}" for name, members in groups.items())


def method(manifest: Mapping[str, Any]) -> str:
    """The method and its settings in a line."""
    block = manifest["config"]["method"]
    rest = [f"{key} {value}" for key, value in block.items() if key != "name" and value not in (None, False)]
    return ", ".join([str(block["name"]).replace("_", " "), *rest])


def _file(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _when(created: str | None) -> str:
    return created[:16].replace("T", " ") + " UTC" if created else ""


def _targets(view: View) -> str:
    names = [shorten(plain(name), 30) for name in view.data.targets.values()]
    return names[0] if len(names) == 1 else f"{len(names):,}"


def _target(config: Mapping[str, Any], view: View) -> str:
    names = list(view.data.targets.values())
    shown = listed([f"\u2068{shorten(plain(name), 60)}\u2069" for name in names[:_NAMES]]) if names else ""
    more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return f"{shown}{more} (target: {plain(str(config['model']['target']))})"


def _inputs(manifest: Mapping[str, Any]) -> str:
    inputs = manifest["inputs"]
    shown = [
        f"{plain(str(i['file']))} ({count(i['rows'], 'row')}, {size(i['bytes'])})" for i in inputs[:_FILES]
    ]
    more = f" and {len(inputs) - _FILES:,} more files" if len(inputs) > _FILES else ""
    return "; ".join(shown) + more


def _rows(counts: Mapping[str, int]) -> str:
    text = f"{counts['rows_read']:,} read, {counts['rows_attributed']:,} explained"
    return f"{text}, {counts['rows_rejected']:,} rejected" if counts["rows_rejected"] else text


def _some(names: list[str], labels: Mapping[str, str]) -> str:
    shown = ", ".join(f"\u2068{shorten(plain(labels[name]), 60)}\u2069" for name in names[:_NAMES])
    return f"{len(names):,}: {shown}" + (f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else "")


def _slicings(items: list[Any]) -> str:
    """Names of slicings, and the edges of bins."""
    shown = []
    for item in items[:_NAMES]:
        edges = ", ".join(f"{edge:g}" for edge in item.get("edges") or [])
        shown.append(
            f"\u2068{shorten(plain(item['name']), 80)}\u2069" + (f" (bins at {edges})" if edges else "")
        )
    return "; ".join(shown) + (f"; {len(items) - _NAMES:,} more" if len(items) > _NAMES else "")


def _sample(view: View) -> str:
    sample = view.data.sample
    if sample is None:
        return "none, so plots of single rows are omitted"
    drawn = sum(1 for kind in sample["kind"].to_pylist() if kind == "sample")
    each = drawn // max(len(view.data.targets), 1)
    return f"{count(each, 'row')} drawn at random for the plots of single rows; everything else uses all rows"


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [
            pair for key, item in value.items() for pair in _flat(item, f"{path}.{key}" if path else str(key))
        ]
    return [(path, "" if value is None else number(value) if isinstance(value, float) else value)]
