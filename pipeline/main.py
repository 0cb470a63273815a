"""The program's entry point: the command `attribeam`, `python -m pipeline`, and this file run as a script."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Launchers that execute this file put its folder, not the project's, first on the path.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [
        os.path.dirname(here),
        *(entry for entry in sys.path if os.path.abspath(entry or ".") != here),
    ]

from pipeline.cli import run


def main() -> None:
    """Runs the command line and exits with its status."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
