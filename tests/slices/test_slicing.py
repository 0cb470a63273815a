"""Slices against pandas: conditions against `query`, bins against `cut`, intersections against a groupby."""

from __future__ import annotations

import ast
import datetime
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import UserError
from transforms.slices.edges import equal_count_edges
from transforms.slices.evaluation import evaluate
from transforms.slices.expressions import names_in, parse
from transforms.slices.slicings import (
    BinsRequest,
    ByBins,
    SliceRequest,
    candidates,
    columns_needed,
    described,
    labels,
    resolve_slicings,
    with_edges,
)

ROWS = 400


def made(seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    missing = rng.random(ROWS) < 0.1
    return pa.table(
        {
            "age": pa.array(rng.integers(0, 100, ROWS), pa.int16(), mask=missing),
            "hour": pa.array(np.round(rng.uniform(0, 24, ROWS), 1), pa.float32()),
            "rate": pa.array(np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(size=ROWS))),
            "carrier": pa.array(rng.choice(["UA", "AA", "B6", "null"], ROWS), mask=rng.random(ROWS) < 0.1),
            "late": pa.array(rng.random(ROWS) < 0.5, mask=rng.random(ROWS) < 0.1),
            "odd name": pa.array(rng.integers(-5, 6, ROWS), pa.int64()),
            "ünï`s": pa.array(rng.integers(0, 3, ROWS), pa.uint64()),
            "weather.temp": pa.array(rng.normal(10, 5, ROWS)),
            "day": pa.array([datetime.date(2013, 1, 1) + datetime.timedelta(int(i)) for i in range(ROWS)]),
        }
    )


TABLE = made()
TYPES = dict(zip(TABLE.schema.names, TABLE.schema.types, strict=True))
COLUMNS = {name: TABLE[name].combine_chunks() for name in TABLE.schema.names}
#: With pandas' own nulls, which say nothing either.
NULLABLE = {
    pa.int16(): pd.Int16Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
    pa.float64(): pd.Float64Dtype(),
}
FRAME = TABLE.rename_columns([name.replace(".", "_").replace("`", "_") for name in TABLE.schema.names])
FRAME = FRAME.to_pandas(types_mapper=NULLABLE.get)


def held(text: str) -> list[bool]:
    node = pickle.loads(pickle.dumps(parse(text, TYPES)))
    found: list[bool] = evaluate(node, COLUMNS).to_pylist()
    return found


@pytest.mark.parametrize(
    "text",
    [
        "age >= 65",
        "65 <= age",
        "not age >= 65",
        "18 <= age < 65",
        "age != 3",
        "age > 64.5 or hour < 6",
        "hour == 17.5 or hour <= 0.3",
        'carrier == "UA"',
        'carrier in ["UA", "AA"] and not hour < 6',
        'carrier not in ["UA", "null"]',
        "age in (1, 2, 3, 50, 51)",
        "age not in [1, 2, 3]",
        "`odd name` > 2",
        "`odd name` % 3 == 1",
        "-`odd name` >= 2",
        "age + 2 * `odd name` - 1 > 50",
        "age / 7 > `odd name`",
        "(age > 10 and late) or not (late or hour > 3)",
        "late",
        "not late",
        "late == True",
        "late != True",
        "rate > 0",
        "not rate > 0",
        "not (rate > 0 and age > 3)",
        "rate * age > 10",
        "(1 < 2) and late",
    ],
)
def test_a_condition_is_what_pandas_query_says(text: str) -> None:
    expected = FRAME.eval(text, engine="python")
    # Null is neither, as pandas has it; a slice has what is true. Only its `in` takes null for a value.
    expected = expected.astype(pd.BooleanDtype()).fillna(False)
    if " in " in text:
        column = text.split(" ", 1)[0]
        expected &= FRAME[column].notna()
    assert held(text) == expected.tolist()
    assert 0 < sum(held(text)) < ROWS


def test_nan_is_null() -> None:
    rate = FRAME["rate"].isna().tolist()
    assert sum(rate) > 10
    assert held("isnull(rate)") == rate
    assert held("rate in [1.5] or not rate in [1.5]") == [not gap for gap in rate]
    # 0 / 0 too: it is nothing, and so is all that is compared with it.
    zero = "`odd name` * 0 / 0 > 1"
    assert not any(held(f"{zero} or not {zero}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weather.temp <= 10", TABLE["weather.temp"].to_pandas() <= 10),
        ("day >= '2013-06-01'", TABLE["day"].to_pandas() >= datetime.date(2013, 6, 1)),
        ("day in ['2013-06-01', '2013-06-03']",
         TABLE["day"].to_pandas().isin([datetime.date(2013, 6, 1), datetime.date(2013, 6, 3)])),
        ("isnull(carrier) or age == 5", FRAME["carrier"].isna() | (FRAME["age"] == 5).fillna(False)),
        ('carrier == "UA`s" or late and age > 3', (FRAME["late"] & (FRAME["age"] > 3)).fillna(False)),
        ("hour <= 1e300 and hour > -1e300", np.ones(ROWS, bool)),
        ("age < 99999999999999999999 and age > -5", FRAME["age"].notna()),
        ("age in [3, 2.5, 1e300, -70000]", (FRAME["age"] == 3).fillna(False)),
    ],
)  # fmt: skip
def test_a_condition_that_pandas_writes_otherwise(text: str, expected: Any) -> None:
    assert held(text) == list(expected)


def test_numbers_that_no_float_holds() -> None:
    big = [2**63, 2**63 + 1, 2**64 - 1, None, 5]
    columns = {
        "u": pa.array(big, pa.uint64()),
        "n": pa.array([2**53, 2**53 + 1, -1, None, 5], pa.int64()),
        "half": pa.array(np.array([0.1, 1, 2, np.nan, 5], np.float16)),
        "price": pa.array(["1.10", "2.20", None, "7.00", "-1.00"]),  # so decimals are decoded
    }
    types = {**{name: array.type for name, array in columns.items()}, "price": pa.decimal128(9, 2)}

    def where(text: str) -> list[int]:
        return [at for at, true in enumerate(evaluate(parse(text, types), columns).to_pylist()) if true]

    assert where("u > 9223372036854775808") == [1, 2]
    assert where("u > -1") == [0, 1, 2, 4]
    assert where("n == 9007199254740993") == [1]
    assert where("n in [9007199254740993]") == [1]
    assert where("u == n") == [4]
    assert where("half == 1 or half >= 2") == [1, 2, 4]
    assert where("half in [5]") == [4]
    assert where("price >= 2.2") == [1, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agee > 3", "names 'agee', but the input has no such column; did you mean age?"),
        ("age > 3 and zebra > 1", "no such column; its columns are age, hour"),
        ("age >=", "cannot be read at character 7: invalid syntax"),
        ("`odd name` > > 3", "cannot be read at character 14: invalid syntax"),
        ("`ünï` ) > 3", "cannot be read at character 7: unmatched ')'"),
        ("age = 3", "cannot be read at character 5: invalid syntax; write == for equal"),
        ("`odd > 3", "character 1: '`' was never closed"),
        ("age > 65and late", "invalid decimal literal"),
        ("carrier == '\\d'", "invalid escape sequence"),
        ("carrier > 3", "compares 'carrier' (string) with '3' (number); put quotes around a text"),
        ("age == 'old'", "compares 'age' (int16) with \"'old'\" (text); put quotes around a text, and none"),
        ("age in [1, '2']", "(text)"),
        ("late > carrier", "(bool) with 'carrier' (string)"),
        ("day > 'yesterday'", "with 'yesterday', which is not one; write days like \"2013-06-01\""),
        ("day > age", "(date32[day]) with 'age' (int16); compare numbers with numbers"),
        ("day + 1 > 3", "calculates with 'day', a day or a time; only numbers"),
        ("age and late", "has 'age', a number, where a condition is needed; compare it with something"),
        ("(age + 1)", "is a number, but a condition is needed"),
        ("(1 < 2)", "names no column"),
        ("age == age", "compares 'age' with itself; to find nulls, write isnull(…)"),
        ("age == None", "holds 'None', which is not allowed; write isnull(…)"),
        ("age is None", "write isnull(…)"),
        ("age & 3 == 1", "holds 'age & 3', which is not allowed; write and"),
        ("~late", "write not"),
        ("'U' in carrier", "looks in 'carrier', which is not a list of constants; write it like carrier in"),
        ("age in [hour]", "looks for 'hour', which is not a constant"),
        ("age in []", "looks in an empty list"),
        ("true == late", "write True"),
        ("age > 1" + "0" * 309, "a number that is too large"),
        ("age > 1j", "holds '1j'"),
        ("age ** 2 > 1", "holds 'age ** 2', which is not allowed; allowed: names"),
        ("age > __import__('os').getpid()", "which is not allowed"),
        ("().__class__.__bases__ == 3", "which is not allowed"),
        ("(lambda: late)()", "which is not allowed"),
        ("[x for x in age] == 3", "which is not allowed"),
        ("(age := 3) > 2", "which is not allowed"),
        ("carrier == f'{age}'", "which is not allowed"),
        ("age > 1 if late else late", "which is not allowed"),
        ("isnull(age, hour)", "which is not allowed"),
        ("carrier.str.len() > 2", "which is not allowed"),
        ("carrier[0] == 'U'", "which is not allowed"),
        ("age > 3\0", "cannot be read"),
        ("shape > 3", "names 'shape', which holds fixed_size_list"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_told_in_a_line(text: str, said: str) -> None:
    types = {**TYPES, "shape": pa.list_(pa.int8(), 3)}
    with pytest.raises(UserError) as error:
        resolve_slicings([text], types)
    assert error.value.where == "input.slices"
    assert said in str(error.value)
    assert len(str(error.value)) < 800


def test_limits_of_a_condition_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("not not not late", "age > +-+1", "((age + 1) * 2 + 3) > 4"):
        assert parse(text, TYPES) == parse(text, TYPES, levels=4)
        with pytest.raises(UserError, match=r"is more than 2 levels deep; make a column of it"):
            parse(text, TYPES, levels=2)
    with pytest.raises(UserError, match=r"has more than 6 characters; make a column of it"):
        parse("age > 3", TYPES, characters=6)

    def descend(*_: object, **__: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(ast, "parse", descend)
    with pytest.raises(UserError, match="cannot be read: maximum recursion depth"):
        parse("age > 3", TYPES)


@settings(max_examples=60, deadline=None)
@given(st.text("ageAND <>=!()[]'\"`.,+-*/%0123456789innotrue\\\n#é", max_size=40))
def test_any_text_is_a_condition_or_a_users_error(text: str) -> None:
    try:
        slicings = resolve_slicings([text], TYPES)
    except UserError:
        return
    labels(slicings, COLUMNS)


def test_names_before_columns_are_known() -> None:
    found = names_in("age > 3 and `odd name` in [1] or weather.temp == 2 or isnull(x)")
    assert sorted(found) == ["age", "odd name", "weather.temp", "x"]
    asked: list[SliceRequest] = ["a-b", "my column", "c > 1", ("d", BinsRequest("e", 3), "not f")]
    assert candidates(asked) == ["a-b", "my column", "c", "d", "e", "f"]
    assert candidates(["x > > y"]) == ["x > > y"]


# -- columns, bins, intersections ----------------------------------------------------------------------------


def of(*requests: SliceRequest) -> dict[str, list[str | None]]:
    slicings = with_edges(resolve_slicings(list(requests), TYPES), COLUMNS)
    slicings = pickle.loads(pickle.dumps(slicings))
    assert len(pickle.dumps(slicings)) < 3000
    return {name: array.to_pylist() for name, array in labels(slicings, COLUMNS).items()}


def test_a_column_has_a_label_a_value() -> None:
    values = [None, "null", '"null"', "", "UA", 'say "x"', '"x', "a & b"]
    (found,) = labels(resolve_slicings(["c"], {"c": pa.string()}), {"c": pa.array(values)}).values()
    assert found.to_pylist() == [
        "c=null", 'c="null"', 'c="\\"null\\""', "c=", "c=UA", 'c=say "x"', 'c="\\"x"', "c=a & b",
    ]  # fmt: skip
    assert len(set(found.to_pylist())) == len(values)
    assert of("age")["age"][:3] == [
        f"age={'null' if v is None else v}" for v in COLUMNS["age"].to_pylist()[:3]
    ]
    assert set(of("late")["late"]) == {"late=true", "late=false", "late=null"}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, None, float("nan"), 1.5], pa.float16()),
        ([datetime.date(2013, 6, 1), None], pa.date32()),
        ([], pa.int8()),
    ],
)
def test_a_column_of_another_type(values: list[Any], kind: pa.DataType) -> None:
    array = (
        pa.array(np.array(values, np.float16), from_pandas=False)
        if kind == pa.float16()
        else pa.array(values, kind)
    )
    (found,) = labels(resolve_slicings(["c"], {"c": kind}), {"c": array}).values()
    shown = {"1.5": "c=1.5", "None": "c=null", "nan": "c=nan", "2013-06-01": "c=2013-06-01"}
    assert found.to_pylist() == [shown[str(value)] for value in array.to_pylist()]


def test_bins_are_what_pandas_cut_says() -> None:
    edges = (18.0, 35.0, 64.5)
    found = of(BinsRequest("age", edges))["age"]
    cut = pd.cut(FRAME["age"], [-np.inf, *edges, np.inf], right=False, labels=["a", "b", "c", "d"])
    shown = {"a": "age=(-inf, 18)", "b": "age=[18, 35)", "c": "age=[35, 64.5)", "d": "age=[64.5, inf)"}
    assert found == ["age=null" if pd.isna(bin) else shown[bin] for bin in cut]
    assert len(set(found)) == 5


def test_bins_of_single_precision_take_an_edge_for_the_columns() -> None:
    columns = {
        "x": pa.array(
            [0.7, np.nextafter(np.float32(0.7), np.float32(0)), np.inf, -np.inf, np.nan, None], pa.float32()
        )
    }
    (found,) = labels(resolve_slicings([BinsRequest("x", (0.7,))], {"x": pa.float32()}), columns).values()
    assert found.to_pylist() == [
        "x=[0.7, inf)", "x=(-inf, 0.7)", "x=[0.7, inf)", "x=(-inf, 0.7)", "x=null", "x=null",
    ]  # fmt: skip


def test_an_intersection_is_what_a_groupby_says() -> None:
    parts = ["carrier", BinsRequest("age", (50.0,)), "late"]
    single = of(*parts)
    (found,) = of(tuple(parts)).values()
    for at in range(ROWS):
        mine = [single["carrier"][at], single["age"][at], single["late"][at]]
        assert found[at] == (None if None in mine else " & ".join(map(str, mine)))
    (found,) = of(("carrier", "age >= 50", "not late")).values()
    expected = [
        None if None in trio else " & ".join(map(str, trio))
        for trio in zip(*of("carrier", "age >= 50", "not late").values(), strict=True)
    ]
    assert found == expected
    assert None in found
    assert len(set(found)) > 3


def test_different_combinations_are_different_slices() -> None:
    columns = {"a": pa.array(["x & b=1", "x", "x"]), "b": pa.array(["2", "1 & b=2", "y"])}
    types = {"a": pa.string(), "b": pa.string()}
    (found,) = labels(resolve_slicings([("a", "b")], types), columns).values()
    assert found.to_pylist() == ['a="x & b=1" & b=2', 'a=x & b="1 & b=2"', "a=x & b=y"]
    # Nor does a value of one column read like a combination of two.
    columns = {"a": pa.array(["x & b=1", "x"]), "b": pa.array(["2", "1"])}
    one, both = labels(resolve_slicings(["a", ("a", "b")], types), columns).values()
    assert one.to_pylist() == ['a="x & b=1"', "a=x"]
    assert both.to_pylist() == ['a="x & b=1" & b=2', "a=x & b=1"]


def test_a_batch_whose_rows_are_in_no_slice() -> None:
    empty = {name: array.slice(0, 0) for name, array in COLUMNS.items()}
    slicings = resolve_slicings(["carrier", "age > 500", ("carrier", "age > 500")], TYPES)
    assert [array.to_pylist() for array in labels(slicings, empty).values()] == [[], [], []]
    found = labels(slicings, COLUMNS)
    assert set(found["age > 500"].to_pylist()) == set(found["carrier & age > 500"].to_pylist()) == {None}


def test_a_column_of_the_name_of_a_condition_is_that_column() -> None:
    types = {**TYPES, "age >= 65": pa.int8(), "a-b": pa.int8()}
    names = [item["kind"] for item in described(resolve_slicings(["age >= 65", "a-b", "age >= 66"], types))]
    assert names == ["column", "column", "condition"]
    with pytest.raises(UserError, match="the input has no column 'c-d'"):
        resolve_slicings(["c-d"], types)
    with pytest.raises(UserError, match="no column 'ag'; did you mean age"):
        resolve_slicings(["ag"], TYPES)


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        (["age", "age"], "age is listed twice; list it once"),
        (["age > 3", "(age > 3)"], "'(age > 3)' is the same as 'age > 3'"),
        (['carrier in ["UA", "AA"]', "carrier in ('AA', 'UA')"], "is the same as"),
        ([("age", "carrier"), ("carrier", "age")], "'carrier & age' is the same as 'age & carrier'"),
        ([("age > 3", "late"), ("late", "(age) > 3")], "is the same as"),
        (["age", BinsRequest("age", 3)], "age is listed by its values and in bins; keep one of the two"),
        ([BinsRequest("age", 3), BinsRequest("age", (3.0,))], "age is listed twice"),
        ([("age", "age")], "'age' is intersected with itself"),
        ([("age", BinsRequest("age", 3))], "'age' is intersected with itself"),
        ([BinsRequest("carrier", 3)], "bins of 'carrier', which holds string, but numbers are needed"),
        ([BinsRequest("late", 3)], "bins of 'late', which holds bool"),
        ([BinsRequest("agee", 3)], "the input has no column 'agee'; did you mean age?"),
        (["a & b", ("a", "b")], "two slicings would be called 'a & b'"),
    ],
)
def test_what_is_no_slicing(requests: list[SliceRequest], said: str) -> None:
    types = {**TYPES, "a": pa.int8(), "b": pa.int8(), "a & b": pa.int8()}
    with pytest.raises(UserError) as error:
        resolve_slicings(requests, types)
    assert said in str(error.value)


def test_slices_are_described_for_the_manifest() -> None:
    slicings = resolve_slicings(["late", ("carrier", "age > 3"), BinsRequest("hour", (6.0, 12.0))], TYPES)
    assert columns_needed(slicings) == ("late", "carrier", "age", "hour")
    condition = {"name": "age > 3", "kind": "condition", "columns": ["age"]}
    assert described(slicings) == [
        {"name": "late", "kind": "column", "columns": ["late"]},
        {
            "name": "carrier & age > 3",
            "kind": "intersection",
            "columns": ["carrier", "age"],
            "parts": [{"name": "carrier", "kind": "column", "columns": ["carrier"]}, condition],
        },
        {"name": "hour", "kind": "bins", "columns": ["hour"], "edges": [6.0, 12.0]},
    ]


# -- edges ---------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 12),
    st.sampled_from(["normal", "counts", "skewed", "tiny", "ties"]),
)
def test_bins_hold_about_equally_many_rows(seed: int, count: int, shape: str) -> None:
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(1000, 3, 2000),
        "counts": rng.poisson(300, 2000),
        "skewed": rng.lognormal(0, 3, 2000),
        "tiny": rng.normal(0, 1e-9, 2000),
        "ties": rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 3, 4], 2000),
    }[shape].astype(np.float64)
    edges = equal_count_edges(np.r_[values, np.nan, np.inf], count)
    assert edges == equal_count_edges(rng.permutation(values), count)
    held = np.histogram(values, [-np.inf, *edges, np.inf])[0]
    assert (held > 0).all()
    assert len(held) <= count
    if shape != "ties":
        assert len(held) == count
        # Each edge may be off by a tenth of a bin, and by half of what is equal.
        repeated = np.unique(values, return_counts=True)[1].max()
        assert np.abs(held - 2000 / count).max() <= 2 * (200 / count + repeated / 2) + 1


def test_edges_can_be_read() -> None:
    rng = np.random.default_rng(0)
    edges = equal_count_edges(rng.uniform(0, 1000, 5000), 5)
    assert edges == (200, 400, 600, 800)
    years = rng.integers(0, 60, 5000)
    assert all(edge == int(edge) for edge in equal_count_edges(years, 5))
    assert equal_count_edges(np.array([3.0, 3.0, np.nan]), 4) == ()
    assert equal_count_edges(np.array([3.0, 3.25]), 4) == (3.2,)
    assert equal_count_edges(np.array([]), 4) == ()


def test_edges_are_found_where_only_their_number_is_given() -> None:
    slicings = resolve_slicings([BinsRequest("age", 4), ("late", BinsRequest("hour", 3))], TYPES)
    whole = with_edges(slicings, COLUMNS)
    assert isinstance(whole[0], ByBins)
    assert len(whole[0].edges) == 3
    assert whole == with_edges(whole, COLUMNS)
    with pytest.raises(UserError, match="values are all equal in the sampled rows; give edges"):
        with_edges(slicings, {**COLUMNS, "age": pa.array([5, 5, None])})


def test_decimals_have_bins_too() -> None:
    slicings = resolve_slicings([BinsRequest("price", (2.5,))], {"price": pa.decimal128(9, 2)})
    stored = pa.array([Decimal("2.50"), None, Decimal("1.10")], pa.decimal128(9, 2)).cast(pa.string())
    assert labels(slicings, {"price": stored})["price"].to_pylist() == [
        "price=[2.5, inf)", "price=null", "price=(-inf, 2.5)",
    ]  # fmt: skip
