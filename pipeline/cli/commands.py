"""The command line: parses arguments, calls the pipeline and prints results, errors in one line each."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import logging
import secrets
import sys
from collections.abc import Sequence
from typing import Any

import click

from pipeline.cli.audit import audit
from pipeline.cli.options import (
    BROKEN,
    DONE,
    LIMIT,
    USER,
    RunArguments,
    Verb,
    common,
    fail,
    from_click,
    print_json,
    printable,
    run_arguments,
    stdout_guard,
    warn,
)
from pipeline.cli.report import report
from transforms.errors import UserError

_VERSION = "Show the version and exit."


def _version(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        try:
            version = importlib.metadata.version("attribeam")
        except importlib.metadata.PackageNotFoundError:
            version = "(run from a checkout that is not installed)"
        with stdout_guard():
            print(f"attribeam {version}")
        context.exit()


class _Verbs(click.Group):
    """The verbs; `stdout_guard` guards what is printed, and any other broken pipe is a failure."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click would treat it as a closed stdout and end the process silently.
            raise RuntimeError(f"a process that was written to has ended: {error}") from error


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help=_VERSION)
def cli() -> None:
    """Explains every row of a data set: feature attributions of TensorFlow models, on Apache Beam."""


@cli.command(cls=Verb, short_help="Explain a data set and commit a run directory.")
@run_arguments
@common
def explain(arguments: RunArguments, as_json: bool, debug: bool) -> int:
    """Run the pipeline of CONFIG, commit a run directory, print the top features and the run's figures.

    Beam's own flags, such as --flink_master=… or --project=…, are passed on to it.
    """
    from pipeline.execution.run import execute
    from pipeline.results.run import load_run

    outcome = execute(arguments.load(), **arguments.how, progress=True)
    if outcome.manifest is None:
        with stdout_guard():
            if as_json:
                print_json({"run": outcome.run, "submitted": True, "job": outcome.job})
            else:
                from pipeline.terminal.run_and_plan import print_submitted

                print_submitted(outcome.run, outcome.job)
        warn(outcome.warnings)
        return DONE
    run = load_run(outcome.run)
    with stdout_guard():
        if as_json:
            more = {"run": run.path, "reused": outcome.reused, "exceeded": list(outcome.exceeded)}
            top = run.importance(slice="").to_dict("records")
            print_json({**outcome.manifest, **more, "importance": top})
        else:
            from pipeline.terminal.run_and_plan import print_run

            print_run(run, outcome.reused, outcome.exceeded)
    warn(outcome.warnings)
    for line in outcome.exceeded:
        print(f"error: {line}", file=sys.stderr)
    return LIMIT if outcome.exceeded else DONE


@cli.command(cls=Verb, short_help="Check everything and estimate time and size; write nothing.")
@run_arguments
@common
def plan(arguments: RunArguments, as_json: bool, debug: bool) -> int:
    """Check and decide everything that explain would, estimate time and size, and write nothing."""
    from pipeline.execution.run import preview

    summary = preview(arguments.load(), **arguments.how)
    with stdout_guard():
        if as_json:
            print_json(summary)
        else:
            from pipeline.terminal.run_and_plan import print_plan

            print_plan(summary)
    warn(summary["warnings"])
    return DONE


@cli.command(short_help="Show one example's attributions as a waterfall.")
@click.argument("run")
@click.argument("example_id")
@click.option("--at", metavar="FILE:ROW", help="The row, where several have the id; the first by default.")
@common
def show(run: str, example_id: str, at: str | None, as_json: bool, debug: bool) -> int:
    """Show how each feature leads from the base value to an example's prediction, largest first."""
    from pipeline.results.run import load_run

    opened = load_run(run)
    example = opened.example(example_id, at)
    with stdout_guard():
        if as_json:
            places = list(example.places)
            example_json = {"run": run, "example_id": example_id, "places": places}
            print_json({**example_json, "attributions": example.rows})
        else:
            from pipeline.terminal.example import print_example

            print_example(example_id, example.rows, example.values, opened.labels, example.places)
    return DONE


@cli.command(short_help="Report what changed from one run to another.")
@click.argument("first")
@click.argument("second")
@click.option("--html", metavar="FILE", help="Also write a page with figures and all tables.")
@common
def compare(first: str, second: str, html: str | None, as_json: bool, debug: bool) -> int:
    """Report what changed from the run FIRST to the run SECOND, most important first.

    Compares model, data, method, baseline and config, the importance of features (and whether a change is
    more than chance), directions, distributions, slices, scores and rejected rows. Reads aggregates alone.
    """
    from pipeline.compare import compare as comparison
    from pipeline.compare import to_json
    from pipeline.results.run import load_run

    result = comparison(load_run(first), load_run(second))
    if html is not None:
        from pipeline.compare.page import write_page
        from pipeline.run_directory.checks import check_outside

        for run in (first, second):
            check_outside(html, run)
        write_page(result, html)
    with stdout_guard():
        if as_json:
            print_json({**to_json(result), "html": html})
        else:
            from pipeline.terminal.comparison import print_comparison

            print_comparison(result, html)
    return DONE


@cli.command(short_help="Check a run against its manifest, and some rows against the model.")
@click.argument("run")
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=100,
    metavar="K",
    help="Rows to recompute, drawn at random; 100 by default; 0 loads no model.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of the draw; random by default.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="T",
    help="Largest difference, relative to max(|φ|, the score's spread); 1e-5, in mixed precision 1e-2.",
)
@common
def verify(run: str, rows: int, seed: int | None, tolerance: float | None, as_json: bool, debug: bool) -> int:
    """Check that a run is complete, matches its model, baseline and input, and can be reproduced.

    Compares the parts with the manifest's checksums, and the model, baseline and input with its digests;
    explains rows drawn at random again and compares them with the tables. Exit status 1 if a check failed.
    """
    from pipeline.terminal.verification import print_verification
    from pipeline.verify.verify import verify as check

    seed = secrets.randbelow(1 << 31) if seed is None else seed
    result = check(run, rows=rows, seed=seed, tolerance=tolerance)
    with stdout_guard():
        if as_json:
            print_json(result.to_json())
        else:
            print_verification(result)
    if not result.failed:
        return DONE
    number = "1 check" if len(result.failed) == 1 else f"{len(result.failed)} checks"
    print(f"error: {printable(run)}: {number} failed: {', '.join(result.failed)}", file=sys.stderr)
    return LIMIT


@cli.command(short_help="List the methods: needs, cost, when to choose each.")
@click.argument("name", required=False)
@click.option(
    "--config", metavar="CONFIG", help="Show what each would cost on this config's model and input."
)
@click.option(
    "--function",
    metavar="LIBRARY",
    help="Print a module with a python: function for a model of sklearn, catboost, ydf, ebm, onnx or keras.",
)
@common
def methods(name: str | None, config: str | None, function: str | None, as_json: bool, debug: bool) -> int:
    """List the methods, or describe one: what it needs of a model, what it costs, when to choose it.

    With --function, print a Python module for a model that is explained as a function.
    """
    if function is not None:
        from pipeline.function_templates import module_of

        if name is not None or config is not None:
            raise UserError("cannot be combined with other arguments", "--function", "leave the others out")
        text = module_of(function)
        with stdout_guard():
            print_json({"function": function, "module": text}) if as_json else print(text, end="")
        return DONE
    from pipeline.config.errors import nearest_key
    from pipeline.planning.method_guide import GUIDE, describe_method
    from transforms.methods import METHODS

    if name is not None and name not in METHODS:
        remedy = nearest_key(name, list(METHODS))
        raise UserError(f"{name!r} is not a method", "methods", remedy)
    rows = [describe_method(METHODS[key]) for key in ([name] if name else METHODS)]
    costs_here = None
    if config is not None:
        from pipeline.config.config import load_config
        from pipeline.planning.method_costs import survey

        costs_here = survey(load_config(config))
        costs = {cost.method: cost for cost in costs_here["costs"]}
        rows = [{**row, "here": dataclasses.asdict(costs[row["name"]])} for row in rows]
    from pipeline.terminal.methods import print_costs, print_method, print_methods

    with stdout_guard():
        if as_json:
            guide = [dataclasses.asdict(advice) for advice in GUIDE]
            print_json(rows[0] if name else {"methods": rows, "guide": guide})
        elif name:
            print_method(rows[0])
        elif costs_here is not None:
            print_costs(costs_here)
        else:
            print_methods(rows, GUIDE)
    return DONE


cli.add_command(audit)
cli.add_command(report)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line.

    Returns:
      The exit status: 0 done, 1 a limit is exceeded, 2 an error that the user can mend, 3 the run broke.
    """
    debug, writes = "--debug" in arguments, "explain" in arguments[:1]
    # Beam logs through the root logger as soon as it is imported.
    logging.basicConfig(level=logging.INFO if debug else logging.CRITICAL, stream=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without φ shows a question mark
    try:
        status = cli.main(list(arguments), prog_name="attribeam", standalone_mode=False)
    except UserError as error:
        return fail(error, USER, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return fail(
            UserError("a verb is missing", remedy="attribeam explain CONFIG is the usual one"), USER, debug
        )
    except click.ClickException as error:
        return fail(from_click(error, list(cli.commands)), USER, debug)
    except (click.Abort, KeyboardInterrupt):
        return fail(InterruptedError("interrupted"), BROKEN, debug, writes)
    except SystemExit:  # click ends like this when the reader of its help closes the pipe
        return DONE
    except Exception as error:  # noqa: BLE001 - the last resort: one line, and a status that says so
        return fail(error, BROKEN, debug, writes)
    return status if isinstance(status, int) else DONE
