"""Google Cloud Dataflow: required flags, GPUs, names and labels of jobs."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.errors import UserError

_DRIVER, _MPS = "install-nvidia-driver", "use_nvidia_mps"
_ACCELERATOR = "worker_accelerator"
_ONE_PROCESS, _MANY_PROCESSES = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"
#: Shards explained at a time per GPU: while one waits for its files, another keeps the device busy.
_THREADS_PER_GPU = 2
#: Flags by which this package reaches the workers.
_CARRIERS = (
    "sdk_container_image",
    "worker_harness_container_image",
    "setup_file",
    "extra_packages",
    "requirements_file",
)


@dataclass(frozen=True)
class Accelerator:
    """The GPUs of each worker.

    Args:
      type: Compute Engine's name of the GPU type.
      count: Number of GPUs per worker.
      parts: All parts of the flag, as Dataflow reads them.
    """

    type: str
    count: int
    parts: tuple[str, ...]

    @property
    def mps(self) -> bool:
        """Whether several processes share the GPU by NVIDIA's Multi-Process Service."""
        return _MPS in self.parts

    @classmethod
    def parse(cls, text: str) -> Accelerator:
        """Parses `type:nvidia-l4;count:1;install-nvidia-driver`, or `nvidia-l4` for short.

        Raises:
          UserError: The text has another form.
        """
        where = f"--{_ACCELERATOR}={text}"
        parts = [part.strip() for part in text.split(";") if part.strip()]
        if parts and re.fullmatch(r"[a-z0-9-]+", parts[0]) and parts[0] != _DRIVER:
            parts = [f"type:{parts[0]}", *parts[1:]]
        values = {key: value for key, _, value in (part.partition(":") for part in parts)}
        for key in values:
            if key not in ("type", "count", _DRIVER, _MPS):
                raise UserError(
                    f"{key!r} is not part of an accelerator",
                    where,
                    f"known: type, count, {_DRIVER}, {_MPS}",
                )
        if not values.get("type"):
            raise UserError("names no type of GPU", where, "for example nvidia-l4, or nvidia-tesla-t4")
        count = values.get("count", "1")
        if not re.fullmatch("[1-9][0-9]*", count):
            raise UserError(f"the count {count!r} is not a whole number above 0", where, "write count:1")
        named = {"type": f"type:{values['type']}", "count": f"count:{count}"}
        rest = [part for part in parts if part.partition(":")[0] not in named]
        return cls(values["type"], int(count), (*named.values(), *rest))


def dataflow_flags(flags: Sequence[str]) -> list[str]:
    """The flags as Beam takes them, with the ones that GPUs need.

    `--worker_accelerator=nvidia-l4` is short for a service option and asks for NVIDIA's driver. A worker with
    GPUs runs one process with few threads, because each process would load the model into the same device's
    memory. With MPS, or `--experiments=use_multiple_sdk_containers`, it runs one process per processor.

    Raises:
      UserError: Flags contradict each other.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument(f"--{_ACCELERATOR}")
    given, rest = own.parse_known_args(list(flags))
    short = getattr(given, _ACCELERATOR)
    if short is not None:
        parts = Accelerator.parse(short).parts
        driver = () if any(part.startswith(_DRIVER) for part in parts) else (_DRIVER,)
        rest.append(f"--dataflow_service_options={_ACCELERATOR}={';'.join([*parts, *driver])}")
    accelerator, experiments, threads = _of(rest)
    one_process = _ONE_PROCESS in experiments
    if accelerator is None:
        return rest
    if accelerator.mps and one_process:
        raise UserError(
            f"{_MPS} and --experiments={_ONE_PROCESS} exclude each other: one shares a GPU between "
            "processes, the other gives it to a single process",
            f"--{_ACCELERATOR}",
            "give one of them",
        )
    if accelerator.mps and accelerator.count != 1:
        raise UserError(f"{_MPS} requires count:1", f"--{_ACCELERATOR}", f"leave {_MPS} out")
    if not accelerator.mps and _MANY_PROCESSES not in experiments:
        if not one_process:
            rest.append(f"--experiments={_ONE_PROCESS}")
        if threads is None:
            rest.append(f"--number_of_worker_harness_threads={_THREADS_PER_GPU * accelerator.count}")
    return rest


def _of(flags: Sequence[str]) -> tuple[Accelerator | None, list[str], int | None]:
    """The GPUs, the experiments and the threads per process that flags ask for."""
    from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions

    options = _options(flags)
    debug = options.view_as(DebugOptions)
    experiments = list(debug.experiments or [])
    options_given = [*(options.view_as(GoogleCloudOptions).dataflow_service_options or []), *experiments]
    asked = [text.partition("=")[2] for text in options_given if text.startswith(f"{_ACCELERATOR}=")]
    if len(asked) > 1:
        raise UserError(f"is given twice: {asked[0]} and {asked[1]}", f"--{_ACCELERATOR}", "give it once")
    accelerator = Accelerator.parse(asked[0]) if asked else None
    return accelerator, experiments, debug.number_of_worker_harness_threads


def _options(flags: Sequence[str]) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(list(flags))


def dataflow_problems(flags: Sequence[str]) -> list[str]:
    """Problems that Beam finds in Dataflow's flags. Without a bucket, Beam itself would make one."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    options = _options(flags)
    validator = PipelineOptionsValidator(options, create_runner("DataflowRunner"))
    view = options.view_as(GoogleCloudOptions)
    places = {name: validator.validate_gcs_path(view, name) for name in ("temp_location", "staging_location")}
    # One bucket serves both purposes.
    lacking = all(places.values())
    problems = [*places["temp_location"], *places["staging_location"]] if lacking else []
    return [*problems, *validator.validate_cloud_options(view)]


def check_means(flags: Sequence[str]) -> None:
    """Refuses a job that could not be submitted, or whose workers would lack this package.

    Raises:
      UserError: Google's libraries are not installed, or no flag brings this package to the workers (Beam's
        own image holds only Beam).
    """
    given = _options(flags).get_all_options(drop_default=True)
    if not any(given.get(name) for name in _CARRIERS):
        raise UserError(
            "Dataflow's workers would lack attribeam",
            "--sdk_container_image",
            "give an image built from the Dockerfile (or give --setup_file)",
        )
    try:
        importlib.import_module("apache_beam.runners.dataflow.internal.apiclient")
    except ImportError as error:
        problem = f"Google's libraries are not installed ({error})"
        raise UserError(problem, "--runner DataflowRunner", "pip install 'attribeam[gcp]'") from error


def job_flags(flags: Sequence[str], name: str, labels: Iterable[tuple[str, str]]) -> list[str]:
    """The flags with the job's name, unless they have one, and its labels.

    Dataflow never runs two jobs of one name at a time, so a run in progress is not started again.

    Args:
      flags: Flags of the job.
      name: Name of the job.
      labels: Keys and values, in any characters; labels that the flags give already stay as they are.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    view = _options(flags).view_as(GoogleCloudOptions)
    job = list(flags)
    if not view.job_name:
        job.append(f"--job_name={name}")
    taken = " ".join(view.labels or [])
    return job + [f"--labels={key}={as_label(value)}" for key, value in labels if key not in taken]


def as_label(text: str) -> str:
    """Turns a text into a label's value: at most 63 characters of a-z, 0-9, _ and -."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:63].strip("-")
