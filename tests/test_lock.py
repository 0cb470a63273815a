"""One command at a time in a run directory, here and in an object store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_filesystem import MemoryFileSystem

from pipeline import lock
from pipeline.lock import run_lock
from transforms import files
from transforms.errors import UserError

REMOTE = f"{MemoryFileSystem.scheme()}://bucket/runs/x"
OWNER = f"{MemoryFileSystem.scheme()}://bucket/runs/.x.owner"


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    MemoryFileSystem.blobs.clear()
    yield
    MemoryFileSystem.blobs.clear()


@pytest.mark.parametrize("remote", [False, True])
def test_the_second_is_refused_and_the_next_is_not(tmp_path: Path, remote: bool) -> None:
    run = REMOTE if remote else str(tmp_path / "runs" / "x")
    busy = rf"{run}: another command is at work there \(process {os.getpid()}\); wait for it"
    with run_lock(run):
        with pytest.raises(UserError, match=busy), run_lock(run):
            pass
        with run_lock(f"{run}y"):
            pass
    with run_lock(run):
        pass
    assert list(tmp_path.iterdir()) == []
    assert MemoryFileSystem.blobs == {}


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """A killed process has no chance to let go, and leaves its file."""
    run = str(tmp_path / "x")
    program = (
        f"import os; from pipeline.lock import run_lock\nwith run_lock({run!r}): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".x.lock"]
    with run_lock(run):
        pass
    assert list(tmp_path.iterdir()) == []


def test_whoever_waits_for_a_name_that_is_gone_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the holder took the file away, locked after: no lock of anything."""
    run, path = str(tmp_path / "x"), tmp_path / ".x.lock"
    real, opened = lock.fcntl.flock, []

    def late(file: object, how: int) -> None:
        if not opened:
            path.unlink()  # what the holder does at its end
        opened.append(file)
        real(file, how)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with run_lock(run):
        assert len(opened) == 2
        assert path.read_text() == str(os.getpid())


def test_where_nothing_may_be_made_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "mount"
    run.mkdir()
    monkeypatch.setattr(lock.os, "access", lambda path, how: path != str(tmp_path))
    with run_lock(str(run)):
        assert [path.name for path in tmp_path.rglob("*")] == ["mount", ".lock"]
        with pytest.raises(UserError, match="another command is at work there"), run_lock(str(run)):
            pass
    assert list(run.iterdir()) == []


def owner(**changed: object) -> None:
    told = {"host": "elsewhere", "process": 7, "seen": time.time() - 30, **changed}
    files.write_atomic(OWNER, json.dumps(told).encode())


def test_a_store_s_owner_on_another_machine_is_believed_for_a_while() -> None:
    owner()
    busy = r"process 7 on elsewhere\); wait for it; if it was killed, wait (59|60) seconds"
    with pytest.raises(UserError, match=busy), run_lock(REMOTE):
        pass
    owner(seen=time.time() - 91)
    with run_lock(REMOTE):
        assert json.loads(files.read_bytes(OWNER))["process"] == os.getpid()


def test_a_store_s_owner_on_this_machine_can_be_asked() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner(host=lock.socket.gethostname(), process=ended.pid)
    with run_lock(REMOTE):
        pass
    owner(host=lock.socket.gethostname(), process=os.getppid())
    with pytest.raises(UserError, match=rf"\(process {os.getppid()}\)"), run_lock(REMOTE):
        pass


def test_the_owner_of_a_store_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_EVERY", 0.01)
    with run_lock(REMOTE):
        first = json.loads(files.read_bytes(OWNER))["seen"]
        for _ in range(500):
            if json.loads(files.read_bytes(OWNER))["seen"] > first:
                break
            time.sleep(0.01)
        else:
            pytest.fail("it says nothing")
    assert not files.exists(OWNER)
