"""The command line: parses, calls, prints; one line for what a user can mend."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from pipeline.runners import LOCAL, RUNNERS
from transforms.errors import UserError

DONE, LIMIT, USER, BROKEN = 0, 1, 2, 3




def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--debug", is_flag=True, help="Show tracebacks and the engines' logs.")(function)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def _run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = [
        click.argument("config"),
        click.option("--output", metavar="DIR", help="The run directory, instead of the config's output.path."),
        click.option("--set", "settings", multiple=True, metavar="a.b=value", help="Override one key; repeatable."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."),
        click.option("--date", metavar="YYYY-MM-DD", help="Fills {date} in the config's paths; today's by default."),
        click.option("--overwrite", is_flag=True, help="Replace a run of another config, model or input."),
        click.option("--runner", type=click.Choice(RUNNERS), default=LOCAL, show_default=True, help="The engine."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="attribeam", prog_name="attribeam")
def cli() -> None:
    """Explains every row of a data set: SHAP and gradient attributions of TensorFlow models, on Apache Beam."""


@cli.command(context_settings=_PASS_ON)
@_run_options
@_common
@click.pass_context
def explain(
    context: click.Context,
    config: str,
    output: str | None,
    settings: Sequence[str],
    limit: int | None,
    date: str | None,
    overwrite: bool,
    runner: str,
    as_json: bool,
    debug: bool,
) -> int:
    """Run the pipeline of CONFIG and commit a run directory.

    Flags that are not listed here are passed to Beam, such as --flink_master=… or --project=….
    """
    flags = runners_flags(context)
    from pipeline.config import load_config
    from pipeline.results import load_run
    from pipeline.run import execute

    loaded = load_config(config, settings=settings, output=output, date=date)
    outcome = execute(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags, progress=True)
    run = load_run(outcome.run)
    if as_json:
        top = run.importance(slice="").to_dict("records")
        _print_json({**outcome.manifest, "run": run.path, "reused": outcome.reused, "importance": top})
    else:
        from pipeline.show import print_run

        print_run(run, outcome.reused, outcome.exceeded)
    return LIMIT if outcome.exceeded else DONE


@cli.command(context_settings=_PASS_ON)
@_run_options
@_common
@click.pass_context
def plan(
    context: click.Context,
    config: str,
    output: str | None,
    settings: Sequence[str],
    limit: int | None,
    date: str | None,
    overwrite: bool,
    runner: str,
    as_json: bool,
    debug: bool,
) -> int:
    """Check and decide everything that explain would, and nothing else; writes nothing."""
    flags = runners_flags(context)
    from pipeline.config import load_config
    from pipeline.run import preview

    loaded = load_config(config, settings=settings, output=output, date=date)
    summary = preview(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags)
    if as_json:
        _print_json(summary)
    else:
        from pipeline.show import print_plan

        print_plan(summary)
    return DONE


@cli.command()
@click.argument("run")
@click.argument("example_id")
@_common
def show(run: str, example_id: str, as_json: bool, debug: bool) -> int:
    """Show one example's attributions, largest first."""
    from pipeline.results import load_run

    loaded = load_run(run)
    found = loaded.find(example_id)
    if as_json:
        _print_json({"run": run, "example_id": example_id, "attributions": found.to_pylist()})
    else:
        from pipeline.show import print_example

        values = found["feature"][0].as_py() if "feature" in found.column_names else None
        print_example(loaded, found, values)
    return DONE


@cli.command()
@click.argument("name", required=False)
@_common
def methods(name: str | None, as_json: bool, debug: bool) -> int:
    """List the methods: what each needs, what it costs, when to choose it."""
    from transforms.methods import METHODS

    if name is not None and name not in METHODS:
        from difflib import get_close_matches

        close = get_close_matches(name, METHODS, n=1)
        raise UserError(
            f"{name!r} is no method", "methods", f"did you mean {close[0]}?" if close else f"known are {', '.join(METHODS)}"
        )
    rows = [_describe(METHODS[key]) for key in ([name] if name else METHODS)]
    if as_json:
        _print_json(rows[0] if name else {"methods": rows})
        return DONE
    from pipeline.show import print_method, print_methods

    if name:
        print_method(rows[0])
    else:
        print_methods(rows)
    return DONE


def _describe(method: Any) -> dict[str, Any]:
    keys = {field.name: field.default for field in dataclasses.fields(method)}
    alone, many = method().evaluations_per_row(1), method().evaluations_per_row(100)
    needs = "gradients" if method.needs.gradients else "evaluations"
    return {
        "name": method.name,
        "summary": method.summary,
        "when": method.when,
        "needs": f"{needs}, {'a background' if method.needs.background else 'one baseline row'}",
        "cost": f"{alone:,}" if alone == many else f"{alone:,} · background rows",
        "sums": "prediction − base_value" if method.additive else "–",
        "keys": keys,
        "documentation": inspect.cleandoc(method.__doc__ or ""),
    }


def runners_flags(context: click.Context) -> list[str]:
    """The flags for Beam; a stray argument is an error."""
    flags: list[str] = list(context.args)
    if flags and not flags[0].startswith("-"):
        raise UserError("unexpected argument", flags[0], "see --help")
    if flags:
        from pipeline.runners import check_flags

        return check_flags(flags)
    return flags


def _print_json(value: Any) -> None:
    print(json.dumps(value, default=str, ensure_ascii=False))


def run(arguments: Sequence[str]) -> int:
    """Runs a command line.

    Returns:
      The exit status: 0 done, 1 a limit is exceeded, 2 the user can mend it, 3 the run broke.
    """
    debug = "--debug" in arguments
    # Beam logs through the root logger from its first import on.
    logging.basicConfig(level=logging.INFO if debug else logging.CRITICAL, stream=sys.stderr)
    try:
        status = cli.main(list(arguments), prog_name="attribeam", standalone_mode=False)
    except UserError as error:
        return _fail(error, USER, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return USER
    except click.ClickException as error:
        error.show()
        return USER
    except (click.Abort, KeyboardInterrupt):
        print("error: interrupted; what is done is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return DONE
    except Exception as error:  # noqa: BLE001 - the last resort of a program: one line, and a status that says so
        return _fail(error, BROKEN, debug)
    return status if isinstance(status, int) else DONE


def _fail(error: Exception, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if status == BROKEN:
        kind = "" if type(error).__name__ == "RunBrokenError" else f"{type(error).__name__}: "
        text = f"{kind}{text}; what is done is kept, and the same command goes on from there"
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    print(f"error: {printable}", file=sys.stderr, flush=True)
    return status
