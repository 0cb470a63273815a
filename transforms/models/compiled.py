"""A traced function that is called by its one trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


class Compiled:
    """A function with one signature, traced at its first call, for any number of threads.

    tf.function looks for the trace that fits at every call and turns numpy arrays into tensors one by one
    under its own rules: for a function of ten arguments about 0.8 ms of a processor, as much as a small
    network's arithmetic on a thousand points. Here there is one trace, and it is called directly.

    Args:
      function: Takes and gives nested structures of tensors.
      signature: TensorSpecs in the structure of the arguments.
    """

    def __init__(self, function: Callable[..., Any], signature: Sequence[Any]) -> None:
        self._function = tf.function(function, input_signature=list(signature), autograph=False)
        self._signature = tuple(signature)
        self._concrete: Any = None
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Calls it; arguments are tensors or what numpy makes arrays of."""
        if self._concrete is None:
            with self._lock:
                if self._concrete is None:
                    self._concrete = self._function.get_concrete_function()
        return self._concrete(*tf.nest.map_structure(_tensor, self._signature, arguments, check_types=False))

    @property
    def traces(self) -> int:
        """How often it was traced: once, or not yet."""
        return int(self._function.experimental_get_tracing_count())


def _tensor(spec: Any, value: Any) -> Any:
    return value if isinstance(value, tf.Tensor) else tf.constant(value, spec.dtype)
