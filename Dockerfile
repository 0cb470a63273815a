# One image for all: the command line, Beam's workers, and the launcher of a Flex Template. From this checkout:
#
#   docker build -t attribeam:0.1.0 .
#   docker run --rm --user "$(id -u)" -v "$PWD:/work" attribeam:0.1.0 explain configs/flights.yaml      (--gpus all)
#   docker run --rm --network=host attribeam:0.1.0 --worker_pool       workers beside a Flink TaskManager, port 50000
#
#   docker build -t IMAGE --target dataflow . && docker push IMAGE       for --sdk_container_image=IMAGE
#
# The target dataflow has the same layers. It starts as root, because Dataflow mounts its working directories for root,
# and holds the launcher of Flex Templates. EXTRAS chooses what is installed besides the core: --build-arg
# EXTRAS=gcp,trees makes a smaller image, without CUDA, that explains trees.
ARG PYTHON_VERSION=3.11
ARG BEAM_VERSION=2.77.0
ARG LAUNCHER=gcr.io/dataflow-templates-base/python311-template-launcher-base:20230622_RC00

# Boot, which starts a worker and speaks with its runner, must be of the Beam version that is installed below.
FROM apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION} AS beam
FROM ${LAUNCHER} AS launcher

FROM python:${PYTHON_VERSION}-slim AS base
ARG EXTRAS="gpu,gcp"
# The driver's libraries: where Dataflow mounts them, and what NVIDIA's container runtime brings in. CUDA itself comes
# as wheels. Boot uses the environment that is here rather than make one in a folder that only root may write.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 \
    PYTHONUNBUFFERED=1
# LightGBM's wheel needs OpenMP's library of the machine. No version is named: Debian serves the newest alone.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home attribeam
WORKDIR /opt/attribeam

# What changes rarely and is large comes first: the layer of dependencies is built again when they change, not the code.
COPY setup.py constraints.txt ./
RUN python -c 'import runpy, sys; found = runpy.run_path("setup.py"); \
extras = [found["EXTRAS_REQUIRE"][name] for name in sys.argv[1].split(",") if name]; \
print(*sum(extras, found["INSTALL_REQUIRES"]), sep="\n")' "${EXTRAS}" > requirements.txt \
 && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY pipeline pipeline
COPY transforms transforms
COPY configs configs
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && pip check
COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY --chmod=755 docker/entrypoint entrypoint
WORKDIR /work
ENTRYPOINT ["/opt/attribeam/entrypoint"]
CMD ["--help"]

FROM base AS dataflow
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/opt/attribeam/pipeline/main.py

# What `docker build .` makes: nothing in it needs root.
FROM base AS attribeam
USER 10001:10001
