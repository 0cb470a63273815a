"""What is wrong with a model is said before a method is refused, and no line names one that is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.planning.model.opening
from pipeline.config.config import LoadedConfig, load_config
from pipeline.planning.method_costs import survey
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models import misbehaving
from transforms.errors import UserError
from transforms.models.graphs.scored import ScoredGraph

L = keras.layers
MIXING = r"a row's score depends on its neighbours in the batch \(UnitNormalization\)"
RANDOM = r"a different score each time \(Noise\)"
#: A model's layer, and what is said of it.
UNSOUND = {"mixing": (lambda: L.UnitNormalization(axis=0), MIXING), "random": (misbehaving.Noise, RANDOM)}


def config(folder: Path, model: Any, method: str | None, width: int, **blocks: Any) -> LoadedConfig:
    """A plan's config of 40 rows of a vector."""
    rows = np.random.default_rng(0).normal(size=(40, width)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width)
    pq.write_table(pa.table({"x": column}), folder / "rows.parquet")
    model.save(folder / "model.keras")
    named = {} if method is None else {"method": method}
    given = {"input": {"files": "rows.parquet"}, **named, **blocks}
    path = worlds.write_config(
        folder / "config.yaml", model={"path": "model.keras"}, output={"path": "run"}, **given
    )
    return load_config(str(path))


def first_line(loaded: LoadedConfig) -> str:
    with pytest.raises(UserError) as found:
        make_plan(loaded, in_process=True)
    return str(found.value)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a model was looked at."""
    times: list[int] = []
    known = pipeline.planning.model.opening.check_model

    def counted(*given: Any) -> None:
        times.append(1)
        known(*given)

    monkeypatch.setattr(pipeline.planning.model.opening, "check_model", counted)
    return times


@pytest.mark.parametrize(
    "method",
    ["deep_shap", "kernel_shap", "integrated_gradients", "exact_shap", "smoothgrad", "tree_shap", None],
)
@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_model_is_said_to_be_that_under_every_method(
    name: str, method: str | None, tmp_path: Path, looked: list[int]
) -> None:
    layer, said = UNSOUND[name]
    keras.utils.set_random_seed(1)
    loaded = config(tmp_path, misbehaving.behind(layer()), method, 4)
    with pytest.raises(UserError, match=said) as found:
        make_plan(loaded, in_process=True)
    assert "model.path" in str(found.value.where)
    assert "method" not in str(found.value)
    assert len(looked) == 1


@pytest.mark.parametrize("name", UNSOUND)
def test_it_comes_before_too_many_features(name: str, tmp_path: Path, looked: list[int]) -> None:
    """And without a pass over the input for a baseline that no method would use."""
    layer, said = UNSOUND[name]
    keras.utils.set_random_seed(1)
    loaded = config(tmp_path, misbehaving.behind(layer(), 20), "exact_shap", 20)
    with pytest.raises(UserError, match=said):
        make_plan(loaded, in_process=True)
    assert len(looked) == 1


def test_too_many_features_are_refused_before_the_baseline_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(pipeline.planning.model.opening, "make_background", lambda *_: drawn.append(1))
    sound = misbehaving.behind(L.Activation("tanh"), 20)
    line = first_line(config(tmp_path, sound, "exact_shap", 20))
    assert "exact_shap takes up to 15 features or groups, and there are 20" in line
    assert not drawn


@pytest.mark.parametrize("name", UNSOUND)
def test_the_survey_of_methods_says_it_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, said = UNSOUND[name]
    monkeypatch.setattr("pipeline.planning.method_costs.in_child", lambda ask, request: ask(request))
    keras.utils.set_random_seed(1)
    with pytest.raises(UserError, match=said):
        survey(config(tmp_path, misbehaving.behind(layer()), None, 4))


def test_it_comes_before_a_baseline_that_is_not_taken(tmp_path: Path) -> None:
    """The logarithm of zeros is no number; another kind of baseline would be refused for the batch."""
    keras.utils.set_random_seed(1)
    given = keras.Input((4,), name="x")
    mixed = L.UnitNormalization(axis=0)(L.Dense(6)(keras.ops.log(keras.ops.abs(given))))
    model = keras.Model(given, L.Dense(1)(mixed))
    loaded = config(tmp_path, model, "integrated_gradients", 4, baseline={"kind": "zeros"})
    assert "depends on its neighbours in the batch" in first_line(loaded)


def places(width: int) -> Any:
    """The place of the largest of eight: no gradient leads there."""
    given = keras.Input((width,), name="x")
    largest = keras.ops.one_hot(keras.ops.argmax(L.Dense(8)(given), axis=1), 8)
    return keras.Model(given, L.Dense(1)(largest))


@pytest.mark.parametrize("width", [4, 20])
@pytest.mark.parametrize("method", ["deep_shap", "integrated_gradients", "tree_shap"])
def test_every_method_that_a_refusal_names_is_planned(method: str, width: int, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    line = first_line(config(tmp_path, places(width), method, width))
    named = re.split("would work: |only evaluations: ", line)[1].split(", ")
    assert len(named) >= 4
    assert ("exact_shap" in named) == (width == 4)
    for other in named:
        make_plan(config(tmp_path, places(width), other, width), in_process=True)


def test_a_sound_model_is_looked_at_once_and_evaluated_no_more_for_a_second_method(
    tmp_path: Path, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config without a method tries gradients, which this model has none of, and then masks."""
    calls: list[int] = []
    known = ScoredGraph.evaluate

    def counted(self: ScoredGraph, inputs: Any) -> Any:
        calls.append(len(next(iter(inputs.values()))))
        return known(self, inputs)

    monkeypatch.setattr(ScoredGraph, "evaluate", counted)

    def used(method: str | None) -> int:
        calls.clear()
        looked.clear()
        plan = make_plan(config(tmp_path, places(4), method, 4), in_process=True)
        assert plan.spec.method.name == "exact_shap"
        assert len(looked) == 1
        return sum(calls)

    # The mean row, of which gradients would start, is all there is more.
    assert used(None) == used("exact_shap") + 1
