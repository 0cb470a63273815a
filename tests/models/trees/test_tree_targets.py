"""Which class is explained: one meaning of an index, of a class's name and of a label for every library."""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost
from scipy.special import logit
from sklearn import ensemble

from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.model.targets import explained_in_words, find_targets
from pipeline.planning.plan import make_plan
from pipeline.planning.summary import summarize
from tests.support import worlds
from tests.support.models import trees_zoo as zoo
from tests.support.models.tree_tables import through
from transforms.errors import UserError
from transforms.models.base import HeadSpec, Signature

ROWS = 60
X = zoo.data(missing=False)[:, :3]
YES = (zoo.values(zoo.data(missing=False)) > 0.2).astype(int)
WORDS = np.array(["kept", "churned"])
LIGHT: dict[str, Any] = {"n_estimators": 4, "verbose": -1, "n_jobs": 1}
MAKERS = {
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=4, max_depth=3, n_jobs=1),
    "lightgbm": lambda: lightgbm.LGBMClassifier(**LIGHT),
    "forest": lambda: ensemble.RandomForestClassifier(4, max_depth=4, random_state=0),
    "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=4),
    "histogram": lambda: ensemble.HistGradientBoostingClassifier(max_iter=4),
}


AVERAGED = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}


def fitted(library: str, labels: tuple[Any, ...] = (0, 1)) -> tuple[Any, str]:
    """A model of two classes that are called so, and its pickle."""
    return _fitted(library, *labels)


@lru_cache(maxsize=None, typed=True)  # 0 and False are equal, and other labels
def _fitted(library: str, *labels: Any) -> tuple[Any, str]:
    learns = np.array(labels, dtype=None if not isinstance(labels[0], str) else object)[YES]
    model = MAKERS[library]().fit(X, learns)
    return model, zoo.save_pickle(model, f"two-{library}-{labels[0]}")


def table(**columns: Any) -> pa.Table:
    return pa.table({**{f"x{k}": X[:ROWS, k] for k in range(3)}, **columns})


def world(folder: Path, path: str, data: pa.Table, **model: Any) -> Path:
    pq.write_table(data, folder / "rows.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": path, "allow_unsafe": True, **model},
        input={"files": "rows.parquet", "features": ["x0", "x1", "x2"]},
        method={"name": "tree_shap"},
        baseline={"kind": "sample", "rows": 10},
        output={"path": "run"},
    )


@pytest.mark.parametrize("library", MAKERS)
def test_two_classes_are_two_targets(library: str) -> None:
    """Probabilities are the library's own; the score of class 0 is minus that of class 1, or one minus it."""
    model, path = fitted(library)
    found = through(path, table())
    np.testing.assert_allclose(found.outputs, model.predict_proba(X[:ROWS]), atol=1e-6)
    if library == "forest":
        np.testing.assert_array_equal(found.scores, found.outputs)
    else:
        np.testing.assert_array_equal(found.scores[:, 0], -found.scores[:, 1])
        assert np.corrcoef(found.scores[:, 1], model.predict_proba(X[:ROWS])[:, 1])[0, 1] > 0.9
    assert found.model.signature.target_names == ("probability[0]", "probability[1]")


@pytest.mark.parametrize("how", ["interventional", "path_dependent"])
@pytest.mark.parametrize("name", ["xgboost, binary", "lightgbm, binary", "boosting, two classes"])
def test_tree_shap_of_class_0_is_minus_that_of_class_1(name: str, how: Any) -> None:
    found = zoo.attribute(name, zoo.TreeShap(perturbation=how))
    values = found.values[zoo.INPUT]
    assert np.abs(values).max() > 0.1
    np.testing.assert_array_equal(values[:, 0], -values[:, 1])
    np.testing.assert_allclose(found.base_value[:, 0], -found.base_value[:, 1], rtol=1e-6)
    sums = values.sum(axis=2, dtype=np.float64)
    np.testing.assert_allclose(sums, found.prediction - found.base_value, atol=1e-5)


@pytest.mark.parametrize(
    ("library", "labels", "column"),
    [
        ("xgboost", (0, 1), lambda yes: yes.astype(np.int8)),
        ("boosting", (0, 1), lambda yes: yes.astype(np.float64)),
        ("lightgbm", ("kept", "churned"), lambda yes: pa.array(WORDS[yes]).dictionary_encode()),
        ("histogram", (3, 7), lambda yes: np.array([3, 7])[yes]),
        ("forest", (False, True), lambda yes: yes == 1),
    ],
)  # fmt: skip
def test_a_label_column_names_the_class_of_its_row(library: str, labels: Any, column: Any) -> None:
    model, path = fitted(library, labels)
    yes = YES[:ROWS]
    found = through(path, table(label=column(yes)), target="label")
    names = np.array([labels[1] if one else labels[0] for one in yes], model.classes_.dtype)
    np.testing.assert_array_equal(model.classes_[found.rows.targets], names)
    assert not found.rejected
    assert {0, 1} == set(found.rows.targets.tolist())


def test_labels_that_are_no_class_reject_their_row() -> None:
    _, path = fitted("histogram", (3, 7))
    labels = pa.array([3, 7, 1, None] * (ROWS // 4))
    found = through(path, table(label=labels), target="label")
    assert [r.reason for r in found.rejected[:2]] == [
        "target label is 1, not a class of the model: 3, 7",
        "target label is null",
    ]
    with pytest.raises(UserError, match="holds string, but the model's classes are 3, 7"):
        through(path, table(label=["a"] * ROWS), target="label")


def test_numbers_in_a_label_column_of_named_classes_are_indices() -> None:
    _, path = fitted("lightgbm", ("kept", "churned"))
    found = through(path, table(label=YES[:ROWS]), target="label")
    np.testing.assert_array_equal(found.rows.targets, YES[:ROWS])


def signed(model: Any, classes: tuple[Any, ...], labels: tuple[str, ...] = ()) -> Any:
    heads = (HeadSpec("probability", (len(classes),), labels, classes),)
    return SimpleNamespace(signature=Signature((), heads), score_kinds=("margin",), **model)


@pytest.mark.parametrize(
    ("classes", "target", "index", "words"),
    [
        ((0, 1), None, 1, "class 1, the margin; set model.target for the other"),
        ((0, 1), 0, 0, "class 0, the margin"),
        (("kept", "churned"), None, 1, "class 1 (churned), the margin; set model.target for the other"),
        (("kept", "churned"), "kept", 0, "class 0 (kept), the margin"),
        (("kept", "churned"), 1, 1, "class 1 (churned), the margin"),
        ((3, 7), 7, 1, "class 1 (7), the margin; 7 is the name of that class, not an index"),
        ((3, 7), 1, 1, "class 1 (7), the margin"),
        ((1, 2), 1, 0, "class 0 (1), the margin; 1 is the name of that class, not an index"),
        (("1", "2"), 1, 0, "class 0 (1), the margin; 1 is the name of that class, not an index"),
        ((3, 7), "7", 1, "class 1 (7), the margin"),
        ((False, True), True, 1, "class 1 (True), the margin"),
        ((0.5, 1.5), 1.5, 1, "class 1 (1.5), the margin"),
        ((0, 1, 2), None, 0, "class 0, the margin"),
        (("a", "b", "c"), "predicted", None, "the predicted class of each row, the margin"),
        (("a", "b", "c"), "all", None, "all 3 classes, the margin"),
    ],
)
def test_names_and_indices(classes: Any, target: Any, index: int | None, words: str) -> None:
    labels = () if classes in ((0, 1), (0, 1, 2)) and classes[0] is not False else tuple(map(str, classes))
    model = signed({}, classes, labels)
    spec = find_targets(target, None, model)
    assert index is None or spec.indices == (index,)
    assert explained_in_words(target, None, spec, model.signature, ("margin",)) == words


@pytest.mark.parametrize(
    ("target", "words"),
    [("minutes", "all 2 outputs of minutes, the output"), ("all", "all 3 outputs, the output")],
)
def test_a_head_is_named_and_all_outputs_are_of_none(target: str, words: str) -> None:
    signature = Signature((), (HeadSpec("late", (1,)), HeadSpec("minutes", (2,))))
    spec = find_targets(target, None, SimpleNamespace(signature=signature))  # type: ignore[arg-type]
    assert explained_in_words(target, None, spec, signature, ("output", "output")) == words


@pytest.mark.parametrize("target", [2, -1, True, 0.5, "gone"])
def test_what_is_neither_a_name_nor_an_index(target: Any) -> None:
    with pytest.raises(UserError) as caught:
        find_targets(target, None, signed({}, ("kept", "churned"), ("kept", "churned")))
    assert "kept" in str(caught.value)


def test_a_run_by_label_and_a_plan_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path = fitted("xgboost")
    yes = YES[:ROWS]
    config = world(tmp_path, path, table(label=yes), target={"column": "label"})
    found = worlds.explain(config, tmp_path / "run").attributions()
    margin = model.predict(X[:ROWS], output_margin=True)
    np.testing.assert_allclose(found["prediction"].to_numpy(), np.where(yes, margin, -margin), atol=1e-6)
    shares = model.predict_proba(X[:ROWS])
    np.testing.assert_allclose(found["output"].to_numpy(), shares[np.arange(ROWS), yes], atol=1e-6)
    np.testing.assert_array_equal(found["target"].to_numpy(), yes)
    sums = worlds.phi(found).sum(axis=1, dtype=np.float64)
    base = found["base_value"].to_numpy()
    np.testing.assert_allclose(sums, found["prediction"].to_numpy() - base, atol=1e-5)
    assert cli.run(["plan", str(config)]) == 0
    assert "the class that label names in each row, the margin" in capsys.readouterr().out
    for library, score in (("forest", "probability"), ("boosting", "margin")):
        settings = [f"model.path={fitted(library, ('kept', 'churned'))[1]}", "model.target=null"]
        plan = make_plan(load_config(str(config), settings=settings), in_process=True)
        assert summarize(plan)["explains"].startswith(f"class 1 (kept), the {score}")
        assert plan.spec.targets.indices == (1,)


@pytest.mark.parametrize(
    ("library", "options", "factor"),
    [
        ("lightgbm", {"objective": "binary", "sigmoid": 2.0}, 2.0),
        ("lightgbm", {"objective": "binary", "sigmoid": 0.5, **AVERAGED}, 0.5),
        ("lightgbm", {"objective": "cross_entropy"}, 1.0),
        ("lightgbm", {"objective": "multiclassova", "num_class": 2, "sigmoid": 3.0}, 3.0),
        ("boosting", {"loss": "exponential"}, 2.0),
        ("boosting", {}, 1.0),
        ("histogram", {}, 1.0),
    ],
)  # fmt: skip
def test_a_logit_is_the_log_odds_of_the_librarys_own_probability(
    tmp_path: Path, library: str, options: dict[str, Any], factor: float
) -> None:
    if library == "lightgbm":
        params = {"verbose": -1, "num_threads": 1, **options}
        model = lightgbm.train(params, lightgbm.Dataset(X, YES), 4)
        model.save_model(tmp_path / "m.txt")
        path, share = str(tmp_path / "m.txt"), model.predict(X[:ROWS])
        share = share if share.ndim == 2 else np.stack([1 - share, share], axis=1)
    else:
        maker = {
            "boosting": ensemble.GradientBoostingClassifier,
            "histogram": ensemble.HistGradientBoostingClassifier,
        }
        sizes = {"n_estimators": 4} if library == "boosting" else {"max_iter": 4}
        model = maker[library](**sizes, **options).fit(X, YES)
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
        path, share = str(tmp_path / "m.pkl"), model.predict_proba(X[:ROWS])
    found = through(path, table(), score="logit")
    np.testing.assert_allclose(found.scores, logit(share), rtol=1e-5, atol=1e-5)
    margin = through(path, table())
    np.testing.assert_allclose(found.scores, margin.scores * factor, rtol=1e-6)
    # Its trees add up to it as well.
    forest, constant = found.model.trees()
    sums = forest.sums(found.inputs[zoo.INPUT]) + constant
    np.testing.assert_allclose(sums, found.scores[:, -sums.shape[1] :], atol=1e-5)
