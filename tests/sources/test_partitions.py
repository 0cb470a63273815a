"""Columns of folders' names, `year=2026/month=1`: typed as their writer meant them, and used as any other."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.planning.slicings import plan_slicings
from tests.support import file_worlds, worlds
from tests.support.file_worlds import decoded, numbers
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError
from transforms.models.base import InputSpec, Signature
from transforms.rows.decode import decode, join
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.resolve.folder_columns import resolve_with_paths
from transforms.rows.resolve.resolve import ColumnRequest
from transforms.rows.schema import columns_of
from transforms.slices.slicings import BinsRequest, ByBins, labels
from transforms.sources import globs, read
from transforms.sources.base import InputFile
from transforms.sources.inspection import inspect_files
from transforms.sources.partitions import partition_of, partition_types
from transforms.sources.shards import cut

SPARK = Path(__file__).parents[1] / "data" / "spark"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("f/year=2026/month=1/p.parquet", {"year": "2026", "month": "1"}),
        ("f/place=a%2Fb 1/x=%3D=/p.parquet", {"place": "a/b 1", "x": "=="}),
        ("f/x=__HIVE_DEFAULT_PARTITION__/y=/p=q.parquet", {"x": None, "y": ""}),
        ("f/x=1/deep/x=2/=3/p.parquet", {"x": "2"}),
        ("p.parquet", {}),
    ],
)
def test_the_values_of_a_path(name: str, found: dict[str, str | None]) -> None:
    assert dict(partition_of(name)) == found


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0"], pa.int64()),
        (["1", None], pa.int64()),
        ([None], pa.null()),
        (["01", "12"], pa.string()),
        (["01234", "98765"], pa.string()),
        (["9" * 19], pa.string()),
        (["1.5", "2.0", "-1e-3"], pa.float64()),
        (["1.50", "2.25"], pa.float64()),
        (["1.1", "1.10"], pa.string()),
        (["1.2.3"], pa.string()),
        (["2026-01-01", "1999-12-31"], pa.date32()),
        (["2026-02-30"], pa.string()),
        (["2026-01-01 06:00:00", "2026-01-01"], pa.timestamp("us")),
        (["2026-01-01T06:00:00.5"], pa.timestamp("us")),
        (["true", "false"], pa.bool_()),
        (["True"], pa.string()),
        (["", "1"], pa.string()),
        (["nan"], pa.string()),
    ],
)
def test_the_type_is_the_one_that_the_writer_meant(values: list[str | None], kind: pa.DataType) -> None:
    inputs = [InputFile("", "", "parquet", 1, 1, partition=(("k", value),)) for value in values]
    assert partition_types(inputs) == {"k": kind}


def test_what_spark_has_written_is_what_spark_reads(tmp_path: Path) -> None:
    """The values of `spark.read.parquet`, as write.py prints them, but for `zip`, which was a text."""
    run = file_worlds.explained(
        tmp_path,
        str(SPARK / "parts"),
        features=["a", "year", "month"],
        slices=[
            "place",
            "day",
            "zip",
            "year",
            "day > '2026-01-01' and year == 2026",
            {"column": "month", "bins": [1]},
        ],
    )
    found = run.attributions().to_pylist()
    rows = {row["attribution"]["a"]: row for row in found}
    for a in range(6):
        year, month, day = 2025 + a % 2, a % 3, datetime.date(2026, 1, 1 + a % 2)
        row = rows[a]
        np.testing.assert_allclose(
            [row["attribution"][name] for name in ("year", "month")], [2 * year, 3 * month], atol=1e-3
        )
        assert (row["place"], row["day"], row["zip"]) == (
            f"a/b {month}" if month else None,
            day,
            f"0000{a % 2}",
        )
    sizes = dict(zip(*(run.importance()[name] for name in ("slice", "rows")), strict=True))
    assert sizes == {
        "": 6, "place=null": 2, "place=a/b 1": 2, "place=a/b 2": 2, "day=2026-01-01": 3, "day=2026-01-02": 3,
        "zip=00000": 3, "zip=00001": 3, "year=2025": 3, "year=2026": 3,
        "day > '2026-01-01' and year == 2026": 3,
        "month=(-inf, 1)": 2, "month=[1, inf)": 4,
    }  # fmt: skip
    # The files are named by their paths, and the values can be had from them again.
    assert all("/month=" in item["file"] for item in run.manifest["inputs"])
    assert set(run.example(found[0]["example_id"]).values) == {"a", "year", "month"}


def test_ids_features_and_slices_of_what_duckdb_and_polars_write(tmp_path: Path) -> None:
    days = [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)]
    frame = pl.DataFrame(
        {"a": [1.0, 2.0, 3.0, 4.0], "day": days * 2, "k": ["x", "ü/=&", "x", "ü/=&"], "n": [7, 7, 8, 8]}
    )
    frame.write_parquet(tmp_path / "polars", partition_by=["day", "k", "n"])
    duckdb.sql(f"copy frame to '{tmp_path}/duckdb' (format parquet, partition_by (day, k, n))")
    for tool in ("polars", "duckdb"):
        _, rows, slices = decoded(tmp_path, tool, features=["a", "n"], id="k", slices=["day", "n > 7"])
        order = np.argsort(rows.features["a"])
        assert rows.features["n"].dtype == np.int64
        assert [rows.features["n"][at] for at in order] == [7, 7, 8, 8]
        assert rows.ids[order].tolist() == ["x", "ü/=&"] * 2
        assert [slices["day"][at] for at in order] == ["day=2026-01-01", "day=2026-01-02"] * 2
        assert [slices["n > 7"][at] for at in order] == [None, None, "n > 7", "n > 7"]


def parts(folder: Path, **columns: object) -> None:
    for month in ("01", "02", "10"):
        (folder / f"month={month}").mkdir(parents=True)
        pq.write_table(pa.table({"a": [float(month)], **columns}), folder / f"month={month}" / "p.parquet")


def test_padded_numbers_are_text_and_numbers_where_the_model_takes_these(tmp_path: Path) -> None:
    parts(tmp_path / "f")
    _, _rows, slices = decoded(tmp_path, "f", slices=["month"])
    assert slices["month"] == ["month=01", "month=02", "month=10"]
    inputs = inspect_files(globs.expand(["f"], str(tmp_path)))
    found = read.describe_input(inputs)
    request = ColumnRequest(
        (FeatureRequest("a"), FeatureRequest("month")), {}, None, (), None, asides=found.asides
    )
    signature = Signature((InputSpec("x", (2,), "float32"),), ())
    schema = resolve_with_paths(request, signature, found.types, found.paths, inputs)
    assert [feature.stored for feature in schema.features] == [pa.float64(), pa.int64()]
    assert schema.from_path == ("month",)


@pytest.mark.parametrize("asked", [[], ["month >= 2"], [{"column": "month", "bins": [5]}]])
def test_a_padded_number_has_one_text_whatever_the_slices_ask(asked: list[Any], tmp_path: Path) -> None:
    """A condition or bins take 01 as the number; ids and other slices keep what the folder says."""
    parts(tmp_path / "f", b=[1.0])
    requests = [BinsRequest(i["column"], tuple(i["bins"])) if isinstance(i, dict) else i for i in asked]
    both = [("month", "b == 1"), *requests]  # of values, so that bins may stand beside them
    schema, rows, slices = decoded(tmp_path, "f", id="month", slices=both)
    assert rows.ids.tolist() == ["01", "02", "10"]
    assert slices["month & b == 1"] == [f"month={m} & b == 1" for m in ("01", "02", "10")]
    assert dict(schema.slices)["month"] == pa.string()
    if asked:
        found = slices[schema.slicings[-1].name]
        assert found in ([None, "month >= 2", "month >= 2"], ["month=(-inf, 5)"] * 2 + ["month=[5, inf)"])


def test_a_padded_number_is_a_feature_a_slice_and_an_id_at_once(tmp_path: Path) -> None:
    parts(tmp_path / "f")
    inputs = inspect_files(globs.expand(["f"], str(tmp_path)))
    found = read.describe_input(inputs)
    asked = (FeatureRequest("a"), FeatureRequest("month"))
    request = ColumnRequest(asked, {}, "month", ("month", "month > 1"), None, "month", asides=found.asides)
    signature = Signature((InputSpec("x", (2,), "float32"),), ())
    schema = resolve_with_paths(request, signature, found.types, found.paths, inputs)
    read.check_columns(inputs, columns_of(schema))
    pieces = [piece for shard in cut(inputs, 5) for piece in shard.pieces]
    raws = [raw for piece in pieces for raw in read.read_piece(piece, columns_of(schema), 3)]
    rows = join([decode(raw, schema, "f", 0, 1)[0] for raw in raws])
    assert rows.features["month"].tolist() == [1.0, 2.0, 10.0]
    assert rows.weights is not None
    assert rows.weights.tolist() == [1.0, 2.0, 10.0]
    assert rows.ids.tolist() == ["01", "02", "10"]
    assert labels(schema.slicings, rows.slices)["month"].to_pylist() == ["month=01", "month=02", "month=10"]


def test_a_column_of_the_path_is_a_feature_only_where_it_is_named(tmp_path: Path) -> None:
    parts(tmp_path / "f")
    schema, _rows, _ = decoded(tmp_path, "f", features=None)
    assert ([feature.name for feature in schema.features], schema.from_path) == (["a"], ())
    with pytest.raises(UserError, match="has no column 'month'"):
        decoded(tmp_path, "f", slices=["month"], hive=False)


def test_what_the_files_have_as_well_is_read_from_the_files(tmp_path: Path) -> None:
    parts(tmp_path / "f", month=[7])
    schema, rows, _slices = decoded(tmp_path, "f", features=["month"], slices=["month"])
    assert schema.from_path == ()
    assert numbers(rows, "month") == [7, 7, 7]


def test_a_file_in_no_such_folder_is_named(tmp_path: Path) -> None:
    parts(tmp_path / "f")
    (tmp_path / "f" / "year=1").mkdir()
    pq.write_table(pa.table({"a": [5.0]}), tmp_path / "f" / "year=1" / "p.parquet")
    with pytest.raises(
        UserError, match=r"year=1/p\.parquet: is not in a folder month=…, .*; input\.id asks for it"
    ):
        decoded(tmp_path, "f", id="month")
    _, _, slices = decoded(tmp_path, "f", slices=["month"])
    assert slices["month"][-1] == "month=null"


def test_a_feature_of_folders_that_a_file_is_not_in(tmp_path: Path) -> None:
    """The file's own columns are those of the others: its place makes the difference."""
    parts(tmp_path / "f")
    pq.write_table(pa.table({"a": [5.0]}), tmp_path / "f" / "z.parquet")
    with pytest.raises(UserError, match=r"z\.parquet: .*month"):
        decoded(tmp_path, "f", features=["a", "month"])


def test_folders_of_tfrecord_and_of_an_object_store(tmp_path: Path) -> None:
    worlds.write_tfrecord(tmp_path / "r.tfrecord", [{"a": 1.0}, {"a": 2.0}])
    pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / "r.parquet")
    for kind in ("tfrecord", "parquet"):
        MemoryFileSystem.blobs.clear()
        for place in ("x", "y z"):
            data = (tmp_path / f"r.{kind}").read_bytes()
            MemoryFileSystem.blobs[f"mem://lake/t/place={place}/r.{kind}"] = data
        MemoryFileSystem.blobs["mem://lake/t/_SUCCESS"] = b""
        for files in ("mem://lake/t", f"mem://lake/t/**/*.{kind}"):
            _, rows, slices = decoded(Path("/"), files, slices=["place", "place == 'x'"])
            assert numbers(rows, "a") == [1, 2, 1, 2]
            assert slices["place"] == ["place=x", "place=x", "place=y z", "place=y z"]
            _, rows, _ = decoded(Path("/"), files, id="place")
            assert rows.ids.tolist() == ["x", "x", "y z", "y z"]


def test_bins_of_a_folder_name_have_the_edges_of_its_values(tmp_path: Path) -> None:
    """The draw that finds edges reads folders' names as the run does, padded or not."""
    for form in ("02d", "d"):
        folder = tmp_path / form
        for month in (1, 2, 10):
            (folder / f"month={month:{form}}").mkdir(parents=True)
            pq.write_table(pa.table({"a": [1.0] * 4}), folder / f"month={month:{form}}" / "p.parquet")
        schema, _rows, _ = decoded(folder, slices=[BinsRequest("month", 2)])
        inputs = inspect_files(globs.expand(["."], str(folder)))
        planned, count, warnings = plan_slicings(schema, inputs, 0, 12)
        assert [slicing.edges for slicing in planned.slicings if isinstance(slicing, ByBins)] == [(2.0,)]
        assert (count, warnings) == (2, ())
