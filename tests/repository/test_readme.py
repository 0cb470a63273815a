"""The README and docs/ are true: their Python and their method are run on a small copy of the quickstart."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import pipeline
from pipeline.config import config as config_module
from tests.support import worlds
from tests.support.pages import PAGES, README, ROOT, block
from transforms.methods import METHODS, check_method_contract

#: A newcomer reads the README to its end.
LONGEST = 200


@pytest.fixture(scope="module")
def checkout() -> Path:
    """A folder laid out like a checkout, with a small part of the flights, explained."""
    place = worlds.workshop()
    pipeline.explain(place / "configs" / "flights.yaml")
    return place


@pytest.fixture
def here(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(checkout)
    mpl.use("Agg")
    yield checkout
    import matplotlib.pyplot as plt

    plt.close("all")


def test_duckdb_query(here: Path) -> None:
    import duckdb

    found = duckdb.sql(block("duckdb")).fetchall()
    table = pq.read_table(here / "runs/flights/attributions").to_pandas()
    assert {row[0]: row[1] for row in found} == table.groupby("origin").size().to_dict()
    rain = {row[0]: row[2] for row in found}
    expected = table["attribution"].map(lambda value: abs(value["precip"])).groupby(table["origin"]).mean()
    assert rain == pytest.approx(expected.round(3).to_dict(), abs=1e-3)


def test_duckdb_query_of_rejected_rows(here: Path) -> None:
    import duckdb

    found = duckdb.sql(block("duckdb rejected")).fetchall()
    rejected = pipeline.load_run("runs/flights").rejected()
    assert found == [("decode", "target explain is null", len(rejected))]
    assert len(rejected) > 0


def test_python_block(here: Path) -> None:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    assert names["run"].manifest["counts"]["rows_attributed"] == len(names["run"].attributions())


def test_method_block(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "signed_saliency.py").write_text(block("method"), encoding="utf-8")
    monkeypatch.syspath_prepend(here)
    method = importlib.import_module("signed_saliency").SignedSaliency
    check_method_contract(method())
    monkeypatch.setitem(METHODS, "signed_saliency", method)
    config = here / "configs" / "flights.yaml"
    settings = ["method={name: signed_saliency}"]
    run = pipeline.explain(config, output="runs/signed", settings=settings, limit=200)
    values = run.attributions(columns=["attribution.dep_hour"]).column(0).to_numpy()
    assert set(np.unique(values)) <= {-1.0, 0.0, 1.0}
    assert len(np.unique(values)) > 1


def test_the_quickstart_explains_being_late(here: Path) -> None:
    """Not being on time, which is the other class and has all signs reversed."""
    table = pq.read_table(here / "runs/flights/attributions", columns=["target", "target_name"])
    shown = re.search(r"Most important features for (\S+), 10 of 15", README.read_text(encoding="utf-8"))
    assert shown is not None
    assert set(table["target_name"].to_pylist()) == {shown[1]}
    assert set(table["target"].to_pylist()) == {1}  # yes; 0 is no


def test_readme_python_block(here: Path) -> None:
    names: dict[str, Any] = {}
    exec(block("readme python"), names)
    assert names["run"].path == "runs/flights"


def test_every_config_key_is_in_the_example() -> None:
    """The commented config of docs/guide/config.md loads and names every key there is."""
    text = block("config")
    shown = yaml.safe_load(text)
    found = config_module.Config.model_validate({**shown, "baseline": {"kind": "mean"}})
    for name, model in (
        ("model", config_module.Model),
        ("input", config_module.Input),
        ("output", config_module.Output),
        ("compute", config_module.Compute),
        ("runner", config_module.Runner),
        ("limits", config_module.Limits),
        ("privacy", config_module.Privacy),
    ):
        # What stands for another key, or is of some models alone, is shown as a comment.
        commented = {"python", "signature", "missing"} if name == "model" else set()
        assert all(f"# {key}: " in text for key in commented)
        keys = set(model.model_fields) - commented
        assert set(shown[name]) == keys, name
    assert set(shown) == set(type(found).model_fields)


def test_the_smallest_config_is_one() -> None:
    config_module.Config.model_validate(yaml.safe_load(block("smallest config")))


def test_every_method_is_in_the_table() -> None:
    for name in METHODS:
        assert f"| [`{name}`](#method-{name.replace('_', '-')}) |" in PAGES["docs/guide/methods.md"]


def test_the_readme_is_short_and_names_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    linked = set(re.findall(r"\]\(([\w/.-]+\.md)", text))
    own = {"docs/index.md", "docs/develop/contributing.md", "docs/develop/changelog.md"}  # the site's own
    assert linked >= {page for page in PAGES if page.startswith("docs/")} - own
    for path in linked | set(re.findall(r"\]\(([\w/.-]+\.png)\)", text)):
        assert (ROOT / path).is_file(), path
