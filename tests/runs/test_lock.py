"""One command at a time in a run directory, here and in an object store."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.run_directory import lock
from pipeline.run_directory.lock import run_lock
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.storage import files

REMOTE = f"{MemoryFileSystem.scheme()}://bucket/runs/x"
OWNER = f"{MemoryFileSystem.scheme()}://bucket/runs/.x.owner"


@pytest.fixture(autouse=True)
def _empty_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.0)
    MemoryFileSystem.blobs.clear()
    yield
    MemoryFileSystem.blobs.clear()


@pytest.mark.parametrize("remote", [False, True])
def test_the_second_is_refused_and_the_next_is_not(tmp_path: Path, remote: bool) -> None:
    run = REMOTE if remote else str(tmp_path / "runs" / "x")
    busy = rf"{run}: another command is working there \(process {os.getpid()}\); wait for it"
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
        "import os; from pipeline.run_directory.lock import run_lock\n"
        f"with run_lock({run!r}): os.kill(os.getpid(), 9)"
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

    def late(file: int, how: int) -> None:
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
        with pytest.raises(UserError, match="another command is working there"), run_lock(str(run)):
            pass
    assert list(run.iterdir()) == []


def owner(**changed: object) -> None:
    told = {"host": "elsewhere", "process": 7, "token": "x", "beats": 3, **changed}
    files.write_atomic(OWNER, json.dumps(told).encode())


def test_a_store_s_owner_on_another_machine_is_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock of another machine is asked: whoever changes what it says is alive."""
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lock, "_STALE_SECONDS", 0.2)
    owner()
    beat = threading.Timer(0.1, lambda: owner(beats=4))
    beat.start()
    with pytest.raises(UserError, match=r"process 7 on elsewhere\); wait for it"), run_lock(REMOTE):
        pass
    beat.join()
    start = time.monotonic()
    with run_lock(REMOTE):
        assert json.loads(files.read_bytes(OWNER))["process"] == os.getpid()
    assert time.monotonic() - start >= 0.2


def test_a_store_s_owner_on_this_machine_can_be_asked() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, 10**12):
        owner(host=lock.socket.gethostname(), process=process)
        with run_lock(REMOTE):
            pass
    owner(host=lock.socket.gethostname(), process=os.getppid())
    with pytest.raises(UserError, match=rf"\(process {os.getppid()}\)"), run_lock(REMOTE):
        pass


@pytest.mark.parametrize("said", [b"", b"{}", b"[]", b"\xff", b'{"host": 1, "process": "x", "token": null}'])
def test_an_owner_that_cannot_be_read_is_none(said: bytes) -> None:
    files.write_atomic(OWNER, said)
    with run_lock(REMOTE):
        pass
    assert not files.exists(OWNER)


def test_of_two_that_begin_at_once_in_a_store_the_last_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        owner()  # the other has looked before we wrote, and writes now

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(UserError, match="process 7 on elsewhere"), run_lock(REMOTE):
        pass
    assert json.loads(files.read_bytes(OWNER))["token"] == "x"


def test_whoever_has_taken_a_store_over_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.01)
    with run_lock(REMOTE):
        owner()
        time.sleep(0.05)
    assert json.loads(files.read_bytes(OWNER))["token"] == "x"


def test_a_filesystem_without_locks_is_taken_for_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    run = str(tmp_path / "x")
    with run_lock(run):
        assert [path.name for path in tmp_path.iterdir()] == [".x.owner"]
        with pytest.raises(UserError, match=rf"working there \(process {os.getpid()}\)"), run_lock(run):
            pass
    assert list(tmp_path.iterdir()) == []


def test_somebody_s_file_is_no_lock(tmp_path: Path) -> None:
    path, precious = tmp_path / ".x.lock", tmp_path / "precious"
    precious.write_text("12")
    path.symlink_to(precious)
    for make in (path.mkdir, lambda: path.write_text("thesis"), None):
        stands = r"\.x\.lock: is in the place of a run's lock; move it away"
        with pytest.raises(UserError, match=stands), run_lock(str(tmp_path / "x")):
            pass
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        if make is not None:
            make()
    assert precious.read_text() == "12"


def test_a_lock_that_is_taken_away_breaks_nothing(tmp_path: Path) -> None:
    with run_lock(str(tmp_path / "runs" / "x")):
        shutil.rmtree(tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_the_owner_of_a_store_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.01)
    with run_lock(REMOTE):
        for _ in range(500):
            if json.loads(files.read_bytes(OWNER))["beats"] > 1:
                break
            time.sleep(0.01)
        else:
            pytest.fail("it says nothing")
    assert not files.exists(OWNER)
