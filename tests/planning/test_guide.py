"""The guide through the methods, and what each would cost on a config."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.planning import method_costs as survey
from pipeline.planning.method_guide import GUIDE, describe_method, requirement_of
from tests.support.worlds import trips
from transforms.methods import METHODS


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is asked here rather than in a child, which takes TensorFlow's five seconds to start."""

    def call(function: Callable[[Any], Any], request: Any) -> Any:
        return function(request)

    monkeypatch.setattr(survey, "in_child", call)


def test_the_guide_names_every_method_and_nothing_else() -> None:
    named = {method for advice in GUIDE for method in advice.methods}
    assert named == set(METHODS)


def test_the_guide_promises_what_the_methods_do() -> None:
    by_case = {advice.case: advice.methods for advice in GUIDE}
    assert all(METHODS[name].additive for name in by_case["exact sums"])
    for name in by_case["a statement of the error"]:
        assert "standard_error" in describe_method(METHODS[name])["keys"]
    assert {requirement_of(METHODS[name]) for name in by_case["a Keras or TensorFlow network"]} == {
        "gradients"
    }
    other = next(methods for case, methods in by_case.items() if case.startswith("anything else"))
    assert {requirement_of(METHODS[name]) for name in other} == {"evaluations"}


def test_costs_are_those_of_the_config(in_process: None) -> None:
    """Four features, of which two are held together: three players. 100 background rows of 198."""
    path = str(trips())
    found = survey.survey(load_config(path, settings=["input.groups={weather: [distance, wind]}"]))
    costs = {cost.method: cost for cost in found["costs"]}
    assert (found["rows"], found["players"]) == (200, 3)
    assert list(costs) == list(METHODS)
    assert costs["integrated_gradients"].evaluations_per_row == 20  # of the config, one baseline row
    assert costs["expected_gradients"].evaluations_per_row == 200
    assert costs["deep_shap"].evaluations_per_row == 100
    assert costs["exact_shap"].evaluations_per_row == costs["kernel_shap"].evaluations_per_row == 8 * 100
    assert costs["occlusion"].evaluations_per_row == 3 * 100 + 1
    refused = costs["tree_shap"].refused
    assert refused is not None
    assert "needs a tree model" in refused
    assert [name for name, cost in costs.items() if cost.refused] == ["tree_shap"]


def test_methods_with_a_config(in_process: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["methods", "--config", str(trips())]) == 0
    said = capsys.readouterr().out
    assert re.search(r"integrated_gradients +20 +4,000\n", said)
    assert re.search(r"Not for this model:\n  tree_shap: ", said)
    assert cli.run(["methods", "deep_shap", "--config", str(trips())]) == 0
    assert "on this config 100 model calls per row" in capsys.readouterr().out
    assert cli.run(["methods", "--config", "nowhere.yaml"]) == 2
