"""What a user can mend, what breaks a run on its way, and what a model does not take."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: a command line, a config, data or a model. Becomes exit status 2.

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
        # One line, whatever a library's message or a file's name held: a terminal shows it as it is.
        super().__init__(" ".join(text.split()))

    def __reduce__(self) -> tuple[type, tuple[str, str | None, str | None]]:
        # Beam pickles what a worker raises; the default would call __init__ with the joined text alone.
        return (type(self), (self.what, self.where, self.remedy))


class InputLost(UserError):
    """An input file that is not there any more, or is not what it was when the run was planned.

    Not damage: that was there at plan time and costs its rows, which are rejected. This costs the shards that
    need the file; the run goes on with the others, and then ends as one that broke.
    """


class OutputLost(Exception):
    """A run directory that can be written no more: a full disk, a permission that was taken away.

    The run breaks: finished work is kept, and the same command continues from there.
    """


class RunReplaced(Exception):
    """A run directory that belongs to another run by now, or to a committed one: nothing more is written."""


class RowsRefused(Exception):
    """A model that is somebody's code does not take some of the rows it was given; says why."""


class DeviceFull(MemoryError):
    """A model that is somebody's code had no memory for the rows of one call; fewer may fit."""


class DeviceMemoryError(RuntimeError):
    """A device has no room for a single evaluation: no smaller call is left to try."""


class HostMemoryError(RuntimeError):
    """This process has no room for a single row: no smaller batch is left to try."""


#: Names of errors of ours whose message needs no type before it.
SAID_ALL = tuple(
    kind.__name__ for kind in (InputLost, OutputLost, RunReplaced, DeviceMemoryError, HostMemoryError)
)
