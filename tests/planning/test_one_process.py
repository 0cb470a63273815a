"""Runs of one process: nothing of one reaches another but what its inputs fully determine."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from transforms.errors import UserError
from transforms.models import users_code

RUN = """
import json, sys
import pipeline
for config, output in json.loads(sys.argv[1]):
    pipeline.explain(config, output=output)
print("done")
"""


def run_apart(*runs: tuple[Path, Path]) -> None:
    """The runs one after another in a process that has run nothing else."""
    told = json.dumps([[str(config), str(output)] for config, output in runs])
    done = subprocess.run(
        [sys.executable, "-c", RUN, told], cwd=worlds.ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip().endswith("done"), done.stderr


def rows(seed: int, shift: float) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({name: rng.normal(shift, 1 + seed, 60) for name in ("a", "b", "c")})


def tree_worlds(folder: Path) -> list[Path]:
    """One booster, two tables that share no row and no background."""
    import xgboost

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    booster = xgboost.XGBRegressor(n_estimators=8, max_depth=3, n_jobs=1)
    booster.fit(x, x[:, 0] * 2 + x[:, 1] * x[:, 2])
    booster.get_booster().feature_names = ["a", "b", "c"]
    booster.save_model(folder / "model.json")
    configs = []
    for name, seed, shift in (("one", 1, 0.0), ("two", 2, 3.0)):
        pq.write_table(rows(seed, shift), folder / f"{name}.parquet")
        configs.append(
            worlds.write_config(
                folder / f"{name}.yaml",
                model={"path": "model.json"},
                input={"files": f"{name}.parquet"},
                method="tree_shap",
                baseline={"kind": "sample", "rows": 20},
                output={"path": "run"},
            )
        )
    return configs


def function_world(folder: Path, factor: float) -> Path:
    """A function and its helpers beside the config, of the same names wherever it is."""
    folder.mkdir()
    (folder / "helpful.py").write_text(f"FACTOR = {factor}\n")
    (folder / "late_helper.py").write_text(f"def shift():\n    return {factor * 10}\n")
    (folder / "scoring_by_helper.py").write_text(
        "from helpful import FACTOR\n\n\ndef score(rows):\n    from late_helper import shift\n\n"
        "    return FACTOR * rows['a'] * rows['b'] + shift() * rows['c']\n"
    )
    pq.write_table(rows(3, 1.0), folder / "rows.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: scoring_by_helper:score"},
        input={"files": "rows.parquet", "features": ["a", "b", "c"]},
        method="exact_shap",
        baseline={"kind": "mean"},
        output={"path": "run"},
    )


def test_runs_after_others_are_those_of_fresh_processes(tmp_path: Path) -> None:
    """One model on two tables, two folders with modules of the same names: A, B, A′ is A and B alone."""
    first, second = tree_worlds(tmp_path)
    third, fourth = function_world(tmp_path / "x", 2.0), function_world(tmp_path / "y", -5.0)
    out = tmp_path / "runs"
    run_apart(
        *[(config, out / f"together {n}") for n, config in enumerate([first, second, first])],
        *[(config, out / f"together {n}") for n, config in enumerate([third, fourth, third], 3)],
    )
    run_apart((first, out / "alone 0"), (third, out / "alone 3"))
    run_apart((second, out / "alone 1"), (fourth, out / "alone 4"))
    for number, alone in enumerate([0, 1, 0, 3, 4, 3]):
        tables = [
            pq.read_table(out / name / "attributions") for name in (f"together {number}", f"alone {alone}")
        ]
        assert tables[0].equals(tables[1]), number
    a, b = (pq.read_table(out / f"alone {n}" / "attributions")["prediction"].to_numpy() for n in (3, 4))
    np.testing.assert_allclose(b, -2.5 * a, rtol=1e-5)


def score_at_mean(config: Path) -> float:
    return float(make_plan(load_config(str(config)), in_process=True).probe.artifact.scores[0, 0])


@pytest.mark.parametrize("name", ["helpful.py", "late_helper.py"])
def test_a_helper_that_was_edited_is_read_anew(name: str, tmp_path: Path) -> None:
    """The function's own module has not changed; the edit may be of the same length and second."""
    config = function_world(tmp_path / "x", 2.0)
    before = score_at_mean(config)
    file = tmp_path / "x" / name
    file.write_text(file.read_text().replace("2", "3"))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + (1 if name == "helpful.py" else 2 * 10**9)))
    after = score_at_mean(config)
    a, b, c = (np.mean(rows(3, 1.0)[key].to_numpy()) for key in "abc")
    np.testing.assert_allclose(before, 2 * a * b + 20 * c, rtol=1e-5)
    np.testing.assert_allclose(
        after, (3 * a * b + 20 * c) if name == "helpful.py" else (2 * a * b + 30 * c), rtol=1e-5
    )
    assert score_at_mean(config) == after


LAYER = """
import keras

@keras.saving.register_keras_serializable("shared_name")
class Times(keras.layers.Layer):
    def call(self, x):
        return {factor} * x
"""


def layer_world(folder: Path, factor: float, module: str) -> Path:
    import keras

    folder.mkdir()
    (folder / f"{module}.py").write_text(LAYER.format(factor=factor))
    space: dict[str, type] = {"__name__": module}
    objects = keras.saving.get_custom_objects()
    exec(LAYER.format(factor=factor), space)
    given = keras.Input((3,), name="x")
    keras.Model(given, keras.layers.Dense(1, kernel_initializer="ones")(space["Times"]()(given))).save(
        folder / "model.keras"
    )
    objects.pop("shared_name>Times")
    pq.write_table(rows(3, 1.0), folder / "rows.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": "model.keras", "modules": [module]},
        input={"files": "rows.parquet"},
        method="saliency",
        baseline={"kind": "mean"},
        output={"path": "run"},
    )


@pytest.mark.parametrize("modules", [("layers_here", "layers_here"), ("layers_of_x", "layers_of_y")])
def test_custom_layers_of_one_name_are_each_config_own(modules: tuple[str, str], tmp_path: Path) -> None:
    one, other = layer_world(tmp_path / "x", 2.0, modules[0]), layer_world(tmp_path / "y", 5.0, modules[1])
    mean = sum(np.mean(rows(3, 1.0)[key].to_numpy()) for key in "abc")
    for config, factor in ((one, 2), (other, 5), (one, 2)):
        np.testing.assert_allclose(score_at_mean(config), factor * mean, rtol=1e-5)
    without = worlds.write_config(
        tmp_path / "y" / "without.yaml",
        model={"path": "model.keras"},
        input={"files": "rows.parquet"},
        method="saliency",
        output={"path": "run"},
    )
    # A process that has run nothing else would not know the class.
    with pytest.raises(UserError, match=r"model\.modules"):
        make_plan(load_config(str(without)), in_process=True)


def test_modules_of_the_embedding_program_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was imported before, or is installed, or is ours, is not taken out."""
    config = function_world(tmp_path / "x", 2.0)
    monkeypatch.syspath_prepend(str(tmp_path / "x"))
    monkeypatch.delitem(sys.modules, "helpful", raising=False)
    helpful = importlib.import_module("helpful")

    score_at_mean(config)
    with users_code.users_modules((), ()):
        pass
    assert sys.modules["helpful"] is helpful
    assert "scoring_by_helper" not in sys.modules
    assert "numpy" in sys.modules
    del sys.modules["helpful"]
