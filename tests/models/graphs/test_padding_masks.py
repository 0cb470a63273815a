"""Padding that a model masks: nothing for it, and the rest by Keras and TensorFlow themselves."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models import models_zoo
from tests.support.models.cut_worlds import Inputs, L, gradients, integrated, legendre, ops, scored, total
from tests.support.models.mask_worlds import (
    BASES,
    PADDED,
    ROWS,
    STEPS,
    VOCABULARY,
    WIDTH,
    Tail,
    mask_of,
    sentences,
)
from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.kinds.savedmodel import SavedModel

NODES = 6


def block(e: Any, ids: Any) -> Any:
    """A transformer's block: attention and a small network, each beside what goes in, and normalised."""
    seen = L.LayerNormalization()(L.Add()([e, L.MultiHeadAttention(2, 3)(e, e)]))
    inner = L.Dense(WIDTH)(L.Dense(7, "gelu")(seen))
    return L.GlobalAveragePooling1D()(L.LayerNormalization()(L.Add()([seen, inner])))


def averaged(e: Any, ids: Any) -> Any:
    """The mean written out, as in many a tutorial."""
    mask = ops.cast(mask_of(ids), "float32")[..., None]
    return ops.sum(ops.tanh(e) * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


def rooted(e: Any, ids: Any) -> Any:
    """The square root of how many there are, counted in whole numbers."""
    count = ops.cast(ops.sum(ops.cast(mask_of(ids), "int32"), axis=1, keepdims=True), "float32")
    return ops.sum(ops.where(mask_of(ids)[..., None], e, 0.0), axis=1) / ops.sqrt(count)


def pushed_away(e: Any, ids: Any) -> Any:
    """An additive mask, as in BERT's first code."""
    logits = L.Dense(1)(e)[..., 0] + (1.0 - ops.cast(mask_of(ids), "float32")) * -1e9
    return ops.sum(ops.softmax(logits)[..., None] * ops.tanh(e), axis=1)


def largest(e: Any, ids: Any) -> Any:
    """Global max pooling knows no mask, and attention's output at padding is not 0: told apart by hand."""
    seen = L.MultiHeadAttention(2, 3)(e, e)
    return ops.max(ops.where(mask_of(ids)[..., None], seen, -1e9), axis=1)


def faded(e: Any, ids: Any) -> Any:
    """Older words weigh less, by a constant and by a weight that is learned, and a power of their number."""
    mask = ops.cast(mask_of(ids), "float32")
    learned = L.Embedding(STEPS, 1, "uniform")(ops.arange(STEPS))[:, 0]
    weights = mask * np.exp(-0.3 * np.arange(STEPS, dtype=np.float32)) * (1.5 + learned)
    total = ops.sum(weights, axis=1, keepdims=True) * ops.sum(mask, axis=1, keepdims=True) ** 0.7
    return ops.sum(ops.tanh(e) * weights[..., None], axis=1) / total


TAILS: dict[str, Tail] = {
    "older words fade": faded,
    "mean": lambda e, ids: L.GlobalAveragePooling1D()(e),
    "self-attention": lambda e, ids: L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 3)(e, e)),
    "largest of attention": largest,
    "transformer": block,
    "additive attention": lambda e, ids: L.GlobalAveragePooling1D()(L.AdditiveAttention()([e, e])),
    "lstm": lambda e, ids: L.LSTM(3)(e),
    "gru over attention": lambda e, ids: L.GRU(3)(L.Add()([e, L.MultiHeadAttention(2, 3)(e, e)])),
    "written out": averaged,
    "by the root of the count": rooted,
    "pushed away": pushed_away,
    "sum": lambda e, ids: ops.sum(ops.where(mask_of(ids)[..., None], e, 0.0), axis=1),
}


def made(name: str) -> Any:
    keras.utils.set_random_seed(4)
    ids = L.Input((STEPS,), dtype="int32", name="ids")
    normal = keras.initializers.RandomNormal(stddev=1.0)
    embedded = L.Embedding(VOCABULARY, WIDTH, normal, mask_zero=True, name="words")(ids)
    return keras.Model(ids, L.Dense(1, name="out")(L.Dense(5, "tanh")(TAILS[name](embedded, ids))))


class Direct:
    """A model's score and its gradient at any embeddings of a row, by Keras: its table is overwritten."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.variable = model.get_layer("words").embeddings
        self.table = self.variable.numpy().copy()

    def at(self, words: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray]:
        """Score, and gradient `[STEPS, WIDTH]`, with these embeddings where the mask is on."""
        table = self.table.copy()
        table[0] += 100 * mask.sum()  # a model that ignores its padding does not see what stands there
        table[1 : STEPS + 1] = words
        self.variable.assign(table)
        score, found = self._score(np.where(mask, np.arange(1, STEPS + 1), 0)[None].astype(np.int32))
        self.variable.assign(self.table)
        return float(score), found.numpy()[1 : STEPS + 1]

    @tf.function(autograph=False)
    def _score(self, ids: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            score = self.model(ids, training=False)[0, 0]
        return score, tf.convert_to_tensor(tape.gradient(score, self.variable.value))

    def path(self, row: np.ndarray) -> tuple[np.ndarray, float]:
        """Integrated gradients in the mean over BASES, and the mean score at the paths' starts."""
        phi, start = np.zeros(STEPS), 0.0
        for base in BASES:
            ends = self.table[base].astype(np.float64), self.table[row].astype(np.float64)
            start += self.at(ends[0], row != 0)[0] / len(BASES)
            for alpha, weight in zip(*legendre(NODES), strict=True):
                gradient = self.at((1 - alpha) * ends[0] + alpha * ends[1], row != 0)[1]
                phi += weight / len(BASES) * (gradient * (ends[1] - ends[0])).sum(axis=1)
        return phi, start


@pytest.mark.parametrize("name", TAILS)
def test_padding_gets_nothing_and_words_what_keras_gives_them_under_the_row_s_mask(name: str) -> None:
    model = made(name)
    own, direct = scored(model), Direct(model)
    expected = [direct.path(row) for row in ROWS]
    rows, bases = {"ids": ROWS}, {"ids": BASES}
    reference = models_zoo.make_reference(own, bases, noise=0.3)
    found = models_zoo.attribute(METHODS["integrated_gradients"](n_steps=NODES), own, rows, reference)
    phi = found.values["ids"][:, 0]
    np.testing.assert_allclose(phi, [values for values, _ in expected], atol=3e-5)
    np.testing.assert_allclose(found.base_value[:, 0], [start for _, start in expected], atol=1e-5)
    assert (phi[PADDED] == 0).all()
    assert np.abs(phi).max() > 1e-2
    plain = gradients(own, rows)["ids"][:, 0]
    at_rows = [direct.at(direct.table[row], row != 0)[1].sum(axis=1) for row in ROWS]
    np.testing.assert_allclose(plain, at_rows, atol=1e-4)
    methods = [METHODS["smoothgrad"](n_samples=6)]
    if name in ("mean", "self-attention"):
        methods += [
            METHODS["expected_gradients"](n_samples=40),
            METHODS["saliency"](absolute=True),
            METHODS["input_x_gradient"](),
            METHODS["integrated_gradients"](n_steps=4, tolerance=1e-5),
        ]
    for method in methods:
        found = models_zoo.attribute(method, own, rows, reference)
        values = found.values["ids"][:, 0]
        assert (values[PADDED] == 0).all(), method
        assert (values[~PADDED] != 0).any(), method
    if len(methods) > 1:  # the last of them goes on until sums hold
        assert np.abs(found.convergence_delta).max() < 1e-4


def test_a_mean_s_values_are_those_of_the_closed_form() -> None:
    """Under the row's mask a mean of n words is a sum: (v − v′) / n each, and 0 for padding."""
    keras.utils.set_random_seed(0)
    ids = L.Input((STEPS,), dtype="int32", name="ids")
    words = np.arange(VOCABULARY, dtype=np.float32)[:, None] ** 2
    table = keras.initializers.Constant(words)
    model = scored(
        keras.Model(ids, L.GlobalAveragePooling1D()(L.Embedding(VOCABULARY, 1, table, mask_zero=True)(ids)))
    )
    found = integrated(model, {"ids": ROWS}, {"ids": BASES}, 1)["ids"][:, 0]
    counts = (~PADDED).sum(axis=1, keepdims=True)
    expected = (words[ROWS, 0] - words[BASES, 0].mean(axis=0)) / counts
    np.testing.assert_allclose(found, np.where(PADDED, 0, expected), rtol=1e-5)
    assert model.differentiable({"ids": BASES}).cut.has_prefix is False, "one weight a word: nothing to save"


def test_masking_methods_and_deep_shap_replace_mask_and_all() -> None:
    """In the game of whole values, by enumeration, padding is worth what the baseline's word there was."""
    model = scored(made("mean"))
    rows, bases = {"ids": ROWS}, {"ids": BASES}
    reference = models_zoo.make_reference(model, bases)
    by_method = {
        name: models_zoo.attribute(METHODS[name](), model, rows, reference)
        for name in ("exact_shap", "deep_shap")
    }
    base = model.evaluate(bases)[0].mean()
    for found in by_method.values():
        np.testing.assert_allclose(found.base_value, base, atol=1e-6)
        assert np.abs(found.convergence_delta).max() < 1e-5
        assert (found.values["ids"][:, 0][PADDED & (BASES != 0).any(axis=0)] != 0).all()
        assert (found.values["ids"][:, 0][PADDED & (BASES == 0).all(axis=0)] == 0).all()


def two_lists(tail: Tail) -> tuple[Any, Inputs, Inputs]:
    """A question and an answer, each with padding of its own."""
    keras.utils.set_random_seed(6)
    question = L.Input((STEPS,), dtype="int32", name="question")
    answer = L.Input((4,), dtype="int64", name="answer")
    q, a = (L.Embedding(VOCABULARY, WIDTH, "normal", mask_zero=True)(ids) for ids in (question, answer))
    model = keras.Model([question, answer], L.Dense(1)(tail(q, a)))
    answers = sentences(np.random.default_rng(8), 1, 3, 4)[:, :4].astype(np.int64)
    bases = {"question": BASES, "answer": np.array([[3, 4, 5, 0], [6, 7, 8, 9]])}
    return model, {"question": ROWS, "answer": answers}, bases


CROSSED: dict[str, Tail] = {
    "multi-head": lambda q, a: L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 3)(q, a)),
    "dot": lambda q, a: L.GlobalAveragePooling1D()(L.Attention()([q, a])),
    "additive": lambda q, a: L.GlobalAveragePooling1D()(L.AdditiveAttention()([q, a])),
}


@pytest.mark.parametrize("name", CROSSED)
def test_attention_across_two_lists_gives_neither_s_padding_anything(name: str) -> None:
    model, rows, bases = two_lists(CROSSED[name])
    own = scored(model)
    reference = models_zoo.make_reference(own, bases, noise=0.3)
    for method in ("integrated_gradients", "smoothgrad"):
        found = models_zoo.attribute(METHODS[method](), own, rows, reference)
        for key, ids in rows.items():
            assert (found.values[key][:, 0][ids == 0] == 0).all()
        assert (found.values["answer"][:, 0][rows["answer"] != 0] != 0).all()
        if found.convergence_delta is not None:
            assert np.abs(found.convergence_delta).max() < 1e-5
    plain = gradients(own, rows)
    assert all((plain[key][:, 0][ids == 0] == 0).all() for key, ids in rows.items())


@pytest.mark.parametrize("name", ["self-attention", "transformer", "mean"])
def test_a_saved_model_is_as_its_keras_file(name: str, tmp_path: Any) -> None:
    model = made(name)
    model.export(tmp_path / "m", verbose=False)
    saved = ScoredGraph(SavedModel(str(tmp_path / "m")), {"ids": (STEPS,)}, "auto")
    rows, bases = {"ids": ROWS}, {"ids": BASES}
    expected = integrated(scored(model), rows, bases, NODES)["ids"]
    found = integrated(saved, rows, bases, NODES)["ids"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[:, 0][PADDED] == 0).all()


# -- a mask that is an input of its own ------------------------------------------------------------------


@pytest.mark.parametrize(
    "tail",
    [
        lambda e, mask: L.GlobalAveragePooling1D()(e, mask=mask),
        lambda e, mask: L.GlobalAveragePooling1D()(
            L.MultiHeadAttention(2, 3)(e, e, attention_mask=mask[:, None, :]), mask=mask
        ),
        lambda e, mask: L.GlobalAveragePooling1D()(L.Attention()([e, e], mask=[mask, mask]), mask=mask),
    ],
    ids=["mean", "multi-head", "dot"],
)
def test_an_input_that_only_masks_a_mean_is_held(tail: Tail) -> None:
    keras.utils.set_random_seed(3)
    ids, mask = (L.Input((STEPS,), dtype="int32", name=name) for name in ("ids", "mask"))
    embedded = L.Embedding(VOCABULARY, WIDTH, "normal")(ids)
    model = scored(keras.Model([ids, mask], L.Dense(1)(tail(embedded, ops.cast(mask, "bool")))))
    rows = {"ids": ROWS, "mask": (ROWS != 0).astype(np.int32)}
    with pytest.raises(UserError, match=r"\{name: mask, fixed: true\}"):
        model.differentiable(rows)
    model.held = frozenset({"mask"})
    bases = {"ids": np.maximum(BASES[:1], 1), "mask": np.ones((1, STEPS), np.int32)}
    found = integrated(model, rows, bases)
    assert (found["ids"][:, 0][PADDED] == 0).all()
    assert (gradients(model, rows)["ids"][:, 0][PADDED] == 0).all()
    under = {"ids": np.repeat(bases["ids"], len(ROWS), axis=0), "mask": rows["mask"]}
    np.testing.assert_allclose(total(found), model.evaluate(rows)[0] - model.evaluate(under)[0], atol=1e-6)


def test_an_input_of_whole_numbers_that_hides_logits_is_held() -> None:
    """As in BERT's own code: the mask, cast to a float, is made far and added; then it means."""
    keras.utils.set_random_seed(3)
    ids, mask = (L.Input((STEPS,), dtype="int32", name=name) for name in ("ids", "mask"))
    e = L.Embedding(VOCABULARY, WIDTH, "normal")(ids)
    keep = ops.cast(mask, "float32")
    logits = ops.matmul(L.Dense(3)(e), ops.transpose(L.Dense(3)(e), (0, 2, 1)))
    seen = ops.matmul(ops.softmax(logits + (1.0 - keep[:, None, :]) * -10000.0), ops.tanh(e))
    mean = ops.sum(seen * keep[..., None], axis=1) / ops.sum(keep, axis=1, keepdims=True)
    model = scored(keras.Model([ids, mask], L.Dense(1)(mean)))
    rows = {"ids": ROWS, "mask": (ROWS != 0).astype(np.int32)}
    with pytest.raises(UserError, match=r"\{name: mask, fixed: true\}"):
        model.differentiable(rows)
    model.held = frozenset({"mask"})
    assert (gradients(model, rows)["ids"][:, 0][PADDED] == 0).all()


def test_whole_numbers_that_weigh_a_mean_are_a_feature() -> None:
    keras.utils.set_random_seed(3)
    ids, weights = (L.Input((STEPS,), dtype="int32", name=name) for name in ("ids", "weights"))
    e = L.Embedding(VOCABULARY, WIDTH, "normal")(ids)
    w = ops.cast(weights, "float32")
    mean = ops.sum(e * w[..., None], axis=1) / ops.sum(w, axis=1, keepdims=True)
    model = scored(keras.Model([ids, weights], L.Dense(1)(mean)))
    rows = {"ids": ROWS, "weights": np.arange(ROWS.size, dtype=np.int32).reshape(ROWS.shape) % 5 + 1}
    assert {entry.input for entry in model.differentiable(rows).cut.entries} == {"ids", "weights"}


# -- a run -----------------------------------------------------------------------------------------------


def test_a_run_gives_padding_nothing_and_says_what_the_mask_is_worth_to_whom(tmp_path: Any) -> None:
    rows = sentences(np.random.default_rng(3), *[2, 5, 6, 1, 3, 4] * 4)
    made("self-attention").save(tmp_path / "m.keras")
    column = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), STEPS)
    pq.write_table(pa.table({"ids": column}), tmp_path / "rows.parquet")

    def config(method: str) -> Any:
        return worlds.write_config(
            tmp_path / "c.yaml",
            name="padded",
            model={"path": "m.keras"},
            input={"files": "rows.parquet"},
            method={"name": method},
            baseline={"kind": "sample", "rows": 6},
            output={"path": "run", "report": False},
        )

    run = worlds.explain(config("integrated_gradients"), tmp_path / "run")
    table = run.attributions().sort_by("example_id")
    order = [int(one.rsplit(":", 1)[1]) for one in table["example_id"].to_pylist()]
    phi = np.array(table["attribution"].combine_chunks().field("ids").to_pylist())
    assert (phi[rows[order] == 0] == 0).all()
    change = table["prediction"].to_numpy() - table["base_value"].to_numpy()
    np.testing.assert_allclose(phi.sum(axis=1), change, atol=1e-4)
    assert any("stays the row's" in line and "exact_shap" in line for line in run.manifest["warnings"])
    for method in ("deep_shap", "exact_shap"):
        told = make_plan(load_config(str(config(method)))).warnings
        assert any("masks padding of ids" in line and "integrated_gradients" in line for line in told)
