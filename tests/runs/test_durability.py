"""What a run goes through beside faults at a boundary: kills at any moment, others at work, files that go."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from apache_beam.io.filesystem import BeamIOError

import pipeline.execution.run
import transforms.explain
from pipeline import explain, load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.faults import (
    ROWS,
    SCORING,
    Point,
    armed,
    check_resumed,
    command,
    journal,
    tables,
    undisturbed,
    world,
)
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import OutputLost, RunReplaced, UserError
from transforms.explain import _ExplainShard
from transforms.sources.base import Shard
from transforms.worker.failures import note_failure
from transforms.worker.journal import ShardResult
from transforms.worker.shard import explain_shard
from transforms.worker.spec import ExplainSpec


@pytest.fixture(scope="module")
def config() -> Path:
    return world()


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    return undisturbed()


KILLS = 10
SLOW = f"import time\n{SCORING}".replace(
    "    wind =", '    time.sleep(0.02)\n    wind =', 1
)  # fmt: skip


def test_a_run_that_is_killed_again_and_again(config: Path, tmp_path: Path) -> None:
    """The real command, as a user gives it, killed at moments that nobody chose."""
    folder = tmp_path / "slow"
    shutil.copytree(config.parent, folder, ignore=shutil.ignore_patterns("whole"))
    (folder / "scoring.py").write_text(SLOW, encoding="utf-8")
    settings = ["--set", "compute.shard_rows=1", "--set", "compute.batch_size=1"]
    whole = tables(worlds.explain(folder / "config.yaml", tmp_path / "whole", *settings[1::2]))
    place = tmp_path / "run"
    line = [sys.executable, "-m", "pipeline", *command(folder / "config.yaml", place, *settings)]
    rng, kills, done = np.random.default_rng(1), 0, {}
    while kills < KILLS:
        victim = subprocess.Popen(line, cwd=worlds.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Some strike while it plans, most while it explains.
        begun, patience = len(done) + int(rng.integers(0, 4)), time.monotonic() + rng.uniform(0.5, 30)
        while len(done) < begun and time.monotonic() < patience and victim.poll() is None:
            time.sleep(0.005)
            done = journal(place)
        time.sleep(rng.uniform(0, 0.1))
        assert victim.poll() is None, f"it ended after {kills} kills"
        victim.kill()
        assert victim.wait() == -9
        kills += 1
        found = journal(place)
        assert found.items() >= done.items()  # what was done is not done again
        done = found
    assert 0 < len(done) < ROWS
    check_resumed(folder / "config.yaml", place, whole, *settings[1::2])


@pytest.fixture
def interrupted(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run whose shards are all done, and that is not committed."""
    place = tmp_path / "run"
    with armed(Point("before pipeline.execution.run:commit_run"), "broken"):
        assert cli.run(command(config, place)) == 3
    capsys.readouterr()
    return place


@pytest.mark.parametrize(
    "harm",
    [
        lambda place: (place / "attributions" / "part-00001.parquet").unlink(),
        lambda place: (place / "rejected" / "part-00001.parquet").unlink(),
        lambda place: (place / "attributions" / "part-00001.parquet").write_bytes(b"PAR1"),
        lambda place: (place / "_work" / "shards" / "00001.done").write_bytes(b""),
        lambda place: flip(place / "_work" / "shards" / "00001.done", -9),
        lambda place: flip(place / "_work" / "shards" / "00001.done", 3),
    ],
    ids=[
        "part gone",
        "rejected gone",
        "part cut short",
        "entry empty",
        "entry damaged",
        "entry of another run",
    ],
)
def test_an_entry_whose_shard_is_not_whole_is_none(
    harm: Callable[[Path], object], config: Path, whole: dict[str, bytes], interrupted: Path
) -> None:
    before = journal(interrupted)
    harm(interrupted)
    assert tables(worlds.explain(config, interrupted)) == whole
    parts = {n: (interrupted / "attributions" / f"part-{n}.parquet").stat().st_mtime_ns for n in before}
    assert {n for n in before if parts[n] != before[n]} == {"00001"}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_nothing_of_another_attempt_is_read_as_part_of_a_run(
    config: Path, whole: dict[str, bytes], interrupted: Path
) -> None:
    """A part that a damaged disk once made a worker write, half-written files, and somebody's shards."""
    shutil.copy(
        interrupted / "rejected" / "part-00001.parquet", interrupted / "rejected" / "part-00002.parquet"
    )
    shutil.copy(
        interrupted / "attributions" / "part-00001.parquet",
        interrupted / "attributions" / "part-00009.parquet",
    )
    (interrupted / "attributions" / ".part-0123.tmp").write_bytes(b"PAR1")
    (interrupted / ".manifest.json.0123.tmp").write_bytes(b"{")
    assert tables(worlds.explain(config, interrupted)) == whole


@pytest.mark.parametrize("committed", [False, True])
def test_a_worker_that_was_left_for_dead_writes_nothing_to_another_s_run(
    committed: bool, config: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    place = tmp_path / "run"
    plan = make_plan(load_config(str(config), output=str(place), settings=["seed=5"]), in_process=True)
    reference = tmp_path / "reference.npz"
    reference.write_bytes(plan.probe.artifact.to_bytes())
    late = replace(plan.spec, reference=str(reference))
    with armed(Point("before pipeline.execution.run:commit_run"), "broken"):
        assert cli.run(command(config, place)) == 3
    if committed:
        worlds.explain(config, place)
    files = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    with pytest.raises(RunReplaced, match="is committed" if committed else "now belongs to another run"):
        explain_shard(plan.shards[1], late)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == files
    with pytest.raises(RunReplaced):  # by way of Beam's step, which leaves notes of what fails
        list(_ExplainShard(late).process(plan.shards[1]))
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == files
    # One that comes to its end after the run was replaced: before the first name is given.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.worker.shard.check_own", late_check(patch))
        with pytest.raises(RunReplaced):
            explain_shard(plan.shards[1], late)
    found = {path: path.stat().st_mtime_ns for path in place.rglob("*.parquet")}
    assert found.items() <= files.items()
    assert tables(worlds.explain(config, place)) == whole


def late_check(patch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The check that passes the first time, as long ago, and is itself from then on."""
    from transforms.worker.journal import check_own

    def check(run: str, fingerprint: str, *, begun: bool) -> None:
        patch.setattr("transforms.worker.shard.check_own", check_own)

    return check


def test_two_commands_at_once(config: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """The second is refused whatever it is, and the first does not notice."""
    place = tmp_path / "run"
    refused: list[str] = []

    def second(*_: object) -> None:
        for settings in ((), ("seed=3",)):
            for overwrite in (False, True):
                with pytest.raises(UserError) as error:
                    worlds.explain(config, place, *settings, overwrite=overwrite)
                refused.append(str(error.value))

    with pytest.MonkeyPatch.context() as patch:
        real = pipeline.execution.run.commit_run
        patch.setattr(pipeline.execution.run, "commit_run", lambda *args: (second(), real(*args))[1])
        run = worlds.explain(config, place)
    assert tables(run) == whole
    assert len(refused) == 4
    assert all(f"{place}: another command is working there" in line for line in refused)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def bucket() -> Iterator[str]:
    MemoryFileSystem.blobs.clear()
    yield f"{MemoryFileSystem.scheme()}://bucket/runs/x"
    MemoryFileSystem.blobs.clear()


def blobs(bucket: str, tmp_path: Path) -> dict[str, bytes]:
    """The tables of a run in a store, by way of a folder; nothing else may be in the store."""
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    for path, data in MemoryFileSystem.blobs.items():
        target = tmp_path / "copy" / path.removeprefix(f"{bucket}/")
        assert path.startswith(f"{bucket}/"), path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return tables(load_run(tmp_path / "copy"))


@pytest.mark.parametrize("moves", [0, 1, 4, 99])
def test_a_run_in_a_store_is_replaced_whole(
    moves: int, bucket: str, config: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """However many files are moved before the launcher is gone: no reader takes parts of both for one run."""
    # More parts than the new run has.
    explain(str(config), output=bucket, settings=["compute.shard_rows=10"])
    old = blobs(bucket, tmp_path)
    left = [moves]

    def rename(self: object, sources: list[str], targets: list[str]) -> None:
        for source, target in zip(sources, targets, strict=True):
            if not left[0]:
                raise BeamIOError("gone")
            left[0] -= 1
            assert target not in MemoryFileSystem.blobs  # not every store would replace it
            MemoryFileSystem.blobs[target] = MemoryFileSystem.blobs.pop(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryFileSystem, "rename", rename)
        if moves < 99:
            with pytest.raises(OutputLost, match="cannot be written: gone"):
                explain(str(config), output=bucket, overwrite=True)
            assert not any(path == f"{bucket}/manifest.json" for path in MemoryFileSystem.blobs)
            left[0] = 99
        run = explain(str(config), output=bucket, overwrite=moves == 99)
    assert run.path == bucket
    assert blobs(bucket, tmp_path) == whole != old


def test_a_worker_process_that_dies_ends_the_run_and_costs_its_shard(config: Path, tmp_path: Path) -> None:
    """As the system ends the largest process when memory runs out."""
    folder = tmp_path / "slow"
    shutil.copytree(config.parent, folder, ignore=shutil.ignore_patterns("whole"))
    (folder / "scoring.py").write_text(SLOW, encoding="utf-8")
    config, place = folder / "config.yaml", tmp_path / "run"
    settings = ["--set", "compute.shard_rows=1", "--set", "compute.batch_size=1"]
    line = [
        sys.executable,
        "-m",
        "pipeline",
        *command(config, place, *settings, "--set", "compute.workers=2"),
    ]
    run = subprocess.Popen(line, cwd=worlds.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(journal(place)) < 3:
        assert run.poll() is None
        time.sleep(0.01)
    started = children(run.pid).items()
    workers = [
        int(number) for number, line in started if "sdk_worker_main" in line and "sh\0" not in line[:8]
    ]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 3
    assert "a worker process died, as happens when memory runs out; finished work is kept" in err.decode()
    assert b"Traceback" not in err
    assert not any(Path(f"/proc/{number}").exists() for number in workers)
    done = journal(place)
    assert 3 <= len(done) < ROWS
    resumed = worlds.explain(config, place, *settings[1::2])
    assert resumed.manifest["counts"]["rows_read"] == ROWS
    parts = {n: (place / "attributions" / f"part-{n}.parquet").stat().st_mtime_ns for n in done}
    assert parts == done


def children(parent: int) -> dict[str, str]:
    """Command lines of the processes that a process has started, and of theirs."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found[path.name] = (path / "cmdline").read_text()
                found |= children(int(path.name))
    return found


def test_a_file_that_vanishes_costs_its_shards(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on with the others, says which file it is, and finishes once that is back."""
    folder, place = tmp_path / "world", tmp_path / "run"
    shutil.copytree(config.parent, folder, ignore=shutil.ignore_patterns("whole"))
    whole = tables(worlds.explain(folder / "config.yaml", tmp_path / "whole"))
    lost, away = folder / "rows-2.parquet", tmp_path / "away"
    real = pipeline.execution.run._run

    def vanish(*args: object) -> object:
        lost.rename(away)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.execution.run, "_run", vanish)
        assert cli.run(command(folder / "config.yaml", place)) == 3
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(
        r"error: shard 2 failed: rows-2\.parquet: .* \(2 of 4 shards failed\); finished work is kept, .*",
        last,
    )
    assert set(journal(place)) == {"00000", "00001"}
    away.rename(lost)
    check_resumed(folder / "config.yaml", place, whole)


def test_a_file_that_is_cut_short_while_the_run_goes_on(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "run"
    folder = tmp_path / "world"
    shutil.copytree(config.parent, folder, ignore=shutil.ignore_patterns("whole"))
    real = pipeline.execution.run._run

    def shorten(*args: object) -> object:
        path = folder / "rows-2.parquet"
        path.write_bytes(path.read_bytes()[:-500])
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.execution.run, "_run", shorten)
        assert cli.run(command(folder / "config.yaml", place)) == 3
    assert "rows-2.parquet" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_shard_that_fails_and_is_done_when_it_is_tried_again(
    config: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """As engines try again: the note of the first time breaks nothing."""
    failed: list[int] = []
    real = transforms.explain.explain_shard

    def twice(shard: Shard, spec: ExplainSpec) -> ShardResult:
        if shard.index == 1 and not failed:
            failed.append(1)
            note_failure(spec.run, 1, OSError("a store that did not answer"))
        return real(shard, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.explain.explain_shard", twice)
        run = worlds.explain(config, tmp_path / "run")
    assert failed
    assert tables(run) == whole
