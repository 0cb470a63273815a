"""Comparing runs whose baseline, bins or slices moved with the data; the data are made so on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.compare import compare
from pipeline.compare.page import sections, write_page
from pipeline.compare.sentences import bins, headline
from pipeline.report.blocks import Prose, Table
from pipeline.results.run import Run
from tests.support import worlds
from tests.support.run_worlds import importance_of, write_run

SCORING = """
def predict(batch):
    return 0.5 + batch["load"] - 0.25 * batch["age"] + 0.1 * batch["wind"]
"""
ROWS = 400


def _month(month: int, shift: float) -> pa.Table:
    """A month, alike but for `load`, which moves by so many of its spreads; every 8th age is null."""
    rng = np.random.default_rng(month)
    age = [None if row % 8 == 0 else float(value) for row, value in enumerate(rng.normal(40, 9, ROWS))]
    return pa.table(
        {
            "load": rng.normal(shift, 1.0, ROWS),
            "age": pa.array(age, pa.float64()),
            "wind": rng.normal(0.0, 1.0, ROWS),
        }
    )


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    for name, table in (("january", _month(1, 0.0)), ("february", _month(2, 3.0)), ("again", _month(3, 0.0))):
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "compared_scoring.py").write_text(SCORING, encoding="utf-8")
    worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: compared_scoring:predict"},
        input={
            "files": "january.parquet",
            "features": ["load", {"name": "age", "fill": 40}, "wind"],
            "slices": [{"column": "age", "bins": 4}],
        },
        method={"name": "exact_shap"},
        baseline={"kind": "mean"},
        output={"path": "runs/x"},
    )
    for name in ("january", "february", "again"):
        explain(folder, name, f"input.files={name}.parquet")
    return folder


def explain(folder: Path, name: str, *settings: str) -> Run:
    return worlds.explain(folder / "config.yaml", folder / "runs" / name, *settings)


def test_the_change_of_the_score_and_the_baseline_that_moved_are_in_the_headline(
    months: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (load_run(months / "runs" / name) for name in ("january", "february"))
    found = compare(first, second)
    text = headline(found)
    means = [
        run.attributions(columns=["prediction"])["prediction"].to_numpy().mean() for run in (first, second)
    ]
    assert f"The mean score rose from {means[0]:.3g} to {means[1]:.3g}." in text.replace("−", "-")
    held = [np.asarray(pq.read_table(months / f"{name}.parquet")["load"]) for name in ("january", "february")]
    (moved,) = found.baselines
    assert moved.feature == "load"
    assert moved.size == pytest.approx((held[1].mean() - held[0].mean()) / held[0].std(), rel=1e-3)
    texts = [text.replace("−", "-") for text in (moved.before, moved.after)]
    assert [float(text) for text in texts] == pytest.approx([v.mean() for v in held], rel=1e-3)
    assert "The baseline moved: load from" in text
    assert f"baseline: {{kind: run, path: {first.path}}}" in text
    assert "No change in the importance of the 3 features is more than chance." in text
    assert cli.run(["compare", first.path, second.path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"] == text
    assert told["baselines"][0]["feature"] == "load"
    assert cli.run(["compare", first.path, second.path]) == 0
    assert "baseline moved load from" in " ".join(capsys.readouterr().out.split())


def test_held_by_the_first_run_the_shift_shows(months: Path) -> None:
    held = explain(months, "held", "input.files=february.parquet", "baseline={kind: run, path: runs/january}")
    found = compare(load_run(months / "runs" / "january"), held)
    text = headline(found)
    assert "The baseline moved" not in text
    assert text.startswith("Other data, the same model, method and baseline. The mean score rose")
    assert "most of all that of load" in text
    assert "The mean score rose" in text
    assert not found.edges
    assert not found.slices_gone
    assert not found.slices_new


def test_months_that_are_alike_raise_no_alarm(months: Path) -> None:
    found = compare(*(load_run(months / "runs" / name) for name in ("january", "again")))
    text = headline(found)
    assert "mean score" not in text
    assert "The baseline moved" not in text
    assert "No change in the importance" in text
    # Every eighth row has the same filled age: φ of it is one number, which any other baseline moves.
    null = found.slices[(found.slices["slice"] == "age=null") & (found.slices["feature"] == "age")]
    assert null["std_a"].item() < 1e-6 > null["std_b"].item()
    assert abs(null["change"].item()) > 0.01
    assert not null["significant"].item()
    assert np.isnan(null["p"].item())
    assert not found.by_slice["significant"].any()


def test_other_edges_of_bins_are_said(months: Path, tmp_path: Path) -> None:
    found = compare(*(load_run(months / "runs" / name) for name in ("january", "again")))
    edges = [load_run(months / "runs" / name).manifest["slices"][0]["edges"] for name in ("january", "again")]
    assert edges[0] != edges[1]
    assert found.edges == {"age": tuple(map(tuple, edges))}
    lines = bins(found)
    assert ", ".join(f"{edge:g}" for edge in edges[0]) in lines[0]
    assert "only bins between the same edges are compared" in lines[1]
    # The same label has the same edges, and so the same meaning.
    assert set(found.by_slice["slice"]) == set(load_run(months / "runs/january").importance()["slice"]) & set(
        load_run(months / "runs/again").importance()["slice"]
    ) - {""}
    page = {section.id: section for section in sections(found)}
    told = [block.text for block in page["slices"].blocks if isinstance(block, Prose)]
    assert any("The bins of age have the edges" in text for text in told)
    moved = sections(compare(*(load_run(months / "runs" / name) for name in ("january", "february"))))
    tables = [block for block in moved[0].blocks if isinstance(block, Table)]
    assert tables[-1].header[0] == "Feature"
    assert tables[-1].rows[0][0] == "load"
    write_page(found, str(tmp_path / "page.html"))


def test_without_a_sample_the_scores_are_those_of_all_rows(months: Path) -> None:
    runs = [
        explain(months, f"{name}-bare", f"input.files={name}.parquet", "output.sample=0")
        for name in ("january", "february")
    ]
    (predictions,) = compare(*runs).predictions
    assert predictions.rows == (ROWS, ROWS)
    assert "The mean score rose" in headline(compare(*runs))


# -- where nothing varies ------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    made = iter("abcdefghij")
    return lambda table, **changed: write_run(tmp_path / next(made), table, **changed)


@pytest.mark.parametrize("move", [1e-9, 1e-3, 0.5])
@pytest.mark.parametrize("rows", [2, 5, 3000])
def test_what_does_not_vary_is_no_evidence(runs: Any, rows: int, move: float) -> None:
    rng = np.random.default_rng(4)

    def table(constant: float) -> pd.DataFrame:
        steady = np.full(rows, constant, np.float32)
        # Rounding of single precision is no variation either.
        rounded = np.float32(1.0) * constant + rng.choice([0.0, 1e-8], rows)
        return importance_of(
            {"age": steady, "rounded": rounded, "load": rng.normal(size=rows)}, slice="age=null"
        )

    whole = importance_of({name: rng.normal(size=5000) for name in ("age", "rounded", "load")})
    found = compare(*(runs(pd.concat([whole, table(value)])) for value in (0.7, 0.7 + move)))
    for name in ("age", "rounded"):
        row = found.slices[found.slices["feature"] == name].to_dict("records")[0]
        assert not row["significant"], name
        assert not row["flip"], name


def test_what_varies_in_one_run_can_be_told(runs: Any) -> None:
    rng = np.random.default_rng(5)
    steady = {"age": np.full(2000, 0.7), "load": rng.normal(size=2000)}
    moved = {"age": rng.normal(2.0, 0.3, 2000), "load": rng.normal(size=2000)}
    found = compare(*(runs(importance_of(phi)) for phi in (steady, moved)))
    assert found.features[found.features["feature"] == "age"]["significant"].item()
