"""Every config in configs/ is planned on a small version of its data; a new one needs a line in DATA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import worlds
import yaml

from pipeline.config import load_config
from pipeline.probe import probe
from pipeline.run import preview

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.y*ml"))
#: The example data that a config reads, by its name.
DATA = {
    "digits": "digits",
    "flights": "flights",
    "flights_shap": "flights",
    "flights_tfrecord": "flights",
}


def test_every_config_has_data() -> None:
    assert {path.stem for path in CONFIGS} == set(DATA)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_opens_with_its_command_and_what_it_writes(config: Path) -> None:
    head = config.read_text(encoding="utf-8").split("\nname:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"attribeam explain configs/{config.name}" in head
    assert f"python -m examples.{DATA[config.stem]} --out data/{DATA[config.stem]}" in head
    output = yaml.safe_load(config.read_text(encoding="utf-8"))["output"]["path"]
    assert f"writes to {output.removeprefix('../')}: " in head


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_is_planned(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.plan.probe_in_child", probe)
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
