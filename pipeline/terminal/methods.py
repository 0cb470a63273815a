"""Prints the methods and a guide to them for `attribeam methods`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.planning.method_guide import Advice
from pipeline.terminal.run_and_plan import fact
from pipeline.terminal.text_table import clean, console, print_table, wrapped, write
from pipeline.wording import count


def print_methods(rows: Sequence[Mapping[str, Any]], guide: Sequence[Advice]) -> None:
    """Prints two lines per method, then a guide to choosing one."""
    out = console()
    for row in rows:
        write(out, Text.assemble((str(row["name"]).ljust(22), "bold"), row["cost"]))
        wrapped(out, f"needs {row['needs']}; {row['sums']}", "  ")
        wrapped(out, f"when: {row['when']}", "  ")
    write(out)
    for question, group in groupby(guide, key=lambda advice: advice.question):
        write(out, Text(f"{question} …", style="bold"))
        for advice in group:
            wrapped(out, advice.case, "  ")
            wrapped(out, ", ".join(advice.methods), "      ")
            wrapped(out, advice.because, "      ")
    write(out)
    write(out, "attribeam methods NAME describes one;")
    write(out, "attribeam methods --config CONFIG shows the cost of each on a config;")
    write(out, "attribeam methods --function LIBRARY prints a function for models of a library.")


def print_costs(survey: Mapping[str, Any]) -> None:
    """Prints the cost of each method on a config, and why some do not work on its model."""
    out = console()
    rows = survey["rows"]
    write(out, f"{count(rows, 'row')}, {count(survey['players'], 'feature')} to attribute to")
    write(out)
    lines, refused = [], []
    for cost in survey["costs"]:
        if cost.refused is not None:
            refused.append(cost)
            continue
        calls = cost.evaluations_per_row
        lines.append([cost.method, f"{calls:,}", f"{calls * rows:,}"])
    print_table(out, lines, "<>>", header=["method", "model calls per row", "in all"])
    if refused:
        write(out)
        write(out, Text("Not for this model:", style="bold"))
        for cost in refused:
            wrapped(out, clean(cost.refused), "    ", f"  {cost.method}: ")
    write(out)
    write(out, "attribeam plan CONFIG measures the time of the config's own method.")


def print_method(row: Mapping[str, Any]) -> None:
    """Prints one method with its keys and its documentation."""
    out = console()
    write(out, Text(str(row["name"]), style="bold"))
    fact(out, "when", row["when"])
    fact(out, "needs", row["needs"])
    fact(out, "costs", row["cost"])
    fact(out, "sums", row["sums"])
    if "here" in row:
        here = row["here"]
        cost = here["refused"] or f"{count(here['evaluations_per_row'], 'model call')} per row"
        fact(out, "on this config", cost)
    for number, (key, default) in enumerate(row["keys"].items()):
        shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else default
        fact(out, "" if number else "keys", f"{key} ({shown}): {row['allowed'][key]}")
    write(out)
    _print_documentation(out, str(row["documentation"]))


def _print_documentation(out: Console, text: str) -> None:
    """Prints a docstring at the terminal's width: paragraphs flow, lines of `Args` keep their indent."""
    lines = text.splitlines()
    for blank, part in groupby(lines, key=lambda line: not line.strip()):
        if blank:
            write(out)
            continue
        held: list[str] = []
        for line in part:
            indent = len(line) - len(line.lstrip())
            begins = (
                indent == 2 or line.endswith(":") or line.split(":")[0] in ("Cost", "Reference", "Source")
            )
            if begins and held:
                _flow(out, held)
                held = []
            held.append(line)
        _flow(out, held)


def _flow(out: Console, lines: Sequence[str]) -> None:
    indent = len(lines[0]) - len(lines[0].lstrip())
    wrapped(
        out, " ".join(line.strip() for line in lines), " " * (indent + (2 if indent else 0)), " " * indent
    )
