"""How large a device call is, and how long a row takes."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from transforms.methods.base import AttributionMethod, evaluate
from transforms.methods.masking.game import ROWS_A_CALL
from transforms.models.base import KEPT_BYTES, ScoredModel
from transforms.models.reference import Reference
from transforms.work.spec import TargetSpec

#: Memory that the activations of a device call may take. On a processor what fits its caches is fastest, and
#: without gradients nothing has to be kept for the way back.
_CPU_BYTES = 64 << 20
_CPU_BYTES_FORWARD = 16 << 20
#: Where a call of many rows is taken in parts, of which one at a time is in memory.
_CPU_BYTES_IN_PARTS = 256 << 20
_GPU_SHARE = 0.25
#: In a device call, whatever their size.
MOST_EVALUATIONS = 1 << 16
#: A measurement of so long can be trusted.
_MEASURED_SECONDS = 2.0
#: Rows that are measured where one takes long.
_SEVERAL = 8


def device_batch_size(model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod) -> int:
    """The largest power of two whose activations stay within the memory bound; no clock decides it."""
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
    """The same for evaluations alone, of a model of which nobody knows yet whether the method suits it."""
    fitting = max(1, _CPU_BYTES_FORWARD // model.forward_bytes)
    return int(min(MOST_EVALUATIONS, 1 << (fitting.bit_length() - 1)))


def evaluation_bytes(model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod) -> int:
    """Memory that one evaluation takes in a device call, with its gradient where one is taken."""
    if method.needs.rescale:
        return model.rescaled(inputs).pair_bytes
    if method.needs.gradients:
        return model.differentiable(inputs).activation_bytes
    return model.forward_bytes


def background_bytes(
    model: ScoredModel, inputs: Mapping[str, np.ndarray], method: AttributionMethod, rows: int
) -> int:
    """Memory that a device keeps of `rows` background rows from one call to the next."""
    if not model.has_gradients or method.needs.trees:
        return 0
    own = sum(value.nbytes // max(1, len(value)) for value in inputs.values())
    if method.needs.rescale:
        return KEPT_BYTES
    if method.needs.gradients:
        # Of one tensor at a time, the calls' parts as well.
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
    """Seconds a row takes, on the first rows of the input: more of them until the time can be trusted."""
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
            elapsed = min(elapsed, seconds(rows))  # the first of a size may have traced a function for it
        if attempt and (elapsed > _MEASURED_SECONDS / 4 or rows == count):
            break
        rows = rows if not attempt else min(count, 4 * rows)
    if rows > 1 or count == 1 or elapsed > _MEASURED_SECONDS:
        return elapsed / rows
    # A single row takes long: what the rows of a call would share must not be counted for each of them.
    several = min(count, _SEVERAL)
    longer = min(seconds(several), seconds(several))  # the first may have traced, as above
    marginal = min(elapsed, max(0.0, longer - elapsed) / (several - 1))
    return marginal + (elapsed - marginal) / ROWS_A_CALL
