"""scikit-learn's estimators: explained as they predict themselves, with categories, or refused in a line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import ensemble, linear_model, tree

from pipeline import load_run
from pipeline.cli import commands as cli
from tests.fuzz import fuzz_sklearn
from tests.support import worlds
from tests.support.models.tree_tables import through
from transforms.errors import UserError
from transforms.models.kinds.trees.base import INPUT
from transforms.models.kinds.trees.sklearn import SklearnModel
from transforms.models.load import ModelRequest, load_model
from transforms.rows.resolve.feature import FeatureRequest

ROWS = 200
RNG = np.random.default_rng(4)
STORES = RNG.choice([47, 10, 35, 20], ROWS)
WORDS = RNG.choice(["south", "", "Nörth", "a b"], ROWS).astype(object)
OPEN = RNG.random(ROWS) < 0.4
X = RNG.normal(size=ROWS)
Y = np.isin(STORES, [20, 47]) * 2 + (WORDS == "Nörth") + OPEN * X + 0.3 * X


def frame() -> pd.DataFrame:
    return pd.DataFrame({"x": X, "store": STORES, "word": WORDS, "open": OPEN})


def with_categories(data: pd.DataFrame) -> pd.DataFrame:
    return data.astype({"store": "category", "word": "category", "open": "category"})


def fitted(kind: str = "Classifier", categorical: Any = "from_dtype") -> Any:
    made = getattr(ensemble, f"HistGradientBoosting{kind}")
    model = made(max_iter=12, min_samples_leaf=4, random_state=0, categorical_features=categorical)
    return model.fit(with_categories(frame()), np.median(Y) < Y if kind == "Classifier" else Y)


def asked() -> pd.DataFrame:
    """The training rows with stores and words that no row had, and with gaps."""
    found = frame()
    found["store"] = found["store"].astype(float)
    found["open"] = found["open"].astype(object)
    found.loc[3, "store"], found.loc[4, "word"] = 99, "elsewhere"
    found.loc[5, "store"], found.loc[6, "x"], found.loc[7, "open"] = np.nan, np.nan, None
    found.loc[8, "word"] = None
    return found


def table() -> pa.Table:
    data = asked()
    columns = {
        "word": pa.array(data["word"], pa.string(), from_pandas=True).dictionary_encode(),
        "open": pa.array(data["open"], pa.bool_(), from_pandas=True),
        "store": pa.array(data["store"], pa.int32(), from_pandas=True),
        "x": pa.array(data["x"], pa.float64(), from_pandas=True),
    }
    return pa.table(columns)


def saved(tmp_path: Path, model: Any) -> str:
    path = tmp_path / "m.joblib"
    joblib.dump(model, path)
    return str(path)


def test_random_estimators_on_random_tables() -> None:
    """`python -m tests.fuzz.fuzz_sklearn` tries more of them."""
    found = fuzz_sklearn.run(7, 30, 0)
    assert found["explained"] >= 20
    assert found.total() == 30


@pytest.mark.parametrize(
    "how", ["from_dtype", [1, 2, 3], ["store", "word", "open"], [False, True, True, True]]
)
def test_categories_are_what_the_estimator_makes_of_them(tmp_path: Path, how: Any) -> None:
    """Strangers, and gaps: the estimator's own prediction of a data frame says what they are."""
    model = fitted("Regressor", how)
    found = through(saved(tmp_path, model), table())
    assert not found.rejected
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(asked()), rtol=1e-5)
    known = found.adapter.signature.inputs[0].categories.at([False] * 4)  # type: ignore[union-attr]
    assert known[1].values == (10, 20, 35, 47)
    assert known[2].values == ("", "Nörth", "a b", "south")
    assert known[3].values == (False, True)
    # Without its column's own types nothing is the same: the case is no trivial one.
    assert np.abs(model.predict(frame()) - model.predict(asked())).max() > 0.1


def test_from_the_file_to_the_tables(tmp_path: Path) -> None:
    """A run as a user makes it: tree_shap sums to the estimator's margin, and the tables hold the words."""
    model = fitted()
    saved(tmp_path, model)
    data = table().append_column("id", pa.array([f"row {k}" for k in range(ROWS)]))
    pq.write_table(data, tmp_path / "rows.parquet")
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "m.joblib", "allow_unsafe": True},
        input={"files": "rows.parquet", "id": "id"},
        method={"name": "tree_shap"},
        baseline={"kind": "sample", "rows": 20},
        output={"path": "run", "features": True},
    )
    run = worlds.explain(config, tmp_path / "run")
    assert run.manifest["counts"]["rows_attributed"] == ROWS
    found = run.attributions()
    np.testing.assert_allclose(
        np.abs(found["prediction"].to_numpy()), np.abs(model.decision_function(asked())), atol=1e-5
    )
    total = worlds.phi(found).sum(axis=1)
    np.testing.assert_allclose(
        total, found["prediction"].to_numpy() - found["base_value"].to_numpy(), atol=1e-5
    )
    held = pa.Table.from_struct_array(found["feature"])
    assert held["word"].to_pylist()[:4] == list(WORDS[:4])
    assert held["word"][8].as_py() is None
    importance = load_run(str(tmp_path / "run")).importance()
    assert importance.set_index("feature")["mean_abs"].min() > 0.01
    assert cli.run(["verify", str(tmp_path / "run"), "--rows", "20"]) == 0


def test_a_misreading_stops_the_run_before_a_row_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The estimator is asked itself: codes in another order would be wrong, and silent."""
    saved(tmp_path, fitted())
    pq.write_table(table(), tmp_path / "rows.parquet")
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "m.joblib", "allow_unsafe": True},
        input={"files": "rows.parquet"},
        method={"name": "tree_shap"},
        baseline={"kind": "sample", "rows": 20},
        output={"path": "run"},
    )
    own = SklearnModel._categories

    def shuffled(self: SklearnModel) -> Any:
        from dataclasses import replace

        from transforms.models.categories import Placed

        found = own(self)
        assert found is not None
        return Placed(tuple((at, replace(known, values=known.values[::-1])) for at, known in found.places))

    monkeypatch.setattr(SklearnModel, "_categories", shuffled)
    import pipeline

    with pytest.raises(UserError, match="the model's own prediction of row"):
        pipeline.explain(config, output=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_filled_rows_are_compared_as_they_are_filled(tmp_path: Path) -> None:
    model = fitted("Regressor")
    fills = {"x": 0.5, "store": 35, "word": "a b", "open": True}
    features = tuple(FeatureRequest(name, fill=value) for name, value in fills.items())
    found = through(saved(tmp_path, model), table(), features=features)
    expected = model.predict(asked().astype({"open": object}).fillna(fills))
    np.testing.assert_allclose(found.outputs[:, 0], expected, rtol=1e-5)
    adapter: Any = found.adapter
    batch = table().select(list(fills)).combine_chunks().to_batches()[0]
    np.testing.assert_allclose(adapter.public_prediction(batch, found.inputs)[:, 0], expected, rtol=1e-5)


def test_an_estimator_of_arrays_is_asked_with_arrays(tmp_path: Path) -> None:
    """Places of categories, and no names; a vector in one column."""
    data = np.c_[X, STORES]
    made = ensemble.HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=4, categorical_features=[1])
    model = made.fit(data, Y)
    held = pa.table({"x": X, "store": pa.array(STORES, pa.uint8())})
    found = through(saved(tmp_path, model), held)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-5)
    forest = ensemble.RandomForestRegressor(4, max_depth=4, random_state=0).fit(data, Y)
    vectors = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(data.reshape(-1)), 2)})
    whole = through(saved(tmp_path, forest), vectors)
    adapter: Any = whole.adapter
    batch = vectors.combine_chunks().to_batches()[0]
    expected = forest.predict(data)
    np.testing.assert_allclose(whole.outputs[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(adapter.public_prediction(batch, whole.inputs)[:, 0], expected, rtol=1e-5)


def test_a_boosting_that_starts_from_another_model(tmp_path: Path) -> None:
    """tree_shap does not see the start; what evaluates the estimator does."""
    data = np.c_[X, STORES]
    start = linear_model.LinearRegression()
    model = ensemble.GradientBoostingRegressor(n_estimators=3, init=start, random_state=0).fit(data, Y)
    held = pa.table({"x": X, "store": STORES})
    found = through(saved(tmp_path, model), held)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-5)
    with pytest.raises(UserError, match=r"starts from a LinearRegression \(init\).*use permutation_shap"):
        found.model.trees()
    for start in ("zero", None):  # type: ignore[assignment]
        model.set_params(init=start).fit(data, Y)
        through(saved(tmp_path, model), held).model.trees()


def test_rows_of_a_single_class(tmp_path: Path) -> None:
    one = np.full(ROWS, "yes")
    held = pa.table({"x": X, "store": STORES})
    forest = tree.DecisionTreeClassifier().fit(np.c_[X, STORES], one)
    assert through(saved(tmp_path, forest), held).outputs.tolist() == [[1.0]] * ROWS
    histogram = ensemble.HistGradientBoostingClassifier(max_iter=2).fit(np.c_[X, STORES], one)
    with pytest.raises(UserError, match="rows of a single class, yes"):
        load_model(ModelRequest(saved(tmp_path, histogram), allow_unsafe=True))


def test_categories_of_other_kinds_are_refused(tmp_path: Path) -> None:
    days = pd.Categorical(pd.to_datetime(np.where(OPEN, "2026-01-01", "2026-01-02")))
    data = pd.DataFrame({"x": X, "day": days})
    made = ensemble.HistGradientBoostingRegressor(max_iter=2, categorical_features="from_dtype")
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(made.fit(data, Y)))
    with pytest.raises(UserError, match=r"its categories are .*strings or numbers are needed"):
        load_model(ModelRequest(str(path), allow_unsafe=True))


def test_splits_on_what_is_missing(tmp_path: Path) -> None:
    """A tree may split on whether a value is missing: its threshold is then infinite."""
    gaps = np.where(OPEN, np.nan, X)
    for made in (
        tree.DecisionTreeRegressor(max_depth=1),
        ensemble.ExtraTreesRegressor(3, max_depth=2, random_state=0),
        ensemble.HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=2),
    ):
        model = made.fit(gaps[:, None], OPEN * 5.0)
        found = through(saved(tmp_path, model), pa.table({"x": pa.array(gaps, from_pandas=True)}))
        np.testing.assert_allclose(found.outputs[:, 0], model.predict(gaps[:, None]), rtol=1e-5)
        forest, constant = found.model.trees()
        sums = forest.sums(found.inputs[INPUT])[:, 0] + constant
        np.testing.assert_allclose(sums, model.predict(gaps[:, None]), rtol=1e-5, atol=1e-9)
        assert np.ptp(sums) > 1
