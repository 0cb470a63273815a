"""Columns of random types: what the model is given is what was written, or a line says why it is not."""

import datetime
import decimal
import json
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import column_worlds
from tests.support.column_worlds import model, rows_of
from transforms.errors import UserError
from transforms.rows.problems import Problems
from transforms.rows.resolve.feature import FeatureRequest
from transforms.rows.schema import FeatureSpec
from transforms.rows.tensors import tensor

ROWS = 12
WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
NUMBERS = [
    *WHOLE,
    pa.float16(),
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.decimal128(9, 2),
    pa.decimal256(45, 3),
    pa.dictionary(pa.int8(), pa.int32()),
    pa.dictionary(pa.int16(), pa.float64()),
]
TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.json_(),
    pa.uuid(),
]
NO_NUMBERS = [
    pa.timestamp("ns"),
    pa.timestamp("s", "Europe/Berlin"),
    pa.date32(),
    pa.date64(),
    pa.time64("us"),
    pa.duration("ms"),
    pa.map_(pa.string(), pa.float32()),
    pa.string(),
]


def draw(rng, kind):
    """A value of a type, as Python has it."""
    if isinstance(kind, pa.UuidType):
        return uuid.UUID(bytes=rng.bytes(16)).bytes
    if isinstance(kind, pa.JsonType):
        return json.dumps({"a": int(rng.integers(9))})
    if pa.types.is_dictionary(kind):
        return draw(rng, kind.value_type)
    if pa.types.is_boolean(kind):
        return bool(rng.integers(2))
    if pa.types.is_decimal(kind):
        return decimal.Decimal(int(rng.integers(-999, 999))) / 4
    if pa.types.is_floating(kind):
        return float(np.float16(rng.normal()))
    if pa.types.is_binary(kind):
        return rng.bytes(int(rng.integers(5)))
    if pa.types.is_map(kind):
        return [("k", 1.5)]
    if pa.types.is_temporal(kind):
        of = {"timestamp": datetime.datetime(2026, 1, 2), "date": datetime.date(2026, 1, 2)}
        of |= {"time": datetime.time(3), "duration": datetime.timedelta(4)}
        return next(value for name, value in of.items() if str(kind).startswith(name))
    if pa.types.is_integer(kind):
        return int(rng.integers(0, 100))
    return "".join(chr(int(code)) for code in rng.integers(32, 0x250, int(rng.integers(6))))


def column(rng, kind, size, listing):
    """A column of the type, or of lists of so many values of it; and its rows as Python has them."""
    if not size:
        rows = [None if rng.random() < 0.2 else draw(rng, kind) for _ in range(ROWS)]
        whole = kind
    else:
        rows = [None if rng.random() < 0.2 else [draw(rng, kind) for _ in range(size)] for _ in range(ROWS)]
        whole = listing(kind)
    storage = whole.storage_type if isinstance(whole, pa.BaseExtensionType) else whole
    array = pa.array(rows, storage)
    return pa.ExtensionArray.from_storage(whole, array) if storage is not whole else array


def expected(array, dtype):
    """{row: value} of the rows that have one, by Arrow's own conversion."""
    if isinstance(array.type, pa.UuidType):
        found = [None if value is None else str(value).encode() for value in array.to_pylist()]
    else:
        found = array.to_pylist()
    if dtype == "string":
        found = [
            [item.encode() if isinstance(item, str) else item for item in value]
            if isinstance(value, list)
            else value.encode()
            if isinstance(value, str)
            else value
            for value in found
        ]
    else:
        found = [None if value is None else np.asarray(value, dtype).tolist() for value in found]
    return {row: value for row, value in enumerate(found) if value is not None}


def lists_of(rng, size):
    kinds = [pa.list_, pa.large_list, lambda kind: pa.list_(kind, size), pa.list_view]
    return kinds[rng.integers(len(kinds))]


@pytest.mark.parametrize("seed", range(25))
def test_a_column_of_a_random_type_in_a_file(tmp_path, seed):
    rng = np.random.default_rng(seed)
    texts = rng.random() < 0.3
    kind = (TEXTS if texts else NUMBERS)[rng.integers(len(TEXTS if texts else NUMBERS))]
    size = 0 if isinstance(kind, pa.BaseExtensionType) or rng.random() < 0.4 else int(rng.integers(2, 5))
    array = column(rng, kind, size, lists_of(rng, size))
    dtype = "string" if texts else ["float32", "float64", "int64"][rng.integers(3)]
    name = "x"
    whole = array
    if rng.random() < 0.3:
        name = "a.b.x"
        inner = pa.StructArray.from_arrays([array], ["x"])
        whole = pa.StructArray.from_arrays([inner], ["b"])
    pq.write_table(
        pa.table({name.split(".")[0]: whole}), tmp_path / "rows.parquet", store_schema=rng.random() < 0.9
    )
    signature = model(("x", (size or 1,), dtype))
    inputs, reasons = rows_of([tmp_path / "rows.parquet"], signature, [FeatureRequest(name)], 5)
    wanted = expected(array, "float64" if dtype == "int64" else dtype)
    if dtype == "int64":  # a fraction is no whole number
        whole_rows = {row for row, value in wanted.items() if np.all(np.trunc(value) == value)}
        wanted = {row: value for row, value in wanted.items() if row in whole_rows}
    got = [value if size else value[0] for value in inputs["x"]]
    assert got == list(wanted.values())
    assert sorted(reasons) == [row for row in range(ROWS) if row not in wanted]


@pytest.mark.parametrize("kind", NO_NUMBERS, ids=str)
def test_what_is_no_number_is_one_line_that_says_what_to_do(tmp_path, kind):
    array = column(np.random.default_rng(0), kind, 0, None)
    paths = column_worlds.write(tmp_path, "parquet", {"t": array})
    for signature in (model(("x", (1,), "float32")), None):
        if signature is None and pa.types.is_string(kind):
            continue
        with pytest.raises(UserError) as caught:
            rows_of(paths, signature, [FeatureRequest("t")])
        text = str(caught.value)
        assert text.startswith("input.features t: the column holds ")
        assert "\n" not in text
        assert "store" in text


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.string()], ids=str)
def test_run_end_encoded_columns_as_batches_have_them(kind):
    values = pa.array([1, 1, None, 3, 3, 3], kind) if kind != pa.string() else pa.array(["a", "a", None, "b"])
    encoded = pa.compute.run_end_encode(values)
    dtype = "string" if kind == pa.string() else "float32"
    problems = Problems()
    feature = FeatureSpec("x", "numeric", dtype, (), encoded.type, None, "x", 0)
    found = tensor(feature, encoded.slice(1), problems, "rows")
    assert list(problems.reasons) == [1]
    good = problems.good(len(values) - 1)
    raw = [value for value in values.slice(1).to_pylist() if value is not None]
    assert found[good].tolist() == [value.encode() if isinstance(value, str) else value for value in raw]
