"""The verbs: what they print, where it goes, their exit status, and what they load."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.cli import commands as cli
from pipeline.results.run import load_run
from pipeline.runners.flags import check_flags
from tests.support import worlds
from transforms.errors import UserError
from transforms.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


class Said:
    """What a command line printed, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        self.status = cli.run([str(argument) for argument in arguments])
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        lines = self.out.splitlines()
        assert len(lines) == 1, "one JSON object and nothing else"
        return json.loads(lines[0])


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def tidy(text: str, width: int = 80) -> None:
    """What a person reads: no line of spaces at the end, and none too wide but for paths."""
    for line in text.splitlines():
        assert line == line.rstrip(), repr(line)
        assert len(line) <= width or "/" in line, repr(line)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


# -- help and methods ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", [(), ("explain",), ("plan",), ("show",), ("compare",), ("verify",), ("methods",)]
)
def test_help(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, *verb, "--help")
    assert said.status == 0
    assert said.err == ""
    assert said.out.startswith(f"Usage: {' '.join(['attribeam', *verb])}")
    assert "…" not in said.out.replace("--flink_master=…", "").replace("--project=…", "")
    assert "..." not in said.out.replace("[ARGS]...", ""), "no summary is cut short"
    tidy(said.out)
    wanted = ("explain", "plan", "show", "verify", "methods") if not verb else ("--json", "--debug")
    assert all(word in said.out for word in wanted)


def test_help_lists_every_option_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("explain", "plan"):
        out = Said(capsys, verb, "--help").out
        for option in ("--output", "--set", "--limit", "--date", "--overwrite", "--runner"):
            assert option in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "--version")
    assert said.status == 0
    assert said.out.startswith("attribeam ")


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "methods")
    assert said.status == 0
    tidy(said.out)
    for name, method in METHODS.items():
        block = re.search(rf"^{name} .*(\n  .*)+", said.out, re.MULTILINE)
        assert block, name
        words = " ".join(block[0].split())
        assert "model call" in words
        assert any(f"needs {what}" in words for what in ("gradients", "evaluations", "a tree model"))
        assert method.when in words
    assert [row["name"] for row in Said(capsys, "methods", "--json").json["methods"]] == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_one_method(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "methods", name)
    assert said.status == 0
    tidy(said.out)
    words = " ".join(said.out.split())
    assert "Reference:" in words
    assert METHODS[name].when in words
    told = Said(capsys, "methods", name, "--json").json
    assert told["name"] == name
    for key, default in told["keys"].items():
        shown = {None: "none", True: "true", False: "false"}.get(default, default)
        assert f"{key} ({shown})" in words


# -- plan ----------------------------------------------------------------------------------------------------


def files_under(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_plan_says_everything_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = worlds.trips()
    before = files_under(config.parent)
    said = Said(capsys, "plan", config, "--output", tmp_path / "run")
    assert said.status == 0, said.err
    assert files_under(config.parent) == before
    assert list(tmp_path.iterdir()) == []
    tidy(said.out)
    words = " ".join(said.out.split())
    for part in (
        "2 files, 200 rows",
        "trips-1.parquet 120 rows",
        "trips-2.parquet 80 rows",
        "shards 4 of up to 60 rows",
        "outputs late [1]: the logit is explained",
        "target late",
        "features 4",
        "city categorical string",
        "hour numeric int32",
        "distance numeric float32",
        "integrated_gradients: n_steps 20",
        "baseline mean, 1 row",
        "20 per row, 4,000 in all",
        "rows/s measured",
        f"{tmp_path / 'run'} (about ",
    ):
        assert part in words, part

    told = Said(capsys, "plan", config, "--output", tmp_path / "run", "--limit", "150", "--json").json
    assert (told["rows"], told["shards"], told["evaluations_per_row"]) == (150, 3, 20)
    assert [f["rows"] for f in told["files"]] == [120, 80]
    assert (told["baseline"]["kind"], told["baseline"]["rows"]) == ("mean", 1)
    values = {each["feature"]: each["text"] for each in told["baseline"]["values"]}
    assert values.keys() == {"city", "hour", "distance", "wind"}
    assert values["city"] in worlds.CITIES
    assert told["estimate"]["seconds"] > 0
    # 4 φ, 5 more numbers, an id and a slice.
    assert told["estimate"]["output_bytes"] == pytest.approx(150 * 4 * 11, rel=0.5)
    assert list(tmp_path.iterdir()) == []


def test_plan_knows_a_run_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips())
    said = Said(capsys, "plan", worlds.trips(), "--output", run.path)
    assert said.status == 0
    assert "nothing to do" in said.out
    refused = Said(capsys, "plan", worlds.trips(), "--output", run.path, "--set", "seed=3")
    assert refused.status == 2
    assert "--overwrite" in refused.err
    allowed = Said(capsys, "plan", worlds.trips(), "--output", run.path, "--set", "seed=3", "--overwrite")
    assert allowed.status == 0


# -- explain -------------------------------------------------------------------------------------------------


def test_explain_prints_what_matters(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = Said(capsys, "explain", worlds.trips(), "--output", "run")
    assert said.status == 0, said.err
    tidy(said.out)
    frame = load_run(tmp_path / "run").importance(slice="")
    lines = said.out.splitlines()
    assert lines[0] == "Most important features for late"
    for line, row in zip(lines[2:], frame.itertuples(), strict=False):
        cells = line.split()
        ranks = f"{row.rank_low}–{row.rank_high}" if row.rank_low < row.rank_high else str(row.rank)
        assert cells[:2] == [ranks, row.feature]
        assert float(cells[2]) == pytest.approx(row.mean_abs, rel=0.01)
        assert float(cells[3].removeprefix("±")) == pytest.approx(
            (row.mean_abs_high - row.mean_abs_low) / 2, rel=0.5
        )
        assert cells[4:6] == [f"{row.share:.1%}", f"{row.positive:.0%}"]
    words = " ".join(said.out.split())
    assert "φ in units of the logit" in words
    assert "rows 199 of 200 explained; 1 rejected 1 × distance is null" in words
    assert "rows/s" in words
    assert "the score's spread" in words
    for part in ("run/importance.parquet", "run/attributions/ (4 files)", "run/rejected/"):
        assert part in words

    again = Said(capsys, "explain", worlds.trips(), "--output", "run")
    assert again.status == 0
    assert "the run exists already" in again.out


def test_explain_json_is_one_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = Said(capsys, "explain", worlds.trips(), "--output", tmp_path / "run", "--limit", "20", "--json")
    assert said.status == 1, "one of twenty rows is rejected"
    told = said.json
    counts = {"rows_read": 20, "rows_attributed": 19, "rows_rejected": 1, "attributions": 19}
    assert told["counts"] == counts
    assert told["run"] == str(tmp_path / "run")
    assert told["reused"] is False
    assert [row["rank"] for row in told["importance"]] == [1, 2, 3, 4]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest.items() <= told.items()


def test_many_targets_get_a_line_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    heads = Said(capsys, "explain", worlds.heads(), "--output", tmp_path / "heads")
    assert heads.out.count("Most important features for ") == 3
    world = worlds.vectors().config("parquet")
    everything = Said(capsys, "explain", world, "--output", tmp_path / "run", "--set", "model.target=all")
    assert everything.out.count("Most important features for ") == 3
    tidy(everything.out)


def test_a_limit_that_is_exceeded_is_status_1_with_everything_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = Said(
        capsys, "explain", worlds.trips(), "--output", tmp_path / "run", "--set", "limits.rejected=0.001"
    )
    assert said.status == 1
    assert re.search(r"limit exceeded +0\.50% of the rows were rejected.*limits\.rejected: 0\.001", said.out)
    run = load_run(tmp_path / "run")
    assert len(run.attributions()) == 199
    assert len(run.manifest["quality"]["exceeded"]) == 1
    assert Said(capsys, "explain", worlds.trips(), "--output", tmp_path / "run").status == 0


def test_ids_that_are_not_unique_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config, place = worlds.trips(), tmp_path / "run"
    said = Said(capsys, "explain", config, "--output", place, "--set", "input.id=carrier", "--json")
    assert said.status == 0
    warning = next(line for line in said.err.splitlines() if line.startswith("warning: "))
    assert re.search(
        r"trips\.yaml: input\.id: carrier is not unique: \d+ of the first 199 rows repeat", warning
    )
    assert said.json["warnings"] == [warning.removeprefix("warning: ")]
    assert load_run(place).manifest["warnings"] == said.json["warnings"]

    again = Said(capsys, "explain", config, "--output", place, "--set", "input.id=carrier")
    assert warning in again.err, "also of a run that is there"
    planned = Said(capsys, "plan", config, "--output", tmp_path / "no", "--set", "input.id=carrier", "--json")
    assert planned.json["warnings"] == said.json["warnings"]
    assert warning in planned.err
    assert "warning" not in Said(capsys, "explain", config, "--output", tmp_path / "unique").err


def test_too_few_steps_are_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = Said(
        capsys,
        "explain",
        worlds.trips(),
        *("--output", tmp_path / "run", "--set", "method.n_steps=1", "--set", "limits.convergence=1e-6"),
        "--json",
    )
    assert said.status == 1
    assert said.json["exceeded"][0].startswith("p99 of |convergence_delta| is ")
    assert "limits.convergence: 1e-06" in said.json["exceeded"][0]


def test_beams_flags_stand_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = Said(
        capsys,
        "explain",
        *("--project=mine", "--temp_location", "somewhere", "--streaming", worlds.trips(), "--labels=team=a"),
        *("--flink_master=localhost:1", "--output", tmp_path / "run", "--limit", "5", "--save_main_session"),
    )
    assert said.status in (0, 1), said.err
    assert load_run(tmp_path / "run").manifest["counts"]["rows_read"] == 5


def test_every_flag_of_beam_is_known() -> None:
    """Some are named by two of Beam's classes, which must not hide those that follow."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PortableOptions, WorkerOptions

    for options in (GoogleCloudOptions, PortableOptions, WorkerOptions):
        parser = argparse.ArgumentParser(conflict_handler="resolve", add_help=False)
        options._add_argparse_args(parser)
        flags = [action.option_strings[0] for action in parser._actions]
        assert len(flags) > 5
        for flag in flags:
            # Without a value some are wrong, but none is unknown.
            with contextlib.suppress(UserError):
                check_flags([flag])
                continue
            with pytest.raises(UserError, match=r"expected (one|at least one) argument"):
                check_flags([flag])


def test_a_run_that_breaks_is_status_3(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transforms.outputs.write import PartWriter

    def close(self: PartWriter) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "close", close)
        said = Said(capsys, "explain", worlds.trips(), "--output", tmp_path / "run")
    assert said.status == 3
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("error: shard ")
    assert "No space left on device" in line
    assert line.endswith("finished work is kept, and the same command continues from there")
    assert "Traceback" not in said.err
    assert list((tmp_path / "run" / "attributions").iterdir()) == [], "no half-written part is left"
    assert Said(capsys, "explain", worlds.trips(), "--output", tmp_path / "run").status == 0


# -- show ----------------------------------------------------------------------------------------------------


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips())
    said = Said(capsys, "show", run.path, "trip 130")
    assert said.status == 0
    tidy(said.out)
    table = run.attributions()
    row = next(row for row in table.to_pylist() if row["example_id"] == "trip 130")
    source = pq.read_table(worlds.trips().parent / "trips-2.parquet").slice(10, 1).to_pylist()[0]
    lines = said.out.splitlines()
    assert lines[0].split() == ["example_id", "trip", "130"]
    start = next(i for i, line in enumerate(lines) if line.startswith("feature")) + 1
    order = sorted(row["attribution"], key=lambda name: -abs(row["attribution"][name]))
    shown = [line.split() for line in lines[start:]]
    assert [cells[0] for cells in shown] == ["base_value", *order, "prediction"]
    total = row["base_value"]
    for cells in shown[1:-1]:
        value = source[cells[0]]
        assert cells[1] == (value if isinstance(value, str) else f"{np.float32(value):.6g}")
        assert float(cells[2]) == pytest.approx(row["attribution"][cells[0]], rel=0.01)
        total += row["attribution"][cells[0]]
        assert float(cells[3]) == pytest.approx(total, rel=0.001, abs=1e-4)
    assert float(shown[-1][1]) == pytest.approx(row["prediction"], rel=0.001)

    told = Said(capsys, "show", run.path, "trip 130", "--json").json
    assert told["example_id"] == "trip 130"
    assert told["attributions"] == [row]


def test_show_several_targets_and_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.heads())
    said = Said(capsys, "show", run.path, "rows.parquet:41")
    assert said.status == 0
    tidy(said.out)
    assert [line.split()[1] for line in said.out.splitlines() if line.startswith("target")] == [
        "late", "minutes[0]", "minutes[1]",
    ]  # fmt: skip
    for name in ("load ", "series ", "series, the sum of its values; strongest: ["):
        assert said.out.count(f"\n{name}") == 3
    assert len(Said(capsys, "show", run.path, "rows.parquet:41", "--json").json["attributions"]) == 3


def test_show_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.pictures(), "output.features=true")
    said = Said(capsys, "show", run.path, "picture 3")
    assert said.status == 0
    tidy(said.out)
    row = run.attributions().to_pylist()[3]
    values = np.array(row["attribution"]["image"])
    line = next(line for line in said.out.splitlines() if line.startswith("image "))
    assert line.split()[1:3] == ["6×6×1", "values"]
    assert float(line.split()[3]) == pytest.approx(values.sum(), rel=0.01)
    images = np.load(worlds.pictures().parent / "images.npy")
    places = re.findall(r"\[(\d), (\d), 0\] = (\d+) ([+-][\d.e-]+)", " ".join(said.out.split()))
    assert len(places) == 3
    largest = np.sort(np.abs(values).ravel())[::-1]
    for (y, x, value, phi), wanted in zip(places, largest, strict=False):
        assert images[3, int(y), int(x), 0] == int(value)
        assert float(phi) == pytest.approx(values[int(y), int(x), 0], rel=0.01)
        assert abs(float(phi)) == pytest.approx(wanted, rel=0.01)


def test_show_top_k(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips(), "output.attributions={top_k: 2}")
    said = Said(capsys, "show", run.path, "trip 3")
    assert said.status == 0
    start = said.out.splitlines().index("") + 2
    lines = said.out.splitlines()[start:]
    assert len(lines) == 5
    assert lines[0].startswith("base_value ")
    assert lines[3].startswith("(all others) ")
    row = run.attributions().to_pylist()[3]
    assert float(lines[3].split()[2]) == pytest.approx(row["rest"], rel=0.01)
    assert float(lines[4].split()[-2 if lines[4][-1] in "▐▌█" else -1]) == pytest.approx(
        row["prediction"], rel=0.001
    )


def test_show_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips(), "input.groups={weather: [wind, distance]}")
    said = Said(capsys, "show", run.path, "trip 3")
    source = pq.read_table(worlds.trips().parent / "trips-1.parquet").slice(3, 1).to_pylist()[0]
    line = next(line for line in said.out.splitlines() if line.startswith("weather"))
    assert f"{source['wind']:.6g}, {source['distance']:.6g}"[:15] in line


def test_show_without_the_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = Path(shutil.copytree(worlds.trips().parent, tmp_path / "data")) / "trips.yaml"
    worlds.explain(config, tmp_path / "run", limit=20)
    shutil.rmtree(tmp_path / "data")
    said = Said(capsys, "show", tmp_path / "run", "trip 3")
    assert said.status == 0
    header = next(line for line in said.out.splitlines() if line.startswith("feature"))
    assert header.split()[:3] == ["feature", "φ", "total"]


def test_show_where_no_sum_is_promised(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips(), "method={name: saliency}")
    said = Said(capsys, "show", run.path, "trip 130")
    tidy(said.out)
    row = next(row for row in run.attributions().to_pylist() if row["example_id"] == "trip 130")
    lines = said.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("feature"))
    assert lines[start].split() == ["feature", "value", "φ", "lowers", "raises"]
    lowers, raises = lines[start].index("lowers"), lines[start].index("raises")
    order = sorted(row["attribution"], key=lambda name: -abs(row["attribution"][name]))
    for line, name in zip(lines[start + 1 :], order, strict=True):
        assert line.split()[0] == name
        block = next((at for at, c in enumerate(line) if c in "█▉▊▋▌▍▎▏▐"), None)
        if block is not None:
            assert (block >= raises) == (row["attribution"][name] > 0)
    assert lowers < raises


# -- processes -----------------------------------------------------------------------------------------------


def test_the_three_names_are_one_program() -> None:
    wanted = command("methods")
    assert wanted.returncode == 0, wanted.stderr
    programs = [[sys.executable, str(ROOT / "pipeline" / "main.py")]]
    installed = Path(sys.executable).with_name("attribeam")
    if installed.exists():
        programs.append([str(installed)])
    for program in programs:
        done = subprocess.run(
            [*program, "methods"], cwd="/", capture_output=True, text=True, timeout=120, env={**os.environ}
        )
        assert (done.returncode, done.stdout) == (0, wanted.stdout), done.stderr


LOADED = """
import atexit, json, sys
def tell():
    print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)
atexit.register(tell)
from pipeline.cli.commands import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("verb", ["--help", "methods", "plan"])
def test_the_launcher_loads_no_tensorflow(verb: str, tmp_path: Path) -> None:
    more = [worlds.trips(), "--output", tmp_path / "run"] if verb == "plan" else []
    done = subprocess.run(
        [sys.executable, "-c", LOADED, verb, *map(str, more)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "pipeline" in loaded
    assert not {"tensorflow", "keras"} & loaded
    if verb != "plan":
        assert "apache_beam" not in loaded


def test_progress_goes_to_stderr_and_a_closed_stdout_is_no_error(tmp_path: Path) -> None:
    done = command("explain", worlds.trips(), "--output", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["rows_read"] == 200
    assert "Traceback" not in done.stderr

    for line in ("methods", "methods --json", "--help"):
        piped = unread(line)
        assert (piped.returncode, piped.stderr) == (0, ""), line


def unread(line: str) -> subprocess.CompletedProcess[str]:
    """What a command does whose output nobody reads."""
    shell = shutil.which("bash")
    assert shell
    # The reader is gone before the first word is written.
    script = f"(sleep 0.2; exec {sys.executable} -u -m pipeline {line}) | true; exit ${{PIPESTATUS[0]}}"
    return subprocess.run([shell, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_nobody_reading_changes_no_status(tmp_path: Path) -> None:
    """Nor does it hide what a limit has to say."""
    line = f"explain {worlds.trips()} --output {tmp_path / 'run'} --json"
    fine = unread(line)
    assert fine.returncode == 0, fine.stderr
    assert "error" not in fine.stderr
    beyond = unread(f"{line} --set limits.rejected=0")
    assert beyond.returncode == 1
    assert "error: 0.50% of the rows were rejected" in beyond.stderr.splitlines()[-1]


def test_a_pipe_that_breaks_elsewhere_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("pipeline.execution.run.preview", breaks)
    said = Said(capsys, "plan", worlds.trips())
    assert said.status == 3
    assert "a process that was written to has ended" in said.err


def test_a_narrow_ascii_terminal(tmp_path: Path) -> None:
    run = worlds.explained(worlds.trips())
    done = command("show", run.path, "trip 3", COLUMNS="50", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 50 for line in done.stdout.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    config, place = worlds.vectors().config("parquet"), tmp_path / "run"
    arguments = ["explain", str(config), "--output", str(place), "--set", "compute.shard_rows=4"]
    stopped = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # What is started in the background may ignore interrupts, and would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = place / "_work" / "shards"
    try:
        while len(list(journal.glob("*.done"))) < 10:
            assert stopped.poll() is None, "the run ended before it could be stopped"
            time.sleep(0.05)
        stopped.send_signal(number)
        _, said = stopped.communicate(timeout=60)
    finally:
        stopped.kill()
        stopped.wait()
    assert stopped.returncode == 3
    assert said.strip().splitlines()[-1] == (
        "error: interrupted; finished work is kept, and the same command continues from there"
    )
    assert 10 <= len(list(journal.glob("*.done"))) < 76
    run = worlds.explain(config, place, "compute.shard_rows=4")
    assert run.attributions()["example_id"].to_pylist() == worlds.vectors().ids


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """The real thing: SIGKILL, then the same command."""
    config, place = worlds.vectors().config("parquet"), tmp_path / "run"
    arguments = ["explain", str(config), "--output", str(place), "--set", "compute.shard_rows=1"]
    victim = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = place / "_work" / "shards"
    try:
        for _ in range(2400):
            if len(list(journal.glob("*.done"))) >= 10:
                break
            assert victim.poll() is None, "the run ended before it could be killed"
            time.sleep(0.05)
        victim.send_signal(signal.SIGKILL)
    finally:
        victim.kill()
        victim.wait()
    done = {path.stem: path.stat().st_mtime_ns for path in journal.glob("*.done")}
    assert 10 <= len(done) < 301
    parts = place / "attributions"
    before = {
        name: (parts / f"part-{name}.parquet").stat().st_mtime_ns for name in done if has_part(parts, name)
    }
    assert before
    (parts / ".half-written.tmp").write_bytes(b"PAR1")  # as a kill in the middle of a part leaves it
    run = worlds.explain(config, place, "compute.shard_rows=1")
    assert {name: (parts / f"part-{name}.parquet").stat().st_mtime_ns for name in before} == before
    assert run.attributions()["example_id"].to_pylist() == worlds.vectors().ids
    assert sorted(path.name for path in place.iterdir()) == [
        "attributions", "importance.parquet", "manifest.json", "rejected", "report",
    ]  # fmt: skip
    assert all(re.fullmatch(r"part-\d{5}\.parquet", path.name) for path in parts.iterdir())


def has_part(folder: Path, name: str) -> bool:
    return (folder / f"part-{name}.parquet").exists()
