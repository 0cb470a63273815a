"""What skipping the affine prefix gains: one compiled integral with it and without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bare import POINTS, STEPS
from benchmarks.common import (
    Row,
    fastest,
    features,
    interleaved,
    per_second,
    rate,
    ratios,
    tensorflow,
    write_config,
    write_parquet,
)

#: Features, and the gain to reach.
BARS = {50: 1.5, 500: 4.0}


def run(folder: Path, quick: bool) -> list[Row]:
    tensorflow()
    return [row for width in BARS for row in _gain(folder, width, quick)]


def _gain(folder: Path, width: int, quick: bool) -> list[Row]:
    rows, trial = (2000, 0.1) if quick else (10_000, 0.3)
    inputs = features(rows, width)
    size = _default_points(folder, width)
    integrals = {prefix: _integral(folder, width, prefix) for prefix in (True, False)}
    agree = [integral(inputs[:20]) for integral in integrals.values()]
    if not np.allclose(agree[0], agree[1], atol=1e-4):
        raise RuntimeError("the integrals with the affine prefix and without it differ")

    def call(prefix: bool, points: int) -> Callable[[int], int]:
        at_once = max(1, points // STEPS)
        return lambda position: len(integrals[prefix](inputs[position : position + at_once]))

    def speed(prefix: bool, points: int) -> float:
        return rate(call(prefix, points), min(rows, 8 * max(1, points // STEPS)), trial)

    best = {
        prefix: int(fastest({str(p): lambda p=p, prefix=prefix: speed(prefix, p) for p in POINTS}))
        for prefix in integrals
    }
    found = interleaved(
        {
            "default with": lambda: speed(True, size),
            "default without": lambda: speed(False, size),
            "best with": lambda: speed(True, best[True]),
            "best without": lambda: speed(False, best[False]),
        },
        3 if quick else 5,
    )
    sizes = {"default": f"{size} points a call", "best": f"{best[True]} and {best[False]} points a call"}
    return [
        Row(
            f"affine prefix, {width} features, {which}",
            f"{per_second(found[f'{which} with'])} against {per_second(found[f'{which} without'])} ({words})",
            ratios(found, f"{which} with", f"{which} without"),
            at_least=BARS[width],
        )
        for which, words in sizes.items()
    ]


def _default_points(folder: Path, width: int) -> int:
    """Evaluations a device call that a plan decides on; leaves the saved network behind."""
    from pipeline.config import load_config
    from pipeline.plan import make_plan

    write_parquet(folder / f"prefix-{width}.parquet", 1000, width)
    method = {"name": "integrated_gradients", "n_steps": STEPS}
    config = write_config(folder, f"prefix-{width}.parquet", method, width, f"prefix-{width}")
    return make_plan(load_config(str(config)), in_process=True).spec.device_batch_size


def _integral(folder: Path, width: int, prefix: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Rows `[n, width]` to their attributions against zeros, `[n, width]`."""
    from transforms.methods.integrated_gradients import gauss_legendre
    from transforms.models import ModelRequest, load_model
    from transforms.models.base import ScoredModel

    adapter = load_model(ModelRequest(str(folder / f"network-{width}.keras")))
    name = adapter.signature.inputs[0].name
    zeros = {name: np.zeros((1, width), np.float32)}
    model = ScoredModel(adapter, {name: (width,)}, affine_prefix=prefix).differentiable(zeros)
    background: Any = model.ends(zeros)
    alphas, weights = gauss_legendre(STEPS)
    base = np.zeros((1, 1), np.int32)

    def integral(rows: np.ndarray) -> np.ndarray:
        targets = np.zeros((len(rows), 1), np.int32)
        found, _ = model.integrate({name: rows}, background, base, alphas[None, :, None], weights, targets)
        return found[name][:, 0]

    return integral
