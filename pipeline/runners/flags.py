"""Beam's own flags, on the command line and in a config."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from transforms.errors import UserError
from transforms.wording import did_you_mean

_REMEDY = "see Beam's pipeline options"


def check_flags(flags: Sequence[str]) -> list[str]:
    """Checks flags that are not ours, and returns them as Beam reads them.

    Args:
      flags: `--name=value` or `--name value`, as given.
    Returns:
      The flags to pass on to Beam: all except launchers' `--labels` if Beam has no such flag.
    Raises:
      UserError: Beam does not know a flag either.
    """
    if not flags:
        return []
    try:
        _, unknown = _parser().parse_known_args(list(flags))
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(str(error), " ".join(flags), _REMEDY) from error
    if unknown:
        raise UserError(
            "neither attribeam nor Beam knows this flag", unknown[0], "see attribeam explain --help"
        )
    return list(flags)


def option_flags(options: Mapping[str, Any], where: str) -> list[str]:
    """Turns a config's `runner.options` into flags.

    Args:
      options: Values by the flags' names. True gives the flag alone, false and null leave it out, and a
        list repeats the flag for each item.
      where: The name of the block in errors.
    Raises:
      UserError: Beam does not know an option, or does not take its value.
    """
    flags: list[str] = []
    known = [flag.removeprefix("--") for flag in _parser()._option_string_actions] if options else []
    for name, value in options.items():
        if name not in known:
            remedy = did_you_mean(name, known, _REMEDY, most=1)
            raise UserError("Beam knows no such option", f"{where}.{name}", remedy)
        items = [
            item for item in (value if isinstance(value, list) else [value]) if item not in (None, False)
        ]
        try:
            flags += check_flags([f"--{name}" if item is True else f"--{name}={item}" for item in items])
        except UserError as error:
            raise UserError(error.what, f"{where}.{name}", _REMEDY) from error
    return flags


def _parser() -> argparse.ArgumentParser:
    """A parser of every flag that Beam knows, and of our own flags of the same form."""
    from apache_beam.options.pipeline_options import PipelineOptions

    # Beam defines some flags twice; as in Beam, the later definition counts.
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, conflict_handler="resolve"
    )
    parser.add_argument("--labels", action="append")
    parser.add_argument("--worker_accelerator")
    for options in _all_options(PipelineOptions):
        if "_add_argparse_args" in vars(options):
            options._add_argparse_args(parser)
    return parser


def _all_options(options: Any) -> list[Any]:
    classes = []
    for child in options.__subclasses__():
        classes += [child, *_all_options(child)]
    return classes
