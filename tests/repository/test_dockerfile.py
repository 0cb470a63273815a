"""The Dockerfile without Docker: linted, and held against the checkout, the pins and what runners do."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SETUP = runpy.run_path(str(ROOT / "setup.py"))
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[2:]
)


@dataclass
class Stage:
    """A stage with its instructions, each a keyword and the rest of its line."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def of(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.steps if word == keyword]


def stages() -> tuple[dict[str, str], dict[str, Stage]]:
    """The arguments before the first stage, and the stages in order."""
    arguments: dict[str, str] = {}
    found: dict[str, Stage] = {}
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], rest).partition(" AS ")
            found[name] = Stage(name, base)
        elif not found:
            assert word == "ARG"
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            list(found.values())[-1].steps.append((word, rest.strip()))
    return arguments, found


ARGUMENTS, STAGES = stages()
BASE = STAGES["base"]


def copies(stage: Stage) -> list[tuple[list[str], str]]:
    """(sources in the checkout, place in the image) of each COPY."""
    found = []
    for line in stage.of("COPY"):
        words = [word for word in shlex.split(line) if not word.startswith("--chmod")]
        if not words[0].startswith("--from="):
            found.append((words[:-1], words[-1]))
    return found


def sources() -> list[str]:
    return [source for stage in STAGES.values() for names, _ in copies(stage) for source in names]


def checkout() -> list[str]:
    """What a clean checkout holds."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def is_sent(path: str) -> bool:
    """Whether the builder gets a file: the last line that matches it or its folder decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            parts = path.split("/")
            above = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
            if pattern.startswith("**/"):
                matches = any(fnmatch(part, pattern.removeprefix("**/")) for part in parts)
            else:
                matches = any(fnmatch(folder, pattern) for folder in above if folder.count("/") == 0)
            if matches:
                sent = line.startswith("!")
    return sent


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_whatever_is_copied_is_in_a_clean_checkout() -> None:
    files = checkout()
    assert len(sources()) > 5
    for source in sources():
        found = [path for path in files if path == source or path.startswith(f"{source}/")]
        assert found, f"COPY {source}"
        assert all(is_sent(path) for path in found), f"COPY {source}: .dockerignore keeps it back"
    sent = {path for path in files if is_sent(path)}
    wanted = {path for path in sent if any(path == s or path.startswith(f"{s}/") for s in sources())}
    # What helps with the image without being in it.
    assert sent - wanted == {"docker/resolve"}
    assert not is_sent("pipeline/__pycache__/main.cpython-311.pyc")
    assert not is_sent(".git/config")
    assert not is_sent("data/flights/model.keras")


def test_everything_that_is_installed_is_copied() -> None:
    assert {"setup.py", "constraints.txt", "pipeline", "transforms"} <= set(sources())
    assert "clone" not in TEXT


def test_versions_are_the_pinned_ones() -> None:
    python = ARGUMENTS["PYTHON_VERSION"]
    assert STAGES["beam"].base == f"apache/beam_python{python}_sdk:{PINS['apache-beam']}"
    assert BASE.base == f"python:{python}-slim"
    assert f"python{python.replace('.', '')}-" in STAGES["launcher"].base
    assert not STAGES["launcher"].base.endswith(":latest")
    assert f'python_requires=">={python},' in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_the_default_is_not_root_and_dataflow_has_the_same_layers() -> None:
    *_, dataflow, default = STAGES.values()
    assert default.base == dataflow.base == "base"
    assert default.steps == [("USER", "10001:10001")], "nothing but the user"
    assert any("--uid 10001" in rest for rest in BASE.of("RUN"))
    assert dataflow.name == "dataflow"
    assert not dataflow.of("USER")
    assert not BASE.of("USER")
    assert len(dataflow.of("COPY")) == 1
    assert not dataflow.of("RUN")


def test_the_image_is_called_by_its_version() -> None:
    names = set(
        re.findall(r"attribeam:\S+", TEXT + (ROOT / "configs" / "flink.yaml").read_text(encoding="utf-8"))
    )
    assert names == {f"attribeam:{SETUP['VERSION']}"}


def test_boot_and_the_launcher_are_at_their_places() -> None:
    assert "--from=beam /opt/apache/beam /opt/apache/beam" in BASE.of("COPY")
    [copied] = STAGES["dataflow"].of("COPY")
    assert copied == " ".join(["--from=launcher", *["/opt/google/dataflow/python_template_launcher"] * 2])
    [setting] = STAGES["dataflow"].of("ENV")
    place = BASE.of("WORKDIR")[0]
    assert setting == f"FLEX_TEMPLATE_PYTHON_PY_FILE={place}/pipeline/main.py"
    assert (["pipeline"], "pipeline") in copies(BASE)
    metadata = (ROOT / "flex_template" / "metadata.json").read_text(encoding="utf-8")
    presets = re.findall(rf"{place}/(configs/\w+\.yaml)", metadata)
    assert presets == ["configs/dataflow_gpu.yaml"]
    assert (["configs"], "configs") in copies(BASE)
    assert (ROOT / presets[0]).exists()
    # Only root may make a folder where boot would otherwise put an environment of its own.
    assert "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1" in BASE.of("ENV")[0]
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in BASE.of("ENV")[0]


def test_dependencies_are_a_layer_of_their_own() -> None:
    """A change in the code must not build gigabytes of CUDA again."""
    at = next(i for i, (word, rest) in enumerate(BASE.steps) if word == "RUN" and "pip install" in rest)
    before = [rest for word, rest in BASE.steps[:at] if word == "COPY"]
    assert before == ["setup.py constraints.txt ./"]
    steps = [rest for rest in BASE.of("RUN") if "pip install" in rest]
    assert len(steps) == 2
    assert all("--no-cache-dir" in rest for rest in steps)
    assert "--constraint constraints.txt --requirement requirements.txt" in steps[0]
    assert "--no-deps" in steps[1], "the second installs this package alone"


@pytest.mark.parametrize("extras", ["", "gpu,gcp", "trees"])
def test_the_requirements_are_those_of_setup(extras: str, tmp_path: Path) -> None:
    """The step's own Python is run, on what it finds in the image."""
    for name in ("setup.py", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    step = next(rest for rest in BASE.of("RUN") if "pip install" in rest).split(" && ")[0]
    assert step.startswith("python -c ")
    command = f"{shlex.quote(sys.executable)}{step.removeprefix('python')}"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env={"EXTRAS": extras}, check=True)
    lines = (tmp_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    expected = [*SETUP["INSTALL_REQUIRES"]]
    for extra in filter(None, extras.split(",")):
        expected += SETUP["EXTRAS_REQUIRE"][extra]
    assert lines == expected


def test_the_library_that_lightgbm_needs_is_there() -> None:
    """Before pip's steps: python:slim has no libgomp, and LightGBM's wheel does not bring it."""
    steps = BASE.of("RUN")
    [at] = [place for place, rest in enumerate(steps) if " libgomp1 " in rest]
    assert "apt-get update" in steps[at]
    assert at < next(place for place, rest in enumerate(steps) if "pip install" in rest)


def test_the_default_extras_exist() -> None:
    [line] = [rest for rest in BASE.of("ARG") if rest.startswith("EXTRAS=")]
    [extras] = shlex.split(line.partition("=")[2])
    assert extras.split(",") == ["gpu", "gcp"]
    assert set(extras.split(",")) <= set(SETUP["EXTRAS_REQUIRE"])


@pytest.mark.skipif(
    "{}.{}".format(*sys.version_info) != ARGUMENTS["PYTHON_VERSION"],
    reason="the image has another Python, with other versions",
)
def test_the_core_resolves(tmp_path: Path) -> None:
    """The pip step itself, installing nothing; docker/resolve does the same for the extras, and downloads."""
    for name in ("setup.py", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    make, install = next(rest for rest in BASE.of("RUN") if "pip install" in rest).split(" && ")
    python = shlex.quote(sys.executable)
    command = (
        f"{python}{make.removeprefix('python')} && "
        f"{python} -m {install.strip()} --dry-run --no-index --disable-pip-version-check"
    )
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env={"EXTRAS": ""}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def test_the_package_is_built_from_what_is_copied(tmp_path: Path) -> None:
    """The second pip step, on a folder that holds no more than the image has by then."""
    for path in checkout():
        if any(path == source or path.startswith(f"{source}/") for source in sources()):
            (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / "src" / path)
    install = [rest for rest in BASE.of("RUN") if "pip install" in rest][1].split(" && ")[0]
    assert install == "pip install --no-cache-dir --no-deps --no-build-isolation ."
    options = shlex.split(install)[2:]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--wheel-dir", tmp_path, *options],
        cwd=tmp_path / "src",
        check=True,
        timeout=120,
    )
    [wheel] = tmp_path.glob("attribeam-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
    wanted = {path for path in checkout() if path.startswith(("pipeline/", "transforms/"))}
    assert wanted <= held


@pytest.mark.parametrize(
    ("given", "program"),
    [
        ([], "attribeam"),
        (["--help"], "attribeam"),
        (["explain", "configs/flights.yaml", "--set=name=a b"], "attribeam"),
        (["--worker_pool"], "boot"),
        (["--id=1-1", "--provision_endpoint=localhost:1", "--logging_endpoint=localhost:2"], "boot"),
    ],
)
def test_one_entrypoint_for_people_and_runners(given: list[str], program: str, tmp_path: Path) -> None:
    assert [json.loads(line) for line in BASE.of("ENTRYPOINT")] == [["/opt/attribeam/entrypoint"]]
    assert "--chmod=755 docker/entrypoint entrypoint" in BASE.of("COPY")
    for name in ("attribeam", "boot"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name}\nfor one in "$@"; do echo "$one"; done\n')
        (tmp_path / name).chmod(0o755)
    script = (ROOT / "docker" / "entrypoint").read_text(encoding="utf-8")
    assert "exec /opt/apache/beam/boot" in script
    here = script.replace("/opt/apache/beam/boot", str(tmp_path / "boot"))
    for arguments in [given, [str(tmp_path / "boot"), *given]] if program == "boot" else [given]:
        done = subprocess.run(
            ["sh", "-c", here, "entrypoint", *arguments],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines() == [program, *given]
