"""One run at a time in a directory: the second is refused before it has done anything."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from pipeline.place import neighbour
from transforms import files
from transforms.errors import UserError

#: An object store knows no locks. Whoever is at work in it says so every so many seconds, and is taken for
#: dead when it has not for as long as that.
_EVERY, _DEAD = 20.0, 90.0
_REMEDY = "wait for it, or give another --output"


@contextmanager
def run_lock(run: str) -> Iterator[None]:
    """Holds a run directory for this command; when the process dies, however it does, it is free again.

    Args:
      run: The run directory. Folders above it are made, and taken away again if they stay empty.
    Raises:
      UserError: Another command is at work there.
    """
    held = _remote(run) if files.is_url(run) else _local(run)
    with held:
        yield


@contextmanager
def _local(run: str) -> Iterator[None]:
    parent = os.path.dirname(run)
    made = _make_folders(parent)
    # Beside the run, which another takes the place of; where nothing may be made there, none can.
    inside = not os.access(parent, os.W_OK | os.X_OK)
    path = os.path.join(run, ".lock") if inside else neighbour(run, "lock")
    with contextlib.ExitStack() as stack:
        while True:
            lock = stack.enter_context(open(path, "a+", encoding="utf-8"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise _busy(run, lock.read().strip(), _REMEDY) from error
            if _is_that(lock, path):
                break  # otherwise whoever held it has taken it away since it was opened
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            os.unlink(path)
            for folder in reversed(made):
                with contextlib.suppress(OSError):  # it is not empty, as it should be
                    os.rmdir(folder)


def _make_folders(folder: str) -> list[str]:
    """Makes a folder and those above it; returns those that were missing, from the top."""
    missing = []
    while not os.path.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        files.makedirs(path)
    return missing[::-1]


def _is_that(lock: TextIO, path: str) -> bool:
    """Whether a file that is open still has its name."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _busy(run: str, process: str, remedy: str) -> UserError:
    return UserError(f"another command is at work there (process {process or 'unknown'})", run, remedy)


@contextmanager
def _remote(run: str) -> Iterator[None]:
    path = neighbour(run, "owner")
    me = {"host": socket.gethostname(), "process": os.getpid()}
    if files.exists(path):
        _refuse_while_alive(run, json.loads(files.read_bytes(path)), me)
    _say(path, me)
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(_EVERY):
            # One that fails does no harm, and the run itself will find out if none gets through.
            with contextlib.suppress(UserError):
                _say(path, me)

    thread = threading.Thread(target=go_on, name="attribeam-owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        files.delete_tree(path)


def _say(path: str, me: dict[str, Any]) -> None:
    files.write_atomic(path, json.dumps({**me, "seen": time.time()}).encode())


def _refuse_while_alive(run: str, owner: dict[str, Any], me: dict[str, Any]) -> None:
    """Refuses a directory whose owner may be alive; one of this machine can be asked."""
    since = time.time() - owner["seen"]
    if since > _DEAD:
        return
    here, process = owner["host"] == me["host"], owner["process"]
    if here and process != me["process"]:
        try:
            os.kill(process, 0)  # sends nothing
        except ProcessLookupError:
            return
        except PermissionError:
            pass  # it is another user's, and alive
    remedy = f"wait for it; if it was killed, wait {_DEAD - since:.0f} seconds"
    raise _busy(run, f"{process}" if here else f"{process} on {owner['host']}", remedy)
