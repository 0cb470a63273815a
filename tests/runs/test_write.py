"""The tables: every cell against a plain loop, and part files that exist whole or not at all."""

import os
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import OutputLost
from transforms.methods.base import Attribution
from transforms.outputs import attributions, write
from transforms.outputs.attributions import attribution_table, feature_totals
from transforms.outputs.layout import REJECTED, TableSpec, attribution_schema, slice_names
from transforms.outputs.parts import Part
from transforms.outputs.write import PartWriter, write_rejected
from transforms.rows.decode import Rows
from transforms.rows.schema import ExampleSchema, FeatureSpec
from transforms.sources.base import Rejection
from transforms.storage import files
from transforms.storage.digests import digest_of

META = {"attribeam.run_id": "r1", "attribeam.method": "saliency"}
TARGETS = np.array(["late", "very late", "z"], object)


def spec(name, dtype="float32", shape=(), *, input="x", start=0):
    return FeatureSpec(name, "numeric", dtype, shape, pa.null(), None, input, start)


def make_schema(groups=None, slices=()):
    features = (
        spec("a.b=c"),
        spec("Größe", shape=(2, 3), start=1),
        spec("n", "int32", input="n"),
        spec("word", "string", (2,), input="w"),
        spec("flag", "bool", input="f"),
    )
    inputs = {"x": (7,), "n": (1,), "w": (2,), "f": ()}
    return ExampleSchema(features, inputs, groups or {}, slices=tuple(slices))


def batch(schema, rows=4, per_example=1, *, errors=False, delta=True, seed=0):
    """Rows with an attribution of them, all numbers different."""
    rng = np.random.default_rng(seed)
    features = {
        "a.b=c": rng.normal(size=rows).astype(np.float32),
        "Größe": rng.normal(size=(rows, 2, 3)).astype(np.float32),
        "n": rng.integers(-9, 9, rows).astype(np.int32),
        "word": np.array([[f"w{i}".encode(), b"\xff"] for i in range(rows)], object),
        "flag": rng.random(rows) < 0.5,
    }
    carriers = [["AA", None, "ÅØ"][i % 3] for i in range(rows)]
    slices = {"carrier": pa.array(carriers), "target": pa.array(np.arange(rows), pa.int16())}
    number = np.arange(rows)
    examples = Rows(
        features,
        np.array([f"id{i}" for i in range(rows)], object),
        {name: slices[name] for name, _ in schema.slices},
        None,
        number,
        number + 50,
        np.full(rows, "in.parquet", object),
    )
    lead = (rows, per_example)
    values = {
        name: rng.normal(size=(*lead, *shape)).astype(np.float32) for name, shape in schema.inputs.items()
    }
    error = {name: np.abs(value) + 1 for name, value in values.items()} if errors else None
    scalars = rng.normal(size=(4, *lead)).astype(np.float32)
    found = Attribution(values, *scalars[:3], scalars[3] if delta else None, error, np.zeros(rows, bool))
    targets = np.array([rng.permutation(3)[:per_example] for _ in range(rows)])
    return examples, found, targets


def make_table(schema, output, rows, attribution, targets):
    arrow = attribution_schema(schema, output, META)
    split = schema.split(attribution.values)
    table = attribution_table(rows, attribution, split, targets, TARGETS, schema, output, arrow)
    assert table.schema.equals(arrow, check_metadata=True)
    table.validate(full=True)
    return table


def test_the_schema_of_the_contract():
    schema = make_schema(slices=[("carrier", pa.string()), ("target", pa.int16())])
    found = attribution_schema(schema, TableSpec("all", True, True), META)
    tensor = pa.list_(pa.list_(pa.float32(), 3), 2)
    by_feature = pa.struct(
        {
            "a.b=c": pa.float32(),
            "Größe": tensor,
            "n": pa.float32(),
            "word": pa.list_(pa.float32(), 2),
            "flag": pa.float32(),
        }
    )
    own = {
        "a.b=c": pa.float32(),
        "Größe": tensor,
        "n": pa.int32(),
        "word": pa.list_(pa.string(), 2),
        "flag": pa.bool_(),
    }
    assert list(zip(found.names, found.types, strict=True)) == [
        ("example_id", pa.string()),
        ("target", pa.int32()),
        ("target_name", pa.string()),
        ("prediction", pa.float32()),
        ("output", pa.float32()),
        ("base_value", pa.float32()),
        ("convergence_delta", pa.float32()),
        ("attribution", by_feature),
        ("standard_error", by_feature),
        ("feature", pa.struct(own)),
        ("carrier", pa.string()),
        ("slice_target", pa.int16()),
    ]
    assert found.metadata == {key.encode(): value.encode() for key, value in META.items()}
    assert attribution_schema(schema, TableSpec(3), {}).names[7:] == [
        "top",
        "rest",
        "carrier",
        "slice_target",
    ]


def test_slices_with_names_of_the_tables_own_never_collide():
    names = ["feature", "rest", "slice_rest", "carrier", "example_id"]
    schema = make_schema(slices=[(name, pa.string()) for name in names])
    assert slice_names(schema) == {
        "feature": "slice_feature",
        "rest": "slice_slice_rest",
        "slice_rest": "slice_rest",
        "carrier": "carrier",
        "example_id": "slice_example_id",
    }


@pytest.mark.parametrize("per_example", [1, 3])
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("groups", [None, {"g": ("n", "Größe")}])
def test_every_cell_against_a_plain_loop(per_example, delta, groups):
    schema = make_schema(groups, [("carrier", pa.string()), ("target", pa.int16())])
    rows, attribution, targets = batch(schema, 4, per_example, errors=True, delta=delta)
    table = make_table(schema, TableSpec("all", True, True), rows, attribution, targets)
    expected = []
    for row in range(4):
        for at in range(per_example):
            phi = {
                "a.b=c": attribution.values["x"][row, at, 0],
                "Größe": attribution.values["x"][row, at, 1:].reshape(2, 3),
                "n": attribution.values["n"][row, at, 0],
                "word": attribution.values["w"][row, at],
                "flag": attribution.values["f"][row, at],
            }
            error = {name: np.abs(value) + 1 for name, value in phi.items()}
            if groups:
                phi["g"] = phi["n"] + phi.pop("Größe").sum()
                error["g"] = np.sqrt(error["n"] ** 2 + (error.pop("Größe") ** 2).sum())
                del phi["n"], error["n"]
            target = int(targets[row, at])
            expected.append(
                {
                    "example_id": f"id{row}",
                    "target": target,
                    "target_name": TARGETS[target],
                    "prediction": attribution.prediction[row, at],
                    "output": attribution.output[row, at],
                    "base_value": attribution.base_value[row, at],
                    "convergence_delta": attribution.convergence_delta[row, at] if delta else None,
                    "attribution": phi,
                    "standard_error": error,
                    "feature": {
                        name: [f"w{row}", r"\xff"] if name == "word" else value[row]
                        for name, value in rows.features.items()
                    },
                    "carrier": ["AA", None, "ÅØ"][row % 3],
                    "slice_target": row,
                }
            )
    assert [field.name for field in table["attribution"].type] == list(schema.attributed)
    for found, wanted in zip(table.to_pylist(), expected, strict=True):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            if isinstance(value, dict):
                assert found[name].keys() == value.keys()
                for field, part in value.items():
                    if field == "word" and name == "feature":
                        assert found[name][field] == part
                    else:
                        np.testing.assert_allclose(found[name][field], part, rtol=1e-6)
            elif isinstance(value, np.floating):
                assert found[name] == value
            else:
                assert found[name] == value


def test_missing_standard_errors_are_null():
    schema = make_schema()
    rows, attribution, targets = batch(schema)
    table = make_table(schema, TableSpec(standard_error=True), rows, attribution, targets)
    assert table["standard_error"].null_count == 4


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_top_k_holds_the_largest_and_with_the_rest_sums_to_the_total(k, per_example, seed):
    schema = make_schema({"g": ("n", "flag")})
    rows, attribution, targets = batch(schema, 3, per_example, seed=seed)
    table = make_table(schema, TableSpec(k), rows, attribution, targets)
    totals = {
        name: value.reshape(3 * per_example, -1).sum(axis=1, dtype=np.float64)
        for name, value in schema.split(attribution.values).items()
    }
    for row, (top, rest) in enumerate(zip(table["top"].to_pylist(), table["rest"].to_pylist(), strict=True)):
        ordered = sorted(totals, key=lambda name: -abs(totals[name][row]))
        assert [pair["feature"] for pair in top] == ordered[:k]
        for pair in top:
            assert pair["attribution"] == pytest.approx(totals[pair["feature"]][row], rel=1e-6)
        assert rest == pytest.approx(sum(totals[name][row] for name in ordered[k:]), rel=1e-5, abs=1e-6)


def test_equally_large_attributions_stay_in_the_features_order():
    split = {"a": np.float32([[1], [0]]), "b": np.float32([[-1], [0]]), "c": np.float32([[1], [0]])}
    top, rest = attributions._top(split, 2, {})
    assert [[pair["feature"] for pair in row] for row in top.to_pylist()] == [["a", "b"], ["a", "b"]]
    assert rest.to_pylist() == [1, 0]


def test_feature_totals_sum_tensors_and_keep_scalars():
    split = {"a": np.float32([[1, 2], [3, 4]]), "t": np.arange(8, dtype=np.float32).reshape(2, 2, 2)}
    assert feature_totals(split).tolist() == [[1, 2, 3, 4], [1, 5, 9, 13]]


def some_table(rows=10):
    return pa.table({"x": pa.array(np.arange(rows), pa.int64()), "s": ["a", "b"] * (rows // 2)})


def listing(folder):
    return sorted(os.listdir(folder))


def test_a_part_appears_whole_when_it_is_closed_and_has_the_same_bytes_again(tmp_path):
    path = tmp_path / "attributions" / "part-00000.parquet"
    for attempt in range(2):
        table = some_table().replace_schema_metadata(META)
        writer = PartWriter(str(path.parent), path.name, table.schema, ["s", "not there"])
        writer.write(table.slice(0, 4))
        writer.write(table.slice(4))
        assert path.exists() == bool(attempt)
        assert all(name.startswith(".") or name == path.name for name in listing(path.parent))
        writer.close()
        assert listing(path.parent) == [path.name]
        found = pq.read_table(path)
        assert found.equals(table)
        assert found.schema.metadata[b"attribeam.run_id"] == b"r1"
        if not attempt:
            first = path.read_bytes()
    assert path.read_bytes() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~write._UMASK


def test_an_aborted_part_leaves_nothing_and_an_earlier_one_alone(tmp_path):
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(b"earlier")
    writer = PartWriter(str(path.parent), path.name, some_table().schema, [])
    writer.write(some_table())
    writer.abort()
    writer.abort()
    assert listing(tmp_path) == ["part-00000.parquet"]
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize("method", ["write_table", "close"])
def test_a_failure_to_write_is_raised_and_leaves_nothing(tmp_path, monkeypatch, method):
    writer = PartWriter(str(tmp_path), "part.parquet", some_table().schema, [])
    real = getattr(pq.ParquetWriter, method)

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, method, full)
    writer.write(some_table())
    with pytest.raises(OutputLost, match=r"part\.parquet: cannot be written: no space left on device"):
        writer.close()
    assert listing(tmp_path) == []
    writer.abort()
    monkeypatch.setattr(pq.ParquetWriter, method, real)
    assert listing(tmp_path) == []


def test_a_failed_rename_leaves_nothing(tmp_path):
    (tmp_path / "part.parquet").mkdir()
    writer = PartWriter(str(tmp_path), "part.parquet", some_table().schema, [])
    with pytest.raises(OutputLost, match=r"part\.parquet: cannot be written: is a directory"):
        writer.close()
    assert listing(tmp_path) == ["part.parquet"]


def test_a_table_of_another_schema_is_not_written(tmp_path):
    writer = PartWriter(str(tmp_path), "part.parquet", some_table().schema, [])
    writer.write(pa.table({"y": [1]}))
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        writer.close()
    assert listing(tmp_path) == []


def test_a_folder_that_cannot_be_written_breaks_the_run(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(write.tempfile, "NamedTemporaryFile", denied)
    with pytest.raises(OutputLost, match=r"part\.parquet: cannot be written: permission denied"):
        PartWriter(str(tmp_path), "part.parquet", some_table().schema, [])
    (tmp_path / "file").touch()
    with pytest.raises(OutputLost, match="a file is in the way"):
        PartWriter(str(tmp_path), "file/part.parquet", some_table().schema, [])


def test_row_groups_end_at_so_many_rows_or_bytes(tmp_path, monkeypatch):
    def groups(name, tables):
        writer = PartWriter(str(tmp_path), name, tables[0].schema, [])
        for table in tables:
            writer.write(table)
        writer.close()
        metadata = pq.read_metadata(tmp_path / name)
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    batches = [some_table(4096)] * 70
    assert groups("rows", batches) == [131_072, 131_072, 6 * 4096]
    monkeypatch.setattr(write, "_ROW_GROUP_BYTES", 3 * batches[0].nbytes)
    assert groups("bytes", batches[:7]) == [3 * 4096, 3 * 4096, 4096]
    # Longer than what pyarrow would make of one call of its own accord.
    assert groups("one", [pa.table({"x": np.zeros(2**20 + 2, np.int8)})]) == [2**20 + 2]


def test_a_part_without_rows_has_the_schema(tmp_path):
    schema = attribution_schema(make_schema(), TableSpec(), META)
    PartWriter(str(tmp_path), "part.parquet", schema, ["target_name"]).close()
    found = pq.read_table(tmp_path / "part.parquet")
    assert len(found) == 0
    assert found.schema.equals(schema)
    assert found.schema.metadata == schema.metadata


def test_an_attributions_part_reads_back_as_it_was(tmp_path):
    schema = make_schema(slices=[("carrier", pa.string()), ("target", pa.int16())])
    rows, attribution, targets = batch(schema, 5, 2)
    for output in (TableSpec("all", True), TableSpec(2)):
        table = make_table(schema, output, rows, attribution, targets)
        path = tmp_path / f"{output.attributions}.parquet"
        writer = PartWriter(str(path.parent), path.name, table.schema, ["target_name", "carrier"])
        writer.write(table)
        writer.close()
        assert pq.read_table(path).equals(table)


def test_a_part_on_an_object_store_is_uploaded_whole():
    folder = f"{MemoryFileSystem.scheme()}://bucket/run/attributions"
    path = f"{folder}/part-00000.parquet"
    writer = PartWriter(*path.rsplit("/", 1), some_table().schema, [])
    writer.write(some_table())
    temporary = writer._temporary.name
    assert not files.exists(path)
    writer.close()
    assert not os.path.exists(temporary)
    assert pq.read_table(pa.BufferReader(files.read_bytes(path))).equals(some_table())


def test_rejected_rows_are_in_order_and_have_ids(tmp_path):
    rejected = [
        Rejection("b.parquet", 2, "predict", "not finite", "x"),
        Rejection("a.parquet", 10, "decode", "dep_hour is null", ""),
        Rejection("a.parquet", 9, "read", "damaged – ü"),
    ]
    part = write_rejected(str(tmp_path), "rejected/part.parquet", rejected, META)
    path = tmp_path / "rejected" / "part.parquet"
    data = path.read_bytes()
    assert part == Part("rejected/part.parquet", 3, len(data), digest_of(data))
    table = pq.read_table(path)
    assert table.schema.equals(REJECTED)
    assert table.to_pylist() == [
        {
            "example_id": "a.parquet:9",
            "file": "a.parquet",
            "row": 9,
            "stage": "read",
            "reason": "damaged – ü",
        },
        {"example_id": "", "file": "a.parquet", "row": 10, "stage": "decode", "reason": "dep_hour is null"},
        {"example_id": "x", "file": "b.parquet", "row": 2, "stage": "predict", "reason": "not finite"},
    ]
    assert table.schema.metadata == {key.encode(): value.encode() for key, value in META.items()}
    assert write_rejected(str(tmp_path), "rejected/part.parquet", rejected[::-1], META) == part
    assert path.read_bytes() == data
