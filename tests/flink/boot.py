"""Becomes a Beam worker: stands in for the boot program of Beam's containers, for --environment_type=PROCESS.

    python -m tests.flink.boot TRACES PROCESSORS --id=ID --provision_endpoint=HOST:PORT

Every TaskManager runs it once for each job. It fetches nothing that is staged: its Python has the project.
What the worker does is written to a file in TRACES (see `traces`), from Python's audit events: the project
knows nothing of it. The worker gets PROCESSORS of its own, 0 are all there are.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from tests.flink import traces


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("traces")
    parser.add_argument("processors", type=int)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    given, _ = parser.parse_known_args()
    worker = given.id.strip("'")  # Prism puts quotes around it
    traces.write_to(given.traces)
    os.environ["WORKER_ID"] = worker  # Beam's worker reads it when it is imported

    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2 as api
    from apache_beam.portability.api import beam_provision_api_pb2_grpc as service
    from apache_beam.runners.worker import sdk_worker_main
    from google.protobuf import json_format

    with grpc.insecure_channel(given.provision_endpoint) as channel:
        info = (
            service.ProvisionServiceStub(channel)
            .GetProvisionInfo(
                api.GetProvisionInfoRequest(),
                timeout=60,
                wait_for_ready=True,
                metadata=[("worker_id", worker)],
            )
            .info
        )
    os.environ.update(
        PIPELINE_OPTIONS=json_format.MessageToJson(info.pipeline_options),
        LOGGING_API_SERVICE_DESCRIPTOR=str(info.logging_endpoint),
        CONTROL_API_SERVICE_DESCRIPTOR=str(info.control_endpoint),
        RUNNER_CAPABILITIES=" ".join(info.runner_capabilities),
        SEMI_PERSISTENT_DIRECTORY=tempfile.gettempdir(),
    )
    if info.HasField("status_endpoint"):
        os.environ["STATUS_API_SERVICE_DESCRIPTOR"] = str(info.status_endpoint)
    if given.processors:
        from transforms.methods.calls import share_processors

        share_processors(given.processors)
        first = given.processors * int(os.environ["TASKMANAGER"])
        mine = {(first + i) % (os.cpu_count() or 1) for i in range(given.processors)}
        os.sched_setaffinity(0, mine)
    sdk_worker_main.main([])


if __name__ == "__main__":
    sys.exit(main())
