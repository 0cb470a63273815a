"""Random boosted trees on random tables against their library's own prediction and all coalitions; a program.

    python -m tests.fuzz.fuzz_trees --seconds 300

Every case is made from (seed, number) alone: `--seed 0 --first 1234 --count 1` makes one again. A case passes
where each row comes out as the library's own call has it, of a data frame as a user holds it, and where the
attributions are the Shapley values of all coalitions; or where it is refused in words (UserError).
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import logit

from pipeline.planning.model.checks import differing
from tests.support.models import trees_zoo as zoo
from tests.support.models.tree_tables import through
from transforms.errors import UserError
from transforms.methods.trees.tree_shap import TreeShap
from transforms.models.base import PublicPrediction

NAMES = ("a", "b b", "c_c", "größe", "0", "x=y", "T<1", "D")
XGB = (
    "reg:squarederror", "reg:logistic", "binary:logistic", "binary:hinge", "binary:logitraw", "count:poisson",
    "reg:gamma", "reg:tweedie", "reg:absoluteerror", "reg:quantileerror", "reg:pseudohubererror",
    "multi:softprob", "multi:softmax", "rank:pairwise", "survival:cox",
)  # fmt: skip
LGB = (
    "regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie",
    "binary", "multiclass", "multiclassova", "cross_entropy", "cross_entropy_lambda", "lambdarank",
)  # fmt: skip
WORDS = np.array(["", "a", "b c", "north", "10", "x,y", "New York"])


@dataclass
class Case:
    """A model with the rows to explain.

    Args:
      model: The library's object that a user calls.
      path: What is saved of it.
      frame: The rows as a user holds them.
      table: The same as a file holds them.
      score: What is asked for.
      missing: What the config gives.
      words: What it is, for a finding.
    """

    model: Any
    path: str
    frame: pd.DataFrame
    table: pa.Table
    score: str
    missing: float | None
    words: str


# -- making --------------------------------------------------------------------------------------------------


def column(rng: np.random.Generator, rows: int, kind: str, missing: float, marked: float | None) -> pd.Series:
    gaps = rng.random(rows) < missing
    if kind == "float":
        found = pd.Series(rng.normal(size=rows).round(int(rng.integers(1, 5))))
        return found.mask(gaps, np.nan if marked is None else marked)
    if kind == "int":
        found = pd.Series(rng.integers(-3, 6, rows))
        return found.mask(gaps) if marked is None else found.mask(gaps, int(marked))
    if kind == "bool":
        return pd.Series(rng.random(rows) < 0.4)
    count = int(rng.integers(2, 6))
    if kind == "words":
        values: Any = rng.choice(WORDS, count, replace=False)[rng.integers(0, count, rows)].astype(object)
    else:
        own = rng.choice([-5, 0, 1, 2, 7, 10, 300, 70_000], count, replace=False)
        values = own[rng.integers(0, count, rows)]
    made = pd.Categorical(values, ordered=kind == "ordered")
    if rng.random() < 0.3:  # another order, and one that no row has
        more = "unused" if kind == "words" else 12_345
        made = made.set_categories([*rng.permutation(list(made.categories)), more])
    found = pd.Series(made)
    found[gaps] = np.nan
    return found


def as_stored(rng: np.random.Generator, values: pd.Series) -> pa.Array:
    """A column as some writer may have stored it."""
    if not isinstance(values.dtype, pd.CategoricalDtype):
        array = pa.array(values, from_pandas=True)
        if pa.types.is_integer(array.type) and rng.random() < 0.3:
            array = array.cast(pa.int32())
        return array
    if rng.random() < 0.4:
        return pa.array(values, from_pandas=True)  # a dictionary
    array = pa.array(values.astype(object), from_pandas=True)
    if pa.types.is_integer(array.type) and rng.random() < 0.4:
        return array.cast(pa.float64())  # what pandas makes of whole numbers with gaps
    if pa.types.is_string(array.type) and rng.random() < 0.4:
        return array.cast(pa.large_string() if rng.random() < 0.5 else pa.binary())
    return array


def make(seed: int, number: int, folder: Path) -> Case:
    rng = np.random.default_rng((seed, number))
    library = ("xgboost", "lightgbm")[number % 2]
    rows, width = int(rng.integers(60, 140)), int(rng.integers(2, 6))
    marked = float(rng.choice([-999, 0, 3])) if library == "xgboost" and rng.random() < 0.25 else None
    share = float(rng.choice([0, 0.15]))
    kinds = rng.choice(
        ["float", "int", "bool", "words", "numbers", "ordered"], width, p=[0.3, 0.15, 0.1, 0.2, 0.15, 0.1]
    )
    named = rng.choice(
        [name for name in NAMES if library == "lightgbm" or name != "T<1"], width, replace=False
    )
    frame = pd.concat([column(rng, rows, kind, share, marked) for kind in kinds], axis=1)
    frame.columns = pd.Index(named)
    signal = sum(
        pd.Series(pd.factorize(frame[name], sort=False)[0] % 3 - 1.0) * rng.normal() for name in named
    )
    learns = np.asarray(signal) + 0.2 * rng.normal(size=rows)
    maker = _xgboost if library == "xgboost" else _lightgbm
    model, path, words = maker(rng, frame, learns, marked, folder)
    shown = frame.sample(frac=1, random_state=number).reset_index(drop=True)
    if library == "lightgbm" and rng.random() < 0.3:  # categories that it has not seen are missing to it
        for name in named:
            if isinstance(shown[name].dtype, pd.CategoricalDtype):
                strange = pd.Series(shown[name].astype(object))
                strange[:4] = "strange" if isinstance(shown[name].cat.categories[0], str) else 4_242
                shown[name] = pd.Categorical(strange)
    table = pa.table({name: as_stored(rng, shown[name]) for name in rng.permutation(named)})
    score = str(rng.choice(["auto", "auto", "auto", "logit", "output", "probability"]))
    given = marked if marked is not None and not path.endswith(".pkl") else None
    return Case(
        model, path, shown, table, score, given, f"{words}, score {score}, {list(kinds)}, missing {marked}"
    )


def _labels(rng: np.random.Generator, learns: np.ndarray, objective: str) -> np.ndarray:
    if "multi" in objective:
        return np.digitize(learns, np.quantile(learns, [0.3, 0.6]))
    if any(word in objective for word in ("binary", "cross_entropy", "rank", "logistic", "hinge")):
        return (learns > np.median(learns)).astype(int)
    positive = any(word in objective for word in ("poisson", "gamma", "tweedie", "cox"))
    return np.exp(learns / 2) if positive else learns


def _xgboost(
    rng: np.random.Generator, frame: pd.DataFrame, learns: np.ndarray, marked: float | None, folder: Path
) -> tuple[Any, str, str]:
    import xgboost

    objective = str(rng.choice(XGB))
    labels = _labels(rng, learns, objective)
    params: dict[str, Any] = {
        "objective": objective, "max_depth": int(rng.integers(1, 5)), "learning_rate": 0.4, "verbosity": 0,
        "max_cat_to_onehot": int(rng.choice([1, 4])),
    }  # fmt: skip
    booster = str(rng.choice(["gbtree", "gbtree", "dart", "forest"]))
    if booster == "dart":
        params |= {"booster": "dart", "rate_drop": 0.4, "normalize_type": str(rng.choice(["tree", "forest"]))}
    if booster == "forest":
        params |= {"num_parallel_tree": 3, "subsample": 0.6}
    if objective == "reg:quantileerror":
        params["quantile_alpha"] = [0.2, 0.7]
    if rng.random() < 0.2 and ("logistic" in objective or objective == "reg:squarederror"):
        params["base_score"] = 0.3
    rounds, stops = int(rng.integers(1, 12)), bool(rng.random() < 0.3)
    missing = np.nan if marked is None else marked
    words = f"xgboost {objective} {booster} {rounds} rounds"
    wrapped = rng.random() < 0.6 and "rank" not in objective and "survival" not in objective
    if wrapped:
        classifies = objective.startswith(("multi", "binary:logistic", "binary:hinge"))
        kind = xgboost.XGBClassifier if classifies else xgboost.XGBRegressor
        model = kind(n_estimators=rounds, missing=missing, enable_categorical=True, n_jobs=1, **params)
        more: dict[str, Any] = {}
        if stops:
            model.set_params(early_stopping_rounds=2)
            more = {"eval_set": [(frame, rng.permutation(labels))], "verbose": False}
        model.fit(frame, labels, **more)
        how = str(rng.choice(["pickle", "json", "ubj"]))
        path = _saved(model, model, how, folder)
        return model, path, f"{words} estimator {how}{' stopped' if stops else ''}"
    if objective.startswith("multi"):
        params["num_class"] = 3
    matrix = xgboost.DMatrix(frame, labels, missing=missing, enable_categorical=True, nthread=1)
    if "rank" in objective:
        matrix.set_group([len(frame)])
    params["nthread"] = 1
    more = {"evals": [(matrix, "own")], "early_stopping_rounds": 1, "verbose_eval": False} if stops else {}
    model = xgboost.train(params, matrix, rounds, **more)
    how = str(rng.choice(["json", "ubj"]))
    return model, _saved(model, model, how, folder), f"{words} booster {how}{' stopped' if stops else ''}"


def _lightgbm(
    rng: np.random.Generator, frame: pd.DataFrame, learns: np.ndarray, marked: float | None, folder: Path
) -> tuple[Any, str, str]:
    import lightgbm

    objective = str(rng.choice(LGB))
    labels = _labels(rng, learns, objective)
    params: dict[str, Any] = {
        "objective": objective, "num_leaves": int(rng.integers(2, 12)), "min_child_samples": 4, "verbose": -1,
        "learning_rate": 0.3, "cat_smooth": 1, "min_data_per_group": 3, "seed": 1,
        "max_cat_to_onehot": int(rng.choice([1, 4])), "use_missing": bool(rng.random() < 0.8),
        "zero_as_missing": bool(rng.random() < 0.15),
    }  # fmt: skip
    boosting = str(rng.choice(["gbdt", "gbdt", "dart", "rf", "goss"]))
    params["boosting"] = boosting
    if boosting == "rf":
        params |= {"bagging_freq": 1, "bagging_fraction": 0.6}
    if rng.random() < 0.5:
        params["sigmoid"] = float(rng.choice([0.5, 2]))
    if objective == "regression" and rng.random() < 0.3:
        params["reg_sqrt"] = True
    if rng.random() < 0.1:
        params["linear_tree"] = True
    rounds = int(rng.integers(1, 12))
    words = f"lightgbm {objective} {boosting} {rounds} rounds, sigmoid {params.get('sigmoid')}"
    if rng.random() < 0.6 and objective != "lambdarank":
        classifies = objective in ("binary", "multiclass", "multiclassova", "cross_entropy")
        kind = lightgbm.LGBMClassifier if classifies else lightgbm.LGBMRegressor
        if classifies:
            called = (["no", "yes", "so"], [3, 7, 1], [0, 1, 2])[int(rng.integers(3))]
            labels = np.array(called, object if isinstance(called[0], str) else None)[labels]
        own = {**params, "boosting_type": params["boosting"], "random_state": params["seed"]}
        for key in ("boosting", "seed"):
            own.pop(key)
        model = kind(n_estimators=rounds, n_jobs=1, **own)
        more: dict[str, Any] = {}
        if rng.random() < 0.3 and boosting not in ("dart", "rf"):
            stop = lightgbm.early_stopping(2, verbose=False)
            more = {"eval_X": frame, "eval_y": rng.permutation(labels), "callbacks": [stop]}
        model.fit(frame, labels, **more)
        how = str(rng.choice(["pickle", "txt"]))
        path = _saved(model, model.booster_, how, folder)
        return (model if how == "pickle" else model.booster_), path, f"{words} estimator {how}"
    if objective.startswith("multi"):
        params["num_class"] = 3
    data = lightgbm.Dataset(frame, labels, group=[len(frame)] if objective == "lambdarank" else None)
    model = lightgbm.train({**params, "num_threads": 1}, data, rounds)
    how = str(rng.choice(["pickle", "txt"]))
    return model, _saved(model, model, how, folder), f"{words} booster {how}"


def _saved(model: Any, booster: Any, how: str, folder: Path) -> str:
    path = folder / f"model.{'pkl' if how == 'pickle' else how}"
    if how == "pickle":
        path.write_bytes(pickle.dumps(model))
    else:
        booster.save_model(path)
    return str(path)


# -- judging -------------------------------------------------------------------------------------------------


def own_prediction(case: Case) -> np.ndarray:
    """What the model's user gets of the frame: `[B, T]`, of two classes one or two columns."""
    model = case.model
    if hasattr(model, "predict_proba"):
        found = model.predict_proba(case.frame)
    elif type(model).__module__.startswith("xgboost") and type(model).__name__ == "Booster":
        import xgboost

        missing = np.nan if case.missing is None else case.missing
        matrix = xgboost.DMatrix(case.frame, missing=missing, enable_categorical=True, nthread=1)
        softmax = "multi:softmax" in case.words
        found = model.predict(matrix, output_margin=softmax)
        if softmax:
            grown = np.exp(found - found.max(axis=1, keepdims=True))
            found = grown / grown.sum(axis=1, keepdims=True)
    else:
        found = model.predict(case.frame)
    return np.asarray(found).reshape(len(case.frame), -1)


def judge(case: Case) -> str:
    """How a case passes: "explained", "evaluated" where only its score is, or "refused: why".

    Raises:
      AssertionError: It does not.
    """
    own = own_prediction(case)
    try:
        found = through(case.path, case.table, score=case.score, missing=case.missing)
    except UserError as error:
        return f"refused: {error.what[:60]}"
    assert not found.rejected, found.rejected[:2]
    outputs = found.outputs
    if own.shape[1] == 1 and outputs.shape[1] == 2:
        own = np.concatenate([1 - own, own], axis=1)
    np.testing.assert_allclose(outputs, own, rtol=2e-5, atol=2e-6, err_msg="prediction")
    if case.score == "logit" and "multiclass " not in case.words and "multi:" not in case.words:
        sure = (own > 1e-6) & (own < 1 - 1e-6)
        np.testing.assert_allclose(
            found.scores[sure], logit(own)[sure], rtol=1e-3, atol=1e-3, err_msg="logit"
        )
    if case.score in ("probability", "output"):
        np.testing.assert_allclose(found.scores, own, rtol=2e-5, atol=2e-6, err_msg="score")
    adapter: Any = found.adapter
    assert isinstance(adapter, PublicPrediction)
    stored = case.table.select([f.name for f in found.schema.features]).combine_chunks().to_batches()[0]
    theirs = adapter.public_prediction(stored, found.inputs)
    assert theirs is not None
    assert not differing(outputs, np.asarray(theirs, np.float32).reshape(outputs.shape), 1e-4).any(), "public"
    model: Any = found.model
    try:
        model.trees()
    except UserError as error:
        return f"evaluated: {error.what[:60]}"
    rows = found.inputs[zoo.INPUT]
    background, some = rows[5:10], rows[:3]
    reference = zoo.make_reference(model, background)
    targets = np.broadcast_to(np.arange(outputs.shape[1]), (len(some), outputs.shape[1]))
    mine = TreeShap().attribute(
        model, {zoo.INPUT: some}, reference, targets, np.zeros(len(some), np.uint64), 1024
    )
    true = zoo.enumerated(model, some, background)
    scale = 1 + np.abs(found.scores).max()
    np.testing.assert_allclose(mine.values[zoo.INPUT], true, atol=1e-5 * scale, err_msg="φ")
    return "explained"


def run(seed: int, count: int, seconds: float, first: int = 0) -> tuple[Counter[str], list[str]]:
    """Tries cases; returns outcomes and findings."""
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="attribeam-fuzz-") as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in itertools.islice(itertools.count(first), count):
            if time.monotonic() > end:
                break
            folder = Path(place) / str(number)
            folder.mkdir()
            words = ""
            try:
                case = make(seed, number, folder)
            except Exception as error:  # noqa: BLE001 - the library does not train such a model
                outcomes[f"not made: {type(error).__name__}"] += 1
                continue
            try:
                words = case.words
                outcomes[judge(case)] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                line = " ".join(str(error).split())[:300]
                at = traceback.extract_tb(error.__traceback__)[-1]
                findings.append(f"{seed} {number} {type(error).__name__} at {at.name}: {line} ({words})")
    return outcomes, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    start = time.monotonic()
    outcomes, findings = run(given.seed, given.count, given.seconds, given.first)
    tried = outcomes.total() + len(findings)
    print(f"{tried} cases in {time.monotonic() - start:.0f} s")
    for outcome, number in outcomes.most_common():
        print(f"  {number:6} {outcome}")
    for finding in findings:
        print("  ", finding)
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
