"""Flink without a cluster: what its REST interface is asked, the flags that follow, and how a job ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from pipeline.cli.commands import run as attribeam
from pipeline.runners import checks, submit
from pipeline.runners.flink import (
    FlinkCluster,
    check_flink,
    flink_engine,
    flink_flags,
    flink_slots,
    worker_image,
)
from pipeline.runners.signals import run_to_its_end, terminated_like_interrupted
from tests.support import worlds
from transforms.errors import UserError


@dataclass
class Rest:
    """A cluster's REST interface on loopback, as far as it is used.

    Args:
      overview: What `/overview` answers.
      jobs: Name and state by id.
      stubborn: Jobs stay in state CANCELLING.
    """

    overview: dict[str, Any] = field(
        default_factory=lambda: {"slots-total": 6, "slots-available": 4, "flink-version": "1.20.2"}
    )
    jobs: dict[str, list[str]] = field(default_factory=dict)
    stubborn: bool = False
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def __call__(self, method: str, path: str) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        job = path.removeprefix("/jobs/").partition("?")[0]
        if (method, path) == ("GET", "/overview"):
            return 200, self.overview
        if (method, path) == ("GET", "/jobs/overview"):
            found = [{"jid": jid, "name": name, "state": state} for jid, (name, state) in self.jobs.items()]
            return 200, {"jobs": found}
        if method == "PATCH" and path.endswith("?mode=cancel") and job in self.jobs:
            if self.jobs[job][1] in ("FINISHED", "CANCELED"):
                return 409, {"errors": ["it has ended"]}
            self.jobs[job][1] = "CANCELLING" if self.stubborn else "CANCELED"
            return 202, {}
        return 404, {"errors": ["Not found"]}

    @property
    def flag(self) -> str:
        return f"--flink_master=127.0.0.1:{self.port}"

    @property
    def cluster(self) -> FlinkCluster:
        return FlinkCluster(f"http://127.0.0.1:{self.port}")


@pytest.fixture(autouse=True)
def java(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests start none, and need none to be there."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "java" else which(name))


@pytest.fixture
def rest() -> Iterator[Rest]:
    found = Rest()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            status, answer = found(self.command, self.path)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PATCH = _answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def seen_by_beam(flags: list[str]) -> dict[str, Any]:
    return PipelineOptions(flags).get_all_options()


# -- flags ---------------------------------------------------------------------------------------------------


def test_nothing_but_the_master_is_asked_for(rest: Rest) -> None:
    options = seen_by_beam(flink_flags([rest.flag]))
    assert options["parallelism"] == 4
    assert options["flink_version"] == "1.20"
    assert options["environment_type"] is None  # which means a container
    assert options["environment_config"] == worker_image()
    assert int(options["environment_cache_millis"]) == 0  # else workers, and their models, are given up


def test_a_job_is_called_like_no_other(rest: Rest) -> None:
    job = submit.Job("Late flights", "0123456789abcdef", "lime")
    once, again, named = (
        seen_by_beam(submit.engine_flags("FlinkRunner", [rest.flag, *more], job))
        for more in ([], [], ["--job_name=mine"])
    )
    assert once["job_name"].startswith("late-flights-01234567-")
    assert once["job_name"] != again["job_name"]
    assert named["job_name"] == "mine"
    assert once["parallelism"] == 4
    assert once["save_main_session"] is False


def test_what_is_given_counts(rest: Rest) -> None:
    given = [
        "--parallelism=3",
        "--flink_version=1.19",
        "--environment_type=PROCESS",
        '--environment_config={"command": "boot"}',
        "--job_name=mine",
    ]
    assert flink_flags([rest.flag, *given]) == [rest.flag, *given]
    assert (
        seen_by_beam(flink_flags([rest.flag, "--sdk_container_image=x/y:1"]))["environment_config"] == "x/y:1"
    )
    named = ["--environment_type=DOCKER", "--environment_options=docker_container_image=x/z:2"]
    assert seen_by_beam(flink_flags([rest.flag, *named]))["environment_config"] is None
    jar = seen_by_beam(flink_flags([rest.flag, "--flink_job_server_jar=/x.jar"]))
    assert jar["flink_version"] == seen_by_beam([])["flink_version"], "the jar knows"


@pytest.mark.parametrize(
    ("slots", "free", "flags", "parallelism"),
    [
        (6, 4, [], 4),
        (6, 0, [], 6),  # all are at work: the job waits for them
        (0, 0, [], 9),  # TaskManagers are started when they are needed: nobody knows how many
        (6, 4, ["--parallelism=2"], 2),
    ],
)
def test_slots(rest: Rest, slots: int, free: int, flags: list[str], parallelism: int) -> None:
    rest.overview |= {"slots-total": slots, "slots-available": free}
    assert checks.slots("FlinkRunner", [rest.flag, *flags], 9) == parallelism
    told = seen_by_beam(flink_flags([rest.flag, *flags]))["parallelism"]
    assert told == (parallelism if slots else -1)


def test_a_cluster_of_beams_own_is_not_asked() -> None:
    assert flink_slots(["--flink_master=[local]"], 2) == 2
    check_flink(["--flink_master=[local]"])
    check_flink(["--job_endpoint=localhost:1"])
    assert flink_flags(["--flink_master=[local]"]) == ["--flink_master=[local]"]


# -- what the user can mend ----------------------------------------------------------------------------------


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("verb", ["explain", "plan"])
def test_a_master_that_does_not_answer(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    config, output = str(worlds.vectors().config("parquet")), tmp_path / "run"
    flags = ["--runner", "FlinkRunner", f"--flink_master=127.0.0.1:{port}"]
    assert attribeam([verb, config, "--output", str(output), *flags]) == 2
    assert last_line(capsys) == (
        f"error: --flink_master=http://127.0.0.1:{port}: no Flink cluster answers: connection refused; "
        "give --flink_master=HOST:PORT of the cluster's REST interface, usually at port 8081"
    )
    assert not output.exists()


@pytest.mark.parametrize("answer", [b"<html>hello</html>", b'{"name": "another"}', b"[]", b""])
def test_a_master_that_is_another_program(rest: Rest, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "overview", answer)
    with pytest.raises(UserError, match="answers, but is not a Flink cluster"):
        check_flink([rest.flag])


def test_a_master_that_has_no_such_page(rest: Rest) -> None:
    with pytest.raises(UserError, match="answers, but is not a Flink cluster"):
        check_flink([f"{rest.flag}/elsewhere"])


@pytest.mark.parametrize("said", [b"\x00\x00\x00\x0aakka.tcp\n", b""])
def test_a_port_that_does_not_speak_http(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UserError, match="no Flink cluster answers: "):
            check_flink([f"--flink_master=127.0.0.1:{server.getsockname()[1]}"])
        thread.join()


@pytest.mark.parametrize("master", ["no-such-host.invalid:8081", "127.0.0.1:port"])
def test_a_master_that_is_no_address(master: str) -> None:
    with pytest.raises(UserError, match=f"--flink_master=http://{master}: no Flink cluster answers: "):
        check_flink([f"--flink_master={master}"])


def test_a_version_that_beam_has_no_job_server_for(rest: Rest) -> None:
    rest.overview["flink-version"] = "1.17.2"
    with pytest.raises(
        UserError, match=r"the cluster runs Flink 1\.17\.2, and this version of Beam knows 1\.19"
    ):
        check_flink([rest.flag])
    check_flink([rest.flag, "--flink_job_server_jar=/x.jar"])


def test_a_machine_without_java(rest: Rest) -> None:
    without = [rest.flag, "--job_server_java_launcher=/nowhere/java"]
    with pytest.raises(
        UserError, match="there is no /nowhere/java, which runs Beam's job server; install a Java"
    ):
        check_flink(without)
    check_flink([*without, "--flink_submit_uber_jar"])
    check_flink([*without, "--job_endpoint=localhost:1"])


def test_files_that_containers_do_not_see(
    rest: Rest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = worlds.vectors().config("parquet"), tmp_path / "run"
    command = ["explain", str(config), "--output", str(output), "--runner", "FlinkRunner", rest.flag]
    assert attribeam(command) == 2
    line = last_line(capsys)
    assert line.startswith(f"error: {config}: model.path: {config.parent}/model.keras is on this machine")
    assert not output.exists()
    places = {"output.path": ["/runs/x"]}
    checks.check_places("FlinkRunner", [rest.flag], {"output.path": ["gs://bucket/x"]})
    checks.check_places("FlinkRunner", [rest.flag, "--environment_type=PROCESS"], places)
    checks.check_places("FlinkRunner", ["--flink_master=[local]"], places)
    checks.check_places("DirectRunner", [], places)
    with pytest.raises(UserError, match="/runs/x is on this machine"):
        checks.check_places("FlinkRunner", [rest.flag, "--environment_type=DOCKER"], places)


def test_a_portable_runner_without_an_endpoint() -> None:
    with pytest.raises(UserError, match="--job_endpoint is missing; give HOST:PORT"):
        checks.check_runner("PortableRunner", [])
    checks.check_runner("PortableRunner", ["--job_endpoint=embed"])


# -- cancelling ----------------------------------------------------------------------------------------------


def test_cancel_ends_the_jobs_of_a_name_but_for_those_that_are_spared(rest: Rest) -> None:
    rest.jobs = {
        "a": ["mine", "RUNNING"], "b": ["mine", "RESTARTING"], "c": ["mine", "RUNNING"],
        "d": ["mine", "FINISHED"], "e": ["another", "RUNNING"],
    }  # fmt: skip
    rest.cluster.cancel("mine", spared=frozenset({"c"}))
    states = {jid: state for jid, (_, state) in rest.jobs.items()}
    assert states == {"a": "CANCELED", "b": "CANCELED", "c": "RUNNING", "d": "FINISHED", "e": "RUNNING"}
    patched = [asked for asked in rest.asked if asked.startswith("PATCH")]
    assert sorted(patched) == ["PATCH /jobs/a?mode=cancel", "PATCH /jobs/b?mode=cancel"]


def test_a_job_that_does_not_end_is_said(rest: Rest) -> None:
    rest.jobs, rest.stubborn = {"a": ["mine", "RUNNING"]}, True
    with pytest.raises(TimeoutError, match=r"job a still runs after 0\.1 s"):
        rest.cluster.cancel("mine", seconds=0.1)


def leave_by(error: BaseException, rest: Rest, flags: list[str], *, started: bool = True) -> None:
    with flink_engine([rest.flag, "--job_name=mine", *flags]):
        if started:
            rest.jobs["new"] = ["mine", "RUNNING"]
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the channel broke")])
def test_whatever_ends_the_client_ends_its_job(rest: Rest, error: BaseException) -> None:
    rest.jobs["old"] = ["mine", "RUNNING"]
    with pytest.raises(type(error)) as raised:
        leave_by(error, rest, [])
    assert raised.value is error
    assert rest.jobs == {"old": ["mine", "RUNNING"], "new": ["mine", "CANCELED"]}


def test_a_job_that_ended_well_is_left_alone(rest: Rest) -> None:
    with flink_engine([rest.flag, "--job_name=mine"]):
        rest.jobs["new"] = ["mine", "FINISHED"]
    assert not [asked for asked in rest.asked if asked.startswith("PATCH")]


def test_a_cluster_that_is_gone_when_the_job_is_to_be_cancelled(
    monkeypatch: pytest.MonkeyPatch, rest: Rest
) -> None:
    def cancel(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(FlinkCluster, "cancel", cancel)
    where = rf"\(mine at http://127\.0\.0\.1:{rest.port}\): timed out"
    with pytest.raises(InterruptedError, match=rf"^interrupted; the job may still run, .* {where}$"):
        leave_by(KeyboardInterrupt(), rest, [])
    with pytest.raises(OSError, match=rf"^the channel broke; the job may still run, .* {where}$"):
        leave_by(RuntimeError("the channel broke"), rest, [])


def test_the_job_server_is_stopped_first(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.runners.portability import flink_runner

    rest.jobs["new"] = ["mine", "FINISHED"]
    told: list[str] = []
    folders: list[Path] = []

    class Server:
        def __init__(self, options: PipelineOptions) -> None:
            self.artifacts = Path(options.get_all_options()["artifacts_dir"])

        def stop(self) -> None:
            # A folder of its own: Beam removes the one that it makes first, and stumbles over a busy server.
            assert self.artifacts.is_dir()
            folders.append(self.artifacts)
            told.append(rest.jobs["new"][1])

    def start_and(end: Callable[[], None]) -> None:
        with flink_engine([rest.flag, "--job_name=mine"]) as engine:
            engine.default_job_server(PipelineOptions([rest.flag]))
            end()

    def break_off() -> None:
        rest.jobs["new"] = ["mine", "RUNNING"]
        interrupt()

    monkeypatch.setattr(flink_runner.FlinkRunner, "default_job_server", lambda _, options: Server(options))
    start_and(lambda: None)
    assert told.pop() == "FINISHED"
    with pytest.raises(KeyboardInterrupt):
        start_and(break_off)
    assert told[0] == "RUNNING"
    assert rest.jobs["new"][1] == "CANCELED"
    assert not any(folder.exists() for folder in folders)


class Result:
    """A job that runs until something happens."""

    def __init__(self, state: str, wait: Callable[[], None], refusal: Exception | None = None) -> None:
        self.state, self._wait, self._refusal, self.cancelled = state, wait, refusal, False

    def run(self) -> Result:
        return self

    def wait_until_finish(self) -> None:
        self._wait()

    def cancel(self) -> None:
        if self._refusal:
            raise self._refusal
        self.cancelled = True


def interrupt() -> None:
    raise KeyboardInterrupt


def test_other_engines_are_asked_to_cancel() -> None:
    running = Result(PipelineState.RUNNING, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_to_its_end(running, cancels=True)
    assert running.cancelled
    for result, cancels in (
        (Result(PipelineState.DONE, interrupt), True),
        (Result("RUNNING", interrupt), False),
    ):
        with pytest.raises(KeyboardInterrupt):
            run_to_its_end(result, cancels=cancels)
        assert not result.cancelled
    refused = Result(PipelineState.RUNNING, interrupt, NotImplementedError())
    with pytest.raises(InterruptedError, match="could not be cancelled: NotImplementedError"):
        run_to_its_end(refused, cancels=True)


def test_sigterm_is_an_interrupt_while_a_run_goes_on() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def terminated() -> None:
        with terminated_like_interrupted():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Beam leaves its own behind
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(10)

    with pytest.raises(KeyboardInterrupt):
        terminated()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# -- a run keeps its cut -------------------------------------------------------------------------------------


def test_a_run_goes_on_whatever_the_cluster_has_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `shard_rows: auto` the slots decide the cut of a new run, and never that of one that is there."""
    config, place = worlds.vectors().config("parquet"), tmp_path / "run"
    # So many slots that the cut is another with each.
    monkeypatch.setattr("transforms.sources.shards._MIN_ROWS", 1)
    monkeypatch.setattr("transforms.sources.shards._MAX_ROWS", 4096)
    found = {"slots": 2}
    monkeypatch.setattr("pipeline.execution.run.slots", lambda *_: found["slots"])
    first = worlds.explain(config, place)
    assert len(first.parts()) == 8
    found["slots"] = 5
    assert worlds.explain(config, place).manifest == first.manifest
    assert len(worlds.explain(config, tmp_path / "other").parts()) == 19

    def broken(*_: object) -> None:
        raise RuntimeError("gone")

    begun = tmp_path / "begun"
    with monkeypatch.context() as patch:
        patch.setattr(submit, "run_pipeline", broken)
        with pytest.raises(Exception, match="gone"):
            worlds.explain(config, begun)
    found["slots"] = 2
    assert len(worlds.explain(config, begun).parts()) == 19


# -- a rehearsal ---------------------------------------------------------------------------------------------


def test_a_rehearsal_with_external_workers(tmp_path: Path) -> None:
    """What a cluster's worker pool does, on this machine: Beam's own pool, and its embedded job server."""
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

    config = worlds.vectors().config("parquet")
    address, pool = BeamFnExternalWorkerPoolServicer.start()
    try:
        flags = ["--job_endpoint=embed", "--environment_type=EXTERNAL", f"--environment_config={address}"]
        run = worlds.explain(
            config, tmp_path / "run", "compute.shard_rows=64", runner="PortableRunner", flags=flags
        )
    finally:
        pool.stop(1).wait()
    usual = worlds.explained(config, "compute.shard_rows=64")
    assert run.manifest["runner"] == "PortableRunner"
    assert run.manifest["counts"] == usual.manifest["counts"]
    assert len(worlds.part_bytes(run)) >= 8
    assert worlds.part_bytes(run) == worlds.part_bytes(usual)
