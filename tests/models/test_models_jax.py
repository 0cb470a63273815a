"""SavedModels that JAX wrote: TensorFlow differentiates them by the gradient that they were stored with.

What they should give is JAX's own word, recorded beside them.
"""

from __future__ import annotations

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.models.cut_worlds import gradients, integrated, total
from transforms.errors import UserError
from transforms.models.graphs.scored import ScoredGraph
from transforms.models.kinds.savedmodel import SavedModel

DATA = Path(__file__).parents[1] / "data" / "jax"


@cache
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "expected.json").read_text())
    return found


def stored(name: str, folder: Path) -> ScoredGraph:
    with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
        archive.extractall(folder)
    return ScoredGraph(SavedModel(str(folder / name)), {"x": (4,)})


@pytest.mark.parametrize("name", ["jax2tf", "keras"])
def test_a_model_of_jax_has_its_own_gradient(name: str, tmp_path: Path) -> None:
    model, told = stored(name, tmp_path), expected()[name]
    rows = {"x": np.array(expected()["x"], np.float32)}
    np.testing.assert_allclose(model.evaluate(rows)[1], told["output"], atol=1e-6)
    np.testing.assert_allclose(gradients(model, rows)["x"][:, 0], told["gradient"], atol=1e-6)
    base = {"x": np.full((1, 4), 0.5, np.float32)}
    difference = model.evaluate(rows)[0] - model.evaluate(base)[0]
    np.testing.assert_allclose(total(integrated(model, rows, base))[:, 0], difference[:, 0], atol=1e-5)


def test_a_model_of_jax_without_its_gradient_says_how_to_store_it(tmp_path: Path) -> None:
    model = stored("jax2tf_without_gradient", tmp_path)
    rows = {"x": np.array(expected()["x"], np.float32)}
    told = expected()["jax2tf_without_gradient"]
    np.testing.assert_allclose(model.evaluate(rows)[1], told["output"], atol=1e-6)
    with pytest.raises(UserError, match="without the gradients of its JAX function") as caught:
        model.differentiable(rows)
    assert "experimental_custom_gradients=True" in str(caught.value)
