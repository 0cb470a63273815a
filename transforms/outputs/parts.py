"""Part files, which hold a shard's rows of a table: their entries in the manifest, and their digests."""

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
    """The entry of a run's file in the journal and the manifest.

    Args:
      file: Path of the file in the run directory.
      rows: Number of rows of the table in the file.
      bytes: Size of the file in bytes.
      digest: BLAKE2b-256 of the file's content in hexadecimal digits, as `b2sum -l 256` prints it.
    """

    file: str
    rows: int
    bytes: int
    digest: str


def is_there(run: str, part: Part) -> bool:
    """True if a part's file exists and has the recorded size."""
    path = files.join(run, part.file)
    return files.exists(path) and files.size(path) == part.bytes


class DigestingFile:
    """A file that is written from beginning to end, and computes the digest of its content.

    It has only the methods of a file that Arrow's writers need.

    Args:
      file: The file to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = new_digest()
        self.size = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Appends data to the file."""
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """The number of bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()

    def close(self) -> None:
        """Marks this wrapper as closed; the wrapped file belongs to the caller and stays open."""
        self.closed = True

    @property
    def digest(self) -> str:
        """The digest of all bytes written so far."""
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
