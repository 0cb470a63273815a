"""Models of data frames with categories: rows hold what the frame held, and come out as the library says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost

from pipeline import load_run
from pipeline.cli import commands as cli
from tests.support import worlds
from tests.support.models.tree_tables import through
from transforms.errors import UserError
from transforms.models.categories import Categories
from transforms.rows.baselines.baselines import BaselineRequest, make_background
from transforms.rows.resolve.feature import FeatureRequest

ROWS = 200
RNG = np.random.default_rng(5)
STORES = RNG.choice([10, 20, 35, 47], ROWS)
WORDS = np.array(["south", "", "north", "a b"])[RNG.integers(0, 4, ROWS)]
X = RNG.normal(size=ROWS)
Y = np.isin(STORES, [20, 47]) * 2 + (WORDS == "north") + 0.3 * X
LIGHT: dict[str, Any] = {
    "n_estimators": 8, "min_child_samples": 3, "min_data_per_group": 2, "cat_smooth": 1, "verbose": -1,
    "n_jobs": 1,
}  # fmt: skip


def frame(**columns: Any) -> pd.DataFrame:
    found = {"store": pd.Categorical(STORES), "word": pd.Categorical(WORDS), "x": X, **columns}
    return pd.DataFrame(found)


def xgb(tmp_path: Path, data: pd.DataFrame, suffix: str = "json") -> tuple[Any, str]:
    model = xgboost.XGBRegressor(n_estimators=8, max_depth=3, enable_categorical=True, n_jobs=1)
    model.fit(data, Y).save_model(tmp_path / f"m.{suffix}")
    return model, str(tmp_path / f"m.{suffix}")


def lgb(tmp_path: Path, data: pd.DataFrame) -> tuple[Any, str]:
    model = lightgbm.LGBMRegressor(**LIGHT).fit(data, Y)
    model.booster_.save_model(tmp_path / "m.txt")
    return model, str(tmp_path / "m.txt")


MAKERS: dict[str, Callable[..., tuple[Any, str]]] = {"xgboost": xgb, "lightgbm": lgb}
#: How a file may hold the whole numbers 10, 20, 35 and 47.
HELD: dict[str, Callable[[np.ndarray], pa.Array]] = {
    "int8": lambda s: pa.array(s, pa.int8()),
    "uint64": lambda s: pa.array(s.astype(np.uint64)),
    "double": lambda s: pa.array(s, pa.float64()),
    "half": lambda s: pa.array(s.astype(np.float16)),
    "decimal": lambda s: pa.array(s).cast(pa.decimal128(20)),
    "dictionary": lambda s: pa.array(s).dictionary_encode(),
    "dictionary in another order": lambda s: pa.DictionaryArray.from_arrays(
        pa.array(3 - np.searchsorted([10, 20, 35, 47], s), pa.int8()), pa.array([47, 35, 20, 10])
    ),
}


@pytest.mark.parametrize("library", MAKERS)
@pytest.mark.parametrize("held", HELD)
def test_whole_numbers_are_categories_however_they_are_stored(
    tmp_path: Path, library: str, held: str
) -> None:
    """The right value is the library's own, of the data frame that it was trained on."""
    model, path = MAKERS[library](tmp_path, frame())
    table = pa.table({"word": WORDS, "x": X, "store": HELD[held](STORES)})
    found = through(path, table)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(frame()), rtol=1e-6)
    assert not found.rejected
    # The codes themselves would be another answer.
    assert np.abs(found.outputs[:, 0] - model.predict(frame(store=pd.Categorical(STORES[::-1])))).max() > 1


@pytest.mark.parametrize("library", MAKERS)
def test_strings_as_dictionaries_bytes_and_large_ones(tmp_path: Path, library: str) -> None:
    model, path = MAKERS[library](tmp_path, frame())
    for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.table({"store": STORES, "word": pa.array(WORDS).cast(kind), "x": X})
        np.testing.assert_allclose(through(path, table).outputs[:, 0], model.predict(frame()), rtol=1e-6)


def test_the_order_and_the_width_of_the_training_frame_do_not_matter(tmp_path: Path) -> None:
    data = frame(store=pd.Categorical(STORES.astype(np.int16), categories=[47, 99, 10, 20, 35], ordered=True))
    model, path = xgb(tmp_path, data, "ubj")
    table = pa.table({"store": STORES, "word": WORDS, "x": X})
    np.testing.assert_allclose(through(path, table).outputs[:, 0], model.predict(data), rtol=1e-6)


@pytest.mark.parametrize("library", MAKERS)
def test_a_null_category_is_missing(tmp_path: Path, library: str) -> None:
    """pandas makes floats of whole numbers with gaps, and so does its Parquet."""
    gaps = np.arange(ROWS) % 7 == 0
    data = frame()
    data.loc[gaps, ["store", "word"]] = None
    model, path = MAKERS[library](tmp_path, data)
    words = pa.array(WORDS, mask=gaps)
    for stores in (pa.array(STORES, mask=gaps), pa.array(np.where(gaps, np.nan, STORES))):
        found = through(path, pa.table({"store": stores, "word": words.dictionary_encode(), "x": X}))
        np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-6)
        assert np.isnan(found.rows.features["store"]).sum() == gaps.sum()


def strange() -> tuple[pa.Table, pd.DataFrame]:
    """A table whose second row has a store, and its third row a word, that no model has seen."""
    stores, words = STORES.astype(float), WORDS.astype(object)
    stores[1], words[2] = 35.5, "Mars"
    return pa.table({"store": stores, "word": pa.array(words), "x": X}), frame(
        store=pd.Categorical(stores), word=pd.Categorical(words)
    )


def test_unseen_categories_reject_their_row_of_an_xgboost_model(tmp_path: Path) -> None:
    model, path = xgb(tmp_path, frame())
    found = through(path, strange()[0])
    assert [(r.row, r.stage, r.reason) for r in found.rejected] == [
        (1, "decode", "store is 35.5, not a category that the model was trained on"),
        (2, "decode", "word is 'Mars', not a category that the model was trained on"),
    ]
    kept = np.delete(np.arange(ROWS), [1, 2])
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(frame())[kept], rtol=1e-6)
    with pytest.raises(xgboost.core.XGBoostError, match="category not in the training set"):
        model.predict(frame(store=pd.Categorical(np.where(np.arange(ROWS) == 1, 99, STORES))))


def test_unseen_categories_are_missing_to_a_lightgbm_model(tmp_path: Path) -> None:
    model, path = lgb(tmp_path, frame())
    table, data = strange()
    found = through(path, table)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-6)
    assert np.isnan([found.rows.features["store"][1], found.rows.features["word"][2]]).all()


def test_lightgbm_categories_of_other_kinds(tmp_path: Path) -> None:
    """True and false, halves, and an ordered one, whose place in the file's list only the columns tell."""
    rank = pd.Categorical(np.array(["low", "mid", "high"])[STORES % 3], ["low", "mid", "high"], ordered=True)
    data = frame(flag=pd.Categorical(STORES > 20), half=pd.Categorical(STORES + 0.5), rank=rank)
    data = data[["rank", "x", "flag", "word", "half"]]
    model, path = lgb(tmp_path, data)
    assert len(model.booster_.pandas_categorical) == 4
    columns = {"half": STORES + 0.5, "flag": STORES > 20, "rank": np.asarray(rank), "word": WORDS, "x": X}
    found = through(path, pa.table(columns))
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-6)
    assert {f.name for f in found.schema.features if f.categories} == set(columns) - {"x"}


@pytest.mark.parametrize("held", ["bool", "int8", "double"])
def test_lightgbm_is_asked_itself_of_true_and_false(tmp_path: Path, held: str) -> None:
    """What the plan compares with: LightGBM's own prediction of a data frame with its categories."""
    data = frame(flag=pd.Categorical(STORES > 20))[["flag", "x"]]
    model, path = lgb(tmp_path, data)
    table = pa.table({"flag": pa.array(STORES > 20).cast(pa.int8()).cast(held), "x": X})
    found = through(path, table)
    asked = found.adapter.public_prediction(table.to_batches()[0], found.inputs)
    np.testing.assert_allclose(np.ravel(asked), model.predict(data), rtol=1e-6)
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-6)


def test_lightgbm_lists_that_may_be_of_several_features_are_refused(tmp_path: Path) -> None:
    """Ordered whole numbers leave no trace of whose the list is, where another feature has such values."""
    data = frame(store=pd.Categorical(STORES, ordered=True), few=STORES % 4)[["few", "store", "x"]]
    _, path = lgb(tmp_path, data)
    with pytest.raises(UserError, match="lists the categories of 1 features without their names"):
        through(path, pa.table({"few": STORES % 4, "store": STORES, "x": X}))


def test_codes_without_stored_categories_stay_codes(tmp_path: Path) -> None:
    codes = pd.Categorical(STORES).codes.astype(np.float32)
    rows = np.column_stack([codes, X]).astype(np.float32)
    matrix = xgboost.DMatrix(
        rows, Y, feature_names=["store", "x"], feature_types=["c", "q"], enable_categorical=True
    )
    model = xgboost.train({"max_depth": 3}, matrix, 5)
    model.save_model(tmp_path / "codes.ubj")
    found = through(str(tmp_path / "codes.ubj"), pa.table({"store": codes, "x": X}))
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(matrix), rtol=1e-6)


def test_names_that_xgboost_has_cut_are_refused(tmp_path: Path) -> None:
    """It counts letters where its file wants bytes; LightGBM keeps them whole."""
    data = frame(word=pd.Categorical(np.where(WORDS == "north", "Zürich", "Bern")))
    _, path = xgb(tmp_path, data)
    with pytest.raises(UserError, match="has cut their names"):
        through(path, pa.table({"store": STORES, "word": WORDS, "x": X}))
    model, path = lgb(tmp_path, data)
    found = through(path, pa.table({"store": STORES, "word": np.asarray(data["word"]), "x": X}))
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(data), rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("store", STORES.astype(str), ["holds string", "10, 20, 35, 47", "store numbers"]),
        ("word", STORES, ["holds int64", "north", "store strings"]),
        ("store", STORES > 20, ["holds bool", "10, 20, 35, 47", "store numbers"]),
        ("word", pa.array([["a"]] * ROWS), ["are not one column for each value"]),
    ],
)
@pytest.mark.parametrize("library", MAKERS)
def test_columns_of_another_type_are_refused(
    tmp_path: Path, library: str, column: str, values: Any, words: list[str]
) -> None:
    _, path = MAKERS[library](tmp_path, frame())
    with pytest.raises(UserError) as caught:
        through(path, pa.table({"store": STORES, "word": WORDS, "x": X, column: values}))
    for word in words:
        assert word in str(caught.value)


def test_fills_and_baselines_are_categories(tmp_path: Path) -> None:
    model, path = xgb(tmp_path, frame())
    stores = pa.array(STORES, mask=np.arange(ROWS) < 5)
    table = pa.table({"store": stores, "word": WORDS, "x": X})
    features = (FeatureRequest("store", fill=47), FeatureRequest("word"), FeatureRequest("x"))
    found = through(path, table, features=features)
    filled = frame(store=pd.Categorical(np.where(np.arange(ROWS) < 5, 47, STORES)))
    np.testing.assert_allclose(found.outputs[:, 0], model.predict(filled), rtol=1e-6)

    def background(kind: str, value: Any = None) -> list[float]:
        made = make_background(BaselineRequest(kind, value=value), found.schema, (), 0)
        return [float(made[name][0]) for name in ("store", "word", "x")]

    assert background("constant", {"store": 35, "word": "north", "x": 0.5}) == [2, 2, 0.5]
    for kind, value, words in (
        ("zeros", None, "kind: zeros has no meaning for store, which is one of 10, 20, 35, 47"),
        ("constant", {"store": 11, "word": "north", "x": 0}, "takes one of 10, 20, 35, 47"),
        ("constant", 1, "takes one of 10, 20, 35, 47"),
    ):
        with pytest.raises(UserError, match=words):
            background(kind, value)
    for request, words in (
        (FeatureRequest("store", fill=11), "fill: 11 is not one of the model's categories"),
        (FeatureRequest("store", kind="numeric"), "trained on it as a category"),
    ):
        with pytest.raises(UserError, match=words):
            through(path, table, features=(request, *features[1:]))


def test_numbers_are_looked_up_exactly() -> None:
    large = Categories((2**53, 2**53 + 1, 2**63 + 1), reject=True)
    codes, unseen = large.codes(pa.array([2**53 + 1, 2**53, 7], pa.int64()))
    assert codes[:2].tolist() == [1, 0]
    assert unseen.tolist() == [False, False, True]
    assert large.codes(pa.array([2**63 + 1, 2**53], pa.uint64()))[0].tolist() == [2, 0]
    halves = Categories((0.1, 0.5), reject=False)
    assert halves.codes(pa.array([0.5, 0.1, np.nan], pa.float32()))[1].tolist() == [False, True, False]
    nothing = pa.array([None], pa.dictionary(pa.int8(), pa.string()))
    assert np.isnan(Categories(("b",), reject=True).codes(nothing)[0]).tolist() == [True]
    assert Categories((False, True), reject=False).of_codes(np.array([1.0, np.nan])).to_pylist() == [
        True,
        None,
    ]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    _, path = xgb(tmp_path, frame(), "ubj")
    gaps = np.arange(ROWS) % 9 == 0
    table = pa.table({"store": pa.array(STORES, mask=gaps), "word": pa.array(WORDS, mask=gaps), "x": X})
    pq.write_table(table, tmp_path / "rows.parquet")
    return worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": path},
        input={"files": "rows.parquet", "slices": ["store"]},
        method={"name": "tree_shap"},
        baseline={"kind": "mode"},
        output={"path": "run", "features": True},
        compute={"shard_rows": 64},
    )


def test_a_run_shows_the_categories_and_not_their_codes(world: Path, tmp_path: Path) -> None:
    """In the table, in what is read from the input again, in `show` and in the report."""
    run = worlds.explain(world, tmp_path / "run")
    gaps = np.arange(ROWS) % 9 == 0
    features = run.attributions()["feature"].combine_chunks()
    assert features.field("word").to_pylist() == [None if g else w for g, w in zip(gaps, WORDS, strict=True)]
    assert features.field("store").to_pylist() == [
        None if g else int(s) for g, s in zip(gaps, STORES, strict=True)
    ]
    assert set(run.importance()["slice"]) >= {"store=10", "store=47"}
    bare = worlds.explain(world, tmp_path / "bare", "output.features=false")
    for found in (run, bare):
        shown = pd.DataFrame(found.explanation(rows=50).display_data, columns=["store", "word", "x"])
        assert set(shown["word"].dropna()) == set(WORDS)
        assert set(shown["store"].dropna().astype(int)) == set(STORES.tolist())
    sums = worlds.phi(run.attributions()).sum(axis=1, dtype=np.float64)
    base = run.attributions()["base_value"].to_numpy()
    np.testing.assert_allclose(sums, run.attributions()["prediction"].to_numpy() - base, atol=1e-5)
    assert cli.run(["show", str(tmp_path / "bare"), "rows.parquet:3"]) == 0
    assert cli.run(["verify", str(tmp_path / "run"), "--rows", "20"]) == 0
    assert load_run(str(tmp_path / "run")).manifest["schema"][1]["categories"]["values"][0] == ""
    assert cli.run(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "north" in page


@pytest.mark.parametrize("method", ["kernel_shap", "occlusion", "permutation_shap"])
def test_masking_methods_replace_categories_by_categories(world: Path, tmp_path: Path, method: str) -> None:
    """A group, and a feature that is held; the score is the library's own of the rows as they are."""
    run = worlds.explain(
        world, tmp_path / "run", f"method={{name: {method}}}", "input.groups={both: [store, word]}",
        "baseline={kind: sample, rows: 9}",
    )  # fmt: skip
    gaps = np.arange(ROWS) % 9 == 0
    data = frame()
    data.loc[gaps, ["store", "word"]] = None
    model = xgboost.XGBRegressor()
    model.load_model(tmp_path / "m.ubj")
    np.testing.assert_allclose(run.attributions()["prediction"].to_numpy(), model.predict(data), rtol=1e-5)
    assert run.features == ["both", "x"]
