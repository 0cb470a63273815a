"""Runs that hold much: wide rows, pictures, a huge background, many targets; and what their plans allow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.child import ROOT
from benchmarks.common import SEED, tensorflow


def wide(folder: Path, quick: bool) -> Path:
    """10,000 features in one list column, attributed to for each of ten outputs."""
    layers = tensorflow().keras.layers
    rows, features = 600 if quick else 2000, 10_000
    few = np.random.default_rng(SEED).standard_normal((50, features), dtype=np.float32)
    # A few rows over and over: what they are worth is not looked at.
    values = np.tile(few, (rows // len(few), 1))
    _write_lists(folder, values, 200)
    return _config(
        folder,
        [layers.Input((features,), name="x"), layers.Dense(8, "relu"), layers.Dense(10)],
        model={"target": "all"},
        method={"name": "input_x_gradient"},
        baseline={"kind": "zeros"},
        output={"attributions": "none"} if quick else {},
    )


def images(folder: Path, quick: bool) -> Path:
    """Pictures of 512 by 512 pixels in three colours."""
    layers = tensorflow().keras.layers
    rows, shape = 64 if quick else 512, (512, 512, 3)
    few = np.random.default_rng(SEED).integers(0, 256, (8, *shape)).astype(np.uint8)
    pixels = [few[row % len(few)].tobytes() for row in range(rows)]
    pq.write_table(
        pa.table({"image": pa.array(pixels, pa.binary())}), folder / "rows.parquet", row_group_size=32
    )
    return _config(
        folder,
        [
            layers.Input(shape, name="image"),
            layers.Rescaling(1 / 255),
            layers.AveragePooling2D(32),
            layers.Flatten(),
            layers.Dense(8, "relu"),
            layers.Dense(1),
        ],
        input={"features": [{"name": "image", "kind": "image", "shape": list(shape)}]},
        method={"name": "input_x_gradient"},
        baseline={"kind": "zeros"},
        output={"attributions": "none"} if quick else {},
    )


def background(folder: Path, quick: bool) -> Path:
    """A background of all rows of the input, behind a layer that makes a thousand times as much of each."""
    layers = tensorflow().keras.layers
    rows, features, hidden = 40_000 if quick else 200_000, 20, 30_000
    names = [f"f{index}" for index in range(features)]
    values = np.random.default_rng(SEED).integers(-9, 9, (rows, features)).astype(np.float32)
    pq.write_table(pa.table(list(values.T), names), folder / "rows.parquet")
    return _config(
        folder,
        [layers.Input((features,), name="x"), layers.Dense(hidden, "relu"), layers.Dense(1)],
        input={"features": names, "groups": {"one": names[:10], "other": names[10:]}},
        method={"name": "exact_shap"},
        baseline={"kind": "sample", "rows": rows},
        output={"attributions": "none"},
    )


def targets(folder: Path, quick: bool) -> Path:
    """A thousand outputs of a hundred features, all of them explained."""
    layers = tensorflow().keras.layers
    rows, features, outputs = (1000, 100, 200) if quick else (4000, 100, 1000)
    _write_lists(
        folder, np.random.default_rng(SEED).standard_normal((rows, features), dtype=np.float32), rows
    )
    return _config(
        folder,
        [layers.Input((features,), name="x"), layers.Dense(8, "relu"), layers.Dense(outputs)],
        model={"target": "all"},
        method={"name": "input_x_gradient"},
        baseline={"kind": "zeros"},
    )


#: The builders by name, with the rows that are explained; None: all.
CASES: dict[str, tuple[Callable[[Path, bool], Path], int | None]] = {
    "10,000 features": (wide, None),
    "pictures of 512 × 512": (images, None),
    "a huge background": (background, 1),
    "many targets": (targets, None),
}


def _write_lists(folder: Path, values: np.ndarray, row_group: int) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    pq.write_table(
        pa.table({"x": column}), folder / "rows.parquet", row_group_size=row_group, use_dictionary=False
    )


def _config(folder: Path, layers: list[Any], **blocks: dict[str, Any]) -> Path:
    keras = tensorflow().keras
    keras.utils.set_random_seed(SEED)
    keras.Sequential(layers).save(folder / "model.keras")
    defaults: dict[str, dict[str, Any]] = {
        "model": {"path": "model.keras"}, "input": {"files": "rows.parquet"}, "output": {"path": "run"},
        # What nobody trained has no reason to converge.
        "limits": {"convergence": 1e9},
    }  # fmt: skip
    config = {key: {**defaults.get(key, {}), **blocks.get(key, {})} for key in (*defaults, *blocks)}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def host_bytes(config: Path) -> int:
    """The bound that the plan prints, in this process."""
    from pipeline.config.config import load_config
    from pipeline.planning.plan import make_plan
    from pipeline.planning.summary import summarize

    estimate = summarize(make_plan(load_config(str(config)), in_process=True))["estimate"]
    return int(estimate["host_bytes"])


def peak(config: Path, limit: int | None) -> int:
    """Largest resident memory of a run of the command line.

    By way of a small process: a child's peak begins with the size of the one that it is made from.

    Raises:
      RuntimeError: The run failed, with what it said.
    """
    arguments = ["explain", str(config), *([] if limit is None else ["--limit", str(limit)])]
    program = f"from benchmarks.child import attribeam; print(attribeam({arguments!r}).peak)"
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise RuntimeError(told.stderr)
    return int(told.stdout)
