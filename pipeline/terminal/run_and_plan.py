"""Prints a run for `attribeam explain`, and a plan for `attribeam plan`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.results.summaries import rejected_by_reason, score_kinds
from pipeline.run_directory import convergence_scale as yardstick
from pipeline.terminal.text_table import bar, clean, console, print_table, wrapped, write
from pipeline.wording import count, duration, fitted, size
from transforms.methods import METHODS

_TOP = 10
#: Most reasons of rejected rows with a line each.
_MOST_REASONS = 3
#: More targets than this get a line each instead of a table each.
_MOST_TABLES = 3
_MOST_LINES = 40
#: Most features whose baseline is listed.
_MOST_VALUES = 12
_KEY = 15
_NAME = 32
_FACT, _REASON = 1000, 300


def fact(out: Console, key: str, text: str) -> None:
    """Prints a key and a text, wrapped beside it."""
    wrapped(out, fitted(clean(text), _FACT), " " * _KEY, clean(key).ljust(_KEY))


def _path(out: Console, key: str, path: str, more: str = "") -> None:
    write(out, f"{key.ljust(_KEY)}{clean(nearby(path))}{more}")


def nearby(path: str) -> str:
    """A local path, relative to the working directory if it lies below it."""
    if "://" in path:
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative + ("/" if path.endswith("/") else "")


# -- explain -------------------------------------------------------------------------------------------------


def print_submitted(run: str, job: str | None) -> None:
    """Prints the end of `explain` for a job that was handed over."""
    out = console()
    fact(out, "submitted", f"job {job}" if job else "without waiting for it")
    _path(out, "run", run)
    fact(out, "", "the job commits it at its end; the same command then prints it")


def print_run(run: Any, reused: bool, exceeded: Sequence[str]) -> None:
    """Prints the end of `explain`: the ten most important features and the run's figures."""
    out = console()
    _print_top(out, run)
    manifest = run.manifest
    counts, timing, quality = manifest["counts"], manifest["timing"], manifest["quality"]
    rejected = f"; {counts['rows_rejected']:,} rejected" if counts["rows_rejected"] else ""
    fact(out, "rows", f"{counts['rows_attributed']:,} of {counts['rows_read']:,} explained{rejected}")
    if quality.get("suppressed_slices"):
        least = manifest["config"]["privacy"]["min_rows"]
        small = count(quality["suppressed_slices"], "slice")
        fact(out, "privacy", f"{small} of fewer than {count(least, 'row')} not in the importance")
    reasons = _reasons(run)
    for reason, number in reasons:
        wrapped(out, fitted(clean(reason), _REASON), " " * (_KEY + 2), f"{'':{_KEY}}{number:,} × ")
    gaps = {f"{item['name']} is {gap}" for item in manifest["schema"] for gap in ("null", "NaN")}
    if gaps.intersection(reason for reason, _ in reasons):
        remedy = "in input.features, fill replaces missing values, and missing: keep passes them to the model"
        wrapped(out, remedy, " " * _KEY, " " * _KEY)
    if manifest.get("defaults"):
        fact(out, "method", _keys(manifest["config"]["method"]))
        _print_defaults(out, manifest)
    if reused:
        fact(out, "nothing done", "the run exists already, with the same config, model and input")
    else:
        *earlier, last = manifest["increments"]
        if earlier:
            rows, before = sum(part["rows"] for part in earlier), sum(part["files"] for part in earlier)
            taken = f"{count(rows, 'row')} of {count(before, 'file')} were taken over"
            now = f"{last['rows']:,} of {count(last['files'], 'new file')} explained now"
            fact(out, "incremental", f"{taken}; {now}")
        pace = f"{duration(timing['pipeline_seconds'])} at {timing['rows_per_second']:,.0f} rows/s"
        fact(out, "time", f"{duration(timing['seconds'])} in all; {pace} after planning")
    _print_quality(out, manifest)
    for line in exceeded:
        write(out, Text(f"{'limit exceeded'.ljust(_KEY)}{line}", style="bold red"))
    _print_places(out, run)


def _print_top(out: Console, run: Any) -> None:
    frame, labels = run.importance(slice=""), run.labels
    tables = [rows for _, rows in frame.groupby("target", sort=False)]
    if len(tables) > _MOST_TABLES:
        write(out, Text("Most important features, by target", style="bold"))
        brief = []
        for rows in tables[:_MOST_LINES]:
            best = [f"{clean(label_of(r.feature, labels))} {r.share:.0%}" for r in rows.head(3).itertuples()]
            name = fitted(clean(rows["target_name"].iloc[0]), _NAME)
            brief.append([name, f"{rows['rows'].iloc[0]:,}", ", ".join(best)])
        print_table(out, brief, "<><", header=["target", "rows", "share of mean |φ|"], indent="  ")
        if len(tables) > _MOST_LINES:
            write(out, f"  … and {count(len(tables) - _MOST_LINES, 'more target')}")
        write(out)
        return
    kinds = score_kinds(run.manifest)
    for rows in tables:
        first = rows.iloc[0]
        kind = kinds.get(int(first["target"]), "score")
        shown = rows.head(_TOP)
        part = f", {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
        title = f"Most important features for {clean(first['target_name'])}{part}"
        write(out, Text(title, style="bold"))
        top = float(shown["mean_abs"].max())
        lines: list[list[str | Text]] = [
            [
                _ranks(row),
                fitted(clean(label_of(row.feature, labels)), _NAME),
                f"{row.mean_abs:.3g}",
                Text(f"±{(row.mean_abs_high - row.mean_abs_low) / 2:.1g}", style="dim"),
                f"{row.share:.1%}",
                f"{row.positive:.0%}",
                Text(bar(row.mean_abs / top if top > 0 else 0.0, 24), style="cyan"),
            ]
            for row in shown.itertuples()
        ]
        header = ["", "feature", "mean |φ|", "", "share", "raises", ""]
        print_table(out, lines, "><><>><", header=header, indent="  ")
        note = f"  φ in units of the {kind}; raises: share of rows in which the feature raises it"
        write(out, Text(note, style="dim"))
        write(out, Text("  ± and from–to: 95 % intervals of mean |φ| and of the rank", style="dim"))
        write(out)


def _ranks(row: Any) -> str:
    """The rank, or the interval of ranks."""
    return str(row.rank) if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}"


def label_of(feature: str, labels: Mapping[str, str]) -> str:
    """The label of a feature, else its name; a value of a tensor keeps its index, `name[0, 1]`."""
    if feature in labels:
        return labels[feature]
    name, bracket, place = feature.rpartition("[")
    return f"{labels[name]} [{place}" if bracket and name in labels else feature


def _reasons(run: Any) -> list[tuple[str, int]]:
    """The most frequent reasons with their numbers of rows, and the sum of all others."""
    counted = list(rejected_by_reason(run).items())
    first, others = counted[:_MOST_REASONS], counted[_MOST_REASONS:]
    rest = (f"for {len(others):,} other reasons, see rejected/", sum(rows for _, rows in others))
    return [*first, rest] if others else first


def _print_quality(out: Console, manifest: Mapping[str, Any]) -> None:
    quality = manifest["quality"]
    delta = quality["convergence_delta"]
    if delta is not None:
        share = yardstick.share_in_words(manifest, f"{delta['relative_p99']:.1g}")
        fact(
            out,
            "Σφ",
            f"is prediction − base_value to within {delta['p50']:.1g} (median), {delta['p99']:.1g} (p99), "
            f"{delta['max']:.1g} (worst); the p99 {share}",
        )
    if quality["limited_rows"]:
        rows = count(quality["limited_rows"], "row")
        cap = METHODS[manifest["config"]["method"]["name"]].cap
        fact(
            out,
            "",
            f"{rows} stayed above the method's tolerance at the limit method.{cap}",
        )


def _print_places(out: Console, run: Any) -> None:
    _path(out, "tables", f"{run.path}/importance.parquet")
    if run.manifest["config"]["output"]["attributions"] != "none":
        _path(out, "", f"{run.path}/attributions/", f"  ({count(len(run.parts()), 'file')})")
    if run.manifest["counts"]["rows_rejected"]:
        _path(out, "", f"{run.path}/rejected/")
    if run.has_report:
        _path(out, "report", f"{run.path}/report.html")


# -- plan ----------------------------------------------------------------------------------------------------


def print_plan(summary: Mapping[str, Any]) -> None:
    """Prints what a run would do."""
    out = console()
    files = summary["files"]
    total = size(sum(f["bytes"] for f in files))
    fact(out, "input", f"{count(len(files), 'file')}, {count(summary['rows'], 'row')} to read, {total}")
    rows = [[clean(f["file"]), count(f["rows"], "row"), size(f["bytes"])] for f in files]
    print_table(out, rows[:_TOP], "<>>", indent=" " * _KEY)
    if len(rows) > _TOP:
        write(out, f"{'':{_KEY}}… and {count(len(rows) - _TOP, 'more file')}")
    new = summary["rows"] - summary["reused_rows"]
    if summary["reused_rows"]:
        fact(
            out,
            "incremental",
            f"{new:,} of {count(summary['rows'], 'row')}; the others are taken over from the committed run",
        )
    elif summary["anew"]:
        fact(out, "incremental", f"nothing can be taken over: {clean(summary['anew'])}")
    fact(out, "shards", f"{summary['shards']:,} of up to {count(summary['shard_rows'], 'row')}")
    model = summary["model"]
    _path(out, "model", model["path"])
    heads = [f"{head['name']} {head['shape']}: the {head['score']} is explained" for head in model["outputs"]]
    for number, head in enumerate(heads):
        fact(out, "" if number else "outputs", head)
    targets = summary["targets"]
    more = f" and {len(targets) - _TOP} more" if len(targets) > _TOP else ""
    fact(out, "target", ", ".join(targets[:_TOP]) + more)
    fact(out, "explains", summary["explains"])
    for note in summary["notes"]:
        fact(out, "note", note)
    _print_schema(out, summary)
    for number, slicing in enumerate(summary["slices"]):
        fact(out, "" if number else "slices", _slicing(slicing))
    if summary["weight"] is not None:
        fact(out, "weight", f"rows count in the importance by {summary['weight']}")
    fact(out, "method", _keys(summary["method"]))
    _print_defaults(out, summary)
    _print_baseline(out, summary["baseline"])
    calls = summary["evaluations_per_row"]
    prefix = "; the affine prefix of the model is skipped" if summary["affine_prefix"] else ""
    fact(
        out,
        "model calls",
        f"{calls:,} per row, {calls * new:,} in all, {summary['device_batch_size']:,} at a time{prefix}",
    )
    arithmetic = summary["precision"] + (", compiled by XLA" if summary["jit"] else "")
    several = summary["devices"] if len(summary["devices"]) > 1 else []
    on = f" on {', '.join(name.rpartition('/device:')[2] for name in several)}" if several else ""
    fact(out, "arithmetic", arithmetic + on)
    estimate = summary["estimate"]
    calls = estimate["device_calls_per_row"]
    apart = f"; a row takes {calls:,} calls" if calls > 1 else ""
    workers, held = summary["workers"], estimate["host_bytes"]
    together = f", {size(workers * held)} in {workers} workers" if workers > 1 else ""
    fact(out, "memory", f"up to {size(held)} in a worker process{together}")
    fact(out, "", f"a device call holds up to {size(estimate['device_bytes'])}{apart}")
    if summary["batch_size"] < summary["batch_size_asked"]:
        asked = f"not of compute.batch_size: {summary['batch_size_asked']:,}"
        fact(out, "", f"batches of {count(summary['batch_size'], 'row')}, {asked}: that number would not fit")
    if estimate["seconds"] is not None:
        pace = f"{1 / estimate['seconds_per_row']:,.0f} rows/s measured"
        fact(out, "time", f"about {duration(estimate['seconds'])} after start-up: {pace}")
    if summary["flags"]:
        fact(out, "runner", summary["runner"])
        for flag in summary["flags"]:
            write(out, f"{'':{_KEY}}{clean(flag)}")
    _path(out, "output", summary["output"], f"  (about {size(estimate['output_bytes'])} before compression)")
    if summary["committed"]:
        fact(out, "", "holds this very run already; nothing to do")


def _print_baseline(out: Console, baseline: Mapping[str, Any]) -> None:
    """Prints the baseline feature by feature."""
    earlier = baseline.get("of")
    whose = f": the {earlier['kind']} of {nearby(earlier['run'])}, and its edges of bins" if earlier else ""
    fact(out, "baseline", f"{baseline['kind']}, {count(baseline['rows'], 'row')}{whose}")
    values = baseline["values"]
    rows = [[fitted(clean(each["feature"]), _NAME), clean(each["text"])] for each in values[:_MOST_VALUES]]
    print_table(out, rows, "<<", indent=" " * _KEY)
    if len(values) > len(rows):
        write(out, f"{'':{_KEY}}… and {len(values) - len(rows):,} more (--json has all)")


def _print_defaults(out: Console, summary: Mapping[str, Any]) -> None:
    """Prints the reasons for decisions that the config leaves open."""
    for key, why in (summary.get("defaults") or {}).items():
        fact(out, "", f"the config names no {key}: {why}" if key == "method" else why)


def _keys(block: Mapping[str, Any]) -> str:
    rest = [f"{key} {value}" for key, value in block.items() if key != "name" and value is not None]
    return f"{block['name']}: {', '.join(rest)}" if rest else str(block["name"])


def _slicing(slicing: Mapping[str, Any]) -> str:
    """A slicing in words: a column, a condition, bins, or an intersection of these."""
    if slicing["kind"] == "intersection":
        return " & ".join(map(_slicing, slicing["parts"]))
    if slicing["kind"] != "bins":
        return str(slicing["name"])
    return f"{slicing['name']} in bins with the edges {', '.join(f'{edge:g}' for edge in slicing['edges'])}"


def _print_schema(out: Console, summary: Mapping[str, Any]) -> None:
    features = summary["features"]
    rows = []
    for feature in features[:_MOST_LINES]:
        shape = f" {feature['shape']}" if feature["shape"] else ""
        rows.append([fitted(clean(feature["name"]), _NAME), feature["kind"], f"{feature['dtype']}{shape}"])
    fact(out, "features", f"{len(features):,}, as the model takes them")
    print_table(out, rows, "<<<", indent=" " * _KEY)
    if len(features) > len(rows):
        write(out, f"{'':{_KEY}}… and {len(features) - len(rows):,} more")
    for name, members in summary["groups"].items():
        fact(out, "group", f"{fitted(clean(name), _NAME)}: {', '.join(members)}")
