"""Random estimators of scikit-learn over random tables: as they predict, and as enumeration explains them.

`python -m tests.fuzz.fuzz_sklearn --seconds 180 --seed 0` tries as many as there is time for.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn import dummy, ensemble, linear_model, tree

from tests.support.models.tree_tables import Decoded, through
from tests.support.models.trees_zoo import enumerated, make_reference
from transforms.errors import UserError
from transforms.methods.trees.tree_shap import TreeShap
from transforms.models.kinds.trees.base import INPUT

ROWS, EXPLAINED, BACKGROUND = 120, 3, 6
CITIES, STORES = np.array(["Köln", "Oslo", "", "a b", "Roma"]), np.array([47, 10, 35, 20])


@dataclass(frozen=True)
class Case:
    """An estimator, fitted, with the table that it is asked about.

    Args:
      model: As its user has it.
      frame: What its user would give it, `[ROWS, M]`.
      table: The same as a file holds it.
      named: Whether it was fitted on a data frame.
    """

    model: Any
    frame: pd.DataFrame
    table: pa.Table
    named: bool

    @property
    def own(self) -> np.ndarray:
        """Its own prediction, `[ROWS, T]`."""
        given: Any = self.frame if self.named else self.frame.to_numpy()
        if hasattr(self.model, "classes_"):
            return np.asarray(self.model.predict_proba(given))
        return np.asarray(self.model.predict(given)).reshape(len(self.frame), -1)


def random_case(rng: np.random.Generator) -> Case:
    """A fitted estimator and its table.

    Raises:
      ValueError: scikit-learn takes no such combination.
    """
    classifies, name = bool(rng.random() < 0.5), str(rng.choice(list(_MAKERS)))
    histogram = name == "HistGradientBoosting"
    frame, categorical = _columns(rng, categories=histogram and rng.random() < 0.7)
    named = bool(categorical is not None and rng.random() < 0.7) or rng.random() < 0.5
    missing = rng.random() < 0.5 and name != "GradientBoosting"
    learns = _learns(frame)
    if missing:
        _with_gaps(frame, rng)
    model = _MAKERS[name](rng, classifies, _given(frame, named=named, categorical=categorical))
    if categorical is not None:
        model.set_params(categorical_features=_as_asked(categorical, frame, rng, named=named))
    target = _labels(learns, rng) if classifies else learns
    if _positive(model):
        target = np.abs(target) + 0.1
    if not classifies and name in ("DecisionTree", "RandomForest", "ExtraTrees") and rng.random() < 0.2:
        target = np.c_[target, -target, target**2] + (4 if _positive(model) else 0)
    weights = {"sample_weight": rng.integers(0, 3, ROWS) + 0.5} if rng.random() < 0.3 else {}
    model.fit(_given(frame, named=named, categorical=categorical), target, **weights)
    asked = frame.copy()
    if categorical is not None:
        _with_strangers(asked, categorical, rng, dictionary=named)
        if rng.random() < 0.5 and missing:
            _with_gaps(asked, rng)
    return Case(model, asked, _as_file(asked, rng), named)


def _columns(rng: np.random.Generator, *, categories: bool) -> tuple[pd.DataFrame, list[str] | None]:
    columns: dict[str, Any] = {
        "a": rng.normal(size=ROWS),
        "b b": rng.integers(-3, 4, ROWS).astype(float),
        "c": np.round(rng.normal(size=ROWS), 1).astype(np.float32),
    }
    chosen = []
    if categories:
        if rng.random() < 0.7:
            columns["city"], chosen = rng.choice(CITIES, ROWS).astype(object), [*chosen, "city"]
        if rng.random() < 0.7 or not chosen:
            columns["store"], chosen = rng.choice(STORES, ROWS), [*chosen, "store"]
    order = rng.permutation(list(columns)).tolist()
    return pd.DataFrame({name: columns[name] for name in order}), chosen if categories else None


def _with_gaps(frame: pd.DataFrame, rng: np.random.Generator) -> None:
    for name in frame.columns:
        gaps = rng.random(len(frame)) < 0.1
        if frame[name].dtype.kind in "iu":
            frame[name] = frame[name].astype(float)
        frame.loc[gaps, name] = np.nan


def _with_strangers(
    frame: pd.DataFrame, categorical: list[str], rng: np.random.Generator, *, dictionary: bool
) -> None:
    """Values that no training row had."""
    for name in categorical:
        rows = rng.random(len(frame)) < 0.1
        frame.loc[rows, name] = "Nowhere" if name == "city" else 99
        if dictionary and rng.random() < 0.5:
            frame[name] = frame[name].astype("category")


def _given(frame: pd.DataFrame, *, named: bool, categorical: list[str] | None) -> Any:
    if not named:
        return frame.to_numpy()
    found = frame.copy()
    for name in categorical or ():
        found[name] = found[name].astype("category")
    return found


def _as_asked(categorical: list[str], frame: pd.DataFrame, rng: np.random.Generator, *, named: bool) -> Any:
    """The categorical features by their types, names, places or a mask."""
    places = [frame.columns.get_loc(name) for name in categorical]
    mask = np.isin(np.arange(frame.shape[1]), places)
    ways = [places, mask, *(["from_dtype", categorical] if named else [])]
    return ways[int(rng.integers(len(ways)))]


def _learns(frame: pd.DataFrame) -> np.ndarray:
    found = frame["a"].to_numpy() * frame["b b"].to_numpy() + np.sin(3 * frame["c"].to_numpy())
    if "city" in frame:
        found = found + 2 * np.isin(frame["city"], ["Oslo", ""])
    if "store" in frame:
        found = found + np.isin(frame["store"], [47, 20]) * frame["a"].to_numpy()
    return np.asarray(found, np.float64)


def _labels(learns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = int(rng.choice([1, 2, 2, 2, 3, 4]))
    at = np.digitize(learns, np.quantile(learns, np.arange(1, count) / count))
    names: list[Any] = [
        np.array([0, 1, 2, 3]),
        np.array([7, -1, 20, 3]),
        np.array(["no", "yes", "maybe", "0"]),
        np.array(["no", "yes", "maybe", "0"], object),
        np.array([1.0, 2.0, 3.0, 4.0]),
    ]
    if count == 2:
        names.append(np.array([False, True]))
    return np.asarray(names[int(rng.integers(len(names)))][at])


def _positive(model: Any) -> bool:
    words = str(model.get_params().get("loss")), str(model.get_params().get("criterion"))
    return bool({"poisson", "gamma"} & set(words))


def _forest(kind: str, single: bool) -> Callable[[np.random.Generator, bool, Any], Any]:
    def make(rng: np.random.Generator, classifies: bool, given: Any) -> Any:
        criteria = ["gini", "entropy", "log_loss"] if classifies else ["squared_error", "poisson"]
        options: dict[str, Any] = {
            "criterion": str(rng.choice(criteria)),
            "max_depth": rng.choice(np.array([None, 1, 3], object)),
            "min_samples_leaf": int(rng.integers(1, 6)),
            "random_state": int(rng.integers(99)),
        }
        if classifies and rng.random() < 0.3:
            options["class_weight"] = "balanced"
        if rng.random() < 0.3:
            options["max_leaf_nodes"] = int(rng.integers(2, 9))
        if rng.random() < 0.2:
            options["ccp_alpha"] = 0.01
        if rng.random() < 0.2:
            options["monotonic_cst"] = rng.integers(-1, 2, given.shape[1])
        if not single:
            options |= {"n_estimators": int(rng.integers(1, 6)), "n_jobs": 1}
            options["warm_start"] = bool(rng.random() < 0.2)
        room = tree if single else ensemble
        suffix = "Classifier" if classifies else "Regressor"
        return getattr(room, f"{kind}{suffix}")(**options)

    return make


def _boosting(rng: np.random.Generator, classifies: bool, given: Any) -> Any:
    options: dict[str, Any] = {
        "n_estimators": int(rng.integers(1, 7)),
        "max_depth": int(rng.integers(1, 4)),
        "learning_rate": float(rng.choice([0.1, 0.7, 1.0])),
        "subsample": float(rng.choice([0.6, 1.0])),
        "n_iter_no_change": rng.choice(np.array([None, 2], object)),
        "random_state": 0,
    }
    if classifies:
        options["loss"] = str(rng.choice(["log_loss", "exponential"]))
        starts = ["zero", None, dummy.DummyClassifier(), linear_model.LogisticRegression()]
        made: Any = ensemble.GradientBoostingClassifier
    else:
        options["loss"] = str(rng.choice(["squared_error", "absolute_error", "huber", "quantile"]))
        starts = ["zero", None, dummy.DummyRegressor(), linear_model.LinearRegression()]
        made = ensemble.GradientBoostingRegressor
    if rng.random() < 0.4:
        options["init"] = starts[int(rng.integers(len(starts)))]
    return made(**options)


def _histogram(rng: np.random.Generator, classifies: bool, given: Any) -> Any:
    options: dict[str, Any] = {
        "max_iter": int(rng.integers(1, 7)),
        "max_leaf_nodes": int(rng.integers(2, 9)),
        "min_samples_leaf": int(rng.integers(2, 8)),
        "learning_rate": float(rng.choice([0.1, 0.7])),
        "early_stopping": bool(rng.random() < 0.3),
        "max_bins": int(rng.choice([8, 255])),
        "random_state": 0,
        "categorical_features": None,
    }
    if rng.random() < 0.2:
        options["max_features"] = 0.6
    if rng.random() < 0.2:
        options["interaction_cst"] = "pairwise"
    if classifies:
        options["class_weight"] = rng.choice(np.array([None, "balanced"], object))
        return ensemble.HistGradientBoostingClassifier(**options)
    losses = ["squared_error", "absolute_error", "gamma", "poisson", "quantile"]
    options["loss"] = str(rng.choice(losses))
    if options["loss"] == "quantile":
        options["quantile"] = 0.4
    return ensemble.HistGradientBoostingRegressor(**options)


_MAKERS: dict[str, Callable[[np.random.Generator, bool, Any], Any]] = {
    "DecisionTree": _forest("DecisionTree", True),
    "ExtraTree": _forest("ExtraTree", True),
    "RandomForest": _forest("RandomForest", False),
    "ExtraTrees": _forest("ExtraTrees", False),
    "GradientBoosting": _boosting,
    "HistGradientBoosting": _histogram,
}


def _as_file(frame: pd.DataFrame, rng: np.random.Generator) -> pa.Table:
    """The frame's columns in types that files hold them in."""
    columns = {}
    for name in frame.columns:
        array = pa.array(frame[name], from_pandas=bool(rng.random() < 0.5))
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
        whole = None if text else array.drop_null().cast(pa.float64(), safe=False)
        if whole is not None and whole.equals(pa.array(np.round(whole.to_numpy()))) and not _nan_in(array):
            array = array.cast(pa.int16()) if rng.random() < 0.5 else array
        elif text and rng.random() < 0.5:
            array = array.dictionary_encode()
        columns[str(name)] = array
    return pa.table(columns)


def _nan_in(array: pa.Array) -> bool:
    return bool(np.isnan(array.drop_null().to_numpy(zero_copy_only=False).astype(float)).any())


def check(case: Case, folder: Path) -> str:
    """Holds a case against its own prediction and against enumeration.

    Returns:
      What became of it: "explained", or the reason of a refusal.
    Raises:
      AssertionError: It is something else.
    """
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(case.model))
    try:
        found = through(str(path), case.table)
    except UserError as error:
        return str(error).partition(": ")[2]
    own = case.own[found.rows.rows]
    assert not found.rejected or "GradientBoosting" in type(case.model).__name__, found.rejected[0]
    shown = found.outputs
    np.testing.assert_allclose(shown, own[:, -shown.shape[1] :], rtol=2e-5, atol=1e-6)
    batch = case.table.select([f.name for f in found.schema.features]).combine_chunks().to_batches()[0]
    adapter: Any = found.adapter
    kept = batch.take(pa.array(found.rows.rows))
    public = adapter.public_prediction(kept, found.inputs)
    np.testing.assert_allclose(public, shown, rtol=2e-5, atol=1e-6)
    return _check_phi(found)


def _check_phi(found: Decoded) -> str:
    model: Any = found.model
    values = found.inputs[INPUT]
    rows, background = values[:EXPLAINED], values[EXPLAINED : EXPLAINED + BACKGROUND]
    targets = np.tile(np.arange(found.scores.shape[1]), (EXPLAINED, 1))
    reference, seeds = make_reference(model, background), np.zeros(EXPLAINED, np.uint64)
    try:
        phi = TreeShap().attribute(model, {INPUT: rows}, reference, targets, seeds, 512)
    except UserError as error:
        return f"tree_shap {str(error).partition(': ')[2]}"
    expected = enumerated(model, rows, background)
    size = 1 + np.abs(found.scores).max()
    np.testing.assert_allclose(phi.values[INPUT], expected, atol=3e-6 * size)
    along = TreeShap("path_dependent").attribute(model, {INPUT: rows}, reference, targets, seeds, 512)
    total = along.values[INPUT].sum(axis=2, dtype=np.float64)
    np.testing.assert_allclose(total, along.prediction - along.base_value, atol=2e-5 * size)
    return "explained"


def run(seed: int, cases: int | None, seconds: float) -> Counter[str]:
    """Tries cases; the error of one that fails names its number.

    Args:
      seed: Of the first.
      cases: How many; None: as there is time.
      seconds: For these.
    """
    found: Counter[str] = Counter()
    end, number = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        while number < cases if cases is not None else time.monotonic() < end:
            rng = np.random.default_rng([seed, number])
            number += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    case = random_case(rng)
                    case.own  # noqa: B018 - what the estimator does not predict is no case
            except (ValueError, TypeError) as error:
                found[f"no case: {str(error)[:60]}"] += 1
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", category=UserWarning)
                    found[check(case, Path(folder))[:90]] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, case {number - 1}, {case.model}: {error}") from error
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    asked = parser.parse_args()
    for reason, count in run(asked.seed, asked.cases, asked.seconds).most_common():
        print(f"{count:6d}  {reason}")
