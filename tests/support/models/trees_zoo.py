"""Small tree models of every library, saved as a user would and loaded as the product does; no tests."""

from __future__ import annotations

import atexit
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import factorial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost
from sklearn import ensemble, tree

from transforms.methods.base import Attribution
from transforms.methods.trees.tree_shap import TreeShap
from transforms.models.kinds.trees.base import INPUT, TreeModel
from transforms.models.load import ModelRequest, load_model
from transforms.models.reference import Reference

FEATURES = 6
TRAINED = 400
#: Feature 5 decides nothing: no tree of the zoo splits on it.
IGNORED = 5


@cache
def shelf() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="attribeam-trees-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def data(missing: bool = True) -> np.ndarray:
    """Rows to train on, `[TRAINED, FEATURES]` float32: numbers, small whole numbers, zeros and gaps."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(TRAINED, FEATURES)).astype(np.float32)
    rows[:, 3] = rng.integers(0, 7, TRAINED)
    rows[:, 2] = np.where(rng.random(TRAINED) < 0.4, 0, rows[:, 2])
    rows[:, IGNORED] = 1.0
    if missing:
        rows[rng.random(rows.shape) < 0.12] = np.nan
        rows[:, IGNORED] = 1.0
    return rows


def values(rows: np.ndarray) -> np.ndarray:
    """What regressions learn: products and steps, and that a gap means something."""
    a, b, c, d, e = (np.nan_to_num(rows[:, k], nan=1.5) for k in range(5))
    found: np.ndarray = a * b + np.sin(2 * c) + np.isin(d, (1, 4, 5)) * e + 0.5 * (a > 0.3)
    return found


def classes(rows: np.ndarray, count: int) -> np.ndarray:
    """What classifiers learn: quantiles of the same."""
    known = values(rows)
    return np.digitize(known, np.quantile(known, np.arange(1, count) / count))


def save_pickle(model: Any, name: str) -> str:
    path = shelf() / f"{name}.pkl"
    path.write_bytes(pickle.dumps(model))
    return str(path)


def xgb(name: str = "xgboost", suffix: str = "ubj", rounds: int = 12, **params: Any) -> str:
    path = shelf() / f"{name}.{suffix}"
    rows, count = data(), params.get("num_class", 2)
    learns = classes(rows, count) if "num_class" in params or "binary" in str(params) else values(rows)
    learns = np.abs(learns) if "poisson" in str(params) else learns
    types = ["c" if k == 3 and params.pop("categories", False) else "q" for k in range(FEATURES)]
    matrix = xgboost.DMatrix(rows, learns, feature_types=types, enable_categorical=True)
    params = {"max_depth": 4, "eta": 0.4, "nthread": 1, "seed": 1, "verbosity": 0, **params}
    # XGBoost chooses the format by the suffix, and warns of those that it does not know.
    saved = path.with_suffix(".json" if suffix == "json" else ".ubj")
    xgboost.train(params, matrix, rounds).save_model(saved)
    return str(saved.rename(path))


def lgb(name: str = "lightgbm", suffix: str = "txt", rounds: int = 12, **params: Any) -> str:
    path = shelf() / f"{name}.{suffix}"
    rows, count = data(), params.get("num_class", 2)
    learns = (
        classes(rows, count) if "objective" in params and params["objective"] != "poisson" else values(rows)
    )
    learns = np.abs(learns) if params.get("objective") == "poisson" else learns
    categorical = [3] if params.pop("categories", False) else []
    params = {"num_leaves": 12, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1, "seed": 1, **params}
    params = {
        "learning_rate": 0.3,
        "min_data_per_group": 5,
        "cat_smooth": 1,
        "max_cat_to_onehot": 1,
        **params,
    }
    made = lightgbm.Dataset(rows.astype(np.float64), learns, categorical_feature=categorical, params=params)
    lightgbm.train(params, made, rounds).save_model(path)
    return str(path)


def sklearn(name: str, count: int = 0) -> str:
    """`count` classes, or 0 for a regression."""
    takes_nan = not name.startswith("GradientBoosting")
    rows = data(takes_nan)
    learns = classes(rows, count) if count else values(rows)
    sizes: dict[str, Any] = (
        {} if name.startswith(("Decision", "Extra")) and "Trees" not in name else {"n_estimators": 7}
    )
    if name.startswith("Hist"):
        sizes = {"max_iter": 10, "max_leaf_nodes": 10, "min_samples_leaf": 5, "early_stopping": False}
    maker = getattr(ensemble, name, None) or getattr(tree, name)
    if not name.startswith("Hist"):
        sizes["max_depth"] = None if "Forest" in name else 4
    return save_pickle(maker(random_state=3, **sizes).fit(rows, learns), f"{name}-{count}")


@dataclass(frozen=True)
class Case:
    """A model with rows to explain and a background.

    Args:
      model: With its score.
      rows: `[R, FEATURES]` in its dtype.
      background: Likewise.
    """

    model: TreeModel
    rows: np.ndarray
    background: np.ndarray

    @property
    def targets(self) -> int:
        return len(self.model.signature.target_names)


CASES: dict[str, Callable[[], str]] = {
    "xgboost": xgb,
    "xgboost, binary": lambda: xgb("binary", "json", objective="binary:logistic"),
    "xgboost, three classes": lambda: xgb("soft", objective="multi:softprob", num_class=3, rounds=5),
    "xgboost, class returned": lambda: xgb("hard", objective="multi:softmax", num_class=3, rounds=4),
    "xgboost, log link": lambda: xgb("poisson", "model", objective="count:poisson"),
    "xgboost, dart": lambda: xgb("dart", "xgb", booster="dart", rate_drop=0.4),
    "xgboost, categories": lambda: xgb("codes", categories=True, max_cat_to_onehot=1),
    "xgboost, one against all": lambda: xgb("onehot", categories=True, max_cat_to_onehot=20),
    "xgboost, several trees a round": lambda: xgb("parallel", num_parallel_tree=3, subsample=0.7, rounds=4),
    "lightgbm": lgb,
    "lightgbm, binary": lambda: lgb("binary", "lgb", objective="binary"),
    "lightgbm, three classes": lambda: lgb("soft", "model", objective="multiclass", num_class=3, rounds=5),
    "lightgbm, log link": lambda: lgb("poisson", objective="poisson"),
    "lightgbm, dart": lambda: lgb("dart", boosting="dart", drop_rate=0.4),
    "lightgbm, forest": lambda: lgb("rf", boosting="rf", bagging_freq=1, bagging_fraction=0.6),
    "lightgbm, categories": lambda: lgb("codes", categories=True),
    "lightgbm, zeros are missing": lambda: lgb("zeros", zero_as_missing=True),
    "lightgbm, nothing is missing": lambda: lgb("nothing", use_missing=False),
    "forest": lambda: sklearn("RandomForestRegressor"),
    "forest, two classes": lambda: sklearn("RandomForestClassifier", 2),
    "forest, three classes": lambda: sklearn("ExtraTreesClassifier", 3),
    "tree": lambda: sklearn("DecisionTreeRegressor"),
    "boosting": lambda: sklearn("GradientBoostingRegressor"),
    "boosting, two classes": lambda: sklearn("GradientBoostingClassifier", 2),
    "boosting, three classes": lambda: sklearn("GradientBoostingClassifier", 3),
    "histogram": lambda: sklearn("HistGradientBoostingRegressor"),
    "histogram, two classes": lambda: sklearn("HistGradientBoostingClassifier", 2),
    "histogram, three classes": lambda: sklearn("HistGradientBoostingClassifier", 3),
}
ROWS, BACKGROUND = 12, 67


def load(path: str, example: np.ndarray, score: str = "auto") -> TreeModel:
    adapter = load_model(ModelRequest(path, allow_unsafe=True))
    assert adapter.signature is not None
    spec = adapter.signature.inputs[0]
    model = adapter.scored(
        {INPUT: (FEATURES,)}, score, affine_prefix=True, example={INPUT: example.astype(spec.dtype)}
    )
    assert isinstance(model, TreeModel)
    return model


@cache
def case(name: str) -> Case:
    rows = data(not name.startswith("boosting"))
    model = load(CASES[name](), rows[:BACKGROUND])
    rows = rows.astype(model.signature.inputs[0].dtype)
    return Case(model, rows[-ROWS:], rows[:BACKGROUND])


def make_reference(model: TreeModel, background: np.ndarray) -> Reference:
    scores, _ = model.evaluate({INPUT: background})
    return Reference({INPUT: background}, scores, scores.std(axis=0))


def attribute(
    name: str, method: TreeShap, rows: np.ndarray | slice = slice(None), targets: np.ndarray | None = None,
    reference: Reference | None = None, device_batch_size: int = 1024,
) -> Attribution:  # fmt: skip
    found = case(name)
    chosen = found.rows[rows]
    if targets is None:
        targets = np.broadcast_to(np.arange(found.targets), (len(chosen), found.targets))
    reference = reference or make_reference(found.model, found.background)
    seeds = np.zeros(len(chosen), np.uint64)
    return method.attribute(found.model, {INPUT: chosen}, reference, targets, seeds, device_batch_size)


def enumerated(model: TreeModel, rows: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Shapley values from all 2^M coalitions by the library's own score, `[B, T, M]` float64."""
    width = rows.shape[1]
    coalitions = np.array(list(product([False, True], repeat=width)))
    found = []
    for row in rows:
        masked = np.where(coalitions[:, None], row, background)
        scores = model.evaluate({INPUT: masked.reshape(-1, width)})[0].astype(np.float64)
        worth = scores.reshape(len(coalitions), len(background), -1).mean(axis=1)
        sizes = coalitions.sum(axis=1)
        weight = np.array([factorial(s) * factorial(max(0, width - s - 1)) / factorial(width) for s in sizes])
        bit = 1 << np.arange(width)[::-1]
        without = [np.flatnonzero(~coalitions[:, k]) for k in range(width)]
        found.append([weight[w] @ (worth[w + bit[k]] - worth[w]) for k, w in enumerate(without)])
    return np.moveaxis(np.array(found), 1, 2)
