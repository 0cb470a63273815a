"""The size of a device call: as planned, and halved whenever memory runs out."""

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
      planned: The size from the plan.
    """

    def __init__(self, planned: int) -> None:
        self._planned = self._size = planned
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """The current number of evaluations per call."""
        return self._size

    @property
    def used(self) -> int | None:
        """The reduced size, or None while the planned size still fits."""
        return self._size if self._size < self._planned else None

    def shrink(self, known: int | None) -> None:
        """Reduces the size to one that planning found to fit; None: the planned size fits."""
        with self._lock:
            self._size = min(self._size, known or self._size)

    def run(self, attempt: Callable[[int], Answer]) -> Answer:
        """Calls a function with the size, and again with half of it as long as memory runs out.

        Raises:
          DeviceMemoryError: There is too little memory for a single evaluation.
        """
        while True:
            size = self._size
            try:
                return attempt(size)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside the handler the exception, whose frames hold the failed call's tensors, is gone.
            self._halve(size, reason)

    def _halve(self, failed: int, reason: str) -> None:
        with self._lock:
            if self._size < failed:
                return  # another thread failed at the same size before
            if failed == 1:
                raise DeviceMemoryError(
                    f"there is too little memory for a single evaluation of the model ({reason}); explain on "
                    "a device with more memory, end other programs that use it, or lower baseline.rows"
                )
            self._size = failed // 2


def with_halved(warnings: Sequence[str], planned: int, used: int) -> list[str]:
    """The warnings, with one about the halved device batch in place of any earlier one."""
    others = [line for line in warnings if not line.startswith(_RAN_OUT)]
    if used == planned:
        return others
    return [
        *others,
        f"{_RAN_OUT}: device_batch_size was halved from {planned:,} to {used:,}; "
        f"set compute.device_batch_size: {used} to start with that size",
    ]
