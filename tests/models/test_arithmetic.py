"""`compute.precision` and `compute.jit`: what they do to a model, the digits they cost, what they refuse."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from pipeline.planning.summary import summarize
from tests.support import worlds
from tests.support.models.models_zoo import attribute, make_reference, scored
from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.methods.base import AttributionMethod
from transforms.models.base import CompileOptions
from transforms.models.graphs.rewrites.precision import HALVES
from transforms.models.graphs.scored import ScoredGraph

layers, ops = keras.layers, keras.ops
Arrays = dict[str, np.ndarray]

#: Settings with the error against float32 that is allowed, ‖Δφ‖ ÷ ‖φ‖: ten and seven bits of mantissa are
#: left in the halves; XLA only sums in another order.
SETTINGS = {
    "mixed_float16": ("mixed_float16", False, 1e-2),
    "mixed_bfloat16": ("mixed_bfloat16", False, 8e-2),
    "jit": ("float32", True, 1e-5),
    "mixed_bfloat16, jit": ("mixed_bfloat16", True, 8e-2),
}
ROWS, BACKGROUND = 5, 3
#: Small budgets: what is compared is arithmetic.
KEYS: Mapping[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 4},
    "smoothgrad": {"n_samples": 4},
    "expected_gradients": {"n_samples": 4},
    "permutation_shap": {"n_permutations": 2},
    "lime": {"n_samples": 32},
}
NAMES = [name for name, method in METHODS.items() if not method.needs.trees]


def dense() -> Any:
    inputs = keras.Input((6,), name="x")
    hidden = layers.Dense(8, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Dense(8, activation="gelu")(hidden)))


def embeddings() -> Any:
    word, code = keras.Input((1,), dtype="string", name="word"), keras.Input((1,), dtype="int32", name="code")
    number = keras.Input((2,), name="number")
    found = layers.StringLookup(vocabulary=["a", "b", "c"])(word)
    parts = [layers.Flatten()(layers.Embedding(4, 3)(found)), layers.Flatten()(layers.Embedding(9, 2)(code))]
    hidden = layers.Dense(8, activation="tanh")(layers.Concatenate()([*parts, number]))
    hidden = layers.Dense(6, activation="tanh")(hidden)
    return keras.Model([word, code, number], layers.Dense(2, activation="softmax")(hidden))


def convolutions() -> Any:
    inputs = keras.Input((5, 5, 1), name="x")
    hidden = layers.Conv2D(3, 2, activation="tanh")(inputs)
    hidden = layers.DepthwiseConv2D(2, activation="tanh")(hidden)
    hidden = layers.Conv2D(2, 2, activation="tanh")(hidden)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(hidden)))


def recurrent() -> Any:
    inputs = keras.Input((3, 2), name="x")
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(4)(inputs)))


KINDS = {"dense": dense, "embeddings": embeddings, "convolutions": convolutions, "recurrent": recurrent}
#: Every method on the kind that has everything; on others one that differentiates, one that masks, rules.
CASES = [
    *(("embeddings", name, setting) for name in NAMES for setting in ("mixed_bfloat16", "jit")),
    *(
        (kind, "integrated_gradients", setting)
        for kind in ("dense", "convolutions", "recurrent")
        for setting in ("mixed_float16", "mixed_bfloat16", "jit")
    ),
    *((kind, "permutation_shap", "jit") for kind in ("convolutions", "recurrent")),
    *((kind, "deep_shap", "mixed_float16") for kind in ("convolutions", "recurrent")),
    ("dense", "saliency", "mixed_bfloat16, jit"),
]


def sample(kind: str, rows: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    if kind == "embeddings":
        return {
            "word": rng.choice(np.array([b"a", b"b", b"c"], object), (rows, 1)),
            "code": rng.integers(0, 9, (rows, 1)).astype(np.int32),
            "number": rng.normal(size=(rows, 2)).astype(np.float32),
        }
    shape = {"dense": (6,), "convolutions": (5, 5, 1), "recurrent": (3, 2)}[kind]
    return {"x": rng.normal(size=(rows, *shape)).astype(np.float32)}


@cache
def model_of(kind: str, precision: str = "float32", jit: bool = False) -> ScoredGraph:
    keras.utils.set_random_seed(3)
    return with_arithmetic(KINDS[kind](), precision, jit)


def with_arithmetic(model: Any, precision: str, jit: bool) -> ScoredGraph:
    adapter = scored(model).adapter
    adapter.precision, adapter.compile_options = precision, CompileOptions(jit)
    shapes = {spec.name: tuple(extent or 1 for extent in spec.shape) for spec in adapter.signature.inputs}
    return ScoredGraph(adapter, shapes)


def phi(kind: str, name: str, precision: str = "float32", jit: bool = False) -> np.ndarray:
    model = model_of(kind, precision, jit)
    method: AttributionMethod = METHODS[name](**KEYS.get(name, {}))
    background = sample(kind, BACKGROUND if method.needs.background else 1, 1)
    found = attribute(
        method,
        model,
        sample(kind, ROWS, 0),
        make_reference(model, background, noise=0.1),
        targets=np.tile([[0, 1]], (ROWS, 1)),
    )
    return np.concatenate([value.reshape(ROWS, 2, -1) for value in found.values.values()], axis=2)


plain = cache(phi)


@pytest.mark.parametrize(("kind", "name", "setting"), CASES)
def test_the_error_against_float32(kind: str, name: str, setting: str) -> None:
    precision, jit, most = SETTINGS[setting]
    exact = plain(kind, name)
    error = float(np.linalg.norm(phi(kind, name, precision, jit) - exact) / np.linalg.norm(exact))
    assert error < most
    if precision != "float32" and not jit:
        assert error > 1e-6, "an option without effect"


@pytest.mark.parametrize("kind", ["dense", "embeddings"])
def test_xla_compiles_all_but_lookups(kind: str) -> None:
    model, rows = model_of(kind, jit=True), sample(kind, 2, 0)
    reference = make_reference(model, sample(kind, 2, 1), noise=0.1)
    targets = np.zeros((2, 1), np.int64)
    model.evaluate(rows)
    masked, differentiable = model.masked(reference), model.differentiable(rows)
    coalitions, base = np.ones((1, reference.players.count), bool), np.zeros((1, 2), np.int64)
    masked.sums(rows, targets, coalitions, base)
    still = [np.zeros((), np.float32)] * len(differentiable.cut.entries)
    differentiable.gradient(rows, still, 1, targets, "plain")
    functions = [
        model._evaluate,
        *masked._compiled.values(),
        differentiable.ends,
        *differentiable._functions.values(),
    ]
    assert len(functions) >= 4
    for function in functions:
        compiled, left = function.fused
        assert compiled > 0
        assert (left > 0) == (kind == "embeddings")


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_stays_float32_and_others_do_not(kind: str) -> None:
    exact, half = model_of(kind), model_of(kind, "mixed_bfloat16")
    needed = exact.traced.ancestors(exact.traced.outputs).values()
    products = [op.name for op in needed if op.type in ("MatMul", "Conv2D", "DepthwiseConv2dNative")]
    nodes = half.traced.graph_def()
    narrow = [node.name for node in nodes.node if node.name.endswith("/narrow")]
    inside = [n for f in nodes.library.function for n in f.node_def if n.op == "MatMul"]
    halves = [node.attr["T"].type == tf.bfloat16.as_datatype_enum for node in inside]
    if kind == "recurrent":
        # Of a step, what it makes of the row is float32, and what it makes of the step before is not.
        assert (len(narrow), len(products)) == (1, 1)
        assert sorted(halves) == [False, True]
    else:
        assert len(narrow) == len(products) - 1 > 0
    row = sample(kind, 1, 0)
    assert half.differentiable(row).cut.has_prefix == exact.differentiable(row).cut.has_prefix


def test_large_raw_values_lose_no_digits() -> None:
    """2,000 and 2,001 are one number in bfloat16; a layer that tells them apart must still do so."""
    inputs = keras.Input((2,), name="year")
    first, last = layers.Dense(4, activation="tanh"), layers.Dense(1)
    network = keras.Model(inputs, last(first(inputs)))
    first.set_weights([np.tile([[1.0], [-1.0]], 4) * [1, 0.5, 0.25, 0.1], np.zeros(4)])
    years = {"year": np.array([[2001, 2000], [2000, 2000], [2000, 2001]], np.float32)}
    exact = with_arithmetic(network, "float32", False).evaluate(years)[0]
    found = with_arithmetic(network, "mixed_bfloat16", False).evaluate(years)[0]
    assert np.abs(np.diff(exact[:, 0])).min() > 1e-3
    np.testing.assert_allclose(found, exact, rtol=0.02, atol=1e-4)


def test_what_a_half_cannot_hold_is_no_number() -> None:
    """Rows without a finite score are rejected, and said to be; bfloat16 has the range of float32."""
    inputs = keras.Input((1,), name="x")
    first, last = layers.Dense(4, activation="relu"), layers.Dense(1)
    network = keras.Model(inputs, last(first(inputs)))
    first.set_weights([np.full((1, 4), 300.0), np.zeros(4)])
    last.set_weights([np.full((4, 1), 300.0), np.zeros(1)])
    score = {
        p: with_arithmetic(network, p, False).evaluate({"x": np.ones((1, 1), np.float32)})[0][0, 0]
        for p in HALVES
    }
    assert np.isinf(score["mixed_float16"])
    assert score["mixed_bfloat16"] == pytest.approx(360_000, rel=0.02)


@pytest.mark.parametrize("body", ["forward", "backward"])
def test_an_id_outside_an_embedding_is_refused_and_not_replaced(body: str) -> None:
    """XLA alone would take the nearest id there is, without a word."""
    model = model_of("embeddings", jit=True)
    rows = sample("embeddings", 2, 0)
    rows["code"][1] = 99
    call: Any = model.evaluate
    if body == "backward":
        differentiable = model.differentiable(sample("embeddings", 1, 1))
        still = [np.zeros((), np.float32)] * len(differentiable.cut.entries)
        call = partial(
            differentiable.gradient, noise=still, copies=1, targets=np.zeros((2, 1), int), mode="plain"
        )
    with pytest.raises(tf.errors.InvalidArgumentError):
        call(rows)


def test_what_nothing_can_be_done_for_is_refused() -> None:
    inputs = keras.Input((2,), name="x")
    with pytest.raises(UserError, match=r"compute.precision: mixed_float16 would change nothing"):
        with_arithmetic(keras.Model(inputs, layers.Dense(1)(inputs)), "mixed_float16", False)
    best = ops.argmax(layers.Dense(3)(inputs), axis=1)
    chosen = layers.Embedding(4, 1)(layers.IntegerLookup(vocabulary=[0, 1, 2])(ops.cast(best, "int64")))
    late = keras.Model(inputs, chosen)
    with pytest.raises(
        UserError, match=r"compute.jit: XLA cannot compile .* after the model's matrix products"
    ):
        with_arithmetic(late, "float32", True)


@pytest.mark.parametrize("setting", ["compute.jit=true", "compute.precision=mixed_float16"])
def test_other_models_are_refused_in_one_line(setting: str, tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text("def score(x):\n    return x['load']\n")
    config = load_config(
        str(worlds.heads()), settings=[setting, "model.path='python: own_model:score'", "model.target=0"]
    )
    config = dataclasses.replace(config, folder=str(tmp_path))
    (tmp_path / "rows.parquet").symlink_to(worlds.heads().parent / "rows.parquet")
    with pytest.raises(UserError, match=rf"{setting.partition('=')[0]}: is only for TensorFlow models"):
        make_plan(config, in_process=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("compute.precision=float16", r"compute.precision: .*float32.*mixed_float16.*mixed_bfloat16"),
        ("compute.jit=yes please", r"compute.jit: "),
        ("compute.jitt=true", r"compute.jitt: unknown key; did you mean jit\?"),
    ],
)
def test_other_values_are_errors(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(str(worlds.trips()), settings=[setting])


def test_a_run_says_what_it_computed_with(tmp_path: Path) -> None:
    settings = [
        "compute.precision=mixed_bfloat16",
        "compute.jit=true",
        "method.n_steps=4",
        "compute.shard_rows=auto",
    ]
    exact = worlds.explain(worlds.trips(), tmp_path / "exact", *settings[2:])
    found = worlds.explain(worlds.trips(), tmp_path / "run", *settings)
    block = found.manifest["config"]["compute"]
    assert (block["precision"], block["jit"]) == ("mixed_bfloat16", True)
    assert found.manifest["fingerprint"] != exact.manifest["fingerprint"]
    assert found.manifest["counts"] == exact.manifest["counts"]
    a, b = worlds.phi(exact.attributions()), worlds.phi(found.attributions())
    assert 0 < np.linalg.norm(a - b) < 0.08 * np.linalg.norm(a)
    plans = {
        key: make_plan(load_config(str(worlds.trips()), settings=[f"compute.{key}"]), in_process=True)
        for key in ("jit=false", "jit=true", "precision=mixed_float16")
    }
    assert len({plan.fingerprint for plan in plans.values()}) == 3
    summary = summarize(plans["jit=true"])
    assert (summary["precision"], summary["jit"]) == ("float32", True)
    json.dumps(summary)
