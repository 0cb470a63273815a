"""A function that is traced only once and called through its trace, compiled by XLA on request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Any

import tensorflow as tf

from transforms.models.base import DEFAULT, CompileOptions
from transforms.models.graphs.xla import Fused, traced_for_xla


class Compiled:
    """A thread-safe function with one signature, traced at its first call.

    At every call, a `tf.function` searches for a matching trace and converts numpy arrays one by one under
    its own rules. For a function of ten arguments this takes about 0.8 ms of processor time, as much as a
    small network's arithmetic on a thousand points. This class calls its only trace directly instead.

    Args:
      function: Takes and returns nested structures of tensors.
      signature: TensorSpecs in the structure of the arguments.
      options: Compile options of the model to which the function belongs.
    """

    def __init__(
        self, function: Callable[..., Any], signature: Sequence[Any], options: CompileOptions = DEFAULT
    ) -> None:
        if options.jit:
            function = traced_for_xla(function)
        self._function = tf.function(function, input_signature=list(signature), autograph=False)
        self._signature = tuple(signature)
        self._options = options
        self._concrete: Any = None
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function; arguments are tensors or anything that numpy can convert to arrays.

        Raises:
          UserError: XLA cannot compile the function.
        """
        with ExitStack() as held:
            if self._options.lanes:
                held.enter_context(_lanes(self._options.device, self._options.lanes))
            if self._options.device is not None:
                held.enter_context(tf.device(self._options.device))
            if self._concrete is None:
                with self._lock:
                    if self._concrete is None:
                        concrete = self._function.get_concrete_function()
                        self._concrete = Fused(concrete) if self._options.jit else concrete
            return self._concrete(
                *tf.nest.map_structure(_tensor, self._signature, arguments, check_types=False)
            )

    @property
    def traces(self) -> int:
        """The number of traces: 0 before the first call, then 1."""
        return int(self._function.experimental_get_tracing_count())

    @property
    def fused(self) -> tuple[int, int]:
        """How many ops XLA compiles and how many it does not; (0, 0) without XLA or before the first call."""
        return self._concrete.operations if isinstance(self._concrete, Fused) else (0, 0)


@cache
def _lanes(device: str | None, count: int) -> AbstractContextManager[Any]:
    """The semaphore of a device: while `count` calls are in flight, the next call waits."""
    return threading.BoundedSemaphore(count)


def _tensor(spec: Any, value: Any) -> Any:
    return value if isinstance(value, tf.Tensor) else tf.constant(value, spec.dtype)
