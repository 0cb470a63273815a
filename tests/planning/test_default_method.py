"""A config without a method takes one by its model, and says which and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models import trees_zoo
from transforms.methods import METHODS

SCORING = """
def predict(batch):
    return sum((at + 1) * column for at, column in enumerate(batch.values()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("defaults")
    rng = np.random.default_rng(0)
    rows = {f"f{at}": rng.normal(size=60).astype(np.float32) for at in range(12)}
    pq.write_table(pa.table(rows), found / "rows.parquet")
    (found / "default_scoring.py").write_text(SCORING, encoding="utf-8")
    return found


def function(folder: Path, features: int, **blocks: Any) -> Path:
    return worlds.write_config(
        folder / f"config-{features}.yaml",
        model={"path": "python: default_scoring:predict"},
        input={"files": "rows.parquet", "features": [f"f{at}" for at in range(features)]},
        output={"path": f"run-{features}"},
        **blocks,
    )


@pytest.mark.parametrize(
    ("features", "method"), [(3, "exact_shap"), (11, "exact_shap"), (12, "permutation_shap")]
)
def test_a_function_is_explained_by_masking(
    folder: Path, capsys: pytest.CaptureFixture[str], features: int, method: str
) -> None:
    config = function(folder, features)
    assert cli.run(["plan", str(config), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"]["name"] == method
    assert told["baseline"]["kind"] == "sample"
    assert str(features) in told["defaults"]["method"]
    if features != 3:
        return
    assert cli.run(["plan", str(config)]) == 0
    assert "method exact_shap the config names no method: a function has no gradients" in _flat(capsys)
    assert cli.run(["explain", str(config)]) == 0
    assert "method exact_shap the config names no method" in _flat(capsys)
    manifest = load_run(folder / "run-3").manifest
    assert manifest["config"]["method"]["name"] == method
    assert manifest["defaults"]["method"] == told["defaults"]["method"]
    # It is the run that the method's name would have made.
    assert cli.run(["explain", str(config), "--set", f"method={method}"]) == 0
    assert "nothing done" in capsys.readouterr().out
    assert cli.run(["verify", str(folder / "run-3"), "--rows", "5"]) == 0


def _flat(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_methods_of_a_config_without_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["methods", "--config", str(function(folder, 3)), "--json"]) == 0
    costs = {row["name"]: row["here"] for row in json.loads(capsys.readouterr().out)["methods"]}
    assert costs["exact_shap"]["refused"] is None


def planned(config: Path, *settings: str) -> Any:
    loaded = load_config(str(config), settings=settings)
    return make_plan(loaded, in_process=True)


def without_method(path: Path) -> Path:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    del config["method"]
    bare = path.with_name(f"bare-{path.name}")
    return worlds.write_config(bare, **config)


def test_a_network_is_explained_by_its_gradients() -> None:
    bare = without_method(worlds.vectors().config("parquet"))
    plan = planned(bare)
    assert plan.spec.method == METHODS["integrated_gradients"]()
    assert plan.baseline_kind == "mean"
    assert "gradients" in plan.probe.defaults["method"]


def test_a_list_of_what_differs_is_completed_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    config = worlds.vectors().config("parquet")
    settings = ["input.features=[{name: rate, fill: 0}]", "input.slices=[colour, label]"]
    plan = planned(config, *settings)
    assert [feature.name for feature in plan.spec.schema.features] == list(worlds.NUMBERS)
    assert [feature.fill for feature in plan.spec.schema.features] == [None, None, None, 0, None, None]
    assert plan.probe.defaults["features"].startswith("1 of 6 features are listed")
    whole = planned(config, f"input.features=[{', '.join(worlds.NUMBERS)}]", settings[1])
    assert whole.probe.defaults == {}


def test_where_gradients_cannot_be_had_something_else_works() -> None:
    bare = without_method(worlds.vectors().config("parquet"))
    features = ["{name: level, fixed: true}", "count", "größe", "rate", "old", "weight"]
    plan = planned(bare, f"input.features=[{', '.join(features)}]")
    assert plan.spec.method.name == "exact_shap"
    assert plan.baseline_kind == "sample"
    assert "level is fixed" in plan.probe.defaults["method"]


def test_trees_are_explained_by_themselves_and_groups_of_their_features_by_masking(folder: Path) -> None:
    rows = trees_zoo.data(missing=False)
    table = {f"c{at}": column for at, column in enumerate(rows.T)}
    pq.write_table(pa.table(table), folder / "trees.parquet")
    config = worlds.write_config(
        folder / "trees.yaml",
        model={"path": trees_zoo.xgb()},
        input={"files": "trees.parquet", "features": list(table)},
        output={"path": "trees"},
    )
    plan = planned(config)
    assert plan.spec.method.name == "tree_shap"
    assert plan.baseline_kind == "sample"
    assert plan.probe.defaults["method"] == "the model is made of trees"
    grouped = planned(config, "input.groups={pair: [c0, c1]}")
    assert grouped.spec.method.name == "exact_shap"
    assert "pair is a group" in grouped.probe.defaults["method"]


def test_a_method_without_a_name_is_still_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = function(folder, 4, method={"n_samples": 5})
    assert cli.run(["plan", str(config)]) == 2
    assert "method.name: is missing" in capsys.readouterr().err
