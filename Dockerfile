# Two images from this checkout:
#
#   docker build -t attribeam .                                        the command line
#   docker run --rm --user "$(id -u)" -v "$PWD:/work" attribeam explain configs/flights.yaml
#
#   docker build -t attribeam-worker --target worker .                 a Beam worker, for
#     --sdk_container_image=… (Dataflow) or --environment_type=DOCKER --environment_config=… (Flink)
#
# EXTRAS chooses what is installed besides the core: --build-arg EXTRAS=gpu,gcp for GPUs and gs:// paths.
# The Python and Beam versions of both stages must agree; the Beam version is the one of constraints.txt.
ARG PYTHON_VERSION=3.11
ARG BEAM_VERSION=2.77.0

FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION} AS beam

FROM python:${PYTHON_VERSION}-slim AS base
ARG EXTRAS=""
WORKDIR /opt/attribeam
COPY setup.py constraints.txt README.md LICENSE ./
COPY pipeline pipeline
COPY transforms transforms
RUN pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"

# Runners start a worker by this image's own entrypoint, with flags that only Beam's boot understands. It stays
# root, as Beam's SDK images do: Dataflow mounts its working directories for root.
FROM base AS worker
COPY --from=beam /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM base AS cli
RUN useradd --create-home attribeam
USER attribeam
WORKDIR /work
ENTRYPOINT ["attribeam"]
CMD ["--help"]
