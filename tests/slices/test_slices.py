"""Slices, weights, a smallest slice and labels from the config to the tables, against pandas."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.execution.run import prepare, preview
from tests.support import worlds
from transforms.aggregates.importance import state_bytes
from transforms.errors import UserError
from transforms.explain import _ExplainBatch
from transforms.worker.journal import STATES_AHEAD
from transforms.worker.runtime import runtime

ROWS = 240


MODEL = """
import numpy as np


def score(rows):
    first = np.tanh(rows["age"] / 50) + rows["hour"] / 24
    return np.column_stack([first, rows["hour"] / 24 - rows["rate"]])
"""
SLICES: list[Any] = [
    "carrier",
    "age >= 65",
    ["carrier", "not hour < 12"],
    {"column": "age", "bins": [18, 65]},
    {"column": "hour", "bins": 4},
    ["late", {"column": "hour", "bins": 4}],
]
#: By number of the row: no weight that counts.
NO_WEIGHTS = {11: None, 50: float("nan"), 51: float("inf"), 200: -1.0, 201: 1e-36}


def rows_of(first: int, rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(first)
    weight: list[float | None] = rng.choice([0.0, 0.5, 1.0, 3.0], rows).tolist()
    for at, value in NO_WEIGHTS.items():
        if first <= at < first + rows:
            weight[at - first] = value
    return {
        "id": [f"row {at}" for at in range(first, first + rows)],
        "age": pa.array(rng.integers(0, 100, rows), pa.int32()),
        "hour": pa.array(np.round(rng.uniform(0, 24, rows), 2), pa.float32()),
        "rate": rng.normal(size=rows),
        "carrier": pa.array(rng.choice(["UA", "AA", "null", "rare"], rows, p=[0.6, 0.3, 0.08, 0.02])),
        "late": rng.random(rows) < 0.5,
        "weight": pa.array(weight, pa.float64(), from_pandas=False),
        "serial": np.arange(first, first + rows),
    }


@cache
def world() -> Path:
    folder = worlds.shelf() / "slices"
    folder.mkdir()
    (folder / "sliced_model.py").write_text(MODEL)
    for number, first in enumerate((0, 100, 170)):
        rows = (100, 70, 70)[number]
        pq.write_table(pa.table(rows_of(first, rows)), folder / f"rows-{number}.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        model={"path": "python: sliced_model:score", "target": "all"},
        input={
            "files": "rows-*.parquet",
            "id": "id",
            "features": ["age", "hour", "rate"],
            "slices": SLICES,
            "weight": "weight",
        },
        method={"name": "exact_shap"},
        baseline={"kind": "sample", "rows": 5},
        output={"path": "run"},
        compute={"shard_rows": 64, "batch_size": 32},
        limits={"rejected": 0.1},
    )


def changed(place: Path, **blocks: dict[str, Any]) -> Path:
    """The same config with some keys of its blocks changed, over a copy of the data."""
    shutil.copytree(world().parent, place, dirs_exist_ok=True)
    config = yaml.safe_load(world().read_text())
    for block, keys in blocks.items():
        config[block] = {**config.get(block, {}), **keys} if isinstance(keys, dict) else keys
    return worlds.write_config(place / "config.yaml", **config)


def all_rows() -> pd.DataFrame:
    tables = [pq.read_table(path) for path in sorted(world().parent.glob("rows-*.parquet"))]
    return pa.concat_tables(tables).to_pandas()


def expected_slices(frame: pd.DataFrame, edges: list[float]) -> dict[str, pd.Series]:
    """The slice of each row by pandas, NaN where it is in none."""
    carrier = "carrier=" + frame["carrier"].where(frame["carrier"] != "null", '"null"')
    after = (frame["hour"] >= 12).map({True: "not hour < 12"})
    ages = ["age=(-inf, 18)", "age=[18, 65)", "age=[65, inf)"]
    names = ["-inf", *(f"{edge:g}" for edge in edges), "inf"]
    hours = [f"hour={'[' if at else '('}{low}, {names[at + 1]})" for at, low in enumerate(names[:-1])]
    ends = [-np.inf, *edges, np.inf]
    hour = pd.cut(frame["hour"].astype(float), ends, right=False, labels=hours).astype(str)
    late = "late=" + frame["late"].map({True: "true", False: "false"})
    return {
        "carrier": carrier,
        "condition": (frame["age"] >= 65).map({True: "age >= 65"}),
        "after": carrier + " & " + after,
        "ages": pd.cut(frame["age"], [-np.inf, 18, 65, np.inf], right=False, labels=ages).astype(object),
        "hours": hour,
        "both": late + " & " + hour,
    }


def expected_importance(run: Any, *, weighted: bool) -> pd.DataFrame:
    table = run.attributions()
    phi = pd.DataFrame(worlds.phi(table).astype(np.float64), columns=run.features)
    frame = all_rows().set_index("id").loc[table["example_id"].to_pylist()].reset_index()
    (edges,) = (s["edges"] for s in run.manifest["slices"] if s["kind"] == "bins" and s["name"] == "hour")
    found = []
    slices = {"": pd.Series("", frame.index), **expected_slices(frame, edges)}
    weight = frame["weight"] if weighted else pd.Series(1.0, frame.index)
    for labels in slices.values():
        for (label, target), at in phi.groupby(
            [labels.to_numpy(), table["target"].to_numpy()]
        ).groups.items():
            if weight[at].sum() == 0:
                continue
            for name in run.features:
                values = phi.loc[at, name]
                found.append(
                    {
                        "slice": label, "target": target, "feature": name, "rows": len(at),
                        "mean": np.average(values, weights=weight[at]),
                        "mean_abs": np.average(values.abs(), weights=weight[at]),
                    }
                )  # fmt: skip
    return pd.DataFrame(found)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    keys = ["slice", "target", "feature"]
    found, expected = (table.sort_values(keys).reset_index(drop=True) for table in (found, expected))
    for name in (*keys, "rows"):
        assert found[name].tolist() == expected[name].tolist(), name
    for name in ("mean", "mean_abs"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_importance_by_slices_and_weights_is_what_pandas_says() -> None:
    run = worlds.explained(world())
    same(run.importance(), expected_importance(run, weighted=True))
    slices = set(run.importance()["slice"])
    assert {"", 'carrier="null"', "age >= 65", "carrier=UA & not hour < 12", "age=[18, 65)"} <= slices
    assert len(slices) > 20
    rejected = run.rejected().to_pydict()
    assert dict(zip(rejected["example_id"], rejected["reason"], strict=True)) == {
        "row 11": "weight weight is null",
        "row 50": "weight weight is nan, not a number from 0 on",
        "row 51": "weight weight is inf, not a number from 0 on",
        "row 200": "weight weight is -1, not a number from 0 on",
        "row 201": "weight weight is 1e-36, not from 1e-30 to 1e+30",
    }
    assert set(rejected["stage"]) == {"decode"}
    assert run.manifest["counts"]["rows_attributed"] == ROWS - len(NO_WEIGHTS)


def test_without_weights_every_row_counts_the_same(tmp_path: Path) -> None:
    config = changed(tmp_path, input={"weight": None})
    run = worlds.explain(config, tmp_path / "run")
    same(run.importance(), expected_importance(run, weighted=False))
    assert "weight" not in run.attributions().schema.names


def test_tables_hold_the_weight_and_the_columns_that_slices_need() -> None:
    run = worlds.explained(world())
    table = run.attributions()
    assert table.schema.names[-5:] == ["weight", "carrier", "age", "hour", "late"]
    assert table.schema.field("weight").type == pa.float64()
    frame = all_rows().set_index("id").loc[table["example_id"].to_pylist()]
    for name in ("weight", "carrier", "age", "hour", "late"):
        assert table[name].to_pylist() == frame[name].tolist(), name


def test_a_slice_column_called_weight_gives_way(tmp_path: Path) -> None:
    config = changed(tmp_path, input={"slices": ["weight"]})
    run = worlds.explain(config, tmp_path / "run", limit=40)
    table = run.attributions()
    assert table.schema.names[-2:] == ["weight", "slice_weight"]
    assert table["weight"].to_pylist() == table["slice_weight"].to_pylist()
    # The slice of the rows without weight has no mean.
    found = set(run.importance()["slice"])
    assert found == {"", "weight=0.5", "weight=1", "weight=3"}
    assert 0.0 in table["weight"].to_pylist()


def test_shards_batches_and_order_change_nothing(tmp_path: Path) -> None:
    run = worlds.explained(world())
    settings = ("compute.shard_rows=37", "compute.batch_size=5")
    other = worlds.explain(world(), tmp_path / "run", *settings)
    assert other.manifest["slices"] == run.manifest["slices"]
    same(other.importance(), run.importance())


def test_the_run_is_verified_with_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(world())
    assert cli.run(["verify", run.path, "--rows", "30", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {check["state"] for check in told["checks"]} == {"ok"}
    # Means that leave the weights out are other ones.
    shutil.copytree(run.path, tmp_path / "run")
    place = tmp_path / "run" / "manifest.json"
    manifest = json.loads(place.read_text())
    manifest["config"]["input"]["weight"] = None
    place.write_text(json.dumps(manifest))
    assert cli.run(["verify", str(tmp_path / "run"), "--rows", "0", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["importance"]["state"] == "failed"


def test_rows_that_all_weigh_nothing_have_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(tmp_path, input={"weight": "nothing"})
    for path in tmp_path.glob("rows-*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.append_column("nothing", pa.array(np.zeros(len(table)))), path)
    assert cli.run(["explain", str(config), "--output", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "input.weight: every row that was explained has the weight 0 in 'nothing'" in last
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_tfrecord_gives_the_same(tmp_path: Path) -> None:
    """A model that is a function; numbers are single precision there, and the weights exact in it."""
    config = changed(tmp_path)
    for path in sorted(tmp_path.glob("rows-*.parquet")):
        rows = pq.read_table(path).to_pylist()
        worlds.write_tfrecord(path.with_suffix(".tfrecord"), rows)
    settings = ("input.slices=[carrier, age >= 65, {column: age, bins: [18, 65]}, {column: hour, bins: 4}]",)
    one = worlds.explain(config, tmp_path / "one", *settings)
    other = worlds.explain(config, tmp_path / "other", "input.files=rows-*.tfrecord", *settings)
    assert other.manifest["slices"] == one.manifest["slices"]
    assert other.manifest["counts"] == one.manifest["counts"]
    reasons = [run.rejected()["reason"].to_pylist() for run in (one, other)]
    assert reasons[0] == reasons[1]
    assert other.attributions()["weight"].to_pylist() == one.attributions()["weight"].to_pylist()
    same(other.importance(), one.importance())


# -- planning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("input.slices=[carier]", "input.slices: the input has no column 'carier'; did you mean carrier?"),
        ("input.slices=[ag > 3]", "input.slices: 'ag > 3' names 'ag', but the input has no such column; did"),
        ("input.slices=[age > 3, age  >  3]", "input.slices: 'age > 3' is the same as 'age > 3'"),
        ("input.slices=[carrier > 3]", "compares 'carrier' (string) with '3' (number)"),
        ("input.slices=[{column: carrier, bins: 3}]", "holds string, but numbers are needed; slice by its"),
        ("input.slices=[[age, age]]", "'age' is intersected with itself; intersect different ones"),
        ("input.weight=wait", "input.weight: the input has no column 'wait'; did you mean weight?"),
        ("input.weight=carrier", "input.weight: column 'carrier' holds string, and weights are numbers"),
        (
            "features={agee: {label: x}}",
            "features: 'agee' is neither a feature nor a group; did you mean age?",
        ),
        (
            "features={agee: {vocabulary: x}}",
            "features: 'agee' is neither a feature nor a group; did you mean age?",
        ),
        ("features={age: {vocabulary: x.txt}}", "x.txt; name a text file with one word on each line, begin"),
        (
            "features={carrier: {label: x}}",
            "features: 'carrier' is neither a feature nor a group; there are age,",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(
    setting: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        worlds.explain(world(), tmp_path / "run", setting)
    assert str(error.value).startswith(f"{world()}: ")
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_conditions_compare_the_types_of_all_files(tmp_path: Path) -> None:
    config = changed(tmp_path, input={"slices": ["age > 64.5"]})
    path = tmp_path / "rows-1.parquet"
    table = pq.read_table(path)
    halves = pa.array(np.arange(70) + 0.5)
    pq.write_table(table.set_column(table.schema.get_field_index("age"), "age", halves), path)
    run = worlds.explain(config, tmp_path / "run", "input.weight=null", "input.features=[hour, rate, age]")
    rows = run.importance(slice="age > 64.5", target=0)["rows"].iloc[0]
    ages = run.attributions(columns=["age"])["age"].to_numpy()[::2]
    assert ages.dtype == np.float64
    assert rows == (ages > 64.5).sum() > 5


def test_a_condition_must_be_one_in_every_file(tmp_path: Path) -> None:
    """True or false in the first file, numbers in another: all are numbers then, and no conditions."""
    config = changed(tmp_path, input={"slices": ["not late"]})
    path = tmp_path / "rows-1.parquet"
    table = pq.read_table(path)
    numbers = table["late"].cast(pa.int8())
    pq.write_table(table.set_column(table.schema.get_field_index("late"), "late", numbers), path)
    with pytest.raises(UserError, match="has 'late', a number, where a condition is needed"):
        worlds.explain(config, tmp_path / "run")
    run = worlds.explain(config, tmp_path / "run", "input.slices=[late == 1]")
    late = all_rows().set_index("id")["late"].drop([f"row {at}" for at in NO_WEIGHTS])
    assert run.importance(slice="late == 1")["rows"].iloc[0] == late.sum()


def test_the_plan_tells_slices_and_warns_of_too_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["plan", str(world())]) == 0
    said = capsys.readouterr()
    assert "hour in bins with the edges " in said.out
    assert "carrier & not hour < 12" in said.out
    assert "rows count in the importance by weight" in said.out
    assert "slices" not in said.err
    config = changed(tmp_path, input={"slices": ["hour", "serial", ["carrier", "serial"]]})
    for number in range(6):
        path = tmp_path / f"rows-{number}.parquet"
        pq.write_table(pa.table(rows_of(1000 * number, 1000)), path)
    summary = preview(load_config(str(config)))
    found = [line.partition("input.slices: ")[2] for line in summary["warnings"]]
    assert len(found) == 3
    assert "hour has 2," in found[0]
    assert found[0].endswith("give bins: {column: hour, bins: 5}")
    assert found[1].startswith("serial has 6,000 values in 6,000 rows, and each is a slice; give bins: ")
    assert found[2].startswith(
        "carrier & serial divides 6,000 rows into 6,000 slices; intersect fewer columns"
    )


def test_slices_are_counted_for_the_memory_of_the_aggregates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(tmp_path, input={"slices": ["serial"]})
    bare = preview(load_config(str(config), settings=["input.slices=[]"]))
    many = preview(load_config(str(config)))
    part = [summary["estimate"]["host_bytes_by_part"]["aggregates"] for summary in (bare, many)]
    wanted = [state_bytes(3, 2, slices, weighted=True) for slices in (0, ROWS)]
    copies = (part[1] - part[0]) / (wanted[1] - wanted[0])
    assert copies == pytest.approx(2 + STATES_AHEAD, rel=1e-6)
    # Of a draw of a few rows, whose values are all different, there are as many more as there can be.
    monkeypatch.setattr("pipeline.planning.slicings._DRAWN", 50)
    few = preview(load_config(str(config)))["estimate"]["host_bytes_by_part"]["aggregates"]
    assert few == part[1]


def test_a_weight_is_no_feature_by_default() -> None:
    settings = ["input.features=null", "input.slices=[carrier, late]", "model.target=1"]
    spec = prepare(str(world()), settings=settings)
    names = [feature.name for feature in spec.schema.features]
    assert names == ["age", "hour", "rate", "serial"]


# -- bins whose edges are found ------------------------------------------------------------------------------


def test_edges_stay_when_the_input_grows(tmp_path: Path) -> None:
    config = changed(tmp_path, incremental=True)  # type: ignore[arg-type]
    first = worlds.explain(config, tmp_path / "run")
    more = rows_of(500, 90)
    more["hour"] = pa.array(np.full(90, 23.5), pa.float32())
    pq.write_table(pa.table(more), tmp_path / "rows-5.parquet")
    run = worlds.explain(config, tmp_path / "run")
    assert len(run.manifest["increments"]) == 2
    assert run.manifest["slices"] == first.manifest["slices"]
    whole = worlds.explain(config, tmp_path / "whole")
    assert whole.manifest["slices"] != first.manifest["slices"]


def test_the_slicings_decide_the_run(tmp_path: Path) -> None:
    def fingerprint(*settings: str) -> str:
        return str(preview(load_config(str(world()), settings=settings))["fingerprint"])

    base = fingerprint()
    for other in (
        "input.slices=[carrier]",
        "input.weight=null",
        "privacy.min_rows=5",
        "input.slices=[{column: age, bins: [18, 64]}]",
    ):
        assert fingerprint(other) != base
    assert fingerprint("features={age: {label: Age in years}}") == base
    assert fingerprint("features={age: {vocabulary: sliced_model.py}}") == base
    top = fingerprint("output.attributions={top_k: 2}")
    assert fingerprint("output.attributions={top_k: 2}", "features={age: {label: Age in years}}") != top
    assert (
        fingerprint("output.attributions={top_k: 2}", "features={age: {vocabulary: sliced_model.py}}") == top
    )


# -- privacy -------------------------------------------------------------------------------------------------


def test_small_slices_are_counted_and_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = worlds.explained(world()).importance()
    small = set(whole[whole["rows"] < 20]["slice"])
    assert len(small) == 3
    place = str(tmp_path / "run")
    assert cli.run(["explain", str(world()), "--output", place, "--set", "privacy.min_rows=20"]) == 0
    said = capsys.readouterr().out
    run = load_run(place)
    kept = run.importance()
    same(kept, whole[whole["rows"] >= 20])
    assert run.manifest["quality"]["suppressed_slices"] == len(small)
    assert f"{len(small)} slices of fewer than 20 rows not in the importance" in said
    # Nowhere does the run tell their names but beside their own rows.
    assert "rare" not in json.dumps({**run.manifest, "config": None})
    assert cli.run(["verify", place, "--rows", "5"]) == 0


def test_a_smallest_slice_and_kept_aggregates_do_not_go_together() -> None:
    settings = ["privacy.min_rows=5", "incremental=true"]
    with pytest.raises(UserError, match=r"privacy\.min_rows: .*incremental: true.* of every slice"):
        load_config(str(world()), settings=settings)
    load_config(str(world()), settings=["privacy.min_rows=1", "incremental=true"])


# -- labels --------------------------------------------------------------------------------------------------

LABELS = {"age": "Age of the aeroplane", "rest": "The rest & <b>more</b>"}


@pytest.mark.parametrize(
    "features",
    [
        ["age", "hour", "rate"],
        [{"name": "age", "label": LABELS["age"]}, "hour", "rate"],
        {"age": {"label": LABELS["age"]}, "hour": None, "rate": {}},
    ],
)
def test_labels_from_wherever_they_are_given(features: Any, tmp_path: Path) -> None:
    texts = {"rest": {"label": LABELS["rest"]}}
    if features == ["age", "hour", "rate"]:
        texts["age"] = {"label": LABELS["age"]}
    block = {"features": features, "groups": {"rest": ["hour", "rate"]}, "slices": []}
    config = changed(tmp_path, input=block, features=texts)
    loaded = load_config(str(config)).config
    dumped = loaded.model_dump(mode="json")
    assert dumped["features"] == {name: {"label": text} for name, text in LABELS.items()}
    assert all("label" not in item for item in dumped["input"]["features"])
    assert loaded.labels == LABELS


def test_labels_are_in_the_largest_attributions_and_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("features={age: {label: Age of the aeroplane}}", "input.slices=[]", "model.target=0")
    run = worlds.explain(world(), tmp_path / "run", *settings, "output.attributions={top_k: 2}")
    top = run.attributions()["top"]
    assert [field.name for field in top.type.value_type] == ["feature", "attribution", "label"]
    names = {"age": "Age of the aeroplane", "hour": "hour", "rate": "rate"}
    pairs = [pair for row in top.to_pylist() for pair in row]
    assert {pair["feature"] for pair in pairs} == {"age", "hour"}
    assert all(pair["label"] == names[pair["feature"]] for pair in pairs)
    plain = worlds.explain(world(), tmp_path / "plain", *settings[1:], "output.attributions={top_k: 2}")
    assert [f.name for f in plain.attributions()["top"].type.value_type] == ["feature", "attribution"]
    assert cli.run(["verify", run.path, "--rows", "20"]) == 0
    capsys.readouterr()
    assert cli.run(["show", run.path, "row 3"]) == 0
    assert "Age of the aeroplane" in capsys.readouterr().out
    line = ["explain", str(world()), "--output", run.path]
    for setting in (*settings, "output.attributions={top_k: 2}"):
        line += ["--set", setting]
    assert cli.run(line) == 0
    assert "Age of the aeroplane" in capsys.readouterr().out
    assert run.labels == {"age": "Age of the aeroplane"}


def test_new_labels_make_no_new_run(tmp_path: Path) -> None:
    run = worlds.explain(world(), tmp_path / "run", "features={age: {label: Age}}")
    parts = worlds.part_bytes(run)
    created = run.manifest["created"]
    again = worlds.explain(world(), tmp_path / "run", "features={age: {label: Years}, rate: {label: Rate}}")
    assert (again.manifest["created"], worlds.part_bytes(again)) == (created, parts)
    assert again.labels == load_run(run.path).labels == {"age": "Years", "rate": "Rate"}
    assert worlds.explain(world(), tmp_path / "run").labels == {}


def test_weights_are_in_batches_of_a_pipeline_of_ones_own() -> None:
    spec = prepare(str(world()))
    batch = pa.RecordBatch.from_pydict({**rows_of(0, 60), "id": [str(at) for at in range(60)]})
    with runtime(spec) as loaded:
        table = _ExplainBatch(spec)._explained(batch, loaded)
    assert table is not None
    good = [at for at in range(60) if at not in NO_WEIGHTS]
    weights = batch.column("weight").to_pylist()
    assert table["weight"].to_pylist()[::2] == [weights[at] for at in good]
    assert table["example_id"].to_pylist()[::2] == [str(at) for at in good]


def test_a_label_may_name_a_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.terminal.example import print_example

    row = {
        "target": 0, "target_name": "x", "prediction": 1.0, "output": 1.0, "base_value": 0.0,
        "convergence_delta": None, "attribution": {"series": [1.0, -2.0], "odd[name]": 3.0},
    }  # fmt: skip
    print_example("e", [row], {}, {"series": "Load of the day", "odd[name]": "Odd"})
    out = capsys.readouterr().out
    assert re.search(r"^Load of the day +2 values +-1 ", out, re.MULTILINE)
    assert "Load of the day, the sum of its values; strongest: [1] -2, [0] +1" in out
    assert re.search(r"^Odd ", out, re.MULTILINE)
