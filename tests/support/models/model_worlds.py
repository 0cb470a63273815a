"""Models as the product loads them; helpers, not tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from transforms.errors import UserError
from transforms.models.base import ModelAdapter
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.load import ModelRequest, load_model

L, ops = keras.layers, keras.ops
Inputs = dict[str, np.ndarray]


def load(path: Any, **options: Any) -> ModelAdapter:
    return load_model(ModelRequest(str(path), **options))


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    return text


def scored(adapter: ModelAdapter, score: str = "auto", **shapes: tuple[int, ...]) -> ScoredGraph:
    full = {
        spec.name: shapes.get(spec.name) or tuple(e or 1 for e in spec.shape)
        for spec in adapter.signature.inputs
    }
    return ScoredGraph(adapter, full, score)


def integrated(model: ScoredGraph, rows: Inputs) -> tuple[Inputs, np.ndarray]:
    """Integrated gradients from the first row, and how far their sum is from the difference of the scores."""
    base = {name: value[:1] for name, value in rows.items()}
    differentiable = model.differentiable(base)
    x, w = np.polynomial.legendre.leggauss(40)
    count = len(next(iter(rows.values())))
    values, _ = differentiable.integrate(
        rows,
        differentiable.ends(base),
        np.zeros((1, 1), np.int32),
        ((x + 1) / 2).astype(np.float32)[None, :, None],
        (w / 2).astype(np.float32),
        np.zeros((count, 1), np.int64),
    )
    scores = model.evaluate(rows)[0][:, 0]
    total = sum(value.reshape(count, -1).sum(axis=1) for value in values.values())
    return values, total - (scores - scores[0])


def small(name: str = "x", size: int = 4) -> Any:
    keras.utils.set_random_seed(1)
    x = L.Input((size,), name=name)
    return keras.Model(x, L.Dense(1, activation="sigmoid", name="late")(L.Dense(8, activation="tanh")(x)))


def rows_of(size: int = 4, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


def saved(tmp_path: Path, model: Any) -> ModelAdapter:
    path = tmp_path / "model.keras"
    model.save(path)
    return load(path)


def described(adapter: ModelAdapter) -> tuple[list[Any], list[Any]]:
    signature = adapter.signature
    return [(i.name, i.shape, i.dtype) for i in signature.inputs], [
        (o.name, o.shape) for o in signature.outputs
    ]
