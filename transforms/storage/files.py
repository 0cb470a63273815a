"""Access to files for the whole project: local paths through Python, URLs through Beam's filesystems."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import posixpath
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from transforms.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LOCAL_SCHEME = "file://"
_CREDENTIALS = (
    "check the path, the credentials and that the filesystem's extra is installed (attribeam[gcp], [aws])"
)
#: Errors that are caused by the path itself: a name that is too long, or a cycle of links.
_IN_THE_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
_copies: dict[str, str] = {}
_copies_lock = threading.Lock()


def is_url(path: str) -> bool:
    """True for `scheme://…`, except `file://`, which names a local path."""
    return bool(URL.match(path)) and not path.startswith(LOCAL_SCHEME)


def join(base: str, *parts: str) -> str:
    """Joins path parts; an absolute part or a URL replaces the parts before it, as with os.path.join."""
    for part in parts:
        if is_url(part) or part.startswith(LOCAL_SCHEME):
            base = part
        elif is_url(base):
            scheme = URL.match(base)
            root = base if scheme and scheme.end() == len(base) else base.rstrip("/") + "/"
            base = part if os.path.isabs(part) else _without_dots(root + part)
        else:
            base = os.path.join(local_path(base), part)
    return base


def _without_dots(url: str) -> str:
    """A URL with `.` and `..` resolved, because an object store would take them as names of folders."""
    root = "/".join(url.split("/")[:3])
    return root + posixpath.normpath(url.removeprefix(root)) if "/." in url else url


def open_input(path: str) -> BinaryIO:
    """Opens a file to read its bytes as stored, without decompressing them.

    Raises:
      UserError: The file does not exist or may not be read.
    """
    if is_url(path):
        from apache_beam.io.filesystem import CompressionTypes

        with remote_errors(path, "cannot be read"):
            # By default Beam decompresses by suffix, and byte offsets would not be those of the stored file.
            return cast(
                BinaryIO,
                filesystems().open(path, compression_type=CompressionTypes.UNCOMPRESSED),
            )
    with _local_errors(path, "cannot be read"):
        return open(local_path(path), "rb")


def open_arrow(path: str) -> pa.NativeFile:
    """Opens a file for Arrow's readers, which read local files without holding Python's lock."""
    import pyarrow as pa

    if is_url(path):
        return pa.PythonFile(open_input(path), mode="r")
    with _local_errors(path, "cannot be read"):
        return pa.OSFile(local_path(path), "r")


def exists(path: str) -> bool:
    """True if a file or folder exists; a folder of an object store exists if there are files in it."""
    if is_url(path):
        with remote_errors(path, "cannot be reached"):
            return bool(filesystems().exists(path)) or bool(remote_files(path))
    with _local_errors(path, "cannot be reached"):
        try:
            os.stat(local_path(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True  # other errors are raised, because they do not show whether the path exists


def is_dir(path: str) -> bool:
    """True for a local folder, and for a URL under which there are files."""
    if is_url(path):
        with remote_errors(path, "cannot be reached"):
            return bool(remote_files(path))
    return os.path.isdir(local_path(path))


def size(path: str) -> int:
    """A file's size in bytes."""
    return stamp(path)[0]


def stamp(path: str) -> tuple[int, float]:
    """A file's size in bytes and the time of its last change; equal stamps are taken as equal content."""
    if is_url(path):
        with remote_errors(path, "cannot be read"):
            metadata = filesystems().get_filesystem(path).metadata(path)
            return int(metadata.size_in_bytes), float(metadata.last_updated_in_seconds or 0.0)
    with _local_errors(path, "cannot be read"):
        status = os.stat(local_path(path))
        return status.st_size, status.st_mtime_ns / 1e9


def makedirs(path: str) -> None:
    """Makes a folder and its parents, unless they exist. Most object stores have no folders.

    Raises:
      UserError: The folder cannot be made, or a file is in the way.
    """
    if is_url(path):
        with remote_errors(path, "cannot be made"):
            if not filesystems().exists(path):
                filesystems().mkdirs(path)
        return
    with _local_errors(path, "cannot be written"):
        os.makedirs(local_path(path), exist_ok=True)


def write_atomic(path: str, data: bytes | memoryview) -> None:
    """Writes a file so that readers see all of it or none of it, even if several writers use its name.

    Two writers may use a name at once, because runners start backup attempts of the same work. A local file
    is written under a temporary name in the same folder, then renamed. An upload to an object store is
    atomic.
    """
    if is_url(path):
        from apache_beam.io.filesystem import CompressionTypes

        with (
            remote_errors(path, "cannot be written"),
            filesystems().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as sink,
        ):
            sink.write(data)
        return
    target = local_path(path)
    folder, name = os.path.split(target)
    # The dot hides the file of an interrupted attempt from globs. Cutting `name` keeps the temporary name
    # within the system's limit.
    temporary = os.path.join(folder, f".{name[:40]}.{uuid.uuid4().hex}.tmp")
    with _local_errors(path, "cannot be written"):
        try:
            with open(temporary, "xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            put_in_place(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def put_in_place(temporary: str, target: str) -> None:
    """Renames a local file, and flushes the new name to disk, so that it survives a power cut.

    The file's content must be on disk already.
    """
    os.replace(temporary, target)
    sync(os.path.dirname(target) or ".")


def sync(path: str) -> None:
    """Flushes a local file's content, or the names in a folder, to disk, so that they survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def upload(source: str, url: str) -> None:
    """Copies a local file to an object store, where the copy appears only when it is complete.

    Raises:
      UserError: The URL cannot be written.
    """
    from apache_beam.io.filesystem import CompressionTypes

    with (
        open(source, "rb") as local,
        remote_errors(url, "cannot be written"),
        filesystems().create(url, compression_type=CompressionTypes.UNCOMPRESSED) as sink,
    ):
        shutil.copyfileobj(local, sink, 1 << 20)


def read_bytes(path: str) -> bytes:
    """The whole content of a file."""
    with open_input(path) as source:
        return source.read()


def delete_tree(path: str) -> None:
    """Deletes a file, or a folder with its content; does nothing if the path does not exist."""
    if is_url(path):
        with remote_errors(path, "cannot be deleted"):
            inside = remote_files(path)
            if inside:
                filesystems().delete(inside)
            if filesystems().exists(path):
                filesystems().delete([path])
        return
    target = local_path(path)
    with _local_errors(path, "cannot be deleted"):
        if os.path.isdir(target) and not os.path.islink(target):
            shutil.rmtree(target)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)


def tree(path: str) -> list[str]:
    """The files under a URL at any depth, as paths relative to the URL."""
    prefix = path.rstrip("/") + "/"
    with remote_errors(path, "cannot be listed"):
        return [file[len(prefix) :] for file in remote_files(path)]


def rename(sources: Sequence[str], targets: Sequence[str]) -> None:
    """Moves files within an object store; an existing file at a target is replaced.

    Raises:
      UserError: Some files could not be moved.
    """
    _in_store("rename", sources, targets)


def copy(sources: Sequence[str], targets: Sequence[str]) -> None:
    """Copies files within an object store.

    Raises:
      UserError: Some files could not be copied.
    """
    _in_store("copy", sources, targets)


def _in_store(action: str, sources: Sequence[str], targets: Sequence[str]) -> None:
    if sources:
        with remote_errors(targets[0], "cannot be written"):
            getattr(filesystems(), action)(list(sources), list(targets))


def list_dir(path: str) -> list[str]:
    """The names in a folder, sorted; empty if the folder does not exist."""
    if is_url(path):
        prefix = path.rstrip("/") + "/"
        with remote_errors(path, "cannot be listed"):
            return sorted({file[len(prefix) :].split("/")[0] for file in remote_files(path)})
    with _local_errors(path, "cannot be listed"):
        try:
            return sorted(os.listdir(local_path(path)))
        except FileNotFoundError:
            return []


def local_copy(path: str) -> str:
    """A local path with the content of `path`; the file or folder at a URL is downloaded once per process."""
    if not is_url(path):
        return local_path(path)
    with _copies_lock:
        if path not in _copies:
            _copies[path] = _download(path)
        return _copies[path]


def local_path(path: str) -> str:
    """A local path without the prefix `file://`."""
    return path.removeprefix(LOCAL_SCHEME)


def filesystems() -> Any:
    """Beam's FileSystems class, imported on first use because the import is slow."""
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def remote_files(path: str) -> list[str]:
    """The URLs of all files in the folder at a URL, at any depth, sorted."""
    entries = filesystems().match([path.rstrip("/") + "/**"])[0].metadata_list
    return sorted(entry.path for entry in entries if not entry.path.endswith("/"))


def _download(path: str) -> str:
    with remote_errors(path, "cannot be read"):
        inside = remote_files(path)
    root = tempfile.mkdtemp(prefix="attribeam-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    target = os.path.join(root, path.rstrip("/").rsplit("/", 1)[-1])
    prefix = path.rstrip("/") + "/"
    # If there are no files below the path, it is a file itself, or open_input reports that it is missing.
    for source in inside or [path]:
        copy = os.path.join(target, source[len(prefix) :]) if inside else target
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        with open_input(source) as remote, open(copy, "wb") as out:
            shutil.copyfileobj(remote, out, 1 << 20)
    return target


@contextlib.contextmanager
def _local_errors(path: str, what: str) -> Iterator[None]:
    """Re-raises errors as UserError if the user can avoid them with another path or other permissions."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{what}: no such file or folder", where=path, remedy="check the path") from error
    except PermissionError as error:
        raise UserError(
            f"{what}: permission denied", where=path, remedy="change the path or its permissions"
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{what}: it is a folder", where=path, remedy="name a file") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise UserError(f"{what}: a file is in the way", where=path, remedy="choose another path") from error
    except OSError as error:
        if error.errno not in _IN_THE_NAME:
            raise
        reason = (error.strerror or "").lower()
        raise UserError(f"{what}: {reason}", where=path, remedy="choose another path") from error


@contextlib.contextmanager
def remote_errors(path: str, what: str) -> Iterator[None]:
    """Re-raises an object store's errors as UserError."""
    from apache_beam.io.filesystem import BeamIOError

    try:
        yield
    except (BeamIOError, OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{what}: {reason}", where=path, remedy=_CREDENTIALS) from error
