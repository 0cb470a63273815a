"""Arguments of the verbs, and how they print results, warnings and errors."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pipeline.runners.flags import check_flags
from pipeline.runners.names import LOCAL, RUNNERS
from transforms.errors import SAID_ALL, UserError
from transforms.wording import did_you_mean

if TYPE_CHECKING:
    from pipeline.config.config import LoadedConfig

DONE, LIMIT, USER, BROKEN = 0, 1, 2, 3
FLAGS = "attribeam.flags"
_SAID_ALL = ("InterruptedError", "RunBrokenError", *SAID_ALL)
#: Most characters of a warning or an error.
_LONGEST = 2000


class Verb(click.Command):
    """A verb that also takes Beam's flags: they are set aside before click reads the line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Moves Beam's flags from anywhere on the line to `ctx.meta`."""
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
            ctx.meta[FLAGS] = check_flags(flags)
        except UserError as error:
            name = str(error.where).partition("=")[0]
            remedy = did_you_mean(name, takes_value, most=1) or error.remedy
            raise UserError(error.what, error.where, remedy) from error
        return super().parse_args(ctx, ours + rest)


@dataclass(frozen=True)
class RunArguments:
    """The arguments that `explain` and `plan` share.

    Args:
      config: Path of the config.
      output: The run directory, instead of the config's.
      settings: `a.b=value` overrides of the config.
      limit: Read only this number of rows.
      date: Fills `{date}` in paths.
      overwrite: Make the run anew.
      preset: Path of a preset.
      runner: The engine, instead of the config's.
      flags: Beam's flags.
    """

    config: str
    output: str | None
    settings: Sequence[str]
    limit: int | None
    date: str | None
    overwrite: bool
    preset: str | None
    runner: str | None
    flags: Sequence[str]

    def load(self) -> LoadedConfig:
        """Reads the config, its preset and its overrides."""
        from pipeline.config.config import load_config

        return load_config(
            self.config, preset=self.preset, settings=self.settings, output=self.output, date=self.date
        )

    @property
    def how(self) -> dict[str, Any]:
        """The keyword arguments of `execute` and `preview`."""
        names = ("limit", "overwrite", "runner", "flags")
        return {name: getattr(self, name) for name in names}


_RUN_OPTIONS = (
    click.argument("config"),
    click.option("--output", metavar="DIR", help="The run directory, instead of output.path."),
    click.option(
        "--set", "settings", multiple=True, metavar="a.b=value", help="Override one key; repeatable."
    ),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Read only the first N rows."),
    click.option("--date", metavar="YYYY-MM-DD", help="Fills {date} in paths; today by default."),
    click.option("--overwrite", is_flag=True, help="Start afresh and replace any run in the directory."),
    click.option("--preset", metavar="FILE", help="A file whose runner and compute override the config's."),
    click.option(
        "--runner",
        type=click.Choice(RUNNERS),
        metavar="NAME",
        help=f"The engine: {', '.join(RUNNERS)}; by default the config's, else {LOCAL}.",
    ),
)


def run_arguments(function: Callable[..., int]) -> Callable[..., int]:
    """Adds the arguments that `explain` and `plan` share, and passes them on as one `RunArguments`."""

    def command(context: click.Context, /, as_json: bool, debug: bool, **given: Any) -> int:
        return function(RunArguments(**given, flags=context.meta[FLAGS]), as_json, debug)

    functools.update_wrapper(command, function)
    wrapped: Callable[..., int] = click.pass_context(command)
    for option in reversed(_RUN_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of every verb."""
    function = click.option("--debug", is_flag=True, help="Show tracebacks and the engine's log.")(function)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def _is_known(flags: Sequence[str]) -> bool:
    try:
        check_flags(flags)
    except UserError:
        return False
    return True


@contextmanager
def stdout_guard() -> Iterator[None]:
    """Guards printing to stdout: a reader that closes the pipe early changes no exit status."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout at its end, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(lines: Sequence[str]) -> None:
    """Prints warnings on stderr."""
    for line in lines:
        print(f"warning: {_brief(printable(line))}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Prints one JSON object in one line, without control characters."""
    text = json.dumps(_jsonable(value), default=str, ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        # Such characters occur only within strings, where JSON can escape them.
        text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    print(text)


def _jsonable(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_click(error: click.ClickException, verbs: Sequence[str]) -> UserError:
    """Turns a click error into a UserError, so that all errors have one form."""
    context = getattr(error, "ctx", None)
    remedy = f"see {context.command_path if context else 'attribeam'} --help"
    message = error.format_message().strip().rstrip(".")
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return UserError("is missing", str(error.param.name).upper(), remedy)
    if isinstance(error, click.NoSuchOption):
        name = error.option_name
        remedy = did_you_mean(name, error.possibilities or [], remedy, most=1)
        if context is not None and any(param.name == "example_id" for param in context.command.params):
            remedy += f" An id that begins with a dash goes after --: {context.command_path} RUN -- '{name}'"
        return UserError("no such option", name, remedy)
    if isinstance(error, click.BadParameter) and error.param is not None:
        return UserError(str(error.message).rstrip("."), error.param.opts[0], remedy)
    if message.startswith("No such command"):
        name = message.partition("'")[2].partition("'")[0]
        remedy = did_you_mean(name, verbs, f"known: {', '.join(verbs)}", most=1)
        return UserError("no such verb", name, remedy)
    return UserError(message[:1].lower() + message[1:], None, remedy)


def fail(error: Exception, status: int, debug: bool, writes: bool = False) -> int:
    """Prints an error in one line, the last of stderr, and returns the exit status."""
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if status == BROKEN:
        complete = type(error).__name__ in _SAID_ALL
        text = text if complete else f"{type(error).__name__}: {text}; --debug shows where"
    if status == BROKEN and writes:
        text = f"{text}; finished work is kept, and the same command continues from there"
    sys.stdout.flush()
    print(f"error: {_brief(printable(text))}", file=sys.stderr, flush=True)
    return status


def _brief(text: str) -> str:
    """Cuts out the middle of a text that is too long to be read."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def printable(text: str) -> str:
    """Escapes control characters, which could move the cursor or change colours."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
