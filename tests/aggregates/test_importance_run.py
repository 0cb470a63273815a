"""The importance of whole runs: the same in any shards and batches, intervals and quantiles included."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support import worlds

ROWS = 700
SCORING = """
import numpy as np

def predict(rows):
    first = rows["a"] * rows["b"] + 0.97 * rows["c"]
    return np.stack([first, rows["b"] - rows["c"]], axis=1)
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "weighed.py").write_text(SCORING)
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=ROWS) for name in "abc"}
    columns |= {"month": rng.integers(1, 13, ROWS), "weight": rng.choice([0.0, 1.0, 2.5], ROWS)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    yield worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "python: weighed:predict", "target": "all"},
        input={"files": "rows.parquet", "features": list("abc"), "slices": ["month"], "weight": "weight"},
        method={"name": "exact_shap"},
        baseline={"kind": "zeros"},
        output={"path": "run"},
    )
    sys.modules.pop("weighed", None)


def test_no_shard_and_no_batch_changes_the_importance(config: Path, tmp_path: Path) -> None:
    whole = worlds.explain(config, tmp_path / "whole")
    settings = ("compute.shard_rows=90", "compute.batch_size=37")
    cut = worlds.explain(config, tmp_path / "cut", *settings)
    table = whole.importance()
    pd.testing.assert_frame_equal(cut.importance(), table, rtol=1e-12)
    assert table["slice"].drop_duplicates().tolist() == ["", *(f"month={month}" for month in range(1, 13))]

    # Against numpy, from the attributions as they were written.
    month = whole.attributions(filter=(pc.field("month") == 3) & (pc.field("target") == 1))
    weights, phi = month["weight"].to_numpy(), pc.struct_field(month["attribution"], "b").to_numpy()
    row = table[(table["slice"] == "month=3") & (table["target"] == 1) & (table["feature"] == "b")].iloc[0]
    assert row["rows"] == len(phi) > (weights > 0).sum()
    assert row["mean_abs"] == pytest.approx(np.average(np.abs(phi), weights=weights), rel=1e-9)
    phi, weights = phi[weights > 0].astype(np.float64), weights[weights > 0]
    levels = np.quantile(phi, [0.05, 0.5, 0.95], weights=weights, method="inverted_cdf")
    assert row[["p05", "p50", "p95"]].tolist() == pytest.approx(levels.tolist(), rel=1 / 64)
