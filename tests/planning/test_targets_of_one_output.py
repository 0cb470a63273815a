"""A network with one sigmoid and a column of labels: yes is the output, no is what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from transforms.errors import UserError

ROWS = 40
RNG = np.random.default_rng(2)
X = RNG.normal(size=(ROWS, 3)).astype(np.float32)
LABELS = (RNG.random(ROWS) < 0.5).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    folder = tmp_path_factory.mktemp("one")
    keras.utils.set_random_seed(0)
    for name, end in (("yes", "sigmoid"), ("number", "linear")):
        given = keras.Input((3,), name="x")
        hidden = keras.layers.Dense(5, "gelu")(given)
        keras.Model(given, keras.layers.Dense(1, end, name="late")(hidden)).save(folder / f"{name}.keras")
    columns = {name: X[:, place] for place, name in enumerate("abc")}
    pq.write_table(pa.table({**columns, "label": LABELS, "odd": LABELS * 2}), folder / "rows.parquet")
    worlds.write_config(
        folder / "config.yaml",
        model={"path": "yes.keras", "target": {"column": "label"}},
        input={"files": "rows.parquet", "features": ["a", "b", "c"]},
        method={"name": "integrated_gradients"},
        baseline={"kind": "sample", "rows": 4},
        output={"path": "run"},
        compute={"shard_rows": 16},
    )
    return folder


@pytest.mark.parametrize(
    ("method", "score"), [("integrated_gradients", "auto"), ("kernel_shap", "probability"), ("lime", "auto")]
)
def test_no_is_the_mirror_of_yes(folder: Path, tmp_path: Path, method: str, score: str) -> None:
    """Against the run of the same rows that explains the one output."""
    settings = (f"method={{name: {method}}}", f"model.score={score}")
    kinds = ("baseline.kind=mean", "baseline.rows=null") if method == "integrated_gradients" else ()
    one = worlds.explain(folder / "config.yaml", tmp_path / "one", *settings, *kinds, "model.target=0")
    run = worlds.explain(folder / "config.yaml", tmp_path / "both", *settings, *kinds)
    yes, both = one.attributions(), run.attributions()
    sign = np.where(LABELS, 1, -1)
    start = np.where(LABELS, 0.0, 1.0 if score == "probability" else 0.0)
    for column, begin in (
        ("prediction", start),
        ("base_value", start),
        ("output", np.where(LABELS, 0.0, 1.0)),
    ):
        expected = begin + sign * yes[column].to_numpy()
        np.testing.assert_allclose(both[column].to_numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(worlds.phi(both), sign[:, None] * worlds.phi(yes), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(both["target"].to_numpy(), LABELS)
    assert set(both["target_name"].to_pylist()) == {"late[0]", "late[1]"}
    assert set(run.importance()["target"]) == {0, 1}
    assert cli.run(["verify", str(tmp_path / "both"), "--rows", "9"]) == 0
    quality: Any = run.manifest["quality"]["convergence_delta"]
    assert quality == one.manifest["quality"]["convergence_delta"] or method != "integrated_gradients"


def test_a_regression_takes_no_label_but_0(folder: Path) -> None:
    """Nothing is usable where every row names an output that there is not."""
    settings = ["model.path=number.keras", "model.target={column: odd}"]
    plan = make_plan(load_config(str(folder / "config.yaml"), settings=settings), in_process=True)
    assert not plan.spec.targets.mirrored
    with pytest.raises(UserError, match="not an output index"):
        make_plan(load_config(str(folder / "config.yaml"), settings=["model.target=1"]), in_process=True)


def test_a_label_that_is_neither(folder: Path, tmp_path: Path) -> None:
    settings = ("model.target={column: odd}", "limits.rejected=1")
    run = worlds.explain(folder / "config.yaml", tmp_path / "run", *settings)
    reasons = set(run.rejected()["reason"].to_pylist())
    assert reasons == {"target odd is 2, not a class of the model: 0, 1"}
