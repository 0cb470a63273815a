"""The one line of a TensorFlow or Keras error that says what is wrong."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: What stands around a reason on its own line: node names, the number of a root error, Keras's introduction.
_AROUND = re.compile(
    r"^(\{\{function_node [^}]*\}\}\s*|\(\d+\) [A-Z_]+:\s*|Exception encountered: )+|\s*\[Op:[^\]]*\]$"
)
#: Lines that say where, or what was called with what, and not why.
_SCAFFOLD = re.compile(
    r"^(\w+: )?(Graph execution error:|Detected at node|\[\[|in user code:|Traceback \(most recent|"
    r"Exception encountered when calling|Arguments received by|\d+ root error\(s\) found|"
    r"Original stack trace|<stack traces? unavailable>|\^+$|config=\{|"
    r"<class '[^']*'> could not be deserialized properly)"
)
_FILE = re.compile(r'\s*File "')


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message that says why.

    TensorFlow puts the graph's history before the reason and node names around it; Keras puts the layers that
    were called, autograph the lines of code, and a layer that does not load its whole config.

    Args:
      error: What was raised.
      most: Characters, at most.
    Returns:
      The line; the error's first one where none says why, and its type where it says nothing.
    """
    told = getattr(error, "message", None)
    if not isinstance(told, str):
        # A KeyError's text is the repr of what it was given.
        told = error.args[0] if isinstance(error, KeyError) and error.args else error
    lines = [line for line in _COLOURS.sub("", str(told)).splitlines() if line.strip()]
    code = -1  # the indentation of a `File "…"` line, whose code follows further in
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if _FILE.match(line):
            code = indent
            continue
        if code >= 0 and indent > code:
            continue
        code = -1
        text = _AROUND.sub("", line.strip()).strip()
        if text and not _SCAFFOLD.match(text):
            return text[:most]
    return lines[0].strip()[:most] if lines else type(error).__name__
