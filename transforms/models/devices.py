"""Assignment of devices to shards: processes claim devices, and lend them to their shards.

On a machine with at most one GPU, all shards use the same device. With several GPUs, a process claims a
device for its first shard and keeps the device. Shards that the process explains at the same time get other
devices, as long as there are devices that no process on the machine has claimed. Each device has its own copy
of the model, loaded once.
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

#: Calls in flight on a GPU: one is computed while the next is transferred. More would only fill its memory.
_LANES = 2
#: Maximum number of claims on one device when there are more processes than devices.
_MOST_ROUNDS = 1024


@dataclass(frozen=True)
class Device:
    """The device on which a model is loaded and called.

    Args:
      scope: TensorFlow's name for the device; None if TensorFlow has only one device.
      lanes: Maximum number of calls in flight; 0 sets no limit.
    """

    scope: str | None = None
    lanes: int = 0

    def placed(self) -> AbstractContextManager[Any]:
        """A context in which TensorFlow creates all tensors and variables on the device."""
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

    A claim is a locked file: the system releases the lock when the process ends, even if it is killed.

    Args:
      folder: Folder of the locked files, common to all processes that share the devices.
    """

    folder: str
    _held: list[_Claim] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    @contextmanager
    def lease(self, scopes: Sequence[str]) -> Iterator[Device]:
        """Lends a device to a shard: an idle one of ours, or a newly claimed one, or our least busy one."""
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
    """Locks a file, and returns its descriptor; None if another process holds the lock."""
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
    """TensorFlow's names of the devices for models: the GPUs, or else the CPU, which is a single device."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tuple(f"/device:{device.name.partition('device:')[2]}" for device in devices)


@contextmanager
def leased_device(*, needs_tensorflow: bool) -> Iterator[Device]:
    """Lends a device to a shard or a plan; starts TensorFlow if `needs_tensorflow` is true."""
    scopes = device_scopes() if needs_tensorflow else ()
    if len(scopes) > 1:
        with _claims.lease(scopes) as device:
            yield device
    else:
        yield Device(None, _LANES if scopes and "GPU" in scopes[0] else 0)
