"""A run that the pipeline's own last step commits, as where nobody waits for it; here on this machine."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest

from pipeline import load_run
from pipeline.config.config import load_config
from pipeline.execution.commit import Commit, RunBrokenError, commit_run
from pipeline.execution.run import execute
from pipeline.planning.plan import make_plan
from tests.support import worlds
from transforms.worker.journal import ShardResult, journal_path

ALONE = ["--no_wait_until_finish"]


def test_it_is_the_same_run(tmp_path: Path) -> None:
    config = worlds.vectors().config("parquet")
    settings = ["compute.shard_rows=40"]
    alone = worlds.explain(config, tmp_path / "alone", *settings, flags=ALONE)
    waited = worlds.explained(config, *settings)
    assert worlds.part_bytes(alone) == worlds.part_bytes(waited)
    given = {"created", "timing", "config"}
    assert {key: value for key, value in alone.manifest.items() if key not in given} == {
        key: value for key, value in waited.manifest.items() if key not in given
    }
    assert list(alone.manifest) == list(waited.manifest)
    assert set(alone.manifest["timing"]) == set(waited.manifest["timing"])
    assert not (tmp_path / "alone" / "_work").exists()


def test_it_takes_the_place_of_another(tmp_path: Path) -> None:
    config = worlds.vectors().config("parquet")
    place = tmp_path / "run"
    old = worlds.explain(config, place, "compute.shard_rows=30")
    outcome = execute(load_config(str(config), output=str(place)), overwrite=True, flags=ALONE)
    assert outcome.manifest is not None
    assert outcome.manifest["fingerprint"] != old.manifest["fingerprint"]
    assert load_run(place).manifest == outcome.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert len(list((place / "attributions").iterdir())) == 1


def test_limits_are_judged_by_it(tmp_path: Path) -> None:
    config = worlds.vectors().config("parquet")
    loaded = load_config(str(config), output=str(tmp_path / "run"), settings=["limits.rejected=0.001"])
    outcome = execute(loaded, flags=ALONE)
    assert outcome.manifest is not None
    assert [line.split(" of the rows")[0] for line in outcome.exceeded] == ["1.99%"]
    assert outcome.manifest["quality"]["exceeded"] == outcome.exceeded


@pytest.fixture
def journal(tmp_path: Path) -> Commit:
    """A commit whose journal is whole."""
    config = worlds.vectors().config("parquet")
    loaded = load_config(str(config), output=str(tmp_path / "run"), settings=["compute.shard_rows=40"])
    plan = make_plan(loaded)
    commit = Commit.of(plan, plan.output, "DirectRunner", started=1.0, planned=2.0)
    worlds.explain(config, tmp_path / "run", "compute.shard_rows=40")
    kept = tmp_path / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.execution.run.commit_run", lambda *_: shutil.copytree(tmp_path / "run", kept))
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(TypeError):  # a copy is no manifest
            execute(loaded)
    return commit


def test_what_a_worker_is_told_is_small(journal: Commit) -> None:
    assert len(pickle.dumps(journal)) < 8_192
    assert pickle.loads(pickle.dumps(journal)) == journal


def test_a_retry_finds_it_done(journal: Commit, tmp_path: Path) -> None:
    manifest = commit_run(journal)
    assert manifest["counts"]["rows_attributed"] == 295
    assert manifest["timing"]["planning_seconds"] == 1.0
    # The worker was lost between the manifest and the end, with half of the journal gone.
    shutil.copytree(tmp_path / "kept" / "_work", tmp_path / "run" / "_work")
    Path(journal_path(journal.place, 3)).unlink()
    assert commit_run(journal) == manifest
    assert not (tmp_path / "run" / "_work").exists()


@pytest.mark.parametrize(
    ("lost", "combined", "words"),
    [
        (True, None, "the counts do not balance: 301 rows planned, 261 read"),
        (False, 7, "the runner counted 7 shards and 301 rows, the journal 8 and 301"),
    ],
)
def test_figures_that_do_not_balance(journal: Commit, lost: bool, combined: int | None, words: str) -> None:
    if lost:
        Path(journal_path(journal.place, 3)).unlink()
    counted = None
    if combined is not None:
        counted = ShardResult.empty(journal.features)
        counted.shards, counted.read = combined, 301
    with pytest.raises(RunBrokenError, match=words):
        commit_run(journal, counted)
    assert not (Path(journal.target) / "manifest.json").exists()
