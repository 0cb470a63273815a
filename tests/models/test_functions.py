"""What `attribeam methods --function` prints, as printed: saved, named in its own config, and run.

onnxruntime, ydf and interpret-core are in the extra `dev`. CatBoost is not, for it takes 270 MB: where it is
not installed, its module runs on a stand-in that gives what the real one gave for the same rows
(`data/foreign/make_catboost.py` recorded them); where it is, the same test runs on the real one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn import ensemble, impute, linear_model, model_selection, multioutput, pipeline, preprocessing

from pipeline.cli import commands as cli
from pipeline.function_templates import FUNCTIONS, module_of
from tests.support import worlds

ROWS = 40
DATA = Path(__file__).resolve().parents[1] / "data" / "foreign"


def table() -> pa.Table:
    """Ages with NaN and null, cities with null, and incomes."""
    rng = np.random.default_rng(8)
    age = np.round(rng.normal(40, 12, ROWS), 1)
    city = rng.choice(["Köln", "Oslo", "Roma"], ROWS).astype(object)
    city[[3, 9, 20]] = None
    gaps = np.isin(np.arange(ROWS), [5, 20])
    return pa.table(
        {
            "age": pa.array(np.where(np.arange(ROWS) == 7, np.nan, age), mask=gaps),
            "city": pa.array(city, pa.string()),
            "income": pa.array(rng.normal(size=ROWS)),
        }
    )


def frame() -> pd.DataFrame:
    """The same as pandas reads it."""
    return table().to_pandas()


def target(classes: int = 2) -> np.ndarray:
    data = frame()
    found = data["age"].fillna(60) + 20 * (data["city"] == "Oslo").astype(float) + 5 * data["income"]
    return np.digitize(found, np.quantile(found, np.arange(1, classes) / classes))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    pq.write_table(table(), tmp_path / "rows.parquet")
    yield tmp_path
    sys.modules.pop("scoring", None)


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run(["methods", "--function", name]) == 0
    return capsys.readouterr().out


def run_as_printed(here: Path, text: str, **target: Any) -> Any:
    """Saves the module, and explains all rows with the config that its head shows."""
    (here / "scoring.py").write_text(text, encoding="utf-8")
    head = text.split('"""')[1]
    shown = "\n".join(line[4:] for line in head.splitlines() if line.startswith("    "))
    config = yaml.safe_load(shown)
    config["model"] |= target
    config["baseline"]["rows"] = 12
    path = worlds.write_config(here / "config.yaml", **config, output={"path": "run"})
    run = worlds.explain(path, here / "run", "output.report=false")
    assert run.manifest["counts"]["rows_attributed"] == ROWS
    found = run.attributions()
    total = worlds.phi(found).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(
        total, found["prediction"].to_numpy() - found["base_value"].to_numpy(), atol=1e-5
    )
    assert np.abs(worlds.phi(found)).max(axis=0).min() > 1e-4
    return found["prediction"].to_numpy()


def steps() -> Any:
    from sklearn import compose

    words = preprocessing.OneHotEncoder(handle_unknown="ignore")
    numbers = impute.SimpleImputer(strategy="mean", add_indicator=True)
    whole = pipeline.make_pipeline(impute.SimpleImputer(strategy="most_frequent"), words)
    columns = compose.ColumnTransformer([("n", numbers, ["age"]), ("w", whole, ["city"])])
    return pipeline.make_pipeline(columns, linear_model.LogisticRegression(max_iter=500))


def test_sklearn(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = frame()[["age", "city"]]
    text = printed("sklearn", capsys)
    search = model_selection.GridSearchCV(steps(), {"logisticregression__C": [1.0]}, cv=2)
    model = search.fit(given, target())
    joblib.dump(model, here / "model.joblib")
    np.testing.assert_allclose(run_as_printed(here, text), model.predict_proba(given)[:, 1], atol=1e-6)


@pytest.mark.parametrize("kind", ["three classes", "regression", "categories", "a dict"])
def test_sklearn_in_other_shapes(here: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    given: Any = frame()[["age", "city"]]
    text = printed("sklearn", capsys)
    model = steps().fit(given, target(3 if kind == "three classes" else 2))
    if kind == "regression":
        model = pipeline.make_pipeline(steps()[0], linear_model.LinearRegression())
        model.fit(given, frame()["income"])
    elif kind == "categories":
        given = given.astype({"city": "category"})
        model = ensemble.HistGradientBoostingRegressor(
            max_iter=5, min_samples_leaf=2, categorical_features="from_dtype"
        )
        model.fit(given, target(4) + 9 * (given["city"] == "Oslo"))
        text = text.replace("list] = {}", 'list] = {"city": ["Köln", "Oslo", "Roma"]}')
    held = {"model": model} if kind == "a dict" else model
    if kind == "a dict":
        text = text.replace("\n\n# Columns", '\nMODEL = MODEL["model"]\n\n# Columns')
    joblib.dump(held, here / "model.joblib")
    classifies = hasattr(model, "predict_proba")
    expected = model.predict_proba(given)[:, 1] if classifies else model.predict(given)
    chosen = {"target": 1} if kind == "three classes" else {}
    np.testing.assert_allclose(run_as_printed(here, text, **chosen), expected, atol=1e-6)


def test_sklearn_that_classifies_several_things(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, text = frame()[["age", "city"]], printed("sklearn", capsys)
    both = np.stack([target(), 1 - target()], axis=1)
    model = pipeline.make_pipeline(steps()[0], multioutput.MultiOutputClassifier(steps()[1])).fit(given, both)
    joblib.dump(model, here / "model.joblib")
    found = run_as_printed(here, text, target=3)
    np.testing.assert_allclose(found, model.predict_proba(given)[1][:, 1], atol=1e-6)


def test_ydf(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ydf = pytest.importorskip("ydf", reason="in the extra dev")
    given = frame()[["age", "city"]].assign(label=target())
    options = {"num_trees": 5, "max_depth": 3, "min_examples": 2, "validation_ratio": 0.0}
    learner = ydf.GradientBoostedTreesLearner(
        label="label",
        features=["age", ydf.Column("city", ydf.Semantic.CATEGORICAL, min_vocab_frequency=1)],
        **options,
    )
    model = learner.train(given, verbose=0)
    model.save(str(here / "model"))
    np.testing.assert_allclose(
        run_as_printed(here, printed("ydf", capsys)), model.predict(given.drop(columns="label")), atol=1e-6
    )


@pytest.mark.filterwarnings("ignore:Missing values detected")
def test_ebm(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    glassbox = pytest.importorskip("interpret.glassbox", reason="in the extra dev")
    given = frame()[["age", "city"]]
    options = {"outer_bags": 1, "max_rounds": 30, "interactions": 1, "min_samples_leaf": 2}
    model = glassbox.ExplainableBoostingClassifier(**options, n_jobs=1).fit(given, target())
    joblib.dump(model, here / "model.joblib")
    found = run_as_printed(here, printed("ebm", capsys))
    np.testing.assert_allclose(found, model.decision_function(given), atol=1e-5)


def test_onnx(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A logistic regression that skl2onnx wrote: columns as one matrix in, ZipMap's dicts out."""
    runtime = pytest.importorskip("onnxruntime", reason="in the extra dev")
    data = table()
    filled = data.set_column(0, "age", pa.array(data["age"].to_pandas().fillna(30) / 20 - 2))
    pq.write_table(filled, here / "rows.parquet")
    (here / "model.onnx").write_bytes((DATA / "linear.onnx").read_bytes())
    found = run_as_printed(here, printed("onnx", capsys))
    session = runtime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
    matrix = filled.select(["age", "income"]).to_pandas().to_numpy(np.float32)
    _, probabilities = session.run(None, {"X": matrix})
    np.testing.assert_allclose(found, [row[1] for row in probabilities], atol=1e-6)


def test_keras(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    keras.utils.set_random_seed(2)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(3, activation="tanh")(inputs)))
    model.save(here / "model.keras")
    text = printed("keras", capsys).replace('    # columns["age"]', '    columns["age"]')
    found = run_as_printed(here, text)
    data = frame()
    given = np.c_[data["age"].fillna(38.0) / 100, data["income"]].astype(np.float32)
    np.testing.assert_allclose(found, model.predict(given, verbose=0)[:, 0], atol=1e-5)


# -- CatBoost ------------------------------------------------------------------------------------------------


def test_catboost(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads((DATA / "catboost.json").read_text(encoding="utf-8"))
    expected = np.array(recorded["raw"])
    text = printed("catboost", capsys)
    (here / "model.cbm").write_bytes((DATA / "catboost.cbm").read_bytes())
    if importlib.util.find_spec("catboost") is not None:
        np.testing.assert_allclose(run_as_printed(here, text), expected, atol=1e-6)
        return
    monkeypatch.setitem(sys.modules, "catboost", stand_in(recorded))
    (here / "scoring.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(here))
    data = frame()
    city = data["city"].astype(object).where(data["city"].notna(), None).to_numpy()
    found = importlib.import_module("scoring").score({"age": data["age"].to_numpy(), "city": city})
    np.testing.assert_allclose(found, expected, atol=1e-6)


def stand_in(recorded: dict[str, Any]) -> types.ModuleType:
    """CatBoost's few calls, with what the real one answered; a frame that it was not given is an error."""

    class CatBoost:
        def load_model(self, path: str) -> None:
            assert Path(path).read_bytes() == (DATA / "catboost.cbm").read_bytes()
            self.feature_names_ = recorded["names"]

        def get_cat_feature_indices(self) -> list[int]:
            return list(recorded["categorical"])

        def get_text_feature_indices(self) -> list[int]:
            return []

        def predict(self, given: pd.DataFrame, prediction_type: str) -> np.ndarray:
            assert prediction_type == "RawFormulaVal"
            rows = [[None if value != value else value for value in row] for row in given.to_numpy().tolist()]
            assert rows == recorded["rows"]
            return np.array(recorded["raw"])

    module = types.ModuleType("catboost")
    module.CatBoost = CatBoost  # type: ignore[attr-defined]
    return module


# -- the verb ------------------------------------------------------------------------------------------------


def test_every_function_is_a_module_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for name in FUNCTIONS:
        text = printed(name, capsys)
        assert text == module_of(name)
        assert max(map(len, text.splitlines())) <= 110
        compile(text, name, "exec")
    assert cli.run(["methods", "--function", "onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"function": "onnx", "module": module_of("onnx")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--function", "catbost"], "did you mean catboost?"),
        (["--function", "sklearn", "lime"], "cannot be combined"),
        (["--function", "sklearn", "--config", "c.yaml"], "cannot be combined"),
    ],
)
def test_mistakes(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["methods", *arguments]) == 2
    assert words in capsys.readouterr().err
