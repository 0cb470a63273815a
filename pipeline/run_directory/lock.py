"""Locks a run directory, so that a second command is refused before it does anything."""

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
from transforms.outputs.parts import as_output_lost
from transforms.storage import files

#: An object store has no locks: an owner file is rewritten every 20 seconds instead.
_HEARTBEAT_SECONDS = 20.0
#: An owner file that stays the same for this long is stale. Only this machine's own clock is read.
_STALE_SECONDS = 50.0
#: Seconds between two reads of another command's owner file.
_LOOK_SECONDS = 2.0
#: Two commands that begin at once both find no owner file and write one; after this many seconds they read
#: which of them wrote last.
_SETTLE_SECONDS = 1.0
_REMEDY = "wait for it, or give another --output"
#: Largest size of a lock file in bytes: it holds the number of a process.
_LONGEST = 20
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@contextmanager
def run_lock(run: str) -> Iterator[None]:
    """Holds a run directory for this command; it is free again when the process ends, even by a crash.

    Args:
      run: The run directory. Missing parent folders are made, and removed again if they stay empty.
    Raises:
      UserError: Another command is working there, or a foreign file has the lock's name.
      OutputLost: The lock cannot be written.
    """
    with _owned(run) if files.is_url(run) else _locked(run):
        yield


@contextmanager
def _locked(run: str) -> Iterator[None]:
    parent = os.path.dirname(run)
    made = _make_folders(parent)
    # The lock lies beside the run, which may be replaced. Where nothing can be made there, no run can be
    # replaced either, and the lock lies inside.
    inside = not os.access(parent, os.W_OK | os.X_OK)
    path = os.path.join(run, ".lock") if inside else neighbour(run, "lock")
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        lock = _hold(run, path, stack)
        if lock is None:
            stack.enter_context(_owned(run))
        else:
            stack.callback(_remove, path)
            with as_output_lost(path):
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
        # Otherwise its last holder removed the file after we opened it.
        if _is_at(lock, path):
            return lock


def _open(path: str) -> int:
    """Opens or creates the lock file; refuses a foreign file."""
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
            with as_output_lost(path):
                raise
        raise UserError("is in the place of a run's lock", path, "move it away") from error
    content = os.pread(lock, _LONGEST + 1, 0) if stat.S_ISREG(os.fstat(lock).st_mode) else b"no file"
    if len(content) > _LONGEST or not (content.isdigit() or not content):
        os.close(lock)
        raise UserError("is in the place of a run's lock", path, "move it away")
    return lock


def _is_at(lock: int, path: str) -> bool:
    """Whether an open file is still the file of a path."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _make_folders(folder: str) -> list[str]:
    """Makes a folder and its parents; returns those that were missing, from the top."""
    missing = []
    while not files.exists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        files.makedirs(path)
    return missing[::-1]


def _remove_empty(folders: list[str]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # a folder with content stays
            os.rmdir(folder)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _busy(run: str, process: str, remedy: str) -> UserError:
    return UserError(f"another command is working there (process {process or 'unknown'})", run, remedy)


@contextmanager
def _owned(run: str) -> Iterator[None]:
    path = neighbour(run, "owner")
    own = {"host": socket.gethostname(), "process": os.getpid(), "token": uuid.uuid4().hex}
    _wait_for_stale_owner(run, path, own)
    with as_output_lost(path):
        _write_owner(path, own, 0)
    time.sleep(_SETTLE_SECONDS)
    other = _owner(path)
    if other is not None and other["token"] != own["token"]:
        raise _busy(run, _process_in_words(other, own), _REMEDY)
    stop = threading.Event()

    def heartbeat() -> None:
        beats = 0
        while not stop.wait(_HEARTBEAT_SECONDS):
            beats += 1
            # A missed heartbeat is harmless: a command that takes over writes the same files, or claims the
            # journal, which stops our workers.
            with contextlib.suppress(UserError, OSError):
                if (_owner(path) or own)["token"] == own["token"]:
                    _write_owner(path, own, beats)

    thread = threading.Thread(target=heartbeat, name="attribeam-owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        # If the owner file cannot be removed, it becomes stale.
        with contextlib.suppress(UserError, OSError):
            if (_owner(path) or own)["token"] == own["token"]:
                files.delete_tree(path)


def _write_owner(path: str, own: dict[str, Any], beats: int) -> None:
    files.write_atomic(path, json.dumps({**own, "beats": beats}).encode())


def _owner(path: str) -> dict[str, Any] | None:
    """The owner that a file names; None if there is no file, or a damaged one."""
    try:
        owner = json.loads(files.read_bytes(path)) if files.exists(path) else None
    except UserError:  # the file was removed in the meantime
        return None
    except ValueError:
        return None
    types = {"host": str, "process": int, "token": str, "beats": int}
    whole = isinstance(owner, dict) and all(isinstance(owner.get(key), kind) for key, kind in types.items())
    return owner if whole else None


def _process_in_words(owner: dict[str, Any], own: dict[str, Any]) -> str:
    return f"{owner['process']}" if owner["host"] == own["host"] else f"{owner['process']} on {owner['host']}"


def _wait_for_stale_owner(run: str, path: str, own: dict[str, Any]) -> None:
    """Waits until a directory has no living owner.

    A process of this machine can be looked up; another machine's must stop rewriting its owner file.

    Raises:
      UserError: The owner is alive.
    """
    owner = _owner(path)
    if owner is None or (owner["host"] == own["host"] and not _is_alive(owner["process"])):
        return
    until = time.monotonic() + (0.0 if owner["host"] == own["host"] else _STALE_SECONDS)
    while time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        later = _owner(path)
        if later is None:
            return
        if later != owner:
            break
    else:
        if owner["host"] != own["host"]:
            return
    raise _busy(run, _process_in_words(owner, own), _REMEDY)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # the process is another user's
    return True
