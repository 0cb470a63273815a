"""The Makefile on other machines: another Python, something missing, an environment made before."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[2]
MACHINE = runpy.run_path(str(ROOT / "tools" / "machine.py"))
# A Python that believes to be another, and says what it was asked to do instead of making an environment.
PRETENDER = """#!{python}
import ctypes, importlib.abc, os, runpy, sys
sys.version_info = ({version}, 0)
class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in {lacking!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
load = ctypes.CDLL
def CDLL(name, *rest, **named):
    if name in {lacking!r}:
        raise OSError(name + ": cannot open shared object file: No such file or directory")
    return load(name, *rest, **named)
ctypes.CDLL = CDLL
if sys.argv[1] == "-c":
    exec(sys.argv[2])
elif sys.argv[1:3] == ["-m", "venv"]:
    sys.exit("makes an environment")
else:
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def pretender(folder: Path, version: str, *lacking: str) -> Path:
    """A Python of another version, on a machine that lacks something."""
    path = folder / "python"
    path.write_text(
        PRETENDER.format(python=sys.executable, version=version.replace(".", ", "), lacking=lacking)
    )
    path.chmod(0o755)
    return path


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs make as somebody would type it, outside of the make that runs the tests."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "PYTHON", "VENV")
    }
    command = ["make", "--no-print-directory", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what is missing, before make's own."""
    assert done.returncode != 0
    assert done.stdout == ""
    line, *own = done.stderr.splitlines()
    assert len(own) == 1
    assert own[0].startswith("make: *** ")
    return line


@pytest.mark.parametrize("target", ["quickstart", "test", "lint", "lock"])
@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_a_python_that_is_too_old_or_too_new(tmp_path: Path, version: str, target: str) -> None:
    venv = tmp_path / "venv"
    line = refusal(make(target, f"PYTHON={pretender(tmp_path, version)}", f"VENV={venv}"))
    assert line == (
        f"attribeam needs Python 3.11 to 3.13, and this is {version}; name another: make PYTHON=python3.12"
    )
    assert not venv.exists()


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    line = refusal(make("test", "PYTHON=python3.99", f"VENV={tmp_path / 'venv'}"))
    assert line == "python3.99 is not on this machine; name another: make PYTHON=python3.12"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere LightGBM's wheel needs another library")
@pytest.mark.parametrize(
    ("target", "lacking", "names", "packages"),
    [
        ("test", ["libgomp.so.1"], "the library libgomp.so.1", "libgomp1"),
        ("lint", ["libgomp.so.1"], "the library libgomp.so.1", "libgomp1"),
        ("test", ["ensurepip"], "the module ensurepip", "python3.13-venv"),
        ("quickstart", ["ensurepip", "libgomp.so.1"], "the module ensurepip", "python3.13-venv"),
        (
            "test",
            ["ensurepip", "libgomp.so.1"],
            "the module ensurepip and the library libgomp.so.1",
            "python3.13-venv libgomp1",
        ),
    ],
)
def test_what_the_machine_lacks_is_named_before_anything_is_made(
    tmp_path: Path, target: str, lacking: list[str], names: str, packages: str
) -> None:
    venv = tmp_path / "venv"
    line = refusal(make(target, f"PYTHON={pretender(tmp_path, '3.13', *lacking)}", f"VENV={venv}"))
    assert line == f"this machine lacks {names}; on Debian and Ubuntu: apt install {packages}"
    assert not venv.exists()


def test_the_quickstart_does_without_lightgbm(tmp_path: Path) -> None:
    python = pretender(tmp_path, "3.13", "libgomp.so.1")
    done = make("quickstart", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert done.stderr.splitlines()[0] == "makes an environment"


@pytest.mark.parametrize(
    ("version", "name"),
    [("3.11", "constraints.txt"), ("3.12", "constraints.txt"), ("3.13", "constraints-3.13.txt")],
)
def test_the_interpreter_chooses_the_versions(tmp_path: Path, version: str, name: str) -> None:
    python = pretender(tmp_path, version)
    done = make("--eval=show:;@echo $(CONSTRAINTS)", "show", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert (done.stdout, done.stderr) == (f"{name}\n", "")
    assert (ROOT / name).exists()


def test_a_set_that_two_share_is_resolved_by_the_older(tmp_path: Path) -> None:
    """Releases that need 3.12 would leave 3.11 without a set."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(pretender(tmp_path, "3.12"))
    before = (ROOT / "constraints.txt").read_bytes()
    line = refusal(make("lock", f"VENV={venv}"))
    assert line.startswith("3.11 and 3.12 share constraints.txt")
    assert (ROOT / "constraints.txt").read_bytes() == before


def test_a_named_interpreter_is_not_ignored(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(pretender(tmp_path, "3.11"))
    (tmp_path / "other").mkdir()
    other = pretender(tmp_path / "other", "3.12")
    done = make("test", f"PYTHON={other}", f"VENV={venv}")
    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert f"{venv} has Python 3.11; for {other}: make clean, or name another place, VENV=" in line
    assert make("help", f"PYTHON={other}", f"VENV={venv}").returncode == 0


def test_make_and_pip_admit_the_same_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py", run_name="__main__")
    (_, oldest), (major, newest) = MACHINE["OLDEST"], MACHINE["NEWEST"]
    assert given["python_requires"] == f">=3.{oldest},<{major}.{newest + 1}"
    chosen = re.findall(r"^CONSTRAINTS_(\S+) := ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert chosen == [f"3.{minor}" for minor in range(oldest, newest + 1)]
