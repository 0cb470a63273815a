"""Masks beside gradients: held inputs, padding, texts that the model takes apart; what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import load_config
from pipeline.planning.method.requirements import evaluating_methods
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models import models_zoo
from tests.support.models.cut_worlds import Inputs, L, gradients, integrated, one_row, ops, scored, total
from transforms.errors import UserError
from transforms.methods import METHODS
from transforms.models.graphs.cut.remarks import remarks_on_gradients, split_texts

TOKENS = 5


def bert() -> Any:
    """Token and segment embeddings under attention, whose mask is an input of whole numbers."""
    keras.utils.set_random_seed(8)
    names = ("token_ids", "padding_mask", "segment_ids")
    tokens, mask, segments = (L.Input((TOKENS,), dtype="int32", name=name) for name in names)
    embedded = L.Embedding(9, 8, "normal")(tokens) + L.Embedding(2, 8, "normal")(segments)
    attended = L.MultiHeadAttention(2, 4)(
        embedded, embedded, attention_mask=ops.cast(mask, "bool")[:, None, :]
    )
    return keras.Model([tokens, mask, segments], L.Dense(1)(attended[:, 0]))


def sentences(rows: int) -> Inputs:
    rng = np.random.default_rng(5)
    lengths = rng.integers(2, TOKENS + 1, rows)
    return {
        "token_ids": rng.integers(1, 9, (rows, TOKENS)).astype(np.int32),
        "padding_mask": (np.arange(TOKENS) < lengths[:, None]).astype(np.int32),
        "segment_ids": rng.integers(0, 2, (rows, TOKENS)).astype(np.int32),
    }


def test_an_input_that_masks_is_held_at_the_row_s_value() -> None:
    """The score of a token behind the mask is nobody's; the rest sums to the change under the row's mask."""
    model, rows = scored(bert()), sentences(6)
    with pytest.raises(UserError, match=r"\{name: padding_mask, fixed: true\}"):
        model.differentiable(rows)
    model.held = frozenset({"padding_mask"})
    base = {name: np.ones((1, TOKENS), np.int32) for name in rows}
    values = integrated(model, rows, base)
    under = {name: np.repeat(value, 6, axis=0) for name, value in base.items()}
    under["padding_mask"] = rows["padding_mask"]
    difference = model.evaluate(rows)[0] - model.evaluate(under)[0]
    np.testing.assert_allclose(total(values)[:, 0], difference[:, 0], atol=1e-5)
    assert not values["padding_mask"].any()
    hidden = rows["padding_mask"] == 0
    assert hidden.any()
    # Masked keys have a weight of e^-1e9.
    assert np.abs(values["token_ids"][:, 0][hidden & (np.arange(TOKENS) > 0)]).max() < 1e-6
    assert np.abs(values["token_ids"]).max() > 1e-2


def test_a_gate_is_no_mask() -> None:
    x, gate = L.Input((2,), name="x"), L.Input((1,), dtype="int32", name="gate")
    model = scored(keras.Model([x, gate], L.Dense(1)(ops.where(ops.equal(gate, 1), x, 2 * x))))
    rows = {"x": np.ones((1, 2), np.float32), "gate": np.ones((1, 1), np.int32)}
    with pytest.raises(UserError, match="from the int32 input 'gate'") as caught:
        model.differentiable(rows)
    assert "fixed" not in str(caught.value)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_run_holds_what_only_masks(fixed: bool, tmp_path: Path) -> None:
    """φ of the embedded inputs sums to the change of the score under each row's own mask, which is told."""
    rows = sentences(12)
    model = bert()
    model.save(tmp_path / "bert.keras")
    lists = {name: pa.FixedSizeListArray.from_arrays(v.reshape(-1), TOKENS) for name, v in rows.items()}
    pq.write_table(pa.table(lists), tmp_path / "rows.parquet")
    features = [{"name": name, **({"fixed": True} if fixed and "mask" in name else {})} for name in rows]
    config = worlds.write_config(
        tmp_path / "c.yaml",
        name="bert",
        model={"path": "bert.keras"},
        input={"files": "rows.parquet", "features": features},
        method={"name": "integrated_gradients", "n_steps": 60},
        baseline={"kind": "zeros"},
        output={"path": "run", "report": False},
        limits={"convergence": 1e-3},
    )
    run = worlds.explain(config, tmp_path / "run")
    table = run.attributions()
    assert [field.name for field in table.schema.field("attribution").type] == ["token_ids", "segment_ids"]
    under = {name: np.zeros_like(value) for name, value in rows.items()} | {
        "padding_mask": rows["padding_mask"]
    }
    np.testing.assert_allclose(
        table["base_value"].to_numpy(), scored(model).evaluate(under)[0][:, 0], atol=1e-6
    )
    assert len(set(table["base_value"].to_pylist())) > 1
    assert np.abs(table["convergence_delta"].to_numpy()).max() < 1e-5
    told = [line for line in run.manifest["warnings"] if "padding_mask only masks" in line]
    assert len(told) == (0 if fixed else 1)


# -- padding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("tail", [L.LSTM, L.GlobalAveragePooling1D])
def test_noise_does_not_lift_padding_past_its_mask(value: float, tail: Any) -> None:
    keras.utils.set_random_seed(2)
    layers = [L.Input((8, 2), name="x"), L.Masking(value), tail(*([3] if tail is L.LSTM else [])), L.Dense(1)]
    model = scored(keras.Sequential(layers))
    rng = np.random.default_rng(4)
    rows = {"x": rng.normal(size=(4, 8, 2)).astype(np.float32)}
    for row, length in enumerate((8, 5, 2, 1)):
        rows["x"][row, length:] = value
    padded = (rows["x"] == value).all(axis=2)
    reference = models_zoo.make_reference(model, {"x": np.full((1, 8, 2), value, np.float32)}, noise=1.0)
    found = models_zoo.attribute(METHODS["smoothgrad"](n_samples=6), model, rows, reference).values["x"][:, 0]
    assert not found[padded].any()
    assert (np.abs(found[~padded]) > 0).all()
    # Without noise it is the gradient that it always was.
    still = models_zoo.attribute(METHODS["smoothgrad"](n_samples=2, noise=0), model, rows, reference)
    np.testing.assert_allclose(still.values["x"], gradients(model, rows)["x"], atol=1e-6)
    # A path moves what noise holds: the loop has another gradient function there, in the same process.
    along = models_zoo.attribute(METHODS["integrated_gradients"](n_steps=8), model, rows, reference)
    assert np.isfinite(along.values["x"]).all()
    assert np.abs(along.values["x"]).max() > 0


def said(model: Any, rows: Inputs, method: str = "integrated_gradients") -> str:
    own = scored(model)
    return "\n".join(
        remarks_on_gradients(
            own.traced,
            own.differentiable(one_row(rows, 0)).cut,
            additive=METHODS[method].additive,
            instead=evaluating_methods(own),
        )
    )


def test_masks_are_told_where_a_path_crosses_them() -> None:
    ids = L.Input((6,), dtype="int64", name="ids")
    rows = {"ids": np.arange(6)[None]}
    for zeros, told in ((True, True), (False, False)):
        model = keras.Model(ids, L.Dense(1)(L.LSTM(4)(L.Embedding(9, 3, mask_zero=zeros)(ids))))
        assert ("mask that the model makes of ids stays the row's" in said(model, rows)) == told
        assert said(model, rows, "saliency") == ""
    x = L.Input((4, 2), name="x")
    floats = {"x": np.ones((1, 4, 2), np.float32)}
    model = keras.Model(x, L.Dense(1)(L.GRU(3)(L.Masking(0.0)(x))))
    assert "the mask jumps along the path" in said(model, floats)
    assert "exact_shap" in said(model, floats)
    assert said(keras.Model(x, L.Dense(1)(L.GRU(3)(x))), floats) == ""


def test_rounded_layers_are_told_and_smooth_ones_are_not() -> None:
    x = L.Input((4,), name="x")
    rows = {"x": np.ones((1, 4), np.float32)}
    model = keras.Model(x, L.Dense(1)(L.Dense(4, activation="swish", name="inner")(x)))
    assert said(model, rows) == ""
    model.get_layer("inner").quantize("int8")
    text = said(model, rows, "saliency")
    assert "rounds in inner" in text
    assert "kernel_shap" in text


# -- texts -----------------------------------------------------------------------------------------------


def text_model(split: str) -> Any:
    keras.utils.set_random_seed(3)
    text = L.Input((1,), dtype="string", name="text")
    words = list("abcdefgh") if split == "character" else ["snow", "fog", "rain"]
    ids = L.TextVectorization(split=split, output_sequence_length=12, vocabulary=words)(text)
    embedded = L.Embedding(20, 3, "normal", mask_zero=True)(ids)
    return keras.Model(text, L.Dense(1)(L.GRU(4)(embedded)))


@pytest.mark.parametrize("split", ["character", "whitespace"])
def test_texts_of_any_length_are_explained_behind_a_mask(split: str) -> None:
    """How many characters there are is no shape of the model: longer rows were all rejected."""
    model = scored(text_model(split))
    texts = [b"", b"abc", b"snow rain fog snow", b"a much longer text than all of the others before it"]
    rows = {"text": np.array(texts, object)[:, None]}
    alone = [integrated(model, one_row(rows, row), {"text": np.array([[b""]], object)}) for row in range(4)]
    values = integrated(model, rows, {"text": np.array([[b""]], object)})["text"]
    np.testing.assert_allclose(values, np.concatenate([value["text"] for value in alone]), atol=1e-6)
    assert np.abs(values[2]).max() > 1e-3
    assert not values[0].any(), "the baseline itself"
    assert split_texts(model.traced) == ("text",)


def test_a_plan_says_that_a_text_is_one_number(tmp_path: Path) -> None:
    text_model("whitespace").save(tmp_path / "m.keras")
    pq.write_table(pa.table({"text": ["snow fog", "rain", "fog fog snow"] * 3}), tmp_path / "rows.parquet")
    config = worlds.write_config(
        tmp_path / "c.yaml",
        name="texts",
        model={"path": "m.keras"},
        input={"files": "rows.parquet"},
        method={"name": "integrated_gradients"},
        baseline={"kind": "constant", "value": ""},
        output={"path": "run"},
    )
    warnings = make_plan(load_config(str(config))).warnings
    assert any("text is split into tokens" in line and "one number per text" in line for line in warnings)
    assert any("mask that the model makes of text" in line for line in warnings)
