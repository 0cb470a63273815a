"""The program's entry point: the command `attribeam`, `python -m pipeline`, and this file run as a script."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Launchers that execute this file put its folder, not the project's, first on the path.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [
        os.path.dirname(here),
        *(entry for entry in sys.path if os.path.abspath(entry or ".") != here),
    ]

from pipeline.cli.commands import run


def with_verb(arguments: Sequence[str]) -> list[str]:
    """Adds the verb to the command line of a launcher that gives only flags, as `--name=value`.

    `--config=C --output=D` is `explain C --output=D`. A switch may be true or false, and empty options are
    left out, because launchers' forms send both.
    """
    names = [argument.partition("=")[0] for argument in arguments]
    if not arguments or not arguments[0].startswith("--") or "--config" not in names:
        return list(arguments)
    at = names.index("--config")
    _, given, config = arguments[at].partition("=")
    rest = [*arguments[:at], *arguments[at + (1 if given else 2) :]]
    if not given:
        config = "".join(arguments[at + 1 : at + 2])
    found = ["explain", config]
    for argument in rest:
        name, given, value = argument.partition("=")
        if name in ("--overwrite", "--json", "--debug") and value.lower() in ("true", "false"):
            found += [name] * (value.lower() == "true")
        elif value or not given:
            found.append(argument)
    return found


def main() -> None:
    """Runs the command line and exits with its status."""
    sys.exit(run(with_verb(sys.argv[1:])))


if __name__ == "__main__":
    main()
