"""The questions that docs/guide/queries.md asks the tables, on a few made-up flights: answers are numpy's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.results.run import Run
from tests.support import worlds
from tests.support.pages import PAGES, block

WEATHER = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
MODEL = """
import numpy as np

CARRIER = {"UA": 0.2, "AA": 1.0, "DL": 3.0}


def late(rows):
    weather = rows["temp"] + rows["precip"] * np.array([CARRIER[carrier] for carrier in rows["carrier"]])
    return weather + 0.5 * rows["distance"] + np.sin(rows["dep_hour"] / 4) * rows["precip"]
"""


@pytest.fixture(scope="module")
def checkout() -> Iterator[Path]:
    folder = worlds.shelf() / "queries"
    folder.mkdir()
    (folder / "queried_model.py").write_text(MODEL, encoding="utf-8")
    rng = np.random.default_rng(0)
    rows = 600
    day = pd.Timestamp("2013-01-01") + pd.to_timedelta(rng.integers(0, 180, rows), unit="D")
    columns: dict[str, Any] = {
        "flight_id": [f"{date:%Y-%m-%d} EWR {at}" for at, date in enumerate(day)],
        "carrier": rng.choice(["UA", "AA", "DL"], rows),
        "dep_hour": rng.integers(5, 23, rows).astype(np.float32),
        **{name: rng.normal(size=rows).astype(np.float32) for name in ("distance", *WEATHER)},
    }
    pq.write_table(pa.table(columns), folder / "flights.parquet")
    config = worlds.write_config(
        folder / "flights.yaml",
        name="flights",
        model={"path": "python: queried_model:late"},
        input={
            "files": "flights.parquet",
            "id": "flight_id",
            "features": ["carrier", "dep_hour", "distance", *WEATHER],
            "slices": ["carrier"],
        },
        method={"name": "permutation_shap", "n_permutations": 2},
        baseline={"kind": "sample", "rows": 5},
        output={"path": "runs/flights"},
        compute={"shard_rows": 250},
    )
    worlds.explain(config, folder / "runs" / "flights")
    yield folder
    sys.modules.pop("queried_model", None)


@pytest.fixture
def run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(checkout)
    mpl.use("Agg")
    yield load_run("runs/flights")
    import matplotlib.pyplot as plt

    plt.close("all")


def phi(run: Run) -> pd.DataFrame:
    return pd.DataFrame(run.attributions()["attribution"].to_pylist())


def test_carriers(run: Run) -> None:
    found = duckdb.sql(block("duckdb carriers")).fetchall()
    carriers = run.attributions()["carrier"].to_pandas().astype(str)
    means = phi(run).abs().groupby(carriers).mean()
    share = 100 * means[list(WEATHER)].sum(axis=1) / means.sum(axis=1)
    assert {name: percent for name, _, percent in found} == {
        f"carrier={name}": pytest.approx(value, abs=0.06) for name, value in share.items()
    }
    assert [percent for *_, percent in found] == sorted(share.round(1), reverse=True)
    assert {name: rows for name, rows, _ in found} == {
        f"carrier={name}": rows for name, rows in carriers.value_counts().items()
    }


def test_main_reason(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(block("pandas top"), names)
    values = phi(run)
    mine = np.abs(values.to_numpy()).argmax(axis=1) == values.columns.get_loc("distance")
    found = names["flights"][names["top"] == "distance"]
    assert 0 < mine.sum() < len(values)
    ids = np.array(run.attributions()["example_id"].to_pylist())
    assert found["example_id"].tolist() == ids[mine].tolist()
    best = ids[mine][np.argmax(values["distance"].to_numpy()[mine])]
    assert capsys.readouterr().out.splitlines()[1].split()[1:4] == best.split()


def test_drift(run: Run) -> None:
    names: dict[str, Any] = {}
    exec(block("polars drift"), names)
    months = pd.Series(run.attributions()["example_id"].to_pylist()).str[:7]
    means = phi(run).groupby(months).mean()
    drift = names["drift"].to_dict(as_series=False)
    assert drift["month"] == sorted(means.index)
    assert drift["flights"] == months.value_counts().sort_index().tolist()
    for name in ("temp", "precip", "dep_hour"):
        assert drift[name] == pytest.approx(means[name].tolist(), abs=6e-4)


def test_shap_plots(run: Run) -> None:
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {}
    exec(block("shap plots"), names)
    assert len(names["explanation"]) == 600
    assert len(plt.get_fignums()) >= 1


def test_interactions(run: Run) -> None:
    found = duckdb.sql(block("duckdb interactions")).fetchall()
    pairs = {pair[:2] for pair in found}
    assert {("carrier", "precip"), ("dep_hour", "precip")} <= pairs
    assert not [pair for pair in pairs if "distance" in pair or "temp" in pair]
    table = pq.read_table("runs/flights/report/interactions.parquet").to_pylist()
    assert len(found) == min(10, len(table))


def test_every_question_is_asked() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for marker in re.findall(r"<!-- (\w+ .*?) -->", PAGES["docs/guide/queries.md"]):
        assert f'block("{marker}")' in source
