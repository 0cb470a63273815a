"""Runs that go on, are left alone, or are replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline import explain, load_run
from pipeline.config.config import load_config
from pipeline.execution.run import execute
from pipeline.runners import submit
from tests.support import worlds
from tests.support.known_worlds import linear_config, linear_world
from transforms.errors import UserError


class Trouble:
    """Moves an input file away after the plan was made, so that shards that need it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self._path, self._away = path, path.with_name("away")
        real: Callable[..., None] = submit.run_pipeline

        def run_pipeline(*arguments: Any) -> None:
            if self.on:
                self._path.rename(self._away)
            try:
                real(*arguments)
            finally:
                if self.on:
                    self._away.rename(self._path)

        self.on = True
        monkeypatch.setattr(submit, "run_pipeline", run_pipeline)


def vectors_copy(folder: Path) -> Path:
    world = worlds.vectors()
    shutil.copytree(world.folder, folder, dirs_exist_ok=True)
    return folder / "parquet.yaml"


def test_a_broken_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = vectors_copy(tmp_path / "data")
    trouble = Trouble(monkeypatch, tmp_path / "data" / "part-d-ünï.parquet")
    place = tmp_path / "run"
    with pytest.raises((UserError, pipeline.execution.run.RunBrokenError), match="part-d-ünï"):
        worlds.explain(config, place, "compute.shard_rows=40")
    done = {path.name: path.stat().st_mtime_ns for path in (place / "attributions").glob("part-*.parquet")}
    journal = sorted(path.name for path in (place / "_work" / "shards").glob("*.done"))
    assert 2 <= len(journal) < 8
    assert len(done) == len(journal), "no part without its journal entry"
    assert not (place / "manifest.json").exists()
    with pytest.raises(UserError, match="did not finish"):
        load_run(place)

    with pytest.raises(UserError, match="holds an unfinished run"):  # another config must not take it over
        worlds.explain(config, place, "compute.shard_rows=40", "seed=5")
    assert sorted(path.name for path in (place / "_work" / "shards").glob("*.done")) == journal

    trouble.on = False
    run = worlds.explain(config, place, "compute.shard_rows=40")
    for name, time in done.items():
        assert (place / "attributions" / name).stat().st_mtime_ns == time, (
            "a finished shard is not done again"
        )
    assert not (place / "_work").exists()
    undisturbed = worlds.explain(config, tmp_path / "undisturbed", "compute.shard_rows=40")
    assert len(worlds.part_bytes(run)) > len(done)
    assert worlds.part_bytes(run) == worlds.part_bytes(undisturbed)
    assert run.manifest["counts"] == undisturbed.manifest["counts"]
    assert run.manifest["quality"] == undisturbed.manifest["quality"]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_committed_run_is_left_alone_refused_or_replaced(tmp_path: Path) -> None:
    config = worlds.trips()
    place = tmp_path / "run"
    worlds.explain(config, place)
    before = contents(place)

    again = execute(load_config(str(config), output=str(place)))
    assert again.reused
    assert contents(place) == before

    with pytest.raises(UserError, match=r"different.*: method\.n_steps: 20 there, 30 here; .*--overwrite"):
        worlds.explain(config, place, "method.n_steps=30")
    assert contents(place) == before

    # Made anew, the same run is the same, and yet another: its files are.
    parts, folder = worlds.part_bytes(load_run(place)), place.stat().st_ino
    anew = execute(load_config(str(config), output=str(place)), overwrite=True)
    assert not anew.reused
    assert place.stat().st_ino != folder
    assert worlds.part_bytes(load_run(place)) == parts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]

    replaced = worlds.explain(config, place, "method.n_steps=30", "compute.shard_rows=150", overwrite=True)
    assert replaced.manifest["config"]["method"]["n_steps"] == 30
    assert len(replaced.parts()) == 2, "no part of the old run is left"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_that_is_being_replaced_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = vectors_copy(tmp_path / "data")
    place = tmp_path / "run"
    worlds.explain(config, place, "compute.shard_rows=64")
    before = contents(place)
    trouble = Trouble(monkeypatch, tmp_path / "data" / "part-d-ünï.parquet")
    with pytest.raises((UserError, pipeline.execution.run.RunBrokenError)):
        worlds.explain(config, place, "compute.shard_rows=40", overwrite=True)
    assert contents(place) == before
    trouble.on = False
    replaced = worlds.explain(config, place, "compute.shard_rows=40", overwrite=True)
    assert len(replaced.parts()) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run"]


def test_limits_are_judged_anew_on_a_run_that_is_there(tmp_path: Path) -> None:
    config, place = str(worlds.trips()), str(tmp_path / "run")
    target = "model.target={column: which}"
    first = execute(load_config(config, output=place, settings=[target]))
    assert len(first.exceeded) == 1
    wider = execute(load_config(config, output=place, settings=[target, "limits.rejected=0.5"]))
    assert wider.reused
    assert wider.exceeded == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_never_touched(overwrite: bool, tmp_path: Path) -> None:
    place = tmp_path / "letters"
    place.mkdir()
    (place / "to-mother.txt").write_text("Dear mother")
    before = contents(place)
    with pytest.raises(UserError, match=r"letters: is not a run directory.*to-mother\.txt"):
        explain(worlds.trips(), output=str(place), overwrite=overwrite)
    assert contents(place) == before


def test_a_change_of_the_input_is_another_run(tmp_path: Path) -> None:
    config = vectors_copy(tmp_path / "data")
    place = tmp_path / "run"
    worlds.explain(config, place)
    part = tmp_path / "data" / "part-b.parquet"
    pq.write_table(pq.read_table(part), part)
    with pytest.raises(UserError, match="a different config, model or input"):
        worlds.explain(config, place)


def test_a_model_that_is_saved_again_is_loaded_again(tmp_path: Path) -> None:
    """As in a notebook: train, explain, train, explain, all in one process."""
    pq.write_table(pa.table({"a": [1.0, 2.0], "b": [3.0, 5.0]}), tmp_path / "rows.parquet")
    config = linear_config(tmp_path, baseline={"kind": "zeros"})
    weights = linear_world(tmp_path, 2)
    rows = np.array([[1.0, 3.0], [2.0, 5.0]])
    first = worlds.explain(config, tmp_path / "one")
    np.testing.assert_allclose(worlds.phi(first.attributions()), rows * weights, atol=1e-6)

    import keras

    model = keras.models.load_model(tmp_path / "model.keras")
    model.set_weights([np.array([[7.0], [9.0]]), np.zeros(1)])
    model.save(tmp_path / "model.keras")
    second = worlds.explain(config, tmp_path / "two")
    np.testing.assert_allclose(worlds.phi(second.attributions()), rows * [7.0, 9.0], atol=1e-5)
    assert first.manifest["model"]["digest"] != second.manifest["model"]["digest"]


def test_rows_that_the_model_refuses_are_no_background(tmp_path: Path) -> None:
    """A sample of all rows holds the one that is outside the embedding; the others stand for it."""
    config = worlds.trips()
    for name in ("trips.yaml", "model.keras"):
        shutil.copy(config.parent / name, tmp_path / name)
    table = pq.read_table(config.parent / "trips-2.parquet")
    hours = [99 if i == 13 else hour for i, hour in enumerate(table["hour"].to_pylist())]
    at = table.column_names.index("hour")
    pq.write_table(table.set_column(at, "hour", pa.array(hours, pa.int8())), tmp_path / "trips-2.parquet")
    run = worlds.explain(tmp_path / "trips.yaml", tmp_path / "run", "method=expected_gradients")
    assert run.manifest["baseline"] == {**run.manifest["baseline"], "kind": "sample", "rows": 79}
    assert run.manifest["counts"]["rows_attributed"] == 79
