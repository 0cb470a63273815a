"""`attribeam verify`: what is changed after a run is found, by the check whose it is and by no other."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import commands as cli
from pipeline.verify import rows
from pipeline.verify.verify import compare_inputs
from tests.support import worlds
from transforms.errors import InputLost
from transforms.storage import files

MODEL = """
import numpy as np

WEIGHTS = np.array([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]])


def score(arrays):
    x = np.column_stack([arrays["a"], arrays["b"], arrays["c"]]).astype(np.float64)
    if (x[:, 0] > 90).any():
        raise ValueError("a is more than 90")
    return np.tanh(x @ WEIGHTS / 20) * [1, 100]
"""
#: By number of the row: one that cannot be decoded, and one that the model does not take.
BAD = {37: ("b", None), 71: ("a", 95.0)}


@dataclass
class World:
    """A folder with a config, its input and its model, and a run of it."""

    folder: Path
    run: Path

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "manifest.json").read_text())
        return found

    def edit(self, **changes: Any) -> None:
        (self.run / "manifest.json").write_text(json.dumps({**self.manifest, **changes}))

    def part(self, number: int) -> Path:
        return self.run / "attributions" / f"part-{number:05d}.parquet"

    def seal(self) -> None:
        """Makes the manifest's checksums those of the files as they are, as a careful forger would."""
        names = sorted(str(path.relative_to(self.run)) for path in self.run.rglob("*.parquet"))
        self.edit(parts=[_part(self.run, name) for name in names])

    def copy(self, place: Path) -> World:
        folder, run = place / "world", place / "run"
        shutil.copytree(self.folder, folder)
        shutil.copytree(self.run, run)
        found = World(folder, run)
        found.edit(config_folder=str(folder))
        return found


def _part(run: Path, name: str) -> dict[str, Any]:
    data = (run / name).read_bytes()
    return {
        "file": name,
        "rows": pq.read_metadata(run / name).num_rows,
        "bytes": len(data),
        "digest": hashlib.blake2b(data, digest_size=32).hexdigest(),
    }


def _columns(rows: int, first: int) -> dict[str, Any]:
    rng = np.random.default_rng(first)
    columns: dict[str, Any] = {name: [float(v) for v in rng.normal(size=rows)] for name in "abc"}
    for number, (name, value) in BAD.items():
        if first <= number < first + rows:
            columns[name][number - first] = value
    # Ids come twice: rows are told apart by their places.
    columns["id"] = [f"id {(first + i) % 40}" for i in range(rows)]
    return columns


@cache
def numpy_world() -> World:
    folder = worlds.shelf() / "verified"
    folder.mkdir()
    (folder / "verified_model.py").write_text(MODEL)
    pq.write_table(pa.table(_columns(70, 0)), folder / "rows-1.parquet", row_group_size=16)
    pq.write_table(pa.table(_columns(30, 70)), folder / "rows-2.parquet")
    worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: verified_model:score", "target": "all"},
        input={"files": "rows-*.parquet", "id": "id", "features": ["a", "b", "c"]},
        method={"name": "exact_shap"},
        baseline={"kind": "constant", "value": 0.5},
        output={"path": "run"},
        compute={"shard_rows": 32, "batch_size": 16},
        limits={"rejected": 0.1},
    )
    worlds.explain(folder / "config.yaml", folder.parent / "verified-run")
    world = World(folder, folder.parent / "verified-run")
    world.seal()
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return numpy_world().copy(tmp_path)


@dataclass
class Verified:
    status: int
    told: dict[str, Any]
    error: str

    def states(self, state: str) -> set[str]:
        return {check["name"] for check in self.told["checks"] if check["state"] == state}

    def of(self, name: str) -> dict[str, Any]:
        (found,) = (check for check in self.told["checks"] if check["name"] == name)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Callable[..., Verified]:
    def call(run: Path, *options: str) -> Verified:
        status = cli.run(["verify", str(run), "--json", "--seed", "1", *options])
        out, err = capsys.readouterr()
        assert status in (0, 1), err
        return Verified(status, json.loads(out), err)

    return call


Verify = Callable[..., Verified]
CHECKS = {"parts", "counts", "importance", "inputs", "model", "baseline", "rows"}


def test_an_untouched_run_is_well(world: World, verify: Verify) -> None:
    (world.folder / "config.yaml").unlink()  # the manifest has all of it
    found = verify(world.run)
    assert (found.status, found.error) == (0, "")
    assert found.states("ok") == CHECKS
    rows = found.told["rows"]
    assert (rows["asked"], rows["compared"], rows["rejected_again"]) == (100, 100, 2)
    assert rows["identical"] == 98
    assert rows["largest_difference"] == 0
    assert {"file": "rows-2.parquet", "row": 1} in rows["drawn"]


def test_a_draw_can_be_repeated(world: World, verify: Verify, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (verify(world.run, "--rows", "20", "--seed", s) for s in ("5", "5", "6"))
    assert first.told["rows"]["drawn"] == again.told["rows"]["drawn"] != other.told["rows"]["drawn"]
    assert len(first.told["rows"]["drawn"]) == 20
    seeds = set()
    for _ in range(2):
        assert cli.run(["verify", str(world.run), "--rows", "1"]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert "1 drawn with --seed " in words
        seeds.add(words.split("--seed ")[1].split(":")[0])
    assert len(seeds) == 2, "somebody who knows the seed knows which rows need not be forged well"


# -- one thing changed at a time -----------------------------------------------------------------------------


def flip_a_byte(world: World) -> None:
    data = bytearray(world.part(1).read_bytes())
    data[len(data) // 2] ^= 1
    world.part(1).write_bytes(data)


def take_a_part_away(world: World) -> None:
    world.part(2).unlink()


def add_a_part(world: World) -> None:
    shutil.copy(world.part(0), world.part(7))


def add_a_file(world: World) -> None:
    (world.run / "rejected" / "notes.txt").write_text("of nobody")


def swap_two_parts(world: World) -> None:
    first, second = world.part(0).read_bytes(), world.part(2).read_bytes()
    world.part(0).write_bytes(second)
    world.part(2).write_bytes(first)


def name_a_file_elsewhere(world: World) -> None:
    world.edit(parts=[*world.manifest["parts"], {**world.manifest["parts"][0], "file": "../world/x.parquet"}])


def take_over_a_part_of_another_run(world: World) -> None:
    for name in ("attributions/part-00001.parquet", "rejected/part-00001.parquet"):
        table = pq.read_table(world.run / name)
        metadata = {**table.schema.metadata, b"attribeam.run_id": b"0123456789abcdef"}
        pq.write_table(table.replace_schema_metadata(metadata), world.run / name)
    world.seal()


def hide_a_part(world: World) -> None:
    world.part(3).unlink()
    world.seal()


def change_a_phi(world: World, factor: float = 1.001) -> None:
    table = pq.read_table(world.part(1))
    rows = table["attribution"].to_pylist()
    rows[6]["b"] *= factor
    struct = pa.array(rows, table.schema.field("attribution").type)
    at = table.schema.get_field_index("attribution")
    pq.write_table(table.set_column(at, table.schema.field(at), struct), world.part(1))
    world.seal()


def change_an_id(world: World) -> None:
    table = pq.read_table(world.part(1))
    ids = table["example_id"].to_pylist()
    ids[5] = "id 99"
    pq.write_table(table.set_column(0, table.schema.field(0), pa.array(ids, pa.string())), world.part(1))
    world.seal()


def change_a_stage(world: World) -> None:
    path = world.run / "rejected" / "part-00002.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("stage")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(["decode"])), path)
    world.seal()


def change_a_count(world: World) -> None:
    world.edit(counts={**world.manifest["counts"], "rows_rejected": 1})


def change_importance(world: World) -> None:
    path = world.run / "importance.parquet"
    table = pq.read_table(path)
    means = table["mean_abs"].to_numpy().copy()
    means[1] *= 1.0001
    at = table.schema.get_field_index("mean_abs")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(means)), path)
    world.seal()


def change_importance_alone(world: World) -> None:
    seal = world.manifest["parts"]
    change_importance(world)
    world.edit(parts=seal)


def train_the_model_anew(world: World) -> None:
    (world.folder / "verified_model.py").write_text(MODEL.replace("-2.0", "-2.5"))


def take_the_model_away(world: World) -> None:
    (world.folder / "verified_model.py").unlink()


def change_an_input_value(world: World) -> None:
    path = world.folder / "rows-1.parquet"
    before = path.stat().st_size
    table = pq.read_table(path)
    values = table["c"].to_pylist()
    values[3] = float(np.nextafter(values[3] + 0.125, 9))
    pq.write_table(table.set_column(2, "c", pa.array(values)), path, row_group_size=16)
    assert path.stat().st_size == before


def add_a_row(world: World) -> None:
    path = world.folder / "rows-2.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)


def take_an_input_away(world: World) -> None:
    (world.folder / "rows-1.parquet").unlink()


def touch_an_input(world: World) -> None:
    os.utime(world.folder / "rows-1.parquet", (1, 1))


def change_the_baseline(world: World) -> None:
    config = world.manifest["config"]
    config["baseline"]["value"] = 0.25
    world.edit(config=config)


#: What is done, the checks that must fail, and those of which nothing can be said then.
CHANGES: list[tuple[Callable[[World], None], set[str], set[str]]] = [
    (flip_a_byte, {"parts"}, {"importance", "rows"}),
    (take_a_part_away, {"parts"}, {"importance", "rows"}),
    (add_a_part, {"parts"}, {"importance"}),
    (add_a_file, {"parts"}, set()),
    (swap_two_parts, {"parts"}, {"importance", "rows"}),
    (name_a_file_elsewhere, {"parts"}, set()),
    (take_over_a_part_of_another_run, {"parts"}, {"importance", "rows"}),
    (hide_a_part, {"parts", "counts"}, {"importance", "rows"}),
    (change_a_phi, {"importance", "rows"}, set()),
    (lambda world: change_a_phi(world, 1.00003), {"rows"}, set()),
    (change_an_id, {"rows"}, set()),
    (change_a_stage, {"rows"}, set()),
    (change_a_count, {"counts"}, set()),
    (change_importance, {"importance"}, set()),
    (change_importance_alone, {"parts"}, {"importance"}),
    (train_the_model_anew, {"model"}, {"baseline", "rows"}),
    (take_the_model_away, {"model"}, {"baseline", "rows"}),
    (change_an_input_value, {"rows"}, set()),
    (add_a_row, {"inputs"}, {"baseline", "rows"}),
    (take_an_input_away, {"inputs"}, {"baseline", "rows"}),
    (touch_an_input, set(), set()),
    (change_the_baseline, {"baseline"}, {"rows"}),
]


@pytest.mark.parametrize(
    ("change", "failed", "unknown"), CHANGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_changed_is_found(
    change: Callable[[World], None], failed: set[str], unknown: set[str], world: World, verify: Verify
) -> None:
    change(world)
    found = verify(world.run)
    # An input whose manifest has a digest of its content is found out by that too.
    assert found.states("failed") - ({"inputs"} if change is change_an_input_value else set()) == failed
    assert found.states("unknown") == unknown
    assert found.states("ok") | failed | unknown == CHECKS
    assert found.status == (1 if failed else 0)
    if failed:
        line = found.error.splitlines()[-1]
        assert line.startswith(f"error: {world.run}: ")
        assert all(name in line for name in failed)


def test_a_change_is_told_where_it_is(
    world: World, verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    change_a_phi(world)
    # Part 1 begins at row 32, and row 37 was rejected: two targets a row, the seventh line is row 35's.
    (line,) = verify(world.run).of("rows")["details"]
    assert line.startswith("row 35 of rows-1.parquet (id 35): attribution of b differs by ")
    assert cli.run(["verify", str(world.run), "--tolerance", "0.5"]) == 1, "the importance is wrong as well"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line[:1].strip()] == [
        ["importance", "FAILED"],
        *([name, "ok"] for name in ("parts", "counts", "inputs", "model", "baseline", "rows")),
    ]
    assert verify(world.run, "--tolerance", "0.5").of("rows")["state"] == "ok"


def test_all_that_is_wrong_is_told(world: World, verify: Verify) -> None:
    flip_a_byte(world)
    change_a_count(world)
    take_the_model_away(world)
    found = verify(world.run)
    assert found.states("failed") == {"parts", "counts", "model"}
    assert "3 checks failed: parts, counts, model" in found.error


def test_without_rows_no_model_is_loaded(world: World) -> None:
    code = "import sys; from pipeline.cli import commands as cli; status = cli.run(sys.argv[1:]); "
    code += "assert 'tensorflow' not in sys.modules and 'verified_model' not in sys.modules; sys.exit(status)"
    command = [sys.executable, "-c", code, "verify", str(world.run), "--rows", "0"]
    done = subprocess.run(command, cwd=worlds.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("rows")] == ["unknown"]


def test_damage_that_no_checksum_tells(world: World, verify: Verify) -> None:
    data = bytearray(world.part(1).read_bytes())
    start = pq.read_metadata(world.part(1)).row_group(0).column(7).data_page_offset
    data[start : start + 60] = bytes(60)
    world.part(1).write_bytes(data)
    world.seal()
    found = verify(world.run)
    assert found.states("failed") == {"importance", "rows"}
    assert "cannot be read: " in found.of("rows")["what"]


def test_parts_are_read_by_one_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may let go of a remote file when the process is ending, which then aborts; see `read_whole`."""
    threads = set()

    class Remote(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            threads.add(threading.get_ident())
            return super().read(size)

    monkeypatch.setattr(files, "open_arrow", lambda path: pa.PythonFile(Remote(Path(path).read_bytes()), "r"))
    assert rows._Part(str(world.part(1))).rows(0, 5).num_rows == 5
    assert threads == {threading.get_ident()}


def test_a_part_that_the_manifest_forgets(world: World, verify: Verify) -> None:
    world.part(1).unlink()
    world.edit(
        parts=[part for part in world.manifest["parts"] if part["file"] != "attributions/part-00001.parquet"]
    )
    found = verify(world.run)
    assert "parts" in found.states("failed")
    assert "is missing, and the manifest does not name it" in found.of("parts")["what"]


def test_an_input_that_is_lost_while_it_is_looked_at(world: World, verify: Verify) -> None:
    def lost(*_: object) -> None:
        raise InputLost("is gone", "rows-1.parquet")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.verify.verify.check_rows", lost)
        found = verify(world.run)
    assert found.states("failed") == {"rows"}
    assert found.of("rows")["what"] == "rows-1.parquet: is gone"


def test_parts_that_were_taken_over(world: World, verify: Verify) -> None:
    take_over_a_part_of_another_run(world)
    world.edit(increments=[{**world.manifest["increments"][0], "run_id": "0123456789abcdef"}])
    assert verify(world.run).states("ok") == CHECKS


def test_digests_of_the_input() -> None:
    def file(**changes: Any) -> Any:
        given = {"name": "a", "rows": 3, "bytes": 90, "digest": "x", "format": "parquet", **changes}
        return SimpleNamespace(**given)

    noted = [{"file": "a", "rows": 3, "bytes": 90, "digest": "x"}]
    files, check = compare_inputs([file()], noted)
    assert check.ok
    assert files
    files, check = compare_inputs([file(digest="y")], noted)
    assert check.ok is False
    assert "different content" in check.what
    assert files, "rows can still be found"
    files, check = compare_inputs([file(rows=4)], noted)
    assert (files, check.ok) == (None, False)
    files, check = compare_inputs([file(), file(name="b")], noted)
    assert (files, check.what) == (None, "b is new")


@pytest.mark.parametrize("arguments", [("--rows", "-1"), ("--seed", "x"), ("--tolerance", "-1")])
def test_options_that_are_wrong(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(["verify", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {arguments[0]}: ")


def test_what_is_no_run(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["verify", str(tmp_path / "none")]) == 2
    (world.run / "manifest.json").write_text('{"schema_version": 3}')
    assert cli.run(["verify", str(world.run)]) == 2
    assert "is not the manifest of a committed run" in capsys.readouterr().err


# -- all that a table may hold -------------------------------------------------------------------------------

#: Settings of a run on a Keras model, with draws that depend on the row among them.
RUNS = [
    ("parquet", "method={name: integrated_gradients, n_steps: 10}", "output.attributions={top_k: 2}"),
    ("tfrecord", "method={name: kernel_shap, n_samples: 40, standard_error: true}", "output.features=true"),
    ("tfrecord.gz", "method={name: expected_gradients, n_samples: 20}", "model.target=predicted"),
    ("parquet", "method={name: lime, n_samples: 200}", "input.groups={both: [rate, count]}"),
]


@pytest.mark.parametrize(("format", "method", "more"), RUNS)
def test_methods_formats_and_tables(format: str, method: str, more: str, verify: Verify) -> None:
    config = worlds.vectors().config(format)
    run = worlds.explained(config, method, more, "compute.shard_rows=64", "compute.batch_size=32")
    found = verify(Path(run.path), "--rows", "301")
    assert found.states("failed") == set(), found.told
    rows = found.told["rows"]
    assert rows["compared"] == 301
    assert rows["rejected_again"] == 6
    assert rows["identical"] + rows["within_tolerance"] == 295
    assert rows["largest_difference"] < 1e-6


def test_tensors_and_several_heads(verify: Verify) -> None:
    for config in (worlds.heads(), worlds.pictures()):
        found = verify(Path(worlds.explained(config, "output.features=true").path))
        assert found.states("ok") == CHECKS, found.told


def test_a_run_without_a_table(verify: Verify) -> None:
    run = worlds.explained(worlds.vectors().config("parquet"), "output.attributions=none")
    found = verify(Path(run.path))
    assert found.status == 0
    assert found.states("unknown") == {"importance", "rows"}
    assert "attributions: none" in found.of("rows")["what"]
