"""The command line as the tests on real engines use it, and what they ask of its runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import load_run
from pipeline.results.run import Run
from tests.flink import traces
from tests.flink.cluster import ROOT, end_with_parent
from tests.support import worlds

ROWS = 100_000
SHARD_ROWS = 2_500
SHARDS = ROWS // SHARD_ROWS
#: A run takes half a minute; on a machine that others use as well, several.
PATIENCE = 600.0


@dataclass
class Client:
    """The command line in a process of its own, on the quickstart's config.

    Args:
      output: The run directory.
      flags: Of the engine.
    """

    output: Path
    flags: list[str]
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        config = self.output.parent.parent / "configs" / "flights.yaml"
        command = [sys.executable, "-m", "pipeline", "explain", str(config), "--output", str(self.output)]
        self.process = subprocess.Popen(
            [*command, "--set", f"compute.shard_rows={SHARD_ROWS}", *self.flags],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_prepare,
        )

    def wait(self) -> tuple[int, str]:
        """The exit status and the last line of stderr."""
        try:
            _, said = self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
        return self.process.returncode, (said.strip().splitlines() or [""])[-1]

    def finish(self) -> Run:
        """The committed run."""
        status, line = self.wait()
        assert status == 0, line
        return load_run(str(self.output))

    def committed(self) -> set[int]:
        """Shards whose journal is there."""
        return {int(path.stem) for path in self.output.glob("_work/shards/*.done")}


def _prepare() -> None:
    end_with_parent()
    # What is started in the background may ignore interrupts, and would pass that on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def check_same(run: Run, wanted: Run, runner: str) -> None:
    """Every table, byte for byte, and the counts."""
    assert run.manifest["runner"] == runner
    assert run.manifest["fingerprint"] == wanted.manifest["fingerprint"]
    assert run.manifest["counts"] == wanted.manifest["counts"]
    found, expected = worlds.part_bytes(run), worlds.part_bytes(wanted)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def shards_of(events: list[traces.Event], what: str) -> list[int]:
    """The shards that this happened to, as often as it did."""
    return sorted(event.shard for event in events if event.what == what)
