"""The plan stops at models that draw random numbers or mix the rows of a batch, and at no others."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import load_config
from pipeline.planning.model.behaviour import check_behaviour
from pipeline.planning.model.checks import Checked, check_accepted_rows
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models import deep_zoo, misbehaving, models_zoo
from transforms.errors import RowsRefused, UserError
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.kinds.savedmodel import SavedModel
from transforms.worker.device_batch import DeviceBatchSize

ROWS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
#: Architectures of every kind; loops take long to trace.
SOUND = (
    "batch normalization", "layer normalization", "group normalization", "unit normalization",
    "conv2d max pooling", "conv2d dilated", "depthwise", "bilinear",
    "squeeze and excite", "inception", "conv1d causal", "conv3d max pooling", "lstm", "time distributed",
    "multi-head attention", "explicit mask", "embedding lstm",
    "mixture of experts", "extremes", "logic", "steps", "twin towers", "two heads", "listed",
    "nested", "subclassed", "categories", "wide and deep",
)  # fmt: skip


def check(model: ScoredGraph, inputs: Mapping[str, np.ndarray]) -> None:
    numbers = range(len(next(iter(inputs.values()))))
    ids = np.array([str(number) for number in numbers], object)
    check_accepted_rows(
        model, Checked(pa.record_batch({"row": list(numbers)}), ids, dict(inputs)), DeviceBatchSize(4096)
    )


def exported(model: Any, folder: Path) -> ScoredGraph:
    model.export(str(folder), verbose=False)
    adapter = SavedModel(str(folder))
    (spec,) = adapter.signature.inputs
    return ScoredGraph(adapter, {spec.name: tuple(extent or 1 for extent in spec.shape)})


@pytest.mark.parametrize("name", SOUND)
def test_sound_models_pass(name: str) -> None:
    """Convolutions, products, loops, attention, masks, lookups: rounding is no finding, nor is `predict`."""
    seed = zlib.crc32(name.encode())
    model, draw = deep_zoo.ZOO[name]()
    check(deep_zoo.made(model, draw, seed).model, draw(np.random.default_rng(seed), 40))


@pytest.mark.parametrize(("name", "rows"), [("dropout", 3), *((name, 30) for name in misbehaving.RANDOM)])
def test_models_that_draw_random_numbers_are_found(name: str, rows: int) -> None:
    layer, said = misbehaving.RANDOM[name]
    keras.utils.set_random_seed(1)
    with pytest.raises(UserError, match=rf"a different score each time \({said}\)"):
        check(models_zoo.scored(misbehaving.behind(layer())), {"x": ROWS[:rows]})


@pytest.mark.parametrize("name", misbehaving.MIXING)
def test_models_that_mix_rows_are_found(name: str) -> None:
    layer, said = misbehaving.MIXING[name]
    keras.utils.set_random_seed(1)
    with pytest.raises(UserError, match=f"a row's score depends on {said}"):
        check(models_zoo.scored(misbehaving.behind(layer())), {"x": ROWS})


def test_an_exported_augmentation_is_found_and_what_predict_leaves_out_is_not(tmp_path: Path) -> None:
    """Keras's `export` keeps RandomFlip, whose call trains by default; `predict` and its file do not."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="x"),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    pictures = np.random.default_rng(0).random((12, 8, 8, 1)).astype(np.float32)
    served = exported(model, tmp_path / "served")
    with pytest.raises(UserError, match=r"a different score each time \(RandomFlip, RandomRotation\)"):
        check(served, {served.signature.inputs[0].name: pictures})
    check(models_zoo.scored(model), {"x": pictures})


def test_halves_are_allowed_their_rounding(tmp_path: Path) -> None:
    for policy in ("mixed_float16", "mixed_bfloat16", "float64", "float16"):
        keras.utils.set_random_seed(2)
        given = keras.Input((4,), name="x", dtype="float32")
        hidden = given
        for width in (64, 32):
            hidden = keras.layers.Dense(width, activation="gelu", dtype=policy)(hidden)
        model = keras.Model(given, keras.layers.Dense(2, dtype=policy)(hidden))
        check(models_zoo.scored(model), {"x": ROWS})


# -- functions, and whole plans -----------------------------------------------------------------------------

FUNCTIONS = {
    "random": ("x + 1e-3 * np.random.normal(size=len(x))", "a different score each time"),
    # In 500 evaluations, one in a hundred is missed once in 10,000 times; what is rarer, more often.
    "seldom": ("x + (np.random.random(len(x)) < 1e-2)", "a different score each time"),
    "counter": ("x + 1e-4 * len(calls)", "a different score each time"),
    "standardised": ("(x - x.mean()) / (x.std() + 1)", "depends on its neighbours in the batch"),
    "ranked": ("x.argsort().argsort()", "depends on its neighbours in the batch"),
    "seeded": ("x + 0.1 * np.random.default_rng(0).normal(size=len(x))", "depends on its place in the batch"),
    "sized": ("x + len(x)", "depends on the number of rows in its batch"),
    "alone": (
        "np.sin(x) if len(x) > 1 or not x[0] else 1 / 0",
        r"neighbours in the batch \(.*ZeroDivisionError",
    ),
}
SOURCE = """
import numpy as np
calls = []
def score(rows):
    x = rows["x"].astype(float)
    calls.append(len(x))
    return {}
"""


def plan(folder: Path, expression: str, method: str = "exact_shap") -> None:
    (folder / "oddly_scored.py").write_text(SOURCE.format(expression))
    pq.write_table(pa.table({"x": ROWS[:, 0], "y": ROWS[:, 1]}), folder / "rows.parquet")
    config = worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: oddly_scored:score"},
        input={"files": "rows.parquet", "features": ["x", "y"]},
        method=method,
        baseline={"kind": "zeros"},
        output={"path": "run"},
    )
    make_plan(load_config(str(config)), in_process=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_give_a_row_several_scores_are_found(name: str, tmp_path: Path) -> None:
    expression, said = FUNCTIONS[name]
    with pytest.raises(UserError, match=said) as found:
        plan(tmp_path, expression)
    assert "model.path" in str(found.value)
    assert len(str(found.value).removeprefix(str(tmp_path))) <= 300


def test_a_function_that_gives_one_score_is_explained(tmp_path: Path) -> None:
    plan(tmp_path, "np.sin(x) * 1e3 + 1e6", "occlusion")


class Refusing:
    """A model that takes no row alone."""

    has_gradients = False

    def evaluate(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if len(inputs["x"]) == 1:
            raise RowsRefused("expected more than 1 value per channel")
        return inputs["x"], inputs["x"]


def test_a_model_that_takes_no_row_alone_is_found() -> None:
    with pytest.raises(UserError, match="alone, expected more than 1 value"):
        check_behaviour(Refusing(), {"x": ROWS}, 64)  # type: ignore[arg-type]
