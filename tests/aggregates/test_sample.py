"""The report's sample against pandas: the same rows in any sharding and any order, and the true extremes."""

import itertools
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.support.mergeable import check_merging
from transforms.aggregates.by_position import Positions, positioned
from transforms.aggregates.sample import KINDS, Sample, SampleSpec, shortened
from transforms.numerics.random import row_keys
from transforms.rows.schema import ExampleSchema, FeatureSpec


def feature(name, shape=(), dtype="float32"):
    return FeatureSpec(name, "numeric", dtype, shape, pa.float32(), None, name, 0)


def schema_of(*features):
    return ExampleSchema(features, {f.name: f.shape for f in features}, {})


def rows_of(count, targets, seed=0, outputs=3, ties=False):
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(outputs)[:targets] for _ in range(count)])
    scores = rng.normal(size=(count, targets)).astype(np.float32)
    return row_keys(seed, np.arange(count)), np.round(scores) if ties else scores, chosen


def table_of(keys, scores, targets):
    width = targets.shape[1]

    def table(rows):
        return pa.table(
            {
                "example_id": pa.array(np.repeat([str(key) for key in keys[rows]], width)),
                "target": pa.array(targets[rows].reshape(-1).astype(np.int32)),
                "prediction": pa.array(scores[rows].reshape(-1)),
            }
        )

    return table


def add(state, keys, scores, targets, part=slice(None)):
    keys, scores, targets = keys[part], scores[part], targets[part]
    state.update(keys, scores, targets, table_of(keys, scores, targets))


def direct(spec, keys, scores, targets):
    """The sample by pandas, from all rows at once."""
    width = targets.shape[1]
    frame = pd.DataFrame(
        {
            "key": np.repeat(keys, width),
            "example_id": np.repeat([str(key) for key in keys], width),
            "target": targets.reshape(-1).astype(np.int32),
            "prediction": scores.reshape(-1),
        }
    )
    drawn = frame[frame.key.isin(np.sort(keys)[: spec.rows])].sort_values(["key", "target"])
    parts = [drawn.assign(kind="sample")]
    for kind, ascending in (("largest", False), ("smallest", True)):
        ordered = frame.sort_values(["target", "prediction", "key"], ascending=[True, ascending, True])
        parts.append(ordered.groupby("target", sort=False).head(spec.extremes).assign(kind=kind))
    return pd.concat(parts)[["kind", "example_id", "target", "prediction"]].reset_index(drop=True)


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("batch", [7, 64, 500])
def test_sample_equals_a_sort_of_all_rows(targets, ties, batch):
    spec = SampleSpec(rows=40, extremes=3)
    keys, scores, chosen = rows_of(500, targets, seed=batch, ties=ties)
    parts = [
        lambda state, part=slice(at, at + batch): add(state, keys, scores, chosen, part)
        for at in range(0, len(keys), batch)
    ]
    state = check_merging(
        lambda: Sample(spec),
        parts,
        lambda state: state.to_table().to_pandas(),
        pd.testing.assert_frame_equal,
        seed=batch,
        round_trip=lambda state: Sample.from_bytes(state.to_bytes()),
    )
    found = state.to_table().to_pandas()
    assert set(found.kind) == set(KINDS)
    pd.testing.assert_frame_equal(found, direct(spec, keys, scores, chosen))


def test_a_shard_holds_few_rows_where_the_run_has_many():
    schema = schema_of(feature("a"), feature("b"))
    spec = SampleSpec.of(schema, wanted=100, total=20_000, per_example=1, targets=1)
    keys, scores, chosen = rows_of(20_000, 1, outputs=1)
    whole = Sample(spec)
    sizes = []
    for at in range(0, len(keys), 1000):
        state = Sample(spec)
        add(state, keys, scores, chosen, slice(at, at + 1000))
        table = state.to_table().to_pandas()
        sizes.append((table.kind == "sample").sum())
        whole.merge(state)
    assert max(sizes) < 30  # of 100 that a shard of its own would hold
    found = whole.to_table().to_pandas()
    expected = sorted(str(key) for key in np.sort(keys)[:100])
    assert sorted(found[found.kind == "sample"].example_id) == expected


def test_rows_are_made_only_where_they_belong_to_the_sample():
    keys, scores, chosen = rows_of(50_000, 1, outputs=2)
    state, made = Sample(SampleSpec(rows=50, extremes=3)), []
    for at in range(0, len(keys), 500):
        part = slice(at, at + 500)
        table = table_of(keys[part], scores[part], chosen[part])
        state.update(
            keys[part],
            scores[part],
            chosen[part],
            lambda rows, table=table: made.append(len(rows)) or table(rows),
        )
    # The first k of N in any order come up k · (1 + ln(N / k)) times: 400 and 4 · 33 are expected.
    assert sum(made) < 900


def test_the_sample_is_uniform():
    """Each row is drawn with the same chance: counts over seeds against the binomial's deviation."""
    counts = np.zeros(60)
    for seed in range(400):
        keys, scores, chosen = rows_of(60, 1, seed=seed, outputs=1)
        state = Sample(SampleSpec(rows=15))
        add(state, keys, scores, chosen)
        position = {str(key): at for at, key in enumerate(keys)}
        counts[[position[key] for key in state.to_table()["example_id"].to_pylist()]] += 1
    assert counts.sum() == 400 * 15
    z = (counts - 100) / np.sqrt(400 * 0.25 * 0.75)
    assert np.abs(z).max() < 4.5
    assert 0.5 < z.var() < 1.6


def test_wide_rows_are_fewer():
    narrow, wide = schema_of(feature("a")), schema_of(feature("a", (224, 224, 3)))
    size = {"wanted": 2000, "total": 10**6, "per_example": 1}
    assert SampleSpec.of(narrow, targets=1, **size).rows == 2000
    assert SampleSpec.of(wide, targets=1, **size).rows == 16
    assert SampleSpec.of(wide, targets=1, **size).extremes == 0
    assert SampleSpec.of(narrow, targets=10, **size).extremes == 3
    nothing = SampleSpec.of(narrow, targets=1, **{**size, "wanted": 0})
    state = Sample(nothing)
    add(state, *rows_of(10, 1))
    assert state.to_table() is None
    json.dumps(nothing.__dict__)


SHAPES = {"image": (2, 3), "text": (4,)}


def batches(count, targets, seed):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        chosen = np.stack([rng.permutation(3)[:targets] for _ in range(count)])
        values = {
            n: rng.normal(size=(count, targets, *shape)).astype(np.float32) for n, shape in SHAPES.items()
        }
        yield values, chosen, rng.integers(0, 3, count).astype(np.float64)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_positions_equal_numpy(targets, weighted):
    schema = schema_of(feature("a"), *(feature(name, shape) for name, shape in SHAPES.items()))
    assert positioned(schema, 3) == SHAPES
    parts = list(batches(20, targets, targets))

    def same(one, other):
        keys = ["target", "target_name", "feature", "index"]
        assert one is not None
        assert one.select(keys).equals(other.select(keys))
        for name in ("mean_abs", "mean"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-12, atol=1e-12)

    state = check_merging(
        lambda: Positions(SHAPES),
        [lambda s, p=part: s.update(p[0], p[1], p[2] if weighted else None) for part in parts],
        lambda state: state.to_table(["x", "y", "z"]),
        same,
        seed=targets,
        round_trip=lambda state: Positions.from_bytes(state.to_bytes()),
    )
    found = state.to_table(["x", "y", "z"]).to_pandas()
    chosen = np.concatenate([part[1] for part in parts]).reshape(-1)
    weights = np.repeat(np.concatenate([part[2] if weighted else np.ones(20) for part in parts]), targets)
    for target, (name, shape) in itertools.product(range(3), SHAPES.items()):
        mask = chosen == target
        values = np.concatenate([part[0][name].reshape(-1, *shape) for part in parts])[mask].astype(
            np.float64
        )
        of = found[(found.target == target) & (found.feature == name)]
        assert [tuple(index) for index in of["index"]] == list(np.ndindex(*shape))
        for column, expected in (("mean_abs", np.abs(values)), ("mean", values)):
            mean = np.average(expected, axis=0, weights=weights[mask])
            np.testing.assert_allclose(of[column].to_numpy().reshape(shape), mean, rtol=1e-12, atol=1e-14)


def test_tensors_of_too_many_positions_are_left_out():
    schema = schema_of(feature("image", (224, 224, 3)), feature("text", (16,)))
    assert list(positioned(schema, 10)) == ["image", "text"]
    assert list(positioned(schema, 1000)) == ["text"]
    state = Positions()
    state.update({}, np.zeros((2, 1), np.int64))
    assert state.to_table(["x"]) is None


def test_long_texts_are_cut():
    texts = pa.array(["short", "ä" * 1000, "x" * 5000, None], pa.string())
    struct = pa.StructArray.from_arrays([texts, pa.array([1.0, 2, 3, 4])], names=["text", "number"])
    table = pa.table({"example_id": ["a", "b", "c", "d"], "feature": struct, "late": [0, 1, 0, 1]})
    found = shortened(table)
    assert found.schema == table.schema
    assert [row["text"] for row in found["feature"].to_pylist()] == [
        "short",
        "ä" * 1000,
        "x" * 1000 + "…",
        None,
    ]
    assert found.drop_columns(["feature"]).equals(table.drop_columns(["feature"]))
    assert found["feature"].combine_chunks().field("number").equals(struct.field("number"))
