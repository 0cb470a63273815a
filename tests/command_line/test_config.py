"""The config file: what it may say, what it means, and where its paths lead."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.config import LoadedConfig, load_config
from pipeline.config.yaml_text import parse_value
from pipeline.execution.choose_runner import choose_runner
from tests.support import worlds
from transforms.errors import UserError
from transforms.methods import METHODS

LEAST = "model: {path: m.keras}\ninput: {files: a.parquet}\nmethod: saliency\noutput: {path: run}\n"
CONTRACT = """
name: flights-delay
model:
  path: model.keras
  modules: []
  allow_unsafe: false
  target: 0
  score: auto
input:
  format: parquet
  files: data/*.parquet
  id: flight_id
  features:
    - {name: distance}
    - {name: carrier, kind: categorical}
    - {name: dep_hour, fill: 0}
    - {name: pixels, kind: image, shape: [28, 28, 1]}
  groups: {weather: [temp, wind]}
  slices: [carrier, origin]
method:
  name: integrated_gradients
  n_steps: 50
baseline:
  kind: sample
  rows: 100
output:
  path: runs/{date}
  attributions: all
  features: false
compute:
  batch_size: 4096
  device_batch_size: auto
  shard_rows: auto
  workers: 1
seed: 0
limits:
  rejected: 0.01
  convergence: 0.05
"""


def load(tmp_path: Path, text: str, *settings: str, **options: Any) -> LoadedConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(str(path), settings=settings, **options)


def test_the_config_of_the_contract(tmp_path: Path) -> None:
    config = load(tmp_path, CONTRACT, date="2026-11-21").config
    assert config.model.target == 0
    assert [f.name for f in config.input.features or []] == ["distance", "carrier", "dep_hour", "pixels"]
    assert (config.input.features or [])[3].shape == [28, 28, 1]
    assert config.method == METHODS["integrated_gradients"]()
    assert config.output.path == "runs/2026-11-21"
    assert config.limits.convergence == 0.05


def test_what_is_left_out_has_the_contracts_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, LEAST).config
    assert (config.compute.batch_size, config.compute.workers, config.seed) == (4096, 1, 0)
    assert (config.compute.device_batch_size, config.compute.shard_rows) == ("auto", "auto")
    assert (config.limits.rejected, config.limits.convergence) == (0.01, 0.05)
    assert (config.model.target, config.model.score, config.model.allow_unsafe) == (None, "auto", False)
    assert (config.output.attributions, config.output.features) == ("all", False)
    assert config.input.features is None


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("saliency", {"absolute": False}),
        ("input_x_gradient", {}),
        ("integrated_gradients", {"n_steps": 50, "tolerance": None, "max_steps": 2000}),
        ("smoothgrad", {"n_samples": 50, "noise": 0.15, "tolerance": None, "standard_error": False}),
        ("expected_gradients", {"n_samples": 200, "tolerance": None, "standard_error": False}),
        (
            "kernel_shap",
            {"n_samples": "auto", "sampling": "leverage", "tolerance": None, "standard_error": False},
        ),
        ("exact_shap", {}),
        ("permutation_shap", {"n_permutations": 10, "tolerance": None, "standard_error": False}),
        (
            "lime",
            {"n_samples": 5000, "kernel_width": "auto", "tolerance": None, "standard_error": False},
        ),
        ("occlusion", {"window": None}),
    ],
)
def test_methods_have_the_contracts_keys(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    dumped = load(tmp_path, LEAST, f"method={name}").config.model_dump(mode="json")["method"]
    assert dumped == {"name": name, **keys}


def test_empty_blocks_say_nothing(tmp_path: Path) -> None:
    text = LEAST + "limits:\ncompute:\n  workers:\nbaseline:\n"
    assert load(tmp_path, text).config == load(tmp_path, LEAST).config


def test_short_forms(tmp_path: Path) -> None:
    config = load(
        tmp_path, LEAST, "input.features=[a, {name: b, fill: 1}]", "model.target={column: c}"
    ).config
    assert [(f.name, f.fill) for f in config.input.features or []] == [("a", None), ("b", 1)]
    assert config.model.target.column == "c"  # type: ignore[union-attr]
    assert config.method == METHODS["saliency"]()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("5E2", 500.0),
        ("-.5", -0.5),
        ("10", 10),
        ("0x10", 16),
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        # YAML 1.1 would make something else of these.
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-11-21", "2026-11-21"),
        ("1_000", "1_000"),
        ("007", 7),
        ("'1e-3'", "1e-3"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_value(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_a_tolerance_as_people_write_it(tmp_path: Path) -> None:
    text = LEAST.replace("saliency", "{name: integrated_gradients, tolerance: 1e-3}")
    assert load(tmp_path, text).config.method.tolerance == 0.001
    setting = "method={name: integrated_gradients, tolerance: 1e-4}"
    assert load(tmp_path, text, setting).config.method.tolerance == 1e-4


def test_settings(tmp_path: Path) -> None:
    settings = [
        "method={name: smoothgrad}",
        "method.n_samples=7",
        "input.features=[a, b]",
        "input.features.1=c",
        "limits.rejected=0.5",
        "name=a=b",
    ]
    config = load(tmp_path, LEAST, *settings).config
    assert config.method == METHODS["smoothgrad"](n_samples=7)
    assert [f.name for f in config.input.features or []] == ["a", "c"]
    assert config.limits.rejected == 0.5
    assert config.name == "a=b"
    with pytest.raises(UserError, match=r"input\.features is a list of 2, and '2' is not one of its items"):
        load(tmp_path, LEAST, "input.features=[a, b]", "input.features.2=c")


def test_paths_start_at_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load(tmp_path, LEAST)
    assert loaded.folder == str(tmp_path)
    assert loaded.paths.inputs == (str(tmp_path / "a.parquet"),)
    assert load(tmp_path, LEAST, "model.path=data/../m.keras").paths.model == str(tmp_path / "m.keras")
    assert load(tmp_path, LEAST, "model.path=/absolute").paths.model == "/absolute"
    assert load(tmp_path, LEAST, "model.path=gs://bucket/x").paths.model == "gs://bucket/x"
    assert load(tmp_path, LEAST, "model.path='python: own:score'").paths.model == "python: own:score"
    assert load(tmp_path, LEAST, output="run").paths.output == str(tmp_path / "elsewhere" / "run")
    assert load(tmp_path, LEAST, output="s3://b/run").paths.output == "s3://b/run"
    relative = load_config(os.path.join("..", "config.yaml"))
    assert relative.folder == str(tmp_path)


def test_output_may_come_from_the_command_line_alone(tmp_path: Path) -> None:
    without = LEAST.replace("output: {path: run}\n", "")
    assert load(tmp_path, without, output="/there").config.output.path == "/there"
    with pytest.raises(UserError, match="output: is missing"):
        load(tmp_path, without)


def test_dates(tmp_path: Path) -> None:
    settings = [
        "input.files=['data/{date}/*.parquet']",
        "model.path='{date}.keras'",
        "baseline={kind: file, path: 'base-{date}.parquet'}",
        "output.path='runs/{date}'",
    ]
    config = load(tmp_path, LEAST, *settings, date="2026-02-28").config
    assert config.input.files == ["data/2026-02-28/*.parquet"]
    assert config.model.path == "2026-02-28.keras"
    assert config.baseline.path == "base-2026-02-28.parquet"
    assert config.output.path == "runs/2026-02-28"
    today = datetime.date.today().isoformat()
    assert load(tmp_path, LEAST, "output.path='{date}'").config.output.path == today
    for wrong in ("20260228", "2026-2-28", "2026-02-30", "today", "2026-W09-6"):
        with pytest.raises(UserError, match=r"--date: .* is not a date; write YYYY-MM-DD"):
            load(tmp_path, LEAST, date=wrong)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.target={colum: x}", "model.target.colum: unknown key; did you mean column?"),
        ("compute.shard_rows=-1", "compute.shard_rows: must be auto or at least 1, not -1"),
        ("output.attributions={top_k: 0}", "output.attributions.top_k: must be at least 1, not 0"),
        ("output.attributions={top: 5}", "output.attributions.top: unknown key; did you mean top_k?"),
        ("output.attributions=al", "output.attributions: must be all, none or a mapping, not 'al'"),
        ("output.features=yes", "output.features: must be true or false, not 'yes'"),
        ("input.features=[a, a]", "input: features names 'a' twice"),
        ("input.slices=[a, a]", "input: slices names 'a' twice"),
        ("input.features=[]", "input.features: is empty; give at least one, or leave the key out"),
        ("input.features=[{nme: a}]", "input.features.0.nme: unknown key; did you mean name?"),
        ("input=3", "input: must be a mapping, not 3"),
        ("limits.rejected=1.5", "limits.rejected: must be at most 1, not 1.5"),
        ("baseline.kind=file", "baseline: kind: file and the key 'path' belong together"),
        ("baseline={kind: mean, value: 3}", "baseline: kind: constant and the key 'value' belong together"),
        ("seed=1.0", "seed: must be a whole number, not 1.0"),
        ("method={n_steps: 3}", "method.name: is missing; known: saliency"),
        ("method={name: saliency, n_steps: 3}", "method.n_steps: unknown key; known: absolute"),
        ("method={name: input_x_gradient, x: 3}", "method.x: unknown key; input_x_gradient takes no keys"),
        ("method=[saliency]", "method: must be a method's name or its keys"),
        ("1=2", "1: unknown key; known: name, model"),
    ],
)
def test_one_line_says_what_is_wrong(setting: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, LEAST, setting)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'config.yaml'}: ")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3:1", "the key 'a' is given twice"),
        ("a:\n  b: 1\n  b: 2\n", ":3:3", "the key 'b' is given twice"),
        ("a: [1\n", ":2:1", "not valid YAML"),
        ("a:\n\tb: 1\n", ":2:1", "indent with spaces"),
        ("a: 'x\n", ":2:1", "not valid YAML"),
        ("a: *b\n", ":1:4", "undefined alias"),
        ("? [a]\n: 1\n", ":1:3", "a key must be text"),
        ("a: 1\nb: \x01\n", ":2", r"the character '\x01'"),
        (
            "!!python/object:os.system x",
            ":1:1",
            "the tag 'python/object:os.system' is not allowed in a config",
        ),
    ],
)
def test_broken_yaml_has_a_place(text: str, place: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'config.yaml'}{place}: not valid YAML")
    assert message in str(caught.value)


def test_keys_that_are_numbers_and_merged_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1: unknown key"):
        load(tmp_path, LEAST + "1: 2\n")
    named = LEAST + "baseline: {kind: constant, value: {2020: 1, true: 2, null: 3}}\n"
    assert load(tmp_path, named).config.baseline.value == {"2020": 1, "true": 2, "null": 3}
    shared = LEAST + "baseline: {kind: constant, value: {&year 2020: *year}}\n"
    assert load(tmp_path, shared).config.baseline.value == {"2020": 2020}
    merged = "model: &m {path: m.keras}\ninput: {files: a}\nmethod: saliency\noutput: {<<: *m}\n"
    assert load(tmp_path, merged).config.output.path == "m.keras"


def test_the_resolved_config_is_json_and_reads_back(tmp_path: Path) -> None:
    loaded = load(tmp_path, CONTRACT, "model.target={column: c}", date="2026-11-21")
    dumped = json.loads(json.dumps(loaded.config.model_dump(mode="json")))
    again = load_config(str(worlds.write_config(tmp_path / "again.yaml", **dumped)))
    assert again.config == loaded.config


# -- how and where a config is run ---------------------------------------------------------------------------

RUNNER = """
runner:
  name: FlinkRunner
  options:
    job_endpoint: "a:1"  # of a job server, which is asked nothing before the run
    flink_master: "[local]"
    parallelism: 4
    experiments: [one, two]
    streaming: false
    save_main_session: true
"""


def chosen(loaded: LoadedConfig, runner: str | None = None, *flags: str) -> tuple[str, list[str]]:
    return choose_runner(loaded, runner, flags)


def test_the_runner_of_a_config(tmp_path: Path) -> None:
    assert chosen(load(tmp_path, LEAST)) == ("DirectRunner", [])
    loaded = load(tmp_path, LEAST + RUNNER)
    places = ["--job_endpoint=a:1", "--flink_master=[local]"]
    options = [*places, "--parallelism=4", "--experiments=one", "--experiments=two"]
    options.append("--save_main_session")
    assert chosen(loaded) == ("FlinkRunner", options)
    # The command line counts more: of a flag the last, and another runner takes none of these options.
    assert chosen(loaded, None, "--parallelism=2") == ("FlinkRunner", [*options, "--parallelism=2"])
    assert chosen(loaded, "FlinkRunner") == ("FlinkRunner", options)
    assert chosen(loaded, "DirectRunner") == ("DirectRunner", [])
    changed = load(tmp_path, LEAST + RUNNER, "runner.options.parallelism=8", "runner.options.experiments=[]")
    assert chosen(changed)[1] == [*places, "--parallelism=8", "--save_main_session"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            "runner: {name: FlinkRuner}",
            r"config\.yaml: runner\.name: 'FlinkRuner' is not a runner; did you mean Flink",
        ),
        ("runner: {options: {}}", r"config\.yaml: runner\.name: is missing"),
        ("runner: {name: DirectRunner, option: {}}", r"runner\.option: unknown key; did you mean options\?"),
        ("runner: DirectRunner", r"runner: must be a mapping, not 'DirectRunner'"),
        (
            "runner: {name: FlinkRunner, options: {flink_mastr: x}}",
            r"config\.yaml: runner\.options\.flink_mastr: Beam knows no such option; did you mean flink_m",
        ),
        (
            "runner: {name: FlinkRunner, options: {paralellism: false}}",
            r"paralellism: Beam knows no such option",
        ),
        (
            "runner: {name: FlinkRunner, options: {flink_master: x, parallelism: many}}",
            r"config\.yaml: runner\.options\.parallelism: .*invalid int value: 'many'",
        ),
        ("runner: {name: FlinkRunner}", "--runner FlinkRunner: --flink_master is missing"),
    ],
)
def test_a_runner_that_cannot_be(tmp_path: Path, block: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        chosen(load(tmp_path, f"{LEAST}\n{block}\n"))


def test_a_preset_lies_over_the_config(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("runner: {name: DirectRunner}\ncompute: {workers: 3}\n", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(
        LEAST + RUNNER + "compute: {workers: 2, batch_size: 64}\n", encoding="utf-8"
    )
    loaded = load_config(str(tmp_path / "config.yaml"), preset=str(preset), settings=["compute.shard_rows=5"])
    assert loaded.config.compute.workers == 3
    assert loaded.config.compute.batch_size == 64
    assert loaded.config.compute.shard_rows == 5
    assert chosen(loaded) == ("DirectRunner", [])
    assert loaded.folder == str(tmp_path)
    preset.write_text("runner:\ncompute:\n", encoding="utf-8")
    assert load_config(str(tmp_path / "config.yaml"), preset=str(preset)).config.compute.workers == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 3", r"preset\.yaml: seed: unknown key; known: runner, compute"),
        ("compute: {worker: 3}", r"preset\.yaml: compute\.worker: unknown key; did you mean workers\?"),
        ("runner: {name: X}", r"preset\.yaml: runner\.name: 'X' is not a runner"),
        (
            "runner: {name: FlinkRunner, options: {flink_mastr: x}}",
            r"preset\.yaml: runner\.options\.flink_mastr: Beam knows no",
        ),
        ("- 1", r"preset\.yaml: is not a config"),
    ],
)
def test_a_preset_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "preset.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "config.yaml").write_text(LEAST, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        chosen(load_config(str(tmp_path / "config.yaml"), preset=str(tmp_path / "preset.yaml")))


def test_there_is_no_such_preset(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(LEAST, encoding="utf-8")
    (tmp_path / "flink.yaml").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"flnk\.yaml: there is no such config; did you mean .*flink\.yaml\?"):
        load_config(str(tmp_path / "config.yaml"), preset=str(tmp_path / "flnk.yaml"))


@pytest.mark.parametrize(
    "block",
    [
        'model: {python: "scoring:score"}',
        "model:\n  python: scoring:score",
        'model: {path: "python: scoring:score"}',
        "model: {python: 'python: scoring:score'}",
    ],
)
def test_a_function_in_every_form_is_the_same_config(tmp_path: Path, block: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(LEAST.replace("model: {path: m.keras}", block))
    found = load_config(str(path)).config
    assert found.model.path == "python: scoring:score"
    assert "python" not in found.model_dump()["model"]
    path.write_text(LEAST)
    with pytest.raises(UserError, match="a model has one of the two; leave one of them out"):
        load_config(str(path), settings=["model.python=scoring:score"])
    again = load_config(str(path), settings=["model.path=python: scoring:score"])
    assert again.config.model == found.model.model_copy(update={"python": None})


@pytest.mark.parametrize(
    ("block", "place"),
    [("model:\n  path: python: scoring:score", ":2:15"), ("model: {path: python: scoring:score}", ":1:21")],
)
def test_a_function_without_quotes_says_how_to_write_it(tmp_path: Path, block: str, place: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(LEAST.replace("model: {path: m.keras}", block))
    with pytest.raises(UserError) as error:
        load_config(str(path))
    assert str(error.value).startswith(f"{path}{place}: not valid YAML")
    assert "write python: scoring:score as a separate key" in str(error.value)
    assert 'in quotes: path: "python: scoring:score"' in str(error.value)
