"""The run directory as a place: what may be there, and what a run must never take away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline
from pipeline import load_run
from pipeline.config.config import load_config
from pipeline.execution.run import execute, preview
from pipeline.run_directory.checks import check_apart, check_place, check_replaceable
from pipeline.run_directory.lock import run_lock
from tests.support import worlds
from tests.support.faults import ROWS, world
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    check_place(str(tmp_path / "a" / "run"))
    check_place(str(tmp_path))
    check_place("mem://bucket/run")
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mtime_ns == before


def test_a_filesystem_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights do not tell: a read-only one says that its root may write."""

    def refuse(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"cannot be written: read-only file system; give another"):
        check_place(str(tmp_path / "run"))


@pytest.mark.parametrize("state", ["manifest.json", "_work"])
def test_a_file_in_the_way_of_a_run_is_named(state: str, tmp_path: Path) -> None:
    (tmp_path / state).mkdir()
    (tmp_path / ".DS_Store").touch()
    check_place(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        UserError, match=r"holds a run and also notes\.txt, which does not belong to it; move it away"
    ):
        check_place(str(tmp_path))


@pytest.mark.parametrize(
    ("run", "path", "inside"),
    [
        ("/data/run", "/data/run/attributions/a.parquet", True),
        ("/data/run", "/data/run", True),
        ("/data/run", "/data/run-2/a.parquet", False),
        ("/data/run", "/data/a.parquet", False),
        ("/data/run", "/data/run/../a.parquet", False),
        ("/", "/data/a.parquet", True),
        ("gs://bucket/run/", "gs://bucket/run/a.parquet", True),
        ("gs://bucket/run", "gs://bucket/runs/a.parquet", False),
        ("/data/run", "gs://data/run/a.parquet", False),
    ],
)
def test_what_lies_in_the_run_directory(run: str, path: str, inside: bool) -> None:
    parts = [("model.path", ["hdfs://elsewhere/model.keras"]), ("input.files", [path])]
    if not inside:
        check_apart(run, parts, "c.yaml")
        return
    with pytest.raises(UserError, match=r"c\.yaml: input\.files: .* lies in the run directory") as caught:
        check_apart(run, parts, "c.yaml")
    assert path in str(caught.value)


def test_links_into_the_run_directory_are_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.symlink(tmp_path / "run", tmp_path / "link")
    with pytest.raises(UserError, match="lies in the run directory"):
        check_apart(str(tmp_path / "run"), [("", [str(tmp_path / "link" / "c.yaml")])], "c.yaml")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("key", ["input.files", "baseline.path", "model.path"])
def test_no_run_takes_away_what_it_is_made_from(key: str, overwrite: bool, tmp_path: Path) -> None:
    """A run may be the input of another one, and the folder of that one must not be the same."""
    place = tmp_path / "run"
    shutil.copytree(worlds.explained(worlds.trips()).path, place)
    source = worlds.trips().parent
    for name in ("trips-1.parquet", "model.keras"):
        shutil.copy(source / name, place / "attributions" / name)
    before = sorted(place.rglob("*"))
    settings = {
        "input.files": [f"input.files={place}/attributions/part-*.parquet"],
        "baseline.path": [f"baseline={{kind: file, path: {place}/attributions/trips-1.parquet}}"],
        "model.path": [f"model.path={place}/attributions/model.keras"],
    }[key]
    loaded = load_config(str(worlds.trips()), settings=settings, output=str(place))
    for action in (preview, execute):
        # The second is said first where it is seen before the config's files are looked for.
        why = rf"trips\.yaml: {key}: .* lies in the run directory|holds (a run and also )?model\.keras, which"
        with pytest.raises(UserError, match=why):
            action(loaded, overwrite=overwrite)
    assert sorted(place.rglob("*")) == before


# -- what is somebody's --------------------------------------------------------------------------------------


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A run directory with a committed run, which another config is to replace."""
    place = tmp_path / "run"
    worlds.explain(world(), place, "seed=3")
    return place


def replace_it(place: Path) -> None:
    worlds.explain(world(), place, overwrite=True)


@pytest.mark.parametrize("name", [".run.old", ".run.next"])
@pytest.mark.parametrize("inside", ["thesis", "attributions", None])
def test_what_has_the_name_of_ours_and_is_no_run(name: str, inside: str | None, committed: Path) -> None:
    other = committed.parent / name
    if inside is None:
        other.touch()
    else:
        other.mkdir()
        (other / inside).mkdir()
    with pytest.raises(
        UserError, match=rf"{name}: is in the place of a temporary run directory, and is not one"
    ):
        replace_it(committed)
    assert other.exists()
    assert load_run(committed).manifest["config"]["seed"] == 3


@pytest.mark.parametrize("name", [".x.next", ".x.old", ".x.lock", ".x.owner"])
@pytest.mark.parametrize("root", ["", "mem://bucket"])
def test_a_run_of_such_a_name_is_refused(name: str, root: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a name that is reserved for the temporary files of a run"):
        check_place(f"{root or tmp_path}/{name}")
    check_place(str(tmp_path / ".hidden"))


def test_hidden_files_stay_with_the_run(committed: Path) -> None:
    (committed / ".git").mkdir()
    (committed / ".git" / "config").write_text("mine")
    replace_it(committed)
    assert (committed / ".git" / "config").read_text() == "mine"
    assert load_run(committed).manifest["config"]["seed"] == 0
    assert [path.name for path in committed.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("path", ["attributions/mine.csv", "rejected/part-1.parquet", "attributions/sub/x"])
@pytest.mark.parametrize("begun", [False, True])
def test_tables_that_are_no_parts(path: str, begun: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / path).parent.mkdir(parents=True)
    (run / path).write_text("mine")
    if begun:
        (run / "_work").mkdir()
    with pytest.raises(UserError, match="which does not belong to a run"):
        check_place(str(run))


def test_a_folder_of_tables_alone_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run" / "attributions").mkdir(parents=True)
    with pytest.raises(UserError, match="it holds attributions, but neither a manifest nor a journal"):
        check_place(str(tmp_path / "run"))


def test_what_cannot_be_looked_at_is_not_taken_for_missing(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path).endswith("run/manifest.json"):
            raise OSError(5, "Input/output error")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        with pytest.raises(OSError, match="Input/output error"):
            worlds.explain(world(), committed)
    assert load_run(committed).manifest["config"]["seed"] == 3


def test_a_run_by_a_link_is_the_run_it_leads_to(committed: Path, tmp_path: Path) -> None:
    """Another disk, say: that is what is locked and replaced, and the link stays one."""
    (tmp_path / "disk").mkdir()
    committed.rename(tmp_path / "disk" / "real")
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "disk" / "real")
    with (
        run_lock(str(tmp_path / "disk" / "real")),
        pytest.raises(UserError, match="another command is working"),
    ):
        replace_it(link)
    replace_it(link)
    assert link.is_symlink()
    assert load_run(link).manifest["config"]["seed"] == 0
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_what_cannot_be_renamed_cannot_be_replaced(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before any row is explained."""
    monkeypatch.setattr("pipeline.execution.run._run", None)
    with monkeypatch.context() as patch:
        patch.chdir(committed)
        with pytest.raises(UserError, match="cannot be replaced by a command that runs inside it"):
            replace_it(committed)
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipeline.run_directory.checks.os.access", lambda path, _: Path(path) != committed.parent
        )
        with pytest.raises(UserError, match=r"cannot be replaced by another run: .* cannot be written"):
            replace_it(committed)
    real = os.stat

    def mounted(path: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(path, *args, **kwargs)
        return SimpleNamespace(st_dev=-1) if Path(path) == committed.parent else found

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.run_directory.checks.os.stat", mounted)
        with pytest.raises(UserError, match="it is a mount point; give a folder inside it as --output"):
            check_replaceable(str(committed))


def test_a_store_s_other_objects_are_left_alone(config_in_store: str) -> None:
    blobs = MemoryFileSystem.blobs
    blobs["mem://bucket/x/.notes"] = b"mine"
    for seed in (3, 0):
        pipeline.explain(str(world()), output=config_in_store, settings=[f"seed={seed}"], overwrite=True)
    assert blobs["mem://bucket/x/.notes"] == b"mine"
    blobs["mem://bucket/x/thesis.pdf"] = b"mine"
    with pytest.raises(UserError, match=r"also thesis\.pdf, which"):
        pipeline.explain(str(world()), output=config_in_store, settings=["seed=4"], overwrite=True)
    assert blobs["mem://bucket/x/thesis.pdf"] == b"mine"


@pytest.fixture
def config_in_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("pipeline.run_directory.lock._SETTLE_SECONDS", 0.0)
    MemoryFileSystem.blobs.clear()
    yield "mem://bucket/x"
    MemoryFileSystem.blobs.clear()


def test_a_manifest_of_another_version_can_be_replaced(committed: Path) -> None:
    (committed / "manifest.json").write_text('{"schema_version": 1}')
    with pytest.raises(UserError, match="has schema_version 1, and this version reads 3"):
        worlds.explain(world(), committed)
    replace_it(committed)
    assert load_run(committed).manifest["config"]["seed"] == 0


def test_a_local_path_may_be_a_url(tmp_path: Path) -> None:
    run = pipeline.explain(str(world()), output=f"file://{tmp_path}/run")
    assert (tmp_path / "run" / "manifest.json").exists()
    assert run.manifest["counts"]["rows_read"] == ROWS
