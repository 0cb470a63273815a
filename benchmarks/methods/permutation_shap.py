"""Permutation SHAP against shap.PermutationExplainer on the same network, with the errors of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common import SEED, Row, features, interleaved, per_second, rate, ratios, tensorflow
from benchmarks.methods.masking import (
    BACKGROUND,
    WIDTH,
    Method,
    Predict,
    Worker,
    background,
    predictions,
    relative_error,
    worker,
)

PERMUTATIONS = 10
REPEATS = 3
#: Rows whose Shapley values are worked out, with so many more permutations.
CHECKED, TIMES = 16, 100


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, theirs, times = (32, CHECKED, 10) if quick else (256, 32, TIMES)
    inputs = features(rows, WIDTH)
    explain = _shap(predictions(2 * WIDTH * BACKGROUND), background())
    method = {"name": "permutation_shap", "n_permutations": PERMUTATIONS}
    explain(inputs[:2], 0)
    errors: dict[str, list[float]] = {"ours": [], "shap": []}
    with worker(folder, rows, "permutation") as runs:
        truth = _truth(runs, method, times)

        def ours(prefix: bool) -> float:
            return runs.rate(method, rows, SEED, prefix=prefix)

        def shap() -> float:
            seed = len(errors["shap"])
            errors["ours"].append(relative_error(runs.run(method, CHECKED, seed), truth))
            errors["shap"].append(relative_error(explain(inputs[:CHECKED], seed), truth))
            return rate(lambda _: len(explain(inputs[:theirs], seed)), theirs)

        found = interleaved(
            {"with": lambda: ours(True), "without": lambda: ours(False), "shap": shap}, REPEATS
        )
    means = {name: float(np.mean(error)) for name, error in errors.items()}
    return [
        *(
            Row(
                f"permutation SHAP ÷ shap, {PERMUTATIONS} permutations × {BACKGROUND}, {name} affine prefix",
                f"{per_second(found[name])} against {per_second(found['shap'])}",
                ratios(found, name, "shap"),
                at_least=4,
            )
            for name in ("without", "with")
        ),
        Row(
            "  mean error ÷ shap's",
            f"{means['ours']:.2%} of the mean value against {means['shap']:.2%}",
            ratios(errors, "ours", "shap"),
            at_most=1,
        ),
    ]


def _truth(runs: Worker, method: Method, times: int) -> np.ndarray:
    """The Shapley values, from permutations that have nothing to do with those that are measured."""
    return runs.run({**method, "n_permutations": times * PERMUTATIONS}, CHECKED, SEED + 1)


def _shap(predict: Predict, background: np.ndarray):  # type: ignore[no-untyped-def]
    import shap

    masker = shap.maskers.Independent(background, max_samples=len(background))

    def explain(rows: np.ndarray, seed: int) -> np.ndarray:
        explainer = shap.PermutationExplainer(predict, masker, seed=seed)
        values: np.ndarray = explainer(rows, max_evals=PERMUTATIONS * (2 * WIDTH + 1), silent=True).values
        return values

    return explain
