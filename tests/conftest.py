"""Settings every test shares."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Read when TensorFlow and matplotlib are first imported, so set before any test module is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

# Tracing makes objects by the million, and next to none of them is garbage: a tenth of the suite was looking.
gc.set_threshold(50_000, 20, 50)

# Two loaded cores make timings meaningless; CI tries the same examples every time.
settings.register_profile(
    "local", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

#: A cluster, half a gigabyte of it: `make test-flink` runs them.
_FLINK = Path(__file__).resolve().parent / "flink"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves the tests that need a cluster to those who name them."""
    named = (Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args)
    if collection_path == _FLINK and not any(path.resolve().is_relative_to(_FLINK) for path in named):
        return True
    return None


@pytest.fixture(scope="session", autouse=True)
def _without_reports() -> Iterator[Callable[..., None]]:
    """Runs within this process make no report, a third of a second each, unless a test asks for `reports`."""
    import pipeline.execution.commit
    import pipeline.execution.run

    made = pipeline.execution.commit.make_report
    with pytest.MonkeyPatch.context() as patch:
        for module in (pipeline.execution.commit, pipeline.execution.run):
            patch.setattr(module, "make_report", lambda commit, **options: [])
        yield made


@pytest.fixture(scope="session", autouse=True)
def _planned_here() -> Iterator[Callable[..., Any]]:
    """Plans within this process ask the model here, not in a child, which takes TensorFlow's five seconds.

    What a child is for (a launcher without TensorFlow, a model that kills its process) has tests of its own:
    those that give the command to a shell, and those that ask for `children`.
    """
    import pipeline.planning.model.probe
    import pipeline.planning.plan

    asked = pipeline.planning.plan.probe_in_child
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.planning.plan, "probe_in_child", pipeline.planning.model.probe.probe_model)
        yield asked


@pytest.fixture
def children(_planned_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of the test ask the model in a child, as those of users do."""
    monkeypatch.setattr("pipeline.planning.plan.probe_in_child", _planned_here)


@pytest.fixture
def reports(_without_reports: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs within the test make their reports, as those of users do."""
    for module in ("pipeline.execution.commit", "pipeline.execution.run"):
        monkeypatch.setattr(f"{module}.make_report", _without_reports)
