"""Input files that are gone, or are not what they were when the run was planned: told apart from damage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from transforms.errors import InputLost, UserError
from transforms.storage import files
from transforms.wording import one_line

if TYPE_CHECKING:
    from transforms.sources.base import Piece

_REMEDY = "put the file back as it was and give the same command again, or plan the run anew"
#: No page is as large: who asks for this much memory at once has read a damaged length.
_ABSURD_BYTES = 1 << 29


def stamp_of(piece: Piece) -> tuple[int, float]:
    """The file's stamp at the beginning of a piece.

    Raises:
      InputLost: The file is gone, or has another size than when the piece was planned.
    """
    with losing(piece.name):
        stamp = files.stamp(piece.path)
    if piece.bytes is not None and stamp[0] != piece.bytes:
        raise changed(piece.name, f"has {stamp[0]:,} bytes, and had {piece.bytes:,} when the run was planned")
    return stamp


def check_stamp(path: str, name: str, stamp: tuple[int, float]) -> None:
    """Looks whether a file is still what it was when it was opened: if not, nothing in it is damage.

    Raises:
      InputLost: It is not.
    """
    with losing(name):
        found = files.stamp(path)
    if found != stamp:
        raise changed(name, "changed while it was being read")


def changed(name: str, what: str) -> InputLost:
    """The error for a file that is there and is another."""
    return InputLost(what, where=name, remedy=_REMEDY)


@contextlib.contextmanager
def losing(name: str) -> Iterator[None]:
    """Turns what a filesystem says of a file into the loss of it; what is wrong with its content passes."""
    try:
        yield
    except InputLost:
        raise
    except UserError as error:  # opening and asking for a stamp raise nothing else
        raise InputLost(error.what, where=name, remedy=_REMEDY) from error
    except OSError as error:
        if damage_of(error) is not None:
            raise
        reason = str(error.strerror or error) or type(error).__name__
        raise InputLost(f"cannot be read any more: {reason}", where=name, remedy=_REMEDY) from error


def damage_of(error: BaseException) -> str | None:
    """What is wrong with a file's content, where that is what Arrow's error says; None for other errors.

    Arrow raises OSError for damage, too: those of the operating system have a number, those of Beam's
    filesystems a class of their own.
    """
    if isinstance(error, pa.ArrowCancelled):
        return None
    if isinstance(error, pa.ArrowMemoryError):
        sizes = [int(word) for word in str(error).replace(",", " ").split() if word.isdigit()]
        return one_line(error) if max(sizes, default=0) >= _ABSURD_BYTES else None
    if isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None):
        return one_line(error)
    return None
