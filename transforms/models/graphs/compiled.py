"""A traced function that is called by its one trace, compiled by XLA where that is asked for."""

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
    """A function with one signature, traced at its first call, for any number of threads.

    tf.function looks for the trace that fits at every call and turns numpy arrays into tensors one by one
    under its own rules: for a function of ten arguments about 0.8 ms of a processor, as much as a small
    network's arithmetic on a thousand points. Here there is one trace, and it is called directly.

    Args:
      function: Takes and gives nested structures of tensors.
      signature: TensorSpecs in the structure of the arguments.
      options: Of the model that it is cut from.
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
        """Calls it; arguments are tensors or what numpy makes arrays of.

        Raises:
          UserError: XLA cannot compile it.
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
        """Number of traces: one, or none yet."""
        return int(self._function.experimental_get_tracing_count())

    @property
    def fused(self) -> tuple[int, int]:
        """Operations that XLA compiles and those that it does not, once it has been called."""
        return self._concrete.operations if isinstance(self._concrete, Fused) else (0, 0)


@cache
def _lanes(device: str | None, count: int) -> AbstractContextManager[Any]:
    """The queue of a device: once `count` calls are in flight, the next one waits."""
    return threading.BoundedSemaphore(count)


def _tensor(spec: Any, value: Any) -> Any:
    return value if isinstance(value, tf.Tensor) else tf.constant(value, spec.dtype)
