"""Exports, parsed back and compared with the run's own tables."""

from __future__ import annotations

import functools
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that
from google.protobuf import json_format, struct_pb2

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.compare import compare
from pipeline.compare.page import write_page
from pipeline.exports import KINDS, export, reading
from pipeline.exports.tfma import to_extracts
from pipeline.results.run import Run
from tests.support import worlds
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError

ROWS = 50
MODEL = """
import numpy as np

RATES = {"Köln": 2.0, "Oslo": -1.0}


def heads(rows):
    late = np.array([RATES[city] for city in rows["city"]]) * rows["wind"] + rows["series"] @ [1, 2, 3]
    return np.stack([late, -late + 0.3 * rows["wind"]], axis=1)


def late(rows):
    return heads(rows)[:, 0]
"""


@cache
def world() -> Path:
    folder = worlds.shelf() / "exports"
    folder.mkdir()
    (folder / "exported_models.py").write_text(MODEL, encoding="utf-8")
    rng = np.random.default_rng(0)
    city = rng.choice(["Köln", "Oslo"], ROWS)
    wind = np.where(np.arange(ROWS) == 17, np.nan, rng.normal(size=ROWS))
    table = pa.table(
        {
            "id": [f'row "{i}", é' for i in range(ROWS)],
            "city": pa.array(city),
            "wind": pa.array(wind, pa.float32()),
            "series": pa.array(rng.normal(size=(ROWS, 3)).tolist(), pa.list_(pa.float32(), 3)),
            "carrier": pa.array(rng.choice(["UA", "AA"], ROWS)),
            "which": pa.array(rng.integers(0, 2, ROWS)),
            "mass": pa.array(rng.uniform(1, 2, ROWS)),
        }
    )
    pq.write_table(table, folder / "rows.parquet")
    worlds.write_config(
        folder / "config.yaml",
        name="exports",
        model={"path": "python: exported_models:heads", "target": "all"},
        input={
            "files": "rows.parquet",
            "id": "id",
            "features": ["city", "wind", "series"],
            "slices": ["carrier"],
        },
        method={"name": "exact_shap"},
        baseline={"kind": "sample", "rows": 5},
        output={"path": "runs/unused"},
        compute={"shard_rows": 20, "batch_size": 7},
        limits={"rejected": 0.05},
    )
    return folder / "config.yaml"


FEATURES = "output.features=true"
LATE = ("model.path='python: exported_models:late'", "model.target=0")


def run(*settings: str) -> Run:
    return worlds.explained(world(), *settings)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples of two rows never end where so few rows do."""
    monkeypatch.setattr(reading, "_ROWS", 7)
    yield
    sys.modules.pop("exported_models", None)
    importlib.invalidate_caches()


def place() -> Path:
    return Path(tempfile.mkdtemp(dir=worlds.shelf())) / "export"


def phi(table: pa.Table) -> pd.DataFrame:
    """φ by flat names, a row a row of the table."""
    rows = []
    for value in table["attribution"].to_pylist():
        series = {f"series[{i}]": number for i, number in enumerate(value["series"])}
        rows.append({"city": value["city"], "wind": value["wind"], **series})
    return pd.DataFrame(rows)


# -- SageMaker Clarify ---------------------------------------------------------------------------------------


def test_clarify() -> None:
    source, folder = run(FEATURES), place()
    paths = export(source, "clarify", str(folder))
    assert [Path(path).relative_to(folder).as_posix() for path in paths] == [
        "analysis.json",
        "explanations_shap/out.csv",
        "explanations_shap/example_ids.csv",
    ]
    analysis = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    assert analysis["version"] == "1.0"
    labels = analysis["explanations"]["kernel_shap"]
    assert set(labels) == {"label0", "label1"}
    table = source.attributions()
    importance = source.importance(slice="")
    for target in (0, 1):
        mine = importance[importance["target"] == target].set_index("feature")["mean_abs"].to_dict()
        assert labels[f"label{target}"]["global_shap_values"] == mine
        base = table.filter(pa.compute.equal(table["target"], target))["base_value"].to_numpy().astype(float)
        assert labels[f"label{target}"]["expected_value"] == pytest.approx(base.mean())
    out = pd.read_csv(folder / "explanations_shap" / "out.csv")
    values = phi(table)
    wanted = [f"{name}_label{target}" for target in (0, 1) for name in values.columns]
    assert list(out.columns) == wanted
    by_example = values.to_numpy().reshape(ROWS - 1, -1)
    np.testing.assert_array_equal(out.to_numpy().astype(np.float32), by_example.astype(np.float32))
    ids = pd.read_csv(folder / "explanations_shap" / "example_ids.csv")["example_id"].tolist()
    assert ids == table["example_id"].to_pylist()[::2]
    assert 'row "17", é' not in ids
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [
        "analysis.json",
        "example_ids.csv",
        "out.csv",
    ]


def test_clarify_of_one_label_an_example() -> None:
    """`target: {column: which}`: the other label's cells are empty."""
    source, folder = run("model.target={column: which}"), place()
    export(source, "clarify", str(folder))
    out = pd.read_csv(folder / "explanations_shap" / "out.csv")
    table = source.attributions()
    targets, values = table["target"].to_numpy(), phi(table)
    assert set(targets) == {0, 1}
    for target in (0, 1):
        mine = out[[f"{name}_label{target}" for name in values.columns]].to_numpy()
        assert np.isnan(mine[targets != target]).all()
        found = mine[targets == target].astype(np.float32)
        np.testing.assert_array_equal(found, values[targets == target].to_numpy().astype(np.float32))


def test_clarify_knows_global_values_without_local_ones() -> None:
    for setting in ("output.attributions=none", "output.attributions={top_k: 2}"):
        folder = place()
        source = run(setting)
        (path,) = export(source, "clarify", str(folder))
        labels = json.loads(Path(path).read_text())["explanations"]["kernel_shap"]
        mean = source.importance(slice="", target=0).set_index("feature")["mean_abs"].to_dict()
        assert labels["label0"]["global_shap_values"] == mean
        expected = labels["label0"]["expected_value"]
        whole = run(FEATURES).attributions(columns=["base_value"], filter=[("target", "=", 0)])
        assert expected == pytest.approx(whole["base_value"].to_numpy().mean(), rel=1e-5)


# -- Vertex AI -----------------------------------------------------------------------------------------------

#: Fields of the message Attribution in Vertex AI's API.
ATTRIBUTION = {
    *("baselineOutputValue", "instanceOutputValue", "featureAttributions", "outputIndex"),
    *("outputDisplayName", "approximationError", "outputName"),
}


def lines(paths: list[str]) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()
    ]


def assert_same(first: Any, second: Any) -> None:
    """Equal in single precision, bit for bit."""
    np.testing.assert_array_equal(np.float32(first), np.float32(second))


def test_vertex() -> None:
    source, folder = run(FEATURES), place()
    paths = export(source, "vertex", str(folder))
    assert [Path(path).name for path in paths] == [f"explanation.results-0000{i}-of-00003" for i in range(3)]
    rows, table = lines(paths), source.attributions().to_pylist()
    assert len(rows) == ROWS - 1
    for at, line in enumerate(rows):
        first, second = table[2 * at : 2 * at + 2]
        assert list(line) == ["key", "instance", "prediction", "explanation"]
        assert line["key"] == first["example_id"]
        assert line["instance"]["city"] == first["feature"]["city"]
        for name in ("wind", "series"):
            assert_same(line["instance"][name], first["feature"][name])
        assert line["prediction"] == pytest.approx([first["output"], second["output"]], rel=1e-6)
        attributions = line["explanation"]["attributions"]
        for number, (attribution, row) in enumerate(zip(attributions, (first, second), strict=True)):
            assert set(attribution) <= ATTRIBUTION
            assert np.float32(attribution["baselineOutputValue"]) == np.float32(row["base_value"])
            assert np.float32(attribution["instanceOutputValue"]) == np.float32(row["prediction"])
            assert attribution["outputIndex"] == [number]
            assert attribution["outputDisplayName"] == row["target_name"]
            found = attribution["featureAttributions"]
            assert list(found) == source.features
            for name in source.features:
                assert_same(found[name], row["attribution"][name])
            change = attribution["instanceOutputValue"] - attribution["baselineOutputValue"]
            assert attribution["approximationError"] == pytest.approx(
                abs(row["convergence_delta"]) / abs(change), abs=1e-9
            )
            # The struct that Vertex keeps them in takes them.
            json_format.ParseDict(found, struct_pb2.Struct())
    outputs = [head["name"] for head in source.manifest["model"]["outputs"]]
    assert [attribution["outputName"]] == outputs


def test_vertex_of_one_output() -> None:
    source = run(*LATE)
    rows = lines(export(source, "vertex", str(place())))
    table = source.attributions().to_pylist()
    assert [row["key"] for row in rows] == [row["example_id"] for row in table]
    assert "instance" not in rows[0]
    assert np.float32(rows[3]["prediction"]) == np.float32(table[3]["output"])
    (attribution,) = rows[3]["explanation"]["attributions"]
    assert "outputIndex" not in attribution
    total = sum(np.sum(value) for value in attribution["featureAttributions"].values())
    change = attribution["instanceOutputValue"] - attribution["baselineOutputValue"]
    assert total == pytest.approx(change, abs=1e-5)


def test_vertex_of_the_largest_features() -> None:
    source = run("output.attributions={top_k: 2}")
    rows, table = lines(export(source, "vertex", str(place()))), source.attributions().to_pylist()
    found = rows[4]["explanation"]["attributions"][1]["featureAttributions"]
    row = table[9]
    assert list(found) == [*(pair["feature"] for pair in row["top"]), "(all others)"]
    assert sum(found.values()) == pytest.approx(row["prediction"] - row["base_value"], abs=1e-5)


def test_examples_are_whole_whatever_the_row_groups(tmp_path: Path) -> None:
    table = pa.table({"example_id": np.repeat(np.arange(40), 3), "other": np.zeros(120)})
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=5)
    found = list(reading.whole_examples(str(tmp_path / "part.parquet"), 3, ["example_id"]))
    assert pa.concat_tables(found)["example_id"].to_pylist() == table["example_id"].to_pylist()
    assert all(len(each) % 3 == 0 for each in found)
    assert max(map(len, found)) <= 12


def test_json_has_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.exports import vertex

    line = {"key": "é", "instance": {"a": float("nan"), "b": [1.0, float("inf")]}}
    assert json.loads(vertex._json(line)) == {"key": "é", "instance": {"a": None, "b": [1.0, None]}}


# -- TensorFlow Model Analysis -------------------------------------------------------------------------------


class Totals(beam.CombineFn):
    """What TFMA's metrics do with extracts, written from their documentation: weighted sums by feature."""

    def create_accumulator(self) -> dict[str, np.ndarray]:
        return {}

    def add_input(self, total: dict[str, np.ndarray], extracts: dict[str, Any]) -> dict[str, np.ndarray]:
        weight = float(extracts["example_weights"])
        for name, value in extracts["attributions"].items():
            assert np.ndim(value) <= 1
            total[name] = total.get(name, 0.0) + weight * np.abs(np.asarray(value, np.float64))
        return total

    def merge_accumulators(self, totals: Any) -> dict[str, np.ndarray]:
        merged: dict[str, np.ndarray] = {}
        for total in totals:
            for name, value in total.items():
                merged[name] = merged.get(name, 0.0) + value
        return merged

    def extract_output(self, total: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return total


def extracts_of(paths: list[str]) -> list[dict[str, Any]]:
    return [to_extracts(row) for path in paths for row in pq.read_table(path).to_pylist()]


def test_tfma_of_one_output() -> None:
    source, folder = run(*LATE, "input.weight=mass"), place()
    paths = export(source, "tfma", str(folder))
    assert [Path(path).name for path in paths] == [f"extracts-0000{i}-of-00003.parquet" for i in range(3)]
    table = source.attributions()
    weights = table["weight"].to_numpy()
    rows = extracts_of(paths)
    totals = functools.reduce(Totals().add_input, rows, Totals().create_accumulator())

    def same(found: list[dict[str, Any]]) -> None:
        (one,) = found
        assert one.keys() == totals.keys()
        assert all(np.allclose(one[name], totals[name]) for name in totals)

    with beam.Pipeline(runner="BundleBasedDirectRunner") as pipeline:
        summed = (
            pipeline
            | beam.io.ReadFromParquet(str(folder / "extracts-*.parquet"))
            | beam.Map(to_extracts)
            | beam.CombineGlobally(Totals())
        )
        assert_that(summed, same)
    values = phi(table)
    assert totals["city"] == pytest.approx((values["city"].abs() * weights).sum())
    series = values[[f"series[{i}]" for i in range(3)]].abs().to_numpy()
    assert totals["series"] == pytest.approx((series * weights[:, None]).sum(axis=0))
    # Weighted, what the run says itself.
    mine = source.importance(slice="").set_index("feature")["mean_abs"]
    assert totals["wind"] / weights.sum() == pytest.approx(mine["wind"])
    assert [row["example_id"] for row in rows] == table["example_id"].to_pylist()
    assert set(rows[0]) == {
        "example_id",
        "attributions",
        "predictions",
        "labels",
        "example_weights",
        "features",
    }
    assert rows[0]["labels"] is None
    assert float(rows[5]["predictions"]) == pytest.approx(table["output"][5].as_py())
    assert {row["features"]["carrier"].tolist()[0] for row in rows} == {"UA", "AA"}


def test_tfma_of_several_outputs() -> None:
    source = run(FEATURES)
    rows = extracts_of(export(source, "tfma", str(place())))
    table = source.attributions().to_pylist()
    names = [table[0]["target_name"], table[1]["target_name"]]
    for at, row in enumerate(rows):
        for number, name in enumerate(names):
            mine = table[2 * at + number]
            assert float(row["predictions"][name]) == mine["output"]
            assert float(row["attributions"][name]["wind"]) == mine["attribution"]["wind"]
            assert row["attributions"][name]["series"].tolist() == mine["attribution"]["series"]
        assert float(row["example_weights"]) == 1.0
        assert row["features"]["city"].tolist() == [table[2 * at]["feature"]["city"]]
        assert row["features"]["series"].tolist() == table[2 * at]["feature"]["series"]


def test_extracts_without_features() -> None:
    source = run(*LATE, "input.slices=[]")
    path = export(source, "tfma", str(place()))[0]
    assert "features" not in pq.read_schema(path).names
    assert extracts_of([path])[0]["features"] == {}


# -- what all have in common ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vertex", "tfma"])
def test_local_values_that_are_not_there(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"holds no attributions.*explain again with output\.attributions: all"
    ):
        export(run("output.attributions=none"), kind, str(place()))
    if kind == "tfma":
        with pytest.raises(UserError, match=r"every feature of each.*output\.attributions: all"):
            export(run("output.attributions={top_k: 2}"), kind, str(place()))


def test_folders() -> None:
    source = run(*LATE)
    with pytest.raises(UserError, match="'excel' is not an export; known: clarify, vertex, tfma"):
        export(source, "excel")
    with pytest.raises(UserError, match="in the run directory"):
        export(source, "vertex", f"{source.path}/export")
    full = place()
    full.mkdir()
    (full / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        export(source, "vertex", str(full))
    before = worlds.part_bytes(source)
    for kind in KINDS:
        paths = export(source, kind)
        assert all(path.startswith(f"{source.path}-{kind}/") for path in paths)
    assert worlds.part_bytes(source) == before


def test_from_a_store_into_a_store() -> None:
    """A run at a URL gives the same files, at a URL, as the run on the disk."""
    source, local = run(*LATE), place()
    for path in Path(source.path).rglob("*"):
        if path.is_file():
            key = path.relative_to(source.path).as_posix()
            MemoryFileSystem.blobs[f"mem://exports/run/{key}"] = path.read_bytes()
    stored = load_run("mem://exports/run")
    for kind in KINDS:
        paths = export(stored, kind)
        assert all(path.startswith(f"mem://exports/run-{kind}/") for path in paths)
        for path, same in zip(paths, export(source, kind, str(local / kind)), strict=True):
            assert MemoryFileSystem.blobs[path] == Path(same).read_bytes()
    with pytest.raises(UserError, match="is not empty"):
        export(stored, "vertex")
    with pytest.raises(UserError, match="in the run directory"):
        export(stored, "vertex", "mem://exports/run/vertex")
    again = compare(stored, source)
    assert again.setting.differences == ()
    write_page(again, "mem://exports/page.html")
    assert MemoryFileSystem.blobs["mem://exports/page.html"].lower().startswith(b"<!doctype html>")


def test_nothing_is_left_of_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.exports import vertex

    folder = place()
    monkeypatch.setattr(vertex, "_json", lambda line: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(run(*LATE), "vertex", str(folder))
    assert list(folder.iterdir()) == []


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = run(*LATE), place()
    assert cli.run(["report", source.path, "--export", "excel"]) == 2
    assert "'excel' is not an export" in capsys.readouterr().err
    assert cli.run(["report", source.path, "--export-dir", str(folder)]) == 2
    assert "without --export" in capsys.readouterr().err
    assert cli.run(["report", source.path, "--export", "tfma", "--export-dir", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exported"] == [str(path) for path in sorted(folder.iterdir())]
