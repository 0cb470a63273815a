"""Whether the loaded model is the user's model: its library's own prediction, and how it behaves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import load_config
from pipeline.planning.model.checks import differing
from pipeline.planning.model.targets import find_targets
from pipeline.planning.plan import make_plan
from tests.support import worlds
from transforms.errors import UserError
from transforms.models.base import HeadSpec, InputSpec, Signature
from transforms.rows.baselines.baselines import first_rows
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources.inspection import inspect_files
from transforms.worker.spec import TargetSpec


def test_predictions_differ_by_more_than_rounding_only_where_they_do() -> None:
    ours = np.array([[1.0, 5.0], [np.nan, 1e-9], [np.inf, -1.0], [2.0, 3.0], [1e30, 0.0]], np.float32)
    assert not differing(ours, ours, 1e-4).any()
    assert not differing(ours, ours * np.float32(1 + 1e-6), 1e-4).any()
    theirs = ours.copy()
    theirs[0, 0], theirs[1, 0], theirs[2, 0], theirs[3, 1] = 1.1, 0.0, 7.0, 3.01
    found = differing(ours, theirs, 1e-4)
    # An output of 1e30 in one row hides nothing of the others but what is far below it.
    np.testing.assert_array_equal(found[:, 1], [False, False, False, True, False])
    np.testing.assert_array_equal(found[1:3, 0], [True, True])


def test_the_first_rows_are_kept_as_the_file_holds_them(tmp_path: Path) -> None:
    """Dictionaries and numbers, without the rows that are rejected; what was written is the truth."""
    x = [None if row % 7 == 3 else float(row) for row in range(400)]
    city = [f"c{row % 5}" for row in range(400)]
    table = pa.table({"skip": range(400), "x": pa.array(x), "city": pa.array(city).dictionary_encode()})
    pq.write_table(table.slice(0, 90), tmp_path / "a.parquet")
    pq.write_table(table.slice(90), tmp_path / "b.parquet", row_group_size=50)
    files = inspect_files([(str(tmp_path / name), name) for name in ("a.parquet", "b.parquet")])
    features = (
        FeatureSpec("city", "categorical", "string", (), pa.string(), None, "city", 0),
        FeatureSpec("x", "numeric", "float32", (), pa.float64(), None, "x", 0),
    )
    first = first_rows(files, ExampleSchema(features, {"city": (), "x": ()}, {}), 300)
    assert first is not None
    assert first.stored is not None
    assert first.stored.schema.names == ["city", "x"]
    assert first.stored.num_rows == 256 < len(first)
    usable = [row for row in range(400) if x[row] is not None][:256]
    assert first.stored["x"].to_pylist() == [x[row] for row in usable]
    assert first.stored["city"].to_pylist() == [city[row] for row in usable]
    np.testing.assert_array_equal(first.features["x"][:256], first.stored["x"].to_numpy())


OWN_STEP = """
import keras

@keras.saving.register_keras_serializable("{name}")
class Halved(keras.Model):
    def predict_step(self, data):
        return super().predict_step(data) * {factor}
"""


def own_step(folder: Path, name: str, factor: float) -> Path:
    """A saved model whose `predict` gives `factor` times what its call gives, a table and a config."""
    import importlib.util

    import keras

    (folder / f"{name}.py").write_text(OWN_STEP.format(name=name, factor=factor))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = keras.Input((2,), name="x")
    module.Halved(given, keras.layers.Dense(2, name="heat")(given)).save(folder / "model.keras")
    rng = np.random.default_rng(0)
    table = pa.table(
        {"id": [f"row {n}" for n in range(20)], "a": rng.normal(size=20), "b": rng.normal(size=20)}
    )
    pq.write_table(table, folder / "rows.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": "model.keras", "modules": [name]},
        input={"files": "rows.parquet", "id": "id"},
        method="saliency",
        output={"path": "run"},
    )


def test_a_keras_model_that_predicts_otherwise_than_it_is_called_is_not_explained(tmp_path: Path) -> None:
    config = own_step(tmp_path, "steps_of_half", 0.5)
    with pytest.raises(
        UserError, match=r"own prediction of row row 0 for heat\[0\] is .* of the first 20 rows"
    ):
        make_plan(load_config(str(config)), in_process=True)


def test_a_keras_model_with_a_step_of_its_own_that_agrees_is_explained(tmp_path: Path) -> None:
    make_plan(load_config(str(own_step(tmp_path, "steps_of_one", 1.0))), in_process=True)


def test_a_heads_name_is_a_target() -> None:
    """All outputs of the head; `predicted` with several heads points there."""
    heads = (HeadSpec("reg", (5,)), HeadSpec("click", ()), HeadSpec("kind", (3,), ("a", "b", "c")))
    model: Any = SimpleNamespace(signature=Signature((InputSpec("x", (2,), "float32"),), heads))
    for name, indices in (
        ("reg", range(5)),
        ("click", [5]),
        ("kind", [6, 7, 8]),
        ("reg[4]", [4]),
        ("b", [7]),
    ):
        assert find_targets(name, None, model) == TargetSpec(tuple(indices)), name
    with pytest.raises(UserError, match="several: reg, click, kind; give a head's name"):
        find_targets("predicted", None, model)
    with pytest.raises(UserError, match="did you mean reg"):
        find_targets("regg", None, model)
