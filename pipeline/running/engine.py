"""The engine of a run: chosen by command line and config, and checked before anything else is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.runners.flags import check_flags, option_flags
from pipeline.runners.names import (
    LOCAL,
)
from transforms.models.kinds.function import is_function

if TYPE_CHECKING:
    from pipeline.config.models import LoadedConfig
from pipeline.runners.checks import check_places, check_runner


def choose_runner(loaded: LoadedConfig, runner: str | None, flags: Sequence[str]) -> tuple[str, list[str]]:
    """The engine of a run and the flags for Beam, checked before anything else is done.

    The command line counts more than the config's `runner` block. Its options stand before the command
    line's flags, of which Beam heeds the last, or all where a flag may be given several times; another
    runner on the command line leaves them out.

    Args:
      loaded: The config.
      runner: The one that was asked for; None leaves it to the config, and then to this machine.
      flags: That were asked for.
    Raises:
      UserError: A flag or an option that is unknown, wrong or missing.
    """
    block = loaded.config.runner
    name = runner or (block.name if block else LOCAL)
    given = check_flags(flags)
    if block and block.name == name:
        given = [*option_flags(block.options, f"{loaded.preset or loaded.where}: runner.options"), *given]
    check_runner(name, given)
    check_places(name, given, _places(loaded))
    return name, given


def _places(loaded: LoadedConfig) -> dict[str, list[str]]:
    """The paths that workers read and write, by key of the config; Python finds a function by its module."""
    paths = loaded.paths
    by_key: dict[str, list[str]] = {}
    if not is_function(paths.model):
        by_key["model.path"] = [paths.model]
    by_key["input.files"] = list(paths.inputs)
    by_key["output.path"] = [paths.output]
    return {f"{loaded.where}: {key}": named for key, named in by_key.items()}
