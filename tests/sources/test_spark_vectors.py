"""Spark's ML vectors as features: dense values, sparse ones filled with zeros, in one column."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import column_worlds
from tests.support.column_worlds import model, rows_of
from transforms.rows.resolve.feature import FeatureRequest
from transforms.sources.parquet.vectors import dense, is_vector

VECTOR = pa.struct(
    [
        pa.field("type", pa.int8(), False),
        ("size", pa.int32()),
        ("indices", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
    ]
)


def sparse(size, entries):
    return {"type": 0, "size": size, "indices": list(entries), "values": list(entries.values())}


def full(values):
    return {"type": 1, "size": None, "indices": None, "values": list(values)}


def lists_of(items):
    found = dense(pa.array(items, VECTOR))
    found.validate(full=True)
    return found.to_pylist()


def test_dense_and_sparse_vectors_are_lists_of_their_values():
    assert is_vector(VECTOR)
    assert not is_vector(pa.struct([("type", pa.int8()), ("values", pa.list_(pa.float64()))]))
    assert lists_of([full([1, 2, 3]), sparse(3, {1: 5.0}), sparse(3, {}), None, sparse(0, {}), full([])]) == [
        [1, 2, 3],
        [0, 5, 0],
        [0, 0, 0],
        None,
        [],
        [],
    ]
    assert lists_of([]) == []
    assert lists_of([full([1.5])]) == [[1.5]]


@pytest.mark.parametrize(
    "wrong",
    [
        sparse(2, {2: 1.0}),
        sparse(2, {-1: 1.0}),
        sparse(-1, {}),
        {"type": 0, "size": 3, "indices": [0, 1], "values": [1.0]},
    ],
    ids=str,
)
def test_a_vector_that_contradicts_itself_has_no_values(wrong):
    assert lists_of([full([1, 2]), wrong, sparse(2, {0: 3.0})]) == [[1, 2], [], [3, 0]]


vectors = st.one_of(
    st.none(),
    st.lists(st.floats(allow_nan=False), max_size=4).map(full),
    st.integers(1, 6).flatmap(
        lambda size: st.dictionaries(st.integers(0, size - 1), st.floats(allow_nan=False)).map(
            lambda entries: sparse(size, dict(sorted(entries.items())))
        )
    ),
)


@settings(max_examples=60)
@given(st.lists(vectors, max_size=8), st.integers(0, 3))
def test_any_vectors_also_in_slices(items, offset):
    def expected(item):
        if item is None or item["type"] == 1:
            return None if item is None else item["values"]
        values = np.zeros(item["size"])
        values[item["indices"]] = item["values"]
        return values.tolist()

    found = dense(pa.array(items, VECTOR).slice(offset))
    found.validate(full=True)
    assert found.to_pylist() == [expected(item) for item in items[offset:]]


def test_a_column_of_vectors_is_a_feature_and_another_size_costs_its_row(tmp_path):
    items = [full([1, 2]), sparse(2, {1: 5.0}), None, sparse(3, {0: 1.0}), full([1.0, np.nan])]
    table = {"features": pa.array(items, VECTOR), "a": pa.array([1.0, 2, 3, 4, 5])}
    paths = column_worlds.write(tmp_path, "parquet", table)
    for features in (None, [FeatureRequest("features")]):
        inputs, reasons = rows_of(paths, model(("x", (2,), "float32")), features)
        assert inputs["x"] == [[1, 2], [0, 5]]
        assert reasons == {
            2: "features is null",
            3: "features has 3 values, not 2",
            4: "features is NaN",
        }
    both = [FeatureRequest("a"), FeatureRequest("features", shape=(2,))]
    inputs, _ = rows_of(paths, model(("x", (3,), "float32")), both)
    assert inputs["x"] == [[1, 1, 2], [2, 0, 5]]


def test_a_field_of_a_struct_may_be_a_vector_and_a_null_struct_is_a_null(tmp_path):
    outer = pa.struct([("inner", VECTOR)])
    column = pa.array([{"inner": full([1, 2])}, None, {"inner": sparse(2, {0: 3.0})}], outer)
    paths = column_worlds.write(tmp_path, "parquet", {"outer": column})
    inputs, reasons = rows_of(paths, model(("x", (2,), "float32")), None)
    assert (inputs["x"], reasons) == ([[1, 2], [3, 0]], {1: "outer.inner is null"})


def test_the_file_that_spark_wrote():
    """Spark 4.3.0: see `spark_vectors.py` beside it for what it holds."""
    path = Path(__file__).parents[1] / "data" / "spark_vectors.parquet"
    assert is_vector(pq.read_schema(path).field("features").type)
    inputs, reasons = rows_of([path], model(("x", (3,), "float32")), [FeatureRequest("features")])
    assert inputs["x"] == [[1, 0, 2.5], [0, 5, 0], [0, 0, 0], [-1, 2, 3]]
    assert not reasons
