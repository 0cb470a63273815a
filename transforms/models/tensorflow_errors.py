"""Interpretation of errors that models raise: the line that gives the reason, and whether memory ran out."""

from __future__ import annotations

import re
import sys

from transforms.errors import RowsRefused

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Text before or after the reason on its line: node names, the number of a root error, Keras's introduction.
_AROUND = re.compile(
    r"^(\{\{function_node [^}]*\}\}\s*|\(\d+\) [A-Z_]+:\s*|Exception encountered: )+|\s*\[Op:[^\]]*\]$"
)
#: Lines that say where the model failed, or with which arguments, but not why.
_SCAFFOLD = re.compile(
    r"^(\w+: )?(Graph execution error:|Detected at node|\[\[|in user code:|Traceback \(most recent|"
    r"Exception encountered when calling|Arguments received by|\d+ root error\(s\) found|"
    r"Original stack trace|<stack traces? unavailable>|\^+$|config=\{|"
    r"<class '[^']*'> could not be deserialized properly)"
)
_FILE = re.compile(r'\s*File "')

#: Messages of internal errors by which TensorFlow (https://github.com/tensorflow/tensorflow/issues/7025) and
#: the libraries beneath it report that memory ran out.
_NO_ROOM = ("Dst tensor is not initialized", "CUDA_ERROR_OUT_OF_MEMORY", "_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """True if an exception says that a device or a model ran out of memory.

    Exception classes are recognized by name, so that the model's framework need not be imported.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"DeviceFull", "ResourceExhaustedError", "OutOfMemoryError"}:  # the last is PyTorch's
        return True
    if "XlaRuntimeError" in names:  # JAX's
        return "RESOURCE_EXHAUSTED" in str(error)
    return "InternalError" in names and any(message in str(error) for message in _NO_ROOM)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message that gives the reason.

    Other text may come before the reason. TensorFlow adds the history of the graph, and node names around the
    reason. Keras adds the layers that were called, autograph adds lines of code, and a layer that does not
    load adds its whole config.

    Args:
      error: The exception.
      most: Maximum number of characters to return.
    Returns:
      The line; the message's first line if no line gives a reason, or the error's type for an empty message.
    """
    message = getattr(error, "message", None)
    if not isinstance(message, str):
        # The text of a KeyError is the repr of its argument.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
    lines = [line for line in _COLOURS.sub("", str(message)).splitlines() if line.strip()]
    code = -1  # the indentation of a `File "…"` line; lines of code with more indentation follow it
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


def refusal(error: Exception, *, planning: bool = False) -> str | None:
    """The reason why a model cannot score rows, if the exception is about the rows; else None.

    Args:
      error: The exception that evaluating the model raised.
      planning: Whether a plan is being made. All TensorFlow errors then count, as only the model or the rows
        can have caused them.
    """
    if isinstance(error, RowsRefused):
        return str(error)[:200]
    if "tensorflow" not in sys.modules or out_of_memory(error):
        return None
    import tensorflow as tf

    # Errors that depend on a row's values, such as an index outside an embedding or an unknown word.
    errors = tf.errors
    refusals = errors.OpError if planning else (errors.InvalidArgumentError, errors.OutOfRangeError)
    if not isinstance(error, refusals):
        return None
    return first_line(error)
