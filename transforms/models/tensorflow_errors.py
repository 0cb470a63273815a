"""Messages of models' errors: the one line that gives the reason, and signs that memory ran out."""

from __future__ import annotations

import re
import sys

from transforms.errors import RowsRefused

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Text around a reason on its own line: node names, the number of a root error, Keras's introduction.
_AROUND = re.compile(
    r"^(\{\{function_node [^}]*\}\}\s*|\(\d+\) [A-Z_]+:\s*|Exception encountered: )+|\s*\[Op:[^\]]*\]$"
)
#: Lines that say where it failed, or with which arguments, but not why.
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

    Exceptions are compared by name, so that a model's framework need not be installed.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"DeviceFull", "ResourceExhaustedError", "OutOfMemoryError"}:  # the last is PyTorch's
        return True
    if "XlaRuntimeError" in names:  # JAX's
        return "RESOURCE_EXHAUSTED" in str(error)
    return "InternalError" in names and any(message in str(error) for message in _NO_ROOM)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message that says why.

    Other text may precede the reason. TensorFlow adds the graph's history, and node names around the reason;
    Keras adds the layers that were called; autograph adds lines of code; a layer that does not load adds its
    whole config.

    Args:
      error: The exception.
      most: Characters, at most.
    Returns:
      The line; the message's first line if none says why, and the error's type if the message is empty.
    """
    message = getattr(error, "message", None)
    if not isinstance(message, str):
        # The text of a KeyError is the repr of its argument.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
    lines = [line for line in _COLOURS.sub("", str(message)).splitlines() if line.strip()]
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


def refusal(error: Exception, *, planning: bool = False) -> str | None:
    """The reason why a model cannot score rows, if an exception of its evaluation gives one; else None.

    Args:
      error: The exception that the evaluation raised.
      planning: Whether a plan is made: then any error of TensorFlow's counts, since the cause is the model or
        the rows.
    """
    if isinstance(error, RowsRefused):
        return str(error)[:200]
    if "tensorflow" not in sys.modules or out_of_memory(error):
        return None
    import tensorflow as tf

    # Errors that depend on a row's values: an index outside an embedding, a word outside a closed vocabulary.
    errors = tf.errors
    refusals = errors.OpError if planning else (errors.InvalidArgumentError, errors.OutOfRangeError)
    if not isinstance(error, refusals):
        return None
    return first_line(error)
