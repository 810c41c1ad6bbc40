# syntax=docker/dockerfile:1
# One image for the gateway, the dispatcher and the model repository: the command decides.
#
#   docker build -t tritonq .
#   docker run tritonq python -m gateway          (settings: docs/operations.md)
#   docker run tritonq python -m dispatcher

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# What the services need, exactly as locked. A layer of its own: code changes do not repeat it.
FROM base AS packages
COPY requirements/services.lock /build/requirements/
RUN python -m venv --without-pip /opt/tritonq \
    && python -m pip --python /opt/tritonq install --no-deps --require-hashes \
       --only-binary=:all: --requirement /build/requirements/services.lock

FROM packages AS app
WORKDIR /build
COPY . .
RUN python -m pip --python /opt/tritonq install --no-deps --no-build-isolation .

# The models' weights, from pinned and checksummed sources. onnx stays out of the final image.
FROM base AS weights
WORKDIR /build
COPY requirements/app.lock requirements/
RUN python -m pip install --no-deps --require-hashes --only-binary=:all: \
    --requirement requirements/app.lock
COPY weights/ weights/
COPY model_repository/ model_repository/
RUN python -m weights

FROM base AS service
RUN groupadd --system --gid 10001 tritonq \
    && useradd --system --uid 10001 --gid tritonq --no-create-home --home-dir /nonexistent tritonq \
    && install --directory --owner=tritonq --group=tritonq /blobs /models
COPY --from=app /opt/tritonq /opt/tritonq
COPY --from=weights /build/model_repository /opt/model_repository
COPY deploy/fill_models.sh /opt/tritonq/bin/fill-models
# MALLOC_*: KEEP_MEMORY in standalone/server.py says why.
ENV PATH=/opt/tritonq/bin:$PATH \
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=67108864 \
    HEALTH_URL=http://127.0.0.1:8080/healthz
USER 10001:10001
WORKDIR /opt
EXPOSE 8080 8081
# Alive is what a restart can mend; ready (/readyz) also depends on others.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=2)"]
CMD ["python", "-m", "gateway"]
