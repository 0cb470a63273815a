"""Fixtures of the tests on real engines: a cluster, the quickstart's data, and its run on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.results.run import Run
from tests.flink import apart, parts
from tests.flink.client import ROWS, SHARDS, Client
from tests.flink.cluster import ROOT, Cluster
from tests.support import worlds


def pytest_report_header() -> str:
    network = "loopback alone" if apart.has_loopback_alone() else "this machine's own"
    return f"Flink {parts.FLINK}, Beam {parts.BEAM}; network: {network}"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as found:
        yield found


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A folder like a checkout's, with 100,000 flights and a model of them."""
    folder = Path(tempfile.mkdtemp(prefix="attribeam-flights-"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    options = ["--out", str(folder / "data" / "flights"), "--rows", str(ROWS), "--epochs", "1"]
    subprocess.run([sys.executable, "-m", "examples.flights", *options], cwd=ROOT, check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def here(workshop: Path) -> Run:
    """The run on this machine, which every other has to equal."""
    run = Client(workshop / "runs" / "here", []).finish()
    counts = run.manifest["counts"]
    assert counts["rows_read"] == ROWS
    assert 0 < counts["rows_rejected"] < ROWS / 10
    assert len(worlds.part_bytes(run)) >= SHARDS + 2, "attributions, importance, and rejected rows"
    return run
