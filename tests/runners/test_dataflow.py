"""What Dataflow is sent: the job, the graph and what its functions hold, taken where Beam would submit it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import load_run
from pipeline.cli import commands as cli
from pipeline.config.config import load_config
from pipeline.execution.run import Outcome, RunBrokenError, execute, preview
from pipeline.runners.dataflow import Accelerator, as_label, dataflow_flags
from pipeline.runners.submit import Job
from tests.support import cloud, worlds
from tests.support.memory_filesystem import MemoryFileSystem
from transforms.errors import UserError

ONE, THREADS = "--experiments=no_use_multiple_sdk_containers", "--number_of_worker_harness_threads="
SERVICE = "--dataflow_service_options=worker_accelerator="
L4 = "type:nvidia-l4;count:1;install-nvidia-driver"


@pytest.fixture
def dataflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Dataflow]:
    MemoryFileSystem.blobs.clear()
    yield cloud.take_jobs(monkeypatch)
    MemoryFileSystem.blobs.clear()


def submit(*flags: str, **options: Any) -> Outcome:
    """Hands a run of the vectors over: 301 rows, of which 295 can be explained, in eight shards."""
    place = cloud.upload(worlds.vectors().folder, "vectors")
    loaded = load_config(f"{place}/parquet.yaml", settings=["compute.shard_rows=40", *options.pop("set", ())])
    alone = () if options.pop("waits", False) else ("--no_wait_until_finish",)
    given = [*cloud.FLAGS, f"--sdk_container_image={cloud.IMAGE}", *alone, *flags]
    return execute(loaded, runner="DataflowRunner", flags=given, **options)


# -- the flags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["--worker_accelerator=nvidia-l4"], [SERVICE + L4, ONE, THREADS + "2"]),
        (["--worker_accelerator", "nvidia-l4"], [SERVICE + L4, ONE, THREADS + "2"]),
        ([f"--worker_accelerator={L4}"], [SERVICE + L4, ONE, THREADS + "2"]),
        (
            ["--worker_accelerator=nvidia-tesla-t4;count:2;install-nvidia-driver:5xx"],
            [f"{SERVICE}type:nvidia-tesla-t4;count:2;install-nvidia-driver:5xx", ONE, THREADS + "4"],
        ),
        # The last counts: a preset's, then the command line's.
        (["--worker_accelerator=a", "--worker_accelerator=nvidia-l4"], [SERVICE + L4, ONE, THREADS + "2"]),
        # Beam's own way of saying it is left as it is.
        ([SERVICE + "type:nvidia-l4;count:1"], [SERVICE + "type:nvidia-l4;count:1", ONE, THREADS + "2"]),
        ([SERVICE + L4, ONE, THREADS + "5"], [SERVICE + L4, ONE, THREADS + "5"]),
        # Many processes, sharing the GPU by MPS or because that is asked for.
        (["--worker_accelerator=nvidia-l4;use_nvidia_mps"],
         [f"{SERVICE}type:nvidia-l4;count:1;use_nvidia_mps;install-nvidia-driver"]),
        (["--worker_accelerator=nvidia-l4", "--experiments=use_multiple_sdk_containers"],
         ["--experiments=use_multiple_sdk_containers", SERVICE + L4]),
        # Without a GPU nothing is done.
        ([ONE, "--machine_type=n1-standard-4"], [ONE, "--machine_type=n1-standard-4"]),
    ],
)  # fmt: skip
def test_gpus(given: list[str], expected: list[str]) -> None:
    assert dataflow_flags(given) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["--worker_accelerator=nvidia-l4;use_nvidia_mps", ONE],
            r"use_nvidia_mps and --experiments=no_use_multiple_sdk_containers exclude each other.*give one",
        ),
        ([f"{SERVICE}{L4};use_nvidia_mps", ONE], "use_nvidia_mps and --experiments=no_use_multiple"),
        (["--worker_accelerator=nvidia-l4;count:2;use_nvidia_mps"], "use_nvidia_mps requires count:1"),
        (
            ["--worker_accelerator=nvidia-l4", SERVICE + "type:nvidia-tesla-t4"],
            "is given twice: .*give it once",
        ),
        (["--worker_accelerator=count:1"], "names no type of GPU; for example nvidia-l4"),
        (["--worker_accelerator="], "names no type of GPU"),
        (["--worker_accelerator=nvidia-l4;count:none"], "the count 'none' is not a whole number above 0"),
        (
            ["--worker_accelerator=nvidia-l4;cuont:1"],
            "'cuont' is not part of an accelerator; known: type, count",
        ),
    ],
)
def test_gpus_that_cannot_be(given: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataflow_flags(given)


def test_a_jobs_name_and_labels_are_in_the_clouds_letters() -> None:
    assert Job("Flights: SHAP", "0123456789abcdef", "lime").title == "flights-shap-01234567"
    assert Job("2013", "0123456789abcdef", "lime").title == "run-2013-01234567"
    assert Job("飛行", "0123456789abcdef", "lime").title == "run-01234567"
    assert len(Job("x" * 200, "0123456789abcdef", "lime").title) <= 63
    assert as_label("Flights: SHAP") == "flights-shap"
    assert len(as_label("y" * 200)) == 63
    assert Accelerator.parse("nvidia-l4;count:3").count == 3


# -- the job -------------------------------------------------------------------------------------------------


def test_the_job(dataflow: cloud.Dataflow) -> None:
    outcome = submit(
        "--worker_accelerator=nvidia-l4", "--machine_type=g2-standard-8", "--max_num_workers=8",
        "--labels=team=risk", "--service_account_email=runs@my-project.iam.gserviceaccount.com",
    )  # fmt: skip
    assert outcome.manifest is None
    assert outcome.job == "job-1"
    [job] = dataflow.jobs
    run_id = str(MemoryFileSystem.blobs[f"{outcome.run}/_work/fingerprint"].decode())[:16]
    assert job.name == f"vectors-{run_id[:8]}"
    assert job.type_.name == "JOB_TYPE_BATCH"
    assert dict(job.labels) == {
        "team": "risk",
        "attribeam-run": run_id,
        "attribeam-name": "vectors",
        "attribeam-method": "integrated_gradients",
    }
    environment = job.environment
    assert list(environment.service_options) == [f"worker_accelerator={L4}"]
    experiments = list(environment.experiments)
    assert "no_use_multiple_sdk_containers" in experiments
    assert "use_multiple_sdk_containers" not in experiments
    assert environment.service_account_email == "runs@my-project.iam.gserviceaccount.com"
    [pool] = environment.worker_pools
    assert pool.machine_type == "g2-standard-8"
    assert pool.autoscaling_settings.max_num_workers == 8
    assert pool.num_threads_per_worker == 2
    assert pool.worker_harness_container_image == cloud.IMAGE
    assert [image.container_image for image in pool.sdk_harness_container_images] == [cloud.IMAGE]
    assert not pool.packages
    assert dataflow.staged == ["pipeline.pb"], "the image has everything: nothing of this machine is sent"


def test_a_job_without_gpus_is_left_to_dataflow(dataflow: cloud.Dataflow) -> None:
    submit("--job_name=nightly", "--labels=attribeam-name=mine")
    [job] = dataflow.jobs
    assert job.name == "nightly"
    assert dict(job.labels)["attribeam-name"] == "mine"
    assert "use_multiple_sdk_containers" in list(job.environment.experiments)
    [pool] = job.environment.worker_pools
    assert not pool.num_threads_per_worker
    assert not job.environment.service_options


def test_the_same_run_has_the_same_name(dataflow: cloud.Dataflow) -> None:
    """Dataflow has no two running jobs of one name: a run that is going on is not started twice."""
    submit()
    submit()
    submit(set=["seed=5"], overwrite=True)
    first, again, other = (job.name for job in dataflow.jobs)
    assert first == again != other


# -- the graph -----------------------------------------------------------------------------------------------

WORK = "Explain shards/Read, explain and write"
#: Whose classes and functions a pickle may name: TensorFlow and Keras are not among them.
OURS = {"apache_beam", "builtins", "collections", "functools", "logging", "numpy", "pipeline", "pyarrow",
        "transforms", "types"}  # fmt: skip


def test_one_stage_does_the_work_and_hints_do_not_break_it(dataflow: cloud.Dataflow) -> None:
    submit()
    submit("--resource_hints=min_ram=16GB", "--resource_hints=accelerator=type:nvidia-l4;count:1")
    plain, hinted = dataflow.pipelines
    [environment] = plain.components.environments.values()
    assert not environment.resource_hints
    [environment] = hinted.components.environments.values()
    assert dict(environment.resource_hints) == {
        "beam:resources:min_ram_bytes:v1": b"16000000000",
        "beam:resources:accelerator:v1": b"type:nvidia-l4;count:1",
    }
    for pipeline in (plain, hinted):
        stages = cloud.stages_of(pipeline)
        [work] = [steps for steps in stages if WORK in steps]
        # From one shuffle to the next: the shards' Reshuffle before it, the combine's first half behind it.
        names = {step.split("/")[0] for step in work}
        assert {"Spread over workers", "Explain shards", "Merge results"} <= names
        assert not {"Create shards", "Commit run"} & names
        [commit] = [steps for steps in stages if "Commit run" in steps]
        assert commit is not work
    assert sorted(map(sorted, cloud.stages_of(plain))) == sorted(map(sorted, cloud.stages_of(hinted)))


def test_what_functions_hold(dataflow: cloud.Dataflow) -> None:
    """No model, no table and no state of TensorFlow, and nothing that is on this machine alone."""
    submit()
    [pipeline] = dataflow.pipelines
    held = cloud.pickles(pipeline)
    assert {WORK, "Commit run"} <= set(held)
    local = [str(worlds.ROOT), str(worlds.shelf()), "/site-packages", "/home/", "/tmp/", "/root"]
    for step, data in held.items():
        assert len(data) < 16_384, step
        found, modules = cloud.unpickled(data)
        assert {module.partition(".")[0] for module in modules} <= OURS, step
        if step in (WORK, "Commit run"):
            assert not [path for path in local if path.encode() in data], step
            assert "apache_beam.internal" not in str(modules), f"{step} is a class, not code by value"
        if step == WORK:
            spec = found[0]._spec
            places = (spec.run, spec.reference, spec.model.path)
            assert all(place.startswith("mem://bucket/vectors/") for place in places)
            assert spec.model.module_paths == ()
    assert len(pipeline.SerializeToString()) < 65_536
    for text in (pipeline.SerializeToString(), str(dataflow.jobs[0]).encode()):
        assert not [path for path in local if path.encode() in text]


# -- who commits ---------------------------------------------------------------------------------------------


def same_tables(one: Any, other: Any) -> None:
    assert one.manifest["counts"] == other.manifest["counts"]
    assert one.manifest["quality"] == other.manifest["quality"]
    assert one.manifest["fingerprint"] == other.manifest["fingerprint"]
    assert one.importance().equals(other.importance())
    table, expected = one.attributions(), other.attributions()
    assert table["example_id"] == expected["example_id"]
    np.testing.assert_array_equal(worlds.phi(table), worlds.phi(expected))


def test_the_job_that_was_sent_commits_the_run(dataflow: cloud.Dataflow) -> None:
    """The very pipeline that Dataflow gets, run here; then the same command finds the run."""
    outcome = submit()
    with pytest.raises(UserError, match="not committed"):
        load_run(outcome.run)
    cloud.run_here(dataflow.pipelines[0])
    run = load_run(outcome.run)
    assert run.manifest["counts"]["rows_attributed"] == 295
    assert run.manifest["runner"] == "DataflowRunner"
    assert run.manifest["timing"]["seconds"] > run.manifest["timing"]["pipeline_seconds"] > 0
    assert not [name for name in MemoryFileSystem.blobs if "_work" in name]
    again = submit()
    assert again.reused
    assert len(dataflow.jobs) == 1
    # A worker may be lost after the commit, and its step done again.
    written = dict(MemoryFileSystem.blobs)
    other = load_config(
        "mem://bucket/vectors/parquet.yaml", settings=["compute.shard_rows=40"], output="mem://bucket/here"
    )
    local = load_run(execute(other).run)
    same_tables(run, local)
    cloud.run_here(dataflow.pipelines[0])
    assert {name: MemoryFileSystem.blobs[name] for name in written} == written


@pytest.fixture
def ended(dataflow: cloud.Dataflow, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The state that Dataflow says its job is in when it is asked; DONE runs the job first."""
    from apache_beam.runners.dataflow import dataflow_runner
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
    from google.cloud import dataflow as api

    states = ["JOB_STATE_DONE"]
    asked: list[str] = []

    def get_job(client: Any, job_id: str) -> Any:
        if not asked and states[0] == "JOB_STATE_DONE":
            cloud.run_here(dataflow.pipelines[0])
        asked.append(job_id)
        return api.Job(id=job_id, current_state=states[0])

    monkeypatch.setattr(DataflowApplicationClient, "get_job", get_job)
    monkeypatch.setattr(DataflowApplicationClient, "list_messages", lambda *_, **__: ([], None))
    clock = SimpleNamespace(sleep=lambda _: time.sleep(0.01), time=time.time)
    monkeypatch.setattr(dataflow_runner, "time", clock)
    return states


def test_a_job_that_is_waited_for(dataflow: cloud.Dataflow, ended: list[str]) -> None:
    """The launcher commits: the job itself leaves what it has counted."""
    outcome = submit(waits=True)
    assert "Commit run" not in cloud.pickles(dataflow.pipelines[0])
    assert outcome.manifest is not None
    assert outcome.manifest["counts"]["rows_attributed"] == 295
    assert load_run(outcome.run).manifest == outcome.manifest


def test_a_job_that_fails(dataflow: cloud.Dataflow, ended: list[str]) -> None:
    ended[0] = "JOB_STATE_FAILED"
    with pytest.raises(RunBrokenError, match=r"the runner failed: Dataflow pipeline failed\. State: FAILED"):
        submit(waits=True)
    # What was begun can be gone on with.
    ended[0] = "JOB_STATE_CANCELLED"
    with pytest.raises(RunBrokenError, match="State: CANCELLED"):
        submit(waits=True)


def test_a_job_replaces_a_run(dataflow: cloud.Dataflow) -> None:
    """In a bucket the old run's parts go when the new one is committed, and not before."""
    first = submit(set=["compute.shard_rows=30"])
    cloud.run_here(dataflow.pipelines[0])
    old = load_run(first.run).manifest
    with pytest.raises(UserError, match="holds a committed run of a different config"):
        submit()
    assert submit(overwrite=True).manifest is None
    assert load_run(first.run).manifest == old
    cloud.run_here(dataflow.pipelines[1])
    new = load_run(first.run)
    assert new.manifest["fingerprint"] != old["fingerprint"]
    parts = [name for name in MemoryFileSystem.blobs if name.startswith(f"{first.run}/attributions/")]
    assert len(parts) == 8
    assert new.attributions().num_rows == 295


def test_a_launcher_that_went_before_the_commit(
    dataflow: cloud.Dataflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every shard is in the journal: the same command commits it and starts no job."""
    monkeypatch.setattr(
        "pipeline.execution.run.commit_run", lambda *_: (_ for _ in ()).throw(OSError("gone"))
    )
    place = cloud.upload(worlds.vectors().folder, "vectors")
    loaded = load_config(f"{place}/parquet.yaml", settings=["compute.shard_rows=40"])
    with pytest.raises(OSError, match="gone"):
        execute(loaded)
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.runners.submit.run_pipeline", None)
    outcome = execute(loaded)
    assert outcome.manifest is not None
    assert outcome.manifest["counts"]["rows_attributed"] == 295
    assert not outcome.reused


def test_what_is_printed_of_a_job(dataflow: cloud.Dataflow, capsys: pytest.CaptureFixture[str]) -> None:
    place = cloud.upload(worlds.vectors().folder, "vectors")
    command = shlex.split(
        f"explain {place}/parquet.yaml --runner=DataflowRunner {' '.join(cloud.FLAGS)} "
        f"--no_wait_until_finish --sdk_container_image={cloud.IMAGE}"
    )
    assert cli.run(command) == 0
    said = capsys.readouterr()
    assert said.out.startswith("submitted      job job-1\n")
    assert "mem://bucket/vectors/runs/unused" in said.out
    assert "the same command then prints it" in said.out
    assert cli.run([*command, "--json"]) == 0
    assert '"submitted": true, "job": "job-2"' in capsys.readouterr().out


def test_plan_tells_what_would_be_submitted(
    dataflow: cloud.Dataflow, capsys: pytest.CaptureFixture[str]
) -> None:
    place = cloud.upload(worlds.vectors().folder, "vectors")
    before = dict(MemoryFileSystem.blobs)
    flags = [*cloud.FLAGS, f"--sdk_container_image={cloud.IMAGE}", "--worker_accelerator=nvidia-l4"]
    assert cli.run(["plan", f"{place}/parquet.yaml", "--runner=DataflowRunner", *flags]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    at = said.index("runner         DataflowRunner")
    assert {SERVICE + L4, ONE, THREADS + "2", "--no_save_main_session"} <= set(said[at:])
    assert any(line.startswith("--job_name=vectors-") for line in said[at:])
    assert not dataflow.staged
    assert MemoryFileSystem.blobs == before


# -- what is refused before anything is read -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "flags", "words"),
    [
        (
            (),
            (),
            r"trips\.yaml: model\.path: \S*model\.keras is on this machine, where the workers of Dataflow",
        ),
        (
            ("model.path=gs://b/m.keras",),
            (),
            r"trips\.yaml: input\.files: \S*trips-\*\.parquet is on this machine",
        ),
        (
            ("model.path=gs://b/m.keras", "input.files=gs://b/*.parquet"),
            (),
            r"trips\.yaml: output\.path: \S*runs/trips is on this machine.*give a gs:// path",
        ),
        ((), ("--dry_run=true",), "--dry_run: a dry run explains nothing; attribeam plan shows"),
        ((), ("--worker_accelerator=nvidia-l4;use_nvidia_mps", ONE), "exclude each other"),
    ],
)
def test_a_run_that_dataflow_could_not_do(
    settings: tuple[str, ...], flags: tuple[str, ...], words: str
) -> None:
    loaded = load_config(str(worlds.trips()), settings=settings)
    given = [*cloud.FLAGS, f"--sdk_container_image={cloud.IMAGE}", *flags]
    with pytest.raises(UserError, match=words):
        preview(loaded, runner="DataflowRunner", flags=given)


def test_a_flag_of_dataflows_is_not_ignored_elsewhere() -> None:
    with pytest.raises(UserError, match="--worker_accelerator: DirectRunner does not take this flag"):
        preview(load_config(str(worlds.trips())), flags=["--worker_accelerator=nvidia-l4"])


def test_workers_without_the_package() -> None:
    with pytest.raises(UserError, match=r"--sdk_container_image: Dataflow's workers would lack attribeam"):
        preview(load_config(str(worlds.trips())), runner="DataflowRunner", flags=cloud.FLAGS)
