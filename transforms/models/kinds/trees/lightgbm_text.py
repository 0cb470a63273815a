"""A check that LightGBM's text files are complete, before LightGBM reads them.

The header states the size of each tree in bytes (`tree_sizes`). LightGBM relies on these sizes and reads the
trees in threads, where Python cannot catch a failure. GBDT::SaveModelToString writes this layout.
"""

from __future__ import annotations

import re

from transforms.errors import UserError

_BYTE_ORDER = b"\xef\xbb\xbf"
_AGAIN = "copy or save it again, with Booster.save_model"


def whole_text(path: str) -> str | None:
    """Checks a file, and returns a repaired text if LightGBM could not read the file as it is.

    Args:
      path: A local file that begins like a LightGBM model.
    Returns:
      The text without byte order mark and with Unix line ends; None if the file already is like this.
    Raises:
      UserError: The file is cut short, or its trees are not where its header says.
    Cost: reads the whole file into memory.
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
    """True if the trees have the sizes that the header states, or if an old header states no sizes."""
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
