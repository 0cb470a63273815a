"""The command line: parses, calls, prints; one line for what a user can mend."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import click

from pipeline.runners import LOCAL, RUNNERS, check_flags
from transforms.errors import UserError

DONE, LIMIT, USER, BROKEN = 0, 1, 2, 3
_FLAGS = "attribeam.flags"
_VERSION = "Show the version and exit."


class _Verb(click.Command):
    """A verb that also takes Beam's flags: what is not ours is set aside before click reads the line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leaves Beam's flags in `ctx.meta`, wherever on the line they stand."""
        takes_value = {
            name: isinstance(param, click.Option) and not param.is_flag
            for param in self.get_params(ctx)
            for name in param.opts
        }
        ours: list[str] = []
        flags: list[str] = []
        rest = list(args)
        while rest and rest[0] != "--":
            arg = rest.pop(0)
            name, given, _ = arg.partition("=")
            if not arg.startswith("-") or arg == "-" or name in takes_value:
                ours.append(arg)
                if takes_value.get(name) and not given and rest:
                    ours.append(rest.pop(0))
                continue
            flags.append(arg)
            if not given and rest and not rest[0].startswith("-") and _is_known([arg, rest[0]]):
                flags.append(rest.pop(0))
        try:
            ctx.meta[_FLAGS] = check_flags(flags)
        except UserError as error:
            name = str(error.where).partition("=")[0]
            near = get_close_matches(name, takes_value, n=1)
            remedy = f"did you mean {near[0]}?" if near else error.remedy
            raise UserError(error.what, error.where, remedy) from error
        return super().parse_args(ctx, ours + rest)


def _is_known(flags: Sequence[str]) -> bool:
    try:
        check_flags(flags)
    except UserError:
        return False
    return True


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--debug", is_flag=True, help="Show tracebacks and the engine's log.")(function)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


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
        click.option("--overwrite", is_flag=True, help="Replace a run of another config, model or input."),
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
        with _told():
            print(f"attribeam {found}")
        context.exit()


class _Verbs(click.Group):
    """The verbs; what is printed is guarded by `_told`, and any other pipe that breaks is a failure."""

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


@cli.command(cls=_Verb, short_help="Explain a data set and commit a run directory.")
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
    preset: str | None,
    runner: str | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Run the pipeline of CONFIG, commit a run directory, print the top features and the run's figures.

    Beam's own flags, such as --flink_master=… or --project=…, are passed on to it.
    """
    from pipeline.config import load_config
    from pipeline.results import load_run
    from pipeline.run import execute

    flags = context.meta[_FLAGS]
    loaded = load_config(config, preset=preset, settings=settings, output=output, date=date)
    outcome = execute(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags, progress=True)
    if outcome.manifest is None:
        with _told():
            if as_json:
                _print_json({"run": outcome.run, "submitted": True, "job": outcome.job})
            else:
                from pipeline.show import print_submitted

                print_submitted(outcome.run, outcome.job)
        _warn(outcome.warnings)
        return DONE
    run = load_run(outcome.run)
    with _told():
        if as_json:
            more = {"run": run.path, "reused": outcome.reused, "exceeded": list(outcome.exceeded)}
            top = run.importance(slice="").to_dict("records")
            _print_json({**outcome.manifest, **more, "importance": top})
        else:
            from pipeline.show import print_run

            print_run(run, outcome.reused, outcome.exceeded)
    _warn(outcome.warnings)
    for line in outcome.exceeded:
        print(f"error: {line}", file=sys.stderr)
    return LIMIT if outcome.exceeded else DONE


@cli.command(cls=_Verb, short_help="Check everything and estimate time and size; write nothing.")
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
    preset: str | None,
    runner: str | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Check and decide everything that explain would, and nothing else; write nothing."""
    from pipeline.config import load_config
    from pipeline.run import preview

    flags = context.meta[_FLAGS]
    loaded = load_config(config, preset=preset, settings=settings, output=output, date=date)
    summary = preview(loaded, limit=limit, overwrite=overwrite, runner=runner, flags=flags)
    with _told():
        if as_json:
            _print_json(summary)
        else:
            from pipeline.show import print_plan

            print_plan(summary)
    _warn(summary["warnings"])
    return DONE


@cli.command(short_help="Show one example's attributions as a bar chart.")
@click.argument("run")
@click.argument("example_id")
@_common
def show(run: str, example_id: str, as_json: bool, debug: bool) -> int:
    """Show one example's attributions, largest first, as a bar chart."""
    from pipeline.results import load_run

    example = load_run(run).example(example_id)
    with _told():
        if as_json:
            _print_json({"run": run, "example_id": example_id, "attributions": example.rows})
        else:
            from pipeline.show import print_example

            print_example(example_id, example.rows, example.values)
    return DONE


@cli.command(short_help="List the methods: needs, cost, when to choose each.")
@click.argument("name", required=False)
@click.option("--config", metavar="CONFIG", help="Say what each would cost on this config's model and input.")
@_common
def methods(name: str | None, config: str | None, as_json: bool, debug: bool) -> int:
    """List the methods, or tell more of one: what it needs of a model, what it costs, when to choose it."""
    from pipeline.guide import GUIDE, describe
    from transforms.methods import METHODS

    if name is not None and name not in METHODS:
        close = get_close_matches(name.lower(), METHODS, n=1, cutoff=0.5)
        remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(METHODS)}"
        raise UserError(f"{name!r} is no method", "methods", remedy)
    rows = [describe(METHODS[key]) for key in ([name] if name else METHODS)]
    found = None
    if config is not None:
        from pipeline.config import load_config
        from pipeline.survey import survey

        found = survey(load_config(config))
        costs = {cost.method: cost for cost in found["costs"]}
        rows = [{**row, "here": dataclasses.asdict(costs[row["name"]])} for row in rows]
    from pipeline.show_methods import print_costs, print_method, print_methods

    with _told():
        if as_json:
            guide = [dataclasses.asdict(advice) for advice in GUIDE]
            _print_json(rows[0] if name else {"methods": rows, "guide": guide})
        elif name:
            print_method(rows[0])
        elif found is not None:
            print_costs(found)
        else:
            print_methods(rows, GUIDE)
    return DONE


@contextmanager
def _told() -> Iterator[None]:
    """Around what goes to stdout: whoever reads it may have seen enough, which changes no exit status."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python must not trip over the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"warning: {_printable(line)}", file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(_plain(value), default=str, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
        return _fail(error, USER, debug)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return _fail(
            UserError("a verb is missing", remedy="attribeam explain CONFIG is the usual one"), USER, debug
        )
    except click.ClickException as error:
        return _fail(_mendable(error), USER, debug)
    except (click.Abort, KeyboardInterrupt):
        return _fail(InterruptedError("interrupted"), BROKEN, debug, writes)
    except SystemExit:  # how click ends when nobody reads all of its help
        return DONE
    except Exception as error:  # noqa: BLE001 - the last resort: one line, and a status that says so
        return _fail(error, BROKEN, debug, writes)
    return status if isinstance(status, int) else DONE


def _mendable(error: click.ClickException) -> UserError:
    """A click error in the form of all others."""
    context = getattr(error, "ctx", None)
    remedy = f"see {context.command_path if context else 'attribeam'} --help"
    message = error.format_message().strip().rstrip(".")
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return UserError("is missing", str(error.param.name).upper(), remedy)
    if isinstance(error, click.NoSuchOption):
        near = get_close_matches(error.option_name, error.possibilities or [], n=1)
        return UserError("no such option", error.option_name, f"did you mean {near[0]}?" if near else remedy)
    if isinstance(error, click.BadParameter) and error.param is not None:
        return UserError(str(error.message).rstrip("."), error.param.opts[0], remedy)
    if message.startswith("No such command"):
        name = message.partition("'")[2].partition("'")[0]
        near = get_close_matches(name, cli.commands, n=1)
        known = f"known are {', '.join(cli.commands)}"
        return UserError("no such verb", name, f"did you mean {near[0]}?" if near else known)
    return UserError(message[:1].lower() + message[1:], None, remedy)


def _fail(error: Exception, status: int, debug: bool, writes: bool = False) -> int:
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if status == BROKEN:
        told = type(error).__name__ in ("RunBrokenError", "InterruptedError")
        text = text if told else f"{type(error).__name__}: {text}; --debug shows where"
    if status == BROKEN and writes:
        text = f"{text}; what is done is kept, and the same command goes on from there"
    sys.stdout.flush()
    print(f"error: {_printable(text)}", file=sys.stderr, flush=True)
    return status


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
