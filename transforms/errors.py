"""Errors: those a user can mend, those that break a run, and those that a model raises."""

from __future__ import annotations


class UserError(Exception):
    """A problem that the user can mend: in a command line, a config, data or a model. Exit status 2.

    Args:
      what: The value and the limit it breaks, in words.
      where: The file and key, or the column, or the path.
      remedy: How to mend it.
    """

    def __init__(self, what: str, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        text = f"{where}: {what}" if where else what
        if remedy:
            text = f"{text}; {remedy}"
        # Always one line, even if a library's message or a file's name holds line breaks.
        super().__init__(" ".join(text.split()))

    def __reduce__(self) -> tuple[type, tuple[str, str | None, str | None]]:
        # Beam pickles what a worker raises; the default would call __init__ with the joined text alone.
        return (type(self), (self.what, self.where, self.remedy))


class InputLost(UserError):
    """An input file that has disappeared or changed since the run was planned.

    Damage is different: it was there at plan time, and only its rows are rejected. A lost file costs all the
    shards that need it; the run finishes the other shards, and then ends as broken.
    """


class OutputLost(Exception):
    """A run directory that can no longer be written: a full disk, a revoked permission.

    The run breaks: finished work is kept, and the same command continues from there.
    """


class RunReplaced(Exception):
    """A run directory that now belongs to another run or to a committed one: nothing more is written."""


class RowsRefused(Exception):
    """Rows that a model written in user code does not accept; the message says why."""


class DeviceFull(MemoryError):
    """A model written in user code ran out of memory in one call; fewer rows may fit."""


class DeviceMemoryError(RuntimeError):
    """A device has too little memory for a single evaluation: no smaller call is left to try."""


class HostMemoryError(RuntimeError):
    """The process has too little memory for a single row: no smaller batch is left to try."""


#: Names of the errors whose message is complete without the type in front of it.
SAID_ALL = tuple(
    kind.__name__ for kind in (InputLost, OutputLost, RunReplaced, DeviceMemoryError, HostMemoryError)
)
