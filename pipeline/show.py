"""What the verbs print: tables and bars for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_BAR = 24
_SHADES = " ▏▎▍▌▋▊▉█"


def console() -> Console:
    """Standard output; colours on a terminal alone."""
    return Console(highlight=False, soft_wrap=False)


def clean(text: object) -> str:
    """Text from data as a terminal may show it: control characters made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def bar(share: float, width: int = _BAR) -> str:
    """A bar of eighths of a character; share of the width, 0 to 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    return "█" * (eighths // 8) + (_SHADES[eighths % 8] if eighths % 8 else "")


def print_run(run: Any, reused: bool, exceeded: Sequence[str]) -> None:
    """The end of `explain`: the ten most important features and the run's figures."""
    out = console()
    manifest = run.manifest
    counts, timing = manifest["counts"], manifest["timing"]
    frame = run.importance(slice="")
    for target, part in frame.groupby("target_name", sort=False):
        _print_importance(out, str(target), part.head(10), len(part))
    if reused:
        out.print("The run was there already: same config, model and input. Nothing was done.")
    rate = timing["rows_per_second"]
    out.print(
        f"{counts['rows_attributed']:,} of {counts['rows_read']:,} rows explained in {timing['seconds']:.1f} s "
        f"({rate:,.0f} rows/s); {counts['rows_rejected']:,} rejected"
    )
    for reason, number in _reasons(run):
        out.print(f"  {number:,} × {escape(clean(reason))}")
    quality = manifest["quality"]
    delta = quality["convergence_delta"]
    if delta is not None:
        out.print(
            f"Σφ misses prediction − base_value by {delta['p50']:.2g} (median), {delta['p99']:.2g} (p99), "
            f"{delta['max']:.2g} (worst); p99 is {delta['relative_p99']:.2%} of the score's spread"
        )
    if quality["limited_rows"]:
        out.print(f"{quality['limited_rows']:,} rows are above the method's tolerance for all the steps allowed")
    for line in exceeded:
        out.print(Text(f"Limit exceeded: {line}", style="bold red"))
    out.print(f"Tables: {escape(clean(run.path))}", soft_wrap=True)


def _reasons(run: Any) -> list[tuple[str, int]]:
    """The three most frequent reasons, numbers and all."""
    rejected = run.rejected()
    if not len(rejected):
        return []
    counted = rejected["reason"].value_counts().to_pylist()
    counted.sort(key=lambda item: (-item["counts"], item["values"]))
    return [(item["values"], item["counts"]) for item in counted[:3]]


def _print_importance(out: Console, target: str, part: pd.DataFrame, count: int) -> None:
    title = f"Most important features for {clean(target)}" + (f" ({len(part)} of {count})" if count > len(part) else "")
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("feature")
    table.add_column("mean |φ|", justify="right")
    table.add_column("share", justify="right")
    table.add_column("raises", justify="right")
    table.add_column("")
    top = part["mean_abs"].max()
    for row in part.itertuples():
        table.add_row(
            str(row.rank),
            escape(clean(row.feature)),
            f"{row.mean_abs:.4g}",
            f"{row.share:.1%}",
            f"{row.positive:.0%}",
            bar(row.mean_abs / top if top > 0 else 0.0),
        )
    out.print(table)
    out.print()


def print_example(run: Any, found: Any, values: Mapping[str, Any] | None) -> None:
    """`show`: an example's attributions, largest first, as bars to either side of nothing."""
    out = console()
    for row in found.to_pylist():
        out.print(f"example_id   {escape(clean(row['example_id']))}")
        out.print(f"target       {row['target']}  {escape(clean(row['target_name']))}")
        out.print(f"prediction   {row['prediction']:.6g}   (output {row['output']:.6g})")
        out.print(f"base_value   {row['base_value']:.6g}")
        if row["convergence_delta"] is not None:
            out.print(f"delta        {row['convergence_delta']:.2g}")
        pairs = example_pairs(row)
        largest = max((abs(value) for _, value in pairs), default=0.0) or 1.0
        table = Table(box=None, pad_edge=False)
        table.add_column("feature")
        if values:
            table.add_column("value", justify="right")
        table.add_column("φ", justify="right")
        table.add_column("lowers", justify="right")
        table.add_column("raises")
        for name, value in pairs:
            drawn = bar(abs(value) / largest)
            # Eighths fill a character from its left; a bar to the left can only be whole characters.
            left = "█" * round(_BAR * abs(value) / largest) if value < 0 else ""
            cells = [escape(clean(name))]
            if values:
                cells.append(escape(clean(values.get(name, ""))))
            cells += [f"{value:+.4g}", Text(left, style="blue"), Text(drawn if value > 0 else "", style="red")]
            table.add_row(*cells)
        out.print(table)
        out.print()


def example_pairs(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Features and φ of a row of the table, largest |φ| first; a tensor's values are summed."""
    if "attribution" in row:
        pairs = [(name, float(np.sum(value))) for name, value in row["attribution"].items()]
        return sorted(pairs, key=lambda pair: -abs(pair[1]))
    pairs = [(item["feature"], float(item["attribution"])) for item in row["top"]]
    return [*pairs, ("(the rest)", float(row["rest"]))]


def print_plan(summary: Mapping[str, Any]) -> None:
    """`plan`: what a run would do."""
    out = console()

    def line(key: str, value: object) -> None:
        out.print(f"{key:<13} {escape(clean(value))}", soft_wrap=True)

    files = summary["files"]
    size = sum(f["bytes"] for f in files)
    line("input", f"{len(files)} file{'s' if len(files) != 1 else ''}, {summary['rows']:,} rows, {human(size)}")
    line("shards", f"{summary['shards']} of {summary['shard_rows']:,} rows")
    model = summary["model"]
    line("model", model["path"])
    for head in model["outputs"]:
        line("", f"output {head['name']} {head['shape']}: explains the {head['score']}")
    line("targets", ", ".join(summary["targets"]))
    names = [f"{f['name']} ({f['kind']})" for f in summary["features"]]
    line("features", f"{len(names)}: {', '.join(names[:30])}{' …' if len(names) > 30 else ''}")
    method = dict(summary["method"])
    name = method.pop("name")
    line("method", f"{name} {', '.join(f'{k}={v}' for k, v in method.items())}")
    baseline = summary["baseline"]
    line("baseline", f"{baseline['kind']}, {baseline['rows']} row{'s' if baseline['rows'] != 1 else ''}")
    line("cost", f"{summary['evaluations_per_row']:,} model evaluations a row, {summary['device_batch_size']:,} a device call")
    estimate = summary["estimate"]
    if estimate["seconds"] is not None:
        line("time", f"about {human_time(estimate['seconds'])} ({1 / estimate['seconds_per_row']:,.0f} rows/s measured)")
    line("output", f"{summary['output']}, about {human(estimate['output_bytes'])} before compression")


def human(size: float) -> str:
    """Bytes in words."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_time(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def print_methods(rows: Sequence[Mapping[str, Any]]) -> None:
    """`methods`: one line each."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "needs", "cost in model evaluations a row", "Σφ", "when"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["name"], row["needs"], row["cost"], row["sums"], row["when"])
    console().print(table)


def print_method(row: Mapping[str, Any]) -> None:
    """`methods NAME`."""
    out = console()
    out.print(f"[bold]{row['name']}[/bold]: {escape(row['summary'])}")
    out.print(f"when:  {escape(row['when'])}")
    out.print(f"needs: {escape(row['needs'])}")
    out.print(f"cost:  {escape(row['cost'])} model evaluations a row")
    out.print(f"sums:  {escape(row['sums'])}")
    out.print("keys:")
    for key, default in row["keys"].items():
        out.print(f"  {key}: {default}")
    out.print()
    out.print(escape(row["documentation"]))
