"""The command line: parses, calls, prints; one line for what a user can mend."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import logging
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from pipeline.cli.options import (
    BROKEN,
    DONE,
    FLAGS,
    LIMIT,
    USER,
    Verb,
    common,
    fail,
    mendable,
    print_json,
    printable,
    told,
    warn,
)
from pipeline.cli.report import report
from pipeline.runners.names import LOCAL, RUNNERS
from transforms.errors import UserError

_VERSION = "Show the version and exit."


def _run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.argument("config"),
        click.option("--output", metavar="DIR", help="The run directory, instead of output.path."),
        click.option(
            "--set", "settings", multiple=True, metavar="a.b=value", help="Override one key; repeatable."
        ),
        click.option(
            "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows of the input."
        ),
        click.option("--date", metavar="YYYY-MM-DD", help="Fills {date} in paths; today by default."),
        click.option("--overwrite", is_flag=True, help="Make the run anew, whatever run is there."),
        click.option(
            "--preset", metavar="FILE", help="How and where to run: its runner and compute count more."
        ),
        click.option(
            "--runner",
            type=click.Choice(RUNNERS),
            metavar="NAME",
            help=f"The engine: {', '.join(RUNNERS)}; the config's, else {LOCAL}.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _version(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        try:
            found = importlib.metadata.version("attribeam")
        except importlib.metadata.PackageNotFoundError:
            found = "(run from a checkout that is not installed)"
        with told():
            print(f"attribeam {found}")
        context.exit()


class _Verbs(click.Group):
    """The verbs; what is printed is guarded by `told`, and any other pipe that breaks is a failure."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click takes it for a reader of stdout who has left, and ends the process without a word.
            raise RuntimeError(f"a process that was written to has ended: {error}") from error


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help=_VERSION)
def cli() -> None:
    """Explains every row of a data set: feature attributions of TensorFlow models, on Apache Beam."""


@cli.command(cls=Verb, short_help="Explain a data set and commit a run directory.")
@_run_options
@common
@click.pass_context
def explain(
    context: click.Context,
    config: str,
    output: str | None,
    settings: Sequence[str],
    limit: int | None,
    date: str | None,
    overwrite: bool,
    preset: str | None,
    runner: str | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Run the pipeline of CONFIG, commit a run directory, print the top features and the run's figures.

    Beam's own flags, such as --flink_master=… or --project=…, are passed on to it.
    """
    from pipeline.config.models import load_config
    from pipeline.results.run import load_run
    from pipeline.running.run import execute

    flags = context.meta[FLAGS]
    loaded = load_config(config, preset=preset, settings=settings, output=output, date=date)
    outcome = execute(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags, progress=True)
    if outcome.manifest is None:
        with told():
            if as_json:
                print_json({"run": outcome.run, "submitted": True, "job": outcome.job})
            else:
                from pipeline.screen.run_and_plan import print_submitted

                print_submitted(outcome.run, outcome.job)
        warn(outcome.warnings)
        return DONE
    run = load_run(outcome.run)
    with told():
        if as_json:
            more = {"run": run.path, "reused": outcome.reused, "exceeded": list(outcome.exceeded)}
            top = run.importance(slice="").to_dict("records")
            print_json({**outcome.manifest, **more, "importance": top})
        else:
            from pipeline.screen.run_and_plan import print_run

            print_run(run, outcome.reused, outcome.exceeded)
    warn(outcome.warnings)
    for line in outcome.exceeded:
        print(f"error: {line}", file=sys.stderr)
    return LIMIT if outcome.exceeded else DONE


@cli.command(cls=Verb, short_help="Check everything and estimate time and size; write nothing.")
@_run_options
@common
@click.pass_context
def plan(
    context: click.Context,
    config: str,
    output: str | None,
    settings: Sequence[str],
    limit: int | None,
    date: str | None,
    overwrite: bool,
    preset: str | None,
    runner: str | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Check and decide everything that explain would, and nothing else; write nothing."""
    from pipeline.config.models import load_config
    from pipeline.running.run import preview

    flags = context.meta[FLAGS]
    loaded = load_config(config, preset=preset, settings=settings, output=output, date=date)
    summary = preview(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags)
    with told():
        if as_json:
            print_json(summary)
        else:
            from pipeline.screen.run_and_plan import print_plan

            print_plan(summary)
    warn(summary["warnings"])
    return DONE


@cli.command(short_help="Show one example's attributions as a waterfall.")
@click.argument("run")
@click.argument("example_id")
@click.option("--at", metavar="FILE:ROW", help="Which row, where several have the id; the first by default.")
@common
def show(run: str, example_id: str, at: str | None, as_json: bool, debug: bool) -> int:
    """Show how each feature leads from the base value to an example's prediction, largest first."""
    from pipeline.results.run import load_run

    opened = load_run(run)
    example = opened.example(example_id, at)
    with told():
        if as_json:
            places = list(example.places)
            told_of = {"run": run, "example_id": example_id, "places": places}
            print_json({**told_of, "attributions": example.rows})
        else:
            from pipeline.screen.example import print_example

            print_example(example_id, example.rows, example.values, opened.labels, example.places)
    return DONE


@cli.command(short_help="Say what changed from one run to another.")
@click.argument("first")
@click.argument("second")
@click.option("--html", metavar="FILE", help="Write a page with figures and all tables, too.")
@common
def compare(first: str, second: str, html: str | None, as_json: bool, debug: bool) -> int:
    """Say what changed from the run FIRST to the run SECOND, most important first.

    In what they differ (model, data, method, baseline, config), which features matter more or less and
    whether that is more than chance, directions, distributions, slices, scores and rejected rows. It reads
    aggregates alone.
    """
    from pipeline.compare import compare as comparison
    from pipeline.compare import to_json
    from pipeline.results.run import load_run

    found = comparison(load_run(first), load_run(second))
    if html is not None:
        from pipeline.compare.page import write_page
        from pipeline.run_directory.checks import check_outside

        for run in (first, second):
            check_outside(html, run)
        write_page(found, html)
    with told():
        if as_json:
            print_json({**to_json(found), "html": html})
        else:
            from pipeline.screen.comparison import print_comparison

            print_comparison(found, html)
    return DONE


@cli.command(short_help="Check a run against its manifest, and some of its rows against the model.")
@click.argument("run")
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=100,
    metavar="K",
    help="Rows to recompute, drawn at random; 100 by default, 0 loads no model.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of the draw; another each time.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="T",
    help="Largest difference, of max(|φ|, the score's spread); 1e-5, in mixed precision 1e-2.",
)
@common
def verify(run: str, rows: int, seed: int | None, tolerance: float | None, as_json: bool, debug: bool) -> int:
    """Check that a run is whole, made of this model, baseline and input, and comes out again.

    Compares the parts with the manifest's checksums, model, baseline and input with its digests, and rows
    drawn at random, explained once more, with the tables. Exit status 1 where a check failed.
    """
    from pipeline.screen.verification import print_verification
    from pipeline.verify.verify import verify as check

    seed = secrets.randbelow(1 << 31) if seed is None else seed
    found = check(run, rows=rows, seed=seed, tolerance=tolerance)
    with told():
        if as_json:
            print_json(found.to_json())
        else:
            print_verification(found)
    if not found.failed:
        return DONE
    number = "1 check" if len(found.failed) == 1 else f"{len(found.failed)} checks"
    print(f"error: {printable(run)}: {number} failed: {', '.join(found.failed)}", file=sys.stderr)
    return LIMIT


@cli.command(short_help="List the methods: needs, cost, when to choose each.")
@click.argument("name", required=False)
@click.option("--config", metavar="CONFIG", help="Say what each would cost on this config's model and input.")
@click.option(
    "--function",
    metavar="LIBRARY",
    help="Print a module with a python: function for a model of sklearn, catboost, ydf, ebm, onnx or keras.",
)
@common
def methods(name: str | None, config: str | None, function: str | None, as_json: bool, debug: bool) -> int:
    """List the methods, or tell more of one: what it needs of a model, what it costs, when to choose it.

    With --function, print a module of Python for a model that is explained as a function.
    """
    if function is not None:
        from pipeline.functions import module_of

        if name is not None or config is not None:
            raise UserError("goes with nothing else", "--function", "leave the others out")
        text = module_of(function)
        with told():
            print_json({"function": function, "module": text}) if as_json else print(text, end="")
        return DONE
    from pipeline.config.errors import nearest_key
    from pipeline.planning.method_guide import GUIDE, describe
    from transforms.methods import METHODS

    if name is not None and name not in METHODS:
        remedy = nearest_key(name, list(METHODS))
        raise UserError(f"{name!r} is no method", "methods", remedy)
    rows = [describe(METHODS[key]) for key in ([name] if name else METHODS)]
    found = None
    if config is not None:
        from pipeline.config.models import load_config
        from pipeline.planning.method_costs import survey

        found = survey(load_config(config))
        costs = {cost.method: cost for cost in found["costs"]}
        rows = [{**row, "here": dataclasses.asdict(costs[row["name"]])} for row in rows]
    from pipeline.screen.methods import print_costs, print_method, print_methods

    with told():
        if as_json:
            guide = [dataclasses.asdict(advice) for advice in GUIDE]
            print_json(rows[0] if name else {"methods": rows, "guide": guide})
        elif name:
            print_method(rows[0])
        elif found is not None:
            print_costs(found)
        else:
            print_methods(rows, GUIDE)
    return DONE


cli.add_command(report)


def run(arguments: Sequence[str]) -> int:
    """Runs a command line.

    Returns:
      The exit status: 0 done, 1 a limit is exceeded, 2 the user can mend it, 3 the run broke.
    """
    debug, writes = "--debug" in arguments, "explain" in arguments[:1]
    # Beam logs through the root logger from its first import on.
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
        return fail(mendable(error, list(cli.commands)), USER, debug)
    except (click.Abort, KeyboardInterrupt):
        return fail(InterruptedError("interrupted"), BROKEN, debug, writes)
    except SystemExit:  # how click ends when nobody reads all of its help
        return DONE
    except Exception as error:  # noqa: BLE001 - the last resort: one line, and a status that says so
        return fail(error, BROKEN, debug, writes)
    return status if isinstance(status, int) else DONE
