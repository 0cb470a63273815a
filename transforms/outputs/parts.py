"""Part files: what a run says of each, and the digest that is made while one is written."""

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
      rows: Of its table.
      bytes: Its size.
      digest: BLAKE2b-256 of its content in hexadecimal digits, what `b2sum -l 256` prints.
    """

    file: str
    rows: int
    bytes: int
    digest: str


def is_there(run: str, part: Part) -> bool:
    """Whether a part stands in its place with its size."""
    path = files.join(run, part.file)
    return files.exists(path) and files.size(path) == part.bytes


class DigestingFile:
    """A file that is written from its beginning to its end, with the digest of what was written.

    What Arrow's writers ask of a file and no more.

    Args:
      file: To write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = new_digest()
        self.size = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Writes on."""
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def flush(self) -> None:
        """As of a file."""
        self._file.flush()

    def close(self) -> None:
        """The file itself stays open: it is not ours."""
        self.closed = True

    @property
    def digest(self) -> str:
        """Of all that was written."""
        return self._digest.hexdigest()


@contextmanager
def written(path: str) -> Iterator[None]:
    """Around what writes to a run that goes on: what fails is the place, and breaks the run.

    Raises:
      OutputLost: The place cannot be written, with the reason.
    """
    try:
        yield
    except UserError as error:
        raise OutputLost(str(error)) from error
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputLost(f"{path}: cannot be written: {reason[:1].lower()}{reason[1:]}") from error
