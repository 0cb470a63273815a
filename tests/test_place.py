"""The run directory as a place: what may be there, and what a run must never take away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import worlds

from pipeline.config import load_config
from pipeline.place import check_apart, check_place
from pipeline.run import execute, preview
from transforms.errors import UserError


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    check_place(str(tmp_path / "a" / "run"))
    check_place(str(tmp_path))
    check_place("gs://bucket/run")
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
        UserError, match=r"notes\.txt stands in the way: .* the run that is there; move it away"
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
        with pytest.raises(UserError, match=rf"trips\.yaml: {key}: .* lies in the run directory"):
            action(loaded, overwrite=overwrite)
    assert sorted(place.rglob("*")) == before
