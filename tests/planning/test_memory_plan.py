"""How many rows a batch has, what is read at a time while planning, and what a plan says of memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.execution.run import explain
from pipeline.planning import host_memory as memory
from pipeline.planning.host_memory import BATCH_BYTES, Batches, RowSizes, batch_rows
from pipeline.planning.plan import make_plan
from tests.methods.test_methods import VARIANTS
from tests.support import worlds
from tests.support.models.models_zoo import CASES, attribute, make_reference
from transforms.methods.base import Needs, working_bytes
from transforms.methods.gradients import background_ends as ends
from transforms.methods.gradients.background_ends import background_ends
from transforms.models.graphs import masked
from transforms.outputs.layout import TableSpec
from transforms.rows.baselines import baselines
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources.inspection import inspect_files
from transforms.worker.shard import BATCHES_OF_RESULTS, BATCHES_OF_ROWS
from transforms.worker.spec import TargetSpec

FEATURES = 3000


def schema_of(count: int = 1, shape: tuple[int, ...] = (), kind: str = "numeric") -> ExampleSchema:
    size = int(np.prod(shape, dtype=np.int64))
    features = tuple(
        FeatureSpec(f"f{at}", kind, "float32", shape, pa.float32(), None, "x", at * size)
        for at in range(count)
    )
    return ExampleSchema(features, {"x": (count * size,)}, {})


ONE, ALL = TableSpec(), TableSpec(standard_error=True)


@pytest.mark.parametrize(
    ("schema", "targets", "output", "expected"),
    [
        (schema_of(16), 1, ONE, 4096),  # an everyday table: as many as asked for
        (schema_of(1, (10_000,)), 1, ONE, BATCH_BYTES // 80_000),
        (schema_of(10_000), 1, ONE, BATCH_BYTES // 80_000),
        (schema_of(1, (10_000,)), 1, ALL, BATCH_BYTES // 120_000),
        (schema_of(1, (100,)), 1000, ONE, BATCH_BYTES // 400_400),
        (schema_of(1, (512, 512, 3)), 1, ONE, 10),
        (schema_of(1, (512, 512, 3)), 1000, ONE, 1),  # gigabytes a row: a batch is not less than one
    ],
)
def test_rows_of_a_batch(schema: ExampleSchema, targets: int, output: TableSpec, expected: int) -> None:
    assert batch_rows(4096, schema, TargetSpec(tuple(range(targets))), output) == expected
    assert batch_rows(1, schema, TargetSpec(tuple(range(targets))), output) == 1


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """3,000 features in one list column, of a function that takes their mean."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "meaning.py").write_text("def predict(rows):\n    return rows['x'].mean(axis=1)\n")
    values = np.random.default_rng(0).standard_normal((40, FEATURES), dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), FEATURES)
    pq.write_table(
        pa.table({"x": column, "y": pa.array(np.arange(40, dtype=np.float32))}), tmp_path / "rows.parquet"
    )
    worlds.write_config(
        tmp_path / "config.yaml",
        name="wide",
        model={"path": "python:meaning:predict"},
        input={"files": "rows.parquet", "features": ["x", "y"], "groups": {"all": ["x"]}},
        method={"name": "exact_shap"},
        baseline={"kind": "zeros"},
        output={"path": "run"},
    )
    yield tmp_path
    sys.modules.pop("meaning", None)


def test_a_plan_prints_the_bound_and_the_smaller_batches(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(world / "config.yaml")
    asked = ("--set", "compute.batch_size=100000", "--set", "compute.workers=2")
    assert cli.run(["plan", config, "--json", *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["batch_size"] == BATCH_BYTES // (8 * (FEATURES + 1)) < told["batch_size_asked"] == 100_000
    bound = told["estimate"]["host_bytes"]
    assert 3e8 < bound < 1.5e9
    assert sum(told["estimate"]["host_bytes_by_part"].values()) <= 1.3 * bound
    assert cli.run(["plan", config, *asked]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"batches of {told['batch_size']:,} rows, not of compute.batch_size: 100,000" in said
    assert f"up to {bound / 1e6:.0f} MB in a worker process, " in said or "GB in a worker process, " in said
    assert "in 2 workers" in said
    assert cli.run(["plan", config]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "worker process" in said
    assert " workers" not in said


def test_smaller_batches_are_in_the_fingerprint_and_change_no_value(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(world / "config.yaml")
    whole = explain(config, output=str(world / "whole"))
    assert whole.manifest["batch_size"] == BATCH_BYTES // (8 * (FEATURES + 1))
    monkeypatch.setattr(memory, "BATCH_BYTES", 7 * 8 * (FEATURES + 1))
    cut = explain(config, output=str(world / "cut"))
    assert cut.manifest["batch_size"] == 7
    assert cut.manifest["fingerprint"] != whole.manifest["fingerprint"]
    assert cut.attributions().equals(whole.attributions())


def test_planning_reads_no_more_at_a_time_than_fits(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = make_plan(load_config(str(world / "config.yaml")), in_process=True).spec.schema
    assert schema.row_bytes == 4 * FEATURES + 4
    monkeypatch.setattr(baselines, "_BLOCK_BYTES", 5 * schema.row_bytes)
    monkeypatch.setattr(baselines, "_FIRST_BYTES", 12 * schema.row_bytes)
    monkeypatch.setattr(baselines, "_POOL_BYTES", 9 * schema.row_bytes)
    files = inspect_files([(str(world / "rows.parquet"), "rows.parquet")])
    read, sizes = baselines.read_rows, []

    def reading(pieces, schema, batch_size, **more):
        for rows in read(pieces, schema, batch_size, **more):
            sizes.append(len(rows))
            yield rows

    monkeypatch.setattr(baselines, "read_rows", reading)
    first = baselines.first_rows(files, schema, 4096)
    assert first is not None
    assert len(first) == 12
    for kind, rows in (("mean", None), ("median", None), ("sample", 20)):
        request = baselines.BaselineRequest(kind, rows)
        found = baselines.make_background(request, schema, files, seed=1)
        assert len(found["x"]) == (rows or 1)
    assert max(sizes) == 5
    # Of a median all is held, of a sample what is drawn.
    assert baselines.drawing_bytes(files, schema, "median") > baselines.drawing_bytes(files, schema, "sample")


@pytest.mark.parametrize(
    "name", ["integrated_gradients", "integrated_gradients, tolerance", "expected_gradients"]
)
def test_a_background_that_is_not_kept_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["categorical"]()
    kept = make_reference(case.model, case.background)
    expected = attribute(VARIANTS[name], case.model, case.rows, kept, device_batch_size=16)
    assert background_ends(case.model, kept, 16).kept is not None
    monkeypatch.setattr(ends, "KEPT_BYTES", 0)
    reference = make_reference(case.model, case.background)
    found = attribute(VARIANTS[name], case.model, case.rows, reference, device_batch_size=16)
    assert background_ends(case.model, reference, 16).kept is None
    for key, value in expected.values.items():
        np.testing.assert_allclose(found.values[key], value, rtol=0, atol=1e-6)


def test_a_background_is_masked_the_same_however_many_rows_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    case, method = CASES["categorical"](), VARIANTS["lime"]
    background = {key: np.concatenate([value] * 4)[:11] for key, value in case.background.items()}
    expected = attribute(method, case.model, case.rows, make_reference(case.model, background))
    monkeypatch.setattr(masked, "_ROWS_A_CALL", 3)
    found = attribute(method, case.model, case.rows, make_reference(case.model, background))
    for key, value in expected.values.items():
        np.testing.assert_array_equal(found.values[key], value)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_what_a_method_works_with_grows_with_rows_and_is_no_less_than_its_result(name: str) -> None:
    method = VARIANTS[name]
    one, many = (working_bytes(method, rows, 3, 100, 100, 10) for rows in (1, 1000))
    assert many - one >= 999 * 3 * 100 * 4 * 2  # φ in single precision, and its parts
    assert isinstance(method.needs, Needs)


def test_a_short_run_keeps_fewer_batches_in_memory() -> None:
    short, long = Batches.of(4096, 4097), Batches.of(4096, 10_000_000)
    assert (short.count, short.waiting, short.explained) == (2, 6, 3)
    assert long.count == 2442
    assert (long.waiting, long.explained) == (BATCHES_OF_ROWS, BATCHES_OF_RESULTS)


def test_the_size_of_a_row_counts_targets_and_standard_errors() -> None:
    schema, targets = schema_of(1, (10,)), TargetSpec((0, 1, 2))
    plain, both = RowSizes.of(schema, targets, ONE), RowSizes.of(schema, targets, ALL)
    assert (plain.features, plain.values, plain.targets) == (40, 10, 3)
    assert (plain.attribution, both.attribution) == (4 * 10 * 3, 2 * 4 * 10 * 3)
    assert plain.row == 40 + 120
