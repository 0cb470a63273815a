"""What a worker holds: model, reference and method, loaded once a process and shared by its threads."""

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
      spec: What to do.
      model: With its score.
      reference: Baseline or background.
      target_names: A name a target, object array.
      device_batch: How large a device call may be by now, for all batches and shards of this device.
      artifact: Baseline or background by feature.
      device: Where the model runs.
      kept: What is made of it for rows of other lengths than the longest: models by shapes, and runtimes.
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
        """The runtime for rows whose padded features have so many steps; made once, whichever thread asks."""
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
            # The same plan may be run again into another folder.
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
#: Of lists, that a process keeps models and backgrounds for.
_MOST_LENGTHS = 1024


def adapter(request: ModelRequest, threads: int | None = None) -> ModelAdapter:
    """The loaded model, once a process. The caller must not hold the lock of `runtime`."""
    locate(request)  # that there is none is known before TensorFlow has started
    with _lock, _leased(request, threads) as device:
        return _adapter(request, device)


def _adapter(request: ModelRequest, device: Device) -> ModelAdapter:
    key = (request, _stamps(request), generation())
    if (key, device) not in _adapters:
        _forget_others(_adapters, key)
        if not _adapters:
            _models.clear()
            _runtimes.clear()  # that two functions have one source does not make them one
        loaded = load_model(request, device)
        key = (request, _stamps(request), generation())  # by now the user's own modules are known
        _adapters[key, device] = loaded
    return _adapters[key, device]


@contextmanager
def _leased(request: ModelRequest, threads: int | None) -> Iterator[Device]:
    """A device for the model, TensorFlow being started where it needs it."""
    if request.needs_tensorflow:
        start_tensorflow(threads)
    elif threads:
        share_processors(threads)
    with leased_device(needs_tensorflow=request.needs_tensorflow) as device:
        yield device


def _forget_others(kept: dict[tuple[object, Device], Any], key: object) -> None:
    """Drops what is of another key: a process has one model at a time, on as many devices as it uses."""
    for other in [other for other in kept if other[0] != key]:
        del kept[other]


def _stamps(request: ModelRequest) -> Stamps:
    """What changes when a model is saved again under its name; nothing for a URL, which is fetched once."""
    path = request.path
    if files.is_url(path):
        return ()
    if is_function(path):
        path = module_file(path, request.module_paths)
    if os.path.isdir(path) and not os.path.isfile(os.path.join(path, "saved_model.pb")):
        return ()  # no model: it may hold the whole filesystem
    names = [path] if os.path.isfile(path) else []
    names += [os.path.join(folder, name) for folder, _, found in os.walk(path) for name in found]
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
    """The loaded model with its score, once a process: planning and explaining share its traces.

    Args:
      request: What to load.
      example: Rows of each model input.
      score: auto | output | logit | probability.
      threads: TensorFlow's threads in this process.
      affine_prefix: False leaves the affine prefix of the path methods off.
      held: Inputs that stay what they are in the row.
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
    # What is made of the rows is theirs alone: another run's model is tried on its own.
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
    """Of rows with their names, types and shapes."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(arrays.items()):
        found.update(f"{name!r} {value.dtype.str} {value.shape}".encode())
        if value.dtype == object:
            for item in value.flat:
                found.update(
                    f"{len(item)} ".encode() + item if isinstance(item, bytes) else repr(item).encode()
                )
        else:
            found.update(np.ascontiguousarray(value).data)
    return found.hexdigest()


@contextmanager
def runtime(spec: ExplainSpec) -> Iterator[Runtime]:
    """The runtime of a spec, made once a process and device however many threads ask for it.

    The device is the caller's until it leaves the context: with several, others get other ones.
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
            # Traces here, before threads share it.
            with device.placed():
                if spec.method.needs.rescale:
                    model.rescaled(reference.inputs)
                elif spec.method.needs.gradients:
                    device_batch.run(lambda size: background_ends(model, reference, size))
                elif model.has_gradients and not spec.method.needs.trees:
                    model.masked(reference)
            _runtimes[key, device] = made
        _runtimes[key, device].device_batch.shrink(spec.device_room)
        # The same plan may be run again into another folder.
        return replace(_runtimes[key, device], spec=spec)


def make_reference(artifact: Artifact, schema: ExampleSchema, seed: int) -> Reference:
    """The reference in terms of the model's inputs."""
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
