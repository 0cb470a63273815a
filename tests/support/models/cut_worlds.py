"""Keras models as the product loads them, and their integrals and gradients; helpers, not tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from transforms.models.graphs.scored import ScoredGraph
from transforms.models.kinds.keras import KerasModel

L, ops = keras.layers, keras.ops
Inputs = dict[str, np.ndarray]
ROWS, BASES, NODES = 5, 3, 40


def loaded(model: Any) -> KerasModel:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.keras")
        model.save(path)
        return KerasModel(path, allow_unsafe=True)


def scored(model: Any, score: str = "auto", *, affine_prefix: bool = True) -> ScoredGraph:
    """A Keras model as the product loads it, or a model already loaded, with its score."""
    adapter = model if isinstance(model, KerasModel) else loaded(model)
    shapes = {spec.name: tuple(extent or 1 for extent in spec.shape) for spec in adapter.signature.inputs}
    return ScoredGraph(adapter, shapes, score, affine_prefix=affine_prefix)


def legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return ((x + 1) / 2).astype(np.float32), (w / 2).astype(np.float32)


def integrated(
    model: ScoredGraph, rows: Inputs, bases: Inputs, nodes: int = NODES, targets: np.ndarray | None = None
) -> Inputs:
    """Integrated gradients with a mean over the base rows, by model input, `[B, T, *shape]`."""
    differentiable = model.differentiable(bases)
    count, many = len(next(iter(rows.values()))), len(next(iter(bases.values())))
    alphas, weights = legendre(nodes)
    targets = np.zeros((count, 1), np.int64) if targets is None else targets
    values, _ = differentiable.integrate(
        rows,
        differentiable.ends(bases),
        np.arange(many, dtype=np.int32)[:, None],
        np.broadcast_to(alphas[None, :, None], (many, nodes, 1)),
        weights / np.float32(many),
        targets,
    )
    return values


def gradients(model: ScoredGraph, rows: Inputs, mode: str = "plain") -> Inputs:
    differentiable = model.differentiable(rows)
    still = [np.float32(0)] * len(differentiable.cut.entries)
    count = len(next(iter(rows.values())))
    return differentiable.gradient(rows, still, 1, np.zeros((count, 1), np.int64), mode)[0]


def total(values: Inputs) -> np.ndarray:
    return sum(value.reshape(*value.shape[:2], -1).sum(axis=2, dtype=np.float64) for value in values.values())


def called(model: Any, inputs: Inputs) -> Any:
    values = [tf.constant(inputs[tensor.name]) for tensor in model.inputs]
    return model(values if len(values) > 1 else values[0], training=False)


def one_row(inputs: Inputs, row: int) -> Inputs:
    return {name: value[row : row + 1] for name, value in inputs.items()}


def strings(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([b"AA", b"UA", b"DL", b"never seen"], object), shape)


def numbers(*shape: int) -> Inputs:
    return {"x": np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)}
