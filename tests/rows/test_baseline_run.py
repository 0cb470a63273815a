"""A baseline of an earlier run: the same rows and edges of bins, whatever the data are by now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.results.run import Run
from pipeline.run_directory.baseline_summary import described_values
from pipeline.run_directory.kept_baseline import kept_baseline
from tests.support import worlds
from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.rows.baselines.values import of_earlier
from transforms.rows.schema import ExampleSchema, FeatureSpec

SCORING = """
import numpy as np

def predict(batch):
    return 0.5 * batch["load"] - 0.25 * batch["age"] + np.where(batch["city"] == "Oslo", 1.0, 0.0)
"""
ROWS = 240


def rows_of(month: int, shift: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(month)
    return pa.table(
        {
            "id": [f"{month}-{row}" for row in range(ROWS)],
            "load": rng.normal(1.0 + shift, 1.0, ROWS).astype(np.float32),
            "age": rng.normal(0.0, 1.0 + month / 10, ROWS).astype(np.float32),
            "city": rng.choice(["Oslo", "Roma", "Köln"], ROWS),
        }
    )


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config over `{date}.parquet`: in February, `load` is shifted by three spreads."""
    folder = tmp_path_factory.mktemp("months")
    pq.write_table(rows_of(1), folder / "2026-01-01.parquet")
    pq.write_table(rows_of(2, 3.0), folder / "2026-02-01.parquet")
    (folder / "monthly_scoring.py").write_text(SCORING, encoding="utf-8")
    worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: monthly_scoring:predict"},
        input={
            "files": "{date}.parquet",
            "id": "id",
            "features": ["load", "age", "city"],
            "slices": [{"column": "age", "bins": 4}, [{"column": "load", "bins": 2}, "city"]],
        },
        method={"name": "exact_shap"},
        baseline={"kind": "sample", "rows": 20},
        output={"path": "runs/{date}"},
    )
    run(folder, "january", date="2026-01-01")
    return folder


def run(folder: Path, name: str, *settings: str, **options: Any) -> Run:
    return worlds.explain(folder / "config.yaml", folder / "runs" / name, *settings, **options)


HELD = "baseline={kind: run, path: runs/january}"


def test_a_run_has_the_baseline_and_the_edges_of_an_earlier_one(months: Path) -> None:
    january = load_run(months / "runs" / "january")
    february = run(months, "held", HELD, date="2026-02-01")
    own = run(months, "own", date="2026-02-01")
    first, held, other = (each.manifest["baseline"] for each in (january, february, own))
    assert held["digest"] == first["digest"] != other["digest"]
    assert held["kind"] == "run"
    assert held["rows"] == first["rows"] == 20
    assert held["of"] == {
        "run": str(months / "runs" / "january"), "run_id": january.manifest["run_id"], "kind": "sample",
    }  # fmt: skip
    edges = [[s.get("edges") for s in each.manifest["slices"]] for each in (january, february, own)]
    parts = [each.manifest["slices"][1]["parts"][0]["edges"] for each in (january, february, own)]
    assert edges[0] == edges[1] != edges[2]
    assert parts[0] == parts[1] != parts[2]
    assert len(edges[0][0]) == 3
    # By hand: a linear score's φ is weight · (value − mean of January's rows).
    rows = kept_baseline(january.path)
    assert rows is not None
    values = rows_of(2, 3.0)
    struct = february.attributions()["attribution"].combine_chunks()
    for name, weight in (("load", 0.5), ("age", -0.25)):
        expected = weight * (values[name].to_numpy() - rows[name].mean(dtype=np.float64))
        np.testing.assert_allclose(struct.field(name).to_numpy(), expected, atol=1e-5)


def test_a_run_of_a_run_needs_the_last_one_alone(months: Path) -> None:
    run(months, "second", HELD, date="2026-02-01")
    third = run(months, "third", "baseline={kind: run, path: runs/second}", date="2026-02-01")
    january = load_run(months / "runs" / "january").manifest
    assert third.manifest["baseline"]["digest"] == january["baseline"]["digest"]
    assert third.manifest["baseline"]["of"]["kind"] == "sample"
    # Where the earlier run is gone, verify takes the rows that this one keeps.
    shutil.rmtree(months / "runs" / "second")
    assert cli.run(["verify", third.path, "--rows", "30"]) == 0


def test_where_the_earlier_run_lies_decides_nothing(months: Path) -> None:
    first = run(months, "here", HELD, date="2026-02-01")
    shutil.copytree(months / "runs" / "january", months / "elsewhere")
    again = run(months, "here", "baseline={kind: run, path: elsewhere}", date="2026-02-01")
    assert again.manifest == first.manifest


def test_a_plan_says_whose_baseline_it_is(months: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", str(months / "config.yaml"), "--date", "2026-02-01", "--set", HELD]
    assert cli.run(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "baseline run, 20 rows: the sample of runs/january" in out.replace(f"{months}/", "")
    assert cli.run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["baseline"]
    assert told["of"]["kind"] == "sample"
    rows = kept_baseline(str(months / "runs" / "january"))
    assert rows is not None
    load, _, city = told["values"]
    assert (load["feature"], city["feature"]) == ("load", "city")
    held = rows["load"].astype(np.float64)
    figures = [load[key] for key in ("mean", "min", "max")]
    np.testing.assert_allclose(figures, [held.mean(), held.min(), held.max()])
    assert f"Oslo {(rows['city'] == b'Oslo').sum()} times" in city["text"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["baseline={kind: run, path: runs/none}"], "there is no committed run in"),
        (["baseline={kind: run}"], "kind: run and the key 'path' belong together"),
        (["baseline={kind: mean, path: runs/january}"], "kind: file or run and the key 'path' belong"),
        (["baseline={kind: run, path: runs/january, rows: 5}"], "leave the key 'rows' out"),
        ([HELD, "input.features=[load, age]"], "has city, which this run has not"),
        ([HELD, "input.features=[load, age, city, id]", "input.id=null"], "has no id"),
        ([HELD, "input.features=[{name: load, kind: categorical}, age, city]", "input.files=odd.parquet"],
         "load is float32 [] in the baseline of that run, but int64 [] here"),
        (["baseline={kind: run, path: runs/bare}"], "keeps no rows of its baseline"),
        (["baseline={kind: run, path: runs/hurt}"], "do not match its manifest"),
        (["baseline={kind: run, path: runs/x}", "output.path=runs/x"], "there is no committed run"),
    ],
)  # fmt: skip
def test_what_is_no_baseline_is_said(months: Path, settings: list[str], says: str) -> None:
    if "bare" in settings[0]:
        bare = run(months, "bare", "output.sample=0", date="2026-01-01")
        assert kept_baseline(bare.path) is None, "rows of people's data, which nobody wanted kept"
    if "hurt" in settings[0]:
        shutil.copytree(months / "runs" / "january", months / "runs" / "hurt", dirs_exist_ok=True)
        manifest = json.loads((months / "runs" / "hurt" / "manifest.json").read_text())
        manifest["baseline"]["digest"] = "sha256:0"
        (months / "runs" / "hurt" / "manifest.json").write_text(json.dumps(manifest))
    if "odd" in settings[-1]:
        table = rows_of(2)
        odd = table.set_column(1, "load", pa.array(range(ROWS), pa.int64()))
        pq.write_table(odd, months / "odd.parquet")
    with pytest.raises(UserError) as caught:
        run(months, "refused", *settings, date="2026-02-01")
    assert says in str(caught.value)
    assert not (months / "runs" / "refused").exists()


def test_a_run_is_not_its_own_baseline(months: Path) -> None:
    with pytest.raises(UserError, match="lies in the run directory"):
        run(months, "january", HELD, date="2026-02-01", overwrite=True)


@pytest.mark.parametrize("kind", ["mean", "zeros", "median"])
def test_one_row_of_statistics_is_kept_whatever_the_sample(months: Path, kind: str) -> None:
    first = run(months, kind, f"baseline={{kind: {kind}}}", "output.sample=0", date="2026-01-01")
    held = run(
        months,
        f"{kind}-held",
        f"baseline={{kind: run, path: runs/{kind}}}",
        "output.sample=0",
        date="2026-02-01",
    )
    assert held.manifest["baseline"]["digest"] == first.manifest["baseline"]["digest"]
    assert kept_baseline(held.path) is not None


def test_incremental_runs_and_dates_take_it(months: Path) -> None:
    config = yaml.safe_load((months / "config.yaml").read_text())
    config["incremental"] = True
    config["input"]["files"] = "grows-*.parquet"
    config["baseline"] = {"kind": "run", "path": "runs/{date}-base"}
    (months / "grows.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    shutil.copytree(months / "runs" / "january", months / "runs" / "2026-01-01-base")
    pq.write_table(rows_of(3), months / "grows-1.parquet")
    place = months / "runs" / "grown"
    worlds.explain(months / "grows.yaml", place, date="2026-01-01")
    pq.write_table(rows_of(4), months / "grows-2.parquet")
    second = worlds.explain(months / "grows.yaml", place, date="2026-01-01")
    assert len(second.manifest["increments"]) == 2
    january = load_run(months / "runs" / "january").manifest
    assert second.manifest["baseline"]["digest"] == january["baseline"]["digest"]
    assert second.manifest["slices"] == january["slices"]
    assert kept_baseline(second.path) is not None
    assert cli.run(["verify", second.path, "--rows", "10"]) == 0


def _schema(values: tuple[str, ...], reject: bool = True) -> ExampleSchema:
    known = Categories(values, reject)
    feature = FeatureSpec("city", "categorical", "float32", (), pa.string(), None, "x", 0, categories=known)
    return ExampleSchema((feature,), {"x": (1,)}, {})


def test_categories_keep_their_meaning_from_model_to_model() -> None:
    codes = {"city": np.array([0.0, 2.0, np.nan, 1.0], np.float32)}
    of = {"city": Categories(("Köln", "Oslo", "Roma"), True)}
    same = of_earlier(codes, of, _schema(("Köln", "Oslo", "Roma")))
    np.testing.assert_array_equal(same["city"], codes["city"])
    # The other model knows a city more, and has them in another order.
    other = of_earlier(codes, of, _schema(("Bonn", "Roma", "Oslo", "Köln")))
    np.testing.assert_array_equal(other["city"], [3, 1, np.nan, 2])
    assert other["city"].dtype == np.float32
    with pytest.raises(UserError, match="Oslo of city in the baseline of that run is not a category"):
        of_earlier(codes, of, _schema(("Roma", "Köln")))
    unseen = of_earlier(codes, of, _schema(("Roma", "Köln"), reject=False))
    np.testing.assert_array_equal(unseen["city"], [1, 0, np.nan, np.nan])
    with pytest.raises(UserError, match="has categories in only one of the two"):
        of_earlier(codes, {}, _schema(("Roma", "Köln")))


def test_what_a_baseline_holds_is_told_in_words() -> None:
    features = {
        "one": np.array([1.5], np.float32),
        "many": np.array([1.0, 2.0, np.nan]),
        "none": np.array([np.nan]),
        "city": np.array([1.0, 1.0, np.nan], np.float32),
        "text": np.array([b"a", b"", b"a"], object),
        "picture": np.arange(6.0).reshape(1, 2, 3),
    }
    found = described_values(features, {"city": Categories(("Köln", "Oslo"), True)})
    assert [each["text"] for each in found] == [
        "1.5",
        "mean 1.5, from 1 to 2, 1 missing",
        "missing",
        "Oslo 2 times, missing once",
        "a 2 times, '' once",
        "2×3 values, mean 2.5, from 0 to 5",
    ]
