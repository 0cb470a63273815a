"""What a worker holds: the model, the reference and the method, loaded once a process and shared by its threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transforms import files
from transforms.baselines import Artifact
from transforms.methods.base import AttributionMethod, Reference
from transforms.models import ModelRequest, load_model
from transforms.models.base import ModelAdapter, ScoredModel
from transforms.schema import ExampleSchema
from transforms.write import OutputSpec


@dataclass(frozen=True)
class TargetSpec:
    """Which outputs are explained: some indices for every row, the predicted one, or one named by a column."""

    indices: tuple[int, ...] | None = None
    predicted: bool = False

    def of(self, outputs: np.ndarray | None, column: np.ndarray | None, rows: int) -> np.ndarray:
        """Output index of each row, `[B, T]`."""
        if column is not None:
            return column[:, None]
        if self.predicted:
            if outputs is None:
                raise ValueError("the predicted output needs the outputs")
            # One output is a yes or no: there is nothing to choose from.
            return outputs.argmax(axis=1)[:, None]
        return np.broadcast_to(np.array(self.indices, np.int64), (rows, len(self.indices or ())))


@dataclass(frozen=True)
class ExplainSpec:
    """All that a worker needs to explain a shard; small, and the same on every runner.

    Args:
      run: The run directory.
      run_id: Of the run.
      fingerprint: Of what decides the numbers; parts of another fingerprint are not reused.
      model: What to load.
      score: auto | output | logit | probability.
      schema: Of the examples.
      method: The method with its keys.
      targets: Which outputs.
      reference: Path of the baseline artifact.
      output: What to write.
      batch_size: Rows per Arrow batch.
      device_batch_size: Model evaluations per device call.
      seed: Of the run.
      threads: TensorFlow's threads in this process; None leaves them to it.
      metadata: Of every part.
      affine_prefix: False leaves the affine prefix of the path methods off (to measure what it gains).
    """

    run: str
    run_id: str
    fingerprint: str
    model: ModelRequest
    score: str
    schema: ExampleSchema
    method: AttributionMethod
    targets: TargetSpec
    reference: str
    output: OutputSpec
    batch_size: int
    device_batch_size: int
    seed: int
    threads: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    affine_prefix: bool = True


@dataclass
class Runtime:
    """A spec with its model loaded and its reference read."""

    spec: ExplainSpec
    model: ScoredModel
    reference: Reference
    target_names: np.ndarray


_runtimes: dict[tuple[str, str], Runtime] = {}
_adapters: dict[ModelRequest, ModelAdapter] = {}
_lock = threading.Lock()


def start_tensorflow(threads: int | None) -> None:
    """Sets TensorFlow up before its first use in this process: quiet, with these threads, growing on GPUs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    first = "tensorflow" not in sys.modules
    import tensorflow as tf

    if not first:
        return
    tf.get_logger().setLevel("ERROR")
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(min(threads, 2))
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)


def adapter(request: ModelRequest, threads: int | None = None) -> ModelAdapter:
    """The loaded model, once a process. The caller must not hold the lock of `runtime`."""
    with _lock:
        return _adapter(request, threads)


def _adapter(request: ModelRequest, threads: int | None) -> ModelAdapter:
    if request not in _adapters:
        start_tensorflow(threads)
        _adapters.clear()  # one model a process
        _adapters[request] = load_model(request)
    return _adapters[request]


def runtime(spec: ExplainSpec) -> Runtime:
    """The runtime of a spec, made once a process however many threads ask for it."""
    key = (spec.run_id, spec.fingerprint)
    with _lock:
        if key not in _runtimes:
            _runtimes.clear()
            loaded = _adapter(spec.model, spec.threads)
            artifact = Artifact.from_bytes(files.read_bytes(spec.reference))
            model = ScoredModel(loaded, spec.schema.inputs, spec.score, affine_prefix=spec.affine_prefix)
            reference = make_reference(artifact, spec.schema)
            names = np.array(loaded.signature.target_names, object)
            made = Runtime(spec, model, reference, names)
            if spec.method.needs.gradients:
                reference.ends(model)  # traces here, before threads share it
            _runtimes[key] = made
        return _runtimes[key]


def make_reference(artifact: Artifact, schema: ExampleSchema) -> Reference:
    """The reference in terms of the model's inputs."""
    inputs: dict[str, Any] = schema.assemble(artifact.features)
    return Reference(inputs, artifact.scores, artifact.spread, artifact.noise)
