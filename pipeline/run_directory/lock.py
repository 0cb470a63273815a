"""One run at a time in a directory: the second is refused before it has done anything."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.run_directory.layout import neighbour
from transforms.errors import UserError
from transforms.outputs.parts import written
from transforms.storage import files

#: An object store knows no locks. Whoever is at work in it says so every so many seconds, and is taken for
#: dead when nothing has been heard for as long as that; no clock but this machine's own is asked.
_EVERY, _DEAD, _LOOK = 20.0, 50.0, 2.0
#: Two that begin at once find nobody and write; after so long they read who came last.
_SETTLES = 1.0
_REMEDY = "wait for it, or give another --output"
#: Bytes that a lock holds at most: the number of a process.
_LONGEST = 20
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@contextmanager
def run_lock(run: str) -> Iterator[None]:
    """Holds a run directory for this command; when the process dies, however it does, it is free again.

    Args:
      run: The run directory. Folders above it are made, and taken away again if they stay empty.
    Raises:
      UserError: Another command is at work there, or somebody's file has the lock's name.
      OutputLost: The lock cannot be written.
    """
    with _owned(run) if files.is_url(run) else _locked(run):
        yield


@contextmanager
def _locked(run: str) -> Iterator[None]:
    parent = os.path.dirname(run)
    made = _make_folders(parent)
    # Beside the run, which another takes the place of; where nothing may be made there, none can.
    inside = not os.access(parent, os.W_OK | os.X_OK)
    path = os.path.join(run, ".lock") if inside else neighbour(run, "lock")
    with contextlib.ExitStack() as stack:
        stack.callback(_take_away, made)
        lock = _hold(run, path, stack)
        if lock is None:
            stack.enter_context(_owned(run))
        else:
            stack.callback(_remove, path)
            with written(path):
                os.ftruncate(lock, 0)
                os.write(lock, str(os.getpid()).encode())
        yield


def _hold(run: str, path: str, stack: contextlib.ExitStack) -> int | None:
    """The open lock file, held until the stack ends; None where the filesystem has no locks."""
    while True:
        lock = _open(path)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(run, os.pread(lock, _LONGEST, 0).decode("ascii", "replace"), _REMEDY) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _remove(path)
            return None
        # Otherwise whoever held it has taken it away since it was opened.
        if _is_that(lock, path):
            return lock


def _open(path: str) -> int:
    """Opens or makes the lock file, if it is one."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError as error:
        problem, remedy = (
            "cannot be written: permission denied",
            "it is left from a killed run of another user: remove it",
        )
        raise UserError(problem, path, remedy) from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            with written(path):
                raise
        raise UserError("is in the place of a run's lock", path, "move it away") from error
    content = os.pread(lock, _LONGEST + 1, 0) if stat.S_ISREG(os.fstat(lock).st_mode) else b"no file"
    if len(content) > _LONGEST or not (content.isdigit() or not content):
        os.close(lock)
        raise UserError("is in the place of a run's lock", path, "move it away")
    return lock


def _is_that(lock: int, path: str) -> bool:
    """Whether a file that is open still has its name."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _make_folders(folder: str) -> list[str]:
    """Makes a folder and those above it; returns those that were missing, from the top."""
    missing = []
    while not files.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        files.makedirs(path)
    return missing[::-1]


def _take_away(folders: list[str]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # it is not empty, as it should be
            os.rmdir(folder)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _busy(run: str, process: str, remedy: str) -> UserError:
    return UserError(f"another command is working there (process {process or 'unknown'})", run, remedy)


@contextmanager
def _owned(run: str) -> Iterator[None]:
    path = neighbour(run, "owner")
    me = {"host": socket.gethostname(), "process": os.getpid(), "token": uuid.uuid4().hex}
    _wait_for_the_dead(run, path, me)
    with written(path):
        _say(path, me, 0)
    time.sleep(_SETTLES)
    other = _owner(path)
    if other is not None and other["token"] != me["token"]:
        raise _busy(run, _told(other, me), _REMEDY)
    stop = threading.Event()

    def go_on() -> None:
        beats = 0
        while not stop.wait(_EVERY):
            beats += 1
            # One that fails does no harm. Another who has taken over, because none got through, explains the
            # same under the same names, or else has made the journal its own, which stops our workers.
            with contextlib.suppress(UserError, OSError):
                if (_owner(path) or me)["token"] == me["token"]:
                    _say(path, me, beats)

    thread = threading.Thread(target=go_on, name="attribeam-owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        # What is left behind is taken for dead by the next.
        with contextlib.suppress(UserError, OSError):
            if (_owner(path) or me)["token"] == me["token"]:
                files.delete_tree(path)


def _say(path: str, me: dict[str, Any], beats: int) -> None:
    files.write_atomic(path, json.dumps({**me, "beats": beats}).encode())


def _owner(path: str) -> dict[str, Any] | None:
    """Who says to be at work; None where nobody does, or what is said is damaged."""
    try:
        owner = json.loads(files.read_bytes(path)) if files.exists(path) else None
    except UserError:  # gone between the two
        return None
    except ValueError:
        return None
    types = {"host": str, "process": int, "token": str, "beats": int}
    whole = isinstance(owner, dict) and all(isinstance(owner.get(key), kind) for key, kind in types.items())
    return owner if whole else None


def _told(owner: dict[str, Any], me: dict[str, Any]) -> str:
    return f"{owner['process']}" if owner["host"] == me["host"] else f"{owner['process']} on {owner['host']}"


def _wait_for_the_dead(run: str, path: str, me: dict[str, Any]) -> None:
    """Returns once nobody owns a directory. One of this machine can be asked; others are listened to.

    Raises:
      UserError: The owner is alive.
    """
    owner = _owner(path)
    if owner is None or (owner["host"] == me["host"] and not _is_alive(owner["process"])):
        return
    until = time.monotonic() + (0.0 if owner["host"] == me["host"] else _DEAD)
    while time.monotonic() < until:
        time.sleep(_LOOK)
        later = _owner(path)
        if later is None:
            return
        if later != owner:
            break
    else:
        if owner["host"] != me["host"]:
            return
    raise _busy(run, _told(owner, me), _REMEDY)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # it is another user's
    return True
