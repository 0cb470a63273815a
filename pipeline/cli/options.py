"""How a verb takes its arguments, tells its result and says what went wrong."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from pipeline.runners.flags import check_flags
from transforms.errors import SAID_ALL, UserError
from transforms.wording import did_you_mean

DONE, LIMIT, USER, BROKEN = 0, 1, 2, 3
FLAGS = "attribeam.flags"
_SAID_ALL = ("InterruptedError", "RunBrokenError", *SAID_ALL)
#: Characters of a warning or an error.
_LONGEST = 2000


class Verb(click.Command):
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
            ctx.meta[FLAGS] = check_flags(flags)
        except UserError as error:
            name = str(error.where).partition("=")[0]
            remedy = did_you_mean(name, takes_value, most=1) or error.remedy
            raise UserError(error.what, error.where, remedy) from error
        return super().parse_args(ctx, ours + rest)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every verb."""
    function = click.option("--debug", is_flag=True, help="Show tracebacks and the engine's log.")(function)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def _is_known(flags: Sequence[str]) -> bool:
    try:
        check_flags(flags)
    except UserError:
        return False
    return True


@contextmanager
def told() -> Iterator[None]:
    """Around what goes to stdout: whoever reads it may have seen enough, which changes no exit status."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python must not trip over the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(lines: Sequence[str]) -> None:
    """Tells of what is not as it should be, on stderr."""
    for line in lines:
        print(f"warning: {_brief(printable(line))}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Prints one JSON object in one line of what a terminal may show."""
    text = json.dumps(_plain(value), default=str, ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        # Such characters stand in strings alone, where JSON has another way to write them.
        text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    print(text)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mendable(error: click.ClickException, verbs: Sequence[str]) -> UserError:
    """A click error in the form of all others."""
    context = getattr(error, "ctx", None)
    remedy = f"see {context.command_path if context else 'attribeam'} --help"
    message = error.format_message().strip().rstrip(".")
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return UserError("is missing", str(error.param.name).upper(), remedy)
    if isinstance(error, click.NoSuchOption):
        name = error.option_name
        remedy = did_you_mean(name, error.possibilities or [], remedy, most=1)
        if context is not None and any(param.name == "example_id" for param in context.command.params):
            remedy += (
                f" An id that begins with a dash stands behind --: {context.command_path} RUN -- '{name}'"
            )
        return UserError("no such option", name, remedy)
    if isinstance(error, click.BadParameter) and error.param is not None:
        return UserError(str(error.message).rstrip("."), error.param.opts[0], remedy)
    if message.startswith("No such command"):
        name = message.partition("'")[2].partition("'")[0]
        remedy = did_you_mean(name, verbs, f"known are {', '.join(verbs)}", most=1)
        return UserError("no such verb", name, remedy)
    return UserError(message[:1].lower() + message[1:], None, remedy)


def fail(error: Exception, status: int, debug: bool, writes: bool = False) -> int:
    """Tells of an error in one line, the last of stderr; returns the exit status."""
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if status == BROKEN:
        told = type(error).__name__ in _SAID_ALL
        text = text if told else f"{type(error).__name__}: {text}; --debug shows where"
    if status == BROKEN and writes:
        text = f"{text}; what is done is kept, and the same command goes on from there"
    sys.stdout.flush()
    print(f"error: {_brief(printable(text))}", file=sys.stderr, flush=True)
    return status


def _brief(text: str) -> str:
    """The text without its middle, where names in it are too long to be read."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def printable(text: str) -> str:
    """The text with what would move a cursor or change a colour written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
