"""`missing: keep`: null and NaN reach a function, an estimator or a network as they do outside."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import compose, ensemble, impute, pipeline, preprocessing

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.run_directory.kept_baseline import kept_baseline
from tests.support import worlds
from transforms.errors import UserError
from transforms.models.base import InputSpec
from transforms.rows.baselines.baselines import Artifact, BaselineRequest, make_background
from transforms.rows.problems import Problems
from transforms.rows.resolve.feature import FeatureRequest, feature_spec, free_input
from transforms.rows.schema import FeatureSpec
from transforms.rows.tensors import tensor
from transforms.sources.inspection import inspect_files

ROWS, GAPS = 400, 80
NUMBERS, WORDS = ("age", "stores", "open"), ("city",)

SCORING = """
import joblib
import pandas as pd

PIPE = joblib.load(__file__.replace("scoring.py", "pipe.joblib"))
SEEN = []


def score(columns):
    frame = pd.DataFrame(columns)
    SEEN.append(frame.dtypes.astype(str).to_dict())
    return PIPE.predict_proba(frame)[:, 1]
"""


def frame() -> pd.DataFrame:
    """Numbers with NaN, whole numbers and booleans with null, strings with None: 80 rows have a gap."""
    rng = np.random.default_rng(0)
    found = pd.DataFrame(
        {
            "age": rng.normal(40, 10, ROWS),
            "stores": rng.integers(0, 9, ROWS).astype(object),
            "open": (rng.random(ROWS) < 0.5).astype(object),
            "city": rng.choice(["Köln", "Oslo", "Roma"], ROWS).astype(object),
        }
    )
    for number, name in enumerate(found.columns):
        found.loc[number * 20 : number * 20 + 19, name] = np.nan if name == "age" else None
    return found


def stored() -> pa.Table:
    """The same as a file has it; half of the missing ages are null, and half NaN."""
    found, rows = frame(), np.arange(ROWS)
    return pa.table(
        {
            "id": [f"row {number}" for number in rows],
            "age": pa.array(found["age"], pa.float64(), mask=(found["age"].isna() & (rows < 10)).to_numpy()),
            "stores": pa.array(found["stores"], pa.int64(), from_pandas=True),
            "open": pa.array(found["open"], pa.bool_(), from_pandas=True),
            "city": pa.array(found["city"], pa.string(), from_pandas=True).dictionary_encode(),
        }
    )


def fitted() -> Any:
    """A pipeline that imputes what is missing, fitted as its users fit it: on the file as pandas reads it."""
    numbers = pipeline.make_pipeline(impute.SimpleImputer(strategy="median", add_indicator=True))
    words = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="constant", fill_value="nowhere"),
        preprocessing.OneHotEncoder(handle_unknown="ignore"),
    )
    columns = compose.ColumnTransformer([("n", numbers, list(NUMBERS)), ("w", words, list(WORDS))])
    forest = ensemble.RandomForestClassifier(12, max_depth=6, random_state=0)
    known = as_outside()
    target = known["age"].fillna(80) + 9 * (known["city"].isna()) + 3 * known["stores"].fillna(9) > 52
    return pipeline.make_pipeline(columns, forest).fit(known, target)


def as_outside() -> pd.DataFrame:
    """What users give the pipeline: missing numbers are NaN, missing words None."""
    found = frame()
    for name in NUMBERS:
        found[name] = pd.to_numeric(found[name].astype(float))
    return found


def kept(run: Any) -> pd.DataFrame:
    """The background of a run, as the pipeline takes it."""
    held = kept_baseline(run.path)
    assert held is not None
    words = {name: [None if v is None else v.decode() for v in held[name]] for name in WORDS}
    return pd.DataFrame({**{name: held[name] for name in NUMBERS}, **words})


def enumerated(pipe: Path, row: dict[str, Any], background: pd.DataFrame) -> np.ndarray:
    """Shapley values of a row by all coalitions of its features, by the pipeline's own predict_proba."""
    import joblib

    names = [*NUMBERS, *WORDS]
    worth: dict[frozenset[str], float] = {}
    model = joblib.load(pipe)
    for size in range(len(names) + 1):
        for members in itertools.combinations(names, size):
            mixed = background.copy()
            for name in members:
                mixed[name] = pd.Series([row[name]] * len(mixed), dtype=background[name].dtype)
            worth[frozenset(members)] = float(model.predict_proba(mixed)[:, 1].mean())
    found = np.zeros(len(names))
    for at, name in enumerate(names):
        for members, value in worth.items():
            if name not in members:
                share = math.factorial(len(members)) * math.factorial(len(names) - len(members) - 1)
                found[at] += share / math.factorial(len(names)) * (worth[members | {name}] - value)
    return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Path]:
    import joblib

    joblib.dump(fitted(), tmp_path / "pipe.joblib")
    pq.write_table(stored(), tmp_path / "rows.parquet")
    (tmp_path / "scoring.py").write_text(SCORING)
    worlds.write_config(
        tmp_path / "config.yaml",
        model={"python": "scoring:score"},
        input={
            "files": "rows.parquet",
            "id": "id",
            "features": [{"name": name, "missing": "keep"} for name in (*NUMBERS, *WORDS)],
        },
        method={"name": "exact_shap"},
        baseline={"kind": "sample", "rows": 40},
        output={"path": "run", "features": True},
        compute={"batch_size": 256},
    )
    yield tmp_path
    sys.modules.pop("scoring", None)


def test_a_pipeline_with_an_imputer_predicts_as_outside(world: Path) -> None:
    run = worlds.explain(world / "config.yaml", world / "run")
    assert run.manifest["counts"]["rows_attributed"] == ROWS
    import joblib

    expected = joblib.load(world / "pipe.joblib").predict_proba(as_outside())[:, 1]
    found = run.attributions()
    np.testing.assert_allclose(found["prediction"].to_numpy(), expected, atol=1e-6)
    total = worlds.phi(found).sum(axis=1)
    np.testing.assert_allclose(
        total, found["prediction"].to_numpy() - found["base_value"].to_numpy(), atol=1e-5
    )
    own = {name: column.to_numpy() for name, column in as_outside().items()}
    phi = worlds.phi(found)
    for row in (0, 25, 65):  # a null, a NaN, a word that is missing, say
        by_hand = enumerated(world / "pipe.joblib", {name: own[name][row] for name in own}, kept(run))
        np.testing.assert_allclose(phi[row], by_hand, atol=1e-5)
    scoring = sys.modules["scoring"]
    assert {"age": "float64", "stores": "float64", "open": "float64"}.items() <= scoring.SEEN[0].items()
    values = found["feature"].combine_chunks()
    assert [values.field(name).to_pandas().isna().sum() for name in (*NUMBERS, *WORDS)] == [20] * 4
    assert cli.run(["show", str(world / "run"), "row 65"]) == 0
    explanation = load_run(str(world / "run")).explanation()
    assert sum(value is None for value in explanation.display_data[:, 3]) == 20
    assert cli.run(["verify", str(world / "run"), "--rows", "30"]) == 0


@pytest.mark.parametrize(
    ("method", "baseline"),
    [
        ({"name": "kernel_shap", "standard_error": True}, {"kind": "mode"}),
        ({"name": "permutation_shap"}, {"kind": "median"}),
        ({"name": "lime", "n_samples": 200}, {"kind": "mean"}),
        ({"name": "occlusion"}, {"kind": "sample", "rows": 20}),
    ],
)
def test_methods_and_baselines_that_know_missing_values(
    world: Path, method: dict[str, Any], baseline: dict[str, Any]
) -> None:
    text = (world / "config.yaml").read_text().replace("exact_shap", method["name"])
    (world / "config.yaml").write_text(text)
    settings = [f"method.{key}={str(value).lower()}" for key, value in method.items() if key != "name"]
    settings += [f"baseline.{key}={value}" for key, value in baseline.items()]
    settings += ["output.features=false"]
    if baseline["kind"] != "sample":
        settings += ["baseline.rows=null"]
    run = worlds.explain(world / "config.yaml", world / "run", *settings)
    assert run.manifest["counts"]["rows_attributed"] == ROWS
    import joblib

    expected = joblib.load(world / "pipe.joblib").predict_proba(as_outside())[:, 1]
    np.testing.assert_allclose(run.attributions()["prediction"].to_numpy(), expected, atol=1e-6)
    assert np.isfinite(worlds.phi(run.attributions())).all()


def test_a_row_alone_is_what_it_is_among_others(world: Path) -> None:
    """pandas makes objects of a column of None alone, and strings of one that holds a word."""
    from transforms.models.load import ModelRequest, load_model

    adapter = load_model(ModelRequest("python:scoring:score", module_paths=(str(world),)))
    known = as_outside()
    words = np.array([word.encode() if isinstance(word, str) else None for word in known["city"]], object)
    inputs = {**{name: known[name].to_numpy() for name in NUMBERS}, "city": words}
    shapes = dict.fromkeys(inputs, ())
    model = adapter.scored(shapes, "auto", affine_prefix=True, example=inputs)
    expected = model.evaluate(inputs)[0]
    gaps = np.flatnonzero(known["city"].isna())
    for rows in ([gaps[0]], gaps, gaps[:2]):
        alone = model.evaluate({name: value[rows] for name, value in inputs.items()})[0]
        np.testing.assert_array_equal(alone, expected[rows])
    sys.modules.pop("scoring", None)


def test_a_file_may_lack_what_is_kept(world: Path) -> None:
    """Of Parquet files one has no such column; of TFRecord, no record has it."""
    rows = stored()
    pq.write_table(rows.slice(0, 30), world / "rows.parquet")
    pq.write_table(rows.slice(30, 30).drop_columns(["city", "stores"]), world / "rows-2.parquet")
    text = (world / "config.yaml").read_text().replace("rows.parquet", "rows*.parquet")
    (world / "config.yaml").write_text(text)
    run = worlds.explain(world / "config.yaml", world / "run")
    known = as_outside().iloc[:60].copy()
    known.loc[30:, ["city", "stores"]] = np.nan
    import joblib

    pipe = joblib.load(world / "pipe.joblib")
    np.testing.assert_allclose(
        np.sort(run.attributions()["prediction"].to_numpy()),
        np.sort(pipe.predict_proba(known)[:, 1]),
        atol=1e-6,
    )
    names = ("age", "open", "city")
    worlds.write_tfrecord(
        world / "rows.tfrecord",
        [
            {"age": float(row["age"]), "open": int(row["open"]), "city": row["city"]}
            for row in as_outside().dropna().head(20)[list(names)].to_dict("records")
        ],
    )
    settings = ("input.files=rows.tfrecord", "input.id=null", "output.path=other")
    run = worlds.explain(world / "config.yaml", world / "other", *settings)
    known = as_outside().dropna().head(20).assign(stores=np.nan)
    np.testing.assert_allclose(
        run.attributions()["prediction"].to_numpy(), pipe.predict_proba(known)[:, 1], atol=1e-5
    )


# -- a column ------------------------------------------------------------------------------------------------


def decoded(array: pa.Array, **request: Any) -> tuple[np.ndarray, dict[int, str]]:
    asked = FeatureRequest("x", **request)
    spec = free_input(asked, array.type)
    feature, problems = feature_spec(asked, spec, array.type, 0, spec.shape), Problems()
    return tensor(feature, array, problems, "f"), problems.reasons


def test_a_column_by_what_is_kept() -> None:
    columns: list[tuple[pa.Array, np.ndarray]] = [
        (pa.array([1.5, None, np.nan, np.inf]), np.array([1.5, np.nan, np.nan, np.nan])),
        (pa.array([1, None, 3, 4], pa.int16()), np.array([1, np.nan, 3, 4])),
        (pa.array([True, None, False, True]), np.array([1, np.nan, 0, 1])),
        (pa.array(["a", None, "", "b"]), np.array([b"a", None, b"", b"b"], object)),
        (pa.array(["a", None, "", "b"]).dictionary_encode(), np.array([b"a", None, b"", b"b"], object)),
    ]
    for array, expected in columns:
        values, reasons = decoded(array, missing="keep")
        assert values.dtype == expected.dtype, array.type
        infinite = pa.types.is_floating(array.type)
        assert reasons == ({3: "x is infinite"} if infinite else {})
        good = slice(0, 3 if infinite else 4)
        np.testing.assert_array_equal(values[good], expected[good])
        for request in ({}, {"missing": "reject"}):
            _, reasons = decoded(array, **request)
            assert "x is null" in reasons[1]


def test_lists_that_are_missing_or_hold_gaps() -> None:
    array = pa.array([[1.0, None], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    values, reasons = decoded(array, missing="keep")
    assert not reasons
    np.testing.assert_array_equal(values, [[1, np.nan], [np.nan, np.nan], [3, 4]])
    words = pa.array([["a", None], None, ["b", "c"]], pa.list_(pa.string(), 2))
    found, reasons = decoded(words, missing="keep")
    assert not reasons
    assert found.tolist() == [[b"a", None], [None, None], [b"b", b"c"]]


def test_what_a_network_can_be_given() -> None:
    kept = FeatureRequest("x", missing="keep")
    spec = feature_spec(kept, InputSpec("in", (1,), "float32"), pa.float64(), 0, (1,))
    assert spec.nan
    for dtype, stored_type in (("int32", pa.int32()), ("string", pa.string()), ("bool", pa.bool_())):
        with pytest.raises(UserError, match=r"missing: keep, but the model's input 'in' takes .*give fill"):
            feature_spec(kept, InputSpec("in", (1,), dtype), stored_type, 0, (1,))
    picture = FeatureRequest("x", "image", missing="keep", shape=(2, 2, 1))
    with pytest.raises(UserError, match="missing picture"):
        feature_spec(picture, InputSpec("in", (2, 2, 1), "float32"), pa.binary(), 0, (2, 2, 1))
    # Trees keep what is missing; a config may have it rejected.
    trees = InputSpec("features", (3,), "float32", nan=True)
    assert feature_spec(FeatureRequest("x"), trees, pa.float64(), 0, None).nan
    assert not feature_spec(FeatureRequest("x", missing="reject"), trees, pa.float64(), 0, None).nan


def test_fill_and_keep_are_one_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "input.features=[{name: age, fill: 0, missing: keep}]"]
    assert cli.run(["plan", str(world / "config.yaml"), *settings]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "input.features.0: fill: 0 and missing: keep exclude each other" in line
    assert (
        cli.run(["plan", str(world / "config.yaml"), "--set", "input.features=[{name: age, missing: no}]"])
        == 2
    )
    assert "must be reject or keep" in capsys.readouterr().err


# -- baselines -----------------------------------------------------------------------------------------------


def test_rows_rejected_for_null_say_how_they_are_kept(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The screen names missing: keep beside the reason, and what it names explains them."""
    table = pa.table({"a": pa.array([None, 1.0, 2.0, 3.0])})
    pq.write_table(table, world / "gaps.parquet")
    (world / "tolerant.py").write_text("import numpy as np\ndef f(c): return np.nan_to_num(c['a'])\n")
    config = worlds.write_config(
        world / "gaps.yaml",
        model={"path": "python: tolerant:f"},
        input={"files": "gaps.parquet"},
        output={"path": "gaps"},
    )
    assert cli.run(["explain", str(config)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 × a is null in input.features, fill replaces missing values, and missing: keep passes" in shown
    keep = "input.features=[{name: a, missing: keep}]"
    assert cli.run(["explain", str(config), "--overwrite", "--set", keep]) == 0
    assert "missing: keep passes" not in capsys.readouterr().out


def spec_of(name: str, dtype: str, kind: pa.DataType, start: int) -> FeatureSpec:
    kept = "categorical" if dtype == "string" else "numeric"
    return FeatureSpec(name, kept, dtype, (), kind, None, name, start, False, True)


def test_baselines_leave_out_what_is_missing(tmp_path: Path) -> None:
    table = pa.table(
        {
            "x": pa.array([None, None, None, 1.0, 2.0, 2.0, 7.0]),
            "w": pa.array([None, None, None, "b", "a", "a", "c"]),
            "none": pa.array([None] * 7, pa.float64()),
            "nothing": pa.array([None] * 7, pa.string()),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    from transforms.rows.schema import ExampleSchema

    types = {"x": "float64", "w": "string", "none": "float64", "nothing": "string"}
    features = tuple(spec_of(name, dtype, table.schema.field(name).type, 0) for name, dtype in types.items())
    schema = ExampleSchema(features, dict.fromkeys(types, ()), {})
    inputs = inspect_files([(str(tmp_path / "rows.parquet"), "rows.parquet")])
    expected = {"mean": 3.0, "median": 2.0, "mode": 2.0}
    for kind, value in expected.items():
        found = make_background(BaselineRequest(kind), schema, inputs, 0)
        assert found["x"].tolist() == [value]
        assert found["w"].tolist() == [b"a"]
        assert np.isnan(found["none"]).all()
        assert found["nothing"].tolist() == [None]
    drawn = make_background(BaselineRequest("sample", 7), schema, inputs, 0)
    artifact = Artifact(drawn, np.zeros((7, 1)), np.ones(1))
    again = Artifact.from_bytes(artifact.to_bytes())
    assert again.features["w"].tolist() == [word and word.encode() for word in table["w"].to_pylist()]
    assert again.digest == artifact.digest
    blank = {**drawn, "w": np.array([b""] * 3 + [b"b", b"a", b"a", b"c"], object)}
    assert Artifact(blank, np.zeros((7, 1)), np.ones(1)).digest != artifact.digest
