"""Tables of more features than a report shows: what is kept of them, and that nothing of a row is lost."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost

from pipeline.execution import tables
from pipeline.report import write_report
from pipeline.report.data import tables as report_data
from pipeline.report.data import view
from pipeline.report.data.sampled_rows import sample_by_target
from pipeline.report.sections import all_sections, examples
from pipeline.results.run import Run
from tests.support.worlds import explain, write_config
from transforms.explain import ShardResultCoder
from transforms.rows.baselines.artifact import Artifact
from transforms.worker.journal import ShardResult

WIDTH, KEPT, LISTED = 12, 4, 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    tmp_path, patch = tmp_path_factory.mktemp("wide"), pytest.MonkeyPatch()
    patch.setattr(tables, "_SAMPLED_FEATURES", KEPT)
    patch.setattr(view, "MOST_LISTED", LISTED)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, WIDTH)), columns=[f"f{at}" for at in range(WIDTH)])
    learns = frame.to_numpy() @ np.arange(WIDTH)
    xgboost.XGBRegressor(n_estimators=20, max_depth=3).fit(frame, learns).save_model(tmp_path / "m.json")
    frame.to_parquet(tmp_path / "d.parquet", index=False)
    config = write_config(
        tmp_path / "c.yaml",
        name="wide",
        model={"path": "m.json"},
        input={"files": "d.parquet", "groups": {"pair": ["f10", "f11"]}},
        method={"name": "permutation_shap", "n_permutations": 2},
        baseline={"kind": "median"},
        output={"path": "run"},
    )
    yield explain(config, tmp_path / "run")
    patch.undo()


def test_rows_of_the_report_keep_the_most_important_features(run: Run) -> None:
    best = run.importance().sort_values("rank")["feature"].head(KEPT).tolist()
    sample = run.table("report/sample.parquet")
    kept = {field.name for field in sample.schema.field("attribution").type}
    assert kept == set(best)
    values = {field.name for field in sample.schema.field("feature").type}
    assert values == {m for name in best for m in (["f10", "f11"] if name == "pair" else [name])}
    # All of them are in the attributions and in the importance.
    assert len(run.attributions().schema.field("attribution").type) == WIDTH - 1
    assert len(run.importance()) == WIDTH - 1


def test_a_waterfall_sums_up_what_the_rows_are_kept_without(run: Run) -> None:
    data = report_data.ReportData.load(run)
    rows = sample_by_target(data, 1)[0]["sample"]
    phi = run.attributions(columns=["example_id", "attribution"]).to_pylist()
    by_id = {line["example_id"]: line["attribution"] for line in phi}
    for row in range(3):
        found = examples.parts(data, rows, row)
        whole = by_id[rows.ids()[row]]
        left_out = [value for name, value in whole.items() if name not in data.features]
        assert found[-1].name == f"{WIDTH - 1 - KEPT} less important features"
        assert found[-1].features == len(left_out) == WIDTH - 1 - KEPT
        assert found[-1].phi == pytest.approx(sum(left_out), abs=1e-4)


def test_tables_of_the_page_say_that_others_are_in_the_importance(run: Run) -> None:
    _, _, sections, *_ = all_sections(report_data.ReportData.load(run))
    write_report(run.path)
    page = Path(run.path, "report.html").read_text()
    assert f"The {LISTED} most important of {WIDTH - 1} features; importance.parquet has all" in page
    assert {"importance", "examples"} <= {section.id for section in sections}


def test_a_result_tells_its_size_without_being_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ShardResult.empty(tuple(f"f{at}" for at in range(5000)))
    phi = np.ones((5000, 1), np.float32)
    result.importance.update(phi, np.zeros(1, np.int64), {}, np.zeros(1, np.uint64))
    encoded = ShardResultCoder().encode(result)
    assert ShardResultCoder().decode(encoded).importance.features == result.importance.features
    monkeypatch.setattr(ShardResult, "to_bytes", None)
    assert ShardResultCoder().estimate_size(result) > phi.nbytes


def test_scalars_of_a_baseline_are_stored_as_one_array_a_type() -> None:
    rng = np.random.default_rng(1)
    features = {f"f{at}": rng.normal(size=7).astype(np.float32) for at in range(50)}
    features["count"] = rng.integers(0, 9, 7)
    features["pixels"] = rng.normal(size=(7, 2, 3))
    features["word"] = np.array([b"a", b"", b"b\0", b"c", b"d", b"e", b"f"], object)
    artifact = Artifact(features, np.ones((7, 1)), np.ones(1))
    data = artifact.to_bytes()
    with np.load(io.BytesIO(data)) as stored:
        assert len(stored.files) == 8  # two types of scalars, pixels, words and their lengths, and three more
    back = Artifact.from_bytes(data)
    assert list(back.features) == list(features)
    for name, value in features.items():
        assert back.features[name].dtype == value.dtype
        np.testing.assert_array_equal(back.features[name], value)
    assert back.digest == artifact.digest
