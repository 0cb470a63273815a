"""A run over an input that has grown explains what is new and takes over the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.results.run import Run
from tests.support import worlds
from tests.support.faults import Point, armed
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.outputs.run_files import AGGREGATES, SAMPLE

SCORING = """
import numpy as np

calls = []

def predict(batch):
    calls.append(len(batch["wind"]))
    return np.where(batch["hour"] > 12, batch["wind"] * batch["distance"], batch["distance"] - batch["wind"])
"""
METHOD = {"name": "permutation_shap", "n_permutations": 2}


def write_rows(path: Path, first: int, rows: int) -> None:
    rng = np.random.default_rng(first)
    pq.write_table(
        pa.table(
            {
                "trip": [f"trip {i}" for i in range(first, first + rows)],
                "hour": pa.array(
                    [None if i == 7 else i % 24 for i in range(first, first + rows)], pa.int64()
                ),
                "wind": rng.normal(10, 3, rows),
                "distance": rng.normal(5, 1, rows).astype(np.float32),
                "carrier": rng.choice(["X", "Y", f"Z{first}"], rows),
            }
        ),
        path,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config that may be added to, over days 2 and 3; each row has a permutation of its own."""
    write_rows(tmp_path / "day-2.parquet", 0, 40)
    write_rows(tmp_path / "day-3.parquet", 40, 25)
    (tmp_path / "scoring.py").write_text(SCORING, encoding="utf-8")
    return worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "python: scoring:predict"},
        input={"files": "day-*.parquet", "id": "trip", "slices": ["carrier"]},
        method=METHOD,
        baseline={"kind": "sample", "rows": 6},
        output={"path": "run"},
        compute={"shard_rows": 20, "batch_size": 10},
        limits={"rejected": 0.1},
        incremental=True,
    )


def explain(config: Path, *settings: str, **options: bool) -> Run:
    return worlds.explain(config, config.parent / "run", *settings, **options)


def grow(config: Path) -> None:
    """A day before the others and one after them."""
    write_rows(config.parent / "day-1.parquet", 65, 30)
    write_rows(config.parent / "day-4.parquet", 95, 15)


def test_only_what_is_new_is_explained(config: Path) -> None:
    first = explain(config)
    parts = worlds.part_bytes(first)
    grow(config)
    run = explain(config)
    assert run.manifest["counts"] == {
        "rows_read": 110, "rows_attributed": 109, "rows_rejected": 1, "attributions": 109,
    }  # fmt: skip
    assert [item["file"] for item in run.manifest["inputs"]] == [f"day-{n}.parquet" for n in (2, 3, 1, 4)]
    found = worlds.part_bytes(run)
    old = {name: data for name, data in parts.items() if name not in AGGREGATES}
    assert found.items() >= old.items()  # not read, not explained, not written again
    sample = pq.read_table(Path(run.path) / SAMPLE)
    drawn = sample["example_id"].filter(pc.equal(sample["kind"], "sample"))
    assert sorted(drawn.to_pylist()) == sorted(run.attributions()["example_id"].to_pylist())
    new = sorted(found.keys() - parts.keys())
    assert new == [f"attributions/part-0000{n}.parquet" for n in (4, 5, 6)]
    ids = run.attributions(columns=["example_id"])["example_id"].to_pylist()
    assert ids == [f"trip {i}" for i in range(110) if i != 7]
    assert [part["rows"] for part in run.manifest["increments"]] == [65, 45]
    assert [part["run_id"] for part in run.manifest["increments"]] == [
        first.manifest["run_id"], run.manifest["run_id"],
    ]  # fmt: skip
    assert run.manifest["baseline"] == first.manifest["baseline"]
    assert not list(config.parent.glob(".*"))


def test_it_is_the_run_that_would_have_explained_it_all(config: Path, tmp_path: Path) -> None:
    """Against one run over all days with the same baseline; what is drawn for a row hangs on its place."""
    pq.write_table(pq.read_table(config.parent / "day-2.parquet")[20:30], tmp_path / "base.parquet")
    settings = ['baseline={"kind": "file", "path": "base.parquet"}', "method=exact_shap"]
    explain(config, *settings)
    grow(config)
    run = explain(config, *settings)
    whole = worlds.explain(config, tmp_path / "whole", *settings)
    one, other = (
        table.to_pandas().set_index("example_id") for table in (run.attributions(), whole.attributions())
    )
    assert len(run.manifest["increments"]) == 2
    assert len(whole.manifest["increments"]) == 1
    assert one.loc[other.index].equals(other)
    keys = ["slice", "target", "feature"]
    mine, theirs = (r.importance().sort_values(keys).reset_index(drop=True) for r in (run, whole))
    assert set(mine["slice"]) == {"", *(f"carrier={c}" for c in ("X", "Y", "Z0", "Z40", "Z65", "Z95"))}
    np.testing.assert_array_equal(mine[keys], theirs[keys])
    # The ranks' intervals deal out rows by their place as well.
    for column in set(mine.columns) - {*keys, "target_name", "rank_low", "rank_high"}:
        np.testing.assert_allclose(mine[column], theirs[column], rtol=1e-12, err_msg=column)
    deltas = [r.manifest["quality"]["convergence_delta"] for r in (run, whole)]
    assert deltas[0] == pytest.approx(deltas[1])


def test_all_of_it_is_verified(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of both runs are explained once more, with the baseline and the places that they had."""
    explain(config)
    grow(config)
    run = explain(config)
    capsys.readouterr()
    assert cli.run(["verify", run.path, "--rows", "200"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "110 drawn" in out


def test_new_files_change_no_column_s_place(config: Path) -> None:
    """The columns are those of the files that came first, whatever the first by name has by now."""
    first = explain(config)
    grow(config)
    path = config.parent / "day-1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.select(table.column_names[::-1]), path)
    run = explain(config)
    assert run.features == first.features
    assert len(run.manifest["increments"]) == 2


def test_it_may_be_added_to_again_and_again(config: Path) -> None:
    explain(config)
    for day in range(4, 7):
        write_rows(config.parent / f"day-{day}.parquet", 100 * day, 10)
        run = explain(config)
        again = explain(config)
        assert again.manifest == run.manifest  # nothing new: left alone
    assert [part["files"] for part in run.manifest["increments"]] == [2, 1, 1, 1]
    assert run.manifest["counts"]["rows_read"] == 95
    values = run.explanation(rows=None)
    np.testing.assert_array_equal(
        values.data[:, 1],
        np.concatenate([pq.read_table(config.parent / f"day-{d}.parquet")["wind"] for d in range(2, 7)])[
            np.arange(95) != 7
        ],
    )


def test_it_says_what_it_takes_over(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["explain", str(config)]
    assert cli.run(command) == 0
    capsys.readouterr()
    grow(config)
    assert cli.run(["plan", str(config)]) == 0
    assert "45 of 110 rows; the others are taken over" in " ".join(capsys.readouterr().out.split())
    assert cli.run(["plan", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused_rows"] == 65
    assert cli.run(command) == 0
    captured = capsys.readouterr()
    assert "65 rows of 2 files were taken over; 45 of 2 new files explained now" in " ".join(
        captured.out.split()
    )
    model = captured.err
    assert "error" not in model


@pytest.mark.parametrize(
    ("harm", "settings", "why"),
    [
        (lambda folder: (folder / "day-2.parquet").unlink(), (), "day-2.parquet is no longer in the input"),
        (lambda folder: write_rows(folder / "day-2.parquet", 0, 41), (), "day-2.parquet has changed"),
        (lambda folder: write_rows(folder / "day-2.parquet", 3, 40), (), "has changed"),
        (lambda folder: None, ("seed=4",), "seed: 0 there, 4 here"),
        (
            lambda folder: (folder / "scoring.py").write_text(SCORING + "\n"),
            (),
            "the model: ",
        ),
    ],
    ids=["a file gone", "a file longer", "a file changed", "another seed", "another model"],
)
def test_what_is_not_the_same_is_not_added_to(
    harm: object, settings: tuple[str, ...], why: str, config: Path
) -> None:
    first = explain(config)
    before = worlds.part_bytes(first)
    grow(config)
    harm(config.parent)  # type: ignore[operator]
    with pytest.raises(UserError, match="different config, model or input, and cannot be added to: .*" + why):
        explain(config, *settings)
    assert worlds.part_bytes(load_run(first.path)) == before
    run = explain(config, *settings, overwrite=True)
    assert len(run.manifest["increments"]) == 1


def test_a_column_of_another_type_in_a_new_file_is_named(config: Path) -> None:
    """Whole numbers so far, halves from now on: to the model it would be another column."""
    explain(config)
    write_rows(config.parent / "day-4.parquet", 95, 15)
    table = pq.read_table(config.parent / "day-4.parquet")
    hours = table["hour"].cast(pa.float64())
    pq.write_table(table.set_column(1, "hour", hours), config.parent / "day-4.parquet")
    why = "cannot be added to: the column hour: int64 there, double over all files here; give another"
    with pytest.raises(UserError, match=why):
        explain(config)


def test_a_run_that_keeps_no_aggregates_is_not_added_to(config: Path) -> None:
    explain(config, "incremental=false")
    assert len(explain(config).manifest["increments"]) == 1  # the same: left alone
    grow(config)
    with pytest.raises(UserError, match="it was made without incremental: true"):
        explain(config)
    with pytest.raises(
        UserError,
        match=r"different config, model or input: day-1\.parquet is new in the input; .*give another",
    ):
        explain(config, "incremental=false")


@pytest.mark.parametrize(
    "point",
    [
        Point("os.rename", "_work/base"),
        Point("os.rename", r"attributions/part-00005\.parquet"),
        Point("os.rename", r"\.next/manifest\.json"),
        Point("before pipeline.execution.commit:swap"),
        Point("os.rename", "/run"),
    ],
    ids=lambda point: point.path or point.what,
)
def test_it_goes_on_from_wherever_it_broke(point: Point, config: Path, tmp_path: Path) -> None:
    first = explain(config)
    before = worlds.part_bytes(first)
    grow(config)
    whole = worlds.part_bytes(run_elsewhere(config, tmp_path))
    with armed(point, "broken"):
        assert cli.run(["explain", str(config)]) == 3
    if point.path != "/run":
        assert worlds.part_bytes(load_run(first.path)) == before
    assert worlds.part_bytes(explain(config)) == whole


def run_elsewhere(config: Path, tmp_path: Path) -> Run:
    """The same two runs, undisturbed, in another place."""
    hidden = [config.parent / f"day-{n}.parquet" for n in (1, 4)]
    for path in hidden:
        path.rename(path.with_suffix(".away"))
    worlds.explain(config, tmp_path / "elsewhere")
    for path in hidden:
        path.with_suffix(".away").rename(path)
    return worlds.explain(config, tmp_path / "elsewhere")


def test_in_an_object_store_the_parts_are_copied_there(config: Path, tmp_path: Path) -> None:
    store = f"{MemoryFileSystem.scheme()}://bucket/runs/x"
    MemoryFileSystem.blobs.clear()
    try:
        pipeline.explain(str(config), output=store)
        grow(config)
        run = pipeline.explain(str(config), output=store)
        local = {path.relative_to(tmp_path) for path in (tmp_path / "run").rglob("*.parquet")}
        assert not local
        names = {path.removeprefix(f"{store}/") for path in MemoryFileSystem.blobs}
        assert names == {"manifest.json", *(part["file"] for part in run.manifest["parts"])}
        assert run.manifest["counts"]["rows_read"] == 110
        assert len(run.attributions()) == 109
    finally:
        MemoryFileSystem.blobs.clear()


def test_a_run_of_some_rows_is_not_taken_for_the_whole(config: Path) -> None:
    some = worlds.explain(config, config.parent / "run", limit=10)
    assert len(some.explanation(rows=None).data) == 9  # one is rejected; its values are in the input
    with pytest.raises(UserError, match="cannot be added to: it was made with --limit"):
        explain(config)
    assert explain(config, overwrite=True).manifest["counts"]["rows_read"] == 65


def test_a_new_file_without_rows_stops_nothing(config: Path) -> None:
    explain(config)
    write_rows(config.parent / "day-4.parquet", 65, 0)
    run = explain(config)
    assert explain(config).manifest == run.manifest
    write_rows(config.parent / "day-5.parquet", 65, 10)
    assert explain(config).manifest["counts"]["rows_read"] == 75
    assert cli.run(["verify", run.path]) == 0


def test_what_stands_for_the_input_stays_what_it_was(tmp_path: Path) -> None:
    """With a baseline of one row, spread and noise are of the first rows: of the first increment's."""
    import keras

    keras.utils.set_random_seed(1)
    inputs = keras.Input((2,), name="x")
    keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(4, "tanh")(inputs))).save(
        tmp_path / "m.keras"
    )
    rng = np.random.default_rng(0)
    for day, (rows, scale) in enumerate(((50, 1.0), (100, 20.0))):
        table = pa.table({name: (scale * rng.normal(size=rows)).astype(np.float32) for name in ("a", "b")})
        pq.write_table(table, tmp_path / f"hidden-{day}.parquet")
    config = worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "m.keras"},
        input={"files": "day-*.parquet"},
        method={"name": "smoothgrad", "n_samples": 4},
        baseline={"kind": "mean"},
        output={"path": "run"},
        incremental=True,
    )
    for day in range(2):
        (tmp_path / f"hidden-{day}.parquet").rename(tmp_path / f"day-{day}.parquet")
        run = worlds.explain(config, tmp_path / "run")
    assert len(run.manifest["increments"]) == 2
    assert cli.run(["verify", run.path, "--rows", "150"]) == 0


@pytest.mark.parametrize("harm", ["cut short", "gone"])
def test_parts_that_are_not_as_they_were_are_not_taken_over(harm: str, config: Path) -> None:
    first = explain(config)
    part = Path(first.path) / "attributions" / "part-00001.parquet"
    if harm == "gone":
        part.unlink()
    else:
        part.write_bytes(b"PAR1")
    grow(config)
    with pytest.raises(UserError, match=r"part-00001.parquet is missing or has changed, so nothing can be"):
        explain(config)
    assert load_run(first.path).manifest == first.manifest


@pytest.mark.parametrize("harm", ["a part", "the aggregates", "the aggregates' end"])
def test_what_was_taken_over_is_looked_at_again(harm: str, config: Path, tmp_path: Path) -> None:
    explain(config)
    grow(config)
    whole = worlds.part_bytes(run_elsewhere(config, tmp_path))
    with armed(Point("before pipeline.execution.run:commit_run"), "broken"):
        assert cli.run(["explain", str(config)]) == 3
    place = tmp_path / ".run.next"
    if harm == "a part":
        (place / "attributions" / "part-00001.parquet").unlink()
    else:
        data = (place / "_work" / "base").read_bytes()
        (place / "_work" / "base").write_bytes(b"" if harm == "the aggregates" else data[:-1])
    assert worlds.part_bytes(explain(config)) == whole
