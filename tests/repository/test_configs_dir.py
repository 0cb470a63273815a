"""Every config in configs/ is planned on a small version of its data; a new one needs a line here."""

from __future__ import annotations

import json
import shlex
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.config.config import load_config
from pipeline.execution.run import preview
from tests.support import cloud, worlds
from tests.support.memory_filesystem import MemoryFileSystem

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted((ROOT / "configs").glob("*.y*ml"))
#: Say how and where a config is run; the flags that only a user can know.
PRESETS = {
    "local": "",
    "flink": "--flink_master=127.0.0.1:{port}",
    "dataflow_gpu": f"{shlex.join(cloud.FLAGS)} --sdk_container_image={cloud.IMAGE}",
}
CONFIGS = [path for path in ALL if path.stem not in PRESETS]
#: The example data that a config reads, by its name.
DATA = {
    "digits": "digits",
    "flights": "flights",
    "flights_shap": "flights",
    "flights_tfrecord": "flights",
}


def test_every_config_has_data() -> None:
    assert {path.stem for path in ALL} == set(DATA) | set(PRESETS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_opens_with_its_command_and_what_it_writes(config: Path) -> None:
    head = config.read_text(encoding="utf-8").split("\nname:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"attribeam explain configs/{config.name}" in head
    assert f"python -m examples.{DATA[config.stem]} --out data/{DATA[config.stem]}" in head
    output = yaml.safe_load(config.read_text(encoding="utf-8"))["output"]["path"]
    assert f"writes to {output.removeprefix('../')}: " in head


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_is_planned(config: Path) -> None:
    folder = worlds.workshop()
    before = sorted(folder.rglob("*"))
    summary = preview(load_config(str(folder / "configs" / config.name)))
    assert sorted(folder.rglob("*")) == before
    assert summary["rows"] > 500
    assert summary["evaluations_per_row"] > 0
    assert summary["estimate"]["seconds"] > 0
    assert Path(summary["output"]).is_relative_to(folder / "runs")


def test_the_two_flights_configs_give_the_same() -> None:
    folder = worlds.workshop() / "configs"
    one, other = (
        worlds.explain(folder / name, worlds.shelf() / name, "compute.batch_size=64", limit=150)
        for name in ("flights.yaml", "flights_tfrecord.yaml")
    )
    assert one.manifest["counts"]["rows_attributed"] > 100
    assert other.manifest["counts"] == one.manifest["counts"]
    assert other.attributions()["example_id"] == one.attributions()["example_id"]
    np.testing.assert_array_equal(worlds.phi(other.attributions()), worlds.phi(one.attributions()))


# -- presets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_opens_with_its_command(preset: str) -> None:
    text = (ROOT / "configs" / f"{preset}.yaml").read_text(encoding="utf-8")
    head = text.split("\nrunner:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"--preset configs/{preset}.yaml" in head
    flags = [flag.partition("=")[0] for flag in shlex.split(PRESETS[preset]) if flag != "--no_auth"]
    assert not [flag for flag in flags if f"{flag}=" not in head], "the command must name what it needs"
    assert set(yaml.safe_load(text)) == {"runner", "compute"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a Flink cluster that says how many slots it has and does nothing."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "java" else which(name))

    class Overview(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"slots-total": 4, "slots-available": 4, "flink-version": "1.19.3"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Overview) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_planned(preset: str, cluster: int) -> None:
    """With the quickstart's config, for Dataflow in a bucket beside its data."""
    given = shlex.split(PRESETS[preset].format(port=cluster))
    folder: object = worlds.workshop()
    if preset == "dataflow_gpu":
        MemoryFileSystem.blobs.clear()
        cloud.upload(worlds.workshop() / "data" / "flights", "flights/data/flights")
        folder = cloud.upload(worlds.workshop() / "configs", "flights/configs").removesuffix("/configs")
    path = str(ROOT / "configs" / f"{preset}.yaml")
    config = f"{folder}/configs/flights.yaml"
    loaded = load_config(config, preset=path)
    summary = preview(loaded, flags=given)
    plain = preview(load_config(config))
    MemoryFileSystem.blobs.clear()
    block = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    assert summary["runner"] == block["runner"]["name"]
    assert summary["rows"] == plain["rows"] > 500
    assert loaded.config.compute.workers == block["compute"]["workers"]
    assert summary["output"] == f"{folder}/runs/flights"
    names = [found["file"] for found in summary["files"]]
    assert names == [found["file"] for found in plain["files"]]
    assert all(name.startswith("../data/flights/flights-2013q") for name in names), "as on this machine"
    flags = summary["flags"]
    if preset == "flink":
        masters = [flag for flag in flags if flag.startswith("--flink_master=")]
        assert masters == ["--flink_master=localhost:8081", *given], "the last counts: the command line's"
        assert {"--environment_type=EXTERNAL", "--environment_config=localhost:50000"} <= set(flags)
    if preset == "dataflow_gpu":
        assert "--number_of_worker_harness_threads=2" in flags
        assert "--experiments=no_use_multiple_sdk_containers" in flags
        assert any(flag.endswith("=type:nvidia-l4;count:1;install-nvidia-driver") for flag in flags)
        assert "--labels=application=attribeam" in flags
