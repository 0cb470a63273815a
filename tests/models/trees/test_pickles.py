"""Pickles and joblib files: told by content, refused in a line where they hold no tree model."""

from __future__ import annotations

import importlib
import pickle
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import sklearn
import xgboost
from sklearn import (
    calibration,
    ensemble,
    impute,
    linear_model,
    model_selection,
    pipeline,
    preprocessing,
    tree,
)

from transforms.errors import UserError
from transforms.models.base import ModelAdapter
from transforms.models.kinds.trees.pickles import load_pickle
from transforms.models.load import ModelRequest, load_model

OLD = Path(__file__).resolve().parents[2] / "data" / "pickles"
FUNCTION = "attribeam methods --function sklearn prints one"
ROWS = np.random.default_rng(0).normal(size=(60, 2))
LABELS = (ROWS.sum(axis=1) > 0).astype(int)
SMALL: dict[str, Any] = {"n_estimators": 2, "max_depth": 2}


@cache
def fitted() -> dict[str, Any]:
    quiet = {**SMALL, "verbose": -1, "n_jobs": 1}
    return {
        "forest": ensemble.RandomForestClassifier(**SMALL, random_state=0).fit(ROWS, LABELS),
        "histogram": ensemble.HistGradientBoostingRegressor(max_iter=2).fit(ROWS, LABELS),
        "lightgbm estimator": lightgbm.LGBMClassifier(**quiet).fit(pd.DataFrame(ROWS), LABELS),
        "lightgbm booster": lightgbm.LGBMClassifier(**quiet).fit(pd.DataFrame(ROWS), LABELS).booster_,
        "xgboost estimator": xgboost.XGBClassifier(**SMALL).fit(ROWS, LABELS),
        "xgboost booster": xgboost.XGBClassifier(**SMALL).fit(ROWS, LABELS).get_booster(),
    }


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    "pickle": lambda model, path: path.write_bytes(pickle.dumps(model)),
    "protocol 0": lambda model, path: path.write_bytes(pickle.dumps(model, protocol=0)),
    "protocol 2": lambda model, path: path.write_bytes(pickle.dumps(model, protocol=2)),
    "joblib": lambda model, path: joblib.dump(model, path),
    **{
        f"joblib, {kind}": lambda model, path, kind=kind: joblib.dump(model, path, compress=(kind, 3))  # type: ignore[misc]
        for kind in ("zlib", "gzip", "bz2", "xz", "lzma")
    },
}


def loaded(path: Path) -> ModelAdapter:
    return load_model(ModelRequest(str(path), allow_unsafe=True))


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        loaded(path)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("name", list(fitted()))
def test_whoever_wrote_it_and_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    """The library's own probabilities are what the loaded model gives."""
    model = fitted()[name]
    frame: Any = pd.DataFrame(ROWS) if "lightgbm" in name else ROWS
    frame = xgboost.DMatrix(ROWS) if name == "xgboost booster" else frame
    expected = model.predict_proba(frame)[:, 1] if hasattr(model, "predict_proba") else model.predict(frame)
    for number, (writer, write) in enumerate(WRITERS.items()):
        suffix = (".joblib", ".pkl", ".pickle", ".sav", ".model", ".bin", "", ".h5")[number % 8]
        path = tmp_path / f"model-{number}{suffix}"
        write(model, path)
        adapter: Any = loaded(path)
        example = {"features": ROWS.astype(adapter.signature.inputs[0].dtype)}
        scored = adapter.scored({"features": (2,)}, "auto", affine_prefix=True, example=example)
        np.testing.assert_allclose(scored.evaluate(example)[1][:, -1], expected, rtol=1e-5, err_msg=writer)
        with pytest.raises(UserError, match=r"is a pickle.*allow_unsafe: true"):
            load_model(ModelRequest(str(path)))


@pytest.mark.parametrize("name", ["forest-1.2.2", "boosting-1.2.2", "boosting-1.7.2"])
def test_a_pickle_of_another_scikit_learn_names_both_versions(name: str) -> None:
    line = refusal(OLD / f"{name}.joblib")
    there, here = name.partition("-")[2], sklearn.__version__
    assert f"written by scikit-learn {there}, read by {here}" in line
    assert "not installed" not in line


def test_one_that_loads_is_a_warning_and_one_that_is_wrong_then_names_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = OLD / "forest-1.7.2.joblib"
    words = f"written by scikit-learn 1.7.2, read by {sklearn.__version__}"
    assert [line for line in getattr(loaded(path), "warnings", ()) if words in line]
    kind = ensemble.RandomForestClassifier
    own = kind.predict_proba
    monkeypatch.setattr(kind, "predict_proba", lambda self, rows: 7 * own(self, rows))
    assert words in refusal(path)
    assert "do not sum to 1" in refusal(path)
    monkeypatch.setattr(kind, "predict_proba", lambda self, rows: self.not_there)
    assert words in refusal(path)
    assert "not_there" in refusal(path)
    # Trees that add up to something else than the model says.
    monkeypatch.setattr(kind, "predict_proba", lambda self, rows: own(self, rows)[:, ::-1])
    adapter: Any = loaded(path)
    example = {"features": ROWS.astype(np.float32)}
    scored = adapter.scored({"features": (2,)}, "auto", affine_prefix=True, example=example)
    with pytest.raises(UserError, match=words):
        scored.trees()


def search(estimator: Any, **grid: Any) -> Any:
    return model_selection.GridSearchCV(estimator, grid, cv=2).fit(ROWS, LABELS)


def no_models() -> dict[str, tuple[Callable[[], Any], list[str]]]:
    forest, small = fitted()["forest"], tree.DecisionTreeClassifier()
    steps = pipeline.make_pipeline(impute.SimpleImputer(), small)
    data = lightgbm.Dataset(ROWS, LABELS)
    quiet = {"objective": "binary", "verbose": -1, "num_threads": 1}
    folds = lambda: lightgbm.cv(quiet, data, 2, return_cvbooster=True)["cvbooster"]  # noqa: E731
    return {
        "a dict": (lambda: {"model": forest, "scaler": 1}, ["a dict of model, scaler", FUNCTION]),
        "a tuple": (lambda: (forest, [1]), ["a tuple of RandomForestClassifier, list", FUNCTION]),
        "a list": (lambda: [forest, forest], ["a list of RandomForestClassifier", FUNCTION]),
        "folds": (folds, ["a CVBooster, the 5 models of a cross-validation", "save one of its boosters"]),
        "a search": (
            lambda: search(small, max_depth=[1]),
            ["GridSearchCV", "DecisionTreeClassifier", "save its best_estimator_"],
        ),
        "a search of pipelines": (
            lambda: search(steps, simpleimputer__strategy=["mean"]),
            ["GridSearchCV", "Pipeline", FUNCTION],
        ),
        "a pipeline": (
            lambda: steps.fit(ROWS, LABELS),
            ["Pipeline of SimpleImputer, DecisionTreeClassifier", FUNCTION],
        ),
        "calibrated": (
            lambda: calibration.CalibratedClassifierCV(forest).fit(ROWS, LABELS),
            ["a CalibratedClassifierCV", FUNCTION],
        ),
        "linear": (
            lambda: linear_model.LogisticRegression().fit(ROWS, LABELS),
            ["a LogisticRegression", FUNCTION],
        ),
        "no predictor": (lambda: preprocessing.StandardScaler().fit(ROWS), ["StandardScaler, not a model"]),
        "an array": (lambda: ROWS, ["a ndarray, not a model"]),
        "a frame": (lambda: pd.DataFrame(ROWS), ["a DataFrame, not a model"]),
        "nothing": (lambda: None, ["holds None"]),
        "a class": (lambda: ensemble.RandomForestClassifier, ["class RandomForestClassifier", "fitted"]),
        "unfitted forest": (ensemble.RandomForestClassifier, ["RandomForestClassifier that is not fitted"]),
        "unfitted boosting": (ensemble.GradientBoostingRegressor, ["that is not fitted; fit it before"]),
        "unfitted histogram": (ensemble.HistGradientBoostingClassifier, ["that is not fitted"]),
        "unfitted xgboost": (xgboost.XGBClassifier, ["XGBClassifier that is not fitted"]),
        "unfitted lightgbm": (lightgbm.LGBMRegressor, ["LGBMRegressor that is not fitted"]),
        "two at once": (
            lambda: tree.DecisionTreeClassifier(max_depth=1).fit(ROWS, np.c_[LABELS, 1 - LABELS]),
            ["has several outputs to classify"],
        ),
    }


@pytest.mark.parametrize("name", list(no_models()))
def test_what_is_no_tree_model_is_told_in_a_line_with_the_way_out(tmp_path: Path, name: str) -> None:
    make, words = no_models()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = make()
    for suffix, write in ((".pkl", WRITERS["joblib"]), (".joblib", WRITERS["pickle"])):
        path = tmp_path / f"held{suffix}"
        write(held, path)
        line = refusal(path)
        assert all(word in line for word in words), line


def test_a_module_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "own_code.py"
    module.write_text("class Model:\n    def predict(self, rows):\n        return rows\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own_code = importlib.import_module("own_code")
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(own_code.Model()))
    assert "holds a Model, which is neither one of" in refusal(path)
    data = path.read_bytes()
    (tmp_path / "elsewhere.pkl").write_bytes(data.replace(b"own_code", b"gone_mod"))
    assert "needs the module gone_mod, which is not installed" in refusal(tmp_path / "elsewhere.pkl")
    (tmp_path / "main.pkl").write_bytes(data.replace(b"own_code", b"__main__"))
    line = refusal(tmp_path / "main.pkl")
    assert "Model" in line
    assert "__main__" in line
    assert "model.modules" in line
    (tmp_path / "newer.pkl").write_bytes(
        pickle.dumps(fitted()["forest"]).replace(b"sklearn.ensemble._forest", b"sklearn.ensemble._gorest")
    )
    assert "sklearn.ensemble._gorest, which the installed sklearn does not have" in refusal(
        tmp_path / "newer.pkl"
    )
    del sys.modules["own_code"]


def test_damage_is_told(tmp_path: Path) -> None:
    whole = pickle.dumps(fitted()["forest"])
    (tmp_path / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    assert "the pickle does not load" in refusal(tmp_path / "cut.pkl")
    (tmp_path / "text.pkl").write_text("no pickle at all")
    assert "the pickle does not load" in refusal(tmp_path / "text.pkl")
    (tmp_path / "empty.pkl").write_bytes(b"")
    assert "is empty" in refusal(tmp_path / "empty.pkl")


def test_what_is_loaded_is_left_as_it_was(tmp_path: Path) -> None:
    """The names that the estimator was fitted with are kept for its own prediction."""
    frame = pd.DataFrame(ROWS, columns=["a", "b"])
    model = ensemble.RandomForestClassifier(**SMALL, n_jobs=2).fit(frame, LABELS)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(model))
    adapter: Any = load_pickle(str(path), allow_unsafe=True)
    assert adapter.signature.inputs[0].values == ("a", "b")
    assert list(adapter._public.feature_names_in_) == ["a", "b"]
    assert adapter._public.n_jobs == 2
