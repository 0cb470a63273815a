"""A Flink session cluster on loopback: one JobManager, and TaskManagers that come and go.

python -m tests.flink.cluster       starts one, prints the flags for attribeam, and stops it on Ctrl-C
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.flink import parts, traces

ROOT = Path(__file__).resolve().parent.parent.parent
_SECONDS = 60.0
_LIBC = ctypes.CDLL(None)
_PARENT_DEATH_SIGNAL = 1  # prctl.h
#: What Flink opens on Java 17; older ones allow it.
_OPENED = (
    "lang", "lang.reflect", "io", "net", "nio", "text", "time", "util", "util.concurrent",
    "util.concurrent.atomic", "util.concurrent.locks",
)  # fmt: skip
_LOGGING = """
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = File
appender.file.name = File
appender.file.type = FILE
appender.file.fileName = ${sys:log.file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


class Cluster:
    """A session cluster while it is entered; its processes are children of this one.

    Args:
      taskmanagers: To begin with.
      slots: Of each TaskManager.
      processors: Of its own that a worker gets; 0 are all there are.
    """

    def __init__(self, taskmanagers: int = 2, slots: int = 2, processors: int = 0) -> None:
        self._wanted, self._slots, self._processors = taskmanagers, slots, processors
        self.taskmanagers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        self.folder = Path(tempfile.mkdtemp(prefix="attribeam-flink-"))
        self.traces = self.folder / "traces"
        self.logs = self.folder / "log"
        self.rest, self._rpc = _free_ports(2)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._added = 0
        try:
            self._write_files()
            self._java(
                "jobmanager", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", 512
            )
            for _ in range(self._wanted):
                self.add()
            self.wait_for_taskmanagers(self._wanted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops all that was started, workers that outlived their TaskManager included."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder)

    @property
    def master(self) -> str:
        return f"127.0.0.1:{self.rest}"

    @property
    def flags(self) -> list[str]:
        """What attribeam is given, and what a machine needs that has no Docker and no newer job server."""
        return [
            "--runner=FlinkRunner",
            f"--flink_master={self.master}",
            f"--flink_job_server_jar={parts.JOB_SERVER}",
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': str(self.folder / 'boot')})}",
        ]

    def add(self) -> subprocess.Popen[bytes]:
        """Starts a TaskManager."""
        entry, heap = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", 384
        self._added += 1
        process = self._java(f"taskmanager-{self._added}", entry, heap)
        self.taskmanagers.append(process)
        return process

    def wait_for_taskmanagers(self, count: int) -> None:
        """Until so many are there.

        Raises:
          RuntimeError: They are not, within a minute; says what the logs end with.
        """
        try:
            wait_until(lambda: self.get("/overview")["taskmanagers"] == count, f"{count} TaskManagers")
        except TimeoutError as error:
            ends = [log.read_text()[-8000:] for log in sorted(self.logs.glob("taskmanager*.log"))]
            raise RuntimeError("\n".join([str(error), *ends])) from error

    def get(self, path: str) -> Any:
        """An answer of the REST interface, `{"taskmanagers": -1}` before there is one."""
        try:
            with urllib.request.urlopen(f"http://{self.master}{path}", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {"taskmanagers": -1}

    def states(self) -> list[str]:
        """Of all jobs so far, the oldest first."""
        jobs = self.get("/jobs/overview")["jobs"]
        return [job["state"] for job in sorted(jobs, key=lambda job: job["start-time"])]

    def workers(self) -> list[int]:
        """Processes of workers that are running."""
        found = []
        for event in traces.read(self.traces):
            if event.what == traces.START and str(self.traces).encode() in _command_line(event.worker):
                found.append(event.worker)
        return found

    def _write_files(self) -> None:
        self.traces.mkdir()
        self.logs.mkdir()
        (self.folder / "log4j.properties").write_text(_LOGGING)
        settings = {**_settings(self._slots), "rest.port": self.rest, "jobmanager.rpc.port": self._rpc}
        settings["io.tmp.dirs"] = settings["web.tmpdir"] = str(self.folder)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(settings))
        boot = self.folder / "boot"
        command = [sys.executable, "-m", "tests.flink.boot", str(self.traces), str(self._processors)]
        # exec, so that the TaskManager's signals reach the worker itself.
        boot.write_text(
            f'#!/bin/sh\ncd {shlex.quote(str(ROOT))}\nexec {shlex.join(command)} "$@" '
            f">>{shlex.quote(str(self.logs))}/worker.$$.log 2>&1\n"
        )
        boot.chmod(0o755)

    def _java(self, name: str, entry: str, heap: int) -> subprocess.Popen[bytes]:
        opened = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED]
        command = [
            "java",
            f"-Xmx{heap}m",
            "-XX:MaxMetaspaceSize=384m",
            "-XX:+UseSerialGC",
            *opened,
            "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
            "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
            f"-Dlog.file={self.logs / name}.log",
            f"-Dlog4j.configurationFile={self.folder / 'log4j.properties'}",
            "-cp",
            f"{parts.FLINK_JARS}/*",
            entry,
            "--configDir",
            str(self.folder),
        ]
        with open(self.logs / f"{name}.out", "wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "TASKMANAGER": str(self._added)},
                preexec_fn=end_with_parent,
            )
        self._processes.append(process)
        return process


def _settings(slots: int) -> dict[str, Any]:
    return {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": slots,
        "cluster.evenly-spread-out-slots": True,
        # What Flink's start script would work out.
        "taskmanager.cpu.cores": float(slots),
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.jvm-metaspace.size": "384m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        "taskmanager.memory.task.heap.size": "256m",
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.managed.size": "64m",
        # A job that finds too few slots fails after a minute, not after five.
        "slot.request.timeout": 60_000,
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 5000,
        # Longer than it takes to notice a lost TaskManager: else an attempt is wasted on the dead one.
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 3,
        "restart-strategy.fixed-delay.delay": "6 s",
    }


def end_with_parent() -> None:
    """In a child before it becomes another program: it is not to outlive this process, however that ends."""
    _LIBC.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def wait_until(met: Callable[[], bool], what: str, seconds: float = _SECONDS) -> None:
    """Waits, looking every 20 ms.

    Raises:
      TimeoutError: It did not come.
    """
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise TimeoutError(f"no {what} after {seconds:.0f} s")
        time.sleep(0.02)


def _free_ports(count: int) -> Sequence[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def main() -> None:
    with Cluster() as cluster:
        print(shlex.join(cluster.flags), flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)


if __name__ == "__main__":
    main()
