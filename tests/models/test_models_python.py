"""Functions as models: `python: module:function`, from the config to the tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning.plan import make_plan
from tests.support import worlds
from tests.support.models.by_enumeration import ByEnumeration
from transforms.errors import RowsRefused, UserError
from transforms.methods import METHODS
from transforms.models.kinds.function import FunctionModel, ScoredFunction, module_file, split_name
from transforms.models.load import ModelRequest, load_model, request_digest

ROOT = Path(__file__).resolve().parents[2]
ROWS = 60
UNLUCKY = 17

SCORING = """
import numpy as np

RATES = {"Köln": 2.0, "Oslo": -1.0}


def predict(rows):
    assert set(rows) == {"city", "hour", "wind", "series", "flag"}
    assert rows["hour"].dtype == np.int64 and rows["wind"].dtype == np.float32
    assert rows["flag"].dtype == bool and rows["series"].shape == (len(rows["hour"]), 3)
    assert all(type(city) is str for city in rows["city"])
    if (rows["hour"] == 13).any():
        raise ValueError("no flight leaves\\nat 13")
    rows["hour"] += 0  # what it is given is its own
    return np.array([RATES[city] for city in rows["city"]]) * rows["hour"] + rows["series"] @ [1, 2, 3]


def classes(rows):
    score = rows["wind"] + 0.1 * rows["hour"] % 13
    return np.stack([score, -score, np.full(len(score), 0.25)], axis=1)


class Holder:
    @staticmethod
    def of_one(rows):
        return rows["wind"]


def words(rows):
    return rows["city"]


def short(rows):
    return rows["wind"][:-1]


def cube(rows):
    return np.zeros((len(rows["wind"]), 2, 2))


def fickle(rows):
    return np.zeros((len(rows["wind"]), 1 + len(rows["wind"]) % 2))


def never(rows):
    raise KeyError("altitude")


NUMBER = 3
"""


def write_rows(path: Path) -> pa.Table:
    rng = np.random.default_rng(0)
    hour = rng.integers(0, 12, ROWS)
    hour[UNLUCKY] = 13
    series = rng.normal(size=(ROWS, 3)).astype(np.float32)
    table = pa.table(
        {
            "trip": [f"trip {i}" for i in range(ROWS)],
            "city": pa.array(rng.choice(["Köln", "Oslo"], ROWS)).dictionary_encode(),
            "hour": pa.array(hour, pa.int8()),
            "wind": pa.array(rng.normal(size=ROWS), pa.float32()),
            "series": pa.FixedSizeListArray.from_arrays(pa.array(series.reshape(-1)), 3),
            "flag": pa.array(rng.random(ROWS) < 0.5),
            "carrier": rng.choice(["X", "Y"], ROWS),
        }
    )
    pq.write_table(table, path)
    return table


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A config with rows.parquet and scoring.py beside it, and a method that only evaluates."""
    monkeypatch.setitem(METHODS, "by_enumeration", ByEnumeration)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_rows(tmp_path / "rows.parquet")
    (tmp_path / "scoring.py").write_text(SCORING, encoding="utf-8")
    worlds.write_config(
        tmp_path / "config.yaml",
        model={"path": "python: scoring:predict"},
        input={"files": "rows.parquet", "id": "trip", "slices": ["carrier"]},
        method={"name": "by_enumeration"},
        baseline={"kind": "sample", "rows": 5},
        output={"path": "run"},
        compute={"shard_rows": 20, "batch_size": 16},
        limits={"rejected": 0.1},
    )
    yield tmp_path
    sys.modules.pop("scoring", None)


def phi_of(run: Any) -> dict[str, np.ndarray]:
    struct = run.attributions()["attribution"].combine_chunks()
    names = [field.name for field in struct.type]
    return {name: np.array(struct.field(name).to_pylist(), np.float64) for name in names}


def test_a_function_is_explained_from_the_config_to_the_tables(world: Path) -> None:
    run = worlds.explain(world / "config.yaml", world / "run")
    counts = run.manifest["counts"]
    assert (counts["rows_read"], counts["rows_attributed"], counts["rows_rejected"]) == (ROWS, ROWS - 1, 1)
    (rejected,) = run.rejected().to_pylist()
    assert rejected["example_id"] == f"trip {UNLUCKY}"
    assert rejected["stage"] == "predict"
    assert rejected["reason"] == "the model refuses the row: ValueError: no flight leaves"
    model = run.manifest["model"]
    assert set(model) == {"path", "digest", "inputs", "outputs"}
    assert model["path"] == "python:scoring:predict"
    assert model["outputs"] == [{"name": "output", "shape": [], "score": "output"}]
    assert {i["name"]: (i["dtype"], i["shape"]) for i in model["inputs"]} == {
        "city": ("string", []),
        "hour": ("int64", []),
        "wind": ("float32", []),
        "series": ("float32", [3]),
        "flag": ("bool", []),
    }
    # Closed form: the products of city and hour share their interaction, the series is additive.
    table = pq.read_table(world / "rows.parquet")
    kept = np.arange(ROWS) != UNLUCKY
    series = np.array(table["series"].to_pylist())[kept]
    from transforms.rows.baselines.baselines import Artifact

    plan = make_plan(load_config(str(world / "config.yaml")), in_process=True)
    background = Artifact.from_bytes(plan.probe.artifact.to_bytes()).features
    phi = phi_of(run)
    expected = (series - background["series"].mean(axis=0)) * [1, 2, 3]
    np.testing.assert_allclose(phi["series"], expected, atol=1e-5)
    rate = np.where(np.array(table["city"].to_pylist())[kept] == "Köln", 2.0, -1.0)
    hour = table["hour"].to_numpy()[kept].astype(float)
    other_rate = np.where(background["city"] == "Köln".encode(), 2.0, -1.0)
    of_city = (rate[:, None] - other_rate) * (hour[:, None] + background["hour"]) / 2
    np.testing.assert_allclose(phi["city"], of_city.mean(axis=1), atol=1e-5)
    assert np.abs(phi["city"]).max() > 1
    np.testing.assert_array_equal(phi["wind"], 0)
    attributions = run.attributions()
    total = phi["city"] + phi["hour"] + phi["series"].sum(axis=1)
    difference = attributions["prediction"].to_numpy() - attributions["base_value"].to_numpy()
    np.testing.assert_allclose(total, difference, atol=1e-4)
    np.testing.assert_array_equal(attributions["output"].to_numpy(), attributions["prediction"].to_numpy())
    assert set(run.importance()["slice"]) == {"", "carrier=X", "carrier=Y"}


def test_the_rest_of_the_product_reads_such_a_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worlds.explain(world / "config.yaml", world / "run")
    explanation = load_run(str(world / "run")).explanation()
    assert explanation.values.shape == (ROWS - 1, 7)
    assert set(explanation.display_data[:, explanation.feature_names.index("city")]) == {"Köln", "Oslo"}
    assert cli.run(["show", str(world / "run"), "trip 3"]) == 0
    assert "city" in capsys.readouterr().out
    assert cli.run(["plan", str(world / "config.yaml"), "--set", "output.path=other"]) == 0
    out = capsys.readouterr().out
    assert "python:scoring:predict" in out
    assert "the output is explained" in out


def test_two_workers_write_the_same_bytes(world: Path) -> None:
    one = worlds.explain(world / "config.yaml", world / "one")
    two = worlds.explain(world / "config.yaml", world / "two", "compute.workers=2")
    assert worlds.part_bytes(one) == worlds.part_bytes(two)
    assert len(worlds.part_bytes(one)) > 3


@pytest.mark.parametrize("target", ["predicted", "all", 1, "output[2]"])
def test_several_outputs(world: Path, target: int | str) -> None:
    settings = ("model.path=python:scoring:classes", f"model.target={target}", "limits.rejected=0")
    run = worlds.explain(world / "config.yaml", world / "run", *settings)
    assert run.manifest["model"]["outputs"] == [{"name": "output", "shape": [3], "score": "output"}]
    table = pq.read_table(world / "rows.parquet")
    score = table["wind"].to_numpy() + 0.1 * table["hour"].to_numpy() % 13
    scores = np.stack([score, -score, np.full(ROWS, 0.25)], axis=1)
    chosen = {
        "predicted": scores.argmax(axis=1),
        "all": np.tile(np.arange(3), ROWS),
        1: np.ones(ROWS, int),
        "output[2]": np.full(ROWS, 2),
    }[target]
    found = run.attributions()
    np.testing.assert_array_equal(found["target"].to_numpy(), chosen)
    assert found["target_name"].to_pylist() == [f"output[{index}]" for index in chosen]
    rows = np.repeat(np.arange(ROWS), 3 if target == "all" else 1)
    np.testing.assert_allclose(found["prediction"].to_numpy(), scores[rows, chosen], rtol=1e-5)
    if target == "predicted":
        assert len(set(chosen.tolist())) > 1


def test_the_fingerprint_follows_the_source(world: Path) -> None:
    plan = lambda: make_plan(load_config(str(world / "config.yaml")), in_process=True)  # noqa: E731
    before, again = plan(), plan()
    assert before.fingerprint == again.fingerprint
    assert before.probe.digest.startswith("sha256:")
    source = world / "scoring.py"
    source.write_text(SCORING.replace('"Köln": 2.0', '"Köln": 7.5'), encoding="utf-8")
    after = plan()
    assert after.probe.digest != before.probe.digest
    assert after.fingerprint != before.fingerprint
    # The changed function is what runs, in a process that had loaded the old one.
    assert np.abs(after.probe.artifact.scores).max() > 1.5 * np.abs(before.probe.artifact.scores).max()


def test_each_config_has_the_module_beside_it(world: Path, tmp_path: Path) -> None:
    """One process, two configs, two modules of one name."""
    first = make_plan(load_config(str(world / "config.yaml")), in_process=True)
    other = tmp_path / "other"
    other.mkdir()
    write_rows(other / "rows.parquet")
    (other / "config.yaml").write_bytes((world / "config.yaml").read_bytes())
    (other / "scoring.py").write_text("def predict(rows):\n    return rows['wind'] * 0 + 5\n")
    second = make_plan(load_config(str(other / "config.yaml")), in_process=True)
    np.testing.assert_array_equal(second.probe.artifact.scores, 5)
    third = make_plan(load_config(str(world / "config.yaml")), in_process=True)
    np.testing.assert_array_equal(third.probe.artifact.scores, first.probe.artifact.scores)


def test_two_functions_of_a_module_are_two_models(world: Path) -> None:
    """A run of the one is no run of the other: nothing is reused, no digest is shared."""
    (world / "twins.py").write_text(
        "def one(rows):\n    return rows['wind']\n\n\ndef other(rows):\n    return -rows['wind']\n"
    )
    found = []
    for name in ("one", "other"):
        settings = (f"model.path=python:twins:{name}", "input.features=[wind, hour]")
        found.append(make_plan(load_config(str(world / "config.yaml"), settings=settings), in_process=True))
    assert found[0].probe.digest != found[1].probe.digest
    assert found[0].fingerprint != found[1].fingerprint
    del sys.modules["twins"]


def test_features_may_be_listed_and_a_function_may_sit_in_a_package(world: Path) -> None:
    package = world / "deep" / "er"
    package.mkdir(parents=True)
    for folder in (world / "deep", package):
        (folder / "__init__.py").write_text("")
    (package / "model.py").write_text(
        "def predict(rows):\n    assert list(rows) == ['wind', 'hour']\n    return rows['wind'].tolist()\n"
    )
    settings = ("model.path=python:deep.er.model:predict", "input.features=[wind, hour]")
    plan = make_plan(load_config(str(world / "config.yaml"), settings=settings), in_process=True)
    assert plan.spec.schema.attributed == ("wind", "hour")
    request = ModelRequest("python:deep.er.model:predict", module_paths=(str(world),))
    assert request_digest(request) == plan.probe.digest
    for name in [name for name in sys.modules if name.partition(".")[0] == "deep"]:
        del sys.modules[name]


def test_no_tensorflow_is_loaded(world: Path) -> None:
    code = (
        "import json, sys; from tests.support.models import by_enumeration\n"
        "from transforms.methods import METHODS\n"
        "METHODS['by_enumeration'] = by_enumeration.ByEnumeration\n"
        "import pipeline\n"
        f"run = pipeline.explain({str(world / 'config.yaml')!r}, output={str(world / 'apart')!r})\n"
        "print(json.dumps([run.manifest['counts']['rows_attributed'], "
        "sorted({'tensorflow', 'keras'} & set(sys.modules))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [ROWS - 1, []]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["model.path=python:scoring"],
            ["model.path", "does not name a function", "package.module:function"],
        ),
        (["model.path=python:scoring:pre dict"], ["does not name a function"]),
        (
            ["model.path=python:scorn:predict"],
            ["there is no module scorn", "PYTHONPATH or beside the config"],
        ),
        (["model.path=python:scoring.deeper:predict"], ["there is no module scoring.deeper"]),
        (["model.path=python:scoring:predikt"], ["scoring has no predikt", "did you mean predict?"]),
        (["model.path=python:scoring:NUMBER"], ["scoring:NUMBER is not a function"]),
        (["model.path=python:scoring:Holder"], ["scoring:Holder is not a function"]),
        (
            ["model.path=python:broken:predict"],
            ["broken cannot be imported", "ZeroDivisionError", "broken.py"],
        ),
        (["model.path=python:scoring:words"], ["numbers are needed"]),
        (["model.path=python:scoring:short"], ["returns the shape [4] for 5 rows", "[rows, outputs]"]),
        (["model.path=python:scoring:cube"], ["returns the shape [5, 2, 2] for 5 rows"]),
        (["model.path=python:scoring:fickle"], ["[rows, 2] is needed"]),
        (["model.path=python:scoring:never"], ["accepts none of 5 background rows", "KeyError: 'altitude'"]),
        (["model.score=logit"], ["model.score", "logit", "leave it out"]),
        (["model.score=probability"], ["model.score", "probability"]),
        (["model.target=3"], ["model.target", "3 is not an output index"]),
        (["method.name=saliency"], ["saliency needs gradients", "by_enumeration"]),
        (["method.name=integrated_gradients"], ["integrated_gradients needs gradients"]),
        (["method.name=tree_shap"], ["tree_shap needs a tree model", "kind is python", "by_enumeration"]),
        (["input.features=[when]"], ["input.features when", "timestamp", "numbers or strings"]),
        (["input.features=[wind, winde]"], ["no column 'winde'", "did you mean wind?"]),
    ],
)
def test_a_mistake_is_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: list[str]
) -> None:
    (world / "broken.py").write_text("1 / 0\n")
    table = pq.read_table(world / "rows.parquet")
    if "when" in settings[0]:
        table = table.append_column("when", pa.array([0] * ROWS, pa.timestamp("s")))
        pq.write_table(table, world / "rows.parquet")
    options = [part for setting in settings for part in ("--set", setting)]
    if "method.name=" in settings[0]:
        config = (world / "config.yaml").read_text().replace("by_enumeration", settings[0].partition("=")[2])
        (world / "config.yaml").write_text(config)
        options = []
    assert cli.run(["explain", str(world / "config.yaml"), *options]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line, line
    sys.modules.pop("broken", None)


def scored(function: Callable[[dict[str, np.ndarray]], Any], **example: np.ndarray) -> ScoredFunction:
    """A function of this file as a model."""
    adapter = FunctionModel.__new__(FunctionModel)
    adapter.path, adapter.function = "python:here:function", function
    shapes = {name: value.shape[1:] for name, value in example.items()}
    return ScoredFunction(adapter, shapes, "auto", example)


def test_bytes_become_text_and_what_is_not_utf_8_survives() -> None:
    seen: list[Any] = []

    def function(rows: dict[str, np.ndarray]) -> np.ndarray:
        seen.extend(rows["word"].tolist())
        return np.array([len(word) for word in rows["word"]])

    words = np.array(["größe".encode(), b"\xff\x00"], object)
    scores, outputs = scored(function, word=words).evaluate({"word": words})
    assert seen[:2] == ["größe", "\udcff\x00"]
    assert scores.tolist() == [[5], [2]]
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, outputs)


def test_a_function_is_called_by_one_thread_at_a_time() -> None:
    from concurrent.futures import ThreadPoolExecutor
    from time import sleep

    inside: list[int] = []

    def function(rows: dict[str, np.ndarray]) -> np.ndarray:
        inside.append(1)
        assert len(inside) == 1
        sleep(0.002)
        inside.pop()
        return rows["x"]

    model = scored(function, x=np.zeros(1))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: model.evaluate({"x": np.full(3, k)})[0], range(20)))
    assert [value[0, 0] for value in found] == list(range(20))


def test_outputs_are_counted_on_a_row_that_the_function_takes() -> None:
    def function(rows: dict[str, np.ndarray]) -> np.ndarray:
        if (rows["x"] < 0).any():
            raise ValueError("below zero")
        return np.stack([rows["x"], rows["x"]], axis=1)

    model = scored(function, x=np.array([-1.0, -2.0, 3.0]))
    assert model.signature.target_names == ("output[0]", "output[1]")
    with pytest.raises(RowsRefused, match="ValueError: below zero"):
        model.evaluate({"x": np.array([1.0, -1.0])})


def test_memory_and_mistakes_of_ours_are_no_refusals() -> None:
    def hungry(rows: dict[str, np.ndarray]) -> np.ndarray:
        if len(rows["x"]) > 1:
            raise MemoryError
        return rows["x"]

    model = scored(hungry, x=np.zeros(1))
    with pytest.raises(MemoryError):
        model.evaluate({"x": np.zeros(2)})


def test_names() -> None:
    assert split_name("python: a.b:c ") == ("a.b", "c")
    assert split_name("python:a:Holder.of_one") == ("a", "Holder.of_one")
    assert module_file("python:json.decoder:loads") == sys.modules["json.decoder"].__file__
    with pytest.raises(UserError, match="is not a Python file"):
        module_file("python:sys:exit")
    adapter = load_model(ModelRequest("python:json:loads"))
    assert adapter.signature is None


def test_a_saved_model_with_strings_plays_the_game_and_has_no_gradients_there(tmp_path: Path) -> None:
    """Masking in raw space: strings, numbers and all, by evaluation alone."""
    import tensorflow as tf

    from pipeline.planning.method.requirements import check_method
    from transforms.methods.gradients.integrated_gradients import IntegratedGradients
    from transforms.methods.trees.tree_shap import TreeShap
    from transforms.models.graphs.scored import ScoredGraph
    from transforms.models.kinds.savedmodel import SavedModel
    from transforms.models.reference import Reference
    from transforms.rows.schema import ExampleSchema, FeatureSpec

    class Word(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, "word"), tf.TensorSpec([None], tf.float32, "x")]
        )
        def serve(self, word: Any, x: Any) -> Any:
            return {"score": tf.cast(tf.strings.length(word), tf.float32) * x + 1.0}

    module = Word()
    tf.saved_model.save(module, str(tmp_path / "model"), {"serving_default": module.serve})
    model = ScoredGraph(SavedModel(str(tmp_path / "model")), {"word": (), "x": ()})
    inputs = {"word": np.array([b"four", b"a"], object), "x": np.array([2.0, 3.0], np.float32)}
    background = {"word": np.array([b"", b"xy"], object), "x": np.array([1.0, -1.0], np.float32)}
    scores, _ = model.evaluate(background)
    found = ByEnumeration().attribute(
        model,
        inputs,
        Reference(background, scores, scores.std(axis=0)),
        np.zeros((2, 1), np.int64),
        np.zeros(2, np.uint64),
        64,
    )
    # φ of two factors against one background row: half the sum of what each gains alone and last.
    a, b = np.array([4, 1])[:, None], np.array([0, 2])
    x, y = inputs["x"][:, None], background["x"]
    np.testing.assert_allclose(found.values["word"][:, 0], ((a - b) * (x + y) / 2).mean(axis=1))
    np.testing.assert_allclose(found.values["x"][:, 0], ((x - y) * (a + b) / 2).mean(axis=1))
    np.testing.assert_allclose(found.convergence_delta, 0, atol=1e-6)
    features = (
        FeatureSpec("word", "categorical", "string", (), pa.string(), None, "word", 0),
        FeatureSpec("x", "numeric", "float32", (), pa.float32(), None, "x", 0),
    )
    schema = ExampleSchema(features, {"word": (), "x": ()}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "by_enumeration", ByEnumeration)
        with pytest.raises(
            UserError,
            match=r"needs gradients: .*; give a \.keras file .*, or use .*by_enumeration",
        ):
            check_method(model, inputs, IntegratedGradients(), schema)
        check_method(model, inputs, ByEnumeration(), schema)
        with pytest.raises(UserError, match=r"tree_shap needs a tree model.*kind is savedmodel.*by_enum"):
            check_method(model, inputs, TreeShap(), schema)
