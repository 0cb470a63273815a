"""A check of LightGBM's text files before LightGBM reads them: incomplete files are refused in one line.

The header states the size of each tree in bytes (`tree_sizes`); LightGBM reads the trees by these sizes, in
threads whose failures cannot be caught. The layout is that of GBDT::SaveModelToString.
"""

from __future__ import annotations

import re

from transforms.errors import UserError

_BYTE_ORDER = b"\xef\xbb\xbf"
_AGAIN = "copy or save it again, with Booster.save_model"


def whole_text(path: str) -> str | None:
    """Checks a file, and returns its text if LightGBM cannot read the file itself.

    Args:
      path: A local file that begins as LightGBM's do.
    Returns:
      The repaired text, if an editor or a copy changed its line ends or added a byte order mark; else None.
    Raises:
      UserError: The file is cut short, or its trees are not where its header says.
    Cost: reads the file.
    """
    with open(path, "rb") as file:
        stored = file.read()
    text = stored.removeprefix(_BYTE_ORDER).replace(b"\r\n", b"\n")
    if re.search(rb"^end of trees$", text, re.MULTILINE) is None:
        raise UserError("is cut short: the end of its trees is missing", path, _AGAIN)
    if not _fit(text):
        what = "was changed after it was saved: its trees are not where its header says"
        raise UserError(what, path, _AGAIN)
    return None if text == stored else text.decode("utf-8", "replace")


def _fit(text: bytes) -> bool:
    """True if the trees have the sizes that the header states; files of old versions state none."""
    header, first, _ = text.partition(b"\nTree=")
    stated = re.search(rb"^tree_sizes=(.*)$", header, re.MULTILINE)
    if stated is None or not first:
        return True
    sizes = stated[1].split()
    if not all(size.isdigit() for size in sizes):
        return False
    position = len(header) + 1
    for number, size in enumerate(sizes):
        if not text.startswith(b"Tree=%d\n" % number, position):
            return False
        position += int(size)
    return text.startswith(b"end of trees\n", position)
