"""A report comes with every run, is the committed run's, and is made by the next command where it was not."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.report import report_is_current
from pipeline.report import sections as report_sections
from tests.runs.test_incremental import SCORING, grow, write_rows
from tests.support import worlds
from tests.support.faults import Point, armed
from transforms.outputs.run_files import SAMPLE

pytestmark = pytest.mark.usefixtures("reports")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_rows(tmp_path / "day-2.parquet", 0, 40)
    write_rows(tmp_path / "day-3.parquet", 40, 25)
    (tmp_path / "report_scoring.py").write_text(SCORING, encoding="utf-8")
    return worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "python: report_scoring:predict"},
        input={"files": "day-*.parquet", "id": "trip", "slices": ["carrier"]},
        method={"name": "exact_shap"},
        baseline={"kind": "sample", "rows": 6},
        output={"path": "run"},
        compute={"shard_rows": 20, "batch_size": 10},
        limits={"rejected": 0.1},
        incremental=True,
    )


def shown(place: Path) -> str:
    return (place / "report.html").read_text(encoding="utf-8")


def test_explain_ends_with_the_path_of_the_report(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", str(config)]) == 0
    place = config.parent / "run"
    run = load_run(place)
    last = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert last[0] == "report"
    assert last[-1].endswith("run/report.html")
    assert run.manifest["run_id"] in shown(place)
    assert report_is_current(load_run(place))
    # A report is no table: verify has nothing against it, nor against a run without.
    assert "report.html" not in [part["file"] for part in run.manifest["parts"]]
    assert cli.run(["verify", str(place), "--rows", "0"]) == 0


def test_a_report_is_of_the_run_that_is_there(config: Path) -> None:
    place = config.parent / "run"
    first = worlds.explain(config, place).manifest["run_id"]
    assert first in shown(place)
    grow(config)
    second = worlds.explain(config, place).manifest["run_id"]
    assert second in shown(place)
    third = worlds.explain(config, place, "seed=5", overwrite=True).manifest["run_id"]
    assert len({first, second, third}) == 3
    assert third in shown(place)
    assert first not in shown(place)


def test_what_was_not_made_is_made_by_the_next_command(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = config.parent / "run"
    with armed(Point("before pipeline.report:write_page"), "full"):
        assert cli.run(["explain", str(config)]) == 3
    assert "no space left" in capsys.readouterr().err.strip().splitlines()[-1]
    manifest = json.loads((place / "manifest.json").read_text())
    assert not (place / "report.html").exists()
    assert cli.run(["explain", str(config)]) == 0
    out = capsys.readouterr().out
    assert "nothing done" in out
    assert load_run(place).manifest == manifest
    assert report_is_current(load_run(place))
    (place / "report.html").unlink()
    assert cli.run(["report", str(place)]) == 0
    assert report_is_current(load_run(place))


@pytest.mark.parametrize("whole", [True, False])
def test_a_report_that_cannot_be_drawn_costs_the_run_nothing(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    place = config.parent / "run"

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    with monkeypatch.context() as broken:
        if whole:
            broken.setattr("pipeline.report.render", fails)
        else:
            order = [*report_sections.ORDER[:-1], ("Glossary", fails)]
            broken.setattr("pipeline.report.sections.ORDER", order)
        assert cli.run(["explain", str(config)]) == 0
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert told.startswith("warning: report.html")
        assert "ZeroDivisionError: division by zero" in told
        assert "attribeam report RUN draws it later" in told
        assert whole or "Glossary" in told
        assert load_run(place).manifest["counts"]["rows_attributed"] == 64
        assert (place / "report.html").exists() is not whole
        if not whole:
            assert "This section could not be drawn" in shown(place)
            assert not report_is_current(load_run(place))
            assert cli.run(["report", str(place), "--json"]) == 0
            out, err = capsys.readouterr()
            assert json.loads(out)["missing"] == ["Glossary: ZeroDivisionError: division by zero"]
            assert "warning: report.html: a section is missing: Glossary" in err
    assert cli.run(["report", str(place)]) == 0
    assert capsys.readouterr().err == ""
    assert report_is_current(load_run(place))
    assert "This section could not be drawn" not in shown(place)


def test_no_report_where_none_is_wanted(config: Path) -> None:
    place = config.parent / "run"
    run = worlds.explain(config, place, "output.report=false", "output.sample=0")
    assert not run.has_report
    assert not (place / SAMPLE).exists()
    # It decides no number: the run is the same, and one without rows can be shown too.
    assert worlds.explain(config, place, "output.sample=0").manifest == run.manifest
    assert report_is_current(load_run(place))


def test_the_sample_is_the_same_in_any_sharding(config: Path, tmp_path: Path) -> None:
    kept = []
    for shard_rows, batch in ((7, 3), (65, 65)):
        place = tmp_path / f"run-{shard_rows}"
        settings = (f"compute.shard_rows={shard_rows}", f"compute.batch_size={batch}", "output.sample=20")
        worlds.explain(config, place, *settings, "output.report=false")
        table = pq.read_table(place / SAMPLE)
        assert table["kind"].to_pylist() == ["sample"] * 20 + ["largest"] * 3 + ["smallest"] * 3
        kept.append(table)
    assert kept[0].equals(kept[1])


def test_nothing_is_written_into_a_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = config.parent / "run"
    assert cli.run(["explain", str(config)]) == 0
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for command in (
        ["report", str(place), "--figures", str(place / "attributions")],
        ["compare", str(place), str(place), "--html", str(place / "report.html")],
    ):
        assert cli.run(command) == 2
        assert "is in the run directory; choose a place outside it" in capsys.readouterr().err
    assert cli.run(["report", str(place), "--format", "png"]) == 2
    assert "--format: is given without --figures" in capsys.readouterr().err
    written = {path for path in place.rglob("*") if path.is_file()}
    assert written == set(before)
    assert {path: path.read_bytes() for path in written} == before


@pytest.mark.parametrize("name", ["importance.parquet", SAMPLE])
def test_a_damaged_table_is_named(name: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = config.parent / "run"
    assert cli.run(["explain", str(config)]) == 0
    (place / name).write_bytes((place / name).read_bytes()[:-20])
    capsys.readouterr()
    assert cli.run(["report", str(place)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{place / name}: is damaged: " in line
    assert "attribeam verify" in line


def test_a_report_has_the_labels_of_today(config: Path) -> None:
    """Also where a kill came between the new labels in the manifest and the report."""
    place = config.parent / "run"
    assert cli.run(["explain", str(config)]) == 0
    for label, killed in (("Speed of the wind", False), ("Wind as it blew", True)):
        command = ["explain", str(config), "--set", f"features.wind.label={label}"]
        if killed:
            with armed(Point("before pipeline.report:write_page"), "full"):
                assert cli.run(command) == 3
            assert label not in shown(place)
            assert not report_is_current(load_run(place))
        assert cli.run(command) == 0
        assert label in shown(place)
        assert report_is_current(load_run(place))
