"""Tree models from their files to the tables: what is read, what is refused, and what is written."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost
from sklearn import ensemble, linear_model

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models import trees_zoo as zoo
from transforms.errors import UserError
from transforms.models.kinds.trees.base import INPUT
from transforms.models.load import ModelRequest, load_model, model_kind

ROWS = 90
NAMES = ("level", "size", "gap", "kind", "open", "flat")
INFINITE = 31


def table() -> pa.Table:
    """The zoo's rows as columns of several types, with ids and a slice; one value is infinite."""
    rows = zoo.data()[:ROWS].astype(np.float64)
    columns = {"id": pa.array([f"row {k}" for k in range(ROWS)])}
    for k, name in enumerate(NAMES):
        missing = np.isnan(rows[:, k])
        if name == "kind":  # whole numbers, with nulls
            columns[name] = pa.array(np.nan_to_num(rows[:, k]).astype(int), pa.int16(), mask=missing)
        elif name == "open":  # booleans, with nulls
            columns[name] = pa.array(rows[:, k] > 0, pa.bool_(), mask=missing)
        elif name == "gap":  # nulls and NaN
            columns[name] = pa.array(rows[:, k], mask=missing & (np.arange(ROWS) % 2 == 0))
        else:
            values = np.where((np.arange(ROWS) == INFINITE) & (name == "size"), np.inf, rows[:, k])
            columns[name] = pa.array(values, pa.float32())
    columns["region"] = pa.array(["north" if k % 3 else "south" for k in range(ROWS)])
    return pa.table(columns)


def features() -> np.ndarray:
    """What the model is to be given: `[ROWS, 6]`, nulls as NaN."""
    columns = [table()[name].to_pandas().astype(float) for name in NAMES]
    return np.column_stack(columns)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    pq.write_table(table().select([*NAMES[::-1], "region", "id"]), tmp_path / "rows.parquet")
    return worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": zoo.xgb("xgboost")},
        input={"files": "rows.parquet", "id": "id", "slices": ["region"], "features": list(NAMES)},
        method={"name": "tree_shap"},
        baseline={"kind": "sample", "rows": 20},
        output={"path": "run"},
        compute={"shard_rows": 40, "batch_size": 16},
        limits={"rejected": 0.05},
    )


def check_run(run: Any, path: str, score: str = "auto") -> None:
    """Counts, sums, and every prediction by the library itself; only the infinite row is refused."""
    counts = run.manifest["counts"]
    assert (counts["rows_read"], counts["rows_attributed"], counts["rows_rejected"]) == (ROWS, ROWS - 1, 1)
    (rejected,) = run.rejected().to_pylist()
    assert (rejected["example_id"], rejected["reason"]) == (f"row {INFINITE}", "size is infinite")
    found = run.attributions()
    kept = np.arange(ROWS) != INFINITE
    model = zoo.load(path, zoo.data()[:5], score)
    (target,) = set(found["target"].to_pylist())
    assert target == (1 if len(model.signature.classes) == 2 else 0)
    scores, outputs = model.evaluate({INPUT: features()[kept].astype(model.signature.inputs[0].dtype)})
    np.testing.assert_allclose(found["prediction"].to_numpy(), scores[:, target], atol=1e-6)
    np.testing.assert_allclose(found["output"].to_numpy(), outputs[:, target], atol=1e-6)
    phi = worlds.phi(found)
    total = phi.sum(axis=1, dtype=np.float64)
    base = found["base_value"].to_numpy().astype(np.float64)
    np.testing.assert_allclose(total, scores[:, target] - base, atol=5e-6)
    assert np.abs(phi).max() > 0.1
    assert np.abs(found["convergence_delta"].to_numpy()).max() < 5e-6


@pytest.mark.parametrize("how", ["interventional", "path_dependent"])
@pytest.mark.parametrize("name", ["xgboost, binary", "lightgbm", "forest", "histogram, two classes"])
def test_from_the_file_to_the_tables(world: Path, tmp_path: Path, name: str, how: str) -> None:
    path = zoo.CASES[name]()
    settings = (f"model.path={path}", "model.allow_unsafe=true", f"method.perturbation={how}")
    run = worlds.explain(world, tmp_path / "run", *settings)
    check_run(run, path)
    importance = run.importance()
    assert set(importance["slice"]) == {"", "region=north", "region=south"}
    assert set(importance["feature"]) == set(NAMES)
    head = run.manifest["model"]["outputs"][0]
    expected = "margin" if "binary" in name or "histogram" in name else "output"
    assert head["score"] == expected
    assert set(run.manifest["model"]) == {"path", "digest", "inputs", "outputs"}
    explanation = load_run(str(tmp_path / "run")).explanation()
    assert explanation.values.shape == (ROWS - 1, len(NAMES))
    data = pd.DataFrame(explanation.data, columns=explanation.feature_names)
    assert data["gap"].isna().sum() == np.isnan(features()[:, 2]).sum() - np.isnan(features()[INFINITE, 2])
    assert cli.run(["show", str(tmp_path / "run"), "row 3"]) == 0


def test_a_background_of_one_mean_row_and_a_fill(world: Path, tmp_path: Path) -> None:
    """A mean is that of the known values; what is filled is no longer missing."""
    settings = (
        "baseline={kind: mean}",
        "input.features=[level, {name: size, fill: 0}, gap, kind, open, flat]",
    )
    run = worlds.explain(world, tmp_path / "run", *settings)
    assert run.manifest["counts"]["rows_rejected"] == 0
    model = zoo.load(zoo.xgb("xgboost"), zoo.data()[:5])
    rows = features()
    rows[~np.isfinite(rows[:, 1]), 1] = 0
    mean = np.nanmean(rows, axis=0, keepdims=True).astype(np.float32)
    base, _ = model.evaluate({INPUT: mean})
    found = run.attributions()
    np.testing.assert_allclose(found["base_value"].to_numpy(), np.full(ROWS, base[0, 0]), atol=1e-6)
    scores, _ = model.evaluate({INPUT: rows.astype(np.float32)})
    np.testing.assert_allclose(found["prediction"].to_numpy(), scores[:, 0], atol=1e-6)


def test_rows_that_a_model_without_a_way_for_nan_has_to_refuse(world: Path, tmp_path: Path) -> None:
    path = zoo.CASES["boosting"]()
    settings = (f"model.path={path}", "model.allow_unsafe=true", "limits.rejected=1")
    run = worlds.explain(world, tmp_path / "run", *settings)
    missing = ~np.isfinite(features()).all(axis=1)
    assert 10 < missing.sum() < ROWS - 10
    assert run.manifest["counts"]["rows_rejected"] == missing.sum()
    assert {row["stage"] for row in run.rejected().to_pylist()} == {"decode"}


def test_a_list_column_with_nulls_is_a_vector_with_gaps(tmp_path: Path) -> None:
    rows = zoo.data()[:40]
    values: list[Any] = [[None if np.isnan(v) else float(v) for v in row] for row in rows]
    values[7] = None
    pq.write_table(pa.table({"x": pa.array(values, pa.list_(pa.float64(), 6))}), tmp_path / "rows.parquet")
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": zoo.lgb("lightgbm")},
        input={"files": "rows.parquet"},
        method={"name": "tree_shap"},
        output={"path": "run"},
    )
    run = worlds.explain(config, tmp_path / "run")
    assert run.manifest["counts"]["rows_rejected"] == 0
    model = zoo.load(zoo.lgb("lightgbm"), zoo.data()[:5])
    given = rows.astype(np.float64)
    given[7] = np.nan
    np.testing.assert_allclose(
        run.attributions()["prediction"].to_numpy(), model.evaluate({INPUT: given})[0][:, 0], atol=1e-6
    )


@pytest.mark.parametrize("target", ["all", "predicted", 1, "grün"])
def test_classes(world: Path, tmp_path: Path, target: int | str) -> None:
    """A forest's classes that are words are the names of its outputs."""
    words = np.array(["blau", "grün", "rot"])[zoo.classes(zoo.data(), 3)]
    forest = ensemble.RandomForestClassifier(5, max_depth=3, random_state=0).fit(zoo.data(), words)
    path = zoo.save_pickle(forest, "words")
    settings = (f"model.path={path}", "model.allow_unsafe=true", f"model.target={target}")
    run = worlds.explain(world, tmp_path / "run", *settings)
    found = run.attributions()
    shares = forest.predict_proba(features()[np.arange(ROWS) != INFINITE].astype(np.float32))
    chosen = {"predicted": shares.argmax(axis=1), "all": np.tile(np.arange(3), ROWS - 1)}.get(
        str(target), np.ones(ROWS - 1, int)
    )
    rows = np.repeat(np.arange(ROWS - 1), 3 if target == "all" else 1)
    np.testing.assert_allclose(found["prediction"].to_numpy(), shares[rows, chosen], atol=1e-6)
    assert found["target_name"].to_pylist() == [["blau", "grün", "rot"][k] for k in chosen]
    sums = worlds.phi(found).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(
        sums, found["prediction"].to_numpy() - found["base_value"].to_numpy(), atol=1e-6
    )


def test_two_workers_write_the_same_bytes(world: Path, tmp_path: Path) -> None:
    one = worlds.explain(world, tmp_path / "one")
    two = worlds.explain(world, tmp_path / "two", "compute.workers=2")
    assert worlds.part_bytes(one) == worlds.part_bytes(two)


def test_no_tensorflow_is_loaded(world: Path, tmp_path: Path) -> None:
    paths = [zoo.CASES[name]() for name in ("xgboost", "lightgbm", "forest")]
    code = (
        "import json, sys, pipeline\n"
        f"for path in {paths!r}:\n"
        "    settings = [f'model.path={path}', 'model.allow_unsafe=true']\n"
        f"    run = pipeline.explain({str(world)!r}, output={str(tmp_path)!r} + '/run', settings=settings, "
        "overwrite=True)\n"
        "print(json.dumps([run.manifest['counts']['rows_attributed'], "
        "sorted({'tensorflow', 'keras'} & set(sys.modules))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=worlds.ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [ROWS - 1, []]


# -- names and orders ----------------------------------------------------------------------------------------


def named(tmp_path: Path, library: str) -> str:
    frame = pd.DataFrame(zoo.data(library != "boosting"), columns=NAMES)
    learns = zoo.values(zoo.data())
    if library == "xgboost":
        path = tmp_path / "named.ubj"
        xgboost.train({"max_depth": 3}, xgboost.DMatrix(frame, learns), 5).save_model(path)
        return str(path)
    if library == "lightgbm":
        path = tmp_path / "named.txt"
        params = {"num_leaves": 8, "verbose": -1}
        lightgbm.train(params, lightgbm.Dataset(frame, learns), 5).save_model(path)
        return str(path)
    return zoo.save_pickle(ensemble.RandomForestRegressor(5, random_state=0).fit(frame, learns), "named")


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "sklearn"])
def test_features_go_where_the_model_has_their_names(world: Path, tmp_path: Path, library: str) -> None:
    """The file has them in another order, and so has the config; neither changes what the model is given."""
    path = named(tmp_path, library)
    settings = [f"model.path={path}", "model.allow_unsafe=true"]
    listed = worlds.explain(world, tmp_path / "a", *settings, f"input.features=[{', '.join(NAMES[::-1])}]")
    found = worlds.explain(world, tmp_path / "b", *settings, "input.features=null")
    check_run(listed, path)
    check_run(found, path)
    assert listed.features == found.features == list(NAMES)


def test_an_underscore_stands_for_a_space(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "spaces.txt"
    frame = pd.DataFrame(zoo.data(), columns=["level", "the size", *NAMES[2:]])
    params = {"num_leaves": 8, "verbose": -1}
    names = [name.replace(" ", "_") for name in frame.columns]
    made = lightgbm.Dataset(frame.to_numpy(), zoo.values(zoo.data()), feature_name=names)
    lightgbm.train(params, made, 5).save_model(path)
    rows = pq.read_table(tmp_path / "rows.parquet")
    pq.write_table(rows.rename_columns({"size": "the size"}), tmp_path / "rows.parquet")
    plan = make_plan(
        load_config(str(world), settings=[f"model.path={path}", "input.features=null"]), in_process=True
    )
    assert plan.spec.schema.attributed == ("level", "the size", *NAMES[2:])


# -- as the library's own predict ----------------------------------------------------------------------------


def stopping() -> tuple[Any, ...]:
    """Rows to train on and rows to stop by: noise, so that the best iteration is not the last."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(300, 6)).astype(np.float32)
    learns = rows[:, 0] + rng.normal(size=300)
    return rows[:200], learns[:200], rows[200:], learns[200:]


def test_xgboost_stops_where_the_saver_does(tmp_path: Path) -> None:
    rows, learns, other, checks = stopping()
    estimator = xgboost.XGBRegressor(n_estimators=60, early_stopping_rounds=8, n_jobs=1)
    estimator.fit(rows, learns, eval_set=[(other, checks)], verbose=False)
    assert estimator.best_iteration < estimator.get_booster().num_boosted_rounds() - 1
    estimator.save_model(tmp_path / "estimator.ubj")
    estimator.get_booster().set_attr(scikit_learn=None)
    for path in (str(tmp_path / "estimator.ubj"), zoo.save_pickle(estimator, "estimator")):
        model = zoo.load(path, other)
        scores, _ = model.evaluate({INPUT: other})
        np.testing.assert_array_equal(scores[:, 0], estimator.predict(other))
        assert len(model.trees()[0].roots) == estimator.best_iteration + 1
    matrix = xgboost.DMatrix(rows, learns)
    watched = {"evals": [(xgboost.DMatrix(other, checks), "other")], "verbose_eval": False}
    booster = xgboost.train({"nthread": 1}, matrix, 60, early_stopping_rounds=8, **watched)
    booster.save_model(tmp_path / "booster.ubj")
    model = zoo.load(str(tmp_path / "booster.ubj"), other)
    scores, _ = model.evaluate({INPUT: other})
    np.testing.assert_array_equal(scores[:, 0], booster.predict(xgboost.DMatrix(other)))
    assert len(model.trees()[0].roots) == booster.num_boosted_rounds() > booster.best_iteration + 1


def test_lightgbm_stops_at_its_best_iteration(tmp_path: Path) -> None:
    rows, learns, other, checks = stopping()
    estimator = lightgbm.LGBMRegressor(n_estimators=60, verbose=-1, n_jobs=1, min_child_samples=3)
    stop = lightgbm.early_stopping(8, verbose=False)
    estimator.fit(rows, learns, eval_X=other, eval_y=checks, callbacks=[stop])
    assert estimator.best_iteration_ < 60
    estimator.booster_.save_model(tmp_path / "booster.txt")
    for path in (str(tmp_path / "booster.txt"), zoo.save_pickle(estimator, "lgbm")):
        model = zoo.load(path, other)
        scores, _ = model.evaluate({INPUT: other.astype(np.float64)})
        np.testing.assert_allclose(scores[:, 0], estimator.booster_.predict(other), rtol=1e-6)
        assert len(model.trees()[0].roots) == estimator.best_iteration_


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_outputs_of_classes_are_their_probabilities(objective: str) -> None:
    name = "xgboost, three classes" if objective.endswith("prob") else "xgboost, class returned"
    found = zoo.case(name)
    scores, outputs = found.model.evaluate({INPUT: found.rows})
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(outputs, grown / grown.sum(axis=1, keepdims=True), atol=1e-6)
    assert found.model.signature.target_names == tuple(f"probability[{k}]" for k in range(3))


@pytest.mark.parametrize(
    ("name", "score", "kind"),
    [
        ("xgboost", "output", "output"),
        ("xgboost, binary", "probability", "probability"),
        ("xgboost, binary", "logit", "margin"),
        ("xgboost, log link", "output", "output"),
        ("lightgbm, three classes", "probability", "probability"),
        ("lightgbm, log link", "output", "output"),
        ("forest, two classes", "auto", "probability"),
        ("histogram, two classes", "output", "probability"),
    ],
)
def test_scores(name: str, score: str, kind: str) -> None:
    found = zoo.case(name)
    model = zoo.load(zoo.CASES[name](), found.background, score)
    assert model.score_kinds == (kind,)
    scores, outputs = model.evaluate({INPUT: found.rows})
    margins, returned = found.model.evaluate({INPUT: found.rows})
    np.testing.assert_array_equal(outputs, returned)
    np.testing.assert_array_equal(scores, margins if kind == "margin" else returned)


def test_a_file_is_known_by_what_it_holds(tmp_path: Path) -> None:
    for library, source in (("XGBoost", zoo.xgb("xgboost")), ("LightGBM", zoo.lgb("lightgbm"))):
        for suffix in (".model", ".txt", ".ubj", ".XGB"):
            path = tmp_path / f"{library}{suffix}"
            path.write_bytes(Path(source).read_bytes())
            assert model_kind(str(path)) == library
            assert load_model(ModelRequest(str(path))).kind == library.lower()


def test_joblib(tmp_path: Path) -> None:
    import joblib

    forest = ensemble.ExtraTreesRegressor(3, random_state=0).fit(zoo.data(), zoo.values(zoo.data()))
    joblib.dump(forest, tmp_path / "forest.joblib")
    model = zoo.load(str(tmp_path / "forest.joblib"), zoo.data()[:9])
    scores, _ = model.evaluate({INPUT: zoo.data()[:9]})
    np.testing.assert_allclose(scores[:, 0], forest.predict(zoo.data()[:9]), rtol=1e-6)


# -- mistakes ------------------------------------------------------------------------------------------------


def failing(path: str, *, trees: bool = False) -> str:
    """The error of loading a model, or of reading its trees."""
    if trees:
        model = zoo.load(path, zoo.data(missing=False)[:5])
        with pytest.raises(UserError) as caught:
            model.trees()
    else:
        with pytest.raises(UserError) as caught:
            load_model(ModelRequest(path, allow_unsafe=True))
    return str(caught.value)


@pytest.mark.parametrize(
    ("package", "case"), [("xgboost", "xgboost"), ("lightgbm", "lightgbm"), ("sklearn", "forest")]
)
def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, package: str, case: str) -> None:
    path = zoo.CASES[case]()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    line = failing(path)
    assert {"sklearn": "scikit-learn"}.get(package, package) in line
    assert "not installed" in line
    assert line.endswith("pip install 'attribeam[trees]'")


class WithoutLibrary:
    """Fails to import a package as LightGBM's wheel fails on a machine without libgomp."""

    def __init__(self, package: str, said: str) -> None:
        self.package, self.said = package, said

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == self.package:
            raise OSError(self.said)


@pytest.mark.parametrize("kind", ["file", "pickle"])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "libgomp.so.1: cannot open shared object file: No such file or directory",
            "needs the library libgomp.so.1, which this machine lacks; on Debian and Ubuntu: apt install "
            "libgomp1",
        ),
        (
            "libother.so.2: cannot open shared object file: No such file or directory",
            "needs the library libother.so.2, which this machine lacks; install it",
        ),
        (
            "libgomp.so.1: cannot allocate memory in static TLS block",
            "cannot allocate memory in static TLS block",
        ),
    ],
)
def test_a_shared_library_that_the_machine_lacks(
    monkeypatch: pytest.MonkeyPatch,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    said: str,
    words: str,
) -> None:
    path = zoo.CASES["lightgbm"]()
    if kind == "pickle":
        path = str(tmp_path / "model.pkl")
        estimator = lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=1)
        Path(path).write_bytes(pickle.dumps(estimator.fit(zoo.data(), zoo.values(zoo.data()))))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lightgbm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutLibrary("lightgbm", said), *sys.meta_path])
    settings = ["--set", f"model.path={path}", "--set", "model.allow_unsafe=true"]
    assert cli.run(["explain", str(world), *settings]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert path in line
    assert words in line


def test_pickles_are_refused_saying_why(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dangerous:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Dangerous()))
    assert cli.run(["explain", str(world), "--set", f"model.path={path}"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "loading a pickle runs whatever code its author put into it" in line
    assert "model.allow_unsafe: true if you trust" in line
    assert not (tmp_path / "harm").exists()
    assert "holds None" in failing(str(path))
    assert (tmp_path / "harm").exists(), "the test could have seen it"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.txt", b"hello", ["does not hold a model that XGBoost or LightGBM wrote", "save_model"]),
        ("model.json", b'[{"nodeid": 0}]', ["is a text dump of trees", "save_model"]),
        ("model.json", b'{"weights": [1]}', ["is JSON that no known library wrote"]),
        ("model.model", b"binf\x00\x00", ["XGBoost's old binary format", ".ubj"]),
        ("model.json", b'{"learner": {"attributes": {}', ["XGBoost cannot load the model"]),
        ("model.txt", b"tree\nversion=v4\n", ["is cut short: the end of its trees is missing"]),
        ("model.txt", b"tree\nversion=v4\n\nend of trees\n", ["LightGBM cannot load the model"]),
        ("model.pkl", b"\x80\x04nonsense", ["the pickle does not load"]),
        ("model.pkl", pickle.dumps(3), ["holds an int, not a model"]),
        ("model.joblib", b"nonsense", ["the pickle does not load"]),
    ],
)
def test_files_that_hold_no_model(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    line = failing(str(path))
    for word in (str(path), *words):
        assert word in line, line


def test_estimators_that_are_refused() -> None:
    rows, learns = zoo.data(missing=False), zoo.values(zoo.data())
    line = failing(zoo.save_pickle(linear_model.LinearRegression().fit(rows, learns), "linear"))
    assert "holds a LinearRegression" in line
    assert "explain it as a function" in line
    assert "is not fitted" in failing(zoo.save_pickle(ensemble.RandomForestRegressor(), "unfitted"))
    two = ensemble.RandomForestClassifier(2).fit(rows, np.stack([learns > 0, learns > 1], axis=1))
    assert "has several outputs to classify" in failing(zoo.save_pickle(two, "two"))


def test_boosters_that_are_refused_by_name(tmp_path: Path) -> None:
    rows, learns = zoo.data(), zoo.values(zoo.data())
    assert "gblinear" in failing(zoo.xgb("linear", booster="gblinear"))
    linear = zoo.lgb("linear", linear_tree=True, use_missing=False)
    assert "linear_tree" in failing(linear, trees=True)
    params = {"multi_strategy": "multi_output_tree", "max_depth": 3}
    several = xgboost.train(params, xgboost.DMatrix(rows, np.stack([learns, -learns], axis=1)), 3)
    several.save_model(tmp_path / "several.ubj")
    assert "multi_output_tree" in failing(str(tmp_path / "several.ubj"), trees=True)


def test_a_model_that_is_more_than_its_trees_is_found_out() -> None:
    """A first guess that depends on the row is in no tree."""
    rows, learns = zoo.data(missing=False), zoo.values(zoo.data())
    model = ensemble.GradientBoostingRegressor(n_estimators=3, init=linear_model.LinearRegression())
    line = failing(zoo.save_pickle(model.fit(rows, learns), "init"), trees=True)
    assert "starts from a LinearRegression (init), which tree_shap does not see" in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["input.features=[level, size]"], ["takes 6 values per row", "2 features give 2"]),
        (["input.features=[level, size, gap, kind, open, region]"], ["region", "string", "numbers"]),
        (["input.groups={both: [level, size]}"], ["input.groups", "both is a group", "exact_shap"]),
        (
            ["input.features=[level, {name: size, fixed: true}, gap, kind, open, flat]"],
            ["input.features", "size is fixed", "kernel_shap"],
        ),
        (["model.score=probability"], ["model.score", "no probabilities"]),
        (["model.score=logit"], ["model.score", "no logits"]),
        (["method.perturbation=observational"], ["method.perturbation", "interventional"]),
        (["model.target=1"], ["model.target", "not an output index"]),
    ],
)
def test_a_mistake_is_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: list[str]
) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    assert cli.run(["explain", str(world), *options]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in line, line


def test_the_probability_of_a_margin_is_not_what_trees_add_up_to(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = zoo.CASES["xgboost, binary"]()
    arguments = ["--set", f"model.path={path}", "--set", "model.score=probability"]
    assert cli.run(["explain", str(world), *arguments]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the trees add up to the margin, but the probability is explained; use score: auto" in line


def test_missing_names_are_named_with_the_nearest(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = named(tmp_path, "xgboost")
    rows = pq.read_table(tmp_path / "rows.parquet").rename_columns({"level": "Level", "gap": "gaps"})
    pq.write_table(rows, tmp_path / "rows.parquet")
    assert (
        cli.run(["explain", str(world), "--set", f"model.path={path}", "--set", "input.features=null"]) == 2
    )
    line = capsys.readouterr().err.strip().splitlines()[-1]
    for word in (
        "the model's features level, gap have no column of the same name",
        "left over: gaps, Level",
        "did you mean Level for level, gaps for gap?",
    ):
        assert word in line, line


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "expected_gradients"])
def test_gradients_are_refused_naming_what_would_work(
    world: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    world.write_text(world.read_text().replace("tree_shap", method))
    assert cli.run(["explain", str(world)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{method} needs gradients: a tree model has no gradients" in line
    assert "would work: " in line
    assert "tree_shap" in line.partition("would work: ")[2]
