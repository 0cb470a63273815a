"""A run of an earlier version is read, verified, compared and continued; tests/data/earlier_run holds it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import explain, load_run
from pipeline.cli import commands as cli

DATA = Path(__file__).resolve().parents[1] / "data" / "earlier_run"
#: The modification time that the input had: it is part of a run's fingerprint.
MTIME = 1_790_000_000


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of the run, as if it had been made here."""
    folder = tmp_path / "example"
    shutil.copytree(DATA, folder)
    for file in (*folder.glob("input/*"), *folder.glob("later/*")):
        os.utime(file, (MTIME, MTIME))
    manifest = folder / "committed" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("/srv/example", str(folder)))
    return folder


def digests(run: Path) -> dict[str, str]:
    return {
        path.relative_to(run).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()
        for path in sorted(run.glob("attributions/*.parquet"))
    }


def test_it_is_read(earlier: Path) -> None:
    run = load_run(earlier / "committed")
    table = run.attributions()
    assert run.manifest["counts"] == {
        "rows_read": 300, "rows_attributed": 298, "rows_rejected": 2, "attributions": 298,
    }  # fmt: skip
    phi = np.array([list(row.values()) for row in table["attribution"].to_pylist()])
    total = table["prediction"].to_numpy() - table["base_value"].to_numpy()
    np.testing.assert_allclose(phi.sum(axis=1), total, atol=0.02)
    frame = run.importance(slice="").set_index("feature")
    for at, feature in enumerate(run.features):
        assert frame.loc[feature, "mean_abs"] == pytest.approx(np.abs(phi[:, at]).mean(), rel=1e-6)
    assert run.rejected()["reason"].to_pylist() == ["distance is null"] * 2
    assert run.example("2026-01-003").rows[0]["example_id"] == "2026-01-003"
    assert run.explanation(rows=10).values.shape == (10, 3)


def test_it_is_verified(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", str(earlier / "committed"), "--rows", "40"]) == 0, capsys.readouterr()
    assert "300 rows read are 298 attributed" in capsys.readouterr().out


def test_the_same_command_leaves_it_alone(earlier: Path) -> None:
    before = digests(earlier / "committed")
    manifest = (earlier / "committed" / "manifest.json").read_bytes()
    run = explain(str(earlier / "config.yaml"))
    assert run.manifest["counts"]["rows_attributed"] == 298
    assert digests(earlier / "committed") == before
    assert (earlier / "committed" / "manifest.json").read_bytes() == manifest


def test_what_it_left_half_done_is_gone_on_with(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(earlier / "half")
    assert len(before) == 2
    explain(str(earlier / "config.yaml"), output=str(earlier / "half"))
    after = digests(earlier / "half")
    assert len(after) == 5
    assert before.items() <= after.items(), "finished shards are taken as they are"
    whole, gone_on = load_run(earlier / "committed"), load_run(earlier / "half")
    assert whole.attributions(["example_id"]).equals(gone_on.attributions(["example_id"]))
    both = [
        np.array([list(row.values()) for row in run.attributions()["attribution"].to_pylist()])
        for run in (whole, gone_on)
    ]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)
    # And a run of then is compared with one of now.
    assert cli.run(["compare", str(earlier / "committed"), str(earlier / "half")]) == 0
    assert "0 of 2 with a clear change" in capsys.readouterr().out


def test_files_are_added_to_it(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(earlier / "committed")
    shutil.copy2(earlier / "later" / "2026-03.parquet", earlier / "input")
    assert cli.run(["explain", str(earlier / "config.yaml")]) == 0, capsys.readouterr()
    run = load_run(earlier / "committed")
    assert run.manifest["counts"]["rows_read"] == 450
    assert before.items() <= digests(earlier / "committed").items()
    added = pq.read_table(run.parts()[-1])
    assert added["example_id"].to_pylist()[-1] == "2026-03-149"


@pytest.mark.usefixtures("reports")
def test_its_report_is_made_anew(earlier: Path) -> None:
    assert cli.run(["report", str(earlier / "committed")]) == 0
    assert "late-flights" in (earlier / "committed" / "report.html").read_text(encoding="utf-8")
