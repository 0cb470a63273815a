"""The runtime of a worker: model, reference and method, loaded once per process and shared by its threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from transforms.methods.base import evaluate
from transforms.methods.calls import share_processors
from transforms.methods.gradients.background_ends import background_ends
from transforms.models.base import ModelAdapter, ScoredModel
from transforms.models.devices import Device, leased_device
from transforms.models.kinds.function import is_function, module_file
from transforms.models.load import ModelRequest, load_model, locate
from transforms.models.reference import Reference
from transforms.models.users_code import generation
from transforms.rows.baselines.baselines import Artifact
from transforms.rows.padding import at_lengths, narrowed
from transforms.rows.schema import ExampleSchema
from transforms.storage import files
from transforms.worker.device_batch import DeviceBatchSize
from transforms.worker.spec import ExplainSpec
from transforms.worker.tensorflow_setup import start_tensorflow


@dataclass
class Runtime:
    """A spec with its model loaded and its reference read.

    Args:
      spec: The worker's instructions.
      model: The model with its score.
      reference: Baseline or background, by model input.
      target_names: The name of each target, object array.
      device_batch: The size of device calls, shared by all batches and shards of this device.
      artifact: Baseline or background, by feature.
      device: The device on which the model runs.
      kept: For padded lists, cached models by shapes and runtimes by lengths.
    """

    spec: ExplainSpec
    model: ScoredModel
    reference: Reference
    target_names: np.ndarray
    device_batch: DeviceBatchSize
    artifact: Artifact
    device: Device
    kept: dict[object, Any] = field(default_factory=dict)

    def at(self, steps: tuple[int, ...]) -> Runtime:
        """The runtime for rows whose padded features have these numbers of steps; shared by all threads."""
        with _at_lengths:
            schema = at_lengths(self.spec.schema, steps)
            if steps not in self.kept:
                if len(self.kept) > _MOST_LENGTHS:
                    self.kept.clear()
                features = narrowed(self.artifact.features, schema)
                inputs = schema.assemble(features)
                model = self._model_of(inputs)
                scores = self.device_batch.run(lambda size: evaluate(model, inputs, size)[0])
                artifact = replace(self.artifact, features=features, scores=scores)
                reference = make_reference(artifact, schema, self.spec.seed)
                self.kept[steps] = replace(self, model=model, reference=reference, artifact=artifact)
            # The spec is not cached: the same plan may be run again into another folder.
            return replace(self.kept[steps], spec=replace(self.spec, schema=schema))

    def _model_of(self, inputs: Mapping[str, np.ndarray]) -> ScoredModel:
        shapes = {name: value.shape[1:] for name, value in inputs.items()}
        if shapes == {name: value.shape[1:] for name, value in self.reference.inputs.items()}:
            return self.model
        key = tuple(sorted(shapes.items()))
        if key not in self.kept:
            with self.device.placed():
                made = self.model.adapter.scored(
                    shapes, self.spec.score, affine_prefix=self.spec.affine_prefix, example=inputs
                )
                made.held = self.model.held
                self.kept[key] = made
        model: ScoredModel = self.kept[key]
        return model


#: Size and time of last change of a model's files.
Stamps = tuple[tuple[str, int, int], ...]

_runtimes: dict[tuple[object, Device], Runtime] = {}
_adapters: dict[tuple[object, Device], ModelAdapter] = {}
_models: dict[tuple[object, Device], ScoredModel] = {}
_lock = threading.Lock()
_at_lengths = threading.RLock()
#: Number of lengths of lists for which a process keeps models and backgrounds.
_MOST_LENGTHS = 1024


def adapter(request: ModelRequest, threads: int | None = None) -> ModelAdapter:
    """The model, loaded once per process. The caller must not hold the lock of `runtime`."""
    locate(request)  # reports a missing model before TensorFlow starts
    with _lock, _leased(request, threads) as device:
        return _adapter(request, device)


def _adapter(request: ModelRequest, device: Device) -> ModelAdapter:
    key = (request, _stamps(request), generation())
    if (key, device) not in _adapters:
        _forget_others(_adapters, key)
        if not _adapters:
            _models.clear()
            _runtimes.clear()  # two functions may differ even if their source is the same
        loaded = load_model(request, device)
        key = (request, _stamps(request), generation())  # now the user's own modules are loaded
        _adapters[key, device] = loaded
    return _adapters[key, device]


@contextmanager
def _leased(request: ModelRequest, threads: int | None) -> Iterator[Device]:
    """Leases a device for the model, and starts TensorFlow if the model needs it."""
    if request.needs_tensorflow:
        start_tensorflow(threads)
    elif threads:
        share_processors(threads)
    with leased_device(needs_tensorflow=request.needs_tensorflow) as device:
        yield device


def _forget_others(kept: dict[tuple[object, Device], Any], key: object) -> None:
    """Drops entries of other keys: a process has one model at a time, on as many devices as it uses."""
    for other in [other for other in kept if other[0] != key]:
        del kept[other]


def _stamps(request: ModelRequest) -> Stamps:
    """Sizes and times of a model's files, which change when it is saved again; none for a URL."""
    path = request.path
    if files.is_url(path):
        return ()
    if is_function(path):
        path = module_file(path, request.module_paths)
    if os.path.isdir(path) and not os.path.isfile(os.path.join(path, "saved_model.pb")):
        return ()  # not a model; the folder may hold the whole filesystem
    names = [path] if os.path.isfile(path) else []
    names += [os.path.join(folder, name) for folder, _, inside in os.walk(path) for name in inside]
    states = [(name, os.stat(name)) for name in sorted(names)]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


def scored_model(
    request: ModelRequest,
    example: Mapping[str, np.ndarray],
    score: str,
    threads: int | None = None,
    *,
    affine_prefix: bool = True,
    held: frozenset[str] = frozenset(),
) -> ScoredModel:
    """The model with its score, made once per process, so that planning and explaining share its traces.

    Args:
      request: The model to load.
      example: Rows of each model input.
      score: auto | output | logit | probability.
      threads: TensorFlow's threads in this process.
      affine_prefix: False makes path methods integrate from the inputs, without skipping the affine prefix.
      held: Inputs that keep the row's values.
    """
    with _lock, _leased(request, threads) as device:
        return _scored_model(request, example, score, affine_prefix, held, device)


def _scored_model(
    request: ModelRequest,
    example: Mapping[str, np.ndarray],
    score: str,
    affine_prefix: bool,
    held: frozenset[str],
    device: Device,
) -> ScoredModel:
    loaded = _adapter(request, device)
    shapes = {name: value.shape[1:] for name, value in example.items()}
    # The rows are part of the key: a model is made and tried with the rows of its own run.
    key = (_digest(example), score, affine_prefix, tuple(sorted(held)))
    if (key, device) not in _models:
        _forget_others(_models, key)
        with device.placed():
            made = loaded.scored(shapes, score, affine_prefix=affine_prefix, example=example)
            made.held = held
        _models[key, device] = made
        generation()  # a function that was tried on the rows has imported what it needs
    return _models[key, device]


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A digest of arrays with their names, types and shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(arrays.items()):
        digest.update(f"{name!r} {value.dtype.str} {value.shape}".encode())
        if value.dtype == object:
            for item in value.flat:
                digest.update(
                    f"{len(item)} ".encode() + item if isinstance(item, bytes) else repr(item).encode()
                )
        else:
            digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


@contextmanager
def runtime(spec: ExplainSpec) -> Iterator[Runtime]:
    """The runtime of a spec, made once per process and device for all threads.

    The device belongs to the caller until it leaves the context; other threads get other devices, if any.
    """
    with _leased(spec.model, spec.threads) as device:
        yield _runtime(spec, device)


def _runtime(spec: ExplainSpec, device: Device) -> Runtime:
    key = (spec.fingerprint, spec.model, spec.affine_prefix)
    with _lock:
        if (key, device) not in _runtimes:
            _forget_others(_runtimes, key)
            kept = spec.reference
            artifact = Artifact.from_bytes(kept if isinstance(kept, bytes) else files.read_bytes(kept))
            reference = make_reference(artifact, spec.schema, spec.seed)
            prefix, held = spec.affine_prefix, spec.schema.held
            model = _scored_model(spec.model, reference.inputs, spec.score, prefix, held, device)
            names = np.array(spec.targets.signature(model.signature).target_names, object)
            device_batch = DeviceBatchSize(spec.device_batch_size)
            device_batch.shrink(spec.device_room)
            made = Runtime(spec, model, reference, names, device_batch, artifact, device)
            # Trace the model now, before threads share it.
            with device.placed():
                if spec.method.needs.rescale:
                    model.rescaled(reference.inputs)
                elif spec.method.needs.gradients:
                    device_batch.run(lambda size: background_ends(model, reference, size))
                elif model.has_gradients and not spec.method.needs.trees:
                    model.masked(reference)
            _runtimes[key, device] = made
        _runtimes[key, device].device_batch.shrink(spec.device_room)
        # The spec is not cached: the same plan may be run again into another folder.
        return replace(_runtimes[key, device], spec=spec)


def make_reference(artifact: Artifact, schema: ExampleSchema, seed: int) -> Reference:
    """The reference by model input, from an artifact by feature."""
    inputs: dict[str, Any] = schema.assemble(artifact.features)
    return Reference(
        inputs,
        artifact.scores,
        artifact.spread,
        artifact.noise,
        players=schema.players,
        seed=seed,
        yardstick=artifact.yardstick,
    )
