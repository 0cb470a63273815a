"""Google's cloud without Google: a bucket in memory, and a Dataflow that takes jobs and runs none."""

from __future__ import annotations

import base64
import bz2
import io
import json
import pickle
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from tests.support.memory_filesystem import MemoryFileSystem

BUCKET = "mem://bucket"
FLAGS = ("--project=my-project", "--region=europe-west1", "--temp_location=gs://bucket/temp", "--no_auth")
IMAGE = "europe-docker.pkg.dev/my-project/explain/attribeam:1"


def upload(folder: Path, under: str) -> str:
    """Copies a folder to the bucket and returns its URL there."""
    place = f"{BUCKET}/{under}"
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            MemoryFileSystem.blobs[f"{place}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return place


@dataclass
class Dataflow:
    """What was sent: the jobs, and the files that they need.

    Args:
      jobs: As `google.cloud.dataflow` has them.
      pipelines: Of each job, as it was staged.
      staged: Names of files.
      descriptions: Of jobs that are left as templates.
    """

    jobs: list[Any] = field(default_factory=list)
    pipelines: list[Any] = field(default_factory=list)
    staged: list[str] = field(default_factory=list)
    descriptions: list[Any] = field(default_factory=list)


def take_jobs(monkeypatch: pytest.MonkeyPatch) -> Dataflow:
    """A Dataflow in the place of Google's: Beam's own client, up to the two calls that leave this machine."""
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
    from google.cloud import dataflow as api

    found = Dataflow()

    def stage(client: Any, folder: str, name: str, stream: Any, *_: Any, **__: Any) -> None:
        assert folder.startswith("gs://bucket/")
        found.staged.append(name)
        if name == "pipeline.pb":
            found.pipelines.append(beam_runner_api_pb2.Pipeline.FromString(stream.read()))
        elif name == "job_object":
            found.descriptions.append(json.loads(stream.read()))

    def submit(client: Any, job: Any) -> Any:
        found.jobs.append(job.proto)
        return api.Job(id=f"job-{len(found.jobs)}", name=job.proto.name, current_state="JOB_STATE_RUNNING")

    monkeypatch.setattr(DataflowApplicationClient, "stage_file", stage)
    monkeypatch.setattr(DataflowApplicationClient, "submit_job_description", submit)
    # Asks the bucket itself.
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
    return found


def pickles(pipeline: Any) -> dict[str, bytes]:
    """What the functions of a pipeline hold, by the names of their steps, unpacked."""
    found = {}
    for transform in pipeline.components.transforms.values():
        urn, payload = transform.spec.urn, transform.spec.payload
        if urn == common_urns.primitives.PAR_DO.urn:
            held = beam_runner_api_pb2.ParDoPayload.FromString(payload).do_fn.payload
        elif "combine" in urn:
            held = beam_runner_api_pb2.CombinePayload.FromString(payload).combine_fn.payload
        else:
            continue
        if held:
            found[transform.unique_name] = _unpacked(held)
    return found


def _unpacked(held: bytes) -> bytes:
    packed = base64.b64decode(held)
    return bz2.decompress(packed) if packed.startswith(b"BZh") else zlib.decompress(packed)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.seen: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.seen.add(module)
        return super().find_class(module, name)


def unpickled(data: bytes) -> tuple[Any, set[str]]:
    """What a pickle is of, and the modules whose classes and functions it names."""
    unpickler = _Unpickler(data)
    found = unpickler.load()
    return found, unpickler.seen


def stages_of(pipeline: Any) -> list[list[str]]:
    """The names of the steps in each stage, as Beam's own optimiser fuses them for a portable runner."""
    from apache_beam.runners.portability.fn_api_runner import translations

    phases = (
        "pack_combiners",
        "lift_combiners",
        "expand_sdf",
        "expand_gbk",
        "sink_flattens",
        "greedily_fuse",
    )
    urns = common_urns.primitives
    _, stages = translations.create_and_optimize_stages(
        pipeline,
        phases=[getattr(translations, phase) for phase in phases],
        known_runner_urns=frozenset([urns.GROUP_BY_KEY.urn, urns.IMPULSE.urn, urns.FLATTEN.urn]),
    )
    return [[step.unique_name for step in stage.transforms] for stage in stages]


def run_here(pipeline: Any) -> None:
    """Runs a pipeline that was sent away, as it was sent but for its container."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import EmbeddedPythonEnvironment

    for environment in pipeline.components.environments.values():
        environment.CopyFrom(EmbeddedPythonEnvironment.default().to_runner_api(None))
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
