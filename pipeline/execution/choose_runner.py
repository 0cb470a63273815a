"""Chooses the engine of a run by command line and config, and checks it before anything else is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.runners.flags import check_flags, option_flags
from pipeline.runners.names import (
    LOCAL,
)
from transforms.models.kinds.function import is_function

if TYPE_CHECKING:
    from pipeline.config.config import LoadedConfig
from pipeline.runners.checks import check_places, check_runner


def choose_runner(loaded: LoadedConfig, runner: str | None, flags: Sequence[str]) -> tuple[str, list[str]]:
    """Chooses the engine of a run and its flags, checked before anything else is done.

    The command line takes precedence over the config's `runner` block. The block's options come before the
    command line's flags, because Beam takes the last value of a flag, or all values of a repeatable one. If
    the command line names another runner, the block's options are dropped.

    Args:
      loaded: The config.
      runner: The runner of the command line; None leaves it to the config, or else to this machine.
      flags: The flags of the command line.
    Raises:
      UserError: A flag or an option is unknown, wrong or missing.
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
    """The paths that workers read and write, by config key; a function has none, since Python imports it."""
    paths = loaded.paths
    by_key: dict[str, list[str]] = {}
    if not is_function(paths.model):
        by_key["model.path"] = [paths.model]
    by_key["input.files"] = list(paths.inputs)
    by_key["output.path"] = [paths.output]
    return {f"{loaded.where}: {key}": named for key, named in by_key.items()}
