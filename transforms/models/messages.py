"""What a TensorFlow or Keras error says: the one line of it that is of use, and whether memory ran out."""

from __future__ import annotations

import re
import sys

from transforms.errors import RowsRefused

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

#: What TensorFlow (https://github.com/tensorflow/tensorflow/issues/7025) and the libraries beneath it say of
#: memory that ran out under the code of an internal error.
_NO_ROOM = ("Dst tensor is not initialized", "CUDA_ERROR_OUT_OF_MEMORY", "_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or somebody's model, had no room for a call.

    By name, whichever framework a model is of: none of them need be there.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"DeviceFull", "ResourceExhaustedError", "OutOfMemoryError"}:  # the last is PyTorch's
        return True
    if "XlaRuntimeError" in names:  # JAX's
        return "RESOURCE_EXHAUSTED" in str(error)
    return "InternalError" in names and any(said in str(error) for said in _NO_ROOM)


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


def refusal(error: Exception, *, planning: bool = False) -> str | None:
    """Why a model does not take rows, if that is what an exception of its evaluation says; else None.

    Args:
      error: What was raised.
      planning: Whether a plan is made, where whatever TensorFlow stumbles over is the model's or the rows'.
    """
    if isinstance(error, RowsRefused):
        return str(error)[:200]
    if "tensorflow" not in sys.modules or out_of_memory(error):
        return None
    import tensorflow as tf

    # What depends on the values of a row: an index outside an embedding, a word outside a closed vocabulary.
    errors = tf.errors
    refusals = errors.OpError if planning else (errors.InvalidArgumentError, errors.OutOfRangeError)
    if not isinstance(error, refusals):
        return None
    return first_line(error)
