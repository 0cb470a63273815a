"""Input files that disappeared or changed since the run was planned, as distinct from damaged ones."""

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
#: No page is this large: a reader that asks for so much memory at once has read a damaged length.
_ABSURD_BYTES = 1 << 29


def stamp_of(piece: Piece) -> tuple[int, float]:
    """The file's stamp when reading a piece begins.

    Raises:
      InputLost: The file is gone, or has another size than when the piece was planned.
    """
    with as_input_lost(piece.name):
        stamp = files.stamp(piece.path)
    if piece.bytes is not None and stamp[0] != piece.bytes:
        raise changed(piece.name, f"has {stamp[0]:,} bytes, but had {piece.bytes:,} when the run was planned")
    return stamp


def check_stamp(path: str, name: str, stamp: tuple[int, float]) -> None:
    """Checks that a file has not changed since it was opened: in a changed file, errors are not damage.

    Raises:
      InputLost: The file has changed.
    """
    with as_input_lost(name):
        current = files.stamp(path)
    if current != stamp:
        raise changed(name, "changed while it was being read")


def changed(name: str, what: str) -> InputLost:
    """The error for a file that exists but has changed."""
    return InputLost(what, where=name, remedy=_REMEDY)


@contextlib.contextmanager
def as_input_lost(name: str) -> Iterator[None]:
    """Re-raises filesystem errors as InputLost; errors about the file's content pass through."""
    try:
        yield
    except InputLost:
        raise
    except UserError as error:  # from opening a file or taking its stamp
        raise InputLost(error.what, where=name, remedy=_REMEDY) from error
    except OSError as error:
        if damage_of(error) is not None:
            raise
        reason = str(error.strerror or error) or type(error).__name__
        raise InputLost(f"cannot be read any more: {reason}", where=name, remedy=_REMEDY) from error


def damage_of(error: BaseException) -> str | None:
    """The damage to a file's content that an Arrow error reports; None for any other error.

    Arrow raises OSError for damage too. Errors of the operating system have a number, and errors of Beam's
    filesystems have a class of their own.
    """
    if isinstance(error, pa.ArrowCancelled):
        return None
    if isinstance(error, pa.ArrowMemoryError):
        sizes = [int(word) for word in str(error).replace(",", " ").split() if word.isdigit()]
        return one_line(error) if max(sizes, default=0) >= _ABSURD_BYTES else None
    if isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None):
        return one_line(error)
    return None
