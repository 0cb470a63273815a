"""`show` of an id that several rows have: says so, lists them, and shows the one that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.results.run import Run
from tests.support import worlds
from transforms.errors import UserError

SCORING = """
def predict(batch):
    return batch["a"] * 2
"""
#: Of each file the values, of which None is rejected; ids repeat every five rows.
FILES = {
    "one.parquet": [None, 1.0, 2.0, 3.0, None, 5.0],
    "two.parquet": [6.0, None, None, 9.0, 10.0, 11.0, 12.0],
    "zero.parquet": [None, None, None, None],  # a part without a row
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("repeated")
    number = 0
    for name, values in FILES.items():
        ids = [f"trip {(number + row) % 5}" for row in range(len(values))]
        pq.write_table(pa.table({"id": ids, "a": pa.array(values, pa.float64())}), folder / name)
        number += len(values)
    (folder / "repeated_scoring.py").write_text(SCORING, encoding="utf-8")
    config = worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: repeated_scoring:predict"},
        input={"files": "*.parquet", "id": "id"},
        method={"name": "exact_shap"},
        baseline={"kind": "zeros"},
        output={"path": "run"},
        compute={"shard_rows": 4},
        limits={"rejected": 1.0},
    )
    return worlds.explain(config, folder / "run")


def places(id: str) -> dict[str, float]:
    """By hand: file and row of each explained row of an id, with its value."""
    flat = [(name, row, value) for name, values in FILES.items() for row, value in enumerate(values)]
    return {
        f"{name}:{row}": value
        for at, (name, row, value) in enumerate(flat)
        if value is not None and f"trip {at % 5}" == id
    }


@pytest.mark.parametrize("id", [f"trip {at}" for at in range(5)])
def test_each_row_of_an_id_can_be_shown(run: Run, id: str) -> None:
    expected = places(id)
    first = run.example(id)
    assert set(first.places) == (set(expected) if len(expected) > 1 else set())
    if not first.places:
        return
    assert list(first.places) == list(expected), "in the input's order, the first one first"
    for place, value in expected.items():
        found = run.example(id, place)
        assert found.rows[0]["prediction"] == pytest.approx(2 * value)
        assert found.values["a"] == pytest.approx(value)
        assert found.places[0] == place
        assert sorted(found.places) == sorted(expected)


def test_it_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", run.path, "trip 1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    own, *others = places("trip 1")
    assert f"{len(others) + 1} rows have this id; this is {own}, the others are {', '.join(others)}" in out
    assert "--at FILE:ROW" in out
    assert cli.run(["show", run.path, "trip 1", "--at", others[-1], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["places"][0] == others[-1]
    np.testing.assert_allclose(told["attributions"][0]["prediction"], 2 * places("trip 1")[others[-1]])
    assert cli.run(["show", run.path, "trip 1", "--at", "one.parquet:0"]) == 2
    assert "does not have the id 'trip 1'; the rows with this id are" in capsys.readouterr().err


def test_ids_of_rows_themselves_are_their_own(run: Run) -> None:
    config = Path(run.path).parent / "config.yaml"
    plain = worlds.explain(config, Path(run.path).parent / "plain", "input.id=null")
    found = plain.example("two.parquet:3", "two.parquet:3")
    assert found.places == ()
    assert found.rows[0]["prediction"] == pytest.approx(18.0)
    with pytest.raises(UserError, match="does not have the id"):
        plain.example("two.parquet:3", "two.parquet:4")


def test_two_targets_are_one_example(tmp_path: Path) -> None:
    (tmp_path / "pair_scoring.py").write_text(
        "import numpy as np\n\ndef predict(batch):\n    return np.stack([batch['a'], -batch['a']], axis=1)\n"
    )
    pq.write_table(pa.table({"id": ["x", "y", "x"], "a": [1.0, 2.0, 3.0]}), tmp_path / "rows.parquet")
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "python: pair_scoring:predict", "target": "all"},
        input={"files": "rows.parquet", "id": "id"},
        method={"name": "exact_shap"},
        baseline={"kind": "zeros"},
        output={"path": "run"},
    )
    run = worlds.explain(config, tmp_path / "run")
    found = run.example("x", "rows.parquet:2")
    assert [row["prediction"] for row in found.rows] == [3.0, -3.0]
    assert found.places == ("rows.parquet:2", "rows.parquet:0")
    assert load_run(run.path).example("y").places == ()
