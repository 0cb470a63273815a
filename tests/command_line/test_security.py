"""Nothing runs that the config does not name, and nothing from data escapes a path, a line or a terminal."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml
from tensorflow.python.ops.lookup_ops import TableInitializerBase

from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.config.yaml_text import SHIPPED, YamlLimits, check_nodes, parse_mapping, read_mapping
from pipeline.results.run import load_run
from pipeline.run_directory.checks import check_place
from tests.support import worlds
from transforms.errors import UserError
from transforms.models.kinds.keras import check_members
from transforms.models.load import ModelRequest, load_model
from transforms.storage import files

L = keras.layers


# -- YAML ---------------------------------------------------------------------------------------------------


YAML = {
    "Python's objects": (
        "model: !!python/object/apply:os.system [id]",
        "the tag 'python/object/apply:os.system'",
    ),
    "Python's names": ("model: !!python/name:os.system", "the tag 'python/name:os.system'"),
    "a tag of nobody": ("model: !shell id", "the tag '!shell'"),
    "bytes": ("model: !!binary aGVsbG8=", "the tag 'binary'"),
    "a date": ("model: !!timestamp today", "the tag 'timestamp'"),
    "a set": ("model: !!set {a, b}", "the tag 'set'"),
    "a list that is none": ("model: !!seq a", "scalar is not a seq"),
    "a mapping that is none": ("model: !!map [a]", "sequence is not a map"),
    "a truth that is none": ("model: !!bool perhaps", "'perhaps' is not a bool"),
    "a number that is none": ("model: !!float ''", "'' is not a float"),
    "half a character": ('a: "\\ud800"', "half of a surrogate pair"),
    "a key twice": ("a: 1\na: 2", "given twice"),
}


def refused_yaml(text: str, limits: YamlLimits = SHIPPED) -> str:
    """The line that refuses a document."""
    with pytest.raises(UserError) as caught:
        parse_mapping(text, "config.yaml", limits)
    line = str(caught.value)
    assert line.startswith("config.yaml:")
    assert len(line) < 300
    return line


@pytest.mark.parametrize("case", YAML)
def test_yaml_that_is_no_config_is_refused_in_a_line(case: str) -> None:
    text, reason = YAML[case]
    assert reason in refused_yaml(text)


#: Small documents, and limits that they break; the shipped limits are for documents of any size.
LOW = YamlLimits(bytes=60, values=12, depth=3, digits=4)
TOO_MUCH = {
    "aliases of aliases": ("a: &a [x, x, x]\nb: &b [*a, *a]\nc: [*b]", "stand for more than 12 values"),
    "merged aliases": ("a: &a {p: 1, q: 2}\nb: {<<: [*a, *a], r: *a}", "stand for more than 12 values"),
    "depth": ("a: [[[[1]]]]", "nested more than 3 deep"),
    "digits": ("seed: 12345", "a number of 5 digits"),
    "hexadecimal digits": ("seed: 0x123", "a number of 5 digits"),
    "bytes": ("name: " + "x" * 60, "is longer than 60 bytes"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_limits_of_a_config_are_kept(case: str) -> None:
    text, reason = TOO_MUCH[case]
    assert reason in refused_yaml(text, LOW)
    assert parse_mapping(text, "config.yaml")


def test_the_shipped_limits_are_far_beyond_a_config_and_short_of_a_machine() -> None:
    assert YamlLimits(bytes=4 << 20, values=1_000_000, depth=50, digits=40) == SHIPPED
    assert SHIPPED.size == "4 MB"


@pytest.mark.parametrize("kind", [yaml.SequenceNode, yaml.MappingNode])
def test_an_alias_within_what_it_stands_for_is_refused(kind: type[yaml.CollectionNode]) -> None:
    """Nodes in memory, as the parser makes them of such a document."""
    node = kind("tag:yaml.org,2002:seq", [])
    text = yaml.ScalarNode("tag:yaml.org,2002:str", "a")
    node.value.append(node if kind is yaml.SequenceNode else (text, node))
    with pytest.raises(yaml.MarkedYAMLError, match="lies within what it stands for"):
        check_nodes(node)


def test_a_document_that_the_parser_cannot_descend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def descend(loader: yaml.SafeLoader) -> None:
        raise RecursionError

    monkeypatch.setattr(yaml.SafeLoader, "get_single_node", descend)
    assert "nested more than 50 deep" in refused_yaml("a: 1")


def test_aliases_and_merges_are_for_use() -> None:
    text = "base: &base {a: 1, b: [2, 3]}\nother: {<<: *base, a: 4}\nsame: [*base, *base]\n"
    base = {"a": 1, "b": [2, 3]}
    assert parse_mapping(text, "x") == {"base": base, "other": {**base, "a": 4}, "same": [base, base]}


def test_a_file_that_is_no_config_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("a: [1, 2, 3]\n")
    assert read_mapping(str(path)) == {"a": [1, 2, 3]}
    monkeypatch.setattr(files, "read_bytes", lambda path: pytest.fail("was read"))
    with pytest.raises(UserError, match="is larger than 10 bytes"):
        read_mapping(str(path), YamlLimits(bytes=10))


# -- Keras --------------------------------------------------------------------------------------------------


def load(path: Path, allow_unsafe: bool = False) -> Any:
    return load_model(ModelRequest(str(path), allow_unsafe=allow_unsafe))


@cache
def dense() -> Path:
    path = worlds.shelf() / "dense.keras"
    inputs = keras.Input((4,), name="x")
    keras.Model(inputs, L.Dense(1, name="dense")(inputs)).save(path)
    return path


def rewritten(path: Path, edit: Callable[[dict[str, Any]], None], **members: str) -> Path:
    """The model of `dense` with another config, and more in its archive."""
    with zipfile.ZipFile(dense()) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                edit(config)
                data = json.dumps(config).encode()
            new.writestr(name, data)
        for name, text in members.items():
            new.writestr(name, text)
    return path


def as_layer(module: str, of: str, **config: Any) -> Callable[[dict[str, Any]], None]:
    """Another object in the place of the layer."""

    def edit(found: dict[str, Any]) -> None:
        layer = found["config"]["layers"][1]
        layer.update(module=module, class_name=of, config=config, registered_name=None)

    return edit


def test_lambdas_need_leave(tmp_path: Path) -> None:
    inputs = keras.Input((4,), name="x")
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        keras.Model(inputs, L.Lambda(lambda x: 2 * x, output_shape=(4,))(inputs)).save(path)
        with pytest.raises(UserError, match=r"holds Python code .*; set model\.allow_unsafe: true"):
            load(path)
        assert load(path, allow_unsafe=True).signature.outputs


@pytest.mark.parametrize(
    "edit",
    [
        as_layer("os", "system", command="touch made"),
        as_layer("subprocess", "Popen", args=["touch", "made"]),
        as_layer("keras.src.utils.file_utils", "get_file", fname="made", origin="file:///etc/hostname"),
        as_layer("keras.layers", "TFSMLayer", filepath="elsewhere", name="dense"),
        as_layer("keras.layers", "StringLookup", vocabulary="/etc/passwd", name="dense"),
        as_layer("intruder", "Layer", name="dense"),
    ],
)
def test_a_config_of_a_model_names_no_code(
    edit: Callable[[dict[str, Any]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "intruder.py").write_text("open('made', 'w')\nclass Layer: pass\n")
    path = rewritten(tmp_path / "model.keras", edit)
    with pytest.raises(UserError):
        load(path)
    assert not (tmp_path / "made").exists()


def test_archives_that_lead_elsewhere_or_fill_memory(tmp_path: Path) -> None:
    for name in ("../out", "/tmp/attribeam-out", "assets/../../out", "..\\out"):
        path = rewritten(tmp_path / "model.keras", lambda config: None, **{name: "x"})
        with pytest.raises(UserError, match="leads out of the archive"):
            load(path)
    assert not (tmp_path.parent / "out").exists()
    words = rewritten(tmp_path / "words.keras", lambda config: None, **{"assets/words.json": "x" * 3000})
    with zipfile.ZipFile(words) as archive:
        check_members(archive, str(words))
        with pytest.raises(UserError, match=r"holds 'assets/words.json', which unpacks to 3,000 bytes from"):
            check_members(archive, str(words), most=2999)


# -- SavedModels --------------------------------------------------------------------------------------------

Body = Callable[[Any], Any]


class Exported(tf.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.weight = tf.Variable([2.0])
        self.body = body

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")], autograph=False)
    def call(self, x: Any) -> Any:
        return {"y": self.body(x) * self.weight}


def export(path: Path, body: Body) -> Path:
    module = Exported(body)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.call})
    return path


def after(op: Callable[[], Any], x: Any) -> Any:
    with tf.control_dependencies([op()]):
        return tf.identity(x)


def lines_of(path: str) -> Any:
    counted = tf.data.TextLineDataset(path).reduce(tf.constant(0, tf.int64), lambda n, _: n + 1)
    return tf.cast(counted, tf.float32)


def save(x: Any) -> Callable[[], Any]:
    given = {"tensor_names": ["x"], "shape_and_slices": [""], "tensors": [x]}
    return lambda: tf.raw_ops.SaveV2(prefix="made", **given)


OPS: dict[str, Body] = {
    "WriteFile": lambda x: after(lambda: tf.io.write_file("made", "x"), x),
    "ReadFile": lambda x: x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32),
    "MatchingFiles": lambda x: x + tf.cast(tf.size(tf.io.matching_files("/etc/*")), tf.float32),
    "PrintV2": lambda x: after(lambda: tf.print("x", output_stream="file://made"), x),
    "EagerPyFunc": lambda x: tf.ensure_shape(tf.py_function(lambda v: v, [x], tf.float32), [None, 1]),
    "PyFunc": lambda x: tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), [None, 1]),
    "TextLineDataset": lambda x: x + lines_of("/etc/hostname"),
    "SaveV2": lambda x: after(save(x), x),
    # In a branch, a function of a function's.
    "SaveV2 ": lambda x: tf.cond(tf.reduce_sum(x) > 1e9, lambda: after(save(x), x), lambda: x),
}


@pytest.mark.parametrize("op", OPS)
def test_ops_that_reach_beyond_the_graph_need_leave(
    op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(tmp_path / "model", OPS[op])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"the op {op.strip()}\b.*; set model\.allow_unsafe: true"):
        load(path)
    assert load(path, allow_unsafe=True).signature.outputs
    assert os.listdir(tmp_path) == ["model"]


class Intruder(tf.Module):
    """A table whose initialiser, which loading runs, writes a file."""

    def __init__(self) -> None:
        super().__init__()
        start = tf.lookup.KeyValueTensorInitializer(["a"], [1.0])

        class Start(TableInitializerBase):
            def initialize(self, table: Any) -> Any:
                tf.io.write_file("made", "x")
                return start.initialize(table)

        self.table = tf.lookup.StaticHashTable(Start(tf.string, tf.float32), 0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.string, name="x")])
    def call(self, x: Any) -> Any:
        return {"y": self.table.lookup(x)}


def test_what_loading_itself_would_run_needs_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = Intruder()
    tf.saved_model.save(module, "model", signatures={"serving_default": module.call})
    Path("made").unlink(missing_ok=True)
    with pytest.raises(UserError, match="the op WriteFile"):
        load(tmp_path / "model")
    assert not Path("made").exists()
    load(tmp_path / "model", allow_unsafe=True)
    assert Path("made").exists(), "the test tests nothing"


def test_tables_prints_and_loops_are_no_danger(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    inputs = keras.Input((1,), dtype="string", name="x")
    coded = L.Embedding(5, 2)(L.StringLookup(vocabulary=str(words))(inputs))
    keras.Model(inputs, L.Dense(1)(L.Flatten()(coded))).export(tmp_path / "words", verbose=False)
    words.unlink()
    assert load(tmp_path / "words").signature.inputs[0].dtype == "string"

    def looped(x: Any) -> Any:
        printed = after(lambda: tf.print("hello"), x)
        return tf.while_loop(lambda at, _: at < 3, lambda at, v: (at + 1, v * 2), (0, printed))[1]

    assert load(export(tmp_path / "loop", looped)).signature.outputs


def test_pickles_need_leave(tmp_path: Path) -> None:
    for suffix in (".pkl", ".pickle", ".joblib"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(b"cos\nsystem\n(S'touch made'\ntR.")
        with pytest.raises(UserError, match="is a pickle"):
            load(path)


def test_nothing_is_unpickled_that_a_run_directory_holds() -> None:
    from transforms.aggregates.by_position import Positions
    from transforms.aggregates.importance import ImportanceState
    from transforms.aggregates.sample import Sample
    from transforms.rows.baselines.baselines import Artifact

    class Trap:
        def __reduce__(self) -> Any:
            return os.system, ("touch made",)

    data = worlds.shelf() / "trap.npz"
    np.savez(data, header=np.array([Trap()], object), scores=np.array([Trap()], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Artifact.from_bytes(data.read_bytes())
    for state in (ImportanceState, Sample, Positions):
        with pytest.raises((OSError, ValueError)):  # JSON and Arrow each say it in their way
            state.from_bytes((100).to_bytes(8, "little") + pickle.dumps(Trap()))
        assert not Path("made").exists()


# -- what data may be called --------------------------------------------------------------------------------

NASTY = (
    "\x1b[31mred\x1b]0;title\x07",
    "line\nbreak\rreturn",
    "\u202eevil\u2066\u2069",
    "L" * 10_000,
    "C1 \x9b31m \x85 \u2028",
    "../../../../etc/passwd",
)
SLICE, GROUP = "slice\x1b[31m", "group\x1b[2J\n" + "g" * 500
MODEL = """
import numpy as np
def score(arrays):
    x = np.column_stack([value.astype(float) for value in arrays.values()])
    if (x > 1e6).any():
        raise ValueError("too \\x1b[31mlarge \\u202e" + "w" * 5000)
    return x.sum(1)
"""


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config over data whose names are all as bad as can be."""
    folder = tmp_path_factory.mktemp("nasty")
    (folder / "nasty_model.py").write_text(MODEL)
    rows = 24
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {name: rng.normal(size=rows) for name in NASTY}
    columns[NASTY[0]][3], columns[NASTY[3]][4], columns[NASTY[1]][5] = np.nan, np.inf, 1e7
    columns["id"] = columns[SLICE] = [f"{NASTY[row % 6]}{row // 6}" for row in range(rows)]
    pq.write_table(pa.table(columns), folder / "rows\x1b[2J\n\u202e.parquet")
    return worlds.write_config(
        folder / "config.yaml",
        name="../../name\x1b[31m\n",
        model={"path": "python: nasty_model:score"},
        input={
            "files": "*.parquet",
            "id": "id",
            "features": list(NASTY),
            "slices": [SLICE],
            "groups": {GROUP: list(NASTY[4:])},
        },
        method={"name": "exact_shap"},
        output={"path": "run"},
        limits={"rejected": 1.0},
    )


LINES: dict[str, tuple[int, list[str]]] = {
    "plan": (0, ["plan", "{config}"]),
    "explain": (0, ["explain", "{config}"]),
    "show an escape": (0, ["show", "{run}", f"{NASTY[0]}0"]),
    "show a long one": (0, ["show", "{run}", f"{NASTY[3]}1"]),
    "show none": (2, ["show", "{run}", "no\x1b[31m\nsuch" + "x" * 9000]),
    "show a rejected one": (2, ["show", "{run}", f"{NASTY[3]}0"]),
    "verify": (0, ["verify", "{run}"]),
    "methods": (0, ["methods", "--config", "{config}"]),
    "a column that is missing": (2, ["plan", "{config}", "--set", f"input.id={'L' * 9999}M"]),
    "a verb": (2, ["expl\x1b[31main\n"]),
    "a flag": (2, ["plan", "{config}", "--\x1b[31m\u202e"]),
    "a runner": (2, ["plan", "{config}", "--runner", "\x1b[31m\n"]),
    "a file": (2, ["plan", "no\x1b[31m\n\u202esuch"]),
    "a setting": (2, ["plan", "{config}", "--set", "\x9b31m\u2066" + "z" * 9000]),
}


@pytest.mark.parametrize("json_too", [False, True], ids=["text", "json"])
def test_no_name_escapes_a_line(
    nasty: Path, json_too: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipeline.planning.method_costs.in_child", lambda function, request: function(request)
    )
    monkeypatch.setenv("COLUMNS", "80")
    place = nasty.parent / ("run-json" if json_too else "run-text")
    for name, (wanted, line) in LINES.items():
        arguments = [part.format(config=nasty, run=place) for part in line]
        if line[0] in ("plan", "explain") and wanted == 0:
            arguments += ["--output", str(place)]
        status = cli.run([*arguments, "--json"] if json_too else arguments)
        out, err = capsys.readouterr()
        assert status == wanted, (name, err)
        # Progress may come first; what is told of is one line.
        assert err.count("error: ") == (1 if wanted else 0), name
        for text in (out, err):
            assert {c for c in text if not c.isprintable()} <= {"\n"}, name
        if json_too and wanted == 0:
            assert out.count("\n") == 1
            assert isinstance(json.loads(out), dict)
        else:
            assert max(map(len, (out + err).splitlines()), default=0) < 2100, name
    assert set(load_run(place).features) == {*NASTY[:4], GROUP}, "the tables hold the names as they are"


def test_names_are_no_paths(nasty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path for path in nasty.parent.rglob("*") if "run" not in path.name and "__" not in str(path)}
    place = nasty.parent / "run-paths"
    assert cli.run(["explain", str(nasty), "--output", str(place), "--limit", "12"]) == 0
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
    assert names == [
        "attributions", "attributions/part-00000.parquet", "importance.parquet", "manifest.json",
        "rejected", "rejected/part-00000.parquet", "report",
        "report/baseline.parquet", "report/interactions.parquet", "report/sample.parquet",
    ]  # fmt: skip
    after_it = {path for path in nasty.parent.rglob("*") if "run" not in path.name and "__" not in str(path)}
    assert {p for p in after_it - before if place not in p.parents} == set()


@pytest.mark.parametrize("date", ["../../x", "2026-01-01/..", "2026-1-1", "\u0662026-01-01"])
def test_a_date_is_no_path(date: str, nasty: Path) -> None:
    with pytest.raises(UserError, match="is not a date"):
        load_config(str(nasty), date=date)


# -- links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run/_work", "run/attributions", "run/rejected", ".run.next", ".run.old"])
def test_a_run_neither_writes_nor_deletes_through_links(name: str, tmp_path: Path, nasty: Path) -> None:
    somebodys = tmp_path / "somebodys"
    somebodys.mkdir()
    (somebodys / "part-00000.parquet").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / name).symlink_to(somebodys)
    with pytest.raises(UserError, match="is a symbolic link"):
        check_place(str(tmp_path / "run"))
    assert cli.run(["explain", str(nasty), "--output", str(tmp_path / "run"), "--overwrite"]) == 2
    assert [path.read_text() for path in somebodys.iterdir()] == ["precious"]


def test_a_run_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    check_place(str(tmp_path / "run"))


def test_what_is_deleted_follows_no_link(tmp_path: Path) -> None:
    from transforms.storage import files

    somebodys = tmp_path / "somebodys"
    somebodys.mkdir()
    (somebodys / "file").write_text("precious")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "link").symlink_to(somebodys)
    (tmp_path / "link").symlink_to(somebodys)
    files.delete_tree(str(tmp_path / "tree"))
    files.delete_tree(str(tmp_path / "link"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["somebodys"]
    assert (somebodys / "file").read_text() == "precious"
