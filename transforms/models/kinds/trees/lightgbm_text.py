"""LightGBM's text files before LightGBM reads them: those that are not whole are refused here, in a line.

The header states the size of each tree in bytes (`tree_sizes`), and LightGBM reads them by it, in threads
whose failures cannot be caught. The layout is that of GBDT::SaveModelToString.
"""

from __future__ import annotations

import re

from transforms.errors import UserError

_BYTE_ORDER = b"\xef\xbb\xbf"
_AGAIN = "copy or save it again, with Booster.save_model"


def whole_text(path: str) -> str | None:
    """Returns the text to give LightGBM in the file's place.

    Args:
      path: A local file that begins as LightGBM's do.
    Returns:
      The text, where an editor or a copy gave it other line ends or a mark of byte order; None: the file
      itself.
    Raises:
      UserError: It is cut short, or its trees are not where its header says.
    Cost: reads the file.
    """
    with open(path, "rb") as file:
        stored = file.read()
    text = stored.removeprefix(_BYTE_ORDER).replace(b"\r\n", b"\n")
    if re.search(rb"^end of trees$", text, re.MULTILINE) is None:
        raise UserError("is cut short: the end of its trees is missing", path, _AGAIN)
    if not _fit(text):
        what = "was changed after it was saved: its trees are not where its header says that they are"
        raise UserError(what, path, _AGAIN)
    return None if text == stored else text.decode("utf-8", "replace")


def _fit(text: bytes) -> bool:
    """Whether the trees have the sizes that the header states; files of old versions state none."""
    header, first, _ = text.partition(b"\nTree=")
    stated = re.search(rb"^tree_sizes=(.*)$", header, re.MULTILINE)
    if stated is None or not first:
        return True
    sizes = stated[1].split()
    if not all(size.isdigit() for size in sizes):
        return False
    at = len(header) + 1
    for number, size in enumerate(sizes):
        if not text.startswith(b"Tree=%d\n" % number, at):
            return False
        at += int(size)
    return text.startswith(b"end of trees\n", at)
