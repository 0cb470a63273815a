"""LIME against the package of that name on the same network, each with its distance from its own limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common import SEED, Row, features, interleaved, per_second, rate, ratios, tensorflow
from benchmarks.methods.masking import WIDTH, Predict, predictions, relative_error, worker

SAMPLES = 5000
#: Rows of the package's training data, from which it takes its quartiles and moments.
TRAINING = 1000
REPEATS = 3
#: Rows that are explained with so many seeds, to see how far the explanations lie apart.
CHECKED, TIMES = 8, 25


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    rows, theirs, times = (256, CHECKED, 8) if quick else (2048, 60, TIMES)
    inputs = features(rows, WIDTH)
    explain = _lime(predictions(SAMPLES))
    method = {"name": "lime", "n_samples": SAMPLES}
    explain(inputs[:2], SEED)
    with worker(folder, rows, "lime") as runs:
        found = interleaved(
            {
                "ours": lambda: runs.rate(method, rows),
                "lime": lambda: rate(lambda _: len(explain(inputs[:theirs], 0)), theirs),
            },
            REPEATS,
        )
        seeds = range(SEED, SEED + times)
        errors = {
            "ours": _errors([runs.run(method, CHECKED, seed) for seed in seeds]),
            "lime": _errors([explain(inputs[:CHECKED], seed) for seed in seeds]),
        }
    means = {name: float(np.mean(error)) for name, error in errors.items()}
    return [
        Row(
            f"LIME ÷ lime, {SAMPLES:,} samples",
            f"{per_second(found['ours'])} against {per_second(found['lime'])}",
            ratios(found, "ours", "lime"),
            at_least=20,
        ),
        Row(
            "  mean error ÷ lime's",
            f"{means['ours']:.1%} of the mean value against {means['lime']:.1%}",
            ratios(errors, "ours", "lime"),
            at_most=1,
        ),
    ]


def _errors(explanations: list[np.ndarray]) -> list[float]:
    """The distance of each from the mean of the others, which stands for the limit."""
    total = np.sum(explanations, axis=0, dtype=np.float64)
    others = len(explanations) - 1
    return [relative_error(found, (total - found) / others) for found in explanations]


def _lime(predict: Predict):  # type: ignore[no-untyped-def]
    from lime.lime_tabular import LimeTabularExplainer

    training = features(TRAINING, WIDTH, SEED + 2)

    def explain(rows: np.ndarray, seed: int) -> np.ndarray:
        explainer = LimeTabularExplainer(
            training, mode="regression", feature_selection="none", random_state=seed
        )
        found = np.empty(rows.shape)
        for row, values in zip(rows, found, strict=True):
            told = explainer.explain_instance(row, predict, num_features=WIDTH, num_samples=SAMPLES)
            for feature, slope in told.as_map()[1]:
                values[feature] = slope
        return found

    return explain
