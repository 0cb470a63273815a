"""Permutation SHAP against shap.PermutationExplainer on the same network, with the errors of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common import SEED, Row, features, interleaved, per_second, rate, ratios, tensorflow
from benchmarks.masking import WIDTH, Explain, Predict, ours, predictions, relative_error

PERMUTATIONS = 10
BACKGROUND = 100
REPEATS = 3
#: Rows whose Shapley values are worked out, with so many more permutations.
CHECKED, TIMES = 16, 100


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, theirs, times = (32, CHECKED, 10) if quick else (512, 64, TIMES)
    inputs, background = features(rows, WIDTH), features(BACKGROUND, WIDTH, SEED + 1)
    attribute = ours(folder, background)
    explain = _shap(predictions(2 * WIDTH * BACKGROUND), background)
    from transforms.methods.permutation_shap import PermutationShap

    sampled = PermutationShap(n_permutations=PERMUTATIONS)
    attribute(sampled, inputs, SEED)
    explain(inputs[:2], 0)
    truth = _truth(attribute, inputs[:CHECKED], times)
    errors: dict[str, list[float]] = {"ours": [], "shap": []}

    def job(name: str, count: int) -> float:
        def call(position: int) -> int:
            seed = len(errors[name])
            found = (
                attribute(sampled, inputs[:count], seed) if name == "ours" else explain(inputs[:count], seed)
            )
            errors[name].append(relative_error(found[:CHECKED], truth))
            return count

        return rate(call, count)

    found = interleaved({"ours": lambda: job("ours", rows), "shap": lambda: job("shap", theirs)}, REPEATS)
    figure = f"{per_second(found['ours'])} against {per_second(found['shap'])}"
    means = {name: float(np.mean(error)) for name, error in errors.items()}
    return [
        Row(
            f"permutation SHAP ÷ shap, {PERMUTATIONS} permutations × {BACKGROUND} background rows",
            figure,
            ratios(found, "ours", "shap"),
            at_least=4,
        ),
        Row(
            "  mean error ÷ shap's",
            f"{means['ours']:.2%} of the mean value against {means['shap']:.2%}",
            ratios(errors, "ours", "shap"),
            at_most=1,
        ),
    ]


def _truth(attribute: Explain, rows: np.ndarray, times: int) -> np.ndarray:
    """The Shapley values, from permutations that have nothing to do with those that are measured."""
    from transforms.methods.permutation_shap import PermutationShap

    parts = [attribute(PermutationShap(n_permutations=PERMUTATIONS), rows, SEED + i) for i in range(times)]
    found: np.ndarray = np.mean(parts, axis=0, dtype=np.float64)
    return found


def _shap(predict: Predict, background: np.ndarray):  # type: ignore[no-untyped-def]
    import shap

    masker = shap.maskers.Independent(background, max_samples=len(background))

    def explain(rows: np.ndarray, seed: int) -> np.ndarray:
        explainer = shap.PermutationExplainer(predict, masker, seed=seed)
        values: np.ndarray = explainer(rows, max_evals=PERMUTATIONS * (2 * WIDTH + 1), silent=True).values
        return values

    return explain
