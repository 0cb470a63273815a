"""Assignment of devices to shards: processes claim devices, and lend them to their shards.

On a machine with one GPU, or none, there is nothing to choose. With more, a process claims a device for its
first shard and keeps it; shards that it explains at the same time get further devices, as long as some are
not claimed by any process on the machine. Each device has its own copy of the model, loaded once.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

#: Calls in flight on a GPU: one is computed while the next is transferred; more would only fill its memory.
_LANES = 2
#: Most claims on one device, when there are more processes than devices.
_MOST_ROUNDS = 1024


@dataclass(frozen=True)
class Device:
    """The device on which a model is loaded and called.

    Args:
      scope: TensorFlow's name of the device; None leaves the choice to TensorFlow, which has only one.
      lanes: Maximum number of calls in flight; 0 sets no limit.
    """

    scope: str | None = None
    lanes: int = 0

    def placed(self) -> AbstractContextManager[Any]:
        """A context in which TensorFlow creates everything on the device."""
        if self.scope is None:
            return nullcontext()
        import tensorflow as tf

        placed: AbstractContextManager[Any] = tf.device(self.scope)
        return placed


ANYWHERE = Device()


@dataclass
class _Claim:
    device: Device
    lock: int
    shards: int = 0


@dataclass
class Claims:
    """The devices that a process has claimed.

    A claim is a locked file: the lock ends with the process, even if the process is killed.

    Args:
      folder: Folder of the locked files, shared by all processes that divide the devices.
    """

    folder: str
    _held: list[_Claim] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    @contextmanager
    def lease(self, scopes: Sequence[str]) -> Iterator[Device]:
        """Lends a device to a shard: an idle one of ours, else an unclaimed one, else our least busy one."""
        with self._lock:
            claim = next((c for c in self._held if not c.shards), None) or self._claimed(scopes, rounds=1)
            if claim is None:
                if not self._held and self._claimed(scopes, _MOST_ROUNDS) is None:
                    raise RuntimeError(f"more than {_MOST_ROUNDS} processes share {len(scopes)} devices")
                claim = min(self._held, key=lambda c: c.shards)
            claim.shards += 1
        try:
            yield claim.device
        finally:
            with self._lock:
                claim.shards -= 1

    def _claimed(self, scopes: Sequence[str], rounds: int) -> _Claim | None:
        """Claims a device with the fewest claims; None if every device already has `rounds` claims."""
        ours = {claim.device.scope for claim in self._held}
        for turn in range(rounds):
            for number, scope in enumerate(scopes):
                if scope in ours:
                    continue
                lock = _locked(os.path.join(self.folder, f"device-{number}-{turn}"))
                if lock is not None:
                    self._held.append(_Claim(Device(scope, _LANES), lock))
                    return self._held[-1]
        return None


def _locked(path: str) -> int | None:
    """A descriptor of the file, locked; None if another process holds the lock."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


_claims = Claims(os.path.join(tempfile.gettempdir(), f"attribeam-devices-{os.getuid()}"))


def device_scopes() -> tuple[str, ...]:
    """TensorFlow's devices for models: the GPUs, or else the processors, which are one device."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tuple(f"/device:{device.name.partition('device:')[2]}" for device in devices)


@contextmanager
def leased_device(*, needs_tensorflow: bool) -> Iterator[Device]:
    """Lends a device to a shard or a plan; starts TensorFlow if it is needed."""
    scopes = device_scopes() if needs_tensorflow else ()
    if len(scopes) > 1:
        with _claims.lease(scopes) as device:
            yield device
    else:
        yield Device(None, _LANES if scopes and "GPU" in scopes[0] else 0)
