"""tree_shap against shap.TreeExplainer and the libraries' own contributions, with the distance beside it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import xgboost
from sklearn.ensemble import RandomForestRegressor

from benchmarks.common import SEED, Row, features, interleaved, per_second, rate, ratios

WIDTH = 30
BACKGROUND = 100
TREES = 100
Explain = Callable[[np.ndarray], np.ndarray]


def run(folder: Path, quick: bool) -> list[Row]:
    inputs = features(2000 if quick else 10_000, WIDTH)
    found = []
    for name, path, model in _models(folder, inputs, TREES // 10 if quick else TREES):
        rows = inputs[: 64 if name.startswith("deep") else 512 if quick else 4096]
        for how in ("interventional", "path_dependent"):
            jobs = _jobs(path, model, inputs[:BACKGROUND], how)
            found.append(_compare(f"tree_shap ÷ shap, {name}, {how}", jobs, rows))
    return found


def _models(folder: Path, rows: np.ndarray, trees: int) -> list[tuple[str, Path, Any]]:
    """Products, steps and waves of a few features, as each library learns them."""
    noise = np.random.default_rng(SEED).normal(size=len(rows)) / 10
    learns = rows[:, 0] * rows[:, 1] + np.sin(2 * rows[:, 2]) + (rows[:, 3] > 0) * rows[:, 4] + noise
    params = {"max_depth": 6, "eta": 0.1, "seed": SEED}
    booster = xgboost.train(params, xgboost.DMatrix(rows, learns), trees)
    booster.save_model(folder / "xgboost.ubj")
    params = {"num_leaves": 63, "max_depth": 6, "verbose": -1, "seed": SEED}
    light = lightgbm.train(params, lightgbm.Dataset(rows.astype(np.float64), learns), trees)
    light.save_model(folder / "lightgbm.txt")
    shallow = RandomForestRegressor(trees, max_depth=8, random_state=SEED, n_jobs=2).fit(rows, learns)
    deep = RandomForestRegressor(trees // 5, min_samples_leaf=5, random_state=SEED, n_jobs=2).fit(
        rows, learns
    )
    for name, model in (("shallow", shallow), ("deep", deep)):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(model))
    return [
        ("XGBoost", folder / "xgboost.ubj", booster),
        ("LightGBM", folder / "lightgbm.txt", light),
        ("forest of depth 8", folder / "shallow.pkl", shallow),
        ("deep forest", folder / "deep.pkl", deep),
    ]


def _jobs(path: Path, model: Any, background: np.ndarray, how: str) -> dict[str, tuple[Explain, int]]:
    """What is compared, each with the most rows that it is given."""
    jobs = {"ours": (_ours(path, background, how), 4096), "shap": (_shap(model, background, how), 32)}
    if how == "path_dependent" and isinstance(model, xgboost.Booster):
        jobs["XGBoost's own"] = (
            lambda rows: model.predict(xgboost.DMatrix(rows), pred_contribs=True)[:, :-1],
            512,
        )
    if how == "path_dependent" and isinstance(model, lightgbm.Booster):
        jobs["LightGBM's own"] = lambda rows: model.predict(rows, pred_contrib=True)[:, :-1], 512
    return jobs


def _compare(name: str, jobs: Mapping[str, tuple[Explain, int]], rows: np.ndarray) -> Row:
    results: dict[str, np.ndarray] = {}

    def job(label: str, explain: Explain, count: int) -> float:
        def call(position: int) -> int:
            results[label] = explain(rows[:count])
            return count

        return rate(call, count)

    timed = {}
    for label, (explain, most) in jobs.items():
        explain(rows[:8])  # compiles, or tabulates
        timed[label] = partial(job, label, explain, min(most, len(rows)))
    found = interleaved(timed, 3)
    few = len(results["shap"])
    apart = np.abs(results["ours"][:few] - results["shap"]).max()
    others = [f"{label} {per_second(found[label])}" for label in found if label not in ("ours", "shap")]
    figure = f"{per_second(found['ours'])} against {per_second(found['shap'])}, at most {apart:.0e} apart"
    bar = None if "deep" in name else 4 if "path" in name else 30
    return Row(name, "; ".join([figure, *others]), ratios(found, "ours", "shap"), at_least=bar)


def _ours(path: Path, background: np.ndarray, how: str) -> Explain:
    from transforms.methods.trees.tree_shap import TreeShap
    from transforms.models.kinds.trees.base import INPUT
    from transforms.models.load import ModelRequest, load_model
    from transforms.models.reference import Reference

    adapter = load_model(ModelRequest(str(path), allow_unsafe=True))
    assert adapter.signature is not None
    dtype = adapter.signature.inputs[0].dtype
    inputs = {INPUT: background.astype(dtype)}
    model = adapter.scored({INPUT: (WIDTH,)}, "auto", affine_prefix=True, example=inputs)
    scores, _ = model.evaluate(inputs)
    reference = Reference(inputs, scores, scores.std(axis=0))
    method = TreeShap("interventional" if how == "interventional" else "path_dependent")

    def explain(rows: np.ndarray) -> np.ndarray:
        targets, seeds = np.zeros((len(rows), 1), np.int64), np.zeros(len(rows), np.uint64)
        found = method.attribute(model, {INPUT: rows.astype(dtype)}, reference, targets, seeds, 1 << 16)
        return found.values[INPUT][:, 0]

    return explain


def _shap(model: Any, background: np.ndarray, how: str) -> Explain:
    import shap

    if how == "interventional":
        explainer = shap.TreeExplainer(model, background, feature_perturbation="interventional")
    else:
        explainer = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
    return lambda rows: np.asarray(explainer.shap_values(rows, check_additivity=False)).reshape(
        len(rows), WIDTH
    )
