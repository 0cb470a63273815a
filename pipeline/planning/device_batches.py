"""Determines the size of a device call, and measures the time per row."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from transforms.methods.base import AttributionMethod, evaluate
from transforms.methods.masking.game import ROWS_A_CALL
from transforms.models.base import KEPT_BYTES, ScoredModel
from transforms.models.reference import Reference
from transforms.worker.spec import TargetSpec

#: Bytes for the activations of a device call. A CPU is fastest when they fit its caches.
_CPU_BYTES = 64 << 20
_CPU_BYTES_FORWARD = 16 << 20
#: Bytes of a call that is computed in parts, of which one at a time is in memory.
_CPU_BYTES_IN_PARTS = 256 << 20
_GPU_SHARE = 0.25
#: Largest number of evaluations in a device call, even if they are small.
MOST_EVALUATIONS = 1 << 16
#: Seconds that a measurement takes at least, to be reliable.
_MEASURED_SECONDS = 2.0
#: Rows to measure if a single row takes long.
_SEVERAL = 8


def device_batch_size(model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod) -> int:
    """The largest power of two whose activations stay within the memory bound; independent of timings."""
    bound = _CPU_BYTES if method.needs.gradients else _CPU_BYTES_FORWARD
    if model.has_gradients:  # only TensorFlow's models run on its devices
        import tensorflow as tf

        if not method.needs.gradients and model.repeatable:
            bound = _CPU_BYTES_IN_PARTS
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            limit = tf.config.experimental.get_device_details(gpus[0]).get("memory_limit_mb", 8192)
            bound = int(limit * (1 << 20) * _GPU_SHARE)
    fitting = max(1, bound // evaluation_bytes(model, inputs, method))
    return int(min(MOST_EVALUATIONS, 1 << (fitting.bit_length() - 1)))


def forward_batch_size(model: ScoredModel) -> int:
    """The device batch size for plain evaluations, before the method has been checked against the model."""
    fitting = max(1, _CPU_BYTES_FORWARD // model.forward_bytes)
    return int(min(MOST_EVALUATIONS, 1 << (fitting.bit_length() - 1)))


def evaluation_bytes(model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod) -> int:
    """Memory of one evaluation in a device call, with its gradient if the method takes one."""
    if method.needs.rescale:
        return model.rescaled(inputs).pair_bytes
    if method.needs.gradients:
        return model.differentiable(inputs).activation_bytes
    return model.forward_bytes


def background_bytes(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod, rows: int
) -> int:
    """Memory of the results that a device keeps for `rows` background rows between calls."""
    if not model.has_gradients or method.needs.trees:
        return 0
    own = sum(value.nbytes // max(1, len(value)) for value in inputs.values())
    if method.needs.rescale:
        return KEPT_BYTES
    if method.needs.gradients:
        # One tensor at a time is held twice: whole, and in the parts that the calls returned.
        return 2 * min(KEPT_BYTES, rows * model.differentiable(inputs).end_bytes)
    return 3 * rows * own


def seconds_per_row(
    method: AttributionMethod,
    model: ScoredModel,
    reference: Reference,
    inputs: Mapping[str, np.ndarray],
    targets: TargetSpec,
    size: int,
) -> float:
    """Measures the seconds per row on as many first rows of the input as a reliable time needs."""
    count = len(next(iter(inputs.values())))
    per_row = method.evaluations_per_row(reference.rows, reference.players.count)
    rows = min(count, max(1, size // max(1, per_row)))

    def seconds(rows: int) -> float:
        part = {name: value[:rows] for name, value in inputs.items()}
        outputs = evaluate(model, part, size)[1] if targets.predicted else None
        column = np.zeros(rows, np.int64) if targets.indices is None and not targets.predicted else None
        chosen = targets.of(outputs, column, rows)
        start = time.perf_counter()
        method.attribute(model, part, reference, chosen, np.arange(rows, dtype=np.uint64), size)
        return time.perf_counter() - start

    elapsed = 0.0
    for attempt in range(20):
        elapsed = seconds(rows)
        if attempt and elapsed > _MEASURED_SECONDS / 4:
            elapsed = min(elapsed, seconds(rows))  # the first call of a size may include tracing
        if attempt and (elapsed > _MEASURED_SECONDS / 4 or rows == count):
            break
        rows = rows if not attempt else min(count, 4 * rows)
    if rows > 1 or count == 1 or elapsed > _MEASURED_SECONDS:
        return elapsed / rows
    # A single row takes long: costs shared by the rows of a call must be divided among several rows.
    several = min(count, _SEVERAL)
    longer = min(seconds(several), seconds(several))  # the first call may include tracing
    marginal = min(elapsed, max(0.0, longer - elapsed) / (several - 1))
    return marginal + (elapsed - marginal) / ROWS_A_CALL
