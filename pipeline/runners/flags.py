"""Beam's own flags on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from transforms.errors import UserError


def check_flags(flags: Sequence[str]) -> list[str]:
    """Beam's own flags among those that the command line did not know.

    Args:
      flags: `--name=value` or `--name value`, as given.
    Returns:
      What to pass on to Beam: all of them but launchers' `--labels`, where Beam has no such flag.
    Raises:
      UserError: A flag that Beam does not know either.
    """
    if not flags:
        return []
    from apache_beam.options.pipeline_options import PipelineOptions

    # Beam's own classes name some flags twice: the later one counts, as it does to Beam.
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, conflict_handler="resolve"
    )
    parser.add_argument("--labels", action="append")
    for options in _all_options(PipelineOptions):
        if "_add_argparse_args" in vars(options):
            options._add_argparse_args(parser)
    try:
        _, unknown = parser.parse_known_args(list(flags))
    except (argparse.ArgumentError, SystemExit) as error:
        raise UserError(str(error), " ".join(flags), "see Beam's pipeline options") from error
    if unknown:
        raise UserError(
            "neither attribeam nor Beam knows this flag", unknown[0], "see attribeam explain --help"
        )
    return list(flags)


def _all_options(options: Any) -> list[Any]:
    found = []
    for child in options.__subclasses__():
        found += [child, *_all_options(child)]
    return found
