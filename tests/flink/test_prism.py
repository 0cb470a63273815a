"""The quickstart's config on Prism, Beam's runner in Go, by the command line."""

from __future__ import annotations

from pathlib import Path

from pipeline.results.run import Run
from tests.flink import parts
from tests.flink.client import Client, check_same


def test_prism_writes_what_this_machine_writes(workshop: Path, here: Run) -> None:
    flags = ["--runner=PrismRunner", f"--prism_location={parts.PRISM}", "--environment_type=LOOPBACK"]
    check_same(Client(workshop / "runs" / "prism", flags).finish(), here, "PrismRunner")
