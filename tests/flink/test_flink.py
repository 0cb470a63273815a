"""The quickstart's config on a Flink session cluster of two TaskManagers, by the command line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pipeline.results.run import Run
from tests.flink import parts, traces
from tests.flink.client import SHARDS, Client, check_same, shards_of
from tests.flink.cluster import Cluster, wait_until
from tests.flink.traces import BEGIN, COMMIT, MODEL


def on(cluster: Cluster) -> list[str]:
    """Two slots of the cluster's four, so that one TaskManager has room for all."""
    return [*cluster.flags, "--parallelism=2"]


def test_two_taskmanagers_write_what_this_machine_writes(cluster: Cluster, workshop: Path, here: Run) -> None:
    client = Client(workshop / "runs" / "flink", on(cluster))
    check_same(client.finish(), here, "FlinkRunner")
    events = traces.read(cluster.traces, client.started)
    assert shards_of(events, BEGIN) == shards_of(events, COMMIT) == list(range(SHARDS)), "each shard once"
    done = {event.worker: event.parent for event in events if event.what == COMMIT}
    assert set(done.values()) == {process.pid for process in cluster.taskmanagers}, "both worked"
    # The combine's end closes the workers and starts others: a model there would be loaded for nothing.
    loads = [event for event in events if event.what == MODEL]
    assert {event.worker for event in loads} == done.keys(), "every model that was loaded explained shards"
    assert max(event.at for event in loads) < min(event.at for event in events if event.what == COMMIT)
    assert cluster.states() == ["FINISHED"]


def test_a_killed_taskmanager_costs_no_row(cluster: Cluster, workshop: Path, here: Run) -> None:
    client = Client(workshop / "runs" / "killed", on(cluster))
    wait_until(lambda: len(client.committed()) >= 6, "six shards", 300)
    victim = cluster.taskmanagers.pop(0)
    victim.kill()
    killed = time.time()
    run = client.finish()
    events = traces.read(cluster.traces, client.started)
    before = {event.shard for event in events if event.what == COMMIT and event.at < killed}
    assert 6 <= len(before) < SHARDS, "it was killed in the middle"
    assert victim.pid in {event.parent for event in events if event.what == COMMIT}, "it had done some"
    begun = shards_of(events, BEGIN)
    assert set(begun) == set(range(SHARDS))
    again = {shard for shard in begun if begun.count(shard) > 1}
    assert not again & before, "what was committed is not computed again"
    check_same(run, here, "FlinkRunner")
    cluster.add()
    cluster.wait_for_taskmanagers(2)


def test_an_interrupt_cancels_the_job_and_the_command_goes_on(
    cluster: Cluster, workshop: Path, here: Run
) -> None:
    client = Client(workshop / "runs" / "interrupted", on(cluster))
    wait_until(lambda: len(client.committed()) >= 4, "four shards", 300)
    assert len(job_servers(cluster)) == 1
    client.process.send_signal(signal.SIGINT)
    interrupted = time.monotonic()
    status, line = client.wait()
    assert time.monotonic() - interrupted < 30
    assert (status, line) == (
        3,
        "error: interrupted; finished work is kept, and the same command continues from there",
    )
    assert cluster.states()[-1] == "CANCELED"
    assert job_servers(cluster) == []
    wait_until(lambda: cluster.workers() == [], "end of the workers")
    done = client.committed()
    assert 4 <= len(done) < SHARDS

    check_same(Client(client.output, on(cluster)).finish(), here, "FlinkRunner")
    begun = shards_of(traces.read(cluster.traces, client.started), BEGIN)
    assert set(begun) == set(range(SHARDS))
    assert [shard for shard in done if begun.count(shard) > 1] == []
    assert cluster.states()[-1] == "FINISHED"
    assert job_servers(cluster) == []


def job_servers(cluster: Cluster) -> list[int]:
    """Processes that run the job server's jar for this cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            wanted = (str(parts.JOB_SERVER), f"http://{cluster.master}")
            if all(argument.encode() in command for argument in wanted):
                found.append(int(entry.name))
    return found
