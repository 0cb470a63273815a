"""The Flex Template: its parameters are what the launcher takes, and the launcher does not wait."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import load_run, main
from pipeline.cli.commands import cli
from pipeline.runners.flags import check_flags
from tests.support import cloud, worlds
from tests.support.memory_filesystem import MemoryFileSystem

ROOT = Path(__file__).resolve().parents[2]
METADATA = json.loads((ROOT / "flex_template" / "metadata.json").read_text(encoding="utf-8"))
PARAMETERS: dict[str, dict[str, Any]] = {found["name"]: found for found in METADATA["parameters"]}
#: Of each parameter: what it must let through, and what not.
VALUES = {
    "config": (["gs://bucket/flights/configs/flights.yaml", "gs://b/c.yml"], ["configs/flights.yaml", "gs://b/c"]),
    "sdk_container_image": ([cloud.IMAGE, "localhost:5000/attribeam"], ["attribeam", "a/b c"]),
    "preset": (["/opt/attribeam/configs/dataflow_gpu.yaml", "gs://b/p.yaml"], ["p.yaml", "gs://b/p.json"]),
    "output": (["gs://bucket/runs/2026-11-21"], ["runs", "gs://bucket"]),
    "date": (["2026-11-21"], ["21.11.2026"]),
    "limit": (["1000"], ["0", "-1", "ten"]),
    "overwrite": (["true", "false"], ["yes"]),
    "worker_accelerator": (
        ["nvidia-l4", "type:nvidia-tesla-t4;count:2;install-nvidia-driver:5xx", "nvidia-l4;use_nvidia_mps"],
        ["", "nvidia l4", "nvidia-l4;"],
    ),
}  # fmt: skip


def test_every_parameter_is_described() -> None:
    assert set(METADATA) == {"name", "description", "parameters"}
    assert set(VALUES) == set(PARAMETERS)
    types = {"TEXT", "GCS_READ_FILE", "GCS_WRITE_FOLDER"}
    for found in PARAMETERS.values():
        assert set(found) - {"isOptional"} == {"name", "label", "helpText", "regexes", "paramType"}
        assert found["paramType"] in types
        assert found["label"]
        assert found["helpText"].endswith(".")
    required = {name for name, found in PARAMETERS.items() if not found.get("isOptional", False)}
    assert required == {"config", "sdk_container_image"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_regexes(name: str) -> None:
    right, wrong = VALUES[name]
    [regex] = PARAMETERS[name]["regexes"]
    assert all(re.fullmatch(regex, value) for value in right)
    assert not any(re.fullmatch(regex, value) for value in wrong)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_launcher_takes_every_parameter(name: str) -> None:
    """Each is an option of `explain`, or a flag of Beam's; none is passed over."""
    options = {option for param in cli.commands["explain"].params for option in param.opts}
    for value in VALUES[name][0]:
        line = main.with_verb(
            [f"--{name}={value}", *([] if name == "config" else ["--config=gs://b/c.yaml"])]
        )
        assert line[0] == "explain"
        rest = line[2:]
        if name == "config":
            assert line == ["explain", value]
        elif name == "overwrite":
            assert rest == (["--overwrite"] if value == "true" else [])
        elif f"--{name}" in options:
            assert rest == [f"--{name}={value}"]
        else:
            assert check_flags(rest) == [f"--{name}={value}"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--output=o", "--config=c", "--runner=X"], ["explain", "c", "--output=o", "--runner=X"]),
        (
            ["--output", "o", "--config", "c", "--limit", "5"],
            ["explain", "c", "--output", "o", "--limit", "5"],
        ),
        (["--config=c", "--limit=", "--date=", "--overwrite=False"], ["explain", "c"]),
        # What people type is left alone.
        (["explain", "c", "--set=model.path="], ["explain", "c", "--set=model.path="]),
        (["methods", "--config", "c"], ["methods", "--config", "c"]),
        (["--help"], ["--help"]),
        (["--runner=X"], ["--runner=X"]),
        ([], []),
    ],
)
def test_flags_alone(given: list[str], expected: list[str]) -> None:
    assert main.with_verb(given) == expected


def test_the_launcher(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As Dataflow's launcher starts it: a job's description is left at its place, nothing is waited for."""
    MemoryFileSystem.blobs.clear()
    dataflow = cloud.take_jobs(monkeypatch)
    place = cloud.upload(worlds.vectors().folder, "vectors")
    parameters = [
        f"--config={place}/parquet.yaml",
        f"--sdk_container_image={cloud.IMAGE}",
        "--overwrite=false",
        "--worker_accelerator=nvidia-l4",
        "--output=mem://bucket/run",
    ]
    dataflows = [
        "--runner=DataflowRunner",
        *cloud.FLAGS,
        "--job_name=nightly",
        "--machine_type=g2-standard-8",
        "--template_location=gs://bucket/staging/template_launches/1/job_object",
        '--labels={"goog-dataflow-provided-template-type": "flex"}',
    ]
    monkeypatch.setattr(sys, "argv", ["main.py", *dataflows, *parameters])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 0, capsys.readouterr().err
    assert "submitted" in capsys.readouterr().out
    assert dataflow.staged == ["pipeline.pb", "job_object"]
    assert not dataflow.jobs, "Dataflow itself starts the job that was described"
    [described] = dataflow.descriptions
    assert described["name"] == "nightly"
    assert described["labels"]["goog-dataflow-provided-template-type"] == "flex"
    assert described["labels"]["attribeam-method"] == "integrated_gradients"
    assert described["environment"]["workerPools"][0]["workerHarnessContainerImage"] == cloud.IMAGE
    cloud.run_here(dataflow.pipelines[0])
    assert load_run("mem://bucket/run").manifest["counts"]["rows_read"] == 301
    MemoryFileSystem.blobs.clear()


def test_the_file_is_run_as_a_script(tmp_path: Path) -> None:
    """By a launcher that knows nothing of packages, from any folder."""
    done = subprocess.run(
        [sys.executable, inspect.getfile(main), "--config=none.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: none.yaml: there is no such config; check the path"
