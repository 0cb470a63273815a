"""Settings every test shares."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Read when TensorFlow and matplotlib are first imported, so set before any test module is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

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


@pytest.fixture(autouse=True)
def _no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs within a test make no report, a third of a second each, unless the test asks for `reports`."""
    if "reports" not in request.fixturenames:
        monkeypatch.setattr("pipeline.commit.make_report", lambda commit, **options: None)
        monkeypatch.setattr("pipeline.run.make_report", lambda commit, **options: None)


@pytest.fixture
def reports() -> None:
    """Runs within the test make their reports, as those of users do."""
