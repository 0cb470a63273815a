"""How large a device call may be: as planned, and half of that whenever the memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from transforms.errors import DeviceMemoryError
from transforms.models.tensorflow_errors import first_line, out_of_memory

Answer = TypeVar("Answer")

_RAN_OUT = "the device's memory ran out"


class DeviceBatchSize:
    """The device batch size, shared by threads; halved whenever memory runs out.

    Args:
      planned: As the plan has it.
    """

    def __init__(self, planned: int) -> None:
        self._planned = self._size = planned
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Evaluations a call now."""
        return self._size

    @property
    def used(self) -> int | None:
        """The reduced size, or None while the planned size still fits."""
        return self._size if self._size < self._planned else None

    def shrink(self, known: int | None) -> None:
        """Takes over what turned out to fit elsewhere, as while the plan was made; None: all of it."""
        with self._lock:
            self._size = min(self._size, known or self._size)

    def run(self, attempt: Callable[[int], Answer]) -> Answer:
        """Calls a function with the size, and again with half of it as long as the memory runs out.

        Raises:
          DeviceMemoryError: There is no room for a single evaluation.
        """
        while True:
            size = self._size
            try:
                return attempt(size)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                said = first_line(error)
            # Out here nothing holds the failed call's tensors: the exception has let go of its frames.
            self._halve(size, said)

    def _halve(self, failed: int, said: str) -> None:
        with self._lock:
            if self._size < failed:
                return  # another thread failed at the same size before
            if failed == 1:
                raise DeviceMemoryError(
                    f"the memory has no room for a single evaluation of the model ({said}); explain on a "
                    "device with more of it, free what other programs hold, or take a smaller baseline.rows"
                )
            self._size = failed // 2


def with_halved(warnings: Sequence[str], planned: int, used: int) -> list[str]:
    """Warnings with the one of a device batch that was halved, and none of an earlier halving."""
    others = [line for line in warnings if not line.startswith(_RAN_OUT)]
    if used == planned:
        return others
    return [
        *others,
        f"{_RAN_OUT}: device_batch_size was halved from {planned:,} to {used:,}; "
        f"set compute.device_batch_size: {used} to begin with that",
    ]
