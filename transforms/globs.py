"""The files that globs match, locally and on object stores."""

from __future__ import annotations

import difflib
import glob
import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

from transforms import files
from transforms.errors import UserError


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
        written = files.local_path(pattern) if pattern.startswith(files.LOCAL_SCHEME) else pattern
        written = os.path.expanduser(written) if written.startswith("~") else written
        full = files.join(base_dir, written)
        if files.is_url(full):
            matches = _match_remote(pattern, full)
        else:
            # The base folder's name is a name, whatever characters it has.
            matches = _match_local(
                pattern, full, files.join(glob.escape(files.local_path(base_dir)), written)
            )
        relative = not files.is_url(written) and not os.path.isabs(written)
        for path in matches:
            found.setdefault(path, _relative(path, base_dir) if relative else path)
    return sorted(found.items(), key=lambda item: (item[1], item[0]))


def _relative(path: str, base_dir: str) -> str:
    if files.is_url(path):
        root = "/".join(path.split("/")[:3])
        if not f"{base_dir}/".startswith(f"{root}/"):
            return path
        return posixpath.relpath(path.removeprefix(root), base_dir.removeprefix(root) or "/")
    return os.path.relpath(path, os.path.abspath(files.local_path(base_dir)))


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
    with files.remote_errors(full, "cannot be read"):
        if files.filesystems().exists(full) and not files.remote_files(full):
            return [full]
        matches = [found.path for found in files.filesystems().match([full])[0].metadata_list]
        matches = sorted({path for path in matches if _is_wanted(path, full) and not path.endswith("/")})
        if not matches and files.remote_files(full):
            raise _names_a_folder(pattern, pattern.rstrip("/"))
    if not matches:
        raise _matches_nothing(pattern, full, files.is_dir, files.list_dir)
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
    scheme = files.URL.match(full)
    folder, rest = (full[: scheme.end()], full[scheme.end() :]) if scheme else ("/", full.lstrip("/"))
    parts = rest.split("/")
    if scheme:  # a bucket or host cannot be listed like a folder
        folder += parts.pop(0)
    # A local folder may have a wildcard's characters in its name; asked of a store, they would match.
    while (
        len(parts) > 1
        and not (scheme and glob.has_magic(parts[0]))
        and is_folder(files.join(folder, parts[0]))
    ):
        folder = files.join(folder, parts.pop(0))
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
