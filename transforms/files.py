"""The only place that opens paths: local ones natively, URLs through Beam's filesystems."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import glob
import os
import posixpath
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from transforms.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL_SCHEME = "file://"
_CREDENTIALS = (
    "check the path, the credentials and that the filesystem's extra is installed (attribeam[gcp], [aws])"
)
_copies: dict[str, str] = {}
_copies_lock = threading.Lock()


def is_url(path: str) -> bool:
    """True for `scheme://…`, except `file://`, which names a local path."""
    return bool(_URL.match(path)) and not path.startswith(_LOCAL_SCHEME)


def join(base: str, *parts: str) -> str:
    """Joins path parts; an absolute part or a URL starts afresh, as with os.path.join."""
    for part in parts:
        if is_url(part) or part.startswith(_LOCAL_SCHEME):
            base = part
        elif is_url(base):
            scheme = _URL.match(base)
            root = base if scheme and scheme.end() == len(base) else base.rstrip("/") + "/"
            base = part if os.path.isabs(part) else _without_dots(root + part)
        else:
            base = os.path.join(_local(base), part)
    return base


def _without_dots(url: str) -> str:
    """A URL with `.` and `..` followed, as a folder's are: in an object store they would be names."""
    root = "/".join(url.split("/")[:3])
    return root + posixpath.normpath(url.removeprefix(root)) if "/." in url else url


def open_input(path: str) -> BinaryIO:
    """Opens a file for reading bytes, exactly as stored: nothing is decompressed.

    Raises:
      UserError: There is no such file, or it may not be read.
    """
    if is_url(path):
        from apache_beam.io.filesystem import CompressionTypes

        with _remote_errors(path, "cannot be read"):
            # The default would decompress by suffix, and byte offsets would then mean something else.
            return cast(
                BinaryIO,
                _filesystems().open(path, compression_type=CompressionTypes.UNCOMPRESSED),
            )
    with _local_errors(path, "cannot be read"):
        return open(_local(path), "rb")


def open_arrow(path: str) -> pa.NativeFile:
    """Opens a file for Arrow's readers; local files are then read without holding Python's lock."""
    import pyarrow as pa

    if is_url(path):
        return pa.PythonFile(open_input(path), mode="r")
    with _local_errors(path, "cannot be read"):
        return pa.OSFile(_local(path), "r")


def exists(path: str) -> bool:
    """True for a file or folder; an object store knows a folder only by the files in it."""
    if is_url(path):
        with _remote_errors(path, "cannot be reached"):
            return bool(_filesystems().exists(path)) or bool(_remote_files(path))
    return os.path.exists(_local(path))


def is_dir(path: str) -> bool:
    """True for a folder, and for a URL under which there are files."""
    if is_url(path):
        with _remote_errors(path, "cannot be reached"):
            return bool(_remote_files(path))
    return os.path.isdir(_local(path))


def size(path: str) -> int:
    """A file's size in bytes."""
    return stamp(path)[0]


def stamp(path: str) -> tuple[int, float]:
    """A file's size in bytes and time of last change: equal ones are taken for the same content."""
    if is_url(path):
        with _remote_errors(path, "cannot be read"):
            found = _filesystems().get_filesystem(path).metadata(path)
            return int(found.size_in_bytes), float(found.last_updated_in_seconds or 0.0)
    with _local_errors(path, "cannot be read"):
        status = os.stat(_local(path))
        return status.st_size, status.st_mtime_ns / 1e9


def makedirs(path: str) -> None:
    """Makes a folder and those above it; one that exists is fine. Object stores need none.

    Raises:
      UserError: The place cannot be written, or a file is in the way.
    """
    if is_url(path):
        with _remote_errors(path, "cannot be made"):
            if not _filesystems().exists(path):
                _filesystems().mkdirs(path)
        return
    with _local_errors(path, "cannot be written"):
        os.makedirs(_local(path), exist_ok=True)


def write_atomic(path: str, data: bytes | memoryview) -> None:
    """Writes a file so that a reader sees all of it or none of it, whoever else writes the same name.

    Runners start backup attempts of the same work, so a name may be written twice at once. Locally: a
    temporary name in the same folder, then a rename. On an object store an upload is itself atomic.
    """
    if is_url(path):
        from apache_beam.io.filesystem import CompressionTypes

        with (
            _remote_errors(path, "cannot be written"),
            _filesystems().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as sink,
        ):
            sink.write(data)
        return
    target = _local(path)
    folder, name = os.path.split(target)
    # The dot keeps an interrupted attempt out of every glob; a long name must not grow past the system's
    # limit.
    temporary = os.path.join(folder, f".{name[:40]}.{uuid.uuid4().hex}.tmp")
    with _local_errors(path, "cannot be written"):
        try:
            with open(temporary, "xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def read_bytes(path: str) -> bytes:
    """The whole content of a file."""
    with open_input(path) as source:
        return source.read()


def delete_tree(path: str) -> None:
    """Deletes a file, or a folder and all in it; what is not there is fine."""
    if is_url(path):
        with _remote_errors(path, "cannot be deleted"):
            found = _remote_files(path)
            if found:
                _filesystems().delete(found)
            if _filesystems().exists(path):
                _filesystems().delete([path])
        return
    target = _local(path)
    with _local_errors(path, "cannot be deleted"):
        if os.path.isdir(target) and not os.path.islink(target):
            shutil.rmtree(target)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)


def list_dir(path: str) -> list[str]:
    """The names in a folder, sorted; none where the folder does not exist."""
    if is_url(path):
        prefix = path.rstrip("/") + "/"
        with _remote_errors(path, "cannot be listed"):
            return sorted({found[len(prefix) :].split("/")[0] for found in _remote_files(path)})
    with _local_errors(path, "cannot be listed"):
        try:
            return sorted(os.listdir(_local(path)))
        except FileNotFoundError:
            return []


def local_copy(path: str) -> str:
    """A local path with the same content: itself, or a URL's file or folder, downloaded once a process."""
    if not is_url(path):
        return _local(path)
    with _copies_lock:
        if path not in _copies:
            _copies[path] = _download(path)
        return _copies[path]


def expand(patterns: Sequence[str], base_dir: str) -> list[tuple[str, str]]:
    """The files that globs match.

    `*`, `?`, `[…]` match within one folder, `**` any depth. A file that exists under the pattern's own name
    is that file, whatever characters its name has. A wildcard passes over hidden files and those that begin
    with `_` (`_SUCCESS`, `_temporary/`), unless it says `_` itself.

    Args:
      patterns: Globs, file names or URLs; relative ones start at `base_dir`.
      base_dir: A local folder or a URL, usually the config file's.

    Returns:
      (path to open, name to show) of each file once, sorted by name. The name is relative to `base_dir`
      where the pattern was.

    Raises:
      UserError: A pattern matches nothing, or a folder.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        written = _local(pattern) if pattern.startswith(_LOCAL_SCHEME) else pattern
        written = os.path.expanduser(written) if written.startswith("~") else written
        full = join(base_dir, written)
        if is_url(full):
            matches = _match_remote(pattern, full)
        else:
            # The base folder's name is a name, whatever characters it has.
            matches = _match_local(pattern, full, join(glob.escape(_local(base_dir)), written))
        relative = not is_url(written) and not os.path.isabs(written)
        for path in matches:
            found.setdefault(path, _relative(path, base_dir) if relative else path)
    return sorted(found.items(), key=lambda item: (item[1], item[0]))


def _relative(path: str, base_dir: str) -> str:
    if is_url(path):
        root = "/".join(path.split("/")[:3])
        if not f"{base_dir}/".startswith(f"{root}/"):
            return path
        return posixpath.relpath(path.removeprefix(root), base_dir.removeprefix(root) or "/")
    return os.path.relpath(path, os.path.abspath(_local(base_dir)))


def _match_local(pattern: str, full: str, wildcard: str) -> list[str]:
    full = os.path.abspath(full)
    if os.path.isfile(full):
        return [full]
    if os.path.isdir(full):
        raise _names_a_folder(pattern, pattern.rstrip("/"))
    matches = [
        path for path in glob.glob(os.path.abspath(wildcard), recursive=True) if _is_wanted(path, full)
    ]
    folders = [path for path in matches if os.path.isdir(path)]
    # `**` walks through folders, so it meets them by design; any other last component that matches one would
    # leave the files in it unread without a word.
    if folders and Path(full).name != "**":
        inside = os.path.join(os.path.dirname(pattern), os.path.basename(folders[0]))
        raise _names_a_folder(pattern, inside)
    matches = sorted(set(matches) - set(folders))
    if not matches:
        raise _matches_nothing(pattern, full, os.path.isdir, lambda folder: sorted(os.listdir(folder)))
    return matches


def _match_remote(pattern: str, full: str) -> list[str]:
    with _remote_errors(full, "cannot be read"):
        if _filesystems().exists(full) and not _remote_files(full):
            return [full]
        matches = [found.path for found in _filesystems().match([full])[0].metadata_list]
        matches = sorted({path for path in matches if _is_wanted(path, full) and not path.endswith("/")})
        if not matches and _remote_files(full):
            raise _names_a_folder(pattern, pattern.rstrip("/"))
    if not matches:
        raise _matches_nothing(pattern, full, is_dir, list_dir)
    return matches


def _is_wanted(path: str, pattern: str) -> bool:
    """False for `_SUCCESS`, `_temporary/…` and hidden names that a wildcard matched."""
    written = pattern.split("/")
    marks = tuple({part[0] for part in written[-1:] if part[:1] in ("_", ".")})
    *folders, last = path.split("/")
    if last.startswith(("_", ".")) and not last.startswith(marks or "\0"):
        return False
    # Folders as in `_col=1/` are Hive partitions, not bookkeeping.
    return all(part in written or "=" in part or not part.startswith(("_", ".")) for part in folders)


def _names_a_folder(pattern: str, folder: str) -> UserError:
    return UserError(
        f"{folder} is a folder", where=pattern, remedy=f"write {folder}/*.parquet or {folder}/*.tfrecord"
    )


def _matches_nothing(
    pattern: str, full: str, is_folder: Callable[[str], bool], listing: Callable[[str], list[str]]
) -> UserError:
    """Names what is missing first on the way down to the pattern, and what is there in its place."""
    scheme = _URL.match(full)
    folder, rest = (full[: scheme.end()], full[scheme.end() :]) if scheme else ("/", full.lstrip("/"))
    parts = rest.split("/")
    if scheme:  # a bucket or host cannot be listed like a folder
        folder += parts.pop(0)
    # A local folder may have a wildcard's characters in its name; asked of a store, they would match.
    while len(parts) > 1 and not (scheme and glob.has_magic(parts[0])) and is_folder(join(folder, parts[0])):
        folder = join(folder, parts.pop(0))
    try:
        names = [name for name in listing(folder) if not name.startswith((".", "_"))]
    except PermissionError as error:
        what, remedy = f"{folder} cannot be read: permission denied", "change its rights, or name other files"
        raise UserError(what, where=pattern, remedy=remedy) from error
    except OSError:
        names = []
    near = difflib.get_close_matches(parts[0], names, n=3, cutoff=0.5)
    if near:
        remedy = f"did you mean {' or '.join(near)}?"
    elif names:
        remedy = f"{folder} holds {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    else:
        remedy = f"{folder} is empty" if is_folder(folder) else f"there is no folder {folder}"
    return UserError("no file matches", where=pattern, remedy=remedy)


def _local(path: str) -> str:
    return path.removeprefix(_LOCAL_SCHEME)


def _filesystems() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _remote_files(path: str) -> list[str]:
    """All files under a URL taken as a folder, at any depth."""
    found = _filesystems().match([path.rstrip("/") + "/**"])[0].metadata_list
    return sorted(entry.path for entry in found if not entry.path.endswith("/"))


def _download(path: str) -> str:
    with _remote_errors(path, "cannot be read"):
        inside = _remote_files(path)
    root = tempfile.mkdtemp(prefix="attribeam-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    target = os.path.join(root, path.rstrip("/").rsplit("/", 1)[-1])
    prefix = path.rstrip("/") + "/"
    # Without files below it, it is a file itself, or open_input says that it is missing.
    for source in inside or [path]:
        copy = os.path.join(target, source[len(prefix) :]) if inside else target
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        with open_input(source) as remote, open(copy, "wb") as out:
            shutil.copyfileobj(remote, out, 1 << 20)
    return target


@contextlib.contextmanager
def _local_errors(path: str, what: str) -> Iterator[None]:
    """Turns what the user can mend about a path into a UserError; a full disk, say, passes through."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{what}: no such file or folder", where=path, remedy="check the path") from error
    except PermissionError as error:
        raise UserError(
            f"{what}: permission denied", where=path, remedy="change the path or its rights"
        ) from error
    except IsADirectoryError as error:
        raise UserError(f"{what}: it is a folder", where=path, remedy="name a file") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise UserError(f"{what}: a file is in the way", where=path, remedy="choose another path") from error


@contextlib.contextmanager
def _remote_errors(path: str, what: str) -> Iterator[None]:
    from apache_beam.io.filesystem import BeamIOError

    try:
        yield
    except (BeamIOError, OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{what}: {reason}", where=path, remedy=_CREDENTIALS) from error
