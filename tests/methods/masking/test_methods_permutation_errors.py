"""permutation_shap's standard errors over many seeds: as large as the true ones, at any number of pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from tests.support.models.games import shapley
from transforms.methods.masking.permutation_shap import PermutationShap
from transforms.models.base import Signature
from transforms.models.players import Players
from transforms.models.reference import Reference

FEATURES = 10
SEEDS = 60


@dataclass
class Scores:
    """A function of an array `[rows, 10]` in place of a model, with several outputs."""

    function: Callable[[np.ndarray], np.ndarray]
    signature: Signature | None = None
    has_gradients = False

    def evaluate(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        scores = self.function(inputs["x"].astype(np.float64)).astype(np.float32)
        return scores, scores

    def masked(self, reference: Reference) -> None:
        """Nothing is kept on a device."""


def network(x: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(5)
    first, last = rng.normal(size=(FEATURES, 16)) / 2, rng.normal(size=(16, 2))
    hidden = np.maximum(x @ first + rng.normal(size=16) / 2, 0)
    return np.asarray(hidden @ last)


def saturating(x: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(6)
    first, last = rng.normal(size=(FEATURES, 12)), rng.normal(size=(12, 2))
    return np.asarray(np.tanh(x @ first) @ last)


def threes(x: np.ndarray) -> np.ndarray:
    """Products of three features beside what each does alone."""
    rng = np.random.default_rng(7)
    chosen = [rng.choice(FEATURES, 3, replace=False) for _ in range(24)]
    products = np.stack([x[:, some].prod(axis=1) for some in chosen], axis=1)
    return np.asarray(x @ rng.normal(size=(FEATURES, 2)) + products @ rng.normal(size=(24, 2)))


def few_threes(x: np.ndarray) -> np.ndarray:
    """Two products of three features, and twos: an output for each of 20 ways to take the columns."""
    rng = np.random.default_rng(8)
    ways = [x[:, rng.permutation(FEATURES)].T for _ in range(20)]
    found = [a * b * c + np.sin(3 * d * e) + f * g - h * i * j for a, b, c, d, e, f, g, h, i, j in ways]
    return np.stack(found, axis=1)


def tree(x: np.ndarray) -> np.ndarray:
    """Trees of depth five, one an output."""
    rng, outputs = np.random.default_rng(9), 3
    columns = rng.integers(FEATURES, size=(outputs, 31))
    edges, leaves = rng.normal(size=(outputs, 31)) / 2, rng.normal(size=(outputs, 32))
    found = np.empty((len(x), outputs))
    for which in range(outputs):
        at = np.zeros(len(x), np.int64)
        for _ in range(5):
            at = 2 * at + 1 + (x[np.arange(len(x)), columns[which, at]] > edges[which, at])
        found[:, which] = leaves[which, at - 31]
    return found


def linear(x: np.ndarray) -> np.ndarray:
    return np.asarray(x @ np.stack([np.arange(FEATURES) - 4.0, np.ones(FEATURES)], axis=1))


def drawn(rows: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(rows, FEATURES)).astype(np.float32)}


def sampled(function: Callable[[np.ndarray], np.ndarray], pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and stated errors, `[seeds, B, T, M]`."""
    model, rows, background = Scores(function), drawn(3, 1), drawn(4, 2)
    scores = model.evaluate(background)[0]
    outputs = scores.shape[1]
    targets = np.broadcast_to(np.arange(outputs), (3, outputs))
    method = PermutationShap(n_permutations=pairs, standard_error=True)
    found = []
    for seed in range(SEEDS):
        reference = Reference(background, scores, scores.std(axis=0), seed=seed)
        found.append(method.attribute(model, rows, reference, targets, np.zeros(3, np.uint64), 1 << 14))
    return tuple(  # type: ignore[return-value]
        np.stack([part["x"] for part in parts])
        for parts in ([run.values for run in found], [run.standard_error or {} for run in found])
    )


@cache
def enumerated(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Shapley values `[B, T, M]`."""
    players = Players.each({"x": (FEATURES,)})
    return shapley(
        lambda inputs: Scores(function).evaluate(dict(inputs))[0], drawn(3, 1), drawn(4, 2), players
    )


@pytest.mark.parametrize("pairs", [2, 3, 4, 5, 7, 9, 12, 20])
@pytest.mark.parametrize(
    "function", [network, saturating, threes, few_threes, tree], ids=lambda f: f.__name__
)
def test_stated_errors_are_the_true_ones(function: Callable[[np.ndarray], np.ndarray], pairs: int) -> None:
    """In root mean square over seeds; a single run has one draw of permutations for all its rows."""
    values, stated = sampled(function, pairs)
    errors = values - enumerated(function)
    assert 0.9 < np.sqrt(np.square(errors).mean() / np.square(stated).mean()) < 1.1
    assert 0.86 < (np.abs(errors) < 1.96 * stated + 1e-6).mean() < 0.985
    # Nothing is called exact because few pairs agree by chance, but where there is nothing else to go by.
    wrongly = (stated < 1e-7) & (np.abs(errors) > 1e-5)
    assert wrongly.mean() < (0.08 if pairs < 4 else 0.03)
    assert wrongly.sum() == 0 or function in (few_threes, tree)


def test_beside_threes_what_matters_in_twos_has_next_to_no_error() -> None:
    """Once there are so many pairs that they do not agree by chance."""

    def mixed(x: np.ndarray) -> np.ndarray:
        return np.asarray(x[:, :3].prod(axis=1) + x[:, 3] * x[:, 4] + x[:, 5])[:, None]

    values, stated = sampled(mixed, 20)
    errors = np.abs(values - enumerated(mixed))
    assert errors[..., 3:].max() < 1e-5
    assert stated[..., 5:].max() == 0  # alone, or nothing at all
    assert 0 < stated[..., 3:5].max() < 0.05 * stated[..., :3].max()
    assert errors[..., :3].max() > 0.01


def test_a_linear_score_has_no_error() -> None:
    values, stated = sampled(linear, 5)
    assert np.abs(values - values[0]).max() < 1e-5
    assert stated.max() < 1e-6


def test_a_small_start_is_not_cut_short() -> None:
    """Two pairs under a tolerance go on to as many as ten would: nearly all values are as exact as asked."""
    model, rows, background = Scores(network), drawn(8, 1), drawn(4, 2)
    scores = model.evaluate(background)[0]
    reference = Reference(background, scores, scores.std(axis=0))
    targets = np.broadcast_to(np.arange(2), (8, 2))
    truth = shapley(lambda inputs: model.evaluate(dict(inputs))[0], rows, background, reference.players)
    for start in (2, 10):
        method = PermutationShap(n_permutations=start, tolerance=0.01, standard_error=True)
        found = method.attribute(model, rows, reference, targets, np.zeros(8, np.uint64), 1 << 14)
        off = np.abs(found.values["x"] - truth) / reference.spread[:, None]
        assert (off > 1.96 * 0.01).mean() < 0.06
        assert found.limited.mean() < 0.5
