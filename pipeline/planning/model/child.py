"""Calls a function in a child process, so that the launcher does not load TensorFlow."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import TypeVar

from transforms.errors import UserError

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def in_child(function: Callable[[Question], Answer], request: Question) -> Answer:
    """Calls a module's function in a child process, and raises its UserError here."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as log:
        child = subprocess.run(
            [sys.executable, "-m", "pipeline.planning.model.child", str(answer.fileno())],
            input=pickle.dumps((sys.path, function, request)),
            pass_fds=[answer.fileno()],
            stdout=log,
            stderr=log,
            check=False,
        )
        answer.seek(0)
        data = answer.read()
        if not data:
            log.seek(0)
            if child.returncode < 0:
                ended = signal.Signals(-child.returncode).name
                raise UserError(
                    f"the process that loads the model was ended by {ended}: memory ran out, or a "
                    "library crashed",
                    "model.path",
                    "use a machine with more memory; to find a crash, load the model and predict a row in "
                    "Python",
                )
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
            last = lines[-1] if lines else "no message"
            raise RuntimeError(f"the model's process ended with status {child.returncode}: {last}")
        # Safe to unpickle: only our own child can write to this anonymous file.
        reply = pickle.loads(data)
    if isinstance(reply, BaseException):
        raise reply
    answered: Answer = reply
    return answered


def _child(descriptor: int) -> None:
    path, function, request = pickle.loads(sys.stdin.buffer.read())
    sys.path[:] = path
    try:
        reply: object = function(request)
    except UserError as error:
        reply = error
    with open(descriptor, "wb") as answer:
        answer.write(pickle.dumps(reply))


if __name__ == "__main__":
    # The parent can unpickle classes only if they belong to the package, not to __main__.
    from pipeline.planning.model import child as package

    package._child(int(sys.argv[1]))
