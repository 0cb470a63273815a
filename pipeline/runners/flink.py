"""Apache Flink: asks a cluster for its slots and version, completes the flags, and ends jobs."""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.runners.signals import NOT_CANCELLED
from transforms.errors import UserError

#: Masters for which Beam starts a cluster within the job server's process.
_HERE = ("[local]", "[auto]")
_MASTER = "--flink_master"
_REMEDY = "give --flink_master=HOST:PORT of the cluster's REST interface, usually at port 8081"
_ANSWER_SECONDS = 10.0
_CANCEL_SECONDS = 30.0
_ENDED = frozenset({"FINISHED", "FAILED", "CANCELED"})


@dataclass(frozen=True)
class Overview:
    """The state of a cluster.

    Args:
      slots: Slots of all TaskManagers; 0 if TaskManagers are started on demand.
      free: Slots without a task.
      version: The version of Flink, such as 1.19.3.
    """

    slots: int
    free: int
    version: str


@dataclass(frozen=True)
class FlinkCluster:
    """A session cluster, reached by its REST interface.

    Args:
      url: Address of the REST interface, http://HOST:PORT.
    """

    url: str

    def overview(self) -> Overview:
        """Asks the cluster for its slots and version.

        Raises:
          UserError: Nothing answers, or something that is not Flink.
        """
        where = f"{_MASTER}={self.url}"
        try:
            reply = self._call("/overview")
            return Overview(reply["slots-total"], reply["slots-available"], reply["flink-version"])
        except (ValueError, KeyError, TypeError, urllib.error.HTTPError) as error:
            raise UserError("answers, but is not a Flink cluster", where, _REMEDY) from error
        except OSError as error:
            reason = str(getattr(error, "reason", error)).partition("] ")
            problem = f"no Flink cluster answers: {(reason[2] or reason[0]).lower()}"
            raise UserError(problem, where, _REMEDY) from error

    def running(self, name: str) -> set[str]:
        """The ids of unfinished jobs with a name.

        Raises:
          OSError: The cluster does not answer.
        """
        jobs = self._call("/jobs/overview")["jobs"]
        return {job["jid"] for job in jobs if job["name"] == name and job["state"] not in _ENDED}

    def cancel(
        self, name: str, spared: frozenset[str] = frozenset(), seconds: float = _CANCEL_SECONDS
    ) -> None:
        """Cancels the jobs with a name, and waits until they have ended.

        Args:
          name: The name of the jobs.
          spared: Ids of jobs of that name to leave alone.
          seconds: How long to wait.
        Raises:
          OSError: The cluster does not answer, or a job has not ended by then.
        """
        end = time.monotonic() + seconds
        refusal = ""
        while jobs := self.running(name) - spared:
            if time.monotonic() > end:
                raise TimeoutError(f"job {min(jobs)} still runs after {seconds:g} s{refusal}")
            for job in jobs:
                try:
                    self._call(f"/jobs/{job}?mode=cancel", "PATCH")
                except urllib.error.HTTPError as error:  # the job may have ended in the meantime
                    refusal = f" ({error})"
            time.sleep(min(0.5, seconds / 10))

    def _call(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(self.url + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                text = answer.read()
        except http.client.HTTPException as error:  # for example from the port of Flink's own protocol
            raise ConnectionError(f"no HTTP answer ({type(error).__name__})") from error
        return json.loads(text) if text else None


def cluster_of(flags: Sequence[str]) -> FlinkCluster | None:
    """The cluster that the flags name; None if Beam starts one here, or if only a job server knows it."""
    given = _options(flags)
    master = given["flink_master"].strip().rstrip("/")
    if master in _HERE:
        return None
    return FlinkCluster(master if master.startswith(("http://", "https://")) else f"http://{master}")


def check_flink(flags: Sequence[str]) -> None:
    """Refuses flags with which a run on Flink cannot work.

    Raises:
      UserError: The flags name no cluster, or the cluster does not answer, or Beam has no job server for its
        version, or Java is missing.
    """
    given = _options(flags)
    # Without these flags, Beam would download a job server and start a cluster here.
    if given["job_endpoint"] is None and not _names(flags, _MASTER):
        remedy = "give --flink_master=HOST:PORT, or [local] for this machine"
        raise UserError("--flink_master is missing", "--runner FlinkRunner", remedy)
    java = given["job_server_java_launcher"]
    if given["job_endpoint"] is None and not given["flink_submit_uber_jar"] and shutil.which(java) is None:
        remedy = "install a Java runtime, or give --flink_submit_uber_jar, which needs none"
        raise UserError(f"there is no {java}, which runs Beam's job server", "--runner FlinkRunner", remedy)
    if cluster_of(flags) is not None:
        flink_flags(flags)


def flink_flags(flags: Sequence[str]) -> list[str]:
    """Completes Beam's flags from the cluster's own report.

    Beam's own defaults suit few clusters: a parallelism of 1, the newest version of Flink, and a container
    without this program.

    Raises:
      UserError: The cluster does not answer, or Beam has no job server for its version.
    """
    cluster, given = cluster_of(flags), _options(flags)
    if cluster is None:
        return list(flags)
    added = []
    overview = cluster.overview()
    if given["parallelism"] < 1 and overview.slots:
        added.append(f"--parallelism={overview.free or overview.slots}")
    if not (_names(flags, "--flink_version") or given["flink_job_server_jar"] or given["job_endpoint"]):
        added.append(f"--flink_version={_published(overview.version, cluster.url)}")
    if in_containers(flags) and not _names(flags, "--environment_config", "--environment_option"):
        image = given["sdk_container_image"] or worker_image()
        added.append(f"--environment_config={image}")
    return [*added, *flags]


def flink_slots(flags: Sequence[str], default: int) -> int:
    """The number of shards that a cluster works on at a time; the default if it is unknown."""
    given = _options(flags)["parallelism"]
    if given > 0:
        return int(given)
    cluster = cluster_of(flags)
    overview = cluster.overview() if cluster else Overview(0, 0, "")
    return overview.free or overview.slots or default


def in_containers(flags: Sequence[str]) -> bool:
    """Whether workers run in containers, which do not see their machines' files."""
    kind = _options(flags)["environment_type"]
    return kind == "DOCKER" or (kind is None and cluster_of(flags) is not None)


def worker_image() -> str:
    """The default image of the workers, named as in the Dockerfile."""
    try:
        return f"attribeam:{importlib.metadata.version('attribeam')}"
    except importlib.metadata.PackageNotFoundError:
        return "attribeam:latest"


@contextmanager
def flink_engine(flags: Sequence[str]) -> Iterator[Any]:
    """Beam's runner for a job on a cluster; an exception in the block also cancels the job there.

    Args:
      flags: The flags that `flink_flags` returns.
    Raises:
      InterruptedError: The block was interrupted, and the job could not be cancelled.
      OSError: The block failed, and the job could not be cancelled.
    """
    from apache_beam.options.pipeline_options import JobServerOptions
    from apache_beam.runners.portability.flink_runner import FlinkRunner

    class Runner(FlinkRunner):
        """Beam's job server, stopped with the job; Beam would only stop it when Python ends."""

        server: Any = None

        def default_job_server(self, options: Any) -> Any:
            # Beam's own folder would be removed while the server may still write to it; if that fails, the
            # server keeps running.
            view = options.view_as(JobServerOptions)
            view.artifacts_dir = view.artifacts_dir or artifacts
            self.server = super().default_job_server(options)
            return self.server

    cluster, name = cluster_of(flags), _options(flags)["job_name"]
    spared = frozenset(cluster.running(name)) if cluster else frozenset[str]()
    runner = Runner()

    def stop_server() -> None:
        if runner.server is not None:
            runner.server.stop()

    with tempfile.TemporaryDirectory(prefix="attribeam-", ignore_cleanup_errors=True) as artifacts:
        try:
            yield runner
        except BaseException as error:
            stop_server()  # first, because the server might be about to submit the job
            if cluster is not None:
                try:
                    cluster.cancel(name, spared)
                except OSError as failure:
                    more = f"{NOT_CANCELLED} ({name} at {cluster.url}): {failure}"
                    if isinstance(error, KeyboardInterrupt):
                        raise InterruptedError(f"interrupted; {more}") from error
                    raise OSError(f"{error}; {more}") from error
            raise
        finally:
            stop_server()


def _options(flags: Sequence[str]) -> dict[str, Any]:
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(list(flags)).get_all_options()


def _names(flags: Sequence[str], *names: str) -> bool:
    return any(flag.partition("=")[0].startswith(names) for flag in flags)


def _published(version: str, url: str) -> str:
    """The version of Beam's job server that fits a cluster's version."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    short = ".".join(version.split(".")[:2])
    known = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    if short not in known:
        problem = f"the cluster runs Flink {version}, and this version of Beam knows {', '.join(known)}"
        raise UserError(
            problem, f"{_MASTER}={url}", "choose a cluster of one of these, or give --flink_job_server_jar"
        )
    return short
