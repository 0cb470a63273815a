"""What an estimator holds beside its booster, and its own prediction that each run is held against."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost

from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models import trees_zoo as zoo
from tests.support.models.tree_tables import Decoded, through
from transforms.errors import UserError
from transforms.models.base import PublicPrediction
from transforms.rows.baselines.baselines import BaselineRequest, make_background
from transforms.rows.resolve.feature import FeatureRequest

ROWS = 120
GONE = -999.0
NAMES = ("a", "b b", "c")
RNG = np.random.default_rng(3)
X = RNG.normal(size=(ROWS, 3))
X[RNG.random(X.shape) < 0.3] = GONE
FRAME = pd.DataFrame(X, columns=NAMES)
Y = np.where(X[:, 0] == GONE, 2, X[:, 0]) + np.where(X[:, 1] == GONE, -1.5, 0.2 * X[:, 1])


def theirs(found: Decoded, table: pa.Table) -> np.ndarray:
    """The library's own prediction of a table."""
    assert isinstance(found.adapter, PublicPrediction)
    names = [feature.name for feature in found.schema.features]
    (batch,) = table.select(names).combine_chunks().to_batches()
    given = found.adapter.public_prediction(batch, found.inputs)
    assert given is not None
    return given


def saved(model: Any, folder: Path) -> str:
    (folder / "m.pkl").write_bytes(pickle.dumps(model))
    return str(folder / "m.pkl")


@pytest.mark.parametrize("missing", [GONE, 0, np.inf, np.nan])
def test_the_missing_number_of_a_wrapper(tmp_path: Path, missing: float) -> None:
    data = FRAME.replace(GONE, missing)
    model = xgboost.XGBRegressor(n_estimators=9, max_depth=3, missing=missing, n_jobs=1).fit(data, Y)
    table = pa.Table.from_pandas(data, preserve_index=False)
    found = through(saved(model, tmp_path), table)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-6)
    assert not found.rejected
    assert (np.isnan(found.inputs[zoo.INPUT]) == (X == GONE)).all()
    np.testing.assert_allclose(theirs(found, table), model.predict(data), rtol=1e-6)
    found.model.trees()
    # The same as a file, with the number from the config.
    model.save_model(tmp_path / "m.json")
    again = through(str(tmp_path / "m.json"), table, missing=None if np.isnan(missing) else missing)
    np.testing.assert_array_equal(again.outputs, found.outputs)
    assert not again.adapter.notes if not np.isnan(missing) else again.adapter.notes  # type: ignore[attr-defined]


def test_fills_and_constants_that_are_missing_to_the_model(tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(n_estimators=9, max_depth=3, missing=GONE, n_jobs=1).fit(FRAME, Y)
    table = pa.Table.from_pandas(FRAME.replace(GONE, np.nan), preserve_index=False)
    features = tuple(FeatureRequest(name, fill=GONE) for name in NAMES)
    found = through(saved(model, tmp_path), table, features=features)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(FRAME), rtol=1e-6)
    np.testing.assert_allclose(theirs(found, table), model.predict(FRAME), rtol=1e-6)
    made = make_background(BaselineRequest("constant", value=GONE), found.schema, (), 0)
    assert all(np.isnan(value).all() for value in made.values())


def test_the_key_is_refused_where_it_says_nothing(tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(n_estimators=2, missing=GONE, n_jobs=1).fit(FRAME, Y)
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    with pytest.raises(UserError, match=r"the pickle itself treats -999.0 as missing"):
        through(saved(model, tmp_path), table, missing=0.0)
    other = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=1).fit(FRAME, Y)
    with pytest.raises(UserError, match=r"model.missing: is only for XGBoost"):
        through(saved(other, tmp_path), table, missing=0.0)


def test_a_plan_says_that_a_file_does_not_keep_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = xgboost.XGBRegressor(n_estimators=9, max_depth=3, missing=GONE, n_jobs=1).fit(FRAME, Y)
    model.save_model(tmp_path / "m.ubj")
    FRAME.to_parquet(tmp_path / "rows.parquet", index=False)
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "m.ubj"},
        input={"files": "rows.parquet"},
        method={"name": "tree_shap"},
        baseline={"kind": "mean"},
        output={"path": "run"},
    )
    assert cli.run(["plan", str(config), "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert "if the model was trained with another `missing`, give that number" in notes[0]
    settings = ["--set", f"model.missing={GONE}", "--set", "output.features=true"]
    assert cli.run(["plan", str(config), *settings]) == 0
    assert "model.missing" not in capsys.readouterr().out
    run = worlds.explain(config, tmp_path / "run", *settings[1::2])
    found = run.attributions()
    np.testing.assert_allclose(found["prediction"].to_numpy(), model.predict(FRAME), rtol=1e-5)
    known = X[:, 0][X[:, 0] != GONE].mean()
    assert run.manifest["schema"][0]["missing"] == GONE
    # What the mean is of is known.
    mean = pd.DataFrame([np.where(X == GONE, np.nan, X).mean(axis=0, where=X != GONE)], columns=NAMES)
    assert abs(mean["a"][0] - known) < 1e-9
    np.testing.assert_allclose(found["base_value"].to_numpy(), model.predict(mean)[0], rtol=1e-5)
    values = load_values(str(tmp_path / "run"))
    assert (np.isnan(values) == (X == GONE)).all()


def load_values(run: str) -> np.ndarray:
    from pipeline import load_run

    found: np.ndarray = load_run(run).explanation().data
    return found


FEW: dict[str, Any] = {"n_estimators": 6, "n_jobs": 1}
STOPPED: dict[str, Any] = {"n_estimators": 60, "n_jobs": 1}
MADE = {
    "xgboost": lambda: xgboost.XGBRegressor(early_stopping_rounds=4, **STOPPED).fit(
        FRAME[:80], Y[:80], eval_set=[(FRAME[80:], RNG.normal(size=40))], verbose=False
    ),
    "xgboost, dart": lambda: xgboost.XGBRegressor(booster="dart", rate_drop=0.4, **FEW).fit(FRAME, Y),
    "xgboost, random forest": lambda: xgboost.XGBRFClassifier(**FEW).fit(FRAME, Y > 0),
    "xgboost, classes of several kinds": lambda: xgboost.XGBClassifier(**FEW).fit(
        FRAME, np.stack([Y > 0, Y < 1], axis=1).astype(int)
    ),
    "xgboost, several numbers": lambda: xgboost.XGBRegressor(**FEW).fit(FRAME, np.stack([Y, -Y], 1)),
    "xgboost, base score": lambda: xgboost.XGBClassifier(**FEW, base_score=0.9).fit(FRAME, Y > 0),
    "xgboost, ranks": lambda: xgboost.XGBRanker(**FEW).fit(
        FRAME, (Y > 0).astype(int), qid=np.arange(ROWS) // 10
    ),
    "lightgbm": lambda: lightgbm.LGBMRegressor(verbose=-1, min_child_samples=3, **STOPPED).fit(
        FRAME[:80],
        Y[:80],
        eval_X=FRAME[80:],
        eval_y=RNG.normal(size=40),
        callbacks=[lightgbm.early_stopping(4, verbose=False)],
    ),
    "lightgbm, dart": lambda: lightgbm.LGBMClassifier(boosting_type="dart", **FEW, verbose=-1).fit(
        FRAME, np.where(Y > 0, "up", "down")
    ),
    "lightgbm, three": lambda: lightgbm.LGBMClassifier(**FEW, verbose=-1).fit(
        FRAME, np.array(["lo", "mid", "hi"])[np.digitize(Y, [0, 1])]
    ),
    "lightgbm, ranks": lambda: lightgbm.LGBMRanker(**FEW, verbose=-1).fit(
        FRAME, (Y > 0).astype(int), group=[ROWS]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
@pytest.mark.filterwarnings("ignore:`XGBRFClassifier` is deprecated:FutureWarning")  # from XGBoost 3.4 on
def test_an_estimators_own_prediction(tmp_path: Path, name: str) -> None:
    """Its trees add up to it, the rounds that it leaves out left out."""
    model = MADE[name]()
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    found = through(saved(model, tmp_path), table)
    own = model.predict_proba(FRAME) if hasattr(model, "predict_proba") else model.predict(FRAME)
    own = np.asarray(own).reshape(found.outputs.shape)
    np.testing.assert_allclose(found.outputs, own, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs(found, table).reshape(own.shape), own, rtol=1e-5, atol=1e-6)
    forest, constant = found.model.trees()
    sums = forest.sums(found.inputs[zoo.INPUT]) + constant
    np.testing.assert_allclose(sums, found.scores[:, -sums.shape[1] :], atol=1e-5)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_probabilities_by_a_regressor(tmp_path: Path, library: str) -> None:
    """A regressor with a binary objective predicts the probability of the second class, one number a row."""
    if library == "xgboost":
        model: Any = xgboost.XGBRegressor(objective="binary:logistic", **FEW)
    else:
        model = lightgbm.LGBMRegressor(objective="binary", verbose=-1, **FEW)
    model.fit(FRAME, (Y > 0).astype(int))
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    found = through(saved(model, tmp_path), table)
    own = model.predict(FRAME)
    both = np.stack([1 - own, own], axis=1)
    np.testing.assert_allclose(found.outputs, both, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs(found, table), both, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_rounds_after_the_best_one_are_left_out(tmp_path: Path, name: str) -> None:
    model = MADE[name]()
    found = through(saved(model, tmp_path), pa.Table.from_pandas(FRAME, preserve_index=False))
    forest, _ = found.model.trees()
    best = model.best_iteration + 1 if name == "xgboost" else model.best_iteration_
    assert len(forest.roots) == best < STOPPED["n_estimators"]


def test_a_run_is_held_against_the_estimators_own_prediction(tmp_path: Path) -> None:
    """What an estimator does to its booster's output of its own accord is found out, and not explained."""
    FRAME.to_parquet(tmp_path / "rows.parquet", index=False)
    early = {"pred_early_stop": True, "pred_early_stop_margin": 0.1, "pred_early_stop_freq": 1}
    model = lightgbm.LGBMClassifier(n_estimators=9, verbose=-1, n_jobs=1, **early).fit(FRAME, Y > 0)
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": saved(model, tmp_path), "allow_unsafe": True},
        input={"files": "rows.parquet"},
        method={"name": "tree_shap"},
        output={"path": "run"},
    )
    with pytest.raises(UserError, match="the model's own prediction of row"):
        make_plan(load_config(str(config)), in_process=True)


def test_a_booster_of_no_rounds(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    xgboost.train({}, xgboost.DMatrix(X, Y), 0).save_model(tmp_path / "none.ubj")
    with pytest.raises(UserError, match="holds no trees: it was trained for no rounds"):
        through(str(tmp_path / "none.ubj"), table)


def test_names_that_lightgbm_has_respelled(tmp_path: Path) -> None:
    """Spaces are underscores in its file; where two columns could be meant, neither is taken in silence."""
    model = lightgbm.LGBMRegressor(**FEW, verbose=-1).fit(FRAME, Y)
    path = saved(model, tmp_path)
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    np.testing.assert_allclose(through(path, table).outputs[:, 0], model.predict(FRAME), rtol=1e-6)
    both = table.append_column("b_b", pa.array(np.zeros(ROWS)))
    with pytest.raises(UserError, match="'b_b' may be any of the columns 'b b', 'b_b'"):
        through(path, both)
    listed = tuple(FeatureRequest(name) for name in NAMES)
    found = through(path, both, features=listed)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(FRAME), rtol=1e-6)
    with pytest.raises(UserError, match="'b_b' may be any of the columns"):
        through(path, both, features=(*listed, FeatureRequest("b_b")))
    # XGBoost keeps names as they are.
    other = xgboost.XGBRegressor(**FEW).fit(FRAME.rename(columns={"b b": "b_b"}), Y)
    alike = table.rename_columns(["a", "b_b", "c"]).append_column("b b", pa.array(np.zeros(ROWS)))
    found = through(saved(other, tmp_path), alike)
    np.testing.assert_allclose(found.outputs[:, 0], other.predict(FRAME.to_numpy()), rtol=1e-6)
