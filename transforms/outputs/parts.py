"""Part files: their entry in the journal and the manifest, and digests computed while writing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from transforms.errors import OutputLost, UserError
from transforms.storage import files
from transforms.storage.digests import new_digest


@dataclass(frozen=True)
class Part:
    """A file of a run, as the journal and the manifest name it.

    Args:
      file: Its path in the run directory.
      rows: Number of rows in its table.
      bytes: Its size.
      digest: BLAKE2b-256 of its content in hexadecimal digits, what `b2sum -l 256` prints.
    """

    file: str
    rows: int
    bytes: int
    digest: str


def is_there(run: str, part: Part) -> bool:
    """True if a part's file exists and has its size."""
    path = files.join(run, part.file)
    return files.exists(path) and files.size(path) == part.bytes


class DigestingFile:
    """A file that is written from beginning to end, with the digest of its content.

    It has only the methods that Arrow's writers need.

    Args:
      file: The file to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = new_digest()
        self.size = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Writes data at the end."""
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """The number of bytes written."""
        return self.size

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()

    def close(self) -> None:
        """Marks this wrapper as closed; the file itself belongs to the caller and stays open."""
        self.closed = True

    @property
    def digest(self) -> str:
        """The digest of all bytes written."""
        return self._digest.hexdigest()


@contextmanager
def as_output_lost(path: str) -> Iterator[None]:
    """Re-raises write errors as OutputLost.

    Raises:
      OutputLost: The path cannot be written; the message gives the reason.
    """
    try:
        yield
    except UserError as error:
        raise OutputLost(str(error)) from error
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputLost(f"{path}: cannot be written: {reason[:1].lower()}{reason[1:]}") from error
