"""TensorFlow in this process: set up once, before its first use."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from transforms.methods.calls import processors, share_processors

_starting = threading.Lock()

#: malloc.h: larger blocks are allocated from the system and returned to it; 32 MiB is the largest threshold.
_M_MMAP_THRESHOLD, _LARGEST_KEPT = -3, 32 << 20
#: malloc.h: the amount of free memory at a heap's end above which it is returned.
_M_TRIM_THRESHOLD, _NEVER_TRIM = -1, (1 << 31) - 1


def start_tensorflow(threads: int | None) -> None:
    """Sets TensorFlow up before its first use in this process: quiet, with these threads, growing on GPUs."""
    with _starting:
        _start_tensorflow(threads)


def _start_tensorflow(threads: int | None) -> None:
    if "tensorflow" in sys.modules:
        _grow_on_gpus()
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _keep_freed_memory()
    with quiet_stderr():
        import tensorflow as tf
    tf.get_logger().setLevel("ERROR")
    if threads:
        share_processors(threads)
    if not _grow_on_gpus():
        # Several device calls at a time use the processors better than one call whose every operation is
        # divided between them: measured 1.2 to 1.5 times the rows on two.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(processors())


def _grow_on_gpus() -> bool:
    """Makes TensorFlow take GPU memory as needed rather than all of it; returns True if there are GPUs.

    If other code in the process has used the devices already, this can no longer be changed.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context

    gpus = tf.config.list_physical_devices("GPU")
    if not context.context()._initialized:
        for device in gpus:
            tf.config.experimental.set_memory_growth(device, True)
    return bool(gpus)


def _keep_freed_memory() -> None:
    """Makes glibc keep the memory that a device call frees, because the next call needs as much again.

    By default it returns tensors of megabytes to the system at once, and every call pays for new pages: by
    measurement, a third of a processor's time at 16,384 points per call. Other C libraries have no mallopt.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silences the process's stderr: TensorFlow's C++ writes to it before it reads TF_CPP_MIN_LOG_LEVEL."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
