"""A run survives whatever strikes it: the same command goes on, and ends with the same bytes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from tests.support import worlds
from tests.support.faults import Point, armed, check_resumed, command, run_apart, tables, undisturbed, world
from transforms.errors import UserError


@pytest.fixture(scope="module")
def config() -> Path:
    return world()


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    return undisturbed()


CODE = ("kill", "broken")
ALL = ("kill", "full", "denied")
POINTS: dict[str, tuple[Point, tuple[str, ...]]] = {
    "before the plan": (Point("before pipeline.execution.run:make_plan"), CODE),
    "after the plan": (Point("after pipeline.execution.run:make_plan"), ("kill",)),
    "the lock": (Point("open", r"/\.run\.lock"), ("kill",)),
    "the journal's folder": (Point("os.mkdir", "_work"), ALL),
    "the reference": (Point("os.rename", r"_work/reference\.npz"), ALL),
    "the cut": (Point("os.rename", "_work/shard_rows"), ALL),
    "the fingerprint": (Point("open", r"_work/\.fingerprint.*"), ALL),
    "the fingerprint's name": (Point("os.rename", "_work/fingerprint"), ALL),
    "before the pipeline": (Point("before pipeline.execution.graph:define_pipeline"), CODE),
    "before a shard": (Point("before transforms.explain:explain_shard", nth=2), CODE),
    "loading the model": (Point("before transforms.worker.shard:runtime"), CODE),
    "the progress": (Point("open", r"progress/0000\d", 2), ALL),
    "reading": (Point("before transforms.worker.shard:read_piece", nth=3), CODE),
    "decoding": (Point("after transforms.worker.shard:decode", nth=4), CODE),
    "device work": (Point("before transforms.worker.shard:explain_rows", nth=5), CODE),
    "a part's temporary file": (Point("open", r"attributions/\.part-.*", 2), ALL),
    "adding rows": (Point("before transforms.outputs.write:PartWriter.write", nth=4), ALL),
    "writing rows": (Point("before transforms.outputs.parts:DigestingFile.write", nth=9), ALL),
    "a part's sync": (Point("before transforms.storage.files:put_in_place", nth=5), ALL),
    "a part's name": (Point("os.rename", r"attributions/part-0000\d\.parquet", 2), ALL),
    "after a part": (Point("after transforms.outputs.write:PartWriter.close", nth=2), CODE),
    "rejected rows": (Point("open", r"rejected/\..*", 2), ALL),
    "the rejected rows' name": (Point("os.rename", r"rejected/part-0000\d\.parquet", 2), ALL),
    "a journal entry": (Point("open", r"shards/\..*", 2), ALL),
    "a journal entry's name": (Point("os.rename", r"shards/0000\d\.done", 2), ALL),
    "after a journal entry": (Point("after transforms.worker.shard:write_journal", nth=2), CODE),
    "adding up": (Point("before transforms.explain:MergeShardResults.add_input", nth=2), CODE),
    "the result": (Point("os.rename", "_work/result"), ALL),
    "before the commit": (Point("before pipeline.execution.run:commit_run"), CODE),
    "merging": (Point("after pipeline.execution.commit:read_journal", nth=3), CODE),
    "the importance": (Point("os.rename", r"importance\.parquet"), ALL),
    "sweeping": (Point("before pipeline.execution.commit:sweep"), CODE),
    "the manifest": (Point("open", r"\.manifest\.json.*"), ALL),
    "the manifest's name": (Point("os.rename", r"manifest\.json"), ALL),
    "taking the journal away": (Point("shutil.rmtree", "_work"), ("kill", "denied")),
    "in the midst of it": (Point("os.remove", ".*", 4), ("kill",)),
    "letting go": (Point("os.remove", r"/\.run\.lock"), ("kill",)),
}  # fmt: skip
#: Up to here nothing was begun: a place that cannot be written is for the user to mend.
BEGUN = list(POINTS).index("before the pipeline")


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(POINTS) >= 25
    assert sum(len(kinds) for _, kinds in POINTS.values()) >= 75


@pytest.mark.parametrize("name", [name for name, (_, kinds) in POINTS.items() if "kill" in kinds])
def test_a_killed_run_goes_on(name: str, config: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    place, log = tmp_path / "run", tmp_path / "log"
    assert run_apart(command(config, place), log, POINTS[name][0], "kill") == -9, log.read_text()
    check_resumed(config, place, whole)


CASES = [(name, kind) for name, (_, kinds) in POINTS.items() for kind in kinds if kind != "kill"]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{kind} at {name}" for name, kind in CASES])
def test_a_failure_ends_in_one_line_and_goes_on(
    name: str,
    kind: str,
    config: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "run"
    with armed(POINTS[name][0], kind):
        status = cli.run(command(config, place))
    lines = capsys.readouterr().err.strip().splitlines()
    early = kind == "denied" and list(POINTS).index(name) < BEGUN
    assert status == (2 if early else 3), lines
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)
    what = {
        "full": r"[Nn]o space left on device",
        "denied": "[Pp]ermission denied",
        "broken": "nobody thought",
    }
    assert re.search(what[kind], lines[-1]), lines
    if status == 3:
        assert lines[-1].endswith("; finished work is kept, and the same command continues from there")
    check_resumed(config, place, whole)


REPLACING = {
    "a part": Point("os.rename", r"\.run\.next/attributions/part-00001\.parquet"),
    "the manifest's name": Point("os.rename", r"\.run\.next/manifest\.json"),
    "after the manifest": Point("before pipeline.execution.commit:swap"),
    "the old one's leave": Point("os.rename", r"\.run\.old"),
    "the new one's place": Point("os.rename", "/run"),
    "the old one's end": Point("shutil.rmtree", r"\.run\.old"),
    "in the midst of it": Point("os.remove", r"^part-\d+\.parquet", 3),
}


@pytest.mark.parametrize("name", REPLACING)
def test_a_run_is_replaced_whole_or_not_at_all(
    name: str, config: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    place, log = tmp_path / "run", tmp_path / "log"
    old = tables(worlds.explain(config, place, "seed=3"))
    assert run_apart(command(config, place, "--overwrite"), log, REPLACING[name], "kill") == -9, (
        log.read_text()
    )
    if name == "the new one's place":
        assert not place.exists()  # between two renames: what is whole stands beside it
    else:
        found = tables(load_run(place))
        assert found in (old, whole)
        assert (found == whole) == (list(REPLACING).index(name) > 3)
    assert tables(worlds.explain(config, place, overwrite=True)) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "run"]


def test_a_replacement_that_was_given_up_takes_nothing_away(
    config: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    place, log = tmp_path / "run", tmp_path / "log"
    old = tables(worlds.explain(config, place, "seed=3"))
    point = REPLACING["the new one's place"]
    assert run_apart(command(config, place, "--overwrite"), log, point, "kill") == -9
    # The old config again: the new run was whole, so that it is there now, and is not replaced unasked.
    with pytest.raises(UserError, match="holds a committed run of a different config"):
        worlds.explain(config, place, "seed=3")
    assert tables(load_run(place)) == whole != old
