"""What goes wrong in a newcomer's first hour: one clear line on stderr, status 2, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import commands as cli
from tests.support import worlds

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mistake:
    """A mistake and what the one line must hold.

    Args:
      name: Of the test.
      words: Parts of the line, in order.
      arguments: After `explain trips.yaml --output run`, in the folder of a copy of the trips.
      spoil: Changes the folder first.
      command: Instead of `explain trips.yaml --output run`.
    """

    name: str
    words: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    spoil: Callable[[Path], object] = lambda folder: None
    command: tuple[str, ...] = ("explain", "trips.yaml", "--output", "run")


def sets(
    name: str, setting: str, *words: str, spoil: Callable[[Path], object] = lambda folder: None
) -> Mistake:
    return Mistake(name, words, ("--set", setting), spoil)


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def appended(content: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "trips.yaml"
        path.write_text(path.read_text(encoding="utf-8") + content, encoding="utf-8")

    return change


def truncated(folder: Path) -> None:
    path = folder / "model.keras"
    path.write_bytes(path.read_bytes()[:2000])


def hollow(folder: Path) -> None:
    """An archive, but of something else."""
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("letter.txt", "Dear mother")


def half_parquet(folder: Path) -> None:
    for path in folder.glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-100])


def cities_are_numbers(folder: Path) -> None:
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        at = table.column_names.index("city")
        pq.write_table(table.set_column(at, "city", pa.array(range(len(table)))), path)


def second_file_lacks_wind(folder: Path) -> None:
    path = folder / "trips-2.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["wind"]), path)


def empty_files(folder: Path) -> None:
    for path in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(path).slice(0, 0), path)


def lambda_model(folder: Path) -> None:
    import keras

    inputs = keras.Input((2,), name="x")
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(folder / "model.keras")


MODEL, INPUT = "model.path=", "input.files="
MISTAKES = [
    # Wrong paths.
    Mistake(
        "no config",
        ("trip.yaml: there is no such config", "did you mean trips.yaml?"),
        (),
        command=("explain", "trip.yaml"),
    ),
    Mistake("config is a folder", (".: cannot be read: it is a folder",), command=("explain", ".")),
    Mistake(
        "config is data",
        ("trips-1.parquet: is not UTF-8 text", "YAML config"),
        command=("explain", "trips-1.parquet"),
    ),
    sets(
        "no data",
        INPUT + "trip-*.parquet",
        "trips.yaml: input.files: trip-*.parquet: no file matches",
        "did you mean",
    ),
    sets("no data in a list", "input.files=[trips-*.parquet, nothing.parquet]", "nothing.parquet"),
    sets("no folder of data", INPUT + "nowhere/*.parquet", "nowhere"),
    sets(
        "no model", MODEL + "modle.keras", "modle.keras: there is no such model", "did you mean model.keras?"
    ),
    sets("no folder of models", MODEL + "nowhere/model.keras", "nowhere/model.keras: there is no such model"),
    sets(
        "no baseline", "baseline={kind: file, path: base.parquet}", "trips.yaml: baseline.path: base.parquet"
    ),
    # Wrong columns and types.
    sets(
        "no feature column",
        "input.features=[city, hour, distanse, wind]",
        "trips.yaml: input.features",
        "no column 'distanse'",
        "did you mean distance?",
    ),
    sets("no id column", "input.id=tripp", "trips.yaml: input.id", "'tripp'", "did you mean trip?"),
    sets(
        "no slice column",
        "input.slices=[carier]",
        "trips.yaml: input.slices",
        "'carier'",
        "did you mean carrier?",
    ),
    sets(
        "no target column",
        "model.target={column: wich}",
        "trips.yaml: model.target",
        "'wich'",
        "did you mean which?",
    ),
    sets(
        "no member of a group",
        "input.groups={weather: [wind, rain]}",
        "trips.yaml: input.groups.weather",
        "'rain'",
    ),
    Mistake(
        "a column of numbers for words",
        ("trips.yaml: input.features", "city", "int64", "strings"),
        spoil=cities_are_numbers,
    ),
    Mistake("a column missing in one file", ("trips-2.parquet", "wind"), spoil=second_file_lacks_wind),
    sets(
        "a fill of the wrong type",
        "input.features=[city, hour, {name: distance, fill: none}, wind]",
        "trips.yaml: input.features",
        "distance",
        "'none'",
        "number",
    ),
    # Wrong keys and values.
    Mistake(
        "unknown key at the top",
        ("trips.yaml: metod: unknown key", "did you mean method?"),
        spoil=appended("metod: x\n"),
    ),
    sets(
        "unknown key in a block",
        "input.feature=[a]",
        "trips.yaml: input.feature: unknown key",
        "did you mean features?",
    ),
    sets(
        "unknown key in a list",
        "input.features=[{name: city, fil: x}]",
        "trips.yaml: input.features.0.fil: unknown key",
        "did you mean fill?",
    ),
    sets(
        "unknown key of the method",
        "method.n_step=3",
        "trips.yaml: method.n_step: unknown key",
        "did you mean n_steps?",
    ),
    sets(
        "key of another method",
        "method.n_samples=3",
        "trips.yaml: method.n_samples: unknown key",
        "expected_gradients",
    ),
    sets(
        "unknown method",
        "method=integrated_gradient",
        "trips.yaml: method.name: 'integrated_gradient' is not a method",
        "did you mean integrated_gradients?",
    ),
    sets(
        "value of the wrong type",
        "compute.batch_size=many",
        "trips.yaml: compute.batch_size: must be a whole number, not 'many'",
    ),
    sets("value out of range", "compute.workers=0", "trips.yaml: compute.workers: must be at least 1, not 0"),
    sets(
        "value of no choice",
        "model.score=logits",
        "trips.yaml: model.score: must be auto, output, logit or probability, not 'logits'",
        "did you mean logit?",
    ),
    sets(
        "value of a method's key",
        "method.n_steps=1.5",
        "trips.yaml: method.n_steps: must be a whole number, not 1.5",
    ),
    sets("missing block", "model=", "trips.yaml: model: is missing"),
    Mistake("a key twice", ("trips.yaml:", "the key 'name' is given twice"), spoil=appended("name: again\n")),
    Mistake("YAML that does not end", ("trips.yaml:", "not valid YAML"), spoil=appended("seed: [1\n")),
    Mistake(
        "YAML with a tab",
        ("trips.yaml:", "not valid YAML", "indent with spaces"),
        spoil=appended("limits:\n\trejected: 1\n"),
    ),
    Mistake(
        "an empty config",
        ("trips.yaml: is empty", "model, input, method and output"),
        spoil=text("trips.yaml", ""),
    ),
    Mistake("not a config", ("trips.yaml: is not a config",), spoil=text("trips.yaml", "Dear mother")),
    Mistake("a key that is a number", ("trips.yaml: 1: unknown key", "known: "), spoil=appended("1: 2\n")),
    Mistake("a key that is true", ("trips.yaml: true: unknown key",), spoil=appended("true: 2\n")),
    Mistake("a key named like a type", ("trips.yaml: int: unknown key",), spoil=appended("int: 2\n")),
    Mistake("an empty key", ("trips.yaml:", "not valid YAML: a key must be text"), spoil=appended("? \n")),
    sets("max_steps below n_steps", "method.max_steps=3", "method.max_steps: 3 is below n_steps: 20"),
    sets(
        "a tolerance that the default max_steps makes void",
        "method={name: integrated_gradients, n_steps: 3000, tolerance: 0.1}",
        "trips.yaml: method.max_steps: 2000 is below n_steps: 3000",
        "raise max_steps",
    ),
    Mistake(
        "an empty output.path",
        ("trips.yaml: output.path: is empty; give a path",),
        command=("explain", "trips.yaml", "--set", 'output.path=""'),
    ),
    sets("an empty input.files", 'input.files=""', "trips.yaml: input.files: is empty; give a path"),
    sets("an empty file", 'input.files=[trips-1.parquet, ""]', "trips.yaml: input.files.1: is empty"),
    # Wrong models.
    Mistake(
        "a model that is text",
        ("trips.yaml: model.path: ", "model.keras: is not a Keras archive; save the model with"),
        spoil=text("model.keras", "Dear mother"),
    ),
    Mistake("a truncated model", ("model.keras",), spoil=truncated),
    Mistake(
        "another archive",
        (
            "trips.yaml: model.path: ",
            "model.keras: is an archive, but not of a Keras model",
            "model.save",
        ),
        spoil=hollow,
    ),
    sets(
        "a model of no known kind",
        MODEL + "model.mojo",
        "model.mojo",
        ".mojo is not a known kind of model",
        ".keras",
        spoil=text("model.mojo", "x"),
    ),
    sets(
        "a model without a suffix",
        MODEL + "model",
        "model",
        "not a known kind of model",
        spoil=text("model", "x"),
    ),
    sets(
        "a folder that is no model",
        MODEL + "saved",
        "saved: the folder does not hold a saved_model.pb",
        spoil=lambda folder: (folder / "saved").mkdir(),
    ),
    Mistake(
        "a model with code in it",
        ("model.keras", "set model.allow_unsafe: true if you trust the file"),
        spoil=lambda_model,
    ),
    sets("a module that is not there", "model.modules=[my_layers]", "my_layers", "cannot be imported"),
    # Wrong targets.
    sets(
        "target index",
        "model.target=1",
        "trips.yaml: model.target: 1 is not an output index",
        "1 output",
        "give 0",
    ),
    sets("target index below 0", "model.target=-1", "trips.yaml: model.target: -1 is not an output index"),
    sets(
        "target name",
        "model.target=lat",
        "trips.yaml: model.target: 'lat' is not an output",
        "did you mean late?",
    ),
    # Data that is not what it should be.
    Mistake(
        "not Parquet",
        (
            "trips-2.parquet: is a CSV file, not Parquet",
            "convert it, say by duckdb",
        ),
        spoil=text("trips-2.parquet", "a,b\n1,2\n"),
    ),
    Mistake(
        "truncated Parquet files and no others",
        (
            "trips.yaml: input.files: trips-1.parquet: cannot be read as Parquet: the file begins as Parquet "
            "but has no footer",
            "nor can the other 1 be read",
            "mend the files",
        ),
        spoil=half_parquet,
    ),
    sets(
        "not TFRecord",
        INPUT + "a.tfrecord",
        "a.tfrecord",
        "TFRecord",
        spoil=text("a.tfrecord", "Dear mother, " * 9),
    ),
    sets(
        "an unknown suffix",
        INPUT + "a.csv",
        "trips.yaml: input.files: a.csv: is a CSV file, and Parquet or TFRecord is needed; convert it",
        spoil=text("a.csv", "a,b\n"),
    ),
    sets(
        "an unknown suffix of a baseline",
        "baseline={kind: file, path: a.csv}",
        "trips.yaml: baseline.path: a.csv: is a CSV file, and Parquet or TFRecord is needed; convert it",
        spoil=text("a.csv", "a,b\n"),
    ),
    sets(
        "both formats",
        "input.files=[trips-1.parquet, a.tfrecord]",
        "trips.yaml: input.files: trips-1.parquet is Parquet and a.tfrecord is TFRecord",
        spoil=lambda folder: worlds.write_tfrecord(folder / "a.tfrecord", [{"a": 1}]),
    ),
    Mistake("no rows", ("trips.yaml: input.files: the input has no rows",), spoil=empty_files),
    # Where the run goes.
    Mistake("a file in the way", ("run: is a file", "--output"), spoil=text("run", "")),
    Mistake(
        "a file in the way above",
        ("run: is a file", "--output"),
        spoil=text("run", ""),
        command=("explain", "trips.yaml", "--output", "run/today"),
    ),
    Mistake(
        "somebody's folder",
        ("run: is not a run directory: it holds letter.txt",),
        spoil=lambda folder: ((folder / "run").mkdir(), text("run/letter.txt", "")(folder)),
    ),
    Mistake(
        "an empty --output",
        ("error: --output: is empty; give the run directory",),
        command=("explain", "trips.yaml", "--output", ""),
    ),
    Mistake(
        "a place where no file can be made",
        ("/proc: cannot be written", "--output"),
        command=("explain", "trips.yaml", "--output", "/proc/none/run"),
    ),
    Mistake(
        "plan checks that the place can be written",
        ("/proc: cannot be written", "--output"),
        command=("plan", "trips.yaml", "--output", "/proc/none/run"),
    ),
    # The command line.
    Mistake(
        "--set without a value",
        ("--set n_steps: is not of the form key=value", "for example"),
        ("--set", "n_steps"),
    ),
    Mistake(
        "--set through a value",
        ("--set model.path.x=1: model.path has no keys",),
        ("--set", "model.path.x=1"),
    ),
    Mistake(
        "--set of broken YAML", ("--set input.features=[a", "not valid YAML"), ("--set", "input.features=[a")
    ),
    Mistake("--limit 0", ("--limit: 0 is not in the range", "attribeam explain --help"), ("--limit", "0")),
    Mistake("--limit of words", ("--limit: 'ten' is not a valid integer",), ("--limit", "ten")),
    Mistake(
        "--date of another form",
        ("--date: '21.11.2026' is not a date; write YYYY-MM-DD",),
        ("--date", "21.11.2026"),
    ),
    Mistake("--date that is none", ("--date: '2026-02-30' is not a date",), ("--date", "2026-02-30")),
    Mistake(
        "unknown flag", ("--frobnicate=1: neither attribeam nor Beam knows this flag",), ("--frobnicate=1",)
    ),
    Mistake("misspelt flag", ("--ouput: neither", "did you mean --output?"), ("--ouput", "x")),
    Mistake("Beam flag of the wrong type", ("--num_workers", "'two'"), ("--num_workers=two",)),
    Mistake("unknown runner", ("--runner: 'Spark' is not one of", "DirectRunner"), ("--runner", "Spark")),
    Mistake(
        "Dataflow without its flags",
        (
            "--runner DataflowRunner",
            "temp_location",
            "Missing required option: project.",
            "Missing required option: region",
            "give --project=",
        ),
        ("--runner", "DataflowRunner"),
    ),
    Mistake(
        "Dataflow with a project that is none",
        ("--runner DataflowRunner: Invalid Project ID (A)",),
        ("--runner=DataflowRunner", "--project=A", "--region=r", "--staging_location=gs://bucket/x"),
    ),
    Mistake(
        "Dataflow with a place that is none",
        ("--runner DataflowRunner: Invalid GCS path (here), given for the option: temp_location",),
        ("--runner=DataflowRunner", "--project=abcdef", "--region=r", "--temp_location=here"),
    ),
    Mistake(
        "Flink without a master",
        ("--runner FlinkRunner: --flink_master is missing; give --flink_master=",),
        ("--runner", "FlinkRunner"),
    ),
    Mistake(
        "a flag that Beam does not take",
        ("--runner DirectRunner: Unrecognized", "nonsense; see Beam's pipeline options"),
        ("--type_check_additional=nonsense",),
    ),
    Mistake("two configs", ("extra argument", "more.yaml"), ("more.yaml",)),
    Mistake("no config at all", ("CONFIG: is missing; see attribeam explain --help",), command=("explain",)),
    Mistake(
        "plan checks the same",
        ("trips.yaml: method.n_step: unknown key",),
        ("--set", "method.n_step=3"),
        command=("plan", "trips.yaml"),
    ),
    Mistake(
        "unknown verb", ("expalin: no such verb; did you mean explain?",), command=("expalin", "trips.yaml")
    ),
    Mistake("no verb", ("a verb is missing", "attribeam explain CONFIG"), command=()),
    Mistake(
        "unknown option of show",
        ("--jsn: no such option", "--json"),
        command=("show", "run", "trip 1", "--jsn"),
    ),
    Mistake("show no run", ("run: there is no such run",), command=("show", "run", "trip 1")),
    Mistake(
        "show a folder",
        (".: is not a run directory: it holds no manifest.json",),
        command=("show", ".", "trip 1"),
    ),
    Mistake(
        "unknown method to tell of",
        ("methods: 'saliancy' is not a method; did you mean saliency?",),
        command=("methods", "saliancy"),
    ),
]


@pytest.fixture
def trips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = worlds.trips().parent
    for name in ("trips.yaml", "model.keras", "trips-1.parquet", "trips-2.parquet"):
        shutil.copy(source / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_line(out: str, err: str) -> str:
    """The one line, after checking that it is all that a user must read."""
    assert out == ""
    lines = err.splitlines()
    assert lines, "nothing is said"
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in err
    assert len(lines[-1]) < 500
    return lines[-1]


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake(mistake: Mistake, trips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistake.spoil(trips)
    before = sorted(trips.rglob("*"))
    status = cli.run([*mistake.command, *mistake.arguments])
    captured = capsys.readouterr()
    line = error_line(captured.out, captured.err)
    assert status == 2, line
    at = 0
    for word in mistake.words:
        found = line.find(word, at)
        assert found >= 0, f"{word!r} is not in {line!r}"
        at = found + len(word)
    assert sorted(trips.rglob("*")) == before, "an error writes nothing"


def test_the_table_has_no_twins() -> None:
    names = [mistake.name for mistake in MISTAKES]
    assert len(set(names)) == len(names) > 60


def test_no_permission_to_write(
    trips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the question is answered for it."""
    real = os.access
    closed = str(trips / "closed")
    Path(closed).mkdir()

    def access(path: str, mode: int, **options: bool) -> bool:
        return False if os.fspath(path).startswith(closed) and mode & os.W_OK else real(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    status = cli.run(["explain", "trips.yaml", "--output", f"{closed}/run"])
    captured = capsys.readouterr()
    line = error_line(captured.out, captured.err)
    assert status == 2
    assert f"{closed}: cannot be written: permission denied" in line
    assert "--output" in line


def test_an_unknown_example(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips())
    assert cli.run(["show", run.path, "trip 999"]) == 2
    captured = capsys.readouterr()
    line = error_line(captured.out, captured.err)
    assert "there is no example 'trip 999'; its ids look like 'trip 0', 'trip 1', 'trip 2'" in line


def test_a_rejected_example(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips())
    assert cli.run(["show", run.path, "trip 11"]) == 2
    captured = capsys.readouterr()
    assert "example 'trip 11' was rejected: distance is null" in error_line(captured.out, captured.err)


def test_an_id_that_begins_with_a_dash_has_a_way(capsys: pytest.CaptureFixture[str]) -> None:
    """It reads like an option, and the line says where it has to stand."""
    for name in ("-x", "--7"):
        assert cli.run(["show", "run", name]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"error: {name}: no such option")
        assert line.endswith(f"An id that begins with a dash goes after --: attribeam show RUN -- '{name}'")
    assert cli.run(["show", "nowhere", "--", "-x"]) == 2
    assert "no such option" not in capsys.readouterr().err


def test_a_run_without_attributions_cannot_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run = worlds.explained(worlds.trips(), "output.attributions=none")
    assert cli.run(["show", run.path, "trip 1"]) == 2
    captured = capsys.readouterr()
    assert "holds no attributions; set output.attributions: all" in error_line(captured.out, captured.err)


def test_control_characters_do_not_reach_the_terminal(
    trips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["explain", "a\x1b[31m\nb.yaml"]) == 2
    captured = capsys.readouterr()
    line = error_line(captured.out, captured.err)
    assert captured.err.count("\n") == 1
    assert "\x1b" not in line
    assert "\\x1b[31m" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explain", "trips.yaml", "--set", "model.target=lat"], "did you mean late?"),
        (["plan", "trips.yaml", "--set", "model.path=broken.keras"], "broken.keras"),
        (["explain", "nothing.yaml", "--json"], "nothing.yaml: there is no such config"),
    ],
)
def test_in_a_process_of_its_own(arguments: list[str], words: str, trips: Path) -> None:
    """With TensorFlow's and Beam's own greetings, the error is still the last line, and stdout is empty."""
    (trips / "broken.keras").write_bytes(b"PK\x03\x04 and nothing more")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=trips,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert words in error_line(done.stdout, done.stderr)


def test_debug_shows_the_traceback(trips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "trips.yaml", "--set", "method.n_step=1", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: trips.yaml: method.n_step")
