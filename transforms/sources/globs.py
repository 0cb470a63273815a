"""The files that globs match, locally and on object stores."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

from transforms.errors import UserError
from transforms.sources.inspection import format_of_suffix
from transforms.sources.unsupported_formats import folder_refusal
from transforms.storage import files
from transforms.wording import close, meant


def expand(patterns: Sequence[str], base_dir: str, format: str | None = None) -> list[tuple[str, str]]:
    """The files that globs match.

    A folder, named or matched, stands for the files of one format below it, at any depth.

    `*`, `?`, `[…]` match within one folder, `**` any depth. A pattern that is itself the name of a file means
    that file, whatever characters it contains. Wildcards skip hidden files and those that begin with `_`
    (`_SUCCESS`, `_temporary/`), unless the pattern says `_` itself.

    Args:
      patterns: Globs, file names or URLs; relative ones start at `base_dir`.
      base_dir: A local folder or a URL, usually the config file's.
      format: parquet or tfrecord; by default, suffixes decide.

    Returns:
      (path to open, name to show) of each file once, sorted by name. The name is relative to `base_dir`
      where the pattern was.

    Raises:
      UserError: A pattern matches nothing, or a folder without such a file, or with files of two formats.
    """
    names_of: dict[str, str] = {}
    for pattern in patterns:
        location = files.local_path(pattern) if pattern.startswith(files.LOCAL_SCHEME) else pattern
        location = os.path.expanduser(location) if location.startswith("~") else location
        full = files.join(base_dir, location)
        if files.is_url(full):
            matches = _match_remote(pattern, full, format)
        else:
            # The base folder is not a pattern, whatever characters its name has.
            matches = _match_local(
                pattern, full, files.join(glob.escape(files.local_path(base_dir)), location), format
            )
        relative = not files.is_url(location) and not os.path.isabs(location)
        for path in matches:
            names_of.setdefault(path, _relative(path, base_dir) if relative else path)
    return sorted(names_of.items(), key=lambda item: (item[1], item[0]))


def _relative(path: str, base_dir: str) -> str:
    if files.is_url(path):
        root = "/".join(path.split("/")[:3])
        if not f"{base_dir}/".startswith(f"{root}/"):
            return path
        return posixpath.relpath(path.removeprefix(root), base_dir.removeprefix(root) or "/")
    return os.path.relpath(path, os.path.abspath(files.local_path(base_dir)))


def _match_local(pattern: str, full: str, wildcard: str, format: str | None) -> list[str]:
    full = os.path.abspath(full)
    if os.path.isfile(full):
        return [full]
    if os.path.isdir(full):
        return _files_below(full, pattern.rstrip("/"), _walk(full), format)
    matches = [
        path for path in glob.glob(os.path.abspath(wildcard), recursive=True) if _is_wanted(path, full)
    ]
    folders = {path for path in matches if os.path.isdir(path)}
    matched = set(matches) - folders
    # `**` matches folders on its way by design. Any other last component that matches a folder means the
    # files in it.
    if Path(full).name != "**":
        for folder in sorted(folders):
            name = os.path.join(os.path.dirname(pattern), os.path.basename(folder))
            matched.update(_files_below(folder, name, _walk(folder), format))
    if not matched:
        raise _matches_nothing(pattern, full, os.path.isdir, lambda folder: sorted(os.listdir(folder)))
    return sorted(matched)


def _walk(folder: str) -> list[str]:
    """The files below a local folder, as relative paths; links are followed, but never in a circle."""
    paths, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder already visited: its files would be read twice
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _is_visible(name, "="))
        paths += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return sorted(paths)


def _match_remote(pattern: str, full: str, format: str | None) -> list[str]:
    with files.remote_errors(full, "cannot be read"):
        inside = [] if glob.has_magic(full) else files.remote_files(full)
        if not inside and files.filesystems().exists(full):
            return [full]
        matches = [entry.path for entry in files.filesystems().match([full])[0].metadata_list]
        matches = sorted({path for path in matches if _is_wanted(path, full) and not path.endswith("/")})
        if not matches:
            inside = inside or files.remote_files(full)
    if not matches and not inside:
        raise _matches_nothing(pattern, full, files.is_dir, files.list_dir)
    if matches:
        return matches
    depth = full.rstrip("/").count("/") + 1
    below: dict[str, list[str]] = {}
    for path in inside:
        parts = path.split("/")
        below.setdefault("/".join(parts[:depth]), []).append("/".join(parts[depth:]))
    one = len(below) == 1 and not glob.has_magic(full)
    return sorted(
        path
        for folder, names in below.items()
        for path in _files_below(folder, pattern.rstrip("/") if one else folder, names, format)
    )


def _files_below(folder: str, name: str, inside: Sequence[str], format: str | None) -> list[str]:
    """The files that a folder stands for: those of one format, by their suffixes.

    Args:
      folder: Its path.
      name: The folder's name in errors.
      inside: The files below it, as relative paths.
      format: The format to take; None: the only one present.
    """
    wanted = []
    for path in inside:
        *folders, last = path.split("/")
        if _is_visible(last) and all(_is_visible(part, "=") for part in folders):
            wanted.append(path)
    by_format: dict[str | None, list[str]] = {}
    for path in wanted:
        by_format.setdefault(format_of_suffix(path), []).append(path)
    known = [kind for kind in by_format if kind is not None]
    if format is None and len(known) > 1:
        raise UserError(
            "is a folder with both Parquet and TFRecord files", where=name, remedy="set input.format"
        )
    chosen = by_format.get(format or next(iter(known), ""), wanted if format else [])
    if not chosen:
        raise folder_refusal(name, wanted)
    return [f"{folder.rstrip('/')}/{path}" for path in chosen]


def _is_visible(name: str, but: str | None = None) -> bool:
    """False for hidden names and `_SUCCESS`, `_temporary`, `_metadata`; a folder `_col=1` is visible."""
    return (but is not None and but in name) or not name.startswith(("_", "."))


def _is_wanted(path: str, pattern: str) -> bool:
    """False for `_SUCCESS`, `_temporary/…` and hidden names that a wildcard matched."""
    components = pattern.split("/")
    marks = tuple({part[0] for part in components[-1:] if part[:1] in ("_", ".")})
    *folders, last = path.split("/")
    if last.startswith(("_", ".")) and not last.startswith(marks or "\0"):
        return False
    # Folders as in `_col=1/` are Hive partitions, not bookkeeping.
    return all(part in components or "=" in part or not part.startswith(("_", ".")) for part in folders)


def _matches_nothing(
    pattern: str, full: str, is_folder: Callable[[str], bool], listing: Callable[[str], list[str]]
) -> UserError:
    """The error for a pattern without a match: names its first missing part, and what is there instead."""
    scheme = files.URL.match(full)
    folder, rest = (full[: scheme.end()], full[scheme.end() :]) if scheme else ("/", full.lstrip("/"))
    parts = rest.split("/")
    if scheme:  # a bucket or host cannot be listed like a folder
        folder += parts.pop(0)
    # A local folder may have wildcard characters in its name; in a store's listing they would match.
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
    if near := close(parts[0], names, most=3, cutoff=0.5):
        remedy = meant(near)
    elif names:
        remedy = f"{folder} holds {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
    else:
        remedy = f"{folder} is empty" if is_folder(folder) else f"there is no folder {folder}"
    return UserError("no file matches", where=pattern, remedy=remedy)
