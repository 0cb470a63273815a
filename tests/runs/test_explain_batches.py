"""ExplainBatches in a pipeline of one's own gives what the run of the same config writes."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

import pipeline
from tests.support import worlds
from transforms import ExplainBatches


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    place = tmp_path_factory.mktemp("batches")
    keras.utils.set_random_seed(3)
    inputs = [keras.Input((1,), name=name) for name in ("weather.temp", "hour")]
    hidden = keras.layers.Dense(8, "tanh")(keras.layers.Concatenate()(inputs))
    keras.Model(inputs, keras.layers.Dense(1, name="late")(hidden)).save(place / "model.keras")
    draw = np.random.default_rng(0)
    temp, hour = draw.normal(size=(2, 50)).astype("float32")
    hour[7] = np.nan
    weather = pa.StructArray.from_arrays([pa.array(temp)], names=["temp"])
    pq.write_table(pa.table({"weather": weather, "hour": hour}), place / "rows.parquet")
    return worlds.write_config(
        place / "config.yaml",
        model={"path": "model.keras"},
        input={"files": "rows.parquet"},
        method={"name": "integrated_gradients"},
        baseline={"kind": "zeros"},
        output={"path": "run"},
        limits={"rejected": 1},
    )


def test_batches_equal_the_run(config: Path) -> None:
    expected = worlds.phi(pipeline.explain(config).attributions())
    assert len(expected) == 49, "the row with NaN is left out"
    batches = pq.read_table(config.parent / "rows.parquet").to_batches(max_chunksize=20)

    def check(found: list[pa.RecordBatch]) -> None:
        # Batches may come in any order; the smallest and the largest φ of each feature tell enough.
        values = worlds.phi(pa.Table.from_batches(found))
        np.testing.assert_allclose(np.sort(values, axis=0), np.sort(expected, axis=0), rtol=1e-4, atol=1e-6)

    with beam.Pipeline(runner=FnApiRunner()) as own:
        found = own | beam.Create(batches) | ExplainBatches(pipeline.prepare(config))
        assert_that(found, check)
